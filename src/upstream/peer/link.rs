//! What goes over a link in a day, held to its budget. Bytes are promised before they are asked for, so that transfers
//! at one time cannot pass the budget together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::runtime::clock::Clock;

const DAY_SECS: i64 = 24 * 60 * 60;

/// A link, as all peers behind it share it.
pub struct Link {
    name: String,
    clock: Arc<dyn Clock>,
    today: Mutex<Today>,
    total: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Today {
    day: i64,
    came: u64,
    /// Asked for, and still to come.
    promised: u64,
}

/// Room for bytes to come. What did not come is given back when it is dropped.
pub(super) struct Promise {
    link: Arc<Link>,
    day: i64,
    left: u64,
}

impl Link {
    pub fn new(name: &str, clock: Arc<dyn Clock>) -> Arc<Link> {
        Arc::new(Link { name: name.to_owned(), clock, today: Mutex::default(), total: AtomicU64::new(0) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes up what was counted before a restart: days since the epoch, and bytes.
    pub fn restore(&self, day: i64, bytes: u64) {
        let mut today = self.today();
        if today.day == day {
            today.came += bytes;
        }
    }

    /// The day, in days since the epoch, and the bytes that came in it.
    pub fn came_today(&self) -> (i64, u64) {
        let today = self.today();
        (today.day, today.came)
    }

    /// Bytes since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn today(&self) -> parking_lot::MutexGuard<'_, Today> {
        let day = self.clock.now().as_secs().div_euclid(DAY_SECS);
        let mut today = self.today.lock();
        if today.day != day {
            *today = Today { day, ..Today::default() };
        }
        today
    }

    /// Promises room for `bytes` within a day's budget. None: it is used up.
    pub(super) fn promise(self: &Arc<Link>, bytes: u64, budget: Option<u64>) -> Option<Promise> {
        let mut today = self.today();
        let all = today.came.saturating_add(today.promised).saturating_add(bytes);
        if budget.is_some_and(|budget| all > budget) {
            return None;
        }
        today.promised += bytes;
        Some(Promise { link: self.clone(), day: today.day, left: bytes })
    }
}

impl Promise {
    /// Counts bytes that came. They count in full, also beyond what was promised.
    pub(super) fn came(&mut self, bytes: u64) {
        let promised = bytes.min(self.left);
        self.left -= promised;
        let mut today = self.link.today();
        today.came += bytes;
        if today.day == self.day {
            today.promised = today.promised.saturating_sub(promised);
        }
        self.link.total.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut today = self.link.today();
        if today.day == self.day {
            today.promised = today.promised.saturating_sub(self.left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::runtime::clock::ManualClock;

    #[test]
    fn transfers_at_one_time_keep_to_one_budget() {
        let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
        let link = Link::new("a", clock.clone());
        let budget = Some(100);
        let mut first = link.promise(60, budget).expect("room");
        assert!(link.promise(50, budget).is_none(), "the first may still take its part");
        first.came(20);
        assert!(link.promise(50, budget).is_none());
        drop(first);
        assert_eq!(link.came_today().1, 20, "what did not come is given back");
        let mut second = link.promise(80, budget).expect("room");
        second.came(80);
        assert!(link.promise(1, budget).is_none());
        assert!(link.promise(1, None).is_some());
        clock.advance(Duration::from_secs(24 * 60 * 60));
        second.came(5);
        drop(second);
        assert!(link.promise(95, budget).is_some(), "a new day");
        assert_eq!((link.came_today().1, link.total()), (5, 105));
    }

    #[test]
    fn a_restart_begins_no_new_day() {
        let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
        let before = Link::new("a", clock.clone());
        before.promise(70, None).expect("room").came(70);
        let (day, bytes) = before.came_today();
        let after = Link::new("a", clock.clone());
        after.restore(day, bytes);
        assert!(after.promise(40, Some(100)).is_none());
        let later = Link::new("a", clock);
        later.restore(day - 1, bytes);
        assert!(later.promise(40, Some(100)).is_some());
    }
}
