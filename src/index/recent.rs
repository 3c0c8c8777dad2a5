//! Full entries in memory: a bounded cache before SQL, and what is not yet committed, which no eviction may hide.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::model::entry::{Candidates, Entry};
use crate::model::key::KeyHash;

/// Keys share one of so many change counters: a false alarm costs one more read.
const EPOCHS: usize = 1024;
/// What an entry takes beside its texts, roughly.
const ENTRY_BYTES: usize = 512;
const HEADER_BYTES: usize = 64;

/// What is known of a key without the table.
pub(super) enum Recalled {
    Here(Candidates),
    /// Forgotten, though the database may still have it.
    Forgotten,
    Nothing,
}

/// The cache and the pinned. Changes are made under the index's order lock, so that both agree.
pub(super) struct Recent {
    cache: Cache<KeyHash, Candidates, Weigh>,
    pending: RwLock<HashMap<KeyHash, Pinned>>,
    epochs: Box<[AtomicU64]>,
}

struct Pinned {
    /// Empty: forgotten.
    candidates: Candidates,
    seq: u64,
    /// An earlier change of this key failed: what is here is not what the database will hold.
    tainted: bool,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<KeyHash, Candidates> for Weigh {
    fn weight(&self, _key: &KeyHash, candidates: &Candidates) -> u64 {
        candidates.iter().map(entry_bytes).sum::<usize>() as u64 + 64
    }
}

impl Recent {
    pub(super) fn new(bytes: u64) -> Recent {
        let items = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).max(16);
        Recent {
            cache: Cache::with_weighter(items, bytes, Weigh),
            pending: RwLock::new(HashMap::new()),
            epochs: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn get(&self, key: &KeyHash) -> Recalled {
        if let Some(candidates) = self.cache.get(key) {
            return Recalled::Here(candidates);
        }
        match self.pending.read().get(key) {
            Some(pinned) if pinned.candidates.is_empty() => Recalled::Forgotten,
            Some(pinned) => Recalled::Here(pinned.candidates.clone()),
            None => Recalled::Nothing,
        }
    }

    /// Changes whenever an entry of the key does. Read it before what it guards.
    pub(super) fn epoch(&self, key: &KeyHash) -> u64 {
        self.epoch_of(key).load(Ordering::Acquire)
    }

    /// Keeps what was read from the database, unless the key has changed since `epoch`. False when it has.
    pub(super) fn fill(&self, key: &KeyHash, epoch: u64, candidates: &Candidates) -> bool {
        if self.epoch(key) != epoch {
            return false;
        }
        if !candidates.is_empty() {
            self.cache.insert(*key, candidates.clone());
        }
        true
    }

    /// Makes `candidates` the answer, pinned until `settle` or `fail` with the same `seq`. Empty: forgotten.
    pub(super) fn set(&self, key: &KeyHash, candidates: Candidates, seq: u64) {
        self.epoch_of(key).fetch_add(1, Ordering::AcqRel);
        if candidates.is_empty() {
            self.cache.remove(key);
        } else {
            self.cache.insert(*key, candidates.clone());
        }
        let mut pending = self.pending.write();
        let tainted = pending.get(key).is_some_and(|pinned| pinned.tainted);
        pending.insert(*key, Pinned { candidates, seq, tainted });
    }

    /// The change numbered `seq` is committed.
    pub(super) fn settle(&self, key: &KeyHash, seq: u64) {
        let mut pending = self.pending.write();
        if pending.get(key).is_some_and(|pinned| pinned.seq == seq)
            && let Some(pinned) = pending.remove(key)
            && pinned.tainted
        {
            self.epoch_of(key).fetch_add(1, Ordering::AcqRel);
            self.cache.remove(key);
        }
    }

    /// The change numbered `seq` will not be committed. True when nothing later stands for the key.
    pub(super) fn fail(&self, key: &KeyHash, seq: u64) -> bool {
        self.epoch_of(key).fetch_add(1, Ordering::AcqRel);
        self.cache.remove(key);
        let mut pending = self.pending.write();
        let Some(pinned) = pending.get_mut(key) else { return true };
        if pinned.seq == seq {
            pending.remove(key);
            return true;
        }
        pinned.tainted = true;
        let was_forgotten = pinned.candidates.is_empty();
        pinned.candidates = pinned.candidates.iter().filter(|entry| entry.seq != seq).cloned().collect();
        if pinned.candidates.is_empty() && !was_forgotten {
            pending.remove(key);
            return true;
        }
        false
    }

    /// Drops a committed answer from the cache. False when a change of the key is under way.
    pub(super) fn drop_settled(&self, key: &KeyHash) -> bool {
        if self.pending.read().contains_key(key) {
            return false;
        }
        self.epoch_of(key).fetch_add(1, Ordering::AcqRel);
        self.cache.remove(key);
        true
    }

    pub(super) fn len(&self) -> u64 {
        self.cache.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    fn epoch_of(&self, key: &KeyHash) -> &AtomicU64 {
        &self.epochs[usize::from(u16::from_le_bytes([key.0[0], key.0[1]])) % EPOCHS]
    }
}

/// What an entry takes in memory, roughly and rather too much.
pub(super) fn entry_bytes(entry: &Arc<Entry>) -> usize {
    let headers: usize =
        entry.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum();
    let vary: usize =
        entry.vary.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len) + HEADER_BYTES).sum();
    let key = entry.key.upstream.len() + entry.key.path.len() + entry.key.variant.len();
    ENTRY_BYTES + headers + vary + key + entry.refs.len() * 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing;

