//! What waits to be remote: committed blobs that no object of the bucket holds yet. Durable, and bounded in bytes.
//!
//! A row is written in the same transaction as the blob's place and goes with it, or once the catalog says where the
//! bucket has the blob. What finds the outbox full is shed: it stays here as if there were no bucket. Numbers are kept in memory,
//! so that no gauge asks SQL.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::Index;
use super::error::IndexError;
use super::sqlite::outbox;
use super::writer::queue::Work;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::model::time::Timestamp;

/// No blob waits.
const NEVER: i64 = i64::MAX;

/// A committed blob that waits to be remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub digest: Digest,
    pub place: Place,
    pub class: Class,
    pub since: Timestamp,
}

/// The outbox in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxUse {
    pub blobs: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    /// Since when the longest waiting waits.
    pub oldest: Option<Timestamp>,
    /// Blobs that found it full since the start, and stay here alone.
    pub shed: u64,
}

/// The numbers, and who waits for more.
pub(super) struct Outbox {
    /// None: there is no bucket. Nothing is queued, but rows of another time still go with their blobs.
    max_bytes: Option<u64>,
    /// Whether there is a row, or may be one.
    in_use: bool,
    /// Below zero for a moment, while rows of earlier runs are still to be counted.
    blobs: AtomicI64,
    bytes: AtomicI64,
    oldest: AtomicI64,
    shed: AtomicU64,
    filled: Notify,
}

/// What a transaction changes: counted once it stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) blobs: i64,
    pub(super) bytes: i64,
    pub(super) queued: u64,
    pub(super) shed: u64,
    /// Since when the longest waiting waits from now on, where that was asked.
    pub(super) oldest: Option<Option<Timestamp>>,
}

impl Outbox {
    pub(super) fn new(max_bytes: Option<u64>, oldest: Option<Timestamp>) -> Outbox {
        let filled = Notify::new();
        if max_bytes.is_some() && oldest.is_some() {
            filled.notify_one();
        }
        Outbox {
            max_bytes,
            in_use: max_bytes.is_some() || oldest.is_some(),
            blobs: AtomicI64::new(0),
            bytes: AtomicI64::new(0),
            oldest: AtomicI64::new(oldest.map_or(NEVER, |oldest| oldest.0)),
            shed: AtomicU64::new(0),
            filled,
        }
    }

    /// Whether there is a bucket.
    pub(super) fn is_open(&self) -> bool {
        self.max_bytes.is_some()
    }

    /// Whether a row may have to go with its blob.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Whether `len` more fit beside what a transaction has queued already.
    pub(super) fn has_room(&self, moved: &Moved, len: u64) -> bool {
        let held = self.bytes.load(Ordering::Relaxed).saturating_add(moved.bytes);
        let held = u64::try_from(held).unwrap_or(0);
        self.max_bytes.is_some_and(|max| held.saturating_add(len) <= max)
    }

    /// Counts what a transaction has changed.
    pub(super) fn count(&self, moved: &Moved) {
        self.blobs.fetch_add(moved.blobs, Ordering::Relaxed);
        self.bytes.fetch_add(moved.bytes, Ordering::Relaxed);
        self.shed.fetch_add(moved.shed, Ordering::Relaxed);
        if let Some(oldest) = moved.oldest {
            self.oldest.store(oldest.map_or(NEVER, |oldest| oldest.0), Ordering::Relaxed);
        }
        if moved.queued > 0 {
            self.filled.notify_one();
        }
    }

    fn numbers(&self) -> OutboxUse {
        let count = |number: &AtomicI64| u64::try_from(number.load(Ordering::Relaxed)).unwrap_or(0);
        let oldest = self.oldest.load(Ordering::Relaxed);
        OutboxUse {
            blobs: count(&self.blobs),
            bytes: count(&self.bytes),
            max_bytes: self.max_bytes.unwrap_or(0),
            oldest: (oldest != NEVER).then_some(Timestamp(oldest)),
            shed: self.shed.load(Ordering::Relaxed),
        }
    }
}

impl Index {
    /// Committed blobs that wait to be remote, the longest waiting first, at most `limit`.
    pub async fn waiting(&self, limit: usize) -> Result<Vec<Waiting>, IndexError> {
        if !self.core.outbox.is_open() {
            return Ok(Vec::new());
        }
        self.count_read();
        self.core.places.readers.read(move |connection| outbox::waiting(connection, limit)).await
    }

    /// Takes blobs out of the outbox unsent: their bytes are gone, or damaged. Durable on return.
    pub async fn not_uploaded(&self, digests: Vec<Digest>) -> Result<(), IndexError> {
        let room = self.core.queue.room(digests.len() * 32).await?;
        self.core.queue.ask(Work::Unqueue(digests), room).await.map(drop)
    }

    /// Which of `digests` wait to be remote: such blobs are not evicted.
    pub async fn outboxed(&self, digests: &[Digest]) -> Result<Vec<bool>, IndexError> {
        if !self.core.outbox.is_open() {
            return Ok(vec![false; digests.len()]);
        }
        let digests = digests.to_vec();
        self.count_read();
        self.core.places.readers.read(move |connection| outbox::holds(connection, &digests)).await
    }

    /// The outbox in numbers, from memory.
    pub fn outbox(&self) -> OutboxUse {
        self.core.outbox.numbers()
    }

    /// Resolves once something was queued since this resolved last, or before the start. For one asker: the uploader.
    ///
    /// *Cancel*: what was queued meanwhile is told the next time.
    pub async fn outbox_filled(&self) {
        self.core.outbox.filled.notified().await;
    }
}
