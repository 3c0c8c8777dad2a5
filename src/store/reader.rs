//! Gives back a blob, or a part of it, each chunk checked before it is handed on. What the page cache has is read on
//! the spot, what it has not on the blocking pool. No mmap: a lost disk would be a signal, not an error.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Inner;
use super::blob_files::OpenFile;
use super::error::StoreError;
use super::files::Mode;
use super::layout::CHUNK;
use super::record::OpenSegment;
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};
use crate::model::range::ByteRange;

/// What is read on the spot at most, in bytes: a fifth of a millisecond.
const AT_ONCE: u64 = 1024 * 1024;

/// Reads a range of a blob. Holds at most 512 KiB, among many readers 256 KiB, or a blob that the memory tier would take.
pub struct BlobReader {
    tier: TierName,
    range: ByteRange,
    /// Of the blob: what comes next.
    at: u64,
    source: Source,
}

enum Source {
    /// Bytes of the range.
    Memory(Bytes),
    /// The whole blob is being read.
    Whole(Box<Whole>, Option<Job>),
    Chunks(Box<Chunks>, Option<Job>),
}

type Job = JoinHandle<Result<Option<Bytes>, StoreError>>;

impl BlobReader {
    pub(super) const fn of_memory(bytes: Bytes, range: ByteRange, tier: TierName) -> BlobReader {
        BlobReader { tier, range, at: range.start, source: Source::Memory(bytes) }
    }

    /// Reads at once what can be read without waiting.
    pub(super) fn of_whole(whole: Whole, range: ByteRange) -> Result<BlobReader, StoreError> {
        let tier = whole.tier();
        let now = if whole.place.len <= AT_ONCE { whole.read(Mode::Now)? } else { None };
        Ok(match now {
            Some(bytes) => BlobReader::of_memory(cut(&bytes, 0, range), range, tier),
            None => BlobReader { tier, range, at: range.start, source: Source::Whole(Box::new(whole), None) },
        })
    }

    pub(super) fn of_chunks(chunks: Chunks, range: ByteRange) -> BlobReader {
        BlobReader { tier: TierName::File, range, at: range.start, source: Source::Chunks(Box::new(chunks), None) }
    }

    /// Length of the range, in bytes.
    pub const fn len(&self) -> u64 {
        self.range.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Where the bytes lie.
    pub const fn tier(&self) -> TierName {
        self.tier
    }

    /// All that is left, when it is in memory already.
    pub fn into_bytes(self) -> Result<Bytes, BlobReader> {
        match self.source {
            Source::Memory(bytes) => Ok(bytes),
            Source::Whole(..) | Source::Chunks(..) => Err(self),
        }
    }

    /// The next bytes, at most 512 KiB of a file; None at the end of the range.
    ///
    /// *Errors*: `Corrupt` when the bytes are not those that were stored; none of them are handed on.
    /// *Cancel*: nothing is lost.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, StoreError>> {
        std::future::poll_fn(|context| self.poll_chunk(context)).await
    }

    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StoreError>>> {
        if self.at >= self.range.end {
            return Poll::Ready(None);
        }
        let bytes = match &mut self.source {
            Source::Memory(bytes) => Ok(std::mem::take(bytes)),
            Source::Whole(whole, job) => {
                let whole: &Whole = whole;
                let bytes = ready!(poll_job(job, context, || whole.start()));
                bytes.map(|bytes| cut(&bytes, 0, self.range))
            }
            Source::Chunks(chunks, job) => {
                let index = self.at / CHUNK as u64;
                let now = match job {
                    Some(_) => None,
                    None => chunks.read_now(index, self.range.end).transpose(),
                };
                let bytes = match now {
                    Some(bytes) => bytes,
                    None => ready!(poll_job(job, context, || chunks.start(index))),
                };
                let rest = ByteRange { start: self.at, end: self.range.end };
                bytes.map(|bytes| cut(&bytes, index * CHUNK as u64, rest))
            }
        };
        match &bytes {
            Ok(bytes) if !bytes.is_empty() => self.at += bytes.len() as u64,
            // Nothing follows an error.
            Ok(_) | Err(_) => self.at = self.range.end,
        }
        Poll::Ready(Some(bytes))
    }
}

/// Polls a job, which is started first if there is none.
fn poll_job(
    job: &mut Option<Job>,
    context: &mut Context<'_>,
    start: impl FnOnce() -> Job,
) -> Poll<Result<Bytes, StoreError>> {
    let task = job.get_or_insert_with(start);
    let done = ready!(Pin::new(task).poll(context));
    *job = None;
    let bytes = done.map_err(|error| StoreError::lost("reading a blob", error)).and_then(|bytes| bytes);
    Poll::Ready(bytes.and_then(|bytes| bytes.ok_or(StoreError::Gone)))
}

/// The part of `bytes`, which start at `from`, that lies in the range.
fn cut(bytes: &Bytes, from: u64, range: ByteRange) -> Bytes {
    let within = |at: u64| usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(within(range.start)..within(range.end))
}

/// Counts a read under way.
pub(super) struct Reading(Arc<AtomicUsize>);

impl Reading {
    pub fn new(count: &Arc<AtomicUsize>) -> Reading {
        count.fetch_add(1, Ordering::Relaxed);
        Reading(count.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A blob that is read whole.
#[derive(Clone)]
pub(super) struct Whole {
    pub inner: Arc<Inner>,
    pub digest: Digest,
    pub place: Place,
    pub from: Opened,
    pub keep: Keep,
}

#[derive(Clone)]
pub(super) enum Opened {
    Segment(Arc<OpenSegment>),
    File(Arc<OpenFile>),
}

/// Whether the memory tier gets the bytes too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    InMemory,
    No,
}

impl Whole {
    pub fn read(&self, mode: Mode) -> Result<Option<Bytes>, StoreError> {
        let buffers = (self.keep == Keep::No).then_some(&self.inner.buffers);
        let bytes = match &self.from {
            Opened::Segment(open) => open.read(&self.digest, &self.place, buffers, mode)?,
            Opened::File(open) => open.whole(mode)?,
        };
        if let Some(bytes) = &bytes
            && self.keep == Keep::InMemory
        {
            self.inner.memory.keep(&self.digest, bytes.clone());
        }
        Ok(bytes)
    }

    const fn tier(&self) -> TierName {
        match self.from {
            Opened::Segment(_) => TierName::Segment,
            Opened::File(_) => TierName::File,
        }
    }

    fn start(&self) -> Job {
        let whole = self.clone();
        tokio::task::spawn_blocking(move || {
            let _reading = match &whole.from {
                Opened::Segment(open) => Reading::new(&open.segment.reading),
                Opened::File(open) => Reading::new(&open.reading),
            };
            whole.read(Mode::Wait)
        })
    }
}

/// A file that is read chunk by chunk.
pub(super) struct Chunks {
    inner: Arc<Inner>,
    file: Arc<OpenFile>,
    _reading: Reading,
}

impl Chunks {
    pub fn new(inner: Arc<Inner>, file: Arc<OpenFile>) -> Chunks {
        let reading = Reading::new(&file.reading);
        Chunks { inner, file, _reading: reading }
    }

    fn read_now(&self, index: u64, end: u64) -> Result<Option<Bytes>, StoreError> {
        self.file.piece(index, end, &self.inner.buffers)
    }

    fn start(&self, index: u64) -> Job {
        let (file, buffers) = (self.file.clone(), self.inner.buffers.clone());
        tokio::task::spawn_blocking(move || file.chunk(index, &buffers))
    }
}
