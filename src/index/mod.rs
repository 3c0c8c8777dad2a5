//! What exists and where: places, catalog, use. Opens no blob files.
//!
//! Two databases hold the truth (`places.sqlite`: digest to place; `catalog.sqlite`: keys and all that hangs on them),
//! a compact table and a bounded cache of entries in memory answer nearly everything. One writer thread syncs bytes,
//! commits places, then commits keys, in that order; a crash in between leaves at worst bytes that nobody names.
//! Answers are three-valued: *unknown* (still loading, over the table's bound) is never told as *absent*.

pub mod catalog;
pub mod error;
pub mod evict;
pub mod ledger;
pub mod record;
pub mod sqlite;
pub mod table;
pub mod usage;

mod ask;
mod codec;
mod core;
mod facts;
mod format;
mod load;
pub mod lock;
pub mod open;
pub mod outbox;
mod recent;
pub mod records;
pub mod remote;
mod writer;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod evict_test;
#[cfg(test)]
mod index_test;
#[cfg(test)]
mod load_test;
#[cfg(test)]
mod outbox_test;
#[cfg(test)]
mod records_test;
#[cfg(test)]
mod remote_test;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::core::Core;
use self::error::IndexError;
use self::open::Threads;
use self::writer::queue::Work;
use crate::model::units;

/// What an operator may choose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Bound of the table in memory: about 90 bytes for each blob with its SHA-256 and a key. Beyond it, SQL answers.
    #[serde(with = "units::bytes")]
    pub table_max_bytes: u64,
    /// Bound of the cache of entries.
    #[serde(with = "units::bytes")]
    pub entry_cache_bytes: u64,
    /// Bound of what waits to be committed; askers wait when it is reached.
    #[serde(with = "units::bytes")]
    pub queue_bytes: u64,
    /// Rows that nobody awaits are committed once there are so many of them…
    pub commit_rows: usize,
    /// …or the first has waited so long.
    #[serde(with = "units::duration")]
    pub commit_delay: Duration,
    /// Connections that read each database.
    pub readers: usize,
    /// Answers kept of one key that `Vary` tells apart.
    pub variants_max: usize,
    /// How long a promise not to evict holds. After a start everything counts as promised for one period, if promises
    /// made before it may still run.
    #[serde(with = "units::duration")]
    pub lease_period: Duration,
    /// Use times are written to disk so seldom.
    #[serde(with = "units::duration")]
    pub use_flush: Duration,
    /// Commits that the feed of changes reaches back.
    pub feed_max: u64,
    /// Builds whose record is kept, lines of each, and for how long.
    pub builds_max: u64,
    pub lines_max: u64,
    #[serde(with = "units::duration")]
    pub keep_records: Duration,
    /// What may wait to be remote; None: there is no bucket. Whoever opens the index knows.
    #[serde(skip)]
    pub outbox_max_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            table_max_bytes: 1 << 30,
            entry_cache_bytes: 64 << 20,
            queue_bytes: 16 << 20,
            commit_rows: 1000,
            commit_delay: Duration::from_millis(20),
            readers: 4,
            variants_max: 16,
            lease_period: Duration::from_secs(3600),
            use_flush: Duration::from_secs(12 * 3600),
            feed_max: 100_000,
            builds_max: 1000,
            lines_max: 100_000,
            keep_records: Duration::from_secs(90 * 24 * 3600),
            outbox_max_bytes: None,
        }
    }
}

/// What the memory can say. `Unknown` is neither: ask the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence<T> {
    Present(T),
    Absent,
    Unknown,
}

/// When a change counts as made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// In the table and the cache of entries; a power cut may still lose it.
    Visible,
    /// Bytes synced, places and keys committed.
    Durable,
}

/// The index. Cheap to clone.
///
/// Dropping the last clone ends its threads after they have committed what was queued; `close` also saves use times
/// and frees the data directory for a successor at once.
#[derive(Clone)]
pub struct Index {
    core: Arc<Core>,
    threads: Arc<Threads>,
}

/// The index in numbers, for metrics and the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexUse {
    pub blobs: u64,
    /// Keys that the table knows.
    pub keys: u64,
    pub table_bytes: u64,
    pub table_max_bytes: u64,
    /// True once the table holds what the databases hold.
    pub loaded: bool,
    /// True when something did not fit the table: absence is then asked of SQL.
    pub partial: bool,
    pub cached_entries: u64,
    pub cached_entry_bytes: u64,
    /// Jobs that wait to be committed, and the bytes they hold.
    pub queued: u64,
    pub queued_bytes: u64,
    pub commits: u64,
    pub committed_jobs: u64,
    /// Jobs whose bytes could not be synced or whose rows could not be committed.
    pub condemned_jobs: u64,
    pub sql_reads: u64,
}

impl Index {
    /// The index in numbers.
    pub fn counts(&self) -> IndexUse {
        self.core.counts()
    }

    /// Resolves once the table holds what the databases hold; never, when they cannot be read.
    ///
    /// *Cancel*: nothing is lost.
    pub async fn loaded(&self) {
        let mut loaded = self.core.loaded.subscribe();
        // The sender lives in the core that `self` holds.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }

    /// How many records that nobody awaited were taken back since this was asked last: their bytes or rows could not be made
    /// durable.
    pub fn taken_back(&self) -> u64 {
        self.core.gauges.taken_back.swap(0, std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits until everything recorded so far is durable. Reports no failures: those went to who asked for them, else
    /// `taken_back` counts them.
    pub async fn flush(&self) -> Result<(), IndexError> {
        let room = self.core.queue.room(0).await?;
        self.core.queue.ask(Work::Barrier, room).await.map(drop)
    }

    /// Commits what is queued, saves use times and frees the data directory. What is asked later is `Closed`.
    pub async fn close(&self) {
        let (core, threads) = (self.core.clone(), self.threads.clone());
        core.queue.save_uses_at_end();
        // It fails only when the runtime goes down at once, and then dropping the threads does the same.
        let _ = tokio::task::spawn_blocking(move || {
            threads.end(&core);
            core.release();
        })
        .await;
    }
}

/// A bounded list that drops its oldest when full: what is lost from it costs space on disk, never truth.
struct Bounded<T> {
    items: Mutex<std::collections::VecDeque<T>>,
    max: usize,
}

impl<T> Bounded<T> {
    fn new(max: usize) -> Bounded<T> {
        Bounded { items: Mutex::new(std::collections::VecDeque::new()), max }
    }

    /// False when an older one was dropped for it.
    fn push(&self, item: T) -> bool {
        let mut items = self.items.lock();
        items.push_back(item);
        if items.len() <= self.max {
            return true;
        }
        items.pop_front();
        false
    }

    fn take(&self) -> Vec<T> {
        self.items.lock().drain(..).collect()
    }
}
