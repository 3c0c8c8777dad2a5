//! Questions: the memory answers, and what it does not know SQL does, in sorted batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::{PrefixAsk, Remote};
use super::core::PROMISED;
use super::error::IndexError;
use super::recent::Recalled;
use super::sqlite::places::{self, Located};
use super::table::{Known, Use};
use super::{Index, Presence};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::{Digest, Prefix};
use crate::model::entry::{Candidates, Entry};
use crate::model::key::KeyHash;
use crate::model::place::Place;
use crate::model::realm::Realm;
use crate::model::time::Timestamp;

/// Asks answered before other tasks of the thread have their turn: well under a millisecond.
const TURN: usize = 8192;

impl Index {
    /// The answers stored under a key, from memory alone. The hot path: no SQL, no allocation.
    pub fn recall(&self, key: &KeyHash) -> Presence<Candidates> {
        match self.core.recent.get(key) {
            Recalled::Here(candidates) => Presence::Present(candidates),
            Recalled::Forgotten => Presence::Absent,
            Recalled::Nothing if self.core.is_complete() && !self.core.table.has_key(&key.0) => Presence::Absent,
            Recalled::Nothing => Presence::Unknown,
        }
    }

    /// The answers stored under a key, newest first; None: no entry. An entry's body may have lost its place.
    pub async fn candidates(&self, key: &KeyHash) -> Result<Option<Candidates>, IndexError> {
        loop {
            let epoch = self.core.recent.epoch(key);
            match self.recall(key) {
                Presence::Present(candidates) => return Ok(Some(candidates)),
                Presence::Absent => return Ok(None),
                Presence::Unknown => {}
            }
            self.count_read();
            let found = self.core.catalog.lookup(std::slice::from_ref(key)).await?;
            let candidates: Candidates = found.into_iter().flatten().map(Arc::new).collect();
            let order = self.core.order.lock();
            let unchanged = self.core.recent.fill(key, epoch, &candidates);
            drop(order);
            if unchanged {
                return Ok((!candidates.is_empty()).then_some(candidates));
            }
        }
    }

    /// Where a blob is, from memory alone.
    pub fn place(&self, digest: &Digest) -> Presence<Place> {
        if let Some(seat) = self.core.table.get(&digest.prefix()) {
            return Presence::Present(seat.place);
        }
        // What that look missed may have come since, with the end of loading: an absence counts only after it.
        let complete = self.core.is_complete();
        let seat = if complete { self.core.table.get(&digest.prefix()) } else { None };
        match seat.map(|seat| seat.place).or_else(|| self.core.unseated.get(digest)) {
            Some(place) => Presence::Present(place),
            None if complete => Presence::Absent,
            None => Presence::Unknown,
        }
    }

    /// Where a blob is; None: nowhere.
    pub async fn find_place(&self, digest: &Digest) -> Result<Option<Place>, IndexError> {
        match self.place(digest) {
            Presence::Present(place) => Ok(Some(place)),
            Presence::Absent => Ok(None),
            Presence::Unknown => {
                let located = self.locate(std::slice::from_ref(digest)).await?.pop().flatten();
                Ok(located.map(|found| found.place))
            }
        }
    }

    /// The sums by which the world knows each blob, in the order asked; empty for one that is not here.
    pub async fn sums_of(&self, digests: &[Digest]) -> Result<Vec<Vec<Checksum>>, IndexError> {
        let mut located = self.locate(digests).await?;
        // A row that is missing may wait to be committed.
        if located.iter().any(Option::is_none) && self.core.queue.bytes() > 0 {
            self.flush().await?;
            located = self.locate(digests).await?;
        }
        Ok(located.into_iter().map(|located| located.map(|located| located.sums).unwrap_or_default()).collect())
    }

    /// The rows of `digests` from SQL, in their order: what is here, else what the bucket has.
    pub(super) async fn locate(&self, digests: &[Digest]) -> Result<Vec<Option<Located>>, IndexError> {
        let mut found = self.locate_here(digests).await?;
        let elsewhere: Vec<usize> = (0..found.len()).filter(|at| found[*at].is_none()).collect();
        let asked: Vec<Digest> = elsewhere.iter().map(|at| digests[*at]).collect();
        for ((at, digest), remote) in elsewhere.into_iter().zip(&asked).zip(self.remote_of(&asked).await?) {
            found[at] = remote.map(|Remote { place, class, sums }| {
                let used = Use::default();
                Located { digest: *digest, place, class, used, sums }
            });
        }
        Ok(found)
    }

