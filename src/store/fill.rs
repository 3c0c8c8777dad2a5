//! Bytes on their way in, shared by the writer and all who follow it. The latest are in memory, what came before is
//! in a temporary file; nothing that was readable once is taken back, whatever happens to the writer.
//!
//! Upstream's buffers are kept as they came: to copy them into pieces of one size took a twentieth of a cold miss.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::budget::Reservation;
use super::buffers::{Buffers, Lent};
use super::error::StoreError;
use super::files::{Descriptor, Got, Mode, read_exact};
use super::hashes::Hashes;
use super::layout::{BLOCK, CHUNK};
use super::sum::xxh3_64;
use crate::model::checksum::{Algorithm, Checksum};

/// With so many bytes somebody is sent to write: to wake a thread for each chunk costs as much as a copy.
const WORTH_A_JOB: u64 = 2 * CHUNK as u64;
/// Up to so many bytes are hashed and written in one go.
const GO: u64 = 4 * CHUNK as u64;
/// Bytes that stay in memory when they have landed, for followers that are close behind.
const KEPT: usize = 2 * CHUNK;
/// Buffers with at least so much in them are taken as they come.
const WORTH_KEEPING: usize = 32 * 1024;
/// What comes in smaller ones is collected up to this.
const COLLECTED: usize = 128 * 1024;

pub(super) struct Fill {
    state: Mutex<State>,
    /// Something has landed, or nobody writes any more.
    moved: Notify,
    written: AtomicU64,
    buffers: Arc<Buffers>,
    /// An unlinked file takes room until the last reader has closed it.
    _reservation: Arc<Mutex<Reservation>>,
}

struct State {
    file: Option<Arc<dyn Descriptor>>,
    /// Bytes in the file.
    flushed: u64,
    /// xxh3 of each chunk of them.
    sums: Vec<u64>,
    /// Bytes from `start` to `end`: the latest of the file, and all that is not in it but for the tail.
    recent: VecDeque<Bytes>,
    start: u64,
    end: u64,
    /// Leave to hold `KEPT`.
    keeping: Option<Lent>,
    /// Somebody writes pieces, and looks for another after each.
    writing: bool,
    tail: Tail,
    /// Of a tail that begins.
    capacity: usize,
}

enum Tail {
    Growing(Vec<u8>),
    /// The whole blob, sealed.
    Whole(Bytes),
}

/// What is hashed and written in one go: whole chunks, but at the end of a blob.
pub(super) struct Piece {
    pub parts: Vec<Bytes>,
    pub len: u64,
}

impl State {
    /// Puts what was collected behind what came in large buffers.
    fn close_tail(&mut self) {
        let Tail::Growing(tail) = &mut self.tail else { return };
        if tail.is_empty() {
            return;
        }
        let collected = std::mem::take(tail);
        self.capacity = COLLECTED;
        // A few bytes must not hold a large buffer.
        let exact = if collected.len() < COLLECTED { Bytes::copy_from_slice(&collected) } else { collected.into() };
        self.push(exact);
    }

    fn push(&mut self, part: Bytes) {
        self.end += part.len() as u64;
        self.recent.push_back(part);
    }

    fn collect(&mut self, mut bytes: Bytes) {
        while let Tail::Growing(tail) = &mut self.tail
            && !bytes.is_empty()
        {
            if tail.capacity() == 0 {
                tail.reserve_exact(self.capacity);
            }
            let some = bytes.split_to(bytes.len().min(COLLECTED - tail.len()));
            tail.extend_from_slice(&some);
            if tail.len() == COLLECTED {
                self.close_tail();
            }
        }
    }

    /// The next `len` bytes that belong into the file.
    fn piece(&self, len: u64) -> Piece {
        let (mut parts, mut at, end) = (Vec::new(), self.start, self.flushed + len);
        for part in &self.recent {
            let next = at + part.len() as u64;
            let (from, to) = (self.flushed.max(at), end.min(next));
            if from < to {
                parts.push(part.slice((from - at) as usize..(to - at) as usize));
            }
            at = next;
        }
        Piece { parts, len }
    }

    /// Lets go of what is in the file.
    fn trim(&mut self) {
        let kept = if self.keeping.is_some() { KEPT as u64 } else { 0 };
        while let Some(first) = self.recent.front().map(|part| part.len() as u64)
            && self.start + first <= self.flushed
            && self.end - self.start - first >= kept
        {
            self.recent.pop_front();
            self.start += first;
        }
    }

