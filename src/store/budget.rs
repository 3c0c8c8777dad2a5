//! What is used and what may be: exact counts by tier and class, room promised to fills under way, and the space that
//! the volume has left. Evicts nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::error::StoreError;
use super::files::Space;
use super::home::Home;
use super::settings::Limits;
use crate::model::place::Class;
use crate::runtime::clock::Clock;

/// How old a figure of the volume's free space may be.
const SPACE_AGE: Duration = Duration::from_secs(1);

/// The account of the disk tiers.
pub(super) struct Budget {
    accounts: [Account; Class::ALL.len()],
    total_bytes: u64,
    reserve_bytes: u64,
    min_free_bytes: u64,
    space: Mutex<(Duration, Space)>,
    home: Arc<Home>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Account {
    budget: u64,
    reserved: AtomicU64,
    // Signed: a blob may be removed before the index has told of it.
    segments: Count,
    files: Count,
}

#[derive(Default)]
struct Count {
    bytes: AtomicI64,
    blobs: AtomicI64,
}

/// Bytes used and free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    pub memory_blobs: u64,
    pub memory_budget_bytes: u64,
    /// In the order of `Class::ALL`.
    pub classes: [ClassUse; Class::ALL.len()],
    /// All that larder may use of the volume, the reserve included.
    pub budget_bytes: u64,
    /// Kept back for moving survivors.
    pub reserve_bytes: u64,
    pub volume_bytes: u64,
    pub free_bytes: u64,
    /// What must stay free.
    pub min_free_bytes: u64,
}

/// What one class uses of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassUse {
    pub class: Class,
    /// Sizes of the class's segments, dead bytes included.
    pub segment_bytes: u64,
    pub segment_blobs: u64,
    pub file_bytes: u64,
    pub file_blobs: u64,
    /// Promised to fills under way, of which a part is already written.
    pub reserved_bytes: u64,
    pub budget_bytes: u64,
}

impl ClassUse {
    /// What is on disk, and what is about to be.
    pub const fn bytes(&self) -> u64 {
        self.segment_bytes + self.file_bytes + self.reserved_bytes
    }
}

impl Usage {
    pub fn disk_bytes(&self) -> u64 {
        self.classes.iter().map(ClassUse::bytes).sum()
    }

    /// Bytes that must go so that the volume has again what must stay free.
    pub const fn short_bytes(&self) -> u64 {
        self.min_free_bytes.saturating_sub(self.free_bytes)
    }
}

/// Where bytes are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Segment,
    File,
}

/// Who asks for room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// A fill.
    Budget,
    /// A survivor that moves so that a segment can go: the reserve too.
    Reserve,
}

impl Budget {
    pub fn new(limits: &Limits, space: Space, home: Arc<Home>, clock: Arc<dyn Clock>) -> Budget {
        Budget {
            accounts: limits.budgets.map(|budget| Account { budget, ..Account::default() }),
            total_bytes: limits.total_bytes,
            reserve_bytes: limits.reserve_bytes,
            min_free_bytes: limits.min_free_bytes,
            space: Mutex::new((clock.elapsed(), space)),
            home,
            clock,
        }
    }

    pub fn limit(&self, class: Class) -> u64 {
        self.accounts[class as usize].budget
    }

