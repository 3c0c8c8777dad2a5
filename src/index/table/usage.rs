//! Use and leases in the table: what eviction, the flush of use times and the lease rule read.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::slot::Slot;
use super::{Minutes, Seat, Table, Use};
use crate::model::digest::Prefix;
use crate::model::place::{Class, Place, TierName};

/// Buckets of the histogram of coldness: a power of two each.
const DEGREES: usize = 64;
/// Files returned by one scan at most; a later scan finds the next.
const FILES_MAX: usize = 4096;

/// How warm one segment is, from the blobs that the table has in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warmth {
    pub blobs: u64,
    pub bytes: u64,
    /// Bytes under a lease: they must be copied forward.
    pub leased_bytes: u64,
    /// The latest use of any of its blobs.
    pub last: Minutes,
    /// Sum of bytes times minutes of their last use, for an average weighted by size.
    pub byte_minutes: u128,
}

/// What a scan for cold things looks for.
#[derive(Clone, Copy)]
pub(in crate::index) struct ColdAsk {
    pub(in crate::index) class: Class,
    pub(in crate::index) want_bytes: u64,
    pub(in crate::index) now: Minutes,
    /// How long a lease holds.
    pub(in crate::index) period: Duration,
}

/// What a scan for cold things found.
#[derive(Debug, Default)]
pub(in crate::index) struct ColdScan {
    /// Coldest first.
    pub(in crate::index) files: Vec<(Prefix, Place)>,
    pub(in crate::index) segments: HashMap<u32, Warmth>,
}

impl Table {
    /// Counts a read of a blob.
    pub fn touch(&self, digest: &Prefix, now: Minutes) {
        self.with_blob(digest, |slot| slot.touch(now));
    }

    /// Makes a blob the first to go, unless it is promised: what named it names something else now.
    pub fn chill(&self, digest: &Prefix) {
        self.with_blob(digest, |slot| slot.chill());
    }

    /// Promises for `period` from `from` on; false when the blob is not here.
    pub fn lease(&self, digest: &Prefix, from: Minutes) -> bool {
        let granted = self.with_blob(digest, |slot| {
            let place = slot.place();
            if slot.lease(from) && place.tier.is_local() {
                let bytes = place.len;
                self.leased_bytes[slot.class() as usize].fetch_add(bytes, Ordering::Relaxed);
            }
        });
        granted.is_some()
    }

    /// Whether a blob is promised: leased, and used or leased within `period`.
    pub fn is_leased(&self, digest: &Prefix, now: Minutes, period: Duration) -> bool {
        self.with_blob(digest, |slot| holds(slot, now, period)).unwrap_or(false)
    }

    /// Bytes of this node under lease in a class; counts ended leases until the next `end_leases`.
    pub fn leased_bytes(&self, class: Class) -> u64 {
        self.leased_bytes[class as usize].load(Ordering::Relaxed)
    }

    /// Takes the mark off leases that have run out and counts anew what is leased.
    pub fn end_leases(&self, now: Minutes, period: Duration) {
        let mut bytes = [0_u64; Class::ALL.len()];
        self.each_slot(|slot| {
            if !slot.is_leased() {
                return;
            }
            if holds(slot, now, period) {
                let place = slot.place();
                bytes[slot.class() as usize] += if place.tier.is_local() { place.len } else { 0 };
            } else {
                slot.end_lease();
            }
        });
        for (counted, bytes) in self.leased_bytes.iter().zip(bytes) {
            counted.store(bytes, Ordering::Relaxed);
        }
    }

    /// Uses that changed since they were last taken, by digest prefix.
    pub fn take_uses(&self) -> Vec<(Prefix, Use)> {
        let mut uses = Vec::new();
        self.each_slot(|slot| {
            if let Some(used) = slot.take_unsaved() {
                uses.push((slot.digest, used));
            }
        });
        uses.sort_unstable_by_key(|(digest, _)| *digest);
        uses
    }

