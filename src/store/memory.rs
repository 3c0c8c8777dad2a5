//! The memory tier: exact-size copies of small blobs. A slice would pin its whole buffer, so bytes are copied in;
//! moka's own `get_with` is not used, since it makes a caller lead the fill.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use moka::sync::Cache;

use crate::model::digest::Digest;

/// What an entry costs beside its bytes.
const OVERHEAD: u32 = 160;
/// Digests whose first read from disk is remembered.
const SEEN: usize = 64 * 1024;
/// Above this an insert evicts at once; moka would else let 64 of them wait.
const HEAVY: usize = 16 * 1024;

pub(super) struct Memory {
    cache: Cache<Digest, Bytes, DefaultHashBuilder>,
    max_blob: u64,
    seen: Box<[AtomicU32]>,
}

impl Memory {
    pub fn new(bytes: u64, max_blob: u64) -> Memory {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_: &Digest, bytes: &Bytes| {
                u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(OVERHEAD)
            })
            .build_with_hasher(DefaultHashBuilder::default());
        let seen = (0..SEEN).map(|_| AtomicU32::new(0)).collect();
        Memory { cache, max_blob: max_blob.min(bytes), seen }
    }

    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.cache.get(digest)
    }

    pub fn fits(&self, len: u64) -> bool {
        len <= self.max_blob
    }

    /// Keeps a copy, unless it is too large.
    pub fn remember(&self, digest: &Digest, bytes: &Bytes) {
        if self.fits(bytes.len() as u64) {
            self.keep(digest, Bytes::copy_from_slice(bytes));
        }
    }

    /// Keeps bytes that are nobody's slice.
    pub fn keep(&self, digest: &Digest, exact: Bytes) {
        let heavy = exact.len() > HEAVY;
        self.cache.insert(*digest, exact);
        if heavy {
            self.cache.run_pending_tasks();
        }
    }

    pub fn forget(&self, digest: &Digest) {
        self.cache.invalidate(digest);
    }

    /// Whether a blob read from disk should move here: the second time within the last few ten thousand reads, so
    /// that a scan costs no copies.
    pub fn deserves(&self, digest: &Digest, len: u64) -> bool {
        if !self.fits(len) {
            return false;
        }
        let bytes = digest.as_bytes();
        let slot = &self.seen[usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % SEEN];
        let mark = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) | 1;
        slot.swap(mark, Ordering::Relaxed) == mark
    }

    pub fn budget(&self) -> u64 {
        self.cache.policy().max_capacity().unwrap_or(0)
    }

    /// Bytes and blobs held, up to what moka has counted.
    pub fn usage(&self) -> (u64, u64) {
        (self.cache.weighted_size(), self.cache.entry_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_under_a_burst_of_large_blobs() {
        let memory = Memory::new(4 << 20, 1 << 20);
        for at in 0..100_u64 {
            let bytes = Bytes::from(vec![at as u8; 1 << 19]);
            memory.remember(&Digest::of(&at.to_le_bytes()), &bytes);
            assert!(memory.usage().0 <= 4 << 20);
        }
    }

    #[test]
    fn a_kept_slice_does_not_pin_its_buffer() {
        let memory = Memory::new(4 << 20, 1 << 20);
        let whole = Bytes::from(vec![1; 1 << 20]);
        let digest = Digest::of(b"part");
        memory.remember(&digest, &whole.slice(5..6));
        assert!(whole.is_unique());
        assert_eq!(memory.get(&digest).expect("kept").as_ref(), [1]);
    }

    #[test]
    fn too_large_is_not_kept() {
        let memory = Memory::new(4 << 20, 10);
        memory.remember(&Digest::of(b"a"), &Bytes::from_static(b"12345678901"));
        assert!(memory.get(&Digest::of(b"a")).is_none());
        assert!(!memory.deserves(&Digest::of(b"a"), 11));
    }

    #[test]
    fn the_second_read_deserves_memory() {
        let memory = Memory::new(4 << 20, 1 << 20);
        assert!(!memory.deserves(&Digest::of(b"a"), 5));
        assert!(memory.deserves(&Digest::of(b"a"), 5));
    }
}
