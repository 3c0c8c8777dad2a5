//! Dropped and moved places, superseded copies, leases, use times, the ledger's bounds and pins.

use std::time::Duration;

use super::error::IndexError;
use super::evict::Move;
use super::ledger::RecordLine;
use super::record::{NewBlob, Record};
use super::testing::{Disk, Fate, blob, clock, entry, key, open, open_with, place, put, sha256, stored};
use super::{Ack, Index, Presence, Settings};
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::outcome::Outcome;
use crate::model::place::{Class, Place, TierName};
use crate::model::realm::Realm;
use crate::runtime::clock::Clock;

fn soon() -> Settings {
    Settings {
        lease_period: Duration::from_secs(600),
        builds_max: 2,
        lines_max: 3,
        keep_records: Duration::from_secs(1000),
        ..Settings::default()
    }
}

fn line(bytes: &[u8], time: crate::model::time::Timestamp) -> RecordLine {
    RecordLine {
        seq: 0,
        url: "https://upstream.test/a".into(),
        key: key("a").hash(),
        digest: Some(Digest::of(bytes)),
        sums: vec![sha256(bytes)],
        outcome: Outcome::Hit(TierName::Segment),
        time,
        bytes: 10,
        ms: 3,
    }
}

#[tokio::test]
async fn a_dropped_place_takes_its_keys_along() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"1", 1), Ack::Visible).await.expect("records");
    let other = Entry { vary: vec![("accept".into(), None)], ..entry("a", Some(b"2")) };
    let record = Record { entries: vec![put(other)], ..stored("a", b"2", 2) };
    index.record(record, Ack::Visible).await.expect("records");
    index.drop_place(&Digest::of(b"1"), &place(7, 1)).await.expect("another place is left alone");
    assert!(matches!(index.place(&Digest::of(b"1")), Presence::Present(_)));
    index.drop_place(&Digest::of(b"2"), &place(2, 1)).await.expect("drops");
    assert_eq!(index.place(&Digest::of(b"2")), Presence::Absent);
    let left = index.candidates(&key("a").hash()).await.expect("reads").expect("the other variant stays");
    assert_eq!(left.iter().map(|entry| entry.body).collect::<Vec<_>>(), [Some(Digest::of(b"1"))]);
    index.drop_place(&Digest::of(b"1"), &place(1, 1)).await.expect("drops");
    assert!(matches!(index.recall(&key("a").hash()), Presence::Absent));
    assert_eq!((index.counts().blobs, index.counts().keys), (0, 0));
    let realms = [Realm::public()];
    assert_eq!(index.resolve(&realms, &sha256(b"1")).await.expect("answers"), None);
    // The same bytes under another realm: the old edge does not come back with them.
    index
        .record(Record { edges: vec![(Realm::named("x"), Digest::of(b"1"))], ..stored("b", b"1", 3) }, Ack::Durable)
        .await
        .expect("records");
    drop(index);
    let index = open(dir.path());
    index.loaded().await;
    assert_eq!(index.readable(&realms, &Digest::of(b"1")), Presence::Absent);
    assert_eq!(index.find_place(&Digest::of(b"2")).await.expect("reads"), None);
}

#[tokio::test]
async fn one_digest_has_one_place_and_the_other_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let copy = |object, class| Record {
        blob: Some(NewBlob { class, ..blob(b"same", object, Fate::Kept) }),
        ..Record::default()
    };
    index.record(copy(1, Class::Untrusted), Ack::Visible).await.expect("records");
    index.record(copy(2, Class::Untrusted), Ack::Visible).await.expect("records");
    assert_eq!(index.place(&Digest::of(b"same")), Presence::Present(place(1, 4)));
    assert!(index.superseded().is_empty(), "not before it is durable");
    index.flush().await.expect("flushes");
    assert_eq!(index.superseded(), [(Digest::of(b"same"), place(2, 4))]);
    index.record(copy(3, Class::Trusted), Ack::Durable).await.expect("records");
    assert_eq!(index.place(&Digest::of(b"same")), Presence::Present(place(3, 4)), "trusted takes the seat");
    assert_eq!(index.superseded(), [(Digest::of(b"same"), place(1, 4))]);
    index.record(copy(3, Class::Trusted), Ack::Durable).await.expect("the same place again changes nothing");
    assert!(index.superseded().is_empty());
    drop(index);
    let index = open(dir.path());
    assert_eq!(index.find_place(&Digest::of(b"same")).await.expect("reads"), Some(place(3, 4)));
}