    /// Promises room, or says why there is none.
    pub fn reserve(self: &Arc<Budget>, class: Class, bytes: u64, room: Room) -> Result<Reservation, StoreError> {
        let mut reservation = Reservation { budget: self.clone(), class, room, bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Counts bytes and blobs in (or, negative, out).
    pub fn count(&self, class: Class, kind: Kind, bytes: i64, blobs: i64) {
        let account = &self.accounts[class as usize];
        let count = match kind {
            Kind::Segment => &account.segments,
            Kind::File => &account.files,
        };
        count.bytes.fetch_add(bytes, Relaxed);
        count.blobs.fetch_add(blobs, Relaxed);
    }

    /// Fills all of a usage but what the memory tier knows.
    pub fn usage(&self) -> Usage {
        let space = self.space();
        Usage {
            memory_bytes: 0,
            memory_blobs: 0,
            memory_budget_bytes: 0,
            classes: Class::ALL.map(|class| self.accounts[class as usize].usage(class)),
            budget_bytes: self.total_bytes,
            reserve_bytes: self.reserve_bytes,
            volume_bytes: space.total,
            free_bytes: space.free,
            min_free_bytes: self.min_free_bytes,
        }
    }

    fn refusal(&self, class: Class, room: Room) -> Option<&'static str> {
        let account = self.accounts[class as usize].usage(class);
        let (extra, min_free) = match room {
            Room::Budget => (0, self.min_free_bytes),
            Room::Reserve => (self.reserve_bytes, 0),
        };
        if account.bytes() > account.budget_bytes.saturating_add(extra) {
            return Some("the budget of its class is used up");
        }
        let promised: u64 = self.accounts.iter().map(|account| account.reserved.load(Relaxed)).sum();
        (self.space().free < min_free.saturating_add(promised)).then_some("the volume is nearly full")
    }

    /// The volume's size, at most a second old. When it cannot be told, the last figure stands.
    fn space(&self) -> Space {
        let now = self.clock.elapsed();
        let mut space = self.space.lock();
        if now.saturating_sub(space.0) >= SPACE_AGE {
            space.0 = now;
            match self.home.files.space(self.home.dir()) {
                Ok(fresh) => space.1 = fresh,
                Err(error) => tracing::warn!(%error, "the free space of the volume cannot be told"),
            }
        }
        space.1
    }
}

impl Account {
    fn usage(&self, class: Class) -> ClassUse {
        let amount = |count: &AtomicI64| u64::try_from(count.load(Relaxed)).unwrap_or(0);
        ClassUse {
            class,
            segment_bytes: amount(&self.segments.bytes),
            segment_blobs: amount(&self.segments.blobs),
            file_bytes: amount(&self.files.bytes),
            file_blobs: amount(&self.files.blobs),
            reserved_bytes: self.reserved.load(Relaxed),
            budget_bytes: self.budget,
        }
    }
}

/// Room promised to one fill. Given back when dropped: count what was stored first.
pub(super) struct Reservation {
    budget: Arc<Budget>,
    class: Class,
    room: Room,
    bytes: u64,
}

impl Reservation {
    /// Makes it `to` bytes, if it is less.
    pub fn grow(&mut self, to: u64) -> Result<(), StoreError> {
        let more = to.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let reserved = &self.budget.accounts[self.class as usize].reserved;
        reserved.fetch_add(more, Relaxed);
        if let Some(why) = self.budget.refusal(self.class, self.room) {
            reserved.fetch_sub(more, Relaxed);
            return Err(StoreError::Full { why });
        }
        self.bytes = to;
        Ok(())
    }

    /// Gives all of it back: what was stored has been counted.
    pub fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.budget.accounts[self.class as usize].reserved.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;
    use crate::runtime::clock::ManualClock;
    use crate::store::files::SystemFiles;

    fn budget(free: u64) -> Arc<Budget> {
        let limits = Limits {
            border: 0,
            segment_bytes: 0,
            total_bytes: 1000,
            reserve_bytes: 100,
            budgets: [600, 200, 100],
            min_free_bytes: 50,
            descriptors: 1,
        };
        let home = Arc::new(Home::new(std::path::Path::new("/"), SystemFiles::shared()));
        let space = Space { total: 10_000, free };
        Arc::new(Budget::new(&limits, space, home, ManualClock::at(Timestamp(0))))
    }

    #[test]
    fn a_class_cannot_use_the_budget_of_another() {
        let budget = budget(10_000);
        let held = budget.reserve(Class::Untrusted, 150, Room::Budget).expect("room");
        assert!(budget.reserve(Class::Untrusted, 51, Room::Budget).is_err());
        assert!(budget.reserve(Class::Trusted, 600, Room::Budget).is_ok());
        budget.count(Class::Untrusted, Kind::File, 100, 1);
        drop(held);
        assert!(budget.reserve(Class::Untrusted, 101, Room::Budget).is_err());
        assert!(budget.reserve(Class::Untrusted, 101, Room::Reserve).is_ok());
        assert_eq!(budget.usage().disk_bytes(), 100, "refused and dropped promises leave nothing");
    }

    #[test]
    fn some_of_the_volume_stays_free() {
        let budget = budget(149);
        assert!(budget.reserve(Class::Trusted, 100, Room::Budget).is_err());
        let held = budget.reserve(Class::Trusted, 99, Room::Budget).expect("room");
        assert!(budget.reserve(Class::Document, 1, Room::Budget).is_err(), "promised room is not free");
        drop(held);
        assert!(budget.reserve(Class::Document, 1, Room::Budget).is_ok());
    }
}
