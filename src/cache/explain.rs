//! Why a thing is or is not answered from the cache: key, class, freshness arithmetic, where the bytes are.

use serde::Serialize;

use super::decide::{Decision, Refresh};
use super::error::CacheError;
use super::policy::freshness;
use super::terms::ask_head;
use super::{Cache, Inner, decide};
use crate::model::digest::Digest;
use crate::model::lookup::{Freshness, Lookup, Origins};
use crate::model::outcome::Outcome;
use crate::model::place::Place;
use crate::model::units::format_duration;

/// What is known of an address.
#[derive(Serialize)]
pub struct Explained {
    pub key: String,
    pub key_hash: String,
    pub ecosystem: &'static str,
    /// Immutable, revalidated after a time, or by the answer's own headers.
    pub class: String,
    pub origins: Vec<String>,
    pub entries: Vec<Stored>,
    /// What a plain GET would do now.
    pub decision: String,
    /// Whether that begins with a question to upstream.
    #[serde(skip)]
    pub asks_upstream: bool,
    pub notes: Vec<String>,
}

/// One stored answer.
#[derive(Serialize)]
pub struct Stored {
    pub status: u16,
    pub blake3: Option<String>,
    pub bytes: u64,
    /// Tier and place; None when the bytes are gone.
    pub place: Option<String>,
    pub vary: Vec<String>,
    pub writer: String,
    pub realm: String,
    /// The freshness arithmetic, a line a step.
    pub freshness: Vec<String>,
}

impl Cache {
    /// *Errors*: the index's.
    pub async fn explain(&self, lookup: &Lookup) -> Result<Explained, CacheError> {
        let hash = lookup.key.hash();
        let stored = self.inner.stored(&hash).await?;
        let now = self.inner.clock.now();
        let mut entries = Vec::new();
        for entry in stored.iter() {
            let place = match &entry.body {
                Some(digest) => self.inner.index.find_place(digest).await?,
                None => None,
            };
            entries.push(Stored {
                status: entry.status,
                blake3: entry.body.map(|digest| digest.to_string()),
                bytes: entry.len,
                place: match place {
                    Some(place) => Some(self.inner.whereabouts(entry.body.as_ref(), &place).await?),
                    None => None,
                },
                vary: entry
                    .vary
                    .iter()
                    .map(|(name, value)| format!("{name}: {}", value.as_deref().unwrap_or("-")))
                    .collect(),
                writer: entry.writer.to_string(),
                realm: entry.realm.as_str().to_owned(),
                freshness: freshness::explain(entry, &lookup.freshness, now),
            });
        }
        let headers = http::HeaderMap::new();
        let ask = ask_head(&http::Method::GET, &headers, lookup);
        let decision = decide::decide(&ask, &stored, &lookup.freshness, now);
        Ok(Explained {
            key: lookup.key.to_string(),
            key_hash: hash.to_string(),
            ecosystem: lookup.key.ecosystem,
            class: class(&lookup.freshness),
            origins: origins(&lookup.origins),
            entries,
            decision: worded(&decision),
            asks_upstream: !matches!(decision, Decision::Serve { .. } | Decision::ServeStale { .. }),
            notes: Vec::new(),
        })
    }
}

impl Inner {
    /// Tier and place of a blob, and whether the bucket has it too.
    async fn whereabouts(&self, digest: Option<&Digest>, place: &Place) -> Result<String, CacheError> {
        let own = format!("{} {} at {}", place.tier.name(), place.object, place.offset);
        let Some(digest) = digest else { return Ok(own) };
        let remote = self.index.remote_places(std::slice::from_ref(digest)).await?.pop().flatten();
        let Some(remote) = remote else { return Ok(own) };
        let name = self.index.object_name(remote.object).await?.unwrap_or_default();
        let remote = format!("s3 {name} at {}", remote.offset);
        Ok(if place.tier.is_local() { format!("{own}, and {remote}") } else { remote })
    }
}

fn worded(decision: &Decision) -> String {
    match decision {
        Decision::Serve { age, .. } => format!("served from the store, {age} s old"),
        Decision::ServeStale { age, refresh: Refresh::InBackground, .. } => {
            format!("served from the store though stale ({age} s old), and refreshed behind it")
        }
        Decision::ServeStale { age, refresh: Refresh::No, .. } => {
            format!("served from the store though stale ({age} s old)")
        }
        Decision::Revalidate { .. } => "upstream is asked whether the stored answer still holds".to_owned(),
        Decision::Fetch => "fetched from upstream and stored".to_owned(),
        Decision::Unsatisfiable => "answered 504: nothing usable is stored and upstream may not be asked".to_owned(),
        Decision::Relay(reason) => format!("passed on around the cache ({})", Outcome::Bypass(*reason).label()),
    }
}

fn class(freshness: &Freshness) -> String {
    match freshness {
        Freshness::Immutable => "immutable: kept and never asked for again".to_owned(),
        Freshness::Revalidate { fresh_for, stale_if_error } => {
            let (fresh_for, kept) = (format_duration(*fresh_for), format_duration(*stale_if_error));
            format!("mutable: used for {fresh_for}, then confirmed; may stand in for {kept} during an outage")
        }
        Freshness::Http => "as the answer's own headers say (RFC 9111)".to_owned(),
    }
}

fn origins(origins: &Origins) -> Vec<String> {
    match origins {
        Origins::Listed(origins) => origins.iter().map(|origin| origin.url.to_string()).collect(),
        Origins::InDocument { document, .. } => {
            vec![format!("named by {}", self::origins(&document.origins).join(", "))]
        }
        Origins::SumOf { thing, algorithm, otherwise } => {
            let made = format!("the {} of {}", algorithm.name(), thing.key.path);
            [made].into_iter().chain(otherwise.iter().map(|origin| origin.url.to_string())).collect()
        }
        Origins::Through { parent, rest } => {
            std::iter::once(parent.url.to_string()).chain(self::origins(rest)).collect()
        }
    }
}
