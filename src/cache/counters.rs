//! What the engine counts beside outcomes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since start.
#[derive(Default)]
pub struct Counters {
    overflows: AtomicU64,
    corrupt: AtomicU64,
    evicted_blobs: AtomicU64,
    evicted_bytes: AtomicU64,
    scrubbed: AtomicU64,
    notes_dropped: AtomicU64,
}

/// A reading of the counters.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Counted {
    /// Fills that went on without storage.
    pub overflows: u64,
    /// Blobs whose bytes did not match and were set aside.
    pub corrupt: u64,
    pub evicted_blobs: u64,
    pub evicted_bytes: u64,
    /// Blobs re-hashed.
    pub scrubbed: u64,
    /// Lines of build records that did not fit the queue.
    pub notes_dropped: u64,
}

impl Counters {
    pub(super) fn overflowed(&self) {
        self.overflows.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn corrupted(&self) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn evicted(&self, bytes: u64) {
        self.evicted_blobs.fetch_add(1, Ordering::Relaxed);
        self.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn scrubbed(&self) {
        self.scrubbed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_dropped(&self) {
        self.notes_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            overflows: read(&self.overflows),
            corrupt: read(&self.corrupt),
            evicted_blobs: read(&self.evicted_blobs),
            evicted_bytes: read(&self.evicted_bytes),
            scrubbed: read(&self.scrubbed),
            notes_dropped: read(&self.notes_dropped),
        }
    }
}