    /// The rows of the places: one read transaction, asked in sorted order.
    async fn locate_here(&self, digests: &[Digest]) -> Result<Vec<Option<Located>>, IndexError> {
        self.count_read();
        let digests = digests.to_vec();
        let read = move |connection: &rusqlite::Connection| {
            let mut order: Vec<usize> = (0..digests.len()).collect();
            order.sort_unstable_by_key(|at| digests[*at]);
            let mut found = vec![None; digests.len()];
            for at in order {
                found[at] = places::find(connection, &digests[at])?;
            }
            Ok(found)
        };
        self.core.places.readers.read(read).await
    }

    /// Those of `sums` that none of `realms` may read here, in the order asked (FindMissing). What is here counts as used.
    pub async fn missing(&self, realms: &[Realm], sums: &[Checksum]) -> Result<Vec<Checksum>, IndexError> {
        // Read before the table: what it does not find may come while it loads, never go.
        let complete = self.core.is_complete();
        let now = self.core.minutes();
        let mut known = Vec::with_capacity(sums.len());
        let mut found = 0;
        for turn in sums.chunks(TURN) {
            found += self.core.table.find_sums(realms, turn, now, &mut known);
            if sums.len() > TURN {
                tokio::task::yield_now().await;
            }
        }
        let complete = complete && self.core.is_complete();
        let unsure = |known: Known| known == Known::Unsure || known == Known::NotFound && !complete;
        let asked: Vec<usize> =
            known.iter().enumerate().filter(|(_, known)| unsure(**known)).map(|(at, _)| at).collect();
        if !asked.is_empty() {
            let unknown: Vec<Checksum> = asked.iter().map(|at| sums[*at]).collect();
            let present = self.present_in_sql(realms, &unknown).await?;
            for (at, present) in asked.into_iter().zip(present) {
                known[at] = if present { Known::Present } else { Known::NotFound };
            }
        }
        // Room at once: a list of megabytes that grows step by step is copied as often.
        let mut missing = Vec::with_capacity(sums.len() - found);
        missing.extend(sums.iter().zip(known).filter(|(_, known)| *known != Known::Present).map(|(sum, _)| *sum));
        Ok(missing)
    }

    async fn present_in_sql(&self, realms: &[Realm], sums: &[Checksum]) -> Result<Vec<bool>, IndexError> {
        let digests = self.resolve_in_sql(realms, sums).await?;
        let mut present: Vec<bool> = Vec::with_capacity(digests.len());
        let mut unknown = Vec::new();
        for (at, digest) in digests.into_iter().enumerate() {
            let place = digest.map_or(Presence::Absent, |digest| self.place(&digest));
            present.push(matches!(place, Presence::Present(_)));
            if let (Presence::Unknown, Some(digest)) = (place, digest) {
                unknown.push((at, digest));
            }
        }
        if !unknown.is_empty() {
            let digests: Vec<Digest> = unknown.iter().map(|(_, digest)| *digest).collect();
            for ((at, _), located) in unknown.into_iter().zip(self.locate(&digests).await?) {
                present[at] = located.is_some();
            }
        }
        Ok(present)
    }

    /// The digests behind sums, from the catalog; changes that it does not have yet are committed first.
    async fn resolve_in_sql(&self, realms: &[Realm], sums: &[Checksum]) -> Result<Vec<Option<Digest>>, IndexError> {
        self.count_read();
        let found = self.core.catalog.resolve(realms, sums).await?;
        if found.iter().all(Option::is_some) || self.core.queue.bytes() == 0 {
            return Ok(found);
        }
        self.flush().await?;
        self.core.catalog.resolve(realms, sums).await
    }

    /// The blob behind a checksum, if one of `realms` may read it here.
    pub async fn resolve(&self, realms: &[Realm], sum: &Checksum) -> Result<Option<(Digest, Place)>, IndexError> {
        if sum.algorithm() == Algorithm::Sha256 {
            let complete = self.core.is_complete();
            match self.core.table.find_sum(realms, &sum.prefix()) {
                (Known::NotFound, _) if complete => return Ok(None),
                (Known::Present, Some((prefix, place))) => {
                    let named = self.core.name_of(sum).filter(|digest| digest.prefix() == prefix);
                    if let Some(digest) = named {
                        return Ok(Some((digest, place)));
                    }
                }
                (Known::NotFound | Known::Unsure | Known::Present, _) => {}
            }
        }
        let found = self.resolve_in_sql(realms, std::slice::from_ref(sum)).await?.pop().flatten();
        let Some(digest) = found else { return Ok(None) };
        self.core.remember_name(sum, &digest);
        Ok(self.find_place(&digest).await?.map(|place| (digest, place)))
    }

