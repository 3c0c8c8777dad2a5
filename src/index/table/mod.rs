//! The compact table in memory: which blobs are here, by digest, by SHA-256 and by key.
//!
//! It keeps 16-byte prefixes and answers existence and places without SQL. It is sharded three ways, by the hash of
//! what is asked: regions of slots with the index by digest, and two families of indexes by SHA-256 and by key that
//! point into them. One mutation runs at a time and holds at most one write lock at once, readers take sum or key
//! shards before regions: there is no order in which they could wait for each other.
//!
//! It is not the truth but its picture: the databases are. Whether an absence here means anything (`loading`, over
//! its bound) is for the index to say.

mod batch;
mod realms;
mod region;
mod slot;
mod tags;
mod usage;

#[cfg(test)]
mod model_test;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use self::realms::{NOBODY, Realms, UNCERTAIN};
use self::region::Region;
use self::slot::{NO_PREFIX, Slot};
use self::tags::Tags;
use crate::model::digest::Prefix;
use crate::model::place::{Class, Place};
use crate::model::realm::Realm;
use crate::runtime::clock::random_bytes;

pub use self::batch::Known;
pub use self::slot::{Minutes, Use};
pub use self::usage::Warmth;
pub(in crate::index) use self::usage::{ColdAsk, ColdScan};

/// Shards of each kind.
const SHARDS: usize = 32;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();

/// A blob to seat.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    pub digest: Prefix,
    pub sha256: Option<Prefix>,
    pub place: Place,
    pub class: Class,
    pub used: Use,
}

/// What `put` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seated {
    /// It was not known before, or stood at this very place.
    Here,
    /// A better class took the seat; the old place is no longer named.
    Replaced(Place),
    /// Another place stood there and stays.
    Kept(Place),
    /// The table is at its bound, or the blob too large for a slot.
    Refused,
}

/// What the table knows of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    pub digest: Prefix,
    pub place: Place,
    pub class: Class,
    pub used: Use,
    pub leased: bool,
}

/// Which of the two families of indexes beside the regions.
#[derive(Clone, Copy)]
enum Family {
    Sums,
    Keys,
}

/// The table. All methods are short and none blocks on I/O.
pub struct Table {
    regions: Box<[RwLock<Region>]>,
    sums: Box<[RwLock<Tags>]>,
    keys: Box<[RwLock<Tags>]>,
    realms: RwLock<Realms>,
    mutating: Mutex<()>,
    seed: [u64; 2],
    bytes: AtomicU64,
    max_bytes: u64,
    /// Something did not fit: absence proves nothing any more.
    refused: AtomicBool,
    leased_bytes: [AtomicU64; Class::ALL.len()],
}

impl Table {
    /// An empty table that grows to at most about `max_bytes`.
    pub fn new(max_bytes: u64) -> Table {
        let phase = |shard: usize| shard as f64 / SHARDS as f64;
        let tags = || (0..SHARDS).map(|shard| RwLock::new(Tags::new(phase(shard)))).collect();
        let word = || u64::from_le_bytes(random_bytes());
        Table {
            regions: (0..SHARDS).map(|shard| RwLock::new(Region::new(phase(shard)))).collect(),
            sums: tags(),
            keys: tags(),
            realms: RwLock::new(Realms::new()),
            mutating: Mutex::new(()),
            seed: [word(), word() | 1],
            bytes: AtomicU64::new(0),
            max_bytes,
            refused: AtomicBool::new(false),
            leased_bytes: Default::default(),
        }
    }

    /// Makes room for blobs and keys that are about to come, so that the shards need not grow to their size step by
    /// step. For an empty table; too low an estimate costs time, too high a one memory.
    pub fn reserve(&self, blobs: u64, keys: u64) {
        let _alone = self.mutating.lock();
        // Slots take their part of the bound when they come.
        let share = |count: u64| usize::try_from(count.min(self.max_bytes / 128) / SHARDS as u64).unwrap_or(0);
        for region in &self.regions {
            let mut region = region.write();
            let before = region.bytes();
            region.digests.reserve(share(blobs));
            self.account(before, region.bytes());
        }
        for (family, count) in [(&self.sums, blobs), (&self.keys, keys)] {
            for shard in family {
                let mut shard = shard.write();
                let before = shard.bytes();
                shard.reserve(share(count));
                self.account(before, shard.bytes());
            }
        }
    }

