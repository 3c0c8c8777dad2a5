//! Reading along with a fill, from byte 0, each asker at its own pace.
//!
//! The last piece of what a follower was promised is withheld until the fill is sealed, so that no client can take
//! bytes that were never verified for a whole answer. A fill that fails ends every follower with an error.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use sha2::Digest as _;
use tokio::sync::watch;

use super::Inner;
use super::coalesce::{Head, Seat, Stage};
use super::error::CacheError;
use super::served::{Framing, ServedStream};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::range::ByteRange;
use crate::upstream::fetch::{FetchAsk, FetchBody, FetchedBody, Redirects, Resume, UpstreamError};

/// The most that is read at once for one follower, in bytes.
const READ_BYTES: usize = 64 << 10;
/// What is held back of an answer until its fill is sealed, in bytes.
const WITHHELD_BYTES: u64 = 16 << 10;

struct Follower {
    cache: Arc<Inner>,
    seat: Seat,
    stage: watch::Receiver<Stage>,
    at: u64,
    /// Where this asker's part ends; None while the length is unknown.
    end: Option<u64>,
    framing: Framing,
    rest: Option<Rest>,
    ended: bool,
}

/// The rest of a body whose storing stopped half-way, straight from upstream.
struct Rest {
    body: FetchedBody,
    check: Option<Check>,
    /// Held back until the end is verified.
    held: Option<Bytes>,
}

struct Check {
    hasher: sha2::Sha256,
    expect: Checksum,
}

/// The body of a fill as one asker reads it. `range` is resolved against the announced length.
pub(super) fn follow(cache: Arc<Inner>, seat: Seat, range: Option<ByteRange>, framing: Framing) -> ServedStream {
    let head = head(&seat);
    let (at, end) = match range {
        Some(range) => (range.start, Some(range.end)),
        None => (0, head.len),
    };
    let stage = seat.flight.watch();
    let follower = Follower { cache, seat, stage, at, end, framing, rest: None, ended: false };
    futures_util::stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next().await?;
        follower.ended |= chunk.is_err();
        Some((chunk, follower))
    })
    .boxed()
}

fn head(seat: &Seat) -> &Head {
    seat.flight.head.get().expect("a flight has its head before it streams")
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Bytes, CacheError>> {
        if self.ended {
            return None;
        }
        loop {
            if self.rest.is_some() {
                return self.next_of_rest().await;
            }
            let stage = self.stage.borrow_and_update().clone();
            match stage {
                Stage::Asking => {}
                Stage::Streaming { written } => {
                    let limit = self.safe_until(written);
                    if self.at < limit {
                        return Some(self.read(limit).await);
                    }
                }
                Stage::Sealed(entry) => {
                    let end = self.end.unwrap_or(entry.len).min(entry.len);
                    return if self.at < end { Some(self.read(end).await) } else { None };
                }
                Stage::Overflowed { stored } => {
                    if self.end.is_some_and(|end| self.at >= end) {
                        return None;
                    }
                    if self.at < self.safe_until(stored) {
                        return Some(self.read(self.safe_until(stored)).await);
                    }
                    match self.take_up().await {
                        Ok(rest) => self.rest = Some(rest),
                        Err(error) => return Some(Err(error)),
                    }
                    continue;
                }
                Stage::Failed(error) => return Some(Err(error)),
                Stage::Kept(..) | Stage::HandedOff => return Some(Err(CacheError::Abandoned)),
            }
            if self.stage.changed().await.is_err() {
                return Some(Err(CacheError::Abandoned));
            }
        }
    }

    /// How far this asker may read before the fill is sealed.
    fn safe_until(&self, written: u64) -> u64 {
        match (self.end, self.framing) {
            (Some(end), _) => written.min(end.saturating_sub(WITHHELD_BYTES)),
            (None, Framing::Marked) => written,
            (None, Framing::Closing) => 0,
        }
    }

    async fn read(&mut self, limit: u64) -> Result<Bytes, CacheError> {
        let most = usize::try_from(limit - self.at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let bytes = head(&self.seat).partial.read(self.at, most).await?;
        if bytes.is_empty() {
            return Err(CacheError::Abandoned);
        }
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// Asks upstream for what was not stored, under the validator that the stored part came with.
    async fn take_up(&mut self) -> Result<Rest, CacheError> {
        let resume = head(&self.seat).resume.clone();
        let host = resume.url.host_str().unwrap_or_default().to_owned();
        let broken = |why: &str| UpstreamError::Protocol { host: host.clone(), why: why.into() };
        let validator = resume.validator.ok_or_else(|| broken("no validator to take a body up again"))?;
        let mut headers = resume.headers;
        let range = match self.end {
            Some(end) => format!("bytes={}-{}", self.at, end.saturating_sub(1)),
            None => format!("bytes={}-", self.at),
        };
        let range = HeaderValue::try_from(range).map_err(|_| broken("range"))?;
        headers.insert(header::RANGE, range);
        headers.insert(header::IF_RANGE, validator);
        let ask = FetchAsk {
            method: Method::GET,
            url: resume.url,
            headers,
            body: FetchBody::Empty,
            trust: resume.trust,
            resume: Resume::Never,
            redirects: Redirects::Follow,
        };
        let fetched = self.cache.fetch.fetch(ask).await?;
        let starts = format!("bytes {}-", self.at);
        let fits = fetched
            .headers
            .get(header::CONTENT_RANGE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with(&starts));
        if fetched.status != StatusCode::PARTIAL_CONTENT || !fits {
            return Err(broken("the body changed while it was read").into());
        }
        let check = match (resume.expect, self.end == head(&self.seat).len) {
            (Some(expect), true) => Some(self.check_so_far(expect).await?),
            _ => None,
        };
        Ok(Rest { body: fetched.body, check, held: None })
    }

    /// Hashes what was stored, so that the whole can still be held against its checksum.
    async fn check_so_far(&self, expect: Checksum) -> Result<Check, CacheError> {
        if expect.algorithm() != Algorithm::Sha256 {
            return Err(CacheError::Mismatch {
                why: "storage is full and the sum cannot be checked on the way".into(),
            });
        }
        let mut hasher = sha2::Sha256::new();
        let mut at = 0;
        while at < self.at {
            let most = usize::try_from(self.at - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let bytes = head(&self.seat).partial.read(at, most).await?;
            if bytes.is_empty() {
                return Err(CacheError::Abandoned);
            }
            at += bytes.len() as u64;
            hasher.update(&bytes);
        }
        Ok(Check { hasher, expect })
    }

    async fn next_of_rest(&mut self) -> Option<Result<Bytes, CacheError>> {
        loop {
            let rest = self.rest.as_mut()?;
            match rest.body.chunk().await {
                Some(Ok(chunk)) => {
                    if let Some(check) = &mut rest.check {
                        check.hasher.update(&chunk);
                    }
                    self.at += chunk.len() as u64;
                    if let Some(ready) = rest.held.replace(chunk) {
                        return Some(Ok(ready));
                    }
                }
                Some(Err(error)) => return Some(Err(error.into())),
                None => return self.end_of_rest(),
            }
        }
    }

    fn end_of_rest(&mut self) -> Option<Result<Bytes, CacheError>> {
        self.ended = true;
        let rest = self.rest.as_mut()?;
        if let Some(check) = rest.check.take() {
            let sum = check.hasher.finalize();
            if sum.as_slice() != check.expect.as_bytes() {
                return Some(Err(CacheError::Mismatch { why: format!("expected {}", check.expect) }));
            }
        }
        rest.held.take().map(Ok)
    }
}
