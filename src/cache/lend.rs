//! What other larders may have of what is kept here: entries by the hashes of their keys, bytes by digest. Nobody
//! upstream hears of it, so that no question goes around in circles.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use prost::Message;

use super::error::CacheError;
use super::policy::{freshness, vary};
use super::served::ServedBody;
use super::{Cache, Inner};
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::node;
use crate::model::range::ByteRange;
use crate::model::realm::{Realm, Scope};
use crate::model::time::Timestamp;

/// What stands around all entries of an answer, and around each, at most.
const ENVELOPE_BYTES: usize = 1 << 10;
const ENTRY_BYTES: usize = 16;

/// A part of a blob, for who may read it.
pub enum Part {
    Here(ServedBody),
    /// It begins past the end.
    Outside,
    /// Not here, or not for this caller.
    Absent,
}

impl Cache {
    /// The entries under each key that another larder may have, if it may read what is of `realms`.
    ///
    /// *Errors*: the index's.
    pub async fn lendable(&self, keys: &[KeyHash], realms: &[Realm]) -> Result<Vec<node::Found>, CacheError> {
        let mut found = Vec::with_capacity(keys.len());
        // An answer that is larger would not be taken, and is held whole until it is.
        let mut room = node::FOUND_MAX_BYTES - ENVELOPE_BYTES;
        for key in keys {
            found.push(self.inner.found(key, realms, &mut room).await?);
        }
        Ok(found)
    }

    /// The bytes of a blob from `range.start` on, at most to `range.end`.
    ///
    /// *Errors*: the index's and the store's.
    pub async fn lend(&self, digest: &Digest, range: ByteRange, realms: &[Realm]) -> Result<Part, CacheError> {
        let inner = &self.inner;
        if !inner.index.is_readable(realms, digest).await? {
            return Ok(Part::Absent);
        }
        let Some(place) = inner.index.find_place(digest).await? else { return Ok(Part::Absent) };
        if range.start > place.len {
            return Ok(Part::Outside);
        }
        let range = ByteRange { start: range.start, end: range.end.min(place.len) };
        let opened = inner.open(digest, range).await?;
        Ok(opened.map_or(Part::Absent, |(body, _)| Part::Here(body)))
    }
}

impl Inner {
    /// As much of what is under a key as there is room for; takes the room.
    async fn found(
        self: &Arc<Inner>,
        key: &KeyHash,
        realms: &[Realm],
        room: &mut usize,
    ) -> Result<node::Found, CacheError> {
        let now = self.clock.now();
        let mut entries = Vec::new();
        for entry in self.stored(key).await?.iter().filter(|entry| is_lendable(entry, realms, now)) {
            let Some(digest) = entry.body else { continue };
            let is_here = self.index.is_readable(realms, &digest).await? && self.has_body(entry).await?;
            if is_here {
                let sums = self.index.sums_of(&[digest]).await?.pop().unwrap_or_default();
                let entry = written(entry, digest, sums.iter().map(node::Sum::from).collect(), now);
                let bytes = entry.encoded_len() + ENTRY_BYTES;
                if bytes > *room {
                    break;
                }
                *room -= bytes;
                entries.push(entry);
            }
        }
        Ok(node::Found { entries })
    }
}

/// What is said of absences, failures and redirects is for the origin to say, and so is what somebody doubted.
fn is_lendable(entry: &Entry, realms: &[Realm], now: Timestamp) -> bool {
    let is_everybodys = entry.key.scope == Scope::shared() && realms.contains(&entry.realm);
    is_everybodys
        && entry.status == 200
        && entry.valid
        && vary::is_nobodys_secret(&entry.vary)
        && !freshness::is_ahead(entry, now)
}

fn written(entry: &Entry, digest: Digest, sums: Vec<node::Sum>, now: Timestamp) -> node::Entry {
    let field = |(name, value): (&HeaderName, &HeaderValue)| node::Field {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    node::Entry {
        status: u32::from(entry.status),
        fields: entry.headers.iter().map(field).collect(),
        vary: entry
            .vary
            .iter()
            .map(|(name, value)| node::Varied { name: name.clone(), value: value.clone() })
            .collect(),
        digest: Bytes::copy_from_slice(digest.as_bytes()),
        len: entry.len,
        resident_ms: millis(now.since(entry.fetched_at)),
        delay_ms: millis(entry.fetched_at.since(entry.requested_at)),
        sums,
    }
}