    /// Bytes held by slots and indexes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True once something was refused: what is not found may exist all the same.
    pub fn is_partial(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Says that something exists which the table does not hold.
    pub fn set_partial(&self) {
        self.refused.store(true, Ordering::Release);
    }

    pub fn blobs(&self) -> u64 {
        self.regions.iter().map(|region| region.read().digests.len() as u64).sum()
    }

    pub fn keys(&self) -> u64 {
        self.keys.iter().map(|shard| shard.read().len() as u64).sum()
    }

    /// What is known of a digest.
    pub fn get(&self, digest: &Prefix) -> Option<Seat> {
        self.with_blob(digest, |slot| Seat {
            digest: slot.digest,
            place: slot.place(),
            class: slot.class(),
            used: slot.usage(),
            leased: slot.is_leased(),
        })
    }

    pub fn has_key(&self, key: &Prefix) -> bool {
        self.find_key(key).is_some()
    }

    /// Seats a blob. Where one stands already, the better class keeps the seat, else the elder.
    ///
    /// A place in the bucket gives way to a local one, and takes the seat of none.
    pub fn put(&self, blob: &Blob) -> Seated {
        self.put_for(blob, NOBODY)
    }

    /// Like `put`, for a blob of which the catalog knows who may read it.
    pub fn put_unsure(&self, blob: &Blob) -> Seated {
        self.put_for(blob, UNCERTAIN)
    }

    fn put_for(&self, blob: &Blob, readers: u16) -> Seated {
        let _alone = self.mutating.lock();
        let hash = self.hash(&blob.digest);
        let sum = blob.sha256.filter(|sum| *sum != NO_PREFIX);
        let mut region = self.regions[shard_of(hash)].write();
        let known = region.digests.find(hash, |id| region.slot(local_of(id)).digest == blob.digest);
        let seated = match known {
            Some(id) => reseat(region.slot_mut(local_of(id)), blob),
            None => Seated::Here,
        };
        let Some(id) = known.or_else(|| self.seat(&mut region, hash, blob, readers)) else {
            self.set_partial();
            return Seated::Refused;
        };
        let slot = region.slot_mut(local_of(id));
        let new_sum = sum.filter(|_| slot.sum == NO_PREFIX);
        slot.sum = new_sum.unwrap_or(slot.sum);
        drop(region);
        if let Some(sum) = new_sum {
            self.file(Family::Sums, &sum, id);
        }
        seated
    }

    /// Takes a blob out if it still stands at `place`. Its key stays known.
    pub fn remove_if(&self, digest: &Prefix, place: &Place) -> bool {
        let _alone = self.mutating.lock();
        let Some(id) = self.find_blob(digest) else { return false };
        let (standing, sum) = self.read_slot(id, |slot| (slot.place(), slot.sum));
        if standing != *place {
            return false;
        }
        if sum != NO_PREFIX {
            self.unfile(Family::Sums, &sum, id);
        }
        let mut region = self.regions[region_of(id)].write();
        region.digests.remove(self.hash(digest), id);
        let local = local_of(id);
        if region.slot(local).key == NO_PREFIX {
            region.release(local);
        } else {
            region.slot_mut(local).turn_into_alias();
        }
        true
    }

    /// Gives a blob another place if it still stands at `from`.
    pub fn move_if(&self, digest: &Prefix, from: &Place, to: &Place) -> bool {
        let _alone = self.mutating.lock();
        let Some(id) = self.find_blob(digest) else { return false };
        let mut region = self.regions[region_of(id)].write();
        let slot = region.slot_mut(local_of(id));
        let class = slot.class();
        slot.place() == *from && slot.set_place(to, class)
    }

    /// Lets a realm read a blob; false when the blob is not here.
    pub fn add_realm(&self, digest: &Prefix, realm: &Realm) -> bool {
        let _alone = self.mutating.lock();
        let Some(id) = self.find_blob(digest) else { return false };
        let set = self.read_slot(id, |slot| slot.realms);
        let more = self.realms.write().with(set, realm);
        if more != set {
            self.regions[region_of(id)].write().slot_mut(local_of(id)).realms = more;
        }
        true
    }

    /// Leaves it to the catalog who may read a blob; false when the blob is not here.
    pub fn make_unsure(&self, digest: &Prefix) -> bool {
        let _alone = self.mutating.lock();
        let Some(id) = self.find_blob(digest) else { return false };
        self.regions[region_of(id)].write().slot_mut(local_of(id)).realms = UNCERTAIN;
        true
    }

    /// Learns the SHA-256 of a blob; false when the blob is not here.
    pub fn add_sum(&self, digest: &Prefix, sum: Prefix) -> bool {
        let _alone = self.mutating.lock();
        let Some(id) = self.find_blob(digest) else { return false };
        if sum != NO_PREFIX {
            self.set_sum(id, sum);
        }
        true
    }

    /// Makes a key known, as naming `digest` where it has a body. False when the table is at its bound.
    pub fn name(&self, key: &Prefix, digest: Option<&Prefix>) -> bool {
        let _alone = self.mutating.lock();
        let digest = digest.copied().unwrap_or(NO_PREFIX);
        if let Some(id) = self.find_key(key) {
            let (named, alias) = self.read_slot(id, |slot| (slot.digest, slot.is_alias()));
            if named == digest {
                return true;
            }
            if alias {
                self.regions[region_of(id)].write().slot_mut(local_of(id)).digest = digest;
                return true;
            }
            self.drop_key(key, id);
        }
        let Some(id) = self.take_home(key, &digest).or_else(|| self.add_alias(key, digest)) else {
            self.set_partial();
            return false;
        };
        self.file(Family::Keys, key, id);
        true
    }

    /// Writes the key into the slot of its blob, if that is here and has no other key yet.
    fn take_home(&self, key: &Prefix, digest: &Prefix) -> Option<u32> {
        let hash = self.hash(digest);
        let mut region = self.regions[shard_of(hash)].write();
        let id = region.digests.find(hash, |id| region.slot(local_of(id)).digest == *digest)?;
        let slot = region.slot_mut(local_of(id));
        if slot.key != NO_PREFIX {
            return None;
        }
        slot.key = *key;
        Some(id)
    }

    /// Forgets a key; false when it was not known.
    pub fn unname(&self, key: &Prefix) -> bool {
        let _alone = self.mutating.lock();
        let Some(id) = self.find_key(key) else { return false };
        self.drop_key(key, id);
        true
    }

    fn drop_key(&self, key: &Prefix, id: u32) {
        self.unfile(Family::Keys, key, id);
        let mut region = self.regions[region_of(id)].write();
        if region.slot(local_of(id)).is_alias() {
            region.release(local_of(id));
        } else {
            region.slot_mut(local_of(id)).key = NO_PREFIX;
        }
    }

    fn add_alias(&self, key: &Prefix, digest: Prefix) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let shard = shard_of(self.hash(key));
        let mut region = self.regions[shard].write();
        let before = region.bytes();
        let local = region.add(Slot::alias(*key, digest));
        self.account(before, region.bytes());
        Some(id_of(shard, local))
    }

