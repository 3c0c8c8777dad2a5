//! Keeping within a small budget.

use futures_util::future::join_all;

use super::*;
use crate::index::Ack;
use crate::index::ledger::RecordLine;
use crate::index::record::{NewBlob, Record};
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::place::Class;
use crate::store::Intent;

fn small() -> Bed {
    Bed::with(Settings {
        max_bytes: Some(64 << 20),
        segment_bytes: 1 << 20,
        memory_bytes: 0,
        min_free_percent: 0,
        ..Settings::default()
    })
}

impl Bed {
    /// A thing at a path, fetched.
    async fn stock(&self, path: &str, bytes: &Bytes) -> Outcome {
        self.upstream.answers(path, [Script::ok(bytes.clone())]);
        let (outcome, _, got) = self.fetch(&immutable(path)).await;
        assert!(got == bytes, "{path}");
        outcome
    }

    /// A version of something that changes, fetched.
    async fn stock_version(&self, path: &str, bytes: &Bytes) {
        self.upstream.answers(path, [Script::ok(bytes.clone())]);
        assert!(self.fetch(&document(path)).await.2 == bytes, "{path}");
    }

    async fn is_here(&self, bytes: &[u8]) -> bool {
        self.index.find_place(&Digest::of(bytes)).await.expect("told").is_some()
    }

    fn line(&self, bytes: &[u8]) -> RecordLine {
        RecordLine {
            seq: 0,
            url: "/pinned".into(),
            key: KeyHash([1; 16]),
            digest: Some(Digest::of(bytes)),
            sums: Vec::new(),
            outcome: Outcome::Miss,
            time: Timestamp::from_secs(1_800_000_000),
            bytes: bytes.len() as u64,
            ms: 1,
        }
    }

    fn used(&self, class: Class) -> u64 {
        let usage = self.store.usage();
        usage.classes.iter().find(|one| one.class == class).map_or(0, |one| one.bytes())
    }

    fn budget(&self, class: Class) -> u64 {
        let usage = self.store.usage();
        usage.classes.iter().find(|one| one.class == class).map_or(0, |one| one.budget_bytes)
    }
}

#[tokio::test]
async fn a_burst_of_files_keeps_within_the_budget() {
    let bed = small();
    for at in 0..60 {
        bed.advance(60);
        let outcome = bed.stock(&format!("/{at}"), &noise(at, 3 * MIB)).await;
        assert_eq!(outcome, Outcome::Miss, "{at} found no room");
        assert!(bed.used(Class::Trusted) <= bed.budget(Class::Trusted));
    }
    assert!(bed.is_here(&noise(59, 3 * MIB)).await, "the last one is kept");
    assert!(!bed.is_here(&noise(0, 3 * MIB)).await, "the coldest went");
    assert!(bed.cache.counters().read().evicted_blobs > 30);
}

#[tokio::test]
async fn a_body_of_unknown_length_finds_room_as_it_grows() {
    let bed = small();
    for at in 0..13 {
        bed.stock(&format!("/{at}"), &noise(at, 3 * MIB)).await;
    }
    bed.cache.flush().await.expect("durable");
    let bytes = noise(99, 12 * MIB);
    bed.upstream.answers("/grows", [Script::ok(bytes.clone()).chunked()]);
    let (outcome, _, got) = bed.fetch(&immutable("/grows")).await;
    assert!(outcome == Outcome::Miss && got == bytes);
    assert_eq!(bed.cache.counters().read().overflows, 0);
    assert!(matches!(bed.fetch(&immutable("/grows")).await.0, Outcome::Hit(_)));
}

#[tokio::test]
async fn a_burst_of_small_things_keeps_within_the_budget() {
    let bed = small();
    let batch = 200;
    for round in 0..10 {
        bed.advance(60);
        let paths: Vec<String> = (0..batch).map(|at| format!("/{round}/{at}")).collect();
        join_all(paths.iter().enumerate().map(|(at, path)| {
            let bytes = noise(round * batch + at as u64, 40_000);
            let bed = &bed;
            async move { bed.stock(path, &bytes).await }
        }))
        .await;
        assert!(bed.used(Class::Trusted) <= bed.budget(Class::Trusted));
    }
    assert!(bed.is_here(&noise(10 * batch - 1, 40_000)).await);
    assert!(!bed.is_here(&noise(0, 40_000)).await);
}

