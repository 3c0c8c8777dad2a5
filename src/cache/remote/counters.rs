//! What the engine counts of the bucket, beside the requests that the bucket counts itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since start.
#[derive(Default)]
pub struct Counters {
    packs: AtomicU64,
    objects: AtomicU64,
    uploaded_blobs: AtomicU64,
    uploaded_bytes: AtomicU64,
    failed_uploads: AtomicU64,
    copied_blobs: AtomicU64,
    copied_bytes: AtomicU64,
    relayed: AtomicU64,
    failed_reads: AtomicU64,
    lost: AtomicU64,
}

/// A reading of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// Packs stored.
    pub packs: u64,
    /// Objects of one blob stored.
    pub objects: u64,
    pub uploaded_blobs: u64,
    pub uploaded_bytes: u64,
    /// Packs and objects that could not be stored; they are tried again.
    pub failed_uploads: u64,
    /// Blobs that came from the bucket and are kept here since.
    pub copied_blobs: u64,
    pub copied_bytes: u64,
    /// Answers straight from the bucket, kept nowhere here.
    pub relayed: u64,
    /// Reads that the bucket did not answer.
    pub failed_reads: u64,
    /// Blobs that were gone from the bucket, or damaged there.
    pub lost: u64,
}

impl Counters {
    pub(super) fn uploaded_pack(&self, blobs: u64, bytes: u64) {
        self.packs.fetch_add(1, Ordering::Relaxed);
        self.uploaded(blobs, bytes);
    }

    pub(super) fn uploaded_object(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.uploaded(1, bytes);
    }

    fn uploaded(&self, blobs: u64, bytes: u64) {
        self.uploaded_blobs.fetch_add(blobs, Ordering::Relaxed);
        self.uploaded_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn failed_upload(&self) {
        self.failed_uploads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn copied(&self, bytes: u64) {
        self.copied_blobs.fetch_add(1, Ordering::Relaxed);
        self.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn relayed(&self) {
        self.relayed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed_read(&self) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            packs: read(&self.packs),
            objects: read(&self.objects),
            uploaded_blobs: read(&self.uploaded_blobs),
            uploaded_bytes: read(&self.uploaded_bytes),
            failed_uploads: read(&self.failed_uploads),
            copied_blobs: read(&self.copied_blobs),
            copied_bytes: read(&self.copied_bytes),
            relayed: read(&self.relayed),
            failed_reads: read(&self.failed_reads),
            lost: read(&self.lost),
        }
    }
}
