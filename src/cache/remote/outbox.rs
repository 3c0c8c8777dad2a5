//! What is sent to the bucket next, and when. Pure.
//!
//! Small blobs wait for each other, so that many share one object: until a pack is full, or the first has waited long
//! enough. Large ones are objects of their own and wait for nobody.

use std::collections::HashSet;
use std::time::Duration;

use crate::index::outbox::Waiting;
use crate::model::digest::Digest;
use crate::model::time::Timestamp;
use crate::store::s3::pack::{ENTRIES_MAX, PACKED_MAX};

/// The first pause after a failure, and the longest: what waited through an outage must be on its way soon after it.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// When a pack is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Once it has so many bytes…
    pub pack_bytes: u64,
    /// …or its first blob has waited so long.
    pub pack_delay: Duration,
}

/// What is due now.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Blobs of one pack; none when it is not due.
    pub pack: Vec<Waiting>,
    pub objects: Vec<Waiting>,
    /// When the pack will be due. None: nothing waits for it.
    pub pack_in: Option<Duration>,
}

/// How the outbox was looked at.
pub(super) struct Look<'a> {
    pub now: Timestamp,
    /// How long small blobs have been seen waiting, by a clock that does not jump.
    pub held: Duration,
    /// What is being sent.
    pub sending: &'a HashSet<Digest>,
    /// There may be more than was listed.
    pub is_cut: bool,
}

impl Pace {
    /// Chooses from what waits, the longest waiting first.
    pub(super) fn due(&self, waiting: Vec<Waiting>, look: &Look<'_>) -> Due {
        let mut due = Due::default();
        let (mut bytes, mut full) = (0, look.is_cut);
        let mut since = None;
        for blob in waiting.into_iter().filter(|blob| !look.sending.contains(&blob.digest)) {
            if blob.place.len > PACKED_MAX {
                due.objects.push(blob);
                continue;
            }
            let fits = bytes + blob.place.len <= self.pack_bytes && due.pack.len() < ENTRIES_MAX as usize;
            if full_after(&mut full, fits || due.pack.is_empty()) {
                since.get_or_insert(blob.since);
                bytes += blob.place.len;
                due.pack.push(blob);
            }
        }
        let waited = since.map(|since| look.now.since(since).max(look.held));
        match waited {
            None => {}
            Some(waited) if full || bytes >= self.pack_bytes || waited >= self.pack_delay => {}
            Some(waited) => {
                due.pack_in = Some(self.pack_delay.saturating_sub(waited));
                due.pack.clear();
            }
        }
        due
    }
}

/// Whether a blob goes into the pack; the first that does not closes it.
fn full_after(full: &mut bool, fits: bool) -> bool {
    *full |= !fits;
    fits
}

/// Pauses between tries while S3 takes nothing.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
}

impl Pauses {
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// In a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// After a failure. `chance` spreads out those who failed at the same moment.
    pub fn next(&mut self, chance: u8) -> Duration {
        let longest = PAUSE.saturating_mul(1 << self.failures.min(5)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        longest / 2 + longest / 2 * u32::from(chance) / 255
    }

    /// After a success. True: it was the first one after failures.
    pub fn end(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::place::{Class, Place, TierName};

    const PACE: Pace = Pace { pack_bytes: 1000, pack_delay: Duration::from_secs(5) };
    const MIB: u64 = 1 << 20;

    fn waiting(lens: &[(u64, i64)]) -> Vec<Waiting> {
        let waiting = |(at, (len, since)): (usize, &(u64, i64))| Waiting {
            digest: Digest::of(&at.to_le_bytes()),
            place: Place { tier: TierName::Segment, object: 1, offset: 0, len: *len },
            class: Class::Trusted,
            since: Timestamp::from_secs(*since),
        };
        lens.iter().enumerate().map(waiting).collect()
    }

    fn due(lens: &[(u64, i64)], now: i64) -> Due {
        let look =
            Look { now: Timestamp::from_secs(now), held: Duration::ZERO, sending: &HashSet::new(), is_cut: false };
        PACE.due(waiting(lens), &look)
    }

    #[test]
    fn small_blobs_wait_for_each_other_but_not_for_ever() {
        let early = due(&[(10, 100), (10, 103)], 104);
        assert!(early.pack.is_empty() && early.pack_in == Some(Duration::from_secs(1)));
        assert_eq!(due(&[(10, 100), (10, 103)], 105).pack.len(), 2);
        assert_eq!(due(&[], 105).pack_in, None);
    }

    #[test]
    fn a_full_pack_goes_at_once_and_leaves_the_rest() {
        let full = due(&[(400, 100), (400, 100), (400, 100), (400, 100)], 100);
        assert_eq!((full.pack.len(), full.pack_in), (2, None));
        assert_eq!(due(&[(1000, 100)], 100).pack.len(), 1);
        assert_eq!(due(&[(MIB, 100), (1, 100)], 100).pack.len(), 1, "larger than a pack should be, but no object");
    }

    #[test]
    fn large_blobs_wait_for_nobody() {
        let all = due(&[(MIB + 1, 100), (10, 100), (5 * MIB, 100)], 100);
        assert_eq!((all.objects.len(), all.pack.len()), (2, 0));
        assert_eq!(all.pack_in, Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_is_being_sent_is_not_sent_twice() {
        let blobs = waiting(&[(10, 0), (MIB + 1, 0), (20, 0)]);
        let sending: HashSet<Digest> = blobs[..2].iter().map(|blob| blob.digest).collect();
        let look = Look { now: Timestamp::from_secs(99), held: Duration::ZERO, sending: &sending, is_cut: false };
        let due = PACE.due(blobs, &look);
        assert_eq!((due.objects.len(), due.pack.len(), due.pack[0].place.len), (0, 1, 20));
    }

    #[test]
    fn a_wall_clock_that_jumps_back_holds_nothing_up() {
        let held = Duration::from_secs(5);
        let look = Look { now: Timestamp::from_secs(0), held, sending: &HashSet::new(), is_cut: false };
        assert_eq!(PACE.due(waiting(&[(10, 9999)]), &look).pack.len(), 1);
    }

    #[test]
    fn a_list_that_was_cut_is_as_good_as_a_full_pack() {
        let look = Look { now: Timestamp::from_secs(0), held: Duration::ZERO, sending: &HashSet::new(), is_cut: true };
        assert_eq!(PACE.due(waiting(&[(10, 0), (10, 0)]), &look).pack.len(), 2);
    }

    #[test]
    fn pauses_grow_to_a_bound_that_leaves_time_to_recover() {
        let mut pauses = Pauses::default();
        let took: Vec<Duration> = (0..40).map(|_| pauses.next(255)).collect();
        assert!(took.is_sorted() && took[0] <= PAUSE && took[39] <= PAUSE_MAX, "{took:?}");
        assert!(took[39] > PAUSE_MAX / 2 && pauses.next(0) == PAUSE_MAX / 2);
        assert!(pauses.is_failing() && pauses.end() && !pauses.end() && !pauses.is_failing());
    }
}
