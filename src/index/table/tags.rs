//! One shard of an open-addressing index: an eight-bit tag and a slot id for each thing found by one kind of prefix.
//!
//! Buckets hold twelve entries in one cache line and remember what spilled past them, so a look-up of something absent
//! nearly always reads one line and deleting leaves no tombstones (the shape of F14, `folly/container/F14.md`). Memory comes
//! in pages of one size that are never given back or copied: growing a shard appends pages and files the ids anew in
//! place, so there is no moment at which a shard stands in memory twice.

const WAYS: usize = 12;
const PAGE_BUCKETS: usize = 64;
/// Bytes of a page of buckets.
pub(super) const PAGE_BYTES: u64 = (PAGE_BUCKETS * size_of::<Bucket>()) as u64;
/// Filled up to this share, in percent, before it grows. At 85 a fifth of the look-ups had to read a second line.
const FULL_PERCENT: usize = 80;
/// How much a shard grows at a time.
const GROWTH: f64 = 1.25;
const ONES: u128 = u128::from_ne_bytes([1; 16]);
const SEVENS: u128 = u128::from_ne_bytes([0x7f; 16]);
/// The twelve tags; the bytes behind them are the spill count and padding.
const WAYS_MASK: u128 = (1 << (WAYS * 8)) - 1;
/// A spill count that reached this stays: it says "look on" for ever.
const SPILLED_FOR_EVER: u8 = u8::MAX;

/// What the home bucket says of a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    /// Nothing under this hash anywhere.
    Nothing,
    /// The first id with the right tag; others may follow.
    Maybe(u32),
    /// No tag matched here, but entries have spilled on.
    Elsewhere,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Twelve tags (0: free), the number of entries that found this bucket full, and a filter of which those were: a
    /// bit of 24 for each, so that what is absent is mostly known to be so from one line.
    head: [u8; 16],
    ids: [u32; WAYS],
}

pub(super) static EMPTY: Bucket = NEW;
const NEW: Bucket = Bucket { head: [0; 16], ids: [0; WAYS] };

/// A shard of an index from hashes to slot ids. The caller compares the slots: a tag proves nothing.
pub(super) struct Tags {
    pages: Vec<Box<[Bucket; PAGE_BUCKETS]>>,
    len: usize,
    /// Between 0 and 1: shifts this shard's growth against its sisters', so that they do not all grow at once.
    phase: f64,
}

impl Tags {
    pub(super) fn new(phase: f64) -> Tags {
        Tags { pages: Vec::new(), len: 0, phase }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
    }

    /// True when `grow` must come before the next `insert`.
    pub(super) fn is_full(&self) -> bool {
        self.len >= self.buckets() * WAYS * FULL_PERCENT / 100
    }

    fn buckets(&self) -> usize {
        self.pages.len() * PAGE_BUCKETS
    }

    fn bucket(&self, at: usize) -> &Bucket {
        &self.pages[at / PAGE_BUCKETS][at % PAGE_BUCKETS]
    }

