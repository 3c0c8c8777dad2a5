//! Keeping within bounds and keeping honest: eviction by use and size, compaction of segments, scrub.
//!
//! Places are dropped before bytes, and both before room is counted. A reader that has begun keeps its descriptor, so
//! nothing is pulled from under it. What is leased, or named by a kept record of a build, is never evicted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use serde::Serialize;

use super::error::CacheError;
use super::{Cache, Inner};
use crate::index::evict::Move;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::store::{ClassUse, SegmentPhase, SegmentUse, StoreError};

/// A class over this share of its budget is brought down to `LOW_PERCENT`.
const HIGH_PERCENT: u64 = 95;
const LOW_PERCENT: u64 = 90;
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The most rounds of looking for cold blobs in one eviction.
const ROUNDS: usize = 64;
/// A segment whose survivors would fill more than this share of it is left alone.
const SURVIVORS_PERCENT: u64 = 50;

/// The scrub re-hashes one blob after another, with pauses, and begins anew after a rest.
const SCRUB_AFTER: Duration = Duration::from_secs(600);
const SCRUB_REST: Duration = Duration::from_secs(24 * 3600);
const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
const SCRUB_BATCH: usize = 64;

/// What an eviction did, or would do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Collected {
    /// What is kept after it.
    pub bytes: u64,
    pub freed_bytes: u64,
    pub freed_objects: u64,
    pub freed_segments: u64,
    pub dry_run: bool,
}

/// How far a verification is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    pub done: u64,
    pub of: u64,
    pub bytes: u64,
    /// Digests whose bytes did not match or were gone, found since the line before. Each is set aside; whoever asks
    /// next has it fetched anew.
    pub bad: Vec<String>,
}

impl Cache {
    /// Starts the upkeep: eviction when a class nears its budget, the sweep of what a crash left, the scrub.
    pub fn maintain(&self) {
        let (inner, tasks) = (self.inner.clone(), self.inner.tasks.clone());
        self.inner.tasks.spawn("eviction", async move {
            tokio::select! { () = inner.keep_within_budget() => {}, () = tasks.stopping() => {} }
        });
        let (inner, tasks) = (self.inner.clone(), self.inner.tasks.clone());
        self.inner.tasks.spawn("scrub", async move {
            tokio::select! { () = inner.scrub_for_ever() => {}, () = tasks.stopping() => {} }
        });
        let store = self.inner.store.clone();
        self.inner.tasks.spawn("sweep", async move {
            let swept = tokio::task::spawn_blocking(move || store.sweep_temporary()).await.unwrap_or(0);
            if swept > 0 {
                tracing::info!(swept, "removed what unfinished fills had left");
            }
        });
    }

    /// Waits for fills under way, at most for `patience`.
    pub async fn drain(&self, patience: Duration) {
        let idle = async {
            while self.fills() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // The index commits whatever was sealed; a fill that is cut leaves nothing.
        let _ = tokio::time::timeout(patience, idle).await;
    }

    /// Evicts until at most `max_bytes` are kept on disk (None: until every class is within its budget).
    ///
    /// *Errors*: the index's.
    pub async fn collect(&self, max_bytes: Option<u64>, dry_run: bool) -> Result<Collected, CacheError> {
        let usage = self.inner.store.usage();
        let before_bytes = usage.disk_bytes();
        let mut done = Collected { bytes: before_bytes, dry_run, ..Collected::default() };
        let over = max_bytes.map(|max| before_bytes.saturating_sub(max));
        for class in &usage.classes {
            let used = used(class);
            let want = match over {
                Some(over) => share(over, used, before_bytes.max(1)),
                None => used.saturating_sub(class.budget_bytes),
            };
            if want == 0 {
                continue;
            }
            if dry_run {
                let coldest = self.inner.index.coldest(class.class, want).await?;
                done.freed_objects += coldest.files.len() as u64;
                done.freed_bytes += coldest.files.iter().map(|(_, place, _)| place.len).sum::<u64>().min(want);
                continue;
            }
            let freed = self.inner.evict(class.class, want).await?;
            done.freed_bytes += freed.freed_bytes;
            done.freed_objects += freed.freed_objects;
            done.freed_segments += freed.freed_segments;
        }
        done.bytes = before_bytes.saturating_sub(done.freed_bytes);
        Ok(done)
    }

    /// Makes durable what is visible.
    ///
    /// *Errors*: the index's.
    pub async fn flush(&self) -> Result<(), CacheError> {
        Ok(self.inner.index.flush().await?)
    }

    /// Re-hashes everything that is kept; tells its progress after each batch.
    pub fn verify(&self) -> impl Stream<Item = Result<Progress, CacheError>> + Send + 'static {
        let of = self.inner.index.counts().blobs;
        let start = (self.inner.clone(), Some(None), Progress { of, ..Progress::default() });
        futures_util::stream::unfold(start, |(inner, after, mut progress)| async move {
            let after: Option<Digest> = after?;
            progress.bad.clear();
            match inner.verify_batch(after, &mut progress).await {
                Ok(Some(last)) => Some((Ok(progress.clone()), (inner, Some(Some(last)), progress))),
                Ok(None) => Some((Ok(progress.clone()), (inner, None, progress))),
                Err(error) => Some((Err(error), (inner, None, progress))),
            }
        })
    }
}

