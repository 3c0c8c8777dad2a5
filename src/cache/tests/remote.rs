//! The bucket that machines share: what is sent there, what comes from there, and what is done while it fails.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use http::header::RANGE;

use super::*;
use crate::cache::remote::Bucket;
use crate::cache::remote::outbox::Pace;
use crate::model::digest::Digest;
use crate::model::place::TierName;
use crate::runtime::clock::Clock;
use crate::store::fault::{ENOSPC, Operation, Plan};
use crate::store::s3::remote::Remote;

/// A pack goes as soon as something waits.
pub(super) fn bucket(fake: &Arc<Fake>, clock: Arc<dyn Clock>) -> Bucket {
    let tier = || Remote::new(fake.clone(), &crate::store::s3::settings::Settings::default(), clock.clone());
    let pace = Pace { pack_bytes: 16 << 20, pack_delay: Duration::ZERO };
    Bucket::new(tier().expect("settings"), tier().expect("settings"), pace)
}

impl Bed {
    /// With a bucket, to which what is stored is sent.
    fn sharing() -> Bed {
        let Bed { settings, .. } = Bed::new();
        let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
        let dir = tempfile::tempdir().expect("a directory");
        let upstream = Upstream::new(clock.clone());
        let bed = Bed::over(dir, settings, FaultFiles::default(), upstream, clock, Some(Arc::default()), Vec::new());
        bed.upload();
        bed
    }

    fn upload(&self) {
        let (inner, tasks) = (self.cache.inner.clone(), self.tasks.clone());
        self.tasks.spawn("uploads", async move {
            tokio::select! { () = inner.upload_for_ever() => {}, () = tasks.stopping() => {} }
        });
    }

    fn fake(&self) -> &Fake {
        self.fake.as_ref().expect("it shares")
    }

    /// Waits until nothing waits.
    async fn sent(&self) {
        self.index.flush().await.expect("durable");
        until(|| self.index.outbox().blobs == 0).await;
    }

    /// Forgets the bytes here, as eviction does.
    async fn evict(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        let place = self.index.find_place(&digest).await.expect("told").expect("a place");
        assert!(place.tier.is_local());
        self.index.drop_place(&digest, &place).await.expect("dropped");
        self.store.remove(&digest, &place);
    }

