//! The outbox: one row for each blob that is here and not remote, whatever is killed when; bounded; never evicted.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::record::{NewBlob, Record};
use super::remote_test::{open_with_bucket, sent, with_bucket};
use super::testing::{Fate, blob, clock, key, open_with, place, stored};
use super::{Ack, Index, Presence, Settings};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::runtime::clock::Clock;

async fn queued(index: &Index) -> Vec<u32> {
    index.waiting(10_000).await.expect("lists").iter().map(|one| one.place.object).collect()
}

/// Digests in one column of a database, as another process reads it.
fn digests(dir: &Path, database: &str, table: &str) -> BTreeSet<Vec<u8>> {
    let connection = rusqlite::Connection::open(dir.join(database)).expect("opens");
    let mut rows = connection.prepare(&format!("SELECT digest FROM {table}")).expect("prepares");
    rows.query_map([], |row| row.get(0)).expect("reads").map(|row| row.expect("a row")).collect()
}

#[tokio::test]
async fn what_is_recorded_waits_in_order_and_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = clock();
    let index = open_with(dir.path(), &with_bucket(), clock.clone());
    let begun = clock.now();
    for n in [3_u32, 1, 2] {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Durable).await.expect("records");
        clock.advance(Duration::from_secs(1));
    }
    index.outbox_filled().await;
    index.record(stored("again", &3_u32.to_le_bytes(), 9), Ack::Durable).await.expect("is here already");
    assert_eq!(queued(&index).await, [3, 1, 2]);
    let first = index.waiting(1).await.expect("lists");
    assert_eq!((first[0].digest, first[0].since, first[0].class), (Digest::of(&[3, 0, 0, 0]), begun, Class::Trusted));
    let reads = index.counts().sql_reads;
    let numbers = index.outbox();
    assert_eq!((numbers.blobs, numbers.bytes, numbers.max_bytes, numbers.shed), (3, 12, 1 << 20, 0));
    assert_eq!((numbers.oldest, index.counts().sql_reads), (Some(begun), reads));
    index.not_uploaded(vec![Digest::of(&[3, 0, 0, 0]), Digest::of(b"none")]).await.expect("leaves");
    assert_eq!(index.outbox().oldest, Some(begun.plus(Duration::from_secs(1))));
    index.uploaded("pack", 9, vec![sent(&[1, 0, 0, 0], 0)]).await.expect("commits");
    assert_eq!((queued(&index).await, index.outbox().bytes), (vec![2], 4));
    drop(index);
    let index = open_with(dir.path(), &with_bucket(), clock.clone());
    index.outbox_filled().await;
    index.loaded().await;
    let numbers = index.outbox();
    assert_eq!((numbers.blobs, numbers.bytes, numbers.oldest), (1, 4, Some(begun.plus(Duration::from_secs(2)))));
    index.drop_place(&Digest::of(&[2, 0, 0, 0]), &place(2, 4)).await.expect("drops");
    let numbers = index.outbox();
    assert_eq!((numbers.blobs, numbers.bytes, numbers.oldest), (0, 0, None));
    assert!(queued(&index).await.is_empty());
}

#[tokio::test]
async fn what_finds_it_full_is_shed_and_stays_here() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with(dir.path(), &Settings { outbox_max_bytes: Some(10), ..Settings::default() }, clock());
    for n in 0..4_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("records");
    }
    index.flush().await.expect("flushes");
    let numbers = index.outbox();
    assert_eq!((numbers.blobs, numbers.bytes, numbers.shed), (2, 8, 2));
    assert_eq!(queued(&index).await.into_iter().collect::<BTreeSet<u32>>(), BTreeSet::from([0, 1]));
    assert_eq!(index.place(&Digest::of(&3_u32.to_le_bytes())), Presence::Present(place(3, 4)));
    index.uploaded("pack", 9, vec![sent(&0_u32.to_le_bytes(), 0)]).await.expect("commits");
    index.record(stored("7", &7_u32.to_le_bytes(), 7), Ack::Durable).await.expect("records");
    let waiting: BTreeSet<u32> = queued(&index).await.into_iter().collect();
    assert_eq!((waiting, index.outbox().shed), (BTreeSet::from([1, 7]), 2));
}