    fn locate(&self, at: u64, max: usize) -> Located {
        if at < self.start {
            let Some(file) = &self.file else { return Located::Bytes(Bytes::new()) };
            let index = (at / CHUNK as u64) as usize;
            let start = index as u64 * CHUNK as u64;
            let len = ((self.flushed - start) as usize).min(CHUNK);
            let skip = (at - start) as usize;
            let sum = self.sums.get(index).copied().unwrap_or(0);
            return Located::File(ChunkRead { file: file.clone(), start, len, skip, most: max, sum });
        }
        let mut next = self.start;
        for part in &self.recent {
            let skip = (at - next) as usize;
            if skip < part.len() {
                // A slice: all who are here share the buffer.
                return Located::Bytes(part.slice(skip..part.len().min(skip.saturating_add(max))));
            }
            next += part.len() as u64;
        }
        let at = (at - next) as usize;
        Located::Bytes(match &self.tail {
            Tail::Growing(tail) => {
                Bytes::copy_from_slice(&tail[at.min(tail.len())..tail.len().min(at.saturating_add(max))])
            }
            Tail::Whole(bytes) => bytes.slice(at.min(bytes.len())..bytes.len().min(at.saturating_add(max))),
        })
    }
}

impl Fill {
    pub fn new(expected: Option<u64>, buffers: Arc<Buffers>, reservation: Arc<Mutex<Reservation>>) -> Fill {
        let capacity = expected.map_or(0, |len| usize::try_from(len).unwrap_or(COLLECTED).min(COLLECTED));
        let state = State {
            file: None,
            flushed: 0,
            sums: Vec::new(),
            recent: VecDeque::new(),
            start: 0,
            end: 0,
            keeping: None,
            writing: false,
            tail: Tail::Growing(Vec::new()),
            capacity,
        };
        Fill {
            state: Mutex::new(state),
            moved: Notify::new(),
            written: AtomicU64::new(0),
            buffers,
            _reservation: reservation,
        }
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Takes bytes. True: there is a piece to write, and nobody writes.
    pub fn append(&self, bytes: Bytes) -> bool {
        let mut state = self.state.lock();
        let len = bytes.len() as u64;
        if bytes.len() < WORTH_KEEPING {
            state.collect(bytes);
        } else {
            state.close_tail();
            state.push(bytes);
        }
        let written = self.written.fetch_add(len, Ordering::Release) + len;
        !state.writing && written - state.flushed >= WORTH_A_JOB
    }

    /// From here to `next` without a piece, or `stop`, somebody writes.
    pub fn begin(&self) {
        self.state.lock().writing = true;
    }

    /// The next piece to write: whole chunks. None: who wrote is done.
    pub fn next(&self) -> Option<Piece> {
        let mut state = self.state.lock();
        if self.written() - state.flushed >= CHUNK as u64 {
            state.close_tail();
        }
        let whole = (state.end - state.flushed) / CHUNK as u64 * CHUNK as u64;
        state.writing = whole > 0;
        state.writing.then(|| state.piece(whole.min(GO)))
    }

    /// All that is not in the file yet; nobody may be writing.
    pub fn last(&self) -> Piece {
        let mut state = self.state.lock();
        state.close_tail();
        state.piece(state.end - state.flushed)
    }

    /// Nobody writes any more, whatever is left.
    pub fn stop(&self) {
        self.state.lock().writing = false;
        self.moved.notify_one();
    }

    /// Waits until less than `bytes` are not in the file. False: there are, and nobody writes.
    pub async fn keeps_up(&self, bytes: u64) -> bool {
        loop {
            {
                let state = self.state.lock();
                if self.written() - state.flushed < bytes {
                    return true;
                }
                if !state.writing {
                    return false;
                }
            }
            self.moved.notified().await;
        }
    }

    /// A piece is in the file; `sums` are those of its chunks.
    pub fn landed(&self, file: &Arc<dyn Descriptor>, len: u64, sums: &[u64]) {
        let mut state = self.state.lock();
        state.file.get_or_insert_with(|| file.clone());
        state.flushed += len;
        state.sums.extend_from_slice(sums);
        if state.keeping.is_none() {
            state.keeping = self.buffers.lend(KEPT);
        }
        state.trim();
        drop(state);
        self.moved.notify_one();
    }

    /// Freezes a blob that never left memory.
    pub fn whole(&self) -> Bytes {
        let mut state = self.state.lock();
        if !state.recent.is_empty() {
            state.close_tail();
            state.end = state.start;
            state.tail = Tail::Growing(state.recent.drain(..).collect::<Vec<_>>().concat());
        }
        let bytes = match &mut state.tail {
            // Boxed: exactly as long as it is.
            Tail::Growing(tail) => Bytes::from(std::mem::take(tail).into_boxed_slice()),
            Tail::Whole(bytes) => bytes.clone(),
        };
        state.tail = Tail::Whole(bytes.clone());
        bytes
    }
}

/// A view of a fill for those who follow it. Goes on after the writer has sealed or failed.
#[derive(Clone)]
pub struct Partial {
    fill: Arc<Fill>,
}

impl Partial {
    pub(super) const fn new(fill: Arc<Fill>) -> Partial {
        Partial { fill }
    }

