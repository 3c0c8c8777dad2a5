//! What eviction, compaction and scrubbing ask and change: cold blobs, warm segments, dropped and moved places.

use std::collections::{HashMap, HashSet};

use super::Index;
use super::error::IndexError;
use super::sqlite::places::{self, Located};
use super::table::{ColdAsk, ColdScan, Warmth};
use super::writer::queue::Work;
use crate::model::digest::{Digest, Prefix};
use crate::model::place::{Class, Place, TierName};
use crate::runtime::durable::Dirty;

/// Scans for one ask, when pinned files stand in the way.
const SCANS_MAX: usize = 16;

/// What could be evicted of one class.
#[derive(Debug, Default)]
pub struct Coldest {
    /// Files, coldest and largest first, neither leased, nor waiting to be remote, nor a document that a kept record of a
    /// build names.
    pub files: Vec<(Digest, Place, Class)>,
    /// How warm each segment is. What is leased in it must be copied forward; ask `segment_blobs`, `pinned` and
    /// `outboxed`.
    pub segments: HashMap<u32, Warmth>,
}

/// A blob that was copied to another place.
#[derive(Clone)]
pub struct Move {
    pub digest: Digest,
    pub from: Place,
    pub to: Place,
    /// What must be synced before the new place may be committed.
    pub dirty: Dirty,
}

impl Index {
    /// Finds what to evict so that about `want_bytes` of a class become free. Segments are listed whatever is wanted.
    ///
    /// *Shape*: at most 4096 files from one scan; ask again after dropping them. For one lease period after a start
    /// there are none, where promises made before it may still run. Segments with only pinned or leased blobs are listed too.
    pub async fn coldest(&self, class: Class, want_bytes: u64) -> Result<Coldest, IndexError> {
        let mut skip = HashSet::new();
        let scan = self.scan(class, want_bytes, &skip).await?;
        let mut coldest = Coldest { files: Vec::new(), segments: scan.segments };
        if self.core.all_leased() {
            return Ok(coldest);
        }
        let (mut candidates, mut left) = (scan.files, want_bytes);
        for _ in 0..SCANS_MAX {
            if candidates.is_empty() || left == 0 {
                break;
            }
            let free = self.not_pinned(&candidates).await?;
            // Those found are not to be found again, those pinned are not to stand in the way of others.
            skip.extend(candidates.iter().map(|(prefix, _)| *prefix));
            left = left.saturating_sub(free.iter().map(|(_, place, _)| place.len).sum());
            coldest.files.extend(free);
            candidates = if left == 0 { Vec::new() } else { self.scan(class, left, &skip).await?.files };
        }
        Ok(coldest)
    }

    async fn scan(&self, class: Class, want_bytes: u64, skip: &HashSet<Prefix>) -> Result<ColdScan, IndexError> {
        let (core, skip) = (self.core.clone(), skip.clone());
        let ask = ColdAsk { class, want_bytes, now: core.minutes(), period: core.settings.lease_period };
        let scan = tokio::task::spawn_blocking(move || core.table.cold(&ask, &skip)).await;
        scan.map_err(|_panicked_or_stopped| IndexError::Closed)
    }

    /// Those that are committed at the same place, that do not wait to be remote, and that are no document which a kept
    /// record of a build names.
    async fn not_pinned(&self, files: &[(Prefix, Place)]) -> Result<Vec<(Digest, Place, Class)>, IndexError> {
        let located = self.locate_prefixes(files.iter().map(|(prefix, _)| *prefix).collect()).await?;
        let by_prefix: HashMap<Prefix, Located> =
            located.into_iter().map(|found| (found.digest.prefix(), found)).collect();
        let standing: Vec<&Located> = files
            .iter()
            .filter_map(|(prefix, place)| by_prefix.get(prefix).filter(|found| found.place == *place))
            .collect();
        let digests: Vec<Digest> = standing.iter().map(|found| found.digest).collect();
        let (pinned, outboxed) = (self.pinned(&digests).await?, self.outboxed(&digests).await?);
        let held = |(found, (pinned, outboxed)): &(&Located, (bool, bool))| {
            *outboxed && found.class == Class::Trusted || *pinned && found.class == Class::Document
        };
        let free = standing.into_iter().zip(pinned.into_iter().zip(outboxed)).filter(|one| !held(one));
        Ok(free.map(|(found, _)| (found.digest, found.place, found.class)).collect())
    }

    /// Every committed blob of a segment, by offset.
    pub async fn segment_blobs(&self, segment: u32) -> Result<Vec<Located>, IndexError> {
        if !self.core.is_complete() {
            let read = move |connection: &rusqlite::Connection| places::within(connection, TierName::Segment, segment);
            return self.core.places.readers.read(read).await;
        }
        let core = self.core.clone();
        let collect = move || {
            let mut prefixes = Vec::new();
            core.table.each(|seat| {
                if seat.place.tier == TierName::Segment && seat.place.object == segment {
                    prefixes.push(seat.digest);
                }
            });
            prefixes
        };
        let prefixes = tokio::task::spawn_blocking(collect).await.map_err(|_panicked_or_stopped| IndexError::Closed)?;
        let mut found = self.locate_prefixes(prefixes).await?;
        found.retain(|located| located.place.tier == TierName::Segment && located.place.object == segment);
        found.sort_unstable_by_key(|located| located.place.offset);
        Ok(found)
    }

