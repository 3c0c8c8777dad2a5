//! Stored answers that are out of date by what somebody else did, and are validated before their next use.

use std::sync::Arc;

use http::{HeaderMap, Method};
use url::Url;

use super::error::CacheError;
use super::policy::invalidate;
use super::{Cache, Inner};
use crate::index::Ack;
use crate::index::catalog::{PrefixAsk, Put};
use crate::index::record::Record;
use crate::model::entry::Entry;
use crate::model::key::{Key, KeyHash};

/// Entries that are read and recorded at once.
const PAGE: usize = 1000;

/// What an unsafe request with this answer makes out of date.
pub fn invalidated(method: &Method, status: u16, url: &Url, headers: &HeaderMap) -> Vec<Url> {
    invalidate::invalidated(method, status, url, headers)
}

impl Cache {
    /// Marks the stored answers of keys as out of date after an unsafe request went through (RFC 9111 §4.4).
    ///
    /// *Errors*: the index's; what was marked until then stays so.
    pub async fn invalidate(&self, keys: &[KeyHash]) -> Result<(), CacheError> {
        for key in keys {
            let stored = self.inner.stored(key).await?;
            let valid: Vec<_> = stored.iter().filter(|entry| entry.valid).collect();
            self.inner.mark(std::slice::from_ref(key), valid.into_iter().map(|entry| (**entry).clone())).await?;
        }
        Ok(())
    }

    /// The same of all that is kept below a path of the archive that `like` is in, where `may_change` says so of its
    /// own path.
    ///
    /// *Errors*: the index's; what was marked until then stays so.
    pub async fn invalidate_below(
        &self,
        like: &Key,
        path: &str,
        may_change: fn(&str) -> bool,
    ) -> Result<(), CacheError> {
        let (scope, ecosystem, upstream) = (&like.scope, like.ecosystem, like.upstream.as_str());
        let (mut from, mut limit) = (String::new(), PAGE);
        loop {
            let ask = PrefixAsk { scope, ecosystem, upstream, prefix: path, from: &from, limit };
            let page = self.inner.index.by_prefix(ask).await?;
            let last = page.last().filter(|_| page.len() == limit).map(|entry| entry.key.path.clone());
            let marked: Vec<Entry> =
                page.into_iter().filter(|entry| entry.valid && may_change(&entry.key.path)).collect();
            let keys: Vec<KeyHash> = marked.iter().map(|entry| entry.hash).collect();
            self.inner.mark(&keys, marked.into_iter()).await?;
            match last {
                None => return Ok(()),
                // All of the page were variants of one path.
                Some(last) if last == from => limit *= 2,
                Some(last) => (from, limit) = (last, PAGE),
            }
        }
    }
}

impl Inner {
    /// `entries`: of these keys, of each key the newest first.
    async fn mark(&self, keys: &[KeyHash], entries: impl DoubleEndedIterator<Item = Entry>) -> Result<(), CacheError> {
        for key in keys {
            self.flights.doubt(key);
            self.parked.doubt(key).drop_on_a_pool();
        }
        // The last that is put comes first.
        let entries: Vec<Put> = entries.rev().map(out_of_date).collect();
        if !entries.is_empty() {
            self.index.record(Record { entries, ..Record::default() }, Ack::Visible).await?;
        }
        Ok(())
    }
}

/// The entry as one that is validated before its next use.
fn out_of_date(entry: Entry) -> Put {
    Put { entry: Arc::new(Entry { valid: false, ..entry }), expected: None }
}

#[cfg(test)]
mod tests {
    use super::super::policy::fixture::http;
    use super::*;

    #[test]
    fn a_write_leaves_the_validators_to_ask_with() {
        let put = out_of_date(http(&[("etag", "\"a\"")]));
        assert!(!put.entry.valid && put.entry.headers.contains_key("etag") && put.expected.is_none());
    }
}
