//! What the table keeps of one blob, packed to 68 bytes: three prefixes, a place, a set of realms, and its use.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::model::digest::Prefix;
use crate::model::place::{Class, Place, TierName};
use crate::model::time::Timestamp;

/// A prefix that is not there.
pub(super) const NO_PREFIX: Prefix = [0; 16];
/// Longer blobs find no seat in the table: 1 TiB.
const LEN_MAX: u64 = (1 << 40) - 1;
const TIER_BITS: u8 = 0b0000_0011;
const CLASS_BITS: u8 = 0b0000_1100;
const CLASS_SHIFT: u8 = 2;
const ALIAS: u8 = 0b0100_0000;
const TAKEN: u8 = 0b1000_0000;

/// Minutes since 2020 in 24 bits, a lease, a mark that the use is not yet on disk, and up to 63 hits.
const MINUTES_SHIFT: u32 = 8;
const LEASED: u32 = 1 << 7;
const UNSAVED: u32 = 1 << 6;
const HITS_MAX: u32 = 63;
const EPOCH_SECS: i64 = 1_577_836_800;
const MINUTES_MAX: i64 = (1 << 24) - 1;

/// Minutes since 2020-01-01, in 24 bits: what the table counts use in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Minutes(u32);

impl Minutes {
    pub fn of(time: Timestamp) -> Minutes {
        Minutes::from_number((time.as_secs() - EPOCH_SECS).div_euclid(60))
    }

    pub fn from_number(minutes: i64) -> Minutes {
        Minutes(u32::try_from(minutes.clamp(0, MINUTES_MAX)).unwrap_or(0))
    }

    pub const fn number(self) -> u32 {
        self.0
    }

    pub fn since(self, earlier: Minutes) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn minus(self, period: Duration) -> Minutes {
        Minutes::from_number(i64::from(self.0) - i64::try_from(period.as_secs() / 60).unwrap_or(MINUTES_MAX))
    }

    pub fn plus(self, period: Duration) -> Minutes {
        Minutes::from_number(i64::from(self.0) + i64::try_from(period.as_secs() / 60).unwrap_or(MINUTES_MAX))
    }
}

/// When and how often a blob was used, as far as 32 bits can say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Use {
    pub last: Minutes,
    /// At most 63.
    pub hits: u8,
}

/// A blob, or (as an alias) one more key of a blob that has its own slot.
///
/// In this order: a batch by SHA-256 reads the sum, the use and the realms, which so lie in one cache line mostly.
#[repr(C)]
pub(super) struct Slot {
    pub(super) digest: Prefix,
    pub(super) key: Prefix,
    pub(super) sum: Prefix,
    usage: AtomicU32,
    pub(super) realms: u16,
    len_high: u8,
    flags: u8,
    len_low: u32,
    object: u32,
    offset: u32,
}

const _: () = assert!(size_of::<Slot>() == 68);

/// Stands for a slot where there is none.
pub(super) static NO_SLOT: Slot = Slot::free();

impl Slot {
    pub(super) const fn free() -> Slot {
        Slot {
            digest: NO_PREFIX,
            sum: NO_PREFIX,
            key: NO_PREFIX,
            object: 0,
            offset: 0,
            len_low: 0,
            usage: AtomicU32::new(0),
            realms: 0,
            len_high: 0,
            flags: 0,
        }
    }

    /// None when the place is too large for a slot.
    pub(super) fn blob(digest: Prefix, place: &Place, class: Class, used: Use) -> Option<Slot> {
        let mut slot = Slot { digest, flags: TAKEN, ..Slot::free() };
        slot.usage = AtomicU32::new((used.last.0 << MINUTES_SHIFT) | u32::from(used.hits).min(HITS_MAX));
        slot.set_place(place, class).then_some(slot)
    }

    pub(super) fn alias(key: Prefix, digest: Prefix) -> Slot {
        Slot { digest, key, flags: TAKEN | ALIAS, ..Slot::free() }
    }

    pub(super) fn is_blob(&self) -> bool {
        self.flags & (TAKEN | ALIAS) == TAKEN
    }

    pub(super) fn is_alias(&self) -> bool {
        self.flags & (TAKEN | ALIAS) == TAKEN | ALIAS
    }

    pub(super) fn place(&self) -> Place {
        Place {
            tier: TierName::from_code(self.flags & TIER_BITS).unwrap_or(TierName::Memory),
            object: self.object,
            offset: self.offset,
            len: u64::from(self.len_high) << 32 | u64::from(self.len_low),
        }
    }

    pub(super) fn class(&self) -> Class {
        Class::from_code((self.flags & CLASS_BITS) >> CLASS_SHIFT).unwrap_or(Class::Document)
    }

    /// False, changing nothing, when the place is too large for a slot.
    pub(super) fn set_place(&mut self, place: &Place, class: Class) -> bool {
        if place.len > LEN_MAX {
            return false;
        }
        self.object = place.object;
        self.offset = place.offset;
        self.len_low = place.len as u32;
        self.len_high = (place.len >> 32) as u8;
        self.flags = self.flags & !(TIER_BITS | CLASS_BITS) | place.tier as u8 | (class as u8) << CLASS_SHIFT;
        true
    }

    /// The blob is gone, its key stays known: a key may have other answers than this one.
    pub(super) fn turn_into_alias(&mut self) {
        *self = Slot::alias(self.key, NO_PREFIX);
    }