#[tokio::test]
async fn a_blob_moves_only_from_where_it_is_and_only_when_synced() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"a", 1), Ack::Durable).await.expect("records");
    let one = |from, to, fate| Move {
        digest: Digest::of(b"a"),
        from: place(from, 1),
        to: place(to, 1),
        dirty: Disk::new().object(u64::from(to), fate),
    };
    assert!(!index.move_place(one(5, 6, Fate::Kept)).await.expect("asks"));
    let error = index.move_place(one(1, 7, Fate::Lost)).await.expect_err("the copy is lost");
    assert!(matches!(error, IndexError::Sync(_)), "{error}");
    assert_eq!(index.place(&Digest::of(b"a")), Presence::Present(place(1, 1)));
    assert!(index.move_place(one(1, 8, Fate::Kept)).await.expect("moves"));
    assert_eq!(index.place(&Digest::of(b"a")), Presence::Present(place(8, 1)));
    index.drop_place(&Digest::of(b"a"), &place(1, 1)).await.expect("a late eviction finds nothing");
    drop(index);
    let index = open(dir.path());
    assert_eq!(index.find_place(&Digest::of(b"a")).await.expect("reads"), Some(place(8, 1)));
}

#[tokio::test]
async fn segments_are_listed_with_their_warmth() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let index = open_with(dir.path(), &soon(), clock.clone());
    for n in 0..10_u32 {
        let place = Place { tier: TierName::Segment, object: n / 5, offset: 1000 - n, len: 4 };
        let blob = Some(NewBlob { place, ..blob(&n.to_le_bytes(), n, Fate::Kept) });
        index.record(Record { blob, ..Record::default() }, Ack::Visible).await.expect("records");
    }
    index.flush().await.expect("flushes");
    clock.advance(Duration::from_secs(3600));
    index.touch(&Digest::of(&7_u32.to_le_bytes()));
    let found = index.coldest(Class::Trusted, 1).await.expect("scans");
    assert!(found.files.is_empty());
    assert_eq!((found.segments[&0].blobs, found.segments[&1].bytes), (5, 20));
    assert!(found.segments[&1].last > found.segments[&0].last && found.segments[&1].mean() > found.segments[&0].mean());
    let blobs = index.segment_blobs(1).await.expect("lists");
    assert_eq!(blobs.iter().map(|found| found.place.offset).collect::<Vec<_>>(), [991, 992, 993, 994, 995]);
    assert_eq!(index.places_after(None, 4).await.expect("lists").len(), 4);
}

#[tokio::test]
async fn leased_and_pinned_blobs_are_not_evicted() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let index = open_with(dir.path(), &soon(), clock.clone());
    for n in 0..4_u32 {
        let mut record = stored(&n.to_string(), &n.to_le_bytes(), n);
        record.blob.iter_mut().for_each(|blob| blob.class = if n == 3 { Class::Trusted } else { Class::Document });
        index.record(record, Ack::Visible).await.expect("records");
    }
    for n in [1_u32, 3] {
        index.append_record("build", line(&n.to_le_bytes(), clock.now())).await.expect("appends");
    }
    index.flush().await.expect("flushes");
    assert!(!index.all_leased(), "nothing was ever promised");
    let until = clock.now().plus(Duration::from_secs(600));
    assert!(index.lease(&Digest::of(&2_u32.to_le_bytes()), until).await.expect("told"));
    assert!(
        !index.lease(&Digest::of(b"absent"), clock.now()).await.expect("told"),
        "what is not here cannot be promised"
    );
    assert_eq!(index.leased_bytes(Class::Document), 4);
    let objects = |found: super::evict::Coldest| {
        let mut objects: Vec<u32> = found.files.iter().map(|(_, place, _)| place.object).collect();
        objects.sort_unstable();
        objects
    };
    assert_eq!(objects(index.coldest(Class::Document, 100).await.expect("scans")), [0]);
    let named = "what never changes can be fetched again: a record does not hold it";
    assert_eq!(objects(index.coldest(Class::Trusted, 100).await.expect("scans")), [3], "{named}");
    assert!(index.leased(&Digest::of(&2_u32.to_le_bytes())) && !index.leased(&Digest::of(&3_u32.to_le_bytes())));
    clock.advance(Duration::from_secs(700));
    assert!(
        index.forget_build("build").await.expect("forgets") && !index.forget_build("build").await.expect("is gone")
    );
    assert_eq!(objects(index.coldest(Class::Document, 100).await.expect("scans")), [0, 1, 2]);
}

