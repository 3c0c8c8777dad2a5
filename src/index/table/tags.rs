//! One shard of an open-addressing index: an eight-bit tag and a slot id for each thing found by one kind of prefix.
//!
//! Buckets hold twelve entries in one cache line and count what spilled past them, so a look-up of something absent
//! mostly reads one line and deleting leaves no tombstones (the shape of F14, `folly/container/F14.md`). Memory comes
//! in pages of one size that are never given back or copied: growing a shard appends pages and files the ids anew, so
//! the only transient memory is the list of one shard's ids.

const WAYS: usize = 12;
const PAGE_BUCKETS: usize = 64;
/// Bytes of a page of buckets.
pub(super) const PAGE_BYTES: u64 = (PAGE_BUCKETS * size_of::<Bucket>()) as u64;
/// Filled up to this share, in percent, before it grows.
const FULL_PERCENT: usize = 85;
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
struct Bucket {
    /// Twelve tags (0: free), then the number of entries that found this bucket full.
    head: [u8; 16],
    ids: [u32; WAYS],
}

const EMPTY: Bucket = Bucket { head: [0; 16], ids: [0; WAYS] };

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

    /// Reads one cache line: batches call it for many hashes in a row, so that the lines are fetched side by side.
    pub(super) fn first(&self, hash: u64) -> Home {
        if self.pages.is_empty() {
            return Home::Nothing;
        }
        let bucket = self.bucket(self.home(hash));
        let found = bucket.matches(tag(hash));
        if found != 0 {
            return Home::Maybe(bucket.ids[way(found)]);
        }
        if bucket.spilled() == 0 { Home::Nothing } else { Home::Elsewhere }
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
            if bucket.spilled() == 0 {
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
            let free = bucket.matches(0);
            if free != 0 {
                let way = way(free);
                bucket.head[way] = tag(hash);
                bucket.ids[way] = id;
                self.len += 1;
                return;
            }
            bucket.head[WAYS] = bucket.spilled().saturating_add(1);
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
            if bucket.spilled() == 0 {
                return false;
            }
        }
        false
    }

    fn unspill(&mut self, home: usize, steps: usize) {
        let buckets = self.buckets();
        for step in 0..steps {
            let bucket = self.bucket_mut((home + step) % buckets);
            if bucket.spilled() != SPILLED_FOR_EVER {
                bucket.head[WAYS] -= 1;
            }
        }
    }

    /// Appends pages up to this shard's next size and files every id anew under `hash_of` it.
    pub(super) fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let pages = self.pages_after(self.pages.len());
        self.resize(pages, hash_of);
    }

    fn resize(&mut self, pages: usize, hash_of: impl Fn(u32) -> u64) {
        let mut ids = Vec::with_capacity(self.len);
        for bucket in self.pages.iter_mut().flat_map(|page| page.iter_mut()) {
            ids.extend((0..WAYS).filter(|way| bucket.head[*way] != 0).map(|way| bucket.ids[way]));
            bucket.head = [0; 16];
        }
        self.pages.reserve_exact(pages - self.pages.len());
        while self.pages.len() < pages {
            self.pages.push(Box::new([EMPTY; PAGE_BUCKETS]));
        }
        self.len = 0;
        for id in ids {
            self.insert(hash_of(id), id);
        }
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
    fn spilled(&self) -> u8 {
        self.head[WAYS]
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
            assert_ne!(tags.first(hash(id)), Home::Nothing);
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
        let nothing = (0..10_000).filter(|id| tags.first(hash(*id)) == Home::Nothing).count();
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
            assert!(worst < 8.3, "{worst} bytes for each id at phase {phase}");
        }
    }
}