#[tokio::test]
async fn many_who_find_no_room_at_once_do_not_empty_the_cache() {
    let bed = small();
    for at in 0..13 {
        bed.stock(&format!("/old/{at}"), &noise(at, 3 * MIB)).await;
    }
    bed.cache.flush().await.expect("durable");
    let paths: Vec<String> = (0..8).map(|at| format!("/new/{at}")).collect();
    join_all(paths.iter().enumerate().map(|(at, path)| {
        let (bed, bytes) = (&bed, noise(100 + at as u64, MIB));
        async move { bed.stock(path, &bytes).await }
    }))
    .await;
    let evicted = bed.cache.counters().read().evicted_bytes;
    assert!(evicted > 0 && evicted < 20 * MIB as u64, "{evicted} bytes went for 8 MiB");
}

#[tokio::test]
async fn who_reads_reads_on_while_the_blob_is_evicted() {
    let bed = small();
    let bytes = noise(1, 10 * MIB);
    bed.stock("/a", &bytes).await;
    bed.cache.flush().await.expect("durable");
    let mut served = bed.get(&immutable("/a")).await.expect("an answer");
    let mut read = Vec::new();
    read_some(&mut served, &mut read, 1).await;
    let done = bed.cache.collect(Some(0), false).await.expect("collected");
    assert_eq!((done.freed_objects, done.bytes), (1, 0));
    assert!(!bed.is_here(&bytes).await);
    read_some(&mut served, &mut read, usize::MAX).await;
    assert!(read == bytes);
    assert_eq!(bed.fetch(&immutable("/a")).await.0, Outcome::Miss);
}

#[tokio::test]
async fn the_leased_and_the_pinned_survive_and_compaction_keeps_their_bytes() {
    let bed = small();
    let (leased, pinned) = (noise(1, 30_000), noise(2, 30_000));
    let (file, kept_file) = (noise(3, 3 * MIB), noise(4, 3 * MIB));
    for (path, bytes) in [("/1", &leased), ("/3", &file)] {
        bed.stock(path, bytes).await;
    }
    for (path, bytes) in [("/2", &pinned), ("/4", &kept_file)] {
        bed.stock_version(path, bytes).await;
    }
    for at in 10..40 {
        bed.stock(&format!("/{at}"), &noise(at, 30_000)).await;
    }
    bed.index.append_record("build", bed.line(&pinned)).await.expect("pinned");
    bed.index.append_record("build", bed.line(&kept_file)).await.expect("pinned");
    bed.index.append_record("build", bed.line(&file)).await.expect("named, which holds only versions");
    let until = Timestamp::from_secs(1_800_000_000 + 1800);
    assert!(bed.index.lease(&Digest::of(&leased), until).await.expect("told"));
    bed.cache.flush().await.expect("durable");
    let done = bed.cache.collect(Some(0), false).await.expect("collected");
    assert!(done.freed_segments > 0);
    assert!(!bed.is_here(&file).await && !bed.is_here(&noise(10, 30_000)).await);
    for (lookup, bytes) in [(immutable("/1"), &leased), (document("/2"), &pinned), (document("/4"), &kept_file)] {
        let (outcome, _, got) = bed.fetch(&lookup).await;
        assert!(matches!(outcome, Outcome::Hit(_)) && got == bytes);
    }
    let bed = bed.restart().await;
    assert!(bed.index.all_leased(), "promises may still run");
    let (outcome, _, got) = bed.fetch(&document("/2")).await;
    assert!(matches!(outcome, Outcome::Hit(_)) && got == pinned);
    bed.advance(3601);
    assert!(!bed.index.all_leased());
}

#[tokio::test]
async fn promises_that_have_run_out_hold_nothing_after_a_restart() {
    let bed = small();
    let bytes = noise(1, 1000);
    bed.stock("/a", &bytes).await;
    let until = Timestamp::from_secs(1_800_000_000 + 60);
    assert!(bed.index.lease(&Digest::of(&bytes), until).await.expect("told"));
    bed.advance(3 * 3600);
    let bed = bed.restart().await;
    assert!(!bed.index.all_leased());
}

#[tokio::test]
async fn a_dry_run_tells_what_an_eviction_does() {
    let bed = small();
    for at in 0..30 {
        bed.advance(60);
        let len = if at % 3 == 0 { MIB } else { 50_000 };
        bed.stock(&format!("/{at}"), &noise(at, len)).await;
    }
    bed.cache.flush().await.expect("durable");
    let target = bed.store.usage().disk_bytes() / 2;
    let look = bed.cache.collect(Some(target), true).await.expect("looked");
    assert_eq!(bed.cache.counters().read().evicted_blobs, 0);
    assert!(bed.is_here(&noise(0, MIB)).await);
    let done = bed.cache.collect(Some(target), false).await.expect("collected");
    assert_eq!(look.freed_objects, done.freed_objects);
    assert_eq!(look.freed_segments, done.freed_segments);
    assert_eq!((look.freed_bytes, look.wanted_bytes), (done.freed_bytes, done.wanted_bytes));
    assert_eq!(look.bytes, done.bytes);
    assert!(done.bytes <= target + MIB as u64 && done.freed_bytes > 0);
}

