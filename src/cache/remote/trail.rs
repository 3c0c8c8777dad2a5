//! Reading along with a copy from the bucket, from byte 0, each asker at its own pace. The last piece of what an asker was
//! promised is withheld until the copy was found to be what its digest says.
//!
//! Where nothing (more) can be stored here, each goes on by itself, straight from the bucket: what comes is then checked
//! chunk by chunk, as what is read from a file here is.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;

use super::super::Inner;
use super::super::error::CacheError;
use super::super::served::{ServedBody, ServedStream};
use super::Found;
use super::copy::{Seat, Stage};
use crate::model::digest::Digest;
use crate::model::place::Place;
use crate::model::range::ByteRange;

/// The most that is read at once for one follower, in bytes.
const READ_BYTES: usize = 1 << 20;
/// What is held back until the copy is sealed, in bytes.
const WITHHELD_BYTES: u64 = 16 << 10;

struct Trail {
    cache: Arc<Inner>,
    seat: Seat,
    stage: watch::Receiver<Stage>,
    digest: Digest,
    place: Place,
    at: u64,
    end: u64,
    rest: Option<ServedBody>,
    ended: bool,
}

/// A range of a blob that is being copied.
pub(super) fn follow(cache: Arc<Inner>, seat: Seat, digest: Digest, place: Place, range: ByteRange) -> ServedStream {
    let stage = seat.watch();
    let ByteRange { start: at, end } = range;
    let trail = Trail { cache, seat, stage, digest, place, at, end, rest: None, ended: false };
    futures_util::stream::unfold(trail, |mut trail| async move {
        let chunk = trail.next().await?;
        trail.ended |= chunk.is_err();
        Some((chunk, trail))
    })
    .boxed()
}

impl Trail {
    async fn next(&mut self) -> Option<Result<Bytes, CacheError>> {
        loop {
            if self.ended || self.at >= self.end {
                return None;
            }
            if let Some(rest) = &mut self.rest {
                let chunk = std::future::poll_fn(|context| rest.poll_chunk(context)).await;
                let chunk = chunk.unwrap_or(Err(CacheError::Abandoned));
                self.at += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                return Some(chunk);
            }
            let stage = self.stage.borrow_and_update().clone();
            let limit = match stage {
                Stage::Asking => 0,
                Stage::Coming { written } => written.min(self.end.saturating_sub(WITHHELD_BYTES)),
                Stage::Sealed => self.end,
                Stage::Unstored { stored } if self.at < stored.min(self.end.saturating_sub(WITHHELD_BYTES)) => {
                    stored.min(self.end.saturating_sub(WITHHELD_BYTES))
                }
                Stage::Unstored { .. } => {
                    if let Err(error) = self.go_alone().await {
                        return Some(Err(error));
                    }
                    continue;
                }
                Stage::Failed(error) => return Some(Err(error)),
                Stage::Lost | Stage::Here | Stage::Whole(_) => return Some(Err(CacheError::Abandoned)),
            };
            if self.at < limit {
                return Some(self.read(limit).await);
            }
            if self.stage.changed().await.is_err() {
                return Some(Err(CacheError::Abandoned));
            }
        }
    }

    async fn read(&mut self, limit: u64) -> Result<Bytes, CacheError> {
        let most = usize::try_from(limit - self.at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let partial = self.seat.partial().ok_or(CacheError::Abandoned)?;
        let bytes = partial.read(self.at, most).await?;
        if bytes.is_empty() {
            return Err(CacheError::Abandoned);
        }
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    async fn go_alone(&mut self) -> Result<(), CacheError> {
        let range = ByteRange { start: self.at, end: self.end };
        match self.cache.relayed(&self.digest, &self.place, range).await? {
            Found::Body(body) => self.rest = Some(body),
            Found::Here | Found::Lost => return Err(CacheError::Abandoned),
        }
        Ok(())
    }
}
