//! Batched look-ups by SHA-256 (FindMissing): a hundred thousand at a time, in groups whose cache misses overlap.

use super::realms::Right;
use super::slot::{Minutes, NO_SLOT};
use super::tags::{EMPTY, Home};
use super::{Table, local_of, region_of, shard_of};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Prefix;
use crate::model::place::Place;
use crate::model::realm::Realm;

/// Asks answered under one taking of the locks.
const GROUP: usize = 4096;
/// Asks whose cache lines are fetched side by side.
const STRIDE: usize = 64;

/// What the table says of one ask. An absence is the table's alone; the index knows whether the table is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Present,
    /// Not here, or not for these realms.
    NotFound,
    /// Who may read it, or whether it is here, is for the catalog to say.
    Unsure,
}

impl Table {
    /// Answers `asks` in order, appending to `out`; what is present counts as used `now`. Returns how many it found.
    pub fn find_sums(&self, realms: &[Realm], asks: &[Checksum], now: Minutes, out: &mut Vec<Known>) -> usize {
        let rights = self.realms.read().judge(realms);
        out.reserve(asks.len());
        let before = out.len();
        for group in asks.chunks(GROUP) {
            self.find_group(&rights, group, now, out);
        }
        out[before..].iter().filter(|known| **known == Known::Present).count()
    }

    fn find_group(&self, rights: &[Right], group: &[Checksum], now: Minutes, out: &mut Vec<Known>) {
        let sums: Vec<_> = self.sums.iter().map(|shard| shard.read()).collect();
        let regions: Vec<_> = self.regions.iter().map(|region| region.read()).collect();
        let slot = |id: u32| regions[region_of(id)].slot(local_of(id));
        let mut hashes = [0_u64; STRIDE];
        let mut buckets = [&EMPTY; STRIDE];
        let mut homes = [Home::Nothing; STRIDE];
        let mut slots = [&NO_SLOT; STRIDE];
        for asks in group.chunks(STRIDE) {
            // Short loops whose reads do not depend on each other: their cache misses overlap, and the loop that
            // decides finds everything near.
            for ((hash, bucket), ask) in hashes.iter_mut().zip(&mut buckets).zip(asks) {
                *hash = self.hash(&ask.prefix());
                *bucket = sums[shard_of(*hash)].home_of(*hash);
            }
            std::hint::black_box(buckets[..asks.len()].iter().fold(0, |all, bucket| all ^ bucket.fetch()));
            let mut near = &NO_SLOT;
            for at in 0..asks.len() {
                homes[at] = buckets[at].first(hashes[at]);
                // Where there is nothing to fetch, the last one again: it is near already.
                near = if let Home::Maybe(id) = homes[at] { slot(id) } else { near };
                slots[at] = near;
            }
            std::hint::black_box(slots[..asks.len()].iter().fold(0, |all, slot| all ^ slot.fetch()));
            for (at, ask) in asks.iter().enumerate() {
                if ask.algorithm() != Algorithm::Sha256 {
                    out.push(Known::Unsure);
                    continue;
                }
                let prefix = ask.prefix();
                let found = match homes[at] {
                    Home::Nothing => None,
                    Home::Maybe(_) if slots[at].sum == prefix => Some(slots[at]),
                    Home::Maybe(_) | Home::Elsewhere => {
                        let hash = hashes[at];
                        sums[shard_of(hash)].find(hash, |id| slot(id).sum == prefix).map(slot)
                    }
                };
                out.push(found.map_or(Known::NotFound, |slot| {
                    let known = known(rights, slot.realms);
                    if known == Known::Present {
                        slot.renew(now);
                    }
                    known
                }));
            }
        }
    }

    /// The digest and place behind a SHA-256, if one of `realms` may read it.
    pub fn find_sum(&self, realms: &[Realm], sum: &Prefix) -> (Known, Option<(Prefix, Place)>) {
        let hash = self.hash(sum);
        let shard = self.sums[shard_of(hash)].read();
        let Some(id) = shard.find(hash, |id| self.read_slot(id, |slot| slot.sum == *sum)) else {
            return (Known::NotFound, None);
        };
        let (set, digest, place) = self.read_slot(id, |slot| (slot.realms, slot.digest, slot.place()));
        match self.realms.read().right(set, realms) {
            Right::Yes => (Known::Present, Some((digest, place))),
            Right::No => (Known::NotFound, None),
            Right::Unknown => (Known::Unsure, Some((digest, place))),
        }
    }

    /// Whether one of `realms` may read the blob under `digest`.
    pub fn readable(&self, realms: &[Realm], digest: &Prefix) -> Known {
        let Some(set) = self.with_blob(digest, |slot| slot.realms) else { return Known::NotFound };
        match self.realms.read().right(set, realms) {
            Right::Yes => Known::Present,
            Right::No => Known::NotFound,
            Right::Unknown => Known::Unsure,
        }
    }
}

fn known(rights: &[Right], set: u16) -> Known {
    match rights.get(usize::from(set)) {
        Some(Right::Yes) => Known::Present,
        Some(Right::No) => Known::NotFound,
        // A set made since the batch began, or one too many to be numbered.
        Some(Right::Unknown) | None => Known::Unsure,
    }
}