#[tokio::test]
async fn a_failed_copy_and_a_failed_commit_leave_no_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    let lost = Record { blob: Some(blob(b"lost", 1, Fate::Lost)), ..stored("a", b"lost", 1) };
    index.record(lost, Ack::Durable).await.expect_err("its bytes are lost");
    assert_eq!((index.outbox().blobs, index.outbox().shed), (0, 0));
    let other = rusqlite::Connection::open(dir.path().join("places.sqlite")).expect("opens");
    other.execute_batch("ALTER TABLE outbox RENAME TO away").expect("breaks it");
    index.record(stored("b", b"kept", 2), Ack::Durable).await.expect_err("neither row nor place");
    assert_eq!((index.place(&Digest::of(b"kept")), index.outbox().blobs), (Presence::Absent, 0));
    other.execute_batch("ALTER TABLE away RENAME TO outbox").expect("mends it");
    index.record(stored("b", b"kept", 3), Ack::Durable).await.expect("records");
    assert_eq!(queued(&index).await, [3]);
    // Where the catalog cannot say it, it is not remote and goes on waiting.
    let catalog = rusqlite::Connection::open(dir.path().join("catalog.sqlite")).expect("opens");
    catalog.execute_batch("ALTER TABLE remote RENAME TO away").expect("breaks it");
    index.uploaded("pack", 9, vec![sent(b"kept", 0)]).await.expect_err("cannot be committed");
    assert_eq!((queued(&index).await, index.outbox().blobs), (vec![3], 1));
    catalog.execute_batch("ALTER TABLE away RENAME TO remote").expect("mends it");
    // Where the outbox cannot be left, it is remote all the same and may be sent again.
    other
        .execute_batch("CREATE TRIGGER stuck BEFORE DELETE ON outbox BEGIN SELECT raise(ABORT, 'stuck'); END")
        .expect("breaks it");
    index.uploaded("pack", 9, vec![sent(b"kept", 0)]).await.expect_err("the asker sends it again");
    assert!(index.remote_places(&[Digest::of(b"kept")]).await.expect("reads")[0].is_some());
    assert_eq!(queued(&index).await, [3]);
    other.execute_batch("DROP TRIGGER stuck").expect("mends it");
    index.uploaded("pack", 9, vec![sent(b"kept", 0)]).await.expect("said twice");
    assert_eq!((queued(&index).await, index.outbox().blobs), (vec![], 0));
}

#[tokio::test]
async fn what_waits_is_not_evicted() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    for n in 0..6_u32 {
        let tier = if n < 3 { TierName::File } else { TierName::Segment };
        let place = Place { tier, object: if n < 3 { n } else { 7 }, offset: n, len: 4 };
        let blob = Some(NewBlob { place, ..blob(&n.to_le_bytes(), n, Fate::Kept) });
        index.record(Record { blob, ..Record::default() }, Ack::Durable).await.expect("records");
    }
    assert!(index.coldest(Class::Trusted, 100).await.expect("scans").files.is_empty());
    index
        .uploaded("pack", 9, vec![sent(&1_u32.to_le_bytes(), 0), sent(&4_u32.to_le_bytes(), 4)])
        .await
        .expect("commits");
    let files = index.coldest(Class::Trusted, 100).await.expect("scans").files;
    assert_eq!(files.iter().map(|(_, place, _)| place.object).collect::<Vec<_>>(), [1]);
    let held: Vec<Digest> = index.segment_blobs(7).await.expect("lists").iter().map(|one| one.digest).collect();
    assert_eq!(index.outboxed(&held).await.expect("asks"), [true, false, true]);
}

/// Killed at any moment: a blob with a place waits or is remote, and nothing else waits.
#[tokio::test]
async fn a_kill_leaves_each_blob_waiting_or_remote() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<(u32, String)> = Vec::new();
    for round in 0..8_u32 {
        let index = open_with_bucket(dir.path());
        index.loaded().await;
        assert_eq!(index.outbox().blobs, queued(&index).await.len() as u64);
        let here = digests(dir.path(), "places.sqlite", "blobs");
        let waiting = digests(dir.path(), "places.sqlite", "outbox");
        let remote = digests(dir.path(), "catalog.sqlite", "remote");
        assert!(waiting.is_subset(&here));
        let either: BTreeSet<_> = waiting.union(&remote).cloned().collect();
        assert!(here.is_subset(&either), "round {round}");
        for (n, path) in &acknowledged {
            let found = index.find_place(&Digest::of(&u32::to_le_bytes(*n))).await.expect("reads");
            assert!(found.is_some_and(|found| !found.tier.is_local()), "{n} was acknowledged as remote");
            assert!(index.candidates(&key(path).hash()).await.expect("reads").is_some(), "{path}");
        }
        for n in round * 40..(round + 1) * 40 {
            let ack = if n % 7 == 0 { Ack::Durable } else { Ack::Visible };
            index.record(stored(&n.to_string(), &n.to_le_bytes(), n), ack).await.expect("records");
        }
        let first = round * 40;
        let bytes = first.to_le_bytes();
        index.uploaded(&format!("pack {first}"), 9, vec![sent(&bytes, 0)]).await.expect("commits");
        index.drop_place(&Digest::of(&bytes), &place(first, 4)).await.expect("drops");
        acknowledged.push((first, first.to_string()));
        // What is under way when it is killed is whole or not at all.
        let others: Vec<_> = (first + 1..first + 20).map(|n| sent(&n.to_le_bytes(), n)).collect();
        let more = format!("pack {first} and more");
        let killed = async {
            tokio::task::yield_now().await;
            index.core.queue.abandon();
        };
        let _ = tokio::join!(index.uploaded(&more, 9, others), killed);
        drop(index);
    }
}

#[test]
fn the_longest_waiting_are_found_without_sorting() {
    let dir = tempfile::tempdir().expect("a directory");
    let connection = super::sqlite::pool::open_writer(&dir.path().join("places.sqlite"), super::sqlite::schema::PLACES);
    let connection = connection.expect("opens");
    let plan = format!("EXPLAIN QUERY PLAN {}", super::sqlite::sql::OUTBOX);
    let mut statement = connection.prepare(&plan).expect("prepares");
    let steps = statement.query_map([1], |row| row.get::<_, String>(3)).expect("plans");
    let steps: Vec<String> = steps.map(|step| step.expect("a step")).collect();
    assert!(steps.iter().all(|step| !step.contains("TEMP")), "{steps:?}");
    assert!(steps[0].contains("outbox_by_since"), "{steps:?}");
}