    fn bucket_mut(&mut self, at: usize) -> &mut Bucket {
        &mut self.pages[at / PAGE_BUCKETS][at % PAGE_BUCKETS]
    }

    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets() as u64) >> 32) as usize
    }

    /// The bucket where everything under `hash` is, or has spilled from. Does not read it.
    pub(super) fn home_of(&self, hash: u64) -> &Bucket {
        if self.pages.is_empty() { &EMPTY } else { self.bucket(self.home(hash)) }
    }

    /// The id under `hash` that `same` accepts.
    pub(super) fn find(&self, hash: u64, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let buckets = self.buckets();
        if buckets == 0 {
            return None;
        }
        let mut at = self.home(hash);
        for _ in 0..buckets {
            let bucket = self.bucket(at);
            let mut found = bucket.matches(tag(hash));
            while found != 0 {
                let id = bucket.ids[way(found)];
                if same(id) {
                    return Some(id);
                }
                found &= found - 1;
            }
            if !bucket.may_have_spilled(hash) {
                return None;
            }
            at = if at + 1 == buckets { 0 } else { at + 1 };
        }
        None
    }

    /// Files `id` under `hash`. The caller made room (`is_full`, `grow`).
    pub(super) fn insert(&mut self, hash: u64, id: u32) {
        let buckets = self.buckets();
        let mut at = self.home(hash);
        loop {
            let bucket = self.bucket_mut(at);
            if bucket.matches(0) != 0 {
                return self.place(at, hash, id);
            }
            bucket.note_spilled(hash);
            at = if at + 1 == buckets { 0 } else { at + 1 };
        }
    }

    /// Takes `id` out again; false when it was not filed under `hash`.
    pub(super) fn remove(&mut self, hash: u64, id: u32) -> bool {
        let buckets = self.buckets();
        if buckets == 0 {
            return false;
        }
        let home = self.home(hash);
        for step in 0..buckets {
            let bucket = self.bucket_mut((home + step) % buckets);
            let mut found = bucket.matches(tag(hash));
            while found != 0 {
                let way = way(found);
                if bucket.ids[way] == id {
                    bucket.head[way] = 0;
                    self.len -= 1;
                    self.unspill(home, step);
                    return true;
                }
                found &= found - 1;
            }
            if !bucket.may_have_spilled(hash) {
                return false;
            }
        }
        false
    }

    fn unspill(&mut self, home: usize, steps: usize) {
        let buckets = self.buckets();
        for step in 0..steps {
            let bucket = self.bucket_mut((home + step) % buckets);
            match bucket.head[WAYS] {
                // Nothing is left of it: the filter begins anew.
                0 | 1 => bucket.head[WAYS..].fill(0),
                SPILLED_FOR_EVER => {}
                count => bucket.head[WAYS] = count - 1,
            }
        }
    }

    /// Appends pages up to this shard's next size and files every id anew under `hash_of` it, in place.
    ///
    /// Homes keep their order when the number of buckets changes, and none moves down. So from the last bucket to the
    /// first, each is emptied into buckets that have been emptied before it; the few that would land below, or run
    /// past the end, wait until all is done.
    pub(super) fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let (buckets, pages) = (self.buckets(), self.pages_after(self.pages.len()));
        while self.pages.len() < pages {
            self.pages.push(Box::new([NEW; PAGE_BUCKETS]));
        }
        self.len = 0;
        let mut strays = Vec::new();
        for at in (0..buckets).rev() {
            let bucket = std::mem::replace(self.bucket_mut(at), NEW);
            // Twelve reads that do not wait for each other.
            let hashes: [u64; WAYS] =
                std::array::from_fn(|way| if bucket.head[way] == 0 { 0 } else { hash_of(bucket.ids[way]) });
            for way in (0..WAYS).filter(|way| bucket.head[*way] != 0) {
                if !self.insert_from(at, hashes[way], bucket.ids[way]) {
                    strays.push((hashes[way], bucket.ids[way]));
                }
            }
        }
        for (hash, id) in strays {
            self.insert(hash, id);
        }
    }

    /// Makes room for `len` ids at once in a shard that is still empty.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len > 0 {
            return;
        }
        let mut pages = self.pages.len();
        while pages * PAGE_BUCKETS * WAYS * FULL_PERCENT / 100 < len {
            pages = self.pages_after(pages);
        }
        while self.pages.len() < pages {
            self.pages.push(Box::new([NEW; PAGE_BUCKETS]));
        }
    }

    /// Inserts without touching a bucket below `floor`; false, changing nothing, when that cannot be.
    fn insert_from(&mut self, floor: usize, hash: u64, id: u32) -> bool {
        let home = self.home(hash);
        if home < floor {
            return false;
        }
        let Some(at) = (home..self.buckets()).find(|at| self.bucket(*at).matches(0) != 0) else { return false };
        for passed in home..at {
            self.bucket_mut(passed).note_spilled(hash);
        }
        self.place(at, hash, id);
        true
    }

    /// Writes into a bucket that has a free way.
    fn place(&mut self, at: usize, hash: u64, id: u32) {
        let bucket = self.bucket_mut(at);
        let way = way(bucket.matches(0));
        bucket.head[way] = tag(hash);
        bucket.ids[way] = id;
        self.len += 1;
    }

    /// Sizes are `GROWTH` to the power of k + phase, so that shards of equal load grow one after the other.
    fn pages_after(&self, pages: usize) -> usize {
        if pages == 0 {
            return 1;
        }
        let step = ((pages as f64).ln() / GROWTH.ln() - self.phase).floor() + 1.0;
        (GROWTH.powf(step + self.phase).round() as usize).max(pages + 1)
    }
}

