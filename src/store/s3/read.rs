//! Reads one large object: ranges under way side by side, handed on in order, each chunk checked first. What is held in
//! memory comes out of one budget for all reads. A body that breaks is taken up where it broke; a chunk that came wrong is
//! asked for once more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::bucket::{Body, Span};
use super::error::{Flaw, S3Error};
use super::remote::Shared;
use super::seal::{ObjectSeal, chunk_bytes};
use crate::model::digest::Digest;
use crate::model::range::ByteRange;

/// An object to be read, and what it must be.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub object: String,
    pub digest: Digest,
    pub len: u64,
}

/// The bytes of a range of a blob, checked, in order.
pub struct ObjectReader {
    shared: Arc<Shared>,
    wanted: Arc<Wanted>,
    seal: Arc<ObjectSeal>,
    /// What was asked for, of the blob.
    range: ByteRange,
    /// The next byte that no part covers, and how much a part covers.
    next: u64,
    part_bytes: u64,
    parts: VecDeque<Part>,
    /// Room for the part that must begin now.
    room: Option<BoxFuture<'static, OwnedSemaphorePermit>>,
}

/// A part under way; its room is given back with it.
struct Part {
    chunks: BoxStream<'static, Result<(u64, Bytes), S3Error>>,
    /// Checked, and not handed on.
    ready: VecDeque<Result<(u64, Bytes), S3Error>>,
    over: bool,
    _room: OwnedSemaphorePermit,
}

/// One part's own way through its bytes.
struct Fetching {
    shared: Arc<Shared>,
    wanted: Arc<Wanted>,
    seal: Arc<ObjectSeal>,
    /// Chunks that are whole lie before this.
    at: u64,
    end: u64,
    body: Option<Body>,
    /// What came of the chunk after this one.
    surplus: Bytes,
    again: u32,
}

/// Bodies that may break before a chunk is whole.
const AGAIN: u32 = 8;

/// Begins to read.
///
/// *Errors*: `Gone`, `Damaged`, and what keeps S3 from answering.
pub(super) async fn open(shared: Arc<Shared>, wanted: Wanted, range: ByteRange) -> Result<ObjectReader, S3Error> {
    let damaged = S3Error::damaged(&wanted.object);
    let chunk = chunk_bytes(wanted.len).ok_or_else(|| damaged(Flaw::Damaged("no object has its length")))?;
    let part_bytes = shared.settings.part_bytes.next_multiple_of(chunk);
    let start = range.start / chunk * chunk;
    let end = range.end.min(wanted.len);
    if range.start >= end {
        return Err(S3Error::Source { why: "an empty range was asked for".to_owned() });
    }
    let first = ByteRange { start, end: (start + part_bytes).min(end.next_multiple_of(chunk)).min(wanted.len) };
    let room = shared.room(first.len()).await;
    let got = shared.hedge.get(&wanted.object, Span::Part(first)).await?;
    let got = got.ok_or_else(|| S3Error::Gone { object: wanted.object.clone() })?;
    let seal = got.stat.seal.as_deref().ok_or_else(|| damaged(Flaw::Damaged("it has no seal")))?;
    let seal = ObjectSeal::decode(seal).map_err(&damaged)?;
    if seal.digest != wanted.digest || seal.len != wanted.len || got.stat.len != wanted.len {
        return Err(damaged(Flaw::Damaged("another blob is under its name")));
    }
    let (seal, wanted) = (Arc::new(seal), Arc::new(wanted));
    let range = ByteRange { start: range.start, end };
    let mut reader =
        ObjectReader { shared, wanted, seal, range, next: first.end, part_bytes, parts: VecDeque::new(), room: None };
    reader.begin(first, Some(got.body), room);
    Ok(reader)
}

impl ObjectReader {
    fn begin(&mut self, range: ByteRange, body: Option<Body>, room: OwnedSemaphorePermit) {
        let fetching = Fetching {
            shared: self.shared.clone(),
            wanted: self.wanted.clone(),
            seal: self.seal.clone(),
            at: range.start,
            end: range.end,
            body,
            surplus: Bytes::new(),
            again: AGAIN,
        };
        let chunks = stream::unfold(Some(fetching), |fetching| async move {
            let mut fetching = fetching?;
            let chunk = fetching.chunk().await?;
            let rest = chunk.is_ok().then_some(fetching);
            Some((chunk, rest))
        });
        self.parts.push_back(Part { chunks: chunks.boxed(), ready: VecDeque::new(), over: false, _room: room });
    }

    /// The part that comes next. None: all have begun.
    fn upcoming(&self) -> Option<ByteRange> {
        let last = self.range.end.next_multiple_of(chunk_bytes(self.wanted.len)?).min(self.wanted.len);
        let range = ByteRange { start: self.next, end: (self.next + self.part_bytes).min(last) };
        (range.start < range.end).then_some(range)
    }