#[tokio::test]
async fn after_a_start_all_is_leased_where_promises_may_still_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let index = open_with(dir.path(), &soon(), clock.clone());
    index.record(stored("a", b"a", 1), Ack::Durable).await.expect("records");
    assert!(index.lease(&Digest::of(b"a"), clock.now().plus(Duration::from_secs(300))).await.expect("told"));
    let commits = index.counts().commits;
    assert!(index.lease(&Digest::of(b"a"), clock.now().plus(Duration::from_secs(600))).await.expect("told"));
    assert_eq!(index.counts().commits, commits, "one line in the database for a whole period");
    // As a crash leaves it: nothing is said at the end.
    drop(index);
    let index = open_with(dir.path(), &soon(), clock.clone());
    index.loaded().await;
    assert!(index.leased(&Digest::of(b"a")) && index.leased(&Digest::of(b"whatever")));
    assert!(index.coldest(Class::Trusted, 100).await.expect("scans").files.is_empty());
    clock.advance(Duration::from_secs(700));
    assert!(!index.all_leased());
    assert_eq!(index.coldest(Class::Trusted, 100).await.expect("scans").files.len(), 1);
    drop(index);
    clock.advance(Duration::from_secs(700));
    assert!(!open_with(dir.path(), &soon(), clock).all_leased(), "all promises have run out");
}

#[tokio::test]
async fn use_times_reach_the_disk_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let index = open_with(dir.path(), &soon(), clock.clone());
    index.record(stored("a", b"a", 1), Ack::Durable).await.expect("records");
    index.record(stored("b", b"b", 2), Ack::Durable).await.expect("records");
    let before = index.places_after(None, 9).await.expect("lists");
    clock.advance(Duration::from_secs(7200));
    index.touch(&Digest::of(b"a"));
    index.touch(&Digest::of(b"a"));
    index.close().await;
    drop(index);
    let index = open_with(dir.path(), &soon(), clock);
    let after = index.places_after(None, 9).await.expect("lists");
    for (before, after) in before.iter().zip(after) {
        let used = after.digest == Digest::of(b"a");
        assert_eq!(after.used.last.since(before.used.last), if used { 120 } else { 0 });
        assert_eq!(after.used.hits, if used { 2 } else { 0 });
    }
}

#[tokio::test]
async fn records_of_builds_are_bounded_and_expire() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let index = open_with(dir.path(), &soon(), clock.clone());
    for n in 0..5_u8 {
        index.append_record("first", line(&[n], clock.now())).await.expect("appends");
    }
    index.flush().await.expect("flushes");
    let lines = index.record_lines("first", 0, 10).await.expect("lists");
    assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(lines[1], RecordLine { seq: 2, ..line(&[1], clock.now()) });
    assert_eq!(index.record_lines("first", 2, 10).await.expect("lists").len(), 1);
    assert!(index.record_lines("never", 0, 10).await.expect("lists").is_empty());
    let build = index.builds(10).await.expect("lists").remove(0);
    assert_eq!((build.lines, build.dropped, build.bytes), (3, 2, 30));
    for label in ["second", "third"] {
        clock.advance(Duration::from_secs(10));
        index.append_record(label, line(label.as_bytes(), clock.now())).await.expect("appends");
    }
    index.flush().await.expect("flushes");
    let labels = |builds: Vec<super::ledger::Build>| builds.into_iter().map(|build| build.label).collect::<Vec<_>>();
    assert_eq!(labels(index.builds(10).await.expect("lists")), ["third", "second"]);
    let digests = [Digest::of(&[1]), Digest::of(b"third")];
    assert_eq!(index.pinned(&digests).await.expect("asks"), [false, true]);
    clock.advance(Duration::from_secs(2000));
    index.append_record("fourth", line(b"fourth", clock.now())).await.expect("appends");
    index.flush().await.expect("flushes");
    assert_eq!(labels(index.builds(10).await.expect("lists")), ["fourth"]);
}

#[tokio::test]
async fn the_queue_is_bounded_and_drains() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { queue_bytes: 1, ..Settings::default() };
    let index: Index = open_with(dir.path(), &settings, clock());
    for n in 0..300_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("waits its turn");
        assert!(index.counts().queued <= 64);
    }
    index.flush().await.expect("flushes");
    let counts = index.counts();
    assert_eq!((counts.queued, counts.queued_bytes, counts.blobs), (0, 0, 300));
}
