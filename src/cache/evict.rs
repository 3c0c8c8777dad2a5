//! Keeping within bounds: eviction by use and size, compaction of segments.
//!
//! Places are dropped before bytes, and both before room is counted. A reader that has begun keeps its descriptor, so
//! nothing is pulled from under it. What is leased is never evicted, nor is a document that a kept
//! record of a build names: its versions cannot be had again, while what never changes can.

use std::cmp::Reverse;
use std::sync::Arc;

use serde::Serialize;

use super::error::CacheError;
use super::{Cache, Inner};
use crate::index::evict::Move;
use crate::index::table::Warmth;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::store::{ClassUse, SegmentPhase, SegmentUse, StoreError};

/// A class over this share of its budget is brought down to `LOW_PERCENT`.
const HIGH_PERCENT: u64 = 95;
const LOW_PERCENT: u64 = 90;
/// The most rounds of looking for cold blobs in one eviction.
const ROUNDS: usize = 64;
/// A segment whose survivors would fill more than this share of it is left alone.
const SURVIVORS_PERCENT: u64 = 50;
/// Blobs that are merely hot survive up to this share.
const HOT_PERCENT: u64 = 25;

/// What an eviction did, or would do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Collected {
    /// What is kept after it.
    pub bytes: u64,
    /// What would have to go for the bound to hold; more than was freed where the rest is leased or pinned.
    pub wanted_bytes: u64,
    pub freed_bytes: u64,
    pub freed_objects: u64,
    pub freed_segments: u64,
    pub dry_run: bool,
}

/// What is done about what was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Evict,
    /// Nothing changes; the numbers are those of an eviction that begins now.
    Look,
}

/// The blobs of a segment, and which of them stay.
struct Survey {
    staying: Vec<(Digest, Place)>,
    going: Vec<(Digest, Place)>,
    /// Bytes that the segment's end frees.
    frees: u64,
}

impl Cache {
    /// Evicts until at most `max_bytes` are kept on disk (None: until every class is within its budget).
    ///
    /// *Errors*: the index's.
    pub async fn collect(&self, max_bytes: Option<u64>, dry_run: bool) -> Result<Collected, CacheError> {
        let mode = if dry_run { Mode::Look } else { Mode::Evict };
        self.inner.index.flush().await?;
        let _alone = self.inner.evicting.lock().await;
        if mode == Mode::Evict {
            self.inner.remove_superseded().await;
            for class in Class::ALL {
                self.inner.parked.give_up(class).drop_and_wait().await;
            }
        }
        let usage = self.inner.store.usage();
        let before_bytes: u64 = usage.classes.iter().map(on_disk).sum();
        let mut done = Collected { dry_run, ..Collected::default() };
        let over = max_bytes.map(|max| before_bytes.saturating_sub(max));
        for class in &usage.classes {
            let want = match over {
                Some(over) => share_up(over, on_disk(class), before_bytes.max(1)),
                None => used(class).saturating_sub(class.budget_bytes),
            };
            done.wanted_bytes += want;
            done.add(self.inner.evict(class.class, want, mode).await?);
        }
        let after_bytes: u64 = self.inner.store.usage().classes.iter().map(on_disk).sum();
        done.bytes = if dry_run { before_bytes.saturating_sub(done.freed_bytes) } else { after_bytes };
        Ok(done)
    }
}

impl Collected {
    fn add(&mut self, more: Collected) {
        self.freed_bytes += more.freed_bytes;
        self.freed_objects += more.freed_objects;
        self.freed_segments += more.freed_segments;
    }
}

impl Inner {
    /// Brings every class that nears its budget down again.
    pub(super) async fn evict_when_high(self: &Arc<Inner>) {
        let _alone = self.evicting.lock().await;
        for class in self.store.usage().classes {
            let used = used(&class);
            if used <= share(class.budget_bytes, HIGH_PERCENT, 100) {
                continue;
            }
            let want = used - share(class.budget_bytes, LOW_PERCENT, 100);
            if let Err(error) = self.evict(class.class, want, Mode::Evict).await {
                tracing::warn!(%error, class = class.class.name(), "eviction failed");
            }
        }
    }

    /// Makes room for a blob that found none. True when it is worth asking for room again.
    pub(super) async fn make_room(self: &Arc<Inner>, class: Class, bytes: u64) -> bool {
        let _alone = self.evicting.lock().await;
        // Of many who found none, the first has made room for a while.
        if self.lacking(class, bytes) == 0 {
            return true;
        }
        let given_up = self.parked.give_up(class).drop_and_wait().await;
        self.remove_superseded().await;
        let want = self.lacking(class, bytes);
        if want == 0 {
            return true;
        }
        match self.evict(class, want, Mode::Evict).await {
            Ok(done) => given_up || done.freed_bytes > 0,
            Err(error) => {
                tracing::warn!(%error, "no room could be made");
                given_up
            }
        }
    }

