//! What is remote: it stands in for what is dropped here, is loaded at a start, and goes when the bucket has lost it.

use std::path::Path;

use super::record::{NewBlob, Record};
use super::remote::Uploaded;
use super::sqlite::{pool, schema};
use super::testing::{Fate, blob, clock, key, open, open_with, place, sha256, stored};
use super::{Ack, Index, Presence, Settings};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::model::realm::Realm;

pub(super) fn with_bucket() -> Settings {
    Settings { outbox_max_bytes: Some(1 << 20), ..Settings::default() }
}

pub(super) fn open_with_bucket(dir: &Path) -> Index {
    open_with(dir, &with_bucket(), clock())
}

pub(super) fn sent(bytes: &[u8], offset: u32) -> Uploaded {
    Uploaded { digest: Digest::of(bytes), class: Class::Trusted, offset, len: bytes.len() as u64 }
}

/// The place that the catalog says, which must be in the bucket.
async fn remote_place(index: &Index, bytes: &[u8]) -> Place {
    let found = index.remote_places(&[Digest::of(bytes)]).await.expect("reads");
    found[0].expect("is remote")
}

fn public() -> [Realm; 1] {
    [Realm::public()]
}

/// Under its key, its sum and for its reader.
async fn assert_whole(index: &Index, path: &str, bytes: &[u8], place: Place) {
    let digest = Digest::of(bytes);
    assert_eq!(index.place(&digest), Presence::Present(place));
    assert_eq!(index.find_place(&digest).await.expect("reads"), Some(place));
    let found = index.candidates(&key(path).hash()).await.expect("reads").expect("its key stays");
    assert_eq!(found[0].body, Some(digest));
    assert_eq!(index.missing(&public(), &[sha256(bytes)]).await.expect("answers"), []);
    assert_eq!(index.missing(&[Realm::named("other")], &[sha256(bytes)]).await.expect("answers").len(), 1);
    assert_eq!(index.resolve(&public(), &sha256(bytes)).await.expect("answers"), Some((digest, place)));
    assert!(index.is_readable(&public(), &digest).await.expect("answers"));
    assert!(!index.is_readable(&[Realm::named("other")], &digest).await.expect("answers"));
    assert_eq!(index.sums_of(&[digest]).await.expect("reads"), [vec![sha256(bytes)]]);
}

async fn assert_gone(index: &Index, path: &str, bytes: &[u8]) {
    let digest = Digest::of(bytes);
    assert_eq!(index.place(&digest), Presence::Absent);
    assert_eq!(index.find_place(&digest).await.expect("reads"), None);
    assert!(index.candidates(&key(path).hash()).await.expect("reads").is_none());
    assert_eq!(index.missing(&public(), &[sha256(bytes)]).await.expect("answers").len(), 1);
    assert_eq!(index.remote_places(&[digest]).await.expect("reads"), [None]);
}

#[tokio::test]
async fn local_eviction_of_what_is_remote_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    let bytes = b"bytes";
    index.record(stored("a", bytes, 1), Ack::Durable).await.expect("records");
    index.uploaded("v1/pack/one", 100, vec![sent(bytes, 7)]).await.expect("commits");
    assert_eq!(index.place(&Digest::of(bytes)), Presence::Present(place(1, 5)), "the local place comes first");
    let there = remote_place(&index, bytes).await;
    assert_eq!((there.tier, there.offset, there.len), (TierName::S3, 7, 5));
    let name = index.object_name(there.object).await.expect("reads");
    assert_eq!(name.as_deref(), Some("v1/pack/one"));
    let reads = index.counts().sql_reads;
    assert_eq!(index.object_name(there.object).await.expect("reads"), name);
    assert_eq!(index.counts().sql_reads, reads, "a name is read once");
    assert_eq!(index.object_name(there.object + 1).await.expect("reads"), None);

    assert_eq!(index.drop_places(vec![(Digest::of(bytes), place(1, 5))]).await.expect("drops"), 1);
    let reads = index.counts().sql_reads;
    assert_eq!(index.place(&Digest::of(bytes)), Presence::Present(there));
    assert!(matches!(index.recall(&key("a").hash()), Presence::Present(_)));
    assert_eq!(index.missing(&public(), &[sha256(bytes)]).await.expect("answers"), []);
    assert_eq!(index.readable(&public(), &Digest::of(bytes)), Presence::Present(()));
    assert_eq!(index.resolve(&public(), &sha256(bytes)).await.expect("answers"), Some((Digest::of(bytes), there)));
    assert_eq!(index.counts().sql_reads, reads, "memory answers all of it");
    assert_whole(&index, "a", bytes, there).await;
    drop(index);

    let index = open_with_bucket(dir.path());
    index.loaded().await;
    let reads = index.counts().sql_reads;
    assert_eq!(index.place(&Digest::of(bytes)), Presence::Present(there));
    assert_eq!(index.readable(&public(), &Digest::of(bytes)), Presence::Present(()));
    assert_eq!(index.missing(&public(), &[sha256(bytes)]).await.expect("answers"), []);
    assert_eq!(index.counts().sql_reads, reads, "the table is complete");
    assert_whole(&index, "a", bytes, there).await;
    assert_eq!(index.places_after(None, 9).await.expect("lists"), [], "a scrub reads no bucket");
}

