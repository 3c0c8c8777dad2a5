//! What the index's threads and callers share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use rusqlite::Connection;
use tokio::sync::watch;

use super::catalog::Catalog;
use super::lock::DirectoryLock;
use super::outbox::Outbox;
use super::recent::Recent;
use super::sqlite::pool::Readers;
use super::table::{Blob, Minutes, Table};
use super::writer::queue::Queue;
use super::{Bounded, IndexUse, Settings};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::{Digest, Prefix};
use crate::model::key::KeyHash;
use crate::model::place::Place;
use crate::model::realm::Realm;
use crate::model::time::Timestamp;
use crate::runtime::clock::Clock;

/// Changes remembered while the table loads; more make it partial.
const LATE_MAX: usize = 1 << 20;

/// The fact that tells until when promises may run: milliseconds since 1970, eight bytes, little-endian.
pub(super) const PROMISED: &str = "leases.promised";

/// The parts of the index.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    /// When it opened, by the clock that never goes back, and by the wall.
    pub(super) started: Duration,
    pub(super) opened: Timestamp,
    /// Whether promises made before this start may still run.
    pub(super) inherited: bool,
    /// Until when promises may run, as far as it is written down.
    pub(super) promised: Mutex<Timestamp>,
    pub(super) table: Table,
    pub(super) recent: Recent,
    pub(super) queue: Queue,
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) places: Places,
    /// Held while a change becomes visible: the order here is the order of commits.
    pub(super) order: Mutex<Order>,
    /// Full digests behind SHA-256 sums: the table keeps prefixes alone.
    pub(super) names: Cache<Prefix, ([u8; 32], Digest)>,
    pub(super) unseated: Unseated,
    pub(super) loaded: watch::Sender<bool>,
    pub(super) stopping: AtomicBool,
    pub(super) facts: RwLock<BTreeMap<String, Bytes>>,
    pub(super) outbox: Outbox,
    /// Names of objects of the bucket.
    pub(super) objects: Cache<u32, Arc<str>>,
    /// Places that lost their row to another: their bytes may go.
    pub(super) superseded: Bounded<(Digest, Place)>,
    pub(super) gauges: Gauges,
    pub(super) lock: Mutex<Option<DirectoryLock>>,
}

/// `places.sqlite`.
pub(super) struct Places {
    pub(super) writing: Mutex<Connection>,
    pub(super) readers: Arc<Readers>,
}

/// Counters for `counts`.
#[derive(Default)]
pub(super) struct Gauges {
    pub(super) commits: AtomicU64,
    pub(super) jobs: AtomicU64,
    pub(super) condemned: AtomicU64,
    /// Records among them that nobody awaited.
    pub(super) taken_back: AtomicU64,
    pub(super) sql_reads: AtomicU64,
}

/// What the order lock guards.
pub(super) struct Order {
    /// The number last given out.
    pub(super) seq: u64,
    /// None once the table is loaded.
    pub(super) loading: Option<Late>,
}

/// Changes made while the loader reads an older state of the databases.
#[derive(Default)]
pub(super) struct Late {
    pub(super) dropped: HashSet<(Prefix, Place)>,
    /// Blobs that may have lost their readers: those that were read of them, or named before, are not theirs any more.
    pub(super) bereft: HashSet<Prefix>,
    pub(super) keys: HashSet<KeyHash>,
    pub(super) edges: Vec<(Prefix, Realm)>,
    /// SHA-256 sums by digest.
    pub(super) sums: Vec<(Prefix, Prefix)>,
    /// Blobs that came to be remote, or remote elsewhere.
    pub(super) remote: Vec<Blob>,
}

impl Core {
    /// Now, as use and leases count it: the wall clock when the index opened and the steady clock since, so that a
    /// wall clock that jumps ends no lease.
    pub(super) fn minutes(&self) -> Minutes {
        Minutes::of(self.opened.plus(self.clock.elapsed().saturating_sub(self.started)))
    }

    /// True when what the table does not find is not there.
    pub(super) fn is_complete(&self) -> bool {
        *self.loaded.borrow() && !self.table.is_partial()
    }

    /// After a start everything counts as leased for one period, since promises are kept in memory alone; but only
    /// where some may still run.
    pub(super) fn all_leased(&self) -> bool {
        self.inherited && self.clock.elapsed().saturating_sub(self.started) < self.settings.lease_period
    }

    pub(super) fn remember_name(&self, sum: &Checksum, digest: &Digest) {
        if sum.algorithm() == Algorithm::Sha256
            && let Ok(bytes) = sum.as_bytes().try_into()
        {
            self.names.insert(sum.prefix(), (bytes, *digest));
        }
    }