    fn seat(&self, region: &mut Region, hash: u64, blob: &Blob, readers: u16) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let mut slot = Slot::blob(blob.digest, &blob.place, blob.class, blob.used)?;
        slot.realms = readers;
        let before = region.bytes();
        let id = id_of(shard_of(hash), region.add(slot));
        if region.digests.is_full() {
            let mut digests = std::mem::replace(&mut region.digests, Tags::new(0.0));
            digests.grow(|id| self.hash(&region.slot(local_of(id)).digest));
            region.digests = digests;
        }
        region.digests.insert(hash, id);
        self.account(before, region.bytes());
        Some(id)
    }

    fn set_sum(&self, id: u32, sum: Prefix) {
        let known = self.read_slot(id, |slot| slot.sum);
        if known != NO_PREFIX {
            return;
        }
        self.regions[region_of(id)].write().slot_mut(local_of(id)).sum = sum;
        self.file(Family::Sums, &sum, id);
    }

    fn file(&self, family: Family, prefix: &Prefix, id: u32) {
        let hash = self.hash(prefix);
        let mut tags = self.family(family)[shard_of(hash)].write();
        if tags.is_full() {
            let before = tags.bytes();
            // Taken once for all: a lock for each slot would make every read wait for the one before.
            let regions: Vec<_> = self.regions.iter().map(|region| region.read()).collect();
            let slot = |id: u32| regions[region_of(id)].slot(local_of(id));
            match family {
                Family::Sums => tags.grow(|id| self.hash(&slot(id).sum)),
                Family::Keys => tags.grow(|id| self.hash(&slot(id).key)),
            }
            self.account(before, tags.bytes());
        }
        tags.insert(hash, id);
    }

    fn unfile(&self, family: Family, prefix: &Prefix, id: u32) {
        let hash = self.hash(prefix);
        self.family(family)[shard_of(hash)].write().remove(hash, id);
    }

    fn family(&self, family: Family) -> &[RwLock<Tags>] {
        match family {
            Family::Sums => &self.sums,
            Family::Keys => &self.keys,
        }
    }

    fn find_blob(&self, digest: &Prefix) -> Option<u32> {
        let hash = self.hash(digest);
        let region = self.regions[shard_of(hash)].read();
        region.digests.find(hash, |id| region.slot(local_of(id)).digest == *digest)
    }

    fn find_key(&self, key: &Prefix) -> Option<u32> {
        let hash = self.hash(key);
        let shard = self.keys[shard_of(hash)].read();
        shard.find(hash, |id| self.read_slot(id, |slot| slot.key == *key))
    }

    /// The slot of a blob, by digest, under its region's read lock.
    fn with_blob<T>(&self, digest: &Prefix, read: impl FnOnce(&Slot) -> T) -> Option<T> {
        let hash = self.hash(digest);
        let region = self.regions[shard_of(hash)].read();
        let id = region.digests.find(hash, |id| region.slot(local_of(id)).digest == *digest)?;
        Some(read(region.slot(local_of(id))))
    }

    fn read_slot<T>(&self, id: u32, read: impl FnOnce(&Slot) -> T) -> T {
        read(self.regions[region_of(id)].read().slot(local_of(id)))
    }

    fn is_full(&self) -> bool {
        self.bytes() >= self.max_bytes
    }

    fn account(&self, before: u64, after: u64) {
        self.bytes.fetch_add(after - before, Ordering::Relaxed);
    }

    /// Seeded, because strangers choose what is hashed and could grind prefixes that fall into one bucket.
    fn hash(&self, prefix: &Prefix) -> u64 {
        let half = |at: usize| u64::from_le_bytes(prefix[at..at + 8].try_into().expect("eight bytes of sixteen"));
        let product = u128::from(half(0) ^ self.seed[0]) * u128::from(half(8) ^ self.seed[1]);
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

fn reseat(slot: &mut Slot, blob: &Blob) -> Seated {
    let standing = slot.place();
    if standing == blob.place {
        return Seated::Here;
    }
    let better = match (standing.tier.is_local(), blob.place.tier.is_local()) {
        (_, false) => false,
        (false, true) => true,
        (true, true) => rank(blob.class) > rank(slot.class()),
    };
    if better && slot.set_place(&blob.place, blob.class) {
        return Seated::Replaced(standing);
    }
    Seated::Kept(standing)
}

/// A blob of a better class takes the seat from a lesser: what an untrusted scope filled must not be all a trusted one has.
pub(in crate::index) const fn rank(class: Class) -> u8 {
    match class {
        Class::Untrusted => 0,
        Class::Document => 1,
        Class::Trusted => 2,
    }
}

fn shard_of(hash: u64) -> usize {
    hash as usize % SHARDS
}

fn region_of(id: u32) -> usize {
    id as usize % SHARDS
}

fn local_of(id: u32) -> u32 {
    id >> SHARD_BITS
}

fn id_of(region: usize, local: u32) -> u32 {
    local << SHARD_BITS | region as u32
}
