//! Bytes on their way in, shared by the writer and all who follow it. The latest are in memory, what came before is
//! in a temporary file; nothing that was readable once is taken back, whatever happens to the writer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::budget::Reservation;
use super::buffers::Buffers;
use super::error::StoreError;
use super::files::{Descriptor, Got, Mode, read_exact};
use super::hashes::Hashes;
use super::layout::{BLOCK, CHUNK};
use super::sum::xxh3_64;
use crate::model::checksum::{Algorithm, Checksum};

pub(super) struct Fill {
    state: Mutex<State>,
    /// A place in the line of pieces may be free, or nobody writes any more.
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
    /// xxh3 of each block of them.
    blocks: Vec<u64>,
    /// What is being written to the file, right behind what was.
    in_flight: Option<Bytes>,
    /// What comes next: who writes takes it without being woken.
    in_line: Option<Bytes>,
    /// Somebody writes pieces, and looks for another after each.
    writing: bool,
    tail: Tail,
}

enum Tail {
    Growing(Vec<u8>),
    /// The whole blob, sealed.
    Whole(Bytes),
}

impl State {
    fn collected(&mut self) -> Bytes {
        let Tail::Growing(tail) = &mut self.tail else { return Bytes::new() };
        let next = if tail.len() == CHUNK { Vec::with_capacity(CHUNK) } else { Vec::new() };
        Bytes::from(std::mem::replace(tail, next))
    }
}

impl Fill {
    pub fn new(expected: Option<u64>, buffers: Arc<Buffers>, reservation: Arc<Mutex<Reservation>>) -> Fill {
        let first = expected.map_or(0, |len| usize::try_from(len).unwrap_or(CHUNK).min(CHUNK));
        let tail = Tail::Growing(Vec::with_capacity(first));
        let state =
            State { file: None, flushed: 0, blocks: Vec::new(), in_flight: None, in_line: None, writing: false, tail };
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

    /// Takes as much as there is room for before the next flush; returns how much, and whether a piece is full.
    pub fn append(&self, bytes: &[u8]) -> (usize, bool) {
        let mut state = self.state.lock();
        let Tail::Growing(tail) = &mut state.tail else { return (0, false) };
        let taken = bytes.len().min(CHUNK - tail.len());
        tail.extend_from_slice(&bytes[..taken]);
        let full = tail.len() == CHUNK;
        self.written.fetch_add(taken as u64, Ordering::Release);
        (taken, full)
    }

    /// Puts what was collected in flight, for who is to write it. Nobody may be writing.
    pub fn launch(&self) -> Bytes {
        let mut state = self.state.lock();
        let piece = state.collected();
        state.in_flight = Some(piece.clone());
        state.writing = true;
        piece
    }

    /// Puts what was collected in line behind what is being written. False: nobody writes, or another piece waits.
    pub fn line_up(&self) -> bool {
        let mut state = self.state.lock();
        let fits = state.writing && state.in_line.is_none();
        if fits {
            state.in_line = Some(state.collected());
        }
        fits
    }

    /// The next piece to write. None: who wrote is done.
    pub fn next(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        state.in_flight = state.in_line.take();
        state.writing = state.in_flight.is_some();
        let next = state.in_flight.clone();
        drop(state);
        self.moved.notify_one();
        next
    }

    /// Nobody writes any more, whatever is left.
    pub fn stop(&self) {
        self.state.lock().writing = false;
        self.moved.notify_one();
    }

    /// Waits until a piece in line may have moved up. False: nobody writes.
    pub async fn moved(&self) -> bool {
        let writing = self.state.lock().writing;
        if writing {
            self.moved.notified().await;
        }
        writing
    }

    /// What was in flight is in the file.
    pub fn landed(&self, file: &Arc<dyn Descriptor>, piece: &[u8], blocks: impl Iterator<Item = u64>) {
        let mut state = self.state.lock();
        state.file.get_or_insert_with(|| file.clone());
        state.flushed += piece.len() as u64;
        state.blocks.extend(blocks);
        state.in_flight = None;
    }

    /// Freezes a blob that never left memory.
    pub fn whole(&self) -> Bytes {
        let mut state = self.state.lock();
        let bytes = match &mut state.tail {
            // Boxed: exactly as long as it is.
            Tail::Growing(tail) => Bytes::from(std::mem::take(tail).into_boxed_slice()),
            Tail::Whole(bytes) => bytes.clone(),
        };
        state.tail = Tail::Whole(bytes.clone());
        bytes
    }

    fn locate(&self, at: u64, max: usize) -> Located {
        let state = self.state.lock();
        if at < state.flushed {
            let Some(file) = &state.file else { return Located::Bytes(Bytes::new()) };
            let index = (at / BLOCK as u64) as usize;
            let start = index as u64 * BLOCK as u64;
            let len = ((state.flushed - start) as usize).min(BLOCK);
            let skip = (at - start) as usize;
            let take = max.min(len - skip);
            let sum = state.blocks.get(index).copied().unwrap_or(0);
            return Located::File(BlockRead { file: file.clone(), start, len, skip, take, sum });
        }
        let at = (at - state.flushed) as usize;
        let flying = state.in_flight.as_ref().map_or(0, Bytes::len);
        if let Some(piece) = state.in_flight.as_ref().filter(|_| at < flying) {
            // A slice: all who are here share the piece, and a follower that sits on it holds no more than one.
            return Located::Bytes(piece.slice(at..flying.min(at.saturating_add(max))));
        }
        let at = at - flying;
        let waiting = state.in_line.as_ref().map_or(0, Bytes::len);
        if let Some(piece) = state.in_line.as_ref().filter(|_| at < waiting) {
            return Located::Bytes(piece.slice(at..waiting.min(at.saturating_add(max))));
        }
        let (at, max) = (at - waiting, max.min(BLOCK));
        Located::Bytes(match &state.tail {
            Tail::Growing(tail) => {
                Bytes::copy_from_slice(&tail[at.min(tail.len())..tail.len().min(at.saturating_add(max))])
            }
            Tail::Whole(bytes) => bytes.slice(at.min(bytes.len())..bytes.len().min(at.saturating_add(max))),
        })
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
    /// *Shape*: 1 to min(`max`, 256 KiB) bytes, 128 KiB where they must be copied; none at the end of what is written.
    /// *Errors*: `Corrupt` when the disk gave back other bytes than it got.
    /// *Cancel*: nothing is lost.
    pub async fn read(&self, at: u64, max: usize) -> Result<Bytes, StoreError> {
        let read = match self.fill.locate(at, max) {
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
    File(BlockRead),
}

/// A block in the temporary file, and the part of it that is wanted.
struct BlockRead {
    file: Arc<dyn Descriptor>,
    start: u64,
    len: usize,
    skip: usize,
    take: usize,
    sum: u64,
}

impl BlockRead {
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
        Ok(Some(buffer.freeze().slice(self.skip..self.skip + self.take)))
    }
}

fn broken() -> StoreError {
    let source = io::Error::new(io::ErrorKind::InvalidData, "the temporary file does not hold what was written");
    StoreError::Io { doing: "reading a fill", source: Arc::new(source) }
}
