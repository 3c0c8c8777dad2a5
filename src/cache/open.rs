//! The bytes of what is stored: from memory, else from their place in the store.

use std::sync::Arc;

use super::Inner;
use super::error::CacheError;
use super::remote::Found;
use super::served::{ServedBody, StoredBlob};
use crate::index::Presence;
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};
use crate::model::range::ByteRange;
use crate::store::{BlobReader, StoreError};

impl Inner {
    /// The bytes, if they can be had without asking a database. None: not so, or not at all.
    pub(super) fn open_now(self: &Arc<Inner>, digest: &Digest, range: ByteRange) -> Option<(ServedBody, TierName)> {
        if let Some(remembered) = self.remembered(digest, range) {
            return Some(remembered);
        }
        let Presence::Present(place) = self.index.place(digest) else { return None };
        if !place.tier.is_local() {
            return None;
        }
        // What is wrong with the blob is dealt with where it can be set aside.
        let reader = self.store.open_blob(digest, &place, range).ok()?;
        self.index.touch(digest);
        Some(self.unfolded(reader, digest, place))
    }

    fn unfolded(self: &Arc<Inner>, reader: BlobReader, digest: &Digest, place: Place) -> (ServedBody, TierName) {
        let tier = reader.tier();
        match reader.into_bytes() {
            Ok(bytes) => (ServedBody::Bytes(bytes), tier),
            Err(reader) => (ServedBody::Blob(StoredBlob::new(reader, self.clone(), *digest, place)), tier),
        }
    }

    fn remembered(&self, digest: &Digest, range: ByteRange) -> Option<(ServedBody, TierName)> {
        let (start, end) = (to_index(range.start), to_index(range.end));
        let bytes = self.store.recall(digest).filter(|bytes| end <= bytes.len())?;
        self.index.touch(digest);
        let part = if (start, end) == (0, bytes.len()) { bytes } else { bytes.slice(start..end) };
        Some((ServedBody::Bytes(part), TierName::Memory))
    }

    pub(super) async fn open(
        self: &Arc<Inner>,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Option<(ServedBody, TierName)>, CacheError> {
        if let Some(remembered) = self.remembered(digest, range) {
            return Ok(Some(remembered));
        }
        // A place may move between the look-up and the open, and what is bad here may be good in the bucket: after so many
        // looks it is absent.
        let mut gone = None;
        for _ in 0..4 {
            let place = match self.index.place(digest) {
                Presence::Present(place) => place,
                Presence::Absent => return Ok(None),
                Presence::Unknown => match self.index.find_place(digest).await? {
                    Some(place) => place,
                    None => return Ok(None),
                },
            };
            if !place.tier.is_local() {
                match self.open_remote(digest, place, range).await? {
                    Found::Body(body) => {
                        self.index.touch(digest);
                        return Ok(Some((body, place.tier)));
                    }
                    Found::Here | Found::Lost => continue,
                }
            }
            match self.store.open_blob(digest, &place, range) {
                Ok(reader) => {
                    self.index.touch(digest);
                    return Ok(Some(self.unfolded(reader, digest, place)));
                }
                Err(StoreError::Gone) if gone == Some(place) => {
                    tracing::error!(%digest, "a stored blob's bytes are gone");
                    self.index.drop_place(digest, &place).await?;
                }
                Err(StoreError::Gone) => gone = Some(place),
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::error!(%digest, %error, "a stored blob is damaged, it is set aside");
                    self.set_aside(digest, &place).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