    /// Bytes that can be read so far. Never goes back.
    pub fn written(&self) -> u64 {
        self.fill.written()
    }

    /// Reads from `at` on, which must be below `written()`.
    ///
    /// *Shape*: 1 to `max` bytes: of what is in memory at most a buffer as upstream brought it, shared by all who read it;
    /// of the file at most 256 KiB, 128 KiB where many read. None at the end of what is written.
    /// *Errors*: `Corrupt` when the disk gave back other bytes than it got.
    /// *Cancel*: nothing is lost.
    pub async fn read(&self, at: u64, max: usize) -> Result<Bytes, StoreError> {
        let read = match self.fill.state.lock().locate(at, max) {
            Located::Bytes(bytes) => return Ok(bytes),
            Located::File(read) => read,
        };
        if let Some(bytes) = read.run(&self.fill.buffers, Mode::Now)? {
            return Ok(bytes);
        }
        let buffers = self.fill.buffers.clone();
        let task = tokio::task::spawn_blocking(move || read.run(&buffers, Mode::Wait));
        let bytes = task.await.map_err(|error| StoreError::lost("reading a fill", error))??;
        bytes.ok_or_else(broken)
    }

    /// Hashes the first `upto` bytes, which must have been written.
    ///
    /// *Errors*: as of `read`.
    pub async fn hash(&self, upto: u64, also: &[Algorithm]) -> Result<Hashes, StoreError> {
        let mut hashes = Hashes::new(also);
        let mut at = 0;
        while at < upto {
            let most = usize::try_from(upto - at).unwrap_or(BLOCK).min(BLOCK);
            let bytes = self.read(at, most).await?;
            if bytes.is_empty() {
                return Err(broken());
            }
            at += bytes.len() as u64;
            hashes.update(&bytes);
            tokio::task::yield_now().await;
        }
        Ok(hashes)
    }

    /// Holds all that was written against what was promised, where it could not be sealed.
    ///
    /// *Errors*: `Mismatch`, `Length`; else as of `read`.
    pub async fn check(&self, expect: &[Checksum], len: Option<u64>) -> Result<(), StoreError> {
        let found = self.written();
        if let Some(expected) = len.filter(|expected| *expected != found) {
            return Err(StoreError::Length { expected, found });
        }
        if expect.is_empty() {
            return Ok(());
        }
        let also: Vec<Algorithm> = expect.iter().map(Checksum::algorithm).collect();
        self.hash(found, &also).await?.check(expect)
    }
}

enum Located {
    Bytes(Bytes),
    File(ChunkRead),
}

/// A chunk in the temporary file, and what is wanted of it.
struct ChunkRead {
    file: Arc<dyn Descriptor>,
    start: u64,
    len: usize,
    skip: usize,
    most: usize,
    sum: u64,
}

impl ChunkRead {
    fn run(&self, buffers: &Arc<Buffers>, mode: Mode) -> Result<Option<Bytes>, StoreError> {
        let mut buffer = buffers.take(self.len);
        let got = read_exact(&*self.file, &mut [], buffer.as_mut(), self.start, mode);
        match got.map_err(StoreError::io("reading a fill"))? {
            Got::All => {}
            Got::NotNow => return Ok(None),
            Got::Short => return Err(broken()),
        }
        if xxh3_64(buffer.as_ref()) != self.sum {
            return Err(broken());
        }
        let wanted = self.skip..self.len.min(self.skip.saturating_add(self.most));
        if !buffers.is_crowded() {
            return Ok(Some(buffer.freeze().slice(wanted)));
        }
        let wanted = &buffer.as_ref()[wanted];
        let mut part = buffers.take(wanted.len().min(BLOCK));
        let len = part.as_ref().len();
        part.as_mut().copy_from_slice(&wanted[..len]);
        Ok(Some(part.freeze()))
    }
}

fn broken() -> StoreError {
    let source = io::Error::new(io::ErrorKind::InvalidData, "the temporary file does not hold what was written");
    StoreError::Io { doing: "reading a fill", source: Arc::new(source) }
}