#[tokio::test]
async fn what_was_copied_here_stands_here_and_is_not_queued_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    index.record(stored("a", b"bytes", 1), Ack::Durable).await.expect("records");
    index.uploaded("pack", 100, vec![sent(b"bytes", 0)]).await.expect("commits");
    index.drop_place(&Digest::of(b"bytes"), &place(1, 5)).await.expect("drops");
    let there = remote_place(&index, b"bytes").await;
    let copy = |object, class, fate| Record {
        blob: Some(NewBlob { class, ..blob(b"bytes", object, fate) }),
        ..Record::default()
    };
    index.record(copy(2, Class::Trusted, Fate::Lost), Ack::Durable).await.expect_err("its copy is lost");
    assert_whole(&index, "a", b"bytes", there).await;
    // Whatever its class: what is here comes first.
    index.record(copy(3, Class::Untrusted, Fate::Kept), Ack::Visible).await.expect("records");
    assert_eq!(index.place(&Digest::of(b"bytes")), Presence::Present(place(3, 5)));
    index.flush().await.expect("flushes");
    assert_whole(&index, "a", b"bytes", place(3, 5)).await;
    assert_eq!((index.outbox().blobs, index.superseded()), (0, vec![]));
    drop(index);
    let index = open_with_bucket(dir.path());
    // Also where the table cannot tell yet.
    index.record(copy(4, Class::Trusted, Fate::Kept), Ack::Durable).await.expect("records");
    index.loaded().await;
    assert_eq!(index.superseded(), [(Digest::of(b"bytes"), place(3, 5))]);
    assert_whole(&index, "a", b"bytes", place(4, 5)).await;
    index.drop_place(&Digest::of(b"bytes"), &place(4, 5)).await.expect("drops");
    assert_whole(&index, "a", b"bytes", there).await;
    assert_eq!(index.outbox().blobs, 0);
}

#[tokio::test]
async fn what_the_bucket_lost_is_absent_or_queued_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    for (n, bytes) in [(1, b"here."), (2, b"there")] {
        index.record(stored(&n.to_string(), bytes, n), Ack::Durable).await.expect("records");
    }
    index.uploaded("pack", 100, vec![sent(b"here.", 0), sent(b"there", 5)]).await.expect("commits");
    index.drop_place(&Digest::of(b"there"), &place(2, 5)).await.expect("drops");
    let (first, second) = (remote_place(&index, b"here.").await, remote_place(&index, b"there").await);
    let elsewhere = Place { object: second.object + 1, ..second };
    index.remote_lost(&Digest::of(b"there"), &elsewhere).await.expect("asks");
    assert_whole(&index, "2", b"there", second).await;
    assert_eq!(index.outbox().blobs, 0);

    index.remote_lost(&Digest::of(b"here."), &first).await.expect("forgets");
    assert_whole(&index, "1", b"here.", place(1, 5)).await;
    assert_eq!(index.remote_places(&[Digest::of(b"here.")]).await.expect("reads"), [None]);
    let waiting = index.waiting(9).await.expect("lists");
    assert_eq!(waiting.iter().map(|one| one.place).collect::<Vec<_>>(), [place(1, 5)]);
    index.remote_lost(&Digest::of(b"there"), &second).await.expect("forgets");
    assert_gone(&index, "2", b"there").await;
    assert!(matches!(index.recall(&key("2").hash()), Presence::Absent));
    assert_eq!((index.counts().blobs, index.counts().keys), (1, 1));
    drop(index);
    let index = open_with_bucket(dir.path());
    index.loaded().await;
    assert_gone(&index, "2", b"there").await;
    assert_whole(&index, "1", b"here.", place(1, 5)).await;
    assert_eq!(index.outbox().blobs, 1);
    index.record(stored("2", b"there", 3), Ack::Durable).await.expect("records");
    assert_whole(&index, "2", b"there", place(3, 5)).await;
    assert_eq!(index.outbox().blobs, 2, "it is to be remote once more");
}

