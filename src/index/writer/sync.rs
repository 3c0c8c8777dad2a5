//! Bytes first: syncs what a batch's rows will name, each object once, a few side by side.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::runtime::durable::Dirty;

/// Syncs under way at once: a disk merges a few, not many.
const SYNCS: usize = 4;
/// Objects whose sync failed and that are remembered.
const CONDEMNED_MAX: usize = 4096;

/// Why a sync failed, for all who wait on it.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) kind: std::io::ErrorKind,
    pub(super) why: String,
}

/// Objects that failed once: a later sync of them would succeed and prove nothing (the kernel has dropped the pages).
#[derive(Default)]
pub(super) struct Condemned {
    objects: HashMap<u64, Failed>,
}

impl Condemned {
    /// Syncs each object of `dirty` once; returns those that failed, now or before.
    pub(super) fn sync(&mut self, dirty: &[&Dirty]) -> HashMap<u64, Failed> {
        let mut failed = HashMap::new();
        let mut objects: HashMap<u64, &Dirty> = HashMap::new();
        for one in dirty {
            match self.objects.get(&one.object()) {
                Some(why) => {
                    failed.insert(one.object(), why.clone());
                }
                None => {
                    objects.insert(one.object(), one);
                }
            }
        }
        let objects: Vec<(u64, &Dirty)> = objects.into_iter().collect();
        for (object, why) in sync_each(&objects) {
            tracing::error!(
                object,
                why = why.why,
                "bytes could not be made durable: what was written there is given up"
            );
            if self.objects.len() < CONDEMNED_MAX {
                self.objects.insert(object, why.clone());
            }
            failed.insert(object, why);
        }
        failed
    }
}

fn sync_each(objects: &[(u64, &Dirty)]) -> Vec<(u64, Failed)> {
    let failed = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((object, dirty)) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = dirty.sync() {
                failed.lock().push((*object, Failed { kind: error.kind(), why: error.to_string() }));
            }
        }
    };
    if objects.len() < 2 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 1..objects.len().min(SYNCS) {
                scope.spawn(work);
            }
            work();
        });
    }
    failed.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::{Disk, Fate};

    #[test]
    fn one_sync_for_each_object_and_none_after_a_failure() {
        let disk = Disk::new();
        let (good, bad) = (disk.object(1, Fate::Kept), disk.object(2, Fate::Lost));
        let mut condemned = Condemned::default();
        let failed = condemned.sync(&[&good, &bad, &good, &bad]);
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!((disk.syncs(1), disk.syncs(2)), (1, 1));
        let failed = condemned.sync(&[&good, &bad]);
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!((disk.syncs(1), disk.syncs(2)), (2, 1));
    }
}
