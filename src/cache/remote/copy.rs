//! Copies from the bucket to the disk: one task a blob, however many ask for it. Nobody leads it. What it brings is kept
//! only once it was found to hash to its digest.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::Inner;
use super::super::body::FINISH_ALONE_BYTES;
use super::super::error::CacheError;
use super::super::fill::open_writer;
use super::{Bucket, CopyError, Object};
use crate::index::record::{NewBlob, Record};
use crate::index::{Ack, Presence};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::model::range::ByteRange;
use crate::store::s3::error::{Flaw, S3Error};
use crate::store::s3::read::{ObjectReader, Wanted};
use crate::store::{Intent, Partial, SealedBlob};

/// How far a copy is.
#[derive(Clone)]
pub(super) enum Stage {
    /// Nothing has come yet.
    Asking,
    /// All of a small blob, checked.
    Whole(Bytes),
    /// So many bytes can be read.
    Coming {
        written: u64,
    },
    /// All there and what its digest says; kept, unless storage failed at the very end.
    Sealed,
    /// Nothing (more) can be stored: so many bytes stay readable, more must be read from the bucket.
    Unstored {
        stored: u64,
    },
    /// It was here already.
    Here,
    /// The bucket has it no more.
    Lost,
    Failed(CacheError),
}

/// A copy under way.
pub(super) struct Copying {
    stage: watch::Sender<Stage>,
    partial: OnceLock<Partial>,
    followers: AtomicUsize,
}

/// One asker's share in a copy; dropped when it hangs up.
pub(super) struct Seat(Arc<Copying>);

/// All copies under way.
#[derive(Default)]
pub(super) struct Copies {
    under_way: Mutex<HashMap<Digest, Arc<Copying>>>,
}

impl Seat {
    fn take(copying: &Arc<Copying>) -> Seat {
        copying.followers.fetch_add(1, Ordering::AcqRel);
        Seat(copying.clone())
    }

    pub fn watch(&self) -> watch::Receiver<Stage> {
        self.0.stage.subscribe()
    }