#[tokio::test]
async fn a_later_upload_replaces_an_earlier_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    index.record(stored("a", b"bytes", 1), Ack::Durable).await.expect("records");
    index.uploaded("one", 100, vec![sent(b"bytes", 0)]).await.expect("commits");
    let first = remote_place(&index, b"bytes").await;
    index.drop_place(&Digest::of(b"bytes"), &place(1, 5)).await.expect("drops");
    index.uploaded("two", 100, vec![sent(b"bytes", 9)]).await.expect("commits");
    let second = remote_place(&index, b"bytes").await;
    assert_ne!(first.object, second.object);
    assert_whole(&index, "a", b"bytes", second).await;
    index.remote_lost(&Digest::of(b"bytes"), &first).await.expect("is late");
    assert_whole(&index, "a", b"bytes", second).await;
    // What has no place here can be remote all the same; nobody may read it as yet.
    index.uploaded("three", 100, vec![sent(b"stray", 0)]).await.expect("commits");
    let stray = remote_place(&index, b"stray").await;
    assert_eq!(index.place(&Digest::of(b"stray")), Presence::Present(stray));
    assert!(!index.is_readable(&public(), &Digest::of(b"stray")).await.expect("answers"));
}

/// A look at the catalog before the drop cannot see what comes to be remote after it.
#[tokio::test]
async fn what_became_remote_while_it_was_dropped_stands() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    for n in 0..60_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("records");
    }
    index.flush().await.expect("flushes");
    for n in 0..60_u32 {
        let (bytes, name) = (n.to_le_bytes(), n.to_string());
        let (digest, here) = (Digest::of(&bytes), place(n, 4));
        let (uploaded, dropped) =
            tokio::join!(index.uploaded(&name, 9, vec![sent(&bytes, 0)]), index.drop_place(&digest, &here));
        uploaded.expect("commits");
        dropped.expect("drops");
        let there = remote_place(&index, &bytes).await;
        assert_eq!(index.place(&digest), Presence::Present(there));
        // Dropped before, it has lost its keys; after, it has kept them all.
        if index.candidates(&key(&name).hash()).await.expect("reads").is_some() {
            assert_whole(&index, &name, &bytes, there).await;
        }
        let (lost, _) = tokio::join!(index.remote_lost(&digest, &there), index.drop_place(&digest, &here));
        lost.expect("forgets");
        assert_gone(&index, &name, &bytes).await;
    }
    assert_eq!((index.counts().blobs, index.outbox().blobs), (0, 0));
}

/// The look said one thing and the commit found another: the writer's word stands.
#[tokio::test]
async fn the_table_learns_what_the_drop_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    for (n, bytes) in [(1, b"one"), (2, b"two")] {
        index.record(stored(&n.to_string(), bytes, n), Ack::Durable).await.expect("records");
    }
    index.uploaded("pack", 9, vec![sent(b"one", 0), sent(b"two", 3)]).await.expect("commits");
    let (one, two) = (remote_place(&index, b"one").await, remote_place(&index, b"two").await);
    let told = |bytes| (Digest::of(bytes), place(if bytes == b"one" { 1 } else { 2 }, 3));
    // As if the first had not been remote when it was looked up, and the second not been lost.
    let other = rusqlite::Connection::open(dir.path().join("catalog.sqlite")).expect("opens");
    other.execute("DELETE FROM remote WHERE digest = ?1", [Digest::of(b"two").as_bytes()]).expect("is lost");
    drop(other);
    let looked_up = vec![None, Some(two)];
    index.drop_looked_up(vec![told(b"one"), told(b"two")], looked_up).await.expect("drops");
    assert_whole(&index, "1", b"one", one).await;
    assert_gone(&index, "2", b"two").await;
    assert_eq!(index.counts().blobs, 1);
}