    /// What must go so that a class can take `bytes` more, some to spare included; 0 when it can as it is.
    fn lacking(&self, class: Class, bytes: u64) -> u64 {
        let usage = self.store.usage();
        let Some(of_class) = usage.classes.iter().find(|one| one.class == class) else { return 0 };
        let budget = of_class.budget_bytes;
        let spare = share(budget, 100 - LOW_PERCENT, 100);
        // A fill takes a little more on disk than it has bytes.
        let bytes = bytes.saturating_add(bytes / 1024).saturating_add(4096);
        let after = used(of_class).saturating_add(bytes);
        let over = after.saturating_sub(budget);
        let promised: u64 = usage.classes.iter().map(|class| class.reserved_bytes).sum();
        let needed = usage.min_free_bytes.saturating_add(promised).saturating_add(bytes);
        let short = needed.saturating_sub(usage.free_bytes);
        match over.max(short) {
            0 => 0,
            lacking => lacking.saturating_add(spare),
        }
    }

    /// Removes the bytes of places that lost their row to another.
    pub(super) async fn remove_superseded(self: &Arc<Inner>) {
        let places = self.index.superseded();
        if places.is_empty() {
            return;
        }
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for (digest, place) in &places {
                store.remove(digest, place);
            }
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "superseded places were left to the scrub");
        }
    }

    /// Frees about `want` bytes of a class: files and segments in the proportion in which they fill it. The caller
    /// holds `evicting`.
    async fn evict(self: &Arc<Inner>, class: Class, want: u64, mode: Mode) -> Result<Collected, CacheError> {
        let mut done = Collected::default();
        let usage = self.store.usage();
        let Some(of_class) = usage.classes.iter().find(|one| one.class == class && want > 0) else {
            return Ok(done);
        };
        let total = on_disk(of_class).max(1);
        let of_files = share_up(want, of_class.file_bytes, total);
        done.add(self.evict_files(class, of_files, mode).await?);
        let left = want.saturating_sub(done.freed_bytes);
        if left > 0 && of_class.segment_bytes > 0 {
            done.add(self.evict_segments(class, left, mode).await?);
        }
        // A look would find the same files again.
        if done.freed_bytes < want && mode == Mode::Evict {
            done.add(self.evict_files(class, want - done.freed_bytes, mode).await?);
        }
        if mode == Mode::Evict {
            tracing::info!(
                class = class.name(),
                want,
                freed = done.freed_bytes,
                objects = done.freed_objects,
                "evicted"
            );
        }
        Ok(done)
    }

    async fn evict_files(self: &Arc<Inner>, class: Class, want: u64, mode: Mode) -> Result<Collected, CacheError> {
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
                bytes += self.store.disk_bytes(&place);
                going.push((digest, place));
            }
            if going.is_empty() {
                break;
            }
            let objects = going.len() as u64;
            done.add(Collected { freed_bytes: bytes, freed_objects: objects, ..Collected::default() });
            if mode == Mode::Look {
                break;
            }
            self.drop_blobs(going).await?;
        }
        Ok(done)
    }

    /// Drops places, then bytes.
    async fn drop_blobs(self: &Arc<Inner>, going: Vec<(Digest, Place)>) -> Result<(), CacheError> {
        if going.is_empty() {
            return Ok(());
        }
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

    async fn evict_segments(self: &Arc<Inner>, class: Class, want: u64, mode: Mode) -> Result<Collected, CacheError> {
        let mut done = Collected::default();
        let warmth = self.index.coldest(class, 0).await?.segments;
        let mut segments: Vec<SegmentUse> =
            self.store.segments().into_iter().filter(|segment| segment.class == Some(class)).collect();
        // Coldest first; one without any living blob is the coldest of all.
        segments.sort_by_key(|segment| warmth.get(&segment.number).map(Warmth::mean));
        let class_mean = {
            let (bytes, minutes) = warmth.values().fold((0_u128, 0_u128), |(bytes, minutes), one| {
                (bytes + u128::from(one.bytes), minutes + one.byte_minutes)
            });
            minutes / bytes.max(1)
        };
        for mut segment in segments {
            if done.freed_bytes >= want {
                break;
            }
            if mode == Mode::Evict {
                self.store.close_segment(segment.number);
                // What was appended and recorded a moment ago is found only once it is committed.
                self.index.flush().await?;
                // What was appended and is still to be recorded is not found at all.
                if !self.store.is_told(segment.number) {
                    continue;
                }
                // Survivors of the segments before may have come into this one.
                let now = self.store.segments().into_iter().find(|one| one.number == segment.number);
                let Some(now) = now else { continue };
                segment = now;
            }
            let Some(survey) = self.survey(&segment, class_mean).await? else { continue };
            let freed = Collected {
                freed_bytes: survey.frees,
                freed_objects: survey.going.len() as u64,
                freed_segments: 1,
                ..Collected::default()
            };
            if mode == Mode::Look || self.empty_segment(&segment, survey).await? {
                done.add(freed);
            }
        }
        Ok(done)
    }

    /// Tells who survives a segment: the leased, the pinned and those that wait to be remote, and of the hot as many as are worth it. None: too
    /// many must survive.
    async fn survey(&self, segment: &SegmentUse, class_mean: u128) -> Result<Option<Survey>, CacheError> {
        let blobs = self.index.segment_blobs(segment.number).await?;
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let pinned = self.index.pinned(&digests).await?;
        let outboxed = self.index.outboxed(&digests).await?;
        let (mut staying, mut going, mut hot) = (Vec::new(), Vec::new(), Vec::new());
        for (blob, (pinned, outboxed)) in blobs.into_iter().zip(pinned.into_iter().zip(outboxed)) {
            let used = self.index.used(&blob.digest).unwrap_or(blob.used);
            let is_kept_version = pinned && blob.class == Class::Document;
            // What may be had again must not fill its class while S3 is away.
            let waits = outboxed && blob.class == Class::Trusted;
            if waits || is_kept_version || self.index.leased(&blob.digest) {
                staying.push((blob.digest, blob.place));
            } else if used.hits > 0 && u128::from(used.last.number()) > class_mean {
                hot.push((used.last, blob.digest, blob.place));
            } else {
                going.push((blob.digest, blob.place));
            }
        }
        let size = |place: &Place| self.store.disk_bytes(place);
        let mut survivors: u64 = staying.iter().map(|(_, place)| size(place)).sum();
        if survivors > share(segment.bytes, SURVIVORS_PERCENT, 100) {
            return Ok(None);
        }
        hot.sort_unstable_by_key(|(last, _, place)| (Reverse(*last), place.offset));
        for (_, digest, place) in hot {
            if survivors + size(&place) <= share(segment.bytes, HOT_PERCENT, 100) {
                survivors += size(&place);
                staying.push((digest, place));
            } else {
                going.push((digest, place));
            }
        }
        Ok(Some(Survey { staying, going, frees: segment.bytes.saturating_sub(survivors) }))
    }

    /// Copies forward what stays, drops the rest, unlinks the segment. False: it had to be left.
    async fn empty_segment(self: &Arc<Inner>, segment: &SegmentUse, survey: Survey) -> Result<bool, CacheError> {
        debug_assert!(segment.phase == SegmentPhase::Open || segment.bytes > 0);
        if !self.carry_forward(survey.staying).await? {
            return Ok(false);
        }
        self.drop_blobs(survey.going).await?;
        let (store, number) = (self.store.clone(), segment.number);
        let retired = tokio::task::spawn_blocking(move || store.retire_segment(number)).await;
        match retired.map_err(|_panicked| CacheError::Abandoned)? {
            Ok(()) | Err(StoreError::Gone) => Ok(true),
            Err(error) => {
                tracing::warn!(segment = number, %error, "an emptied segment could not be removed");
                Ok(false)
            }
        }
    }

    /// Copies blobs to another segment. False: not all could be copied, nothing else may be done to the old one.
    async fn carry_forward(self: &Arc<Inner>, staying: Vec<(Digest, Place)>) -> Result<bool, CacheError> {
        let mut moves = Vec::with_capacity(staying.len());
        let mut whole = true;
        for (digest, from) in staying {
            let store = self.store.clone();
            let copied = tokio::task::spawn_blocking(move || store.copy_forward(&digest, &from)).await;
            match copied.map_err(|_panicked| CacheError::Abandoned)? {
                Ok(sealed) => moves.push(Move { digest, from, to: sealed.place, dirty: sealed.dirty }),
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Gone)) => {
                    tracing::error!(%digest, %error, "a stored blob is damaged, it is set aside");
                    self.set_aside(&digest, &from).await?;
                }
                Err(error) => {
                    tracing::warn!(%error, "no room to carry survivors of a segment forward");
                    whole = false;
                    break;
                }
            }
        }
        if moves.is_empty() {
            return Ok(whole);
        }
        let copies: Vec<(Digest, Place)> = moves.iter().map(|one| (one.digest, one.to)).collect();
        let moved = match self.index.move_places(moves).await {
            Ok(moved) => moved,
            Err(error) => {
                tracing::warn!(%error, "survivors of a segment could not be moved");
                whole = false;
                vec![false; copies.len()]
            }
        };
        for ((digest, place), _) in copies.iter().zip(moved).filter(|(_, moved)| !moved) {
            // Nobody names the copy; removing it from a segment only counts.
            self.store.remove(digest, place);
        }
        Ok(whole)
    }
}

fn used(class: &ClassUse) -> u64 {
    class.segment_bytes + class.file_bytes + class.reserved_bytes
}

/// What eviction can free.
fn on_disk(class: &ClassUse) -> u64 {
    class.segment_bytes + class.file_bytes
}

/// `of * part / whole`, without overflow.
fn share(of: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(part) / u128::from(whole)).unwrap_or(u64::MAX)
}

/// Like `share`, rounded up.
fn share_up(of: u64, part: u64, whole: u64) -> u64 {
    u64::try_from((u128::from(of) * u128::from(part)).div_ceil(u128::from(whole))).unwrap_or(u64::MAX)
}