    /// Every blob, in no order, each region under its read lock.
    pub fn each(&self, mut see: impl FnMut(&Seat)) {
        self.each_slot(|slot| {
            see(&Seat {
                digest: slot.digest,
                place: slot.place(),
                class: slot.class(),
                used: slot.usage(),
                leased: slot.is_leased(),
            });
        });
    }

    fn each_slot(&self, mut see: impl FnMut(&Slot)) {
        for region in &self.regions {
            region.read().slots().filter(|slot| slot.is_blob()).for_each(&mut see);
        }
    }

    /// Finds files of `class` that together free `want_bytes`, coldest and largest first, and how warm its segments are.
    ///
    /// Two passes: a histogram of coldness finds the border, the second collects what lies beyond it.
    /// `skip` are files that must stay for reasons that the table does not know.
    pub(in crate::index) fn cold(&self, ask: &ColdAsk, skip: &HashSet<Prefix>) -> ColdScan {
        let ColdAsk { class, want_bytes, now, period } = *ask;
        let mut scan = ColdScan::default();
        let mut histogram = [0_u64; DEGREES];
        self.each_slot(|slot| {
            if slot.class() != class {
                return;
            }
            let (place, leased) = (slot.place(), holds(slot, now, period));
            match place.tier {
                TierName::Segment => scan.segments.entry(place.object).or_default().add(slot, leased),
                TierName::File if !leased && !skip.contains(&slot.digest) => {
                    histogram[degree(coldness(slot, now))] += place.len;
                }
                TierName::File | TierName::Memory | TierName::S3 => {}
            }
        });
        let border = border(&histogram, want_bytes);
        let mut files = Vec::new();
        self.each_slot(|slot| {
            let wanted = slot.class() == class && slot.place().tier == TierName::File && !holds(slot, now, period);
            let cold = coldness(slot, now);
            if wanted && degree(cold) >= border && files.len() < FILES_MAX && !skip.contains(&slot.digest) {
                files.push((cold, slot.digest, slot.place()));
            }
        });
        files.sort_unstable_by_key(|(cold, _, _)| std::cmp::Reverse(*cold));
        let mut left = want_bytes;
        for (_, digest, place) in files {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(place.len);
            scan.files.push((digest, place));
        }
        scan
    }
}

impl Warmth {
    fn add(&mut self, slot: &Slot, leased: bool) {
        let (bytes, last) = (slot.place().len, slot.usage().last);
        self.blobs += 1;
        self.bytes += bytes;
        self.leased_bytes += if leased { bytes } else { 0 };
        self.last = self.last.max(last);
        self.byte_minutes += u128::from(bytes) * u128::from(last.number());
    }

    /// The mean minute of last use, weighted by size: the smaller, the colder.
    pub fn mean(&self) -> Minutes {
        let mean = self.byte_minutes / u128::from(self.bytes.max(1));
        Minutes::from_number(i64::try_from(mean).unwrap_or(i64::MAX))
    }
}

fn holds(slot: &Slot, now: Minutes, period: Duration) -> bool {
    slot.is_leased() && slot.usage().last.plus(period) > now
}

/// Age times size over hits: what frees most and is missed least. One large cold file goes before many small ones.
fn coldness(slot: &Slot, now: Minutes) -> u64 {
    let used = slot.usage();
    let age = u64::from(now.since(used.last)) + 1;
    age.saturating_mul(slot.place().len / 4096 + 1) / (u64::from(used.hits) + 1)
}

fn degree(coldness: u64) -> usize {
    (u64::BITS - coldness.leading_zeros()) as usize % DEGREES
}

fn border(histogram: &[u64; DEGREES], want_bytes: u64) -> usize {
    let mut found = 0_u64;
    for degree in (0..DEGREES).rev() {
        found = found.saturating_add(histogram[degree]);
        if found >= want_bytes {
            return degree;
        }
    }
    0
}