/// Killed after the places and before the catalog, in a drop, an upload and a loss: each is harmless, and can be made again.
#[tokio::test]
async fn a_kill_between_the_two_databases_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    let all = [b"drop", b"sent", b"lost"];
    for (bytes, n) in all.into_iter().zip(1..) {
        index.record(stored(&n.to_string(), bytes, n), Ack::Durable).await.expect("records");
    }
    index.uploaded("pack", 9, all.iter().map(|bytes| sent(*bytes, 0)).collect()).await.expect("commits");
    let there = remote_place(&index, b"drop").await;
    drop(index);
    let places = rusqlite::Connection::open(dir.path().join("places.sqlite")).expect("opens");
    places.execute("DELETE FROM blobs WHERE digest = ?1", [Digest::of(b"drop").as_bytes()]).expect("its place went");
    for bytes in [b"sent", b"lost"] {
        let row = "INSERT INTO outbox (digest, since, len) VALUES (?1, 1, 4)";
        places.execute(row, [Digest::of(bytes).as_bytes()]).expect("it waits, and is remote");
    }
    drop(places);

    let index = open_with_bucket(dir.path());
    index.loaded().await;
    assert_whole(&index, "1", b"drop", there).await;
    assert_eq!(index.drop_places(vec![(Digest::of(b"drop"), place(1, 4))]).await.expect("asks"), 0);
    assert_whole(&index, "1", b"drop", there).await;
    assert_eq!((index.waiting(9).await.expect("lists").len(), index.outbox().bytes), (2, 8));
    index.uploaded("again", 9, vec![sent(b"sent", 5)]).await.expect("commits");
    index.remote_lost(&Digest::of(b"lost"), &there).await.expect("forgets");
    assert_ne!(remote_place(&index, b"sent").await.object, there.object);
    assert_whole(&index, "2", b"sent", place(2, 4)).await;
    assert_whole(&index, "3", b"lost", place(3, 4)).await;
    let waiting = index.waiting(9).await.expect("lists");
    assert_eq!(waiting.iter().map(|one| one.digest).collect::<Vec<_>>(), [Digest::of(b"lost")]);
    assert_eq!((index.outbox().blobs, index.outbox().bytes), (1, 4));
}

#[tokio::test]
async fn a_sum_learned_of_what_is_remote_comes_back_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    index.record(stored("a", b"bytes", 1), Ack::Durable).await.expect("records");
    index.uploaded("pack", 9, vec![sent(b"bytes", 0)]).await.expect("commits");
    let digest = Digest::of(b"bytes");
    index.drop_place(&digest, &place(1, 5)).await.expect("drops");
    let there = remote_place(&index, b"bytes").await;
    let other = Checksum::new(Algorithm::Md5, &[7; 16]).expect("16 bytes");
    index.record(Record { sums: vec![(other, digest)], ..Record::default() }, Ack::Durable).await.expect("records");
    drop(index);
    let index = open_with_bucket(dir.path());
    index.loaded().await;
    assert_eq!(index.resolve(&public(), &other).await.expect("answers"), Some((digest, there)));
    assert_eq!(index.sums_of(&[digest]).await.expect("reads"), [vec![sha256(b"bytes"), other]]);
    index.remote_lost(&digest, &there).await.expect("forgets");
    let edges = vec![(Realm::public(), digest)];
    index.record(Record { edges, ..Record::default() }, Ack::Durable).await.expect("records");
    assert_eq!(index.resolve(&public(), &other).await.expect("answers"), None, "its sums went with it");
}

