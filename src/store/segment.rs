//! One segment: many small blobs of one class, appended. Knows which of its bytes are written and which are durable.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::files::Descriptor;
use super::home::Home;
use crate::model::place::Class;
use crate::runtime::durable::Unsynced;

/// A segment file, open or not.
pub(super) struct Segment {
    pub number: u32,
    home: Arc<Home>,
    /// Not known of old segments until one of their blobs is adopted or read.
    class: OnceLock<Class>,
    /// Where this run began to append: what lies before was adopted from the index.
    pub inherited: u64,
    state: Mutex<Appending>,
    syncing: Mutex<()>,
    /// Bytes before this are readable; `u64::MAX` unless a sync failed.
    trusted_to: AtomicU64,
    pub live_bytes: AtomicI64,
    pub live_blobs: AtomicI64,
    pub reading: Arc<AtomicUsize>,
    /// Appends whose handles somebody holds: not yet recorded, as far as this room can tell.
    held: AtomicUsize,
}

struct Appending {
    phase: Phase,
    /// Held while there may be unsynced bytes.
    descriptor: Option<Arc<dyn Descriptor>>,
    end: u64,
    /// Durable up to here.
    synced: u64,
    /// Whether its name is durable.
    named: bool,
    /// Starts of the records that are being written now.
    writing: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    Closed,
    /// A sync failed.
    Condemned,
    Retired,
}

/// Room in a segment for one record.
pub(super) struct Slot {
    pub append: Append,
    pub offset: u64,
    pub descriptor: Arc<dyn Descriptor>,
}

/// An append that is under way or waits to be recorded. While there is one, nobody knows all that is in the segment.
pub(super) struct Append(Arc<Segment>);

impl Segment {
    /// One that an earlier run left, `end` bytes long. Closed until it is reopened.
    pub fn old(number: u32, end: u64, home: Arc<Home>) -> Segment {
        Segment::new(number, end, home, None)
    }

    /// A new one of `end` bytes, to append to.
    pub fn fresh(number: u32, class: Class, end: u64, home: Arc<Home>, file: Arc<dyn Descriptor>) -> Segment {
        let segment = Segment { inherited: 0, ..Segment::new(number, end, home, Some(file)) };
        segment.learn_class(class);
        segment
    }

    fn new(number: u32, end: u64, home: Arc<Home>, descriptor: Option<Arc<dyn Descriptor>>) -> Segment {
        let phase = if descriptor.is_some() { Phase::Open } else { Phase::Closed };
        let state = Appending { phase, descriptor, end, synced: end, named: false, writing: BTreeSet::new() };
        Segment {
            number,
            home,
            class: OnceLock::new(),
            inherited: end,
            state: Mutex::new(state),
            syncing: Mutex::new(()),
            trusted_to: AtomicU64::new(u64::MAX),
            live_bytes: AtomicI64::new(0),
            live_blobs: AtomicI64::new(0),
            reading: Arc::new(AtomicUsize::new(0)),
            held: AtomicUsize::new(0),
        }
    }

    pub fn class(&self) -> Option<Class> {
        self.class.get().copied()
    }

    /// True when it was not known before.
    pub fn learn_class(&self, class: Class) -> bool {
        self.class.set(class).is_ok()
    }

    pub fn end(&self) -> u64 {
        self.state.lock().end
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Whether every append has been recorded or given up.
    pub fn is_told(&self) -> bool {
        self.held.load(Ordering::Acquire) == 0
    }

    /// Goes on with an old segment at its real end. False when it is of no use any more.
    pub fn reopen(&self, end: u64, descriptor: Arc<dyn Descriptor>) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Closed || end != state.end {
            return false;
        }
        state.phase = Phase::Open;
        state.descriptor = Some(descriptor);
        true
    }

    /// Takes the next `bytes`, unless it is closed or would grow over `limit`.
    pub fn take_slot(self: &Arc<Segment>, bytes: u64, limit: u64) -> Option<Slot> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open || state.end + bytes > limit {
            return None;
        }
        let descriptor = state.descriptor.clone()?;
        let offset = state.end;
        state.end += bytes;
        state.writing.insert(offset);
        // Under the lock: once it is closed, appends only end.
        self.held.fetch_add(1, Ordering::AcqRel);
        Some(Slot { append: Append(self.clone()), offset, descriptor })
    }

    /// The record at `offset` is written.
    pub fn written(&self, offset: u64) {
        self.state.lock().writing.remove(&offset);
    }

    /// The record was not written. Returns whether its room could be taken back.
    pub fn not_written(&self, offset: u64, bytes: u64) -> bool {
        let mut state = self.state.lock();
        state.writing.remove(&offset);
        let last = state.end == offset + bytes && state.synced <= offset;
        if last {
            state.end = offset;
        }
        last
    }

    /// Takes no more records.
    pub fn close(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closed;
        }
        state.rest();
    }

    /// It is about to be unlinked.
    pub fn retire(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Retired;
        state.descriptor = None;
    }

    /// Whether a failed sync condemned the record at `offset`.
    pub fn is_condemned(&self, offset: u64) -> bool {
        offset >= self.trusted_to.load(Ordering::Acquire)
    }

    /// What has to be synced, or None when nothing has.
    fn unsynced(&self) -> io::Result<Option<Sync>> {
        let state = self.state.lock();
        match state.phase {
            Phase::Condemned => return Err(io::Error::other("an earlier sync of the segment failed")),
            Phase::Retired => return Err(io::ErrorKind::NotFound.into()),
            Phase::Open | Phase::Closed => {}
        }
        let Some(descriptor) = state.descriptor.clone() else { return Ok(None) };
        if state.named && state.synced == state.end && state.writing.is_empty() {
            return Ok(None);
        }
        let upto = state.writing.first().copied().unwrap_or(state.end);
        Ok(Some(Sync { descriptor, upto, named: state.named }))
    }
}

struct Sync {
    descriptor: Arc<dyn Descriptor>,
    upto: u64,
    named: bool,
}

impl Appending {
    /// Lets the descriptor go when nothing will ever need it again.
    fn rest(&mut self) {
        if self.phase == Phase::Closed && self.writing.is_empty() && self.synced == self.end && self.named {
            self.descriptor = None;
        }
    }
}

impl Append {
    pub fn segment(&self) -> &Segment {
        &self.0
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Unsynced for Append {
    fn object(&self) -> u64 {
        u64::from(self.0.number)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl Segment {
    fn sync(&self) -> io::Result<()> {
        let _one_at_a_time = self.syncing.lock();
        let Some(sync) = self.unsynced()? else { return Ok(()) };
        let synced = sync.descriptor.sync().and_then(|()| match sync.named {
            true => Ok(()),
            false => self.home.files.sync_dir(&self.home.segments()),
        });
        let mut state = self.state.lock();
        match synced {
            Ok(()) => {
                state.synced = state.synced.max(sync.upto);
                state.named = true;
                state.rest();
                Ok(())
            }
            Err(error) => {
                // The kernel may have dropped the pages and calls them clean: what was not durable before never is.
                self.trusted_to.store(state.synced, Ordering::Release);
                state.phase = Phase::Condemned;
                state.descriptor = None;
                tracing::error!(segment = self.number, from = state.synced, %error, "a sync failed");
                Err(error)
            }
        }
    }
}