    /// Whether one of `realms` may read a blob, from memory alone.
    pub fn readable(&self, realms: &[Realm], digest: &Digest) -> Presence<()> {
        let complete = self.core.is_complete();
        match self.core.table.readable(realms, &digest.prefix()) {
            Known::Present => Presence::Present(()),
            Known::NotFound if complete => Presence::Absent,
            Known::NotFound | Known::Unsure => Presence::Unknown,
        }
    }

    /// Whether one of `realms` may read a blob.
    pub async fn is_readable(&self, realms: &[Realm], digest: &Digest) -> Result<bool, IndexError> {
        match self.readable(realms, digest) {
            Presence::Present(()) => Ok(true),
            Presence::Absent => Ok(false),
            Presence::Unknown => {
                self.count_read();
                let found = self.core.catalog.readable(realms.to_vec(), *digest).await?;
                if found || self.core.queue.bytes() == 0 {
                    return Ok(found);
                }
                self.flush().await?;
                self.core.catalog.readable(realms.to_vec(), *digest).await
            }
        }
    }

    /// Counts a use; it reaches the disk hours later.
    pub fn touch(&self, digest: &Digest) {
        self.core.table.touch(&digest.prefix(), self.core.minutes());
    }

    /// When and how often a blob was used, as far as the table knows it.
    pub fn used(&self, digest: &Digest) -> Option<Use> {
        self.core.table.get(&digest.prefix()).map(|seat| seat.used)
    }

    /// Promises not to evict a blob until `until`, which is at most one lease period ahead. False when it is not here
    /// or not known to be: then nothing is promised.
    ///
    /// Promises are kept in memory alone. That there are any is written down first, so that after a restart everything
    /// counts as promised, for one period.
    pub async fn lease(&self, digest: &Digest, until: Timestamp) -> Result<bool, IndexError> {
        if until > *self.core.promised.lock() {
            self.will_promise(until).await?;
        }
        let left = until.since(self.core.clock.now());
        let from = self.core.minutes().plus(left).minus(self.core.settings.lease_period);
        Ok(self.core.table.lease(&digest.prefix(), from))
    }

    /// Writes down that promises may run until one period after `until`, so that the next period writes nothing.
    async fn will_promise(&self, until: Timestamp) -> Result<(), IndexError> {
        let upto = until.plus(self.core.settings.lease_period);
        self.put_fact(PROMISED, upto.0.to_le_bytes().to_vec().into()).await?;
        let mut promised = self.core.promised.lock();
        *promised = (*promised).max(upto);
        Ok(())
    }

    /// Whether a blob is promised. For one period after a start, everything is, if anything was before it.
    pub fn leased(&self, digest: &Digest) -> bool {
        self.core.all_leased()
            || self.core.table.is_leased(&digest.prefix(), self.core.minutes(), self.core.settings.lease_period)
    }

    /// Entries of one upstream whose path starts with a prefix, by path. What was recorded so far is in it.
    pub async fn by_prefix(&self, ask: PrefixAsk<'_>) -> Result<Vec<Entry>, IndexError> {
        self.flush().await?;
        self.core.catalog.by_prefix(ask).await
    }

    /// Keys changed after `since`, in commit order.
    ///
    /// *Errors*: `Behind` when the feed no longer reaches back so far.
    pub async fn changes(&self, since: u64, limit: usize) -> Result<Vec<(u64, KeyHash)>, IndexError> {
        self.core.catalog.changes(since, limit).await
    }

    /// Keys whose entries refer to a blob (an action's output, a manifest's layer), at most `limit`.
    pub async fn referrers(&self, digest: &Digest, limit: usize) -> Result<Vec<KeyHash>, IndexError> {
        self.core.catalog.referrers(*digest, limit).await
    }

    /// Full digests of table prefixes, from SQL: sorted, one read transaction.
    pub(super) async fn locate_prefixes(&self, mut prefixes: Vec<Prefix>) -> Result<Vec<Located>, IndexError> {
        self.count_read();
        prefixes.sort_unstable();
        let read = move |connection: &rusqlite::Connection| places::find_prefixes(connection, &prefixes);
        self.core.places.readers.read(read).await
    }

    pub(super) fn count_read(&self) {
        self.core.gauges.sql_reads.fetch_add(1, Ordering::Relaxed);
    }
}
