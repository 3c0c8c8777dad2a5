//! Documents as they are kept: the newest version of one, or an earlier one by its digest.

use bytes::Bytes;

use super::error::CacheError;
use super::served::Ask;
use super::terms::{hashed, head_of};
use super::{Cache, Inner, decide};
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::range::ByteRange;

impl Cache {
    /// The key of what a request asks for, with the asker's identity where the answer may depend on it.
    pub fn key_of(&self, ask: &Ask<'_>) -> KeyHash {
        hashed(ask)
    }

    /// A document's bytes, whatever its age; upstream is not asked. None: it is not kept.
    ///
    /// *Errors*: the index's and the store's; `TooLarge` beyond the lookup's limit.
    pub async fn kept(&self, ask: &Ask<'_>) -> Result<Option<Bytes>, CacheError> {
        let stored = self.inner.stored(&hashed(ask)).await?;
        let Some(at) = decide::selected(&head_of(ask), &stored, &ask.lookup.freshness) else { return Ok(None) };
        match stored[at].body.filter(|_| stored[at].status == 200) {
            Some(digest) => self.version(&digest, ask.lookup.max_bytes).await,
            None => Ok(None),
        }
    }

    /// The bytes of a version that the caller was handed before: that it knows the digest is no right to them.
    pub async fn version(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, CacheError> {
        let inner: &std::sync::Arc<Inner> = &self.inner;
        let Some(place) = inner.index.find_place(digest).await? else { return Ok(None) };
        match inner.open(digest, ByteRange::whole(place.len)).await? {
            Some((body, _)) => body.into_bytes(limit).await.map(Some),
            None => Ok(None),
        }
    }
}
