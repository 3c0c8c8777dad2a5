//! Opening and ending: the lock, the format, the databases, then the writer's and the loader's thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use tokio::sync::watch;

use super::catalog::{Keep, Opened};
use super::core::{Core, Gauges, Late, Order, PROMISED, Places, Unseated};
use super::error::IndexError;
use super::load::{self, Snapshot};
use super::lock::{DirectoryLock, cannot};
use super::outbox::Outbox;
use super::recent::Recent;
use super::sqlite::catalog::SqliteCatalog;
use super::sqlite::pool::{self, Readers};
use super::sqlite::{outbox, schema};
use super::table::Table;
use super::writer::Writer;
use super::writer::queue::Queue;
use super::{Bounded, Index, Settings, format, remote};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::model::time::Timestamp;
use crate::runtime::clock::Clock;

/// Told of every place that was committed before this start, once, by the loader's thread: the store counts its use
/// from it. Places recorded after the start are not among them, places dropped since are.
pub type OnPlace = Box<dyn FnMut(&Digest, &Place, Class) + Send>;

/// Superseded places kept for who removes their bytes.
const SUPERSEDED_MAX: usize = 65_536;
/// Digests remembered behind SHA-256 sums.
const NAMES: usize = 65_536;

/// The threads, ended when the last handle goes.
pub(super) struct Threads {
    core: Arc<Core>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Index {
    /// Whether this version can read what is in `dir`, who owns it or not. Changes nothing.
    ///
    /// *Errors*: `Newer` when a newer larder wrote it.
    pub fn check(dir: &Path) -> Result<(), IndexError> {
        format::written(dir)?;
        for (name, migrations) in [("places.sqlite", schema::PLACES), ("catalog.sqlite", schema::CATALOG)] {
            pool::check(&dir.join(name), migrations)?;
        }
        Ok(())
    }

    /// Opens the index in `dir`, making it when it is not there. Reads no more than a page or two: the table loads in
    /// the background, and until it has, what it does not find is `Unknown`.
    ///
    /// *Errors*: `Locked` while another process owns the directory; `Newer` when a newer larder wrote it.
    pub fn open(
        dir: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        on_place: OnPlace,
    ) -> Result<Index, IndexError> {
        Index::open_owned(dir, settings, clock, on_place, DirectoryLock::take(dir)?)
    }

    /// Like `open`, for who holds the directory's lock already, since other things in it were opened before.
    pub fn open_owned(
        dir: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        mut on_place: OnPlace,
        lock: DirectoryLock,
    ) -> Result<Index, IndexError> {
        let found = format::read(dir)?;
        let places_path = dir.join("places.sqlite");
        let catalog_path = dir.join("catalog.sqlite");
        let writing = pool::open_writer(&places_path, schema::PLACES)?;
        let outbox = Outbox::new(settings.outbox_max_bytes, outbox::oldest(&writing)?);
        let places =
            Places { writing: Mutex::new(writing), readers: Readers::new(places_path.clone(), settings.readers) };
        let keep = Keep { variants: settings.variants_max.max(1), feed: settings.feed_max };
        let mut opened = SqliteCatalog::open_whole(&catalog_path, settings.readers, keep)?;
        let snapshot = Snapshot::take(&places_path, opened.names.take())?;
        let core = Arc::new(assemble(settings, clock, lock, (places, outbox), opened, snapshot.is_some()));
        let threads = Arc::new(Threads { core: core.clone(), handles: Mutex::default() });
        let writer = Writer::new(core.clone());
        threads.start("index-writer", move || writer.run())?;
        let (loading, dir) = (core.clone(), dir.to_owned());
        threads.start("index-loader", move || {
            if let Some(snapshot) = snapshot {
                load::load(&loading, snapshot, &mut on_place);
            }
            let stopping = || loading.stopping.load(Ordering::Acquire);
            if let Err(error) = format::migrate(&dir, found, format::STEPS, &stopping) {
                tracing::error!(%error, "the data directory could not be brought to the current format; the next start tries again");
            }
        })?;
        Ok(Index { core, threads })
    }
}

fn assemble(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    lock: DirectoryLock,
    (places, outbox): (Places, Outbox),
    opened: Opened,
    anything_to_load: bool,
) -> Core {
    let Opened { catalog, seq, facts, names: _ } = opened;
    let promised = facts.iter().find(|(name, _)| name == PROMISED).and_then(|(_, value)| {
        let bytes: &[u8] = value.as_ref();
        Some(Timestamp(i64::from_le_bytes(bytes.try_into().ok()?)))
    });
    Core {
        started: clock.elapsed(),
        opened: clock.now(),
        inherited: promised.is_some_and(|promised| promised > clock.now()),
        promised: Mutex::new(promised.unwrap_or_default()),
        clock,
        table: Table::new(settings.table_max_bytes),
        recent: Recent::new(settings.entry_cache_bytes),
        queue: Queue::new(settings.queue_bytes, settings.commit_rows),
        order: Mutex::new(Order { seq, loading: anything_to_load.then(Late::default) }),
        places,
        catalog,
        names: Cache::new(NAMES),
        unseated: Unseated::default(),
        loaded: watch::Sender::new(!anything_to_load),
        stopping: AtomicBool::new(false),
        facts: RwLock::new(facts.into_iter().map(|(name, value)| (name, value.into())).collect()),
        outbox,
        objects: Cache::new(remote::OBJECTS),
        superseded: Bounded::new(SUPERSEDED_MAX),
        gauges: Gauges::default(),
        lock: Mutex::new(Some(lock)),
        settings: settings.clone(),
    }
}

impl Threads {
    fn start(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), IndexError> {
        let started = std::thread::Builder::new().name(name.into()).spawn(work);
        self.handles.lock().push(started.map_err(|error| cannot("start a thread", &error))?);
        Ok(())
    }

    /// Waits until the loader has loaded everything and brought the directory to the current format.
    #[cfg(test)]
    pub(super) fn wait_for_loader(&self) {
        let loader = self.handles.lock().pop().expect("started last");
        loader.join().expect("it ends by itself");
    }

    /// Stops loading, lets the writer commit what is queued, and waits for both.
    pub(super) fn end(&self, core: &Core) {
        core.stopping.store(true, Ordering::Release);
        core.queue.close();
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            // A thread that panicked has said so already.
            let _ = handle.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end(&self.core);
    }
}
