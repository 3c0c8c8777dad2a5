//! Reading along with a fill, from byte 0, each asker at its own pace.
//!
//! The last piece of what a follower was promised is withheld until the fill is sealed, so that no client can take
//! bytes that were never verified for a whole answer. A fill that fails ends every follower with an error.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use tokio::sync::watch;

use super::Inner;
use super::coalesce::{Head, Seat, Stage};
use super::error::CacheError;
use super::served::{Framing, ServedStream};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::range::ByteRange;
use crate::store::Hashes;
use crate::upstream::fetch::{FetchAsk, FetchBody, FetchedBody, Redirects, Resume, UpstreamError};

/// The most that is read at once for one follower, in bytes: a slice of what the store has in memory, shared by all.
const READ_BYTES: usize = 1 << 20;
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
    /// Where in the whole its next byte stands.
    next: u64,
    /// The whole must be read for it, whatever part of it was asked for.
    check: Option<Check>,
    /// Held back until the end is verified.
    held: Option<Bytes>,
}

struct Check {
    hashes: Hashes,
    expect: Vec<Checksum>,
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
                    match self.take_up(stored).await {
                        Ok(rest) => self.rest = Some(rest),
                        Err(error) => return Some(Err(error)),
                    }
                    continue;
                }
                Stage::Failed(error) => return Some(Err(error)),
                Stage::Kept(..) | Stage::HandedOff(_) => return Some(Err(CacheError::Abandoned)),
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
    async fn take_up(&self, stored: u64) -> Result<Rest, CacheError> {
        let resume = &head(&self.seat).resume;
        let broken = |why: &str| UpstreamError::Protocol {
            host: resume.url.host_str().unwrap_or_default().to_owned(),
            why: why.into(),
        };
        // What was lent is proven by its digest as a whole, never in two halves.
        if head(&self.seat).lent.is_some() && resume.expect.is_empty() {
            return Err(broken("what a peer lent can only be proven whole").into());
        }
        let check = match resume.expect.is_empty() {
            true => None,
            false => Some(self.check_so_far(self.at.min(stored), &resume.expect).await?),
        };
        // What must be checked is checked from its first byte.
        let next = if check.is_some() { self.at.min(stored) } else { self.at };
        let unproven = || broken("nothing proves that the rest would belong to the same body");
        let plan = resume.plan.as_ref().ok_or_else(unproven)?;
        let ask = FetchAsk {
            method: Method::GET,
            url: resume.url.clone(),
            headers: plan.request(&resume.headers, next).ok_or_else(unproven)?,
            body: FetchBody::Empty,
            trust: resume.trust,
            resume: Resume::ByRange,
            redirects: Redirects::Follow,
            party: resume.party.clone(),
            cause: Some(resume.cause.clone()),
        };
        let fetched = self.cache.fetch.fetch(ask).await?;
        plan.accept(fetched.status, &fetched.headers, fetched.len, next).map_err(broken)?;
        Ok(Rest { body: fetched.body, next, check, held: None })
    }

    /// Hashes what was stored, so that the whole can still be held against its checksum.
    async fn check_so_far(&self, upto: u64, expect: &[Checksum]) -> Result<Check, CacheError> {
        let also: Vec<Algorithm> = expect.iter().map(Checksum::algorithm).collect();
        let hashes = head(&self.seat).partial.hash(upto, &also).await?;
        Ok(Check { hashes, expect: expect.to_vec() })
    }

    async fn next_of_rest(&mut self) -> Option<Result<Bytes, CacheError>> {
        let end = self.end.unwrap_or(u64::MAX);
        loop {
            let rest = self.rest.as_mut()?;
            if rest.check.is_none() && self.at >= end {
                return self.end_of_rest();
            }
            let chunk = match rest.body.chunk().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Some(Err(error.into())),
                None => return self.end_of_rest(),
            };
            if let Some(check) = &mut rest.check {
                check.hashes.update(&chunk);
            }
            let wanted = cut(&chunk, rest.next, self.at, end);
            rest.next += chunk.len() as u64;
            self.at += wanted.len() as u64;
            if !wanted.is_empty()
                && let Some(ready) = rest.held.replace(wanted)
            {
                return Some(Ok(ready));
            }
        }
    }

    fn end_of_rest(&mut self) -> Option<Result<Bytes, CacheError>> {
        self.ended = true;
        let rest = self.rest.as_mut()?;
        if let Some(check) = rest.check.take()
            && let Err(error) = check.hashes.check(&check.expect)
        {
            return Some(Err(error.into()));
        }
        if let Some(expected) = self.end.filter(|end| self.at < *end) {
            let host = head(&self.seat).resume.url.host_str().unwrap_or_default().to_owned();
            return Some(Err(UpstreamError::Truncated { host, got: self.at, expected: expected.to_string() }.into()));
        }
        rest.held.take().map(Ok)
    }
}

/// The part of a chunk, which starts at `next` in the whole, that lies in `from..end`.
fn cut(chunk: &Bytes, next: u64, from: u64, end: u64) -> Bytes {
    let clamp =
        |offset: u64| usize::try_from(offset.saturating_sub(next)).map_or(chunk.len(), |at| at.min(chunk.len()));
    let (start, end) = (clamp(from), clamp(end));
    if start < end { chunk.slice(start..end) } else { Bytes::new() }
}