    pub(super) fn name_of(&self, sum: &Checksum) -> Option<Digest> {
        let (bytes, digest) = self.names.get(&sum.prefix())?;
        (sum.algorithm() == Algorithm::Sha256 && bytes == sum.as_bytes()).then_some(digest)
    }

    /// Closes what holds the data directory.
    pub(super) fn release(&self) {
        self.places.readers.close();
        self.catalog.close();
        self.lock.lock().take();
    }

    pub(super) fn counts(&self) -> IndexUse {
        IndexUse {
            blobs: self.table.blobs(),
            keys: self.table.keys(),
            table_bytes: self.table.bytes(),
            table_max_bytes: self.settings.table_max_bytes,
            loaded: *self.loaded.borrow(),
            partial: self.table.is_partial(),
            cached_entries: self.recent.len(),
            cached_entry_bytes: self.recent.bytes(),
            queued: self.queue.len(),
            queued_bytes: self.queue.bytes(),
            commits: self.gauges.commits.load(Ordering::Relaxed),
            committed_jobs: self.gauges.jobs.load(Ordering::Relaxed),
            condemned_jobs: self.gauges.condemned.load(Ordering::Relaxed),
            sql_reads: self.gauges.sql_reads.load(Ordering::Relaxed),
        }
    }
}

impl Order {
    /// Remembers that a place was dropped or left, so that the loader does not bring it back.
    pub(super) fn note_dropped(&mut self, table: &Table, digest: &Digest, place: &Place) {
        if let Some(late) = self.late(table) {
            late.dropped.insert((digest.prefix(), *place));
        }
    }

    /// Remembers that a blob has lost its readers, unless it turns out that it has not.
    pub(super) fn note_bereft(&mut self, table: &Table, digest: &Digest) {
        if let Some(late) = self.late(table) {
            late.bereft.insert(digest.prefix());
        }
    }

    pub(super) fn is_bereft(&self, digest: &Prefix) -> bool {
        self.loading.as_ref().is_some_and(|late| late.bereft.contains(digest))
    }

    pub(super) fn has_dropped(&self, digest: &Digest, place: &Place) -> bool {
        self.loading.as_ref().is_some_and(|late| late.dropped.contains(&(digest.prefix(), *place)))
    }

    pub(super) fn has_changed(&self, key: &KeyHash) -> bool {
        self.loading.as_ref().is_some_and(|late| late.keys.contains(key))
    }

    /// Remembers that a key is not what the loader will read of it.
    pub(super) fn note_key(&mut self, table: &Table, key: &KeyHash) {
        if let Some(late) = self.late(table) {
            late.keys.insert(*key);
        }
    }

    /// Remembers an edge for a blob that the loader may bring only later.
    pub(super) fn note_edge(&mut self, table: &Table, digest: &Digest, realm: &Realm) {
        if let Some(late) = self.late(table) {
            late.edges.push((digest.prefix(), realm.clone()));
        }
    }

    /// Remembers a SHA-256 learned of a blob that the loader may bring only later.
    pub(super) fn note_sum(&mut self, table: &Table, digest: &Digest, sum: &Checksum) {
        if let Some(late) = self.late(table) {
            late.sums.push((digest.prefix(), sum.prefix()));
        }
    }

    /// Remembers where the bucket has a blob that the loader may still bring, from here or from elsewhere. False: there is
    /// no loader.
    pub(super) fn note_remote(&mut self, table: &Table, blob: &Blob) -> bool {
        if let Some(late) = self.late(table) {
            late.dropped.remove(&(blob.digest, blob.place));
            late.remote.push(*blob);
        }
        self.loading.is_some()
    }

    fn late(&mut self, table: &Table) -> Option<&mut Late> {
        let late = self.loading.as_mut()?;
        let blobs = late.dropped.len() + late.bereft.len() + late.remote.len();
        if blobs + late.keys.len() + late.edges.len() + late.sums.len() < LATE_MAX {
            return Some(late);
        }
        table.set_partial();
        None
    }
}

/// Places that the full table refused and that are not yet committed: SQL does not know them either.
#[derive(Default)]
pub(super) struct Unseated {
    places: Mutex<HashMap<Digest, Place>>,
    len: AtomicUsize,
}

impl Unseated {
    pub(super) fn insert(&self, digest: Digest, place: Place) {
        let mut places = self.places.lock();
        places.insert(digest, place);
        self.len.store(places.len(), Ordering::Release);
    }

    pub(super) fn remove_if(&self, digest: &Digest, place: &Place) {
        let mut places = self.places.lock();
        if places.get(digest) == Some(place) {
            places.remove(digest);
            self.len.store(places.len(), Ordering::Release);
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Place> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.places.lock().get(digest).copied()
    }
}