impl Bucket {
    /// Reads from the line and nothing else: in a short loop over many buckets the processor fetches their lines side by
    /// side. What it returns means nothing.
    pub(super) fn fetch(&self) -> u8 {
        self.head[0]
    }

    /// What this bucket alone says of a hash whose home it is.
    pub(super) fn first(&self, hash: u64) -> Home {
        let found = self.matches(tag(hash));
        if found != 0 {
            return Home::Maybe(self.ids[way(found)]);
        }
        if self.may_have_spilled(hash) { Home::Elsewhere } else { Home::Nothing }
    }

    fn may_have_spilled(&self, hash: u64) -> bool {
        let (byte, bit) = spill_bit(hash);
        self.head[byte] & bit != 0
    }

    fn note_spilled(&mut self, hash: u64) {
        let (byte, bit) = spill_bit(hash);
        self.head[WAYS] = self.head[WAYS].saturating_add(1);
        self.head[byte] |= bit;
    }

    /// The high bit of each of the twelve bytes that equals `tag`.
    fn matches(&self, tag: u8) -> u128 {
        let other = u128::from_le_bytes(self.head) ^ (ONES * u128::from(tag));
        let zero = !(((other & SEVENS) + SEVENS) | other | SEVENS);
        zero & WAYS_MASK
    }
}

fn way(found: u128) -> usize {
    found.trailing_zeros() as usize / 8
}

/// One of the 24 bits behind the tags and the count, from bits that choose neither tag nor bucket.
fn spill_bit(hash: u64) -> (usize, u8) {
    let bit = (hash >> 16) as u16 % 24;
    (WAYS + 1 + usize::from(bit / 8), 1 << (bit % 8))
}

/// Never 0, which marks a free way. Bits 8 to 15: below them the shard was chosen, above them the bucket.
fn tag(hash: u64) -> u8 {
    ((hash >> 8) as u8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(id: u32) -> u64 {
        (u64::from(id) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0
    }

    fn filled(len: u32) -> Tags {
        let mut tags = Tags::new(0.5);
        for id in 0..len {
            if tags.is_full() {
                tags.grow(hash);
            }
            tags.insert(hash(id), id);
        }
        tags
    }

    #[test]
    fn everything_is_found_after_growing() {
        let tags = filled(50_000);
        assert_eq!(tags.len(), 50_000);
        for id in 0..50_000 {
            assert_eq!(tags.find(hash(id), |found| found == id), Some(id));
            assert_ne!(tags.home_of(hash(id)).first(hash(id)), Home::Nothing);
        }
        assert_eq!(tags.find(hash(60_000), |found| found == 60_000), None);
    }

    #[test]
    fn removing_leaves_no_trace() {
        let mut tags = filled(10_000);
        for id in 0..10_000 {
            assert!(tags.remove(hash(id), id));
            assert!(!tags.remove(hash(id), id));
        }
        assert_eq!(tags.len(), 0);
        let nothing = (0..10_000).filter(|id| tags.home_of(hash(*id)).first(hash(*id)) == Home::Nothing).count();
        assert!(nothing > 9_900, "spill counts went back: {nothing}");
    }

    #[test]
    fn one_hash_for_all_still_works() {
        let mut tags = Tags::new(0.0);
        tags.grow(|_| 7 << 33);
        for id in 0..300 {
            tags.insert(7 << 33, id);
        }
        for id in 0..300 {
            assert_eq!(tags.find(7 << 33, |found| found == id), Some(id));
        }
        for id in (0..300).rev() {
            assert!(tags.remove(7 << 33, id));
        }
        assert_eq!(tags.find(7 << 33, |_| true), None);
    }

    #[test]
    fn a_shard_keeps_to_its_share() {
        for phase in [0.0, 0.3, 0.9] {
            let mut tags = Tags::new(phase);
            let mut worst = 0.0_f64;
            for id in 0..200_000 {
                if tags.is_full() {
                    tags.grow(hash);
                    if id > 20_000 {
                        worst = worst.max(tags.bytes() as f64 / f64::from(id));
                    }
                }
                tags.insert(hash(id), id);
            }
            assert!(worst < 8.7, "{worst} bytes for each id at phase {phase}");
        }
    }
}