    /// Committed places in the order of their digests, after `after`, at most `limit`: for scrubbing.
    pub async fn places_after(&self, after: Option<Digest>, limit: usize) -> Result<Vec<Located>, IndexError> {
        let read = move |connection: &rusqlite::Connection| places::after(connection, after.as_ref(), limit);
        self.core.places.readers.read(read).await
    }

    /// Drops a blob's local place if it is still this one. Where the bucket has it too, that is its place from now on; else
    /// its sums, edges and the entries whose body it was go with it. Durable on return: the bytes may go then.
    pub async fn drop_place(&self, digest: &Digest, place: &Place) -> Result<(), IndexError> {
        self.drop_places(vec![(*digest, *place)]).await.map(drop)
    }

    /// Drops many places in one commit; returns how many still stood.
    ///
    /// *Errors*: the bytes must stay, since the places may come back at the next start.
    pub async fn drop_places(&self, places: Vec<(Digest, Place)>) -> Result<u64, IndexError> {
        let places: Vec<_> = places.into_iter().filter(|(_, place)| place.tier.is_local()).collect();
        let digests: Vec<Digest> = places.iter().map(|(digest, _)| *digest).collect();
        let remote = self.remote_places(&digests).await?;
        self.drop_looked_up(places, remote).await
    }

    /// What comes to be remote, or is lost, after the look at `remote`, the writer finds.
    pub(super) async fn drop_looked_up(
        &self,
        places: Vec<(Digest, Place)>,
        remote: Vec<Option<Place>>,
    ) -> Result<u64, IndexError> {
        let room = self.core.queue.room(places.len() * 64).await?;
        let (ack, acked) = tokio::sync::oneshot::channel();
        {
            let mut order = self.core.order.lock();
            if self.core.queue.is_closed() {
                return Err(IndexError::Closed);
            }
            order.seq += 1;
            let seq = order.seq;
            for ((digest, place), remote) in places.iter().zip(remote) {
                let stands = |remote| self.core.table.move_if(&digest.prefix(), place, &remote);
                if !remote.is_some_and(stands) {
                    self.core.table.remove_if(&digest.prefix(), place);
                    order.note_bereft(&self.core.table, digest);
                }
                self.core.unseated.remove_if(digest, place);
                order.note_dropped(&self.core.table, digest, place);
            }
            self.core.queue.push(Work::Drop { places, seq }, room, Some(ack))?;
        }
        Ok(acked.await.map_err(|_gone| IndexError::Closed)??.changed)
    }

    /// Gives a blob another place if it is still at `from`; durable on return. False: it was not, the copy may go.
    pub async fn move_place(&self, moved: Move) -> Result<bool, IndexError> {
        Ok(self.move_places(vec![moved]).await?.pop().unwrap_or(false))
    }

    /// Moves many blobs in one commit. Waits until the table has loaded.
    ///
    /// *Errors*: `Sync` when one of the copies could not be made durable: then all stay where they were.
    pub async fn move_places(&self, moves: Vec<Move>) -> Result<Vec<bool>, IndexError> {
        self.loaded().await;
        let room = self.core.queue.room(moves.len() * 96).await?;
        let (ack, acked) = tokio::sync::oneshot::channel();
        {
            let _order = self.core.order.lock();
            if self.core.queue.is_closed() {
                return Err(IndexError::Closed);
            }
            let partial = self.core.table.is_partial();
            let seated = |one: &Move| self.core.table.move_if(&one.digest.prefix(), &one.from, &one.to);
            let moves = moves.into_iter().map(|one| (seated(&one) || partial, one)).collect();
            self.core.queue.push(Work::Move(moves), room, Some(ack))?;
        }
        Ok(acked.await.map_err(|_gone| IndexError::Closed)??.moved)
    }

    /// Takes the places that lost their row to another of the same digest: their bytes may be removed.
    ///
    /// *Shape*: each is told once; what is not taken is forgotten after 65,536 more and left to the scrub.
    pub fn superseded(&self) -> Vec<(Digest, Place)> {
        self.core.superseded.take()
    }

    /// Bytes under lease in a class; ended leases leave the count within a minute.
    pub fn leased_bytes(&self, class: Class) -> u64 {
        self.core.table.leased_bytes(class)
    }

    /// Whether everything counts as leased, as it does for one period after a start where promises may still run.
    pub fn all_leased(&self) -> bool {
        self.core.all_leased()
    }
}

impl std::fmt::Debug for Move {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?} from {:?} to {:?}", self.digest, self.from, self.to)
    }
}