    /// Begins what there is room for. Only the part that is wanted now waits for room: whoever holds some never waits.
    fn begin_more(&mut self, context: &mut Context<'_>) {
        while self.parts.len() < self.shared.settings.parallel {
            let Some(range) = self.upcoming() else { return };
            let room = if self.parts.is_empty() {
                let shared = self.shared.clone();
                let waiting = self.room.get_or_insert_with(|| Box::pin(async move { shared.room(range.len()).await }));
                match waiting.as_mut().poll(context) {
                    Poll::Ready(room) => Some(room),
                    Poll::Pending => return,
                }
            } else {
                self.shared.room_now(range.len())
            };
            self.room = None;
            let Some(room) = room else { return };
            self.next = range.end;
            self.begin(range, None, room);
        }
    }

    /// What of a chunk was asked for.
    fn cut(&self, at: u64, bytes: &Bytes) -> Bytes {
        let within = |edge: u64| usize::try_from(edge.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        bytes.slice(within(self.range.start)..within(self.range.end))
    }
}

impl Stream for ObjectReader {
    type Item = Result<Bytes, S3Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, S3Error>>> {
        let this = self.get_mut();
        loop {
            this.begin_more(context);
            for part in &mut this.parts {
                part.drive(context);
            }
            let Some(front) = this.parts.front_mut() else {
                return if this.upcoming().is_some() { Poll::Pending } else { Poll::Ready(None) };
            };
            match front.ready.pop_front() {
                Some(Ok((at, bytes))) => return Poll::Ready(Some(Ok(this.cut(at, &bytes)))),
                Some(Err(error)) => {
                    // Nothing follows an error.
                    this.parts.clear();
                    this.next = this.wanted.len;
                    return Poll::Ready(Some(Err(error)));
                }
                None if front.over => drop(this.parts.pop_front()),
                None => return Poll::Pending,
            }
        }
    }
}

impl Part {
    /// Takes what has come. Bounded by the part's length.
    fn drive(&mut self, context: &mut Context<'_>) {
        while !self.over {
            match self.chunks.as_mut().poll_next(context) {
                Poll::Ready(Some(chunk)) => self.ready.push_back(chunk),
                Poll::Ready(None) => self.over = true,
                Poll::Pending => return,
            }
        }
    }
}

impl Fetching {
    /// The next chunk, checked, with where it begins.
    async fn chunk(&mut self) -> Option<Result<(u64, Bytes), S3Error>> {
        let at = self.at;
        if at >= self.end {
            return None;
        }
        let len = chunk_bytes(self.wanted.len)?.min(self.wanted.len - at);
        let mut bytes = BytesMut::with_capacity(usize::try_from(len).ok()?);
        // Wrong on the way, or wrong in the bucket: the second time tells.
        for _ in 0..2 {
            if let Err(error) = self.fill(&mut bytes, len).await {
                return Some(Err(error));
            }
            if self.seal.holds(at, &bytes) {
                (self.at, self.again) = (at + len, AGAIN);
                return Some(Ok((at, bytes.freeze())));
            }
            bytes.clear();
            self.surplus.clear();
            self.body = None;
        }
        let flaw = Flaw::Damaged("a chunk does not match its sum");
        Some(Err(S3Error::Damaged { object: self.wanted.object.clone(), flaw }))
    }

    /// Fills `bytes` up to `len`, asking again from where a body broke.
    async fn fill(&mut self, bytes: &mut BytesMut, len: u64) -> Result<(), S3Error> {
        loop {
            let missing = usize::try_from(len).unwrap_or(usize::MAX).saturating_sub(bytes.len());
            bytes.extend_from_slice(&self.surplus.split_to(missing.min(self.surplus.len())));
            if bytes.len() as u64 == len {
                return Ok(());
            }
            let Some(body) = &mut self.body else {
                let range = ByteRange { start: self.at + bytes.len() as u64, end: self.end };
                let got = self.shared.hedge.get(&self.wanted.object, Span::Part(range)).await?;
                let got = got.ok_or_else(|| S3Error::Gone { object: self.wanted.object.clone() })?;
                self.body = Some(got.body);
                continue;
            };
            match body.chunk().await {
                Some(Ok(more)) => self.surplus = more,
                broken => {
                    let why = || S3Error::Unavailable { doing: "reading an object", why: "it ended early".to_owned() };
                    let error = broken.and_then(Result::err).unwrap_or_else(why);
                    self.again = self.again.checked_sub(1).ok_or(error)?;
                    self.body = None;
                }
            }
        }
    }
}