impl Inner {
    async fn keep_within_budget(self: &Arc<Inner>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for (digest, place) in self.index.superseded() {
                self.store.remove(&digest, &place);
            }
            for class in self.store.usage().classes {
                let used = used(&class);
                if used <= share(class.budget_bytes, HIGH_PERCENT, 100) {
                    continue;
                }
                let want = used - share(class.budget_bytes, LOW_PERCENT, 100);
                if let Err(error) = self.evict(class.class, want).await {
                    tracing::warn!(%error, class = class.class.name(), "eviction failed");
                }
            }
        }
    }

    /// Makes room for a blob that found none. True when some was made.
    pub(super) async fn make_room(self: &Arc<Inner>, class: Class, bytes: u64) -> bool {
        let budget = self.store.usage().classes.iter().find(|one| one.class == class).map_or(0, |one| one.budget_bytes);
        let want = bytes + share(budget, 100 - LOW_PERCENT, 100);
        match self.evict(class, want).await {
            Ok(done) => done.freed_bytes > 0,
            Err(error) => {
                tracing::warn!(%error, "no room could be made");
                false
            }
        }
    }

    /// Frees about `want` bytes of a class: files and segments in the proportion in which they fill it.
    async fn evict(self: &Arc<Inner>, class: Class, want: u64) -> Result<Collected, CacheError> {
        let _one_at_a_time = self.evicting.lock().await;
        let usage = self.store.usage();
        let Some(of_class) = usage.classes.iter().find(|one| one.class == class) else {
            return Ok(Collected::default());
        };
        let total = (of_class.segment_bytes + of_class.file_bytes).max(1);
        let mut done = self.evict_files(class, share(want, of_class.file_bytes, total)).await?;
        let left = want.saturating_sub(done.freed_bytes);
        if left > 0 && of_class.segment_bytes > 0 {
            let segments = self.evict_segments(class, left).await?;
            done.freed_bytes += segments.freed_bytes;
            done.freed_objects += segments.freed_objects;
            done.freed_segments += segments.freed_segments;
        }
        if done.freed_bytes < want {
            let files = self.evict_files(class, want - done.freed_bytes).await?;
            done.freed_bytes += files.freed_bytes;
            done.freed_objects += files.freed_objects;
        }
        tracing::info!(class = class.name(), want, freed = done.freed_bytes, objects = done.freed_objects, "evicted");
        Ok(done)
    }

    async fn evict_files(self: &Arc<Inner>, class: Class, want: u64) -> Result<Collected, CacheError> {
        let mut done = Collected::default();
        for _ in 0..ROUNDS {
            if done.freed_bytes >= want {
                break;
            }
            let coldest = self.index.coldest(class, want - done.freed_bytes).await?;
            let mut going: Vec<(Digest, Place)> = Vec::new();
            let mut bytes = 0;
            for (digest, place, _) in coldest.files {
                if done.freed_bytes + bytes >= want {
                    break;
                }
                bytes += place.len;
                going.push((digest, place));
            }
            if going.is_empty() {
                break;
            }
            let objects = going.len() as u64;
            self.drop_blobs(going).await?;
            done.freed_bytes += bytes;
            done.freed_objects += objects;
        }
        Ok(done)
    }

    /// Drops places, then bytes.
    async fn drop_blobs(self: &Arc<Inner>, going: Vec<(Digest, Place)>) -> Result<(), CacheError> {
        self.index.drop_places(going.clone()).await?;
        let inner = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for (digest, place) in &going {
                inner.store.remove(digest, place);
                inner.counters.evicted(place.len);
            }
        });
        removed.await.map_err(|_panicked| CacheError::Abandoned)
    }

    async fn evict_segments(self: &Arc<Inner>, class: Class, want: u64) -> Result<Collected, CacheError> {
        let mut done = Collected::default();
        let warmth = self.index.coldest(class, 0).await?.segments;
        let mut segments: Vec<SegmentUse> =
            self.store.segments().into_iter().filter(|segment| segment.class == Some(class)).collect();
        // Coldest first; one without any living blob is the coldest of all.
        segments.sort_by_key(|segment| warmth.get(&segment.number).map(|warmth| warmth.mean()));
        for segment in segments {
            if done.freed_bytes >= want {
                break;
            }
            let freed = self.evict_segment(&segment).await?;
            done.freed_bytes += freed;
            done.freed_segments += u64::from(freed > 0);
        }
        Ok(done)
    }

    /// Copies forward what is leased or pinned, drops the rest, unlinks the segment. Returns the bytes freed.
    async fn evict_segment(self: &Arc<Inner>, segment: &SegmentUse) -> Result<u64, CacheError> {
        if segment.phase == SegmentPhase::Open {
            self.store.close_segment(segment.number);
        }
        let blobs = self.index.segment_blobs(segment.number).await?;
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let pinned = self.index.pinned(&digests).await?;
        let (mut staying, mut going) = (Vec::new(), Vec::new());
        for (blob, pinned) in blobs.into_iter().zip(pinned) {
            let kept = pinned || self.index.leased(&blob.digest);
            if kept { staying.push((blob.digest, blob.place)) } else { going.push((blob.digest, blob.place)) }
        }
        let survivors: u64 = staying.iter().map(|(_, place)| place.len).sum();
        if survivors > share(segment.bytes, SURVIVORS_PERCENT, 100) {
            return Ok(0);
        }
        self.carry_forward(staying).await?;
        self.drop_blobs(going).await?;
        let (store, number) = (self.store.clone(), segment.number);
        let retired = tokio::task::spawn_blocking(move || store.retire_segment(number)).await;
        match retired.map_err(|_panicked| CacheError::Abandoned)? {
            Ok(()) | Err(StoreError::Gone) => Ok(segment.bytes.saturating_sub(survivors)),
            Err(error) => Err(error.into()),
        }
    }

    async fn carry_forward(self: &Arc<Inner>, staying: Vec<(Digest, Place)>) -> Result<(), CacheError> {
        if staying.is_empty() {
            return Ok(());
        }
        let store = self.store.clone();
        let copied = tokio::task::spawn_blocking(move || {
            let copy = |(digest, from): &(Digest, Place)| {
                let sealed = store.copy_forward(digest, from)?;
                Ok(Move { digest: *digest, from: *from, to: sealed.place, dirty: sealed.dirty })
            };
            staying.iter().map(copy).collect::<Result<Vec<_>, StoreError>>()
        });
        let moves = copied.await.map_err(|_panicked| CacheError::Abandoned)??;
        self.index.move_places(moves).await?;
        Ok(())
    }

    async fn scrub_for_ever(self: &Arc<Inner>) {
        tokio::time::sleep(SCRUB_AFTER).await;
        loop {
            let mut progress = Progress::default();
            let mut after = None;
            loop {
                let before = progress.bytes;
                match self.verify_batch(after, &mut progress).await {
                    Ok(Some(last)) => after = Some(last),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the scrub stopped early");
                        break;
                    }
                }
                let pause = Duration::from_secs((progress.bytes - before) / SCRUB_BYTES_PER_SECOND + 1);
                tokio::time::sleep(pause).await;
            }
            tracing::info!(blobs = progress.done, bytes = progress.bytes, "scrubbed");
            tokio::time::sleep(SCRUB_REST).await;
        }
    }

    /// Re-hashes the next blobs after a digest. Returns the last one, or None at the end.
    async fn verify_batch(
        self: &Arc<Inner>,
        after: Option<Digest>,
        progress: &mut Progress,
    ) -> Result<Option<Digest>, CacheError> {
        let batch = self.index.places_after(after, SCRUB_BATCH).await?;
        let last = batch.last().map(|located| located.digest);
        for located in batch {
            let (store, digest, place) = (self.store.clone(), located.digest, located.place);
            let checked = tokio::task::spawn_blocking(move || store.verify_blob(&digest, &place)).await;
            match checked.map_err(|_panicked| CacheError::Abandoned)? {
                Ok(()) => {}
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Gone)) => {
                    // It may have been evicted or moved since the batch was read.
                    if self.index.find_place(&digest).await? == Some(place) {
                        tracing::error!(%digest, %error, "a stored blob is damaged, it is set aside");
                        self.set_aside(&digest, &place).await?;
                        progress.bad.push(digest.to_string());
                    }
                }
                Err(error) => return Err(error.into()),
            }
            self.counters.scrubbed();
            progress.done += 1;
            progress.bytes += place.len;
        }
        progress.of = progress.of.max(progress.done);
        Ok(last)
    }

    /// Takes a damaged blob out of use: the next asker fetches it anew.
    pub(super) async fn set_aside(self: &Arc<Inner>, digest: &Digest, place: &Place) -> Result<(), CacheError> {
        self.counters.corrupted();
        self.index.drop_place(digest, place).await?;
        let (store, digest, place) = (self.store.clone(), *digest, *place);
        let moved = tokio::task::spawn_blocking(move || store.quarantine(&digest, &place)).await;
        match moved.map_err(|_panicked| CacheError::Abandoned)? {
            Ok(()) | Err(StoreError::Gone) => {}
            Err(error) => tracing::warn!(%digest, %error, "a damaged blob could not be set aside"),
        }
        Ok(())
    }
}

fn used(class: &ClassUse) -> u64 {
    class.segment_bytes + class.file_bytes + class.reserved_bytes
}

/// `of * part / whole`, without overflow.
fn share(of: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(part) / u128::from(whole)).unwrap_or(u64::MAX)
}