    pub fn partial(&self) -> Option<&Partial> {
        self.0.partial.get()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Copies {
    /// How far the copy of a blob is, if there is one under way.
    pub fn reached(&self, digest: &Digest) -> Option<u64> {
        let copying = self.under_way.lock().get(digest)?.clone();
        Some(copying.partial.get().map_or(0, Partial::written))
    }

    pub fn under_way(&self) -> usize {
        self.under_way.lock().len()
    }

    fn land(&self, digest: &Digest, copying: &Arc<Copying>) {
        let mut under_way = self.under_way.lock();
        if under_way.get(digest).is_some_and(|found| Arc::ptr_eq(found, copying)) {
            under_way.remove(digest);
        }
    }

    /// Takes a copy off the board if nobody follows it: then nobody ever will.
    fn forsake(&self, digest: &Digest, copying: &Arc<Copying>) -> bool {
        let mut under_way = self.under_way.lock();
        if copying.followers.load(Ordering::Acquire) > 0 {
            return false;
        }
        under_way.remove(digest);
        true
    }
}

impl Inner {
    /// Joins the copy of a blob, or starts it.
    pub(super) fn board_copy(self: &Arc<Inner>, bucket: &Bucket, digest: Digest, place: Place) -> Seat {
        match bucket.copies.under_way.lock().entry(digest) {
            Slot::Occupied(slot) => Seat::take(slot.get()),
            Slot::Vacant(slot) => {
                let stage = watch::Sender::new(Stage::Asking);
                let copying = Copying { stage, partial: OnceLock::new(), followers: AtomicUsize::new(0) };
                let copying = slot.insert(Arc::new(copying));
                let seat = Seat::take(copying);
                self.tasks.spawn("copy", run(self.clone(), digest, place, copying.clone()));
                seat
            }
        }
    }
}

/// Runs a copy to its end, which is told even if the task never runs.
fn run(cache: Arc<Inner>, digest: Digest, place: Place, copying: Arc<Copying>) -> impl Future<Output = ()> + Send {
    let ending = Ending { cache, digest, copying };
    async move {
        let stage = copied(&ending, &place).await;
        // Off the board first: whoever boards after this word finds the store.
        ending.land();
        ending.copying.stage.send_replace(stage);
    }
}

struct Ending {
    cache: Arc<Inner>,
    digest: Digest,
    copying: Arc<Copying>,
}

impl Ending {
    fn land(&self) {
        if let Some(bucket) = &self.cache.bucket {
            bucket.copies.land(&self.digest, &self.copying);
        }
    }

    fn publish(&self, stage: Stage) {
        self.copying.stage.send_replace(stage);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.land();
        let goes = matches!(*self.copying.stage.borrow(), Stage::Asking | Stage::Coming { .. });
        if goes {
            self.publish(Stage::Failed(CacheError::Abandoned));
        }
    }
}

async fn copied(ending: &Ending, place: &Place) -> Stage {
    let (cache, digest) = (&ending.cache, &ending.digest);
    // It may have come between the look-up and the board.
    match cache.index.place(digest) {
        Presence::Present(found) if found.tier != TierName::S3 => return Stage::Here,
        Presence::Present(_) | Presence::Absent | Presence::Unknown => {}
    }
    match copy(ending, place).await {
        Ok(stage) => stage,
        Err(error) => match cache.judge_remote(digest, place, error).await {
            Ok(None) => Stage::Lost,
            Ok(Some(error)) | Err(error) => Stage::Failed(error),
        },
    }
}

async fn copy(ending: &Ending, place: &Place) -> Result<Stage, CopyError> {
    let cache = &ending.cache;
    let bucket = cache.bucket()?;
    let class = cache.index.remote_class(&ending.digest).await.map_err(CacheError::from)?.unwrap_or(Class::Trusted);
    match cache.object_of(&ending.digest, place).await? {
        Object::Pack { name, within } => {
            let bytes = bucket.remote.packed(&name, &ending.digest, within).await?;
            // Who waits need not wait for the disk.
            ending.publish(Stage::Whole(bytes.clone()));
            keep_small(ending, class, bytes.clone()).await;
            Ok(Stage::Whole(bytes))
        }
        Object::Blob(wanted) => {
            let whole = ByteRange::whole(wanted.len);
            let reader = bucket.remote.blob(wanted.clone(), whole).await?;
            large(ending, class, wanted, reader).await
        }
    }
}

/// Stores a small blob that is whole and checked. What cannot be stored stays in the bucket.
async fn keep_small(ending: &Ending, class: Class, bytes: Bytes) {
    let cache = &ending.cache;
    let intent = Intent { len: Some(bytes.len() as u64), class, sums: Vec::new() };
    let stored = async {
        let mut writer = open_writer(cache, intent).await?;
        writer.write(bytes).await?;
        writer.seal(&[], None).await
    };
    match stored.await {
        Ok(sealed) => keep(ending, class, sealed).await,
        Err(error) => tracing::warn!(%error, "a blob out of S3 could not be stored, it is served from there"),
    }
}

/// Stores a large blob as it comes, for all who follow it.
async fn large(ending: &Ending, class: Class, wanted: Wanted, mut reader: ObjectReader) -> Result<Stage, CopyError> {
    let (cache, digest) = (&ending.cache, &ending.digest);
    let intent = Intent { len: Some(wanted.len), class, sums: Vec::new() };
    let mut writer = match open_writer(cache, intent).await {
        Ok(writer) => writer,
        Err(error) => {
            tracing::warn!(%error, "a blob out of S3 cannot be stored, it is served from there");
            return Ok(Stage::Unstored { stored: 0 });
        }
    };
    let partial = writer.partial();
    // One copy, one view of it.
    let _ = ending.copying.partial.set(partial.clone());
    while let Some(chunk) = next(ending, &mut reader, &partial).await {
        if let Err(error) = writer.write(chunk?).await {
            let stored = partial.written();
            tracing::warn!(%error, stored, "storage gave up in the middle of a copy, followers go on from S3");
            cache.counters.overflowed();
            return Ok(Stage::Unstored { stored });
        }
        if is_forsaken(ending, wanted.len, partial.written()) {
            tracing::debug!(%digest, "nobody waits for this copy any more");
            return Err(CacheError::Abandoned.into());
        }
    }
    let damaged =
        || S3Error::Damaged { object: wanted.object.clone(), flaw: Flaw::Damaged("its bytes hash to something else") };
    match writer.seal(&[], Some(wanted.len)).await {
        Ok(sealed) if sealed.digest == *digest => keep(ending, class, sealed).await,
        Ok(sealed) => {
            discard(cache, sealed);
            return Err(damaged().into());
        }
        Err(error) => {
            tracing::warn!(%error, "storage gave up at the end of a copy, it is served and not kept");
            cache.counters.overflowed();
            let hashed = partial.hash(partial.written(), &[]).await.map_err(CacheError::from)?;
            if partial.written() != wanted.len || hashed.digest() != *digest {
                return Err(damaged().into());
            }
        }
    }
    Ok(Stage::Sealed)
}

/// The next bytes from the bucket. Followers are told how far they may read before anybody waits.
async fn next(ending: &Ending, reader: &mut ObjectReader, partial: &Partial) -> Option<Result<Bytes, S3Error>> {
    let ready = reader.next().now_or_never();
    if let Some(Some(chunk)) = ready {
        return Some(chunk);
    }
    if partial.written() > 0 {
        ending.publish(Stage::Coming { written: partial.written() });
    }
    match ready {
        Some(end) => end,
        None => reader.next().await,
    }
}

/// Makes the copy the blob's place. Where that fails, it stays in the bucket alone.
async fn keep(ending: &Ending, class: Class, sealed: SealedBlob) {
    let (cache, digest) = (&ending.cache, ending.digest);
    if sealed.digest != digest {
        return discard(cache, sealed);
    }
    let (place, small) = (sealed.place, sealed.small);
    let blob = NewBlob { digest, sums: sealed.sums, place, class, dirty: sealed.dirty };
    let record = Record { blob: Some(blob), ..Record::default() };
    if let Err(error) = cache.index.record(record, Ack::Visible).await {
        tracing::warn!(%digest, %error, "a copy out of S3 could not be recorded, it is served and not kept");
        let store = cache.store.clone();
        drop(tokio::task::spawn_blocking(move || store.remove(&digest, &place)));
        return;
    }
    if let Some(bytes) = small {
        cache.store.remember(&digest, bytes);
    }
    if let Some(bucket) = &cache.bucket {
        bucket.counters.copied(place.len);
    }
}

/// Throws away what is not what it should be.
fn discard(cache: &Inner, sealed: SealedBlob) {
    let store = cache.store.clone();
    drop(tokio::task::spawn_blocking(move || store.remove(&sealed.digest, &sealed.place)));
}

/// A copy that nobody waits for goes on when it is small or past half.
fn is_forsaken(ending: &Ending, len: u64, written: u64) -> bool {
    let Some(bucket) = &ending.cache.bucket else { return true };
    len > FINISH_ALONE_BYTES
        && written < len / 2
        && ending.copying.followers.load(Ordering::Acquire) == 0
        && bucket.copies.forsake(&ending.digest, &ending.copying)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_forsaken_only_while_nobody_follows_it() {
        let copies = Copies::default();
        let digest = Digest::of(b"a");
        let stage = watch::Sender::new(Stage::Asking);
        let copying = Arc::new(Copying { stage, partial: OnceLock::new(), followers: AtomicUsize::new(0) });
        copies.under_way.lock().insert(digest, copying.clone());
        let seat = Seat::take(&copying);
        assert!(!copies.forsake(&digest, &copying));
        assert_eq!(copies.under_way(), 1);
        drop(seat);
        assert!(copies.forsake(&digest, &copying));
        assert_eq!(copies.under_way(), 0);
    }
}
