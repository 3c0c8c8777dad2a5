//! Buffers that go around: a safe read needs initialised memory, and zeroing 256 KiB for each read costs as much as
//! copying it. What was once written over needs no zeroing again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::layout::{BLOCK, CHUNK, PIECE};

/// Sizes that are kept, smallest first.
const SIZES: [usize; 4] = [64 * 1024, BLOCK, CHUNK, PIECE];
/// Bytes kept of each size: what a few dozen readers use at once.
const SHELF_BYTES: usize = 8 * 1024 * 1024;
/// Bytes that are lent at once for speed alone: a crowd of slow readers must not hold many.
const LENT: usize = 32 * 1024 * 1024;
/// Below this a fresh allocation is cheaper than a kept one, and does not pin a large one.
const TINY: usize = 4 * 1024;

/// Buffers that wait for use.
#[derive(Default)]
pub(super) struct Buffers {
    shelves: [Mutex<Vec<Vec<u8>>>; SIZES.len()],
    /// Bytes in buffers that are larger than a block, and beside buffers.
    lent: AtomicUsize,
}

impl Buffers {
    /// A buffer of exactly `len` bytes with anything in it.
    pub fn take(self: &Arc<Buffers>, len: usize) -> Buffer {
        let size = SIZES.into_iter().position(|size| len <= size && len > TINY);
        let bytes = match size {
            Some(at) => {
                let mut bytes = self.shelves[at].lock().pop().unwrap_or_default();
                bytes.resize(SIZES[at], 0);
                bytes
            }
            None => vec![0; len],
        };
        let lent = (bytes.len() > BLOCK).then(|| self.count(bytes.len()));
        Buffer { bytes, len, home: self.clone(), _lent: lent }
    }

    /// A buffer of `len` bytes; of one chunk when more was asked for and enough is lent.
    pub fn take_up_to(self: &Arc<Buffers>, len: usize) -> Buffer {
        self.take(if self.is_crowded() { len.min(CHUNK) } else { len })
    }

    /// Whether enough is lent, so that readers should be content with less.
    pub fn is_crowded(&self) -> bool {
        self.lent.load(Relaxed) >= LENT
    }

    /// Leave to hold `len` bytes beside the buffers, unless enough is lent.
    pub fn lend(self: &Arc<Buffers>, len: usize) -> Option<Lent> {
        (!self.is_crowded()).then(|| self.count(len))
    }

    fn count(self: &Arc<Buffers>, len: usize) -> Lent {
        self.lent.fetch_add(len, Relaxed);
        Lent { len, home: self.clone() }
    }

    fn put(&self, bytes: Vec<u8>) {
        let Some(at) = SIZES.into_iter().position(|size| size == bytes.capacity()) else { return };
        let mut shelf = self.shelves[at].lock();
        if shelf.len() < SHELF_BYTES / SIZES[at] {
            shelf.push(bytes);
        }
    }
}

/// A buffer that goes back when it is dropped, also as `Bytes`.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    home: Arc<Buffers>,
    _lent: Option<Lent>,
}

/// Bytes that somebody holds, until it is dropped.
pub(super) struct Lent {
    len: usize,
    home: Arc<Buffers>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.lent.fetch_sub(self.len, Relaxed);
    }
}

impl Buffer {
    pub fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let buffers = Arc::new(Buffers::default());
        let mut first = buffers.take(CHUNK);
        first.as_mut()[0] = 7;
        let bytes = first.freeze();
        let (at, part) = (bytes.as_ptr(), bytes.slice(10..20));
        drop(bytes);
        assert_ne!(buffers.take(CHUNK).as_ref().as_ptr(), at, "a slice still holds it");
        drop(part);
        let again = [buffers.take(CHUNK - 1), buffers.take(CHUNK - 1)];
        assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == at));
    }

    #[test]
    fn whole_pieces_are_lent_to_a_few_at_once() {
        let buffers = Arc::new(Buffers::default());
        let mut lent: Vec<Bytes> = (0..LENT / PIECE).map(|_| buffers.take_up_to(PIECE).freeze()).collect();
        assert!(lent.iter().all(|bytes| bytes.len() == PIECE));
        assert_eq!(buffers.take_up_to(PIECE).as_ref().len(), CHUNK);
        assert_eq!(buffers.take_up_to(7).as_ref().len(), 7);
        assert!(buffers.lend(1).is_none());
        lent.pop();
        assert_eq!(buffers.take_up_to(PIECE - 1).as_ref().len(), PIECE - 1);
        let kept = buffers.lend(PIECE).expect("there is room again");
        assert!(buffers.is_crowded());
        drop(kept);
        assert!(!buffers.is_crowded());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Arc::new(Buffers::default());
        drop((0..100).map(|_| buffers.take(CHUNK)).collect::<Vec<_>>());
        assert_eq!(buffers.shelves[2].lock().len(), SHELF_BYTES / CHUNK);
        assert_eq!(buffers.take(3 * CHUNK).as_ref().len(), 3 * CHUNK);
    }
}
