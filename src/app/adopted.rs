//! Upstreams that were found on some machine and adopted, and hosts that were allowed: kept by the index from start to start.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::index::Index;
use crate::model::lookup::Fallback;

/// A source that a tool's files name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// An ecosystem's word; perhaps one that has no mount as yet.
    pub ecosystem: String,
    /// Which of the tool's sources. Empty: the default one, which the mount without a host serves.
    pub name: String,
    /// Base address without a credential.
    pub url: String,
    pub next: Fallback,
    /// For people: the file or command that named it.
    pub found_in: String,
}

/// Where the index keeps what was adopted and allowed.
const ADOPTED: &str = "adopted-upstreams";
const ALLOWED: &str = "allowed-hosts";

/// An upstream that was found on some machine and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    pub ecosystem: String,
    /// Empty: the default source of its tool.
    #[serde(default)]
    pub name: String,
    pub url: String,
    #[serde(default)]
    pub next: String,
    #[serde(default)]
    pub found_in: String,
}

impl Adopted {
    pub(super) fn fallback(&self) -> Fallback {
        if self.next == "failure" { Fallback::OnFailure } else { Fallback::OnAbsence }
    }
}

/// What was adopted before.
pub(super) fn adopted(index: &Index) -> Vec<Adopted> {
    kept(index, ADOPTED)
}

/// Hosts that an operator allowed.
pub(super) fn allowed(index: &Index) -> Vec<String> {
    kept(index, ALLOWED)
}

fn kept<T: for<'de> Deserialize<'de>>(index: &Index, name: &str) -> Vec<T> {
    let Some(bytes) = index.get_fact(name) else { return Vec::new() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, name, "a kept list could not be read");
        Vec::new()
    })
}

/// Remembers what was adopted.
pub(super) async fn keep_adopted(index: &Index, all: &[Adopted]) -> Result<(), String> {
    keep(index, ADOPTED, all).await
}

/// Remembers the hosts that an operator allowed.
pub(super) async fn keep_allowed(index: &Index, hosts: &[String]) -> Result<(), String> {
    keep(index, ALLOWED, hosts).await
}

async fn keep<T: Serialize>(index: &Index, name: &str, list: &[T]) -> Result<(), String> {
    let bytes = serde_json::to_vec(list).map_err(|error| error.to_string())?;
    index.put_fact(name, Bytes::from(bytes)).await.map_err(|error| error.to_string())
}

/// What is adopted is kept and listed: an address that holds a credential is not taken.
pub(super) fn check(found: &Adopted) -> Result<(), String> {
    crate::config::sections::base(&found.url).map(|_| ())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_with_a_credential_is_not_adopted_nor_shown() {
        let read = |url: &str| {
            let found = json!({ "ecosystem": "go", "url": url });
            check(&serde_json::from_value(found).expect("has what it needs"))
        };
        assert!(read("https://go.example/x").is_ok());
        for url in ["https://me:hush@go.example/", "https://hush@go.example/", "file:///srv", "hush"] {
            let why = read(url).expect_err(url);
            assert!(!why.contains("me:hush") && !why.contains("hush@"), "{why}");
        }
    }
}
