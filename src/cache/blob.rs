//! Bytes by their digest alone, for who has a build's record in hand. A digest is not a right: without an edge from a
//! realm of the caller's the blob is absent.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use super::error::CacheError;
use super::served::{Part, Served};
use super::{Cache, Inner};
use crate::model::digest::Digest;
use crate::model::outcome::{Forwarded, Outcome};
use crate::model::range::ByteRange;
use crate::model::realm::Realm;

impl Cache {
    /// The blob, if a realm of the caller's may read it; None when it is absent for that caller.
    ///
    /// *Errors*: the index's and the store's.
    pub async fn blob(&self, digest: &Digest, realms: &[Realm]) -> Result<Option<Served>, CacheError> {
        self.inner.blob(digest, realms).await
    }
}

impl Inner {
    async fn blob(self: &Arc<Inner>, digest: &Digest, realms: &[Realm]) -> Result<Option<Served>, CacheError> {
        if !self.index.is_readable(realms, digest).await? {
            return Ok(None);
        }
        let Some(place) = self.index.find_place(digest).await? else { return Ok(None) };
        let Some((body, tier)) = self.open(digest, ByteRange::whole(place.len)).await? else { return Ok(None) };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        Ok(Some(Served {
            status: 200,
            headers,
            len: Some(place.len),
            part: Part::Whole,
            body,
            outcome: Outcome::Hit(tier),
            forwarded: Forwarded::default(),
            age: None,
            key: None,
            source: None,
            digest: Some(*digest),
            fetch_ms: 0,
        }))
    }
}