#[tokio::test]
async fn without_a_bucket_nothing_is_queued_asked_or_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with_bucket(dir.path());
    for n in 0..4_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Durable).await.expect("records");
    }
    let there = [sent(&0_u32.to_le_bytes(), 0), sent(&1_u32.to_le_bytes(), 4)];
    index.uploaded("pack", 9, there.to_vec()).await.expect("commits");
    index.drop_place(&Digest::of(&0_u32.to_le_bytes()), &place(0, 4)).await.expect("drops");
    let remote = remote_place(&index, &0_u32.to_le_bytes()).await;
    assert_eq!(index.outbox().blobs, 2);
    index.close().await;
    drop(index);

    let index = open(dir.path());
    index.loaded().await;
    let (zero, one, two) = (0_u32.to_le_bytes(), 1_u32.to_le_bytes(), 2_u32.to_le_bytes());
    assert_eq!(index.place(&Digest::of(&zero)), Presence::Absent, "nobody could fetch it");
    assert_eq!(index.find_place(&Digest::of(&zero)).await.expect("reads"), None);
    assert_eq!(index.waiting(9).await.expect("lists"), []);
    index.record(stored("9", b"nine", 9), Ack::Durable).await.expect("records");
    index.drop_place(&Digest::of(&one), &place(1, 4)).await.expect("drops");
    index.drop_place(&Digest::of(&two), &place(2, 4)).await.expect("drops");
    assert_eq!(index.place(&Digest::of(&one)), Presence::Absent);
    drop(index);

    let index = open_with_bucket(dir.path());
    index.loaded().await;
    assert_whole(&index, "0", &zero, remote).await;
    assert_whole(&index, "1", &one, Place { offset: 4, ..remote }).await;
    assert_gone(&index, "2", &two).await;
    let waiting: Vec<u32> = index.waiting(9).await.expect("lists").iter().map(|one| one.place.object).collect();
    assert_eq!((waiting, index.outbox().blobs), (vec![3], 1), "one went with its blob, one was never queued");
}

#[tokio::test]
async fn a_table_too_small_finds_what_is_remote_all_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { table_max_bytes: 1, ..with_bucket() };
    let index = open_with(dir.path(), &settings, clock());
    for n in 0..8_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Durable).await.expect("records");
    }
    let all = (0..8_u32).map(|n| sent(&n.to_le_bytes(), n)).collect();
    index.uploaded("pack", 9, all).await.expect("commits");
    for n in 0..4_u32 {
        index.drop_place(&Digest::of(&n.to_le_bytes()), &place(n, 4)).await.expect("drops");
    }
    for n in 0..8_u32 {
        let bytes = n.to_le_bytes();
        let there = remote_place(&index, &bytes).await;
        let found = index.find_place(&Digest::of(&bytes)).await.expect("reads").expect("is somewhere");
        assert_eq!(found, if n < 4 { there } else { place(n, 4) });
        assert_eq!(index.missing(&public(), &[sha256(&bytes)]).await.expect("answers"), []);
    }
    index
        .record(Record { blob: Some(blob(&[0; 4], 9, Fate::Kept)), ..Record::default() }, Ack::Durable)
        .await
        .expect("copies");
    assert_eq!(index.find_place(&Digest::of(&[0; 4])).await.expect("reads"), Some(place(9, 4)));
    assert_eq!(index.outbox().blobs, 0, "it was remote already");
}

#[tokio::test]
async fn a_directory_of_before_the_bucket_opens() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"bytes", 1), Ack::Durable).await.expect("records");
    index.close().await;
    drop(index);
    for (name, schema, newer) in [
        ("places.sqlite", schema::PLACES, "DROP TABLE outbox"),
        ("catalog.sqlite", schema::CATALOG, "DROP TABLE objects; DROP TABLE remote; DROP TABLE usage_days"),
    ] {
        let connection = pool::open_writer(&dir.path().join(name), schema).expect("opens");
        connection.execute_batch(newer).expect("as it was");
        connection.pragma_update(None, "user_version", 1).expect("as it was");
    }
    let index = open_with_bucket(dir.path());
    index.loaded().await;
    assert_whole(&index, "a", b"bytes", place(1, 5)).await;
    index.uploaded("pack", 9, vec![sent(b"bytes", 0)]).await.expect("commits");
    index.drop_place(&Digest::of(b"bytes"), &place(1, 5)).await.expect("drops");
    let there = remote_place(&index, b"bytes").await;
    assert_whole(&index, "a", b"bytes", there).await;
}
