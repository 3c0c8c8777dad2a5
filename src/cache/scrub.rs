//! Keeping honest: everything that is kept is re-hashed now and then, and on request. What does not match is set aside,
//! and whoever asks for it next has it fetched anew.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use serde::Serialize;

use super::error::CacheError;
use super::{Cache, Inner};
use crate::index::Presence;
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};
use crate::store::StoreError;

/// The scrub re-hashes one blob after another, with pauses, and begins anew after a rest.
const SCRUB_AFTER: Duration = Duration::from_secs(600);
const SCRUB_REST: Duration = Duration::from_secs(24 * 3600);
const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
const SCRUB_BATCH: usize = 64;

/// How far a verification is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    pub done: u64,
    pub of: u64,
    pub bytes: u64,
    /// What was found since the line before.
    pub bad: Vec<Bad>,
}

/// A blob that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    pub digest: String,
    pub why: String,
    /// Whoever asks next has it fetched anew. False: the disk could not be read, and it stays where it is.
    pub set_aside: bool,
}

impl Cache {
    /// Re-hashes everything that is kept; tells its progress after each batch.
    pub fn verify(&self) -> impl Stream<Item = Result<Progress, CacheError>> + Send + 'static {
        let of = self.inner.index.counts().blobs;
        let start = (self.inner.clone(), Some(None), Progress { of, ..Progress::default() });
        futures_util::stream::unfold(start, |(inner, after, mut progress)| async move {
            let after: Option<Digest> = after?;
            progress.bad.clear();
            if after.is_none()
                && let Err(error) = inner.index.flush().await
            {
                // What is not committed yet would be counted and never seen.
                return Some((Err(error.into()), (inner, None, progress)));
            }
            match inner.verify_batch(after, &mut progress).await {
                Ok(Some(last)) => Some((Ok(progress.clone()), (inner, Some(Some(last)), progress))),
                Ok(None) => {
                    // Some may have been evicted since they were counted.
                    progress.of = progress.done;
                    Some((Ok(progress.clone()), (inner, None, progress)))
                }
                Err(error) => Some((Err(error), (inner, None, progress))),
            }
        })
    }
}

impl Inner {
    pub(super) async fn scrub_for_ever(self: &Arc<Inner>) {
        tokio::time::sleep(SCRUB_AFTER).await;
        loop {
            self.sweep_unnamed().await;
            let mut progress = Progress::default();
            let mut after = None;
            loop {
                let before = progress.bytes;
                match self.verify_batch(after, &mut progress).await {
                    Ok(Some(last)) => after = Some(last),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the scrub stopped early");
                        break;
                    }
                }
                let pause = Duration::from_secs((progress.bytes - before) / SCRUB_BYTES_PER_SECOND + 1);
                tokio::time::sleep(pause).await;
            }
            tracing::info!(blobs = progress.done, bytes = progress.bytes, "scrubbed");
            tokio::time::sleep(SCRUB_REST).await;
        }
    }

    /// Removes files that no place names: a crash between their publication and the commit leaves such. Returns how
    /// many. While the index cannot tell, a file stays.
    pub(super) async fn sweep_unnamed(self: &Arc<Inner>) -> usize {
        self.index.loaded().await;
        let (store, index) = (self.store.clone(), self.index.clone());
        let is_named = move |digest: &Digest, object: u32| match index.place(digest) {
            Presence::Present(place) => place.tier == TierName::File && place.object == object,
            Presence::Absent => false,
            Presence::Unknown => true,
        };
        match tokio::task::spawn_blocking(move || store.sweep_files(is_named)).await {
            Ok(Ok(0)) => 0,
            Ok(Ok(swept)) => {
                tracing::info!(swept, "removed files that nothing named");
                swept
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "files that nothing names could not be looked for");
                0
            }
            Err(_stopped) => 0,
        }
    }

    /// Re-hashes the next blobs after a digest. Returns the last one, or None at the end.
    async fn verify_batch(
        self: &Arc<Inner>,
        after: Option<Digest>,
        progress: &mut Progress,
    ) -> Result<Option<Digest>, CacheError> {
        let batch = self.index.places_after(after, SCRUB_BATCH).await?;
        let last = batch.last().map(|located| located.digest);
        for located in batch {
            let (store, digest, place) = (self.store.clone(), located.digest, located.place);
            let checked = tokio::task::spawn_blocking(move || store.verify_blob(&digest, &place)).await;
            match checked.map_err(|_panicked| CacheError::Abandoned)? {
                Ok(()) => {}
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Gone)) => {
                    // It may have been evicted or moved since the batch was read.
                    if self.index.find_place(&digest).await? == Some(place) {
                        tracing::error!(%digest, %error, "a stored blob is damaged, it is set aside");
                        self.set_aside(&digest, &place).await?;
                        let why = error.to_string();
                        progress.bad.push(Bad { digest: digest.to_string(), why, set_aside: true });
                    }
                }
                Err(error) => {
                    // The disk, not the blob: the others are looked at all the same.
                    tracing::error!(%digest, %error, "a stored blob could not be read");
                    let why = error.to_string();
                    progress.bad.push(Bad { digest: digest.to_string(), why, set_aside: false });
                }
            }
            self.counters.scrubbed();
            progress.done += 1;
            progress.bytes += place.len;
        }
        progress.of = progress.of.max(progress.done);
        Ok(last)
    }

    /// Takes a damaged blob out of use: the next asker fetches it anew.
    pub(super) async fn set_aside(self: &Arc<Inner>, digest: &Digest, place: &Place) -> Result<(), CacheError> {
        self.counters.corrupted();
        self.index.drop_place(digest, place).await?;
        let (store, digest, place) = (self.store.clone(), *digest, *place);
        let moved = tokio::task::spawn_blocking(move || store.quarantine(&digest, &place)).await;
        match moved.map_err(|_panicked| CacheError::Abandoned)? {
            Ok(()) | Err(StoreError::Gone) => {}
            Err(error) => tracing::warn!(%digest, %error, "a damaged blob could not be set aside"),
        }
        Ok(())
    }
}