    /// Stored, sent, and no more here: cold.
    async fn shared(&self, path: &str, bytes: &Bytes) {
        self.upstream.answers(path, [Script::ok(bytes.clone())]);
        assert_eq!(self.fetch(&immutable(path)).await.2, bytes);
        self.sent().await;
        self.evict(bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evicted_here_comes_back_from_the_bucket_and_stays() {
    let bed = Bed::sharing();
    for (seed, len) in [(1, 1), (2, 5000), (3, MIB), (4, MIB + 1), (5, 20 * MIB + 7)] {
        let (path, bytes) = (format!("/{seed}"), noise(seed, len));
        bed.shared(&path, &bytes).await;
        let before = bed.fake().gets.load(Ordering::Relaxed);
        let (outcome, _, got) = bed.fetch(&immutable(&path)).await;
        assert!(outcome == Outcome::Hit(TierName::S3) && got == bytes, "{len}: {outcome:?}");
        let gets = bed.fake().gets.load(Ordering::Relaxed);
        assert!(gets > before);
        let counted = || bed.cache.bucket().expect("shared").counters().read().copied_blobs;
        until(|| counted() == seed).await;
        for _ in 0..100 {
            let (outcome, _, got) = bed.fetch(&immutable(&path)).await;
            assert!(outcome != Outcome::Hit(TierName::S3) && got == bytes, "{outcome:?}");
        }
        assert_eq!(bed.fake().gets.load(Ordering::Relaxed), gets, "a warm hit asks S3 nothing");
        assert_eq!(bed.upstream.asks(&path), 1);
        bed.index.flush().await.expect("durable");
        assert_eq!(bed.index.outbox().blobs, 0, "what is there is not sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_askers_for_a_cold_blob_cause_one_copy() {
    for len in [10_000, 6 * MIB] {
        let bed = Bed::sharing();
        let bytes = noise(1, len);
        bed.shared("/a", &bytes).await;
        let before = bed.fake().gets.load(Ordering::Relaxed);
        let lookup = immutable("/a");
        for (outcome, _, got) in join_all((0..100).map(|_| bed.fetch(&lookup))).await {
            assert!(matches!(outcome, Outcome::Hit(_)) && got == bytes);
        }
        assert_eq!(bed.fake().gets.load(Ordering::Relaxed), before + 1);
        assert_eq!(bed.upstream.asks("/a"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_share_an_object() {
    let bed = Bed::sharing();
    bed.fake().down.store(true, Ordering::Relaxed);
    for seed in 0..50 {
        bed.upstream.answers(&format!("/{seed}"), [Script::ok(noise(seed, 4096))]);
        bed.fetch(&immutable(&format!("/{seed}"))).await;
    }
    bed.index.flush().await.expect("durable");
    assert_eq!(bed.index.outbox().blobs, 50);
    bed.fake().down.store(false, Ordering::Relaxed);
    bed.sent().await;
    assert_eq!(bed.fake().names().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing_that_waits_nor_does_a_restart() {
    let bed = Bed::sharing();
    bed.fake().down.store(true, Ordering::Relaxed);
    let bodies = [noise(1, 3000), noise(2, 3 * MIB), noise(3, 70_000)];
    for (at, bytes) in bodies.iter().enumerate() {
        bed.upstream.answers(&format!("/{at}"), [Script::ok(bytes.clone())]);
        assert_eq!(bed.fetch(&immutable(&format!("/{at}"))).await.2, bytes);
    }
    bed.index.flush().await.expect("durable");
    let counted = || bed.cache.bucket().expect("shared").counters().read();
    until(|| counted().failed_uploads > 0).await;
    assert_eq!((bed.index.outbox().blobs, counted().packs), (3, 0));
    let bed = bed.restart().await;
    bed.fake().down.store(false, Ordering::Relaxed);
    bed.upload();
    bed.sent().await;
    for (at, bytes) in bodies.iter().enumerate() {
        bed.evict(bytes).await;
        let (outcome, _, got) = bed.fetch(&immutable(&format!("/{at}"))).await;
        assert!(outcome == Outcome::Hit(TierName::S3) && got == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_s3_is_down_upstream_stands_in_and_else_it_is_an_outage_and_no_absence() {
    for len in [3000, 3 * MIB] {
        let bed = Bed::sharing();
        let bytes = noise(1, len);
        bed.shared("/a", &bytes).await;
        bed.fake().down.store(true, Ordering::Relaxed);
        bed.upstream.answers("/a", [Script::unreachable()]);
        let error = bed.get(&immutable("/a")).await.err().expect("neither has it");
        assert!(matches!(error, CacheError::Remote(_)), "{error}");
        bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
        let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
        assert!(outcome == Outcome::Miss && got == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_or_damaged_in_the_bucket_is_a_miss_and_is_sent_again() {
    for len in [3000, 3 * MIB] {
        for gone in [true, false] {
            let bed = Bed::sharing();
            let bytes = noise(1, len);
            bed.shared("/a", &bytes).await;
            let name = bed.fake().names().pop().expect("an object");
            if gone {
                bed.fake().remove(&name);
            } else {
                bed.fake().damage(&name, |object| object[7] ^= 1);
            }
            bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
            let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
            assert!(outcome == Outcome::Miss && got == bytes, "{len} {gone} {outcome:?}");
            assert_eq!(bed.cache.bucket().expect("shared").counters().read().lost, 1);
            bed.sent().await;
            bed.evict(&bytes).await;
            let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
            assert!(outcome == Outcome::Hit(TierName::S3) && got == bytes, "{len} {gone} {outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_bad_in_the_middle_of_a_copy_is_never_whole() {
    let bed = Bed::sharing();
    let bytes = noise(1, 5 * MIB);
    bed.shared("/a", &bytes).await;
    let name = bed.fake().names().pop().expect("an object");
    bed.fake().damage(&name, |object| object[4 * MIB] ^= 1);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    // Found before anything was handed on, or after.
    let (got, error) = bed.attempt(&immutable("/a")).await;
    assert!(bytes.starts_with(&got) && (error.is_none() == (got.len() == bytes.len())), "{error:?}");
    assert_eq!(bed.fetch(&immutable("/a")).await.2, bytes);
    assert_eq!(bed.cache.bucket().expect("shared").counters().read().lost, 1);
    assert_eq!(bed.upstream.asks("/a"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_here_is_passed_on_from_the_bucket() {
    for after in [0, 2] {
        let bed = Bed::sharing();
        let bytes = noise(1, 6 * MIB);
        bed.shared("/a", &bytes).await;
        bed.files.fail(Plan { only: Some(Operation::Write), after, times: u64::MAX, code: ENOSPC });
        let lookup = immutable("/a");
        for (outcome, _, got) in join_all((0..5).map(|_| bed.fetch(&lookup))).await {
            assert!(outcome == Outcome::Hit(TierName::S3) && got == bytes);
        }
        bed.files.mend();
        let (outcome, _, got) = bed.fetch(&lookup).await;
        assert!(outcome == Outcome::Hit(TierName::S3) && got == bytes);
        assert_eq!(bed.upstream.asks("/a"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_range_of_a_large_cold_blob_is_read_alone() {
    let bed = Bed::sharing();
    let bytes = noise(1, 40 * MIB);
    bed.shared("/a", &bytes).await;
    let before = bed.fake().asked.load(Ordering::Relaxed);
    let part = Client::default().with(RANGE, "bytes=30000000-30000999");
    let served = part.get(&bed, &immutable("/a")).await.expect("an answer");
    assert_eq!(served.outcome, Outcome::Hit(TierName::S3));
    assert_eq!(drain(served).await.0, bytes.slice(30_000_000..30_001_000));
    assert!(bed.fake().asked.load(Ordering::Relaxed) - before <= 2 << 20);
    let far = Client::default().with(RANGE, "bytes=20000000-39999999");
    let served = far.get(&bed, &immutable("/a")).await.expect("an answer");
    assert_eq!(drain(served).await.0, bytes.slice(20_000_000..40_000_000));
    assert_eq!(bed.fetch(&immutable("/a")).await.2, bytes);
    assert_eq!(bed.upstream.asks("/a"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_gone_here_come_back_from_the_bucket() {
    let bed = Bed::sharing();
    let bytes = noise(1, 3 * MIB);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    bed.fetch(&immutable("/a")).await;
    bed.sent().await;
    let bed = bed.restart().await;
    let digest = Digest::of(&bytes);
    let place = bed.index.find_place(&digest).await.expect("told").expect("a place");
    let name = digest.to_string();
    let path = bed.dir.path().join(format!("files/{}/{name}.{}", &name[..2], place.object));
    std::fs::remove_file(path).expect("removed");
    let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
    assert!(outcome == Outcome::Hit(TierName::S3) && got == bytes, "{outcome:?}");
    assert_eq!(bed.upstream.asks("/a"), 1);
}