    pub(super) fn next_free(&self) -> u32 {
        self.object
    }

    pub(super) fn set_free(&mut self, next: u32) {
        *self = Slot { object: next, ..Slot::free() };
    }

    pub(super) fn usage(&self) -> Use {
        let word = self.usage.load(Ordering::Relaxed);
        Use { last: Minutes(word >> MINUTES_SHIFT), hits: (word & HITS_MAX) as u8 }
    }

    /// Reads from the lines that a batch will need and nothing else. What it returns means nothing.
    pub(super) fn fetch(&self) -> u32 {
        u32::from(self.sum[0]) ^ self.usage.load(Ordering::Relaxed)
    }

    /// Counts a use. Two uses at one instant may count as one: nothing is decided by so little.
    pub(super) fn touch(&self, now: Minutes) {
        let word = self.usage.load(Ordering::Relaxed);
        let hits = ((word & HITS_MAX) + 1).min(HITS_MAX);
        let last = (word >> MINUTES_SHIFT).max(now.0);
        let moved = if last > word >> MINUTES_SHIFT { UNSAVED } else { word & UNSAVED };
        let touched = last << MINUTES_SHIFT | word & LEASED | moved | hits;
        if touched != word {
            self.usage.store(touched, Ordering::Relaxed);
        }
    }

    /// Like `touch` without a hit: asked about, not read. Writes only when the minute has changed.
    pub(super) fn renew(&self, now: Minutes) {
        let word = self.usage.load(Ordering::Relaxed);
        if word >> MINUTES_SHIFT < now.0 {
            let renewed = now.0 << MINUTES_SHIFT | UNSAVED | word & (LEASED | HITS_MAX);
            self.usage.store(renewed, Ordering::Relaxed);
        }
    }

    /// Forgets all uses, unless it is leased.
    pub(super) fn chill(&self) {
        if !self.is_leased() {
            self.usage.store(UNSAVED, Ordering::Relaxed);
        }
    }

    /// Marks as leased for one period after `from`. True when it was not leased before.
    pub(super) fn lease(&self, from: Minutes) -> bool {
        let before = self.usage.load(Ordering::Relaxed);
        let last = (before >> MINUTES_SHIFT).max(from.0);
        self.usage.store(last << MINUTES_SHIFT | before & (HITS_MAX | UNSAVED) | LEASED | UNSAVED, Ordering::Relaxed);
        before & LEASED == 0
    }

    pub(super) fn is_leased(&self) -> bool {
        self.usage.load(Ordering::Relaxed) & LEASED != 0
    }

    pub(super) fn end_lease(&self) {
        self.usage.fetch_and(!LEASED, Ordering::Relaxed);
    }

    /// The use, once, when it has changed since it was last asked for here.
    pub(super) fn take_unsaved(&self) -> Option<Use> {
        let word = self.usage.fetch_and(!UNSAVED, Ordering::Relaxed);
        (word & UNSAVED != 0).then(|| self.usage())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(len: u64) -> Option<Slot> {
        let place = Place { tier: TierName::File, object: 7, offset: 9, len };
        Slot::blob([1; 16], &place, Class::Untrusted, Use::default())
    }

    #[test]
    fn a_slot_gives_back_what_it_was_given() {
        for len in [0, 1, u64::from(u32::MAX) + 5, LEN_MAX] {
            let slot = slot(len).expect("fits");
            assert_eq!(slot.place(), Place { tier: TierName::File, object: 7, offset: 9, len });
            assert_eq!(slot.class(), Class::Untrusted);
            assert!(slot.is_blob() && !slot.is_alias());
        }
        assert!(slot(LEN_MAX + 1).is_none());
    }

    #[test]
    fn use_only_moves_forward() {
        let slot = slot(1).expect("fits");
        slot.touch(Minutes(100));
        slot.touch(Minutes(90));
        assert_eq!(slot.usage(), Use { last: Minutes(100), hits: 2 });
        assert_eq!(slot.take_unsaved(), Some(Use { last: Minutes(100), hits: 2 }));
        assert_eq!(slot.take_unsaved(), None);
        slot.renew(Minutes(100));
        assert_eq!(slot.take_unsaved(), None);
        slot.renew(Minutes(101));
        assert_eq!(slot.take_unsaved(), Some(Use { last: Minutes(101), hits: 2 }));
        for _ in 0..200 {
            slot.touch(Minutes(101));
        }
        assert_eq!(slot.usage().hits, 63);
    }

    #[test]
    fn a_lease_survives_use_and_ends() {
        let slot = slot(1).expect("fits");
        assert!(slot.lease(Minutes(50)));
        assert!(!slot.lease(Minutes(40)));
        slot.touch(Minutes(60));
        assert!(slot.is_leased());
        assert_eq!(slot.usage().last, Minutes(60));
        slot.end_lease();
        assert!(!slot.is_leased());
    }

    #[test]
    fn minutes_span_thirty_years_and_never_wrap() {
        assert_eq!(Minutes::of(Timestamp::from_secs(EPOCH_SECS + 120)).number(), 2);
        assert_eq!(Minutes::of(Timestamp(0)).number(), 0);
        assert_eq!(Minutes::of(Timestamp(i64::MAX)).number(), (1 << 24) - 1);
        assert_eq!(Minutes(5).minus(Duration::from_secs(600)).number(), 0);
    }
}