#[tokio::test]
async fn a_dry_run_counts_survivors_with_their_headers() {
    let bed = small();
    for at in 0..60 {
        bed.advance(60);
        bed.stock(&format!("/{at}"), &noise(at, 30_000)).await;
    }
    // Used again: these are carried forward when their segments go.
    bed.advance(3600);
    for at in (0..60).step_by(15) {
        bed.fetch(&immutable(&format!("/{at}"))).await;
    }
    bed.cache.flush().await.expect("durable");
    let target = bed.store.usage().disk_bytes() / 3;
    let look = bed.cache.collect(Some(target), true).await.expect("looked");
    let done = bed.cache.collect(Some(target), false).await.expect("collected");
    assert!(done.freed_segments > 0 && bed.is_here(&noise(0, 30_000)).await, "{done:?}");
    assert_eq!((look.freed_bytes, look.freed_objects), (done.freed_bytes, done.freed_objects));
    // The segment that took the survivors has a header of its own.
    assert_eq!(look.bytes + 64, done.bytes, "{look:?} {done:?}");
}

#[tokio::test]
async fn what_is_leased_is_wanted_and_stays() {
    let bed = small();
    let bytes = noise(1, MIB);
    bed.stock("/a", &bytes).await;
    let until = Timestamp::from_secs(1_800_000_000 + 1800);
    assert!(bed.index.lease(&Digest::of(&bytes), until).await.expect("told"));
    let done = bed.cache.collect(Some(0), false).await.expect("collected");
    assert!(done.freed_bytes == 0 && done.wanted_bytes > MIB as u64, "{done:?}");
}

#[tokio::test]
async fn old_versions_of_documents_go_first() {
    let bed = small();
    let (old, other, new) = (noise(1, 200_000), noise(2, 200_000), noise(3, 200_000));
    bed.upstream.answers("/other", [Script::ok(other.clone())]);
    bed.fetch(&document("/other")).await;
    bed.advance(3600);
    bed.upstream.answers("/a", [Script::ok(old.clone()), Script::ok(new.clone())]);
    bed.fetch(&document("/a")).await;
    bed.fetch(&document("/a")).await;
    bed.advance(120);
    bed.fetch(&document("/a")).await;
    bed.cache.flush().await.expect("durable");
    let target = bed.store.usage().disk_bytes() - 1;
    bed.cache.collect(Some(target), false).await.expect("collected");
    assert!(!bed.is_here(&old).await, "nothing names it any more");
    assert!(bed.is_here(&other).await && bed.is_here(&new).await);
}

#[tokio::test]
async fn two_copies_of_one_blob_leave_one() {
    let bed = small();
    let (bytes, gate) = (noise(1, 2 * MIB), Gate::new());
    for path in ["/a", "/b"] {
        bed.upstream.answers(path, [Script::ok(bytes.clone()).gate(MIB, &gate)]);
    }
    gate.open();
    let (a, b) = (immutable("/a"), immutable("/b"));
    tokio::join!(bed.fetch(&a), bed.fetch(&b));
    bed.cache.flush().await.expect("durable");
    bed.cache.collect(None, false).await.expect("collected");
    assert!(bed.store.usage().disk_bytes() < 3 * MIB as u64);
    for path in ["/a", "/b"] {
        let (outcome, _, got) = bed.fetch(&immutable(path)).await;
        assert!(matches!(outcome, Outcome::Hit(_)) && got == bytes);
    }
}

/// Its fill is on the way to the index with it: eviction, which finds nothing that names it, must not be faster.
#[tokio::test]
async fn what_is_sealed_and_not_yet_recorded_keeps_its_segment() {
    let bed = small();
    let bytes = noise(1, 1000);
    let intent = Intent { len: Some(1000), class: Class::Trusted, sums: Vec::new() };
    let mut writer = bed.store.writer(intent).expect("room");
    writer.write(bytes).await.expect("taken");
    let sealed = writer.seal(&[], Some(1000)).await.expect("sealed");
    let (digest, place) = (sealed.digest, sealed.place);
    let done = bed.cache.collect(Some(0), false).await.expect("collected");
    assert_eq!(done.freed_segments, 0);
    let blob = NewBlob { digest, sums: sealed.sums, place, class: Class::Trusted, dirty: sealed.dirty };
    let record = Record { blob: Some(blob), ..Record::default() };
    bed.index.record(record, Ack::Durable).await.expect("its bytes are there to be synced");
    bed.store.verify_blob(&digest, &place).expect("its bytes are good");
    let done = bed.cache.collect(Some(0), false).await.expect("collected");
    assert_eq!((done.freed_objects, done.freed_segments), (1, 1), "once recorded it goes as any other");
}