    fn candidates(path: &str, seq: u64) -> (KeyHash, Candidates) {
        let mut entry = testing::entry(path, Some(b"x"));
        entry.seq = seq;
        (entry.hash, Arc::from([Arc::new(entry)]))
    }

    #[test]
    fn eviction_never_hides_what_is_not_committed() {
        let recent = Recent::new(4096);
        let (key, first) = candidates("first", 1);
        recent.set(&key, first, 1);
        for n in 2..200 {
            let (other, more) = candidates(&n.to_string(), n);
            recent.set(&other, more, n);
        }
        assert!(matches!(recent.get(&key), Recalled::Here(_)));
        assert!(recent.bytes() <= 4096, "{}", recent.bytes());
        recent.settle(&key, 1);
        for n in 2..200 {
            let (other, more) = candidates(&n.to_string(), n);
            recent.set(&other, more, n);
        }
        assert!(matches!(recent.get(&key), Recalled::Nothing), "once committed it may go");
    }

    #[test]
    fn what_was_read_before_a_change_does_not_overwrite_it() {
        let recent = Recent::new(1 << 20);
        let (key, old) = candidates("a", 1);
        let epoch = recent.epoch(&key);
        let (_, new) = candidates("a", 2);
        recent.set(&key, new, 2);
        assert!(!recent.fill(&key, epoch, &old));
        let Recalled::Here(found) = recent.get(&key) else { panic!("is here") };
        assert_eq!(found[0].seq, 2);
    }

    #[test]
    fn forgotten_until_committed_then_nothing() {
        let recent = Recent::new(1 << 20);
        let (key, old) = candidates("a", 1);
        recent.set(&key, old, 1);
        recent.set(&key, Arc::from([]), 2);
        recent.settle(&key, 1);
        assert!(matches!(recent.get(&key), Recalled::Forgotten));
        recent.settle(&key, 2);
        assert!(matches!(recent.get(&key), Recalled::Nothing));
    }

    #[test]
    fn a_failed_change_is_taken_out_of_what_was_built_on_it() {
        let recent = Recent::new(1 << 20);
        let (key, one) = candidates("a", 1);
        let (_, two) = candidates("a", 2);
        recent.set(&key, one.clone(), 1);
        recent.set(&key, Arc::from([two[0].clone(), one[0].clone()]), 2);
        assert!(!recent.fail(&key, 1));
        let Recalled::Here(found) = recent.get(&key) else { panic!("is here") };
        assert_eq!(found.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2]);
        recent.settle(&key, 2);
        assert!(matches!(recent.get(&key), Recalled::Nothing), "the database is asked what it has");
    }
}
