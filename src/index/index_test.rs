//! The index as a whole: visible and durable, restarts, failures, conflicts, variants.

use std::sync::Arc;

use super::catalog::{PrefixAsk, Put};
use super::error::IndexError;
use super::record::{Forget, NewBlob, Record, seat_of};
use super::table::Use;
use super::testing::{Fate, blob, clock, entry, key, open, open_with, place, put, sha256, stored};
use super::{Ack, Index, Presence, Settings};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::place::Class;
use crate::model::realm::{Realm, Scope};

const PUBLIC: fn() -> [Realm; 1] = || [Realm::public()];

async fn bodies(index: &Index, path: &str) -> Vec<Option<Digest>> {
    let found = index.candidates(&key(path).hash()).await.expect("reads");
    found.map_or_else(Vec::new, |found| found.iter().map(|entry| entry.body).collect())
}

#[tokio::test]
async fn what_is_recorded_is_visible_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let hash = key("a").hash();
    assert_eq!(index.place(&Digest::of(b"a")), Presence::Absent);
    assert!(matches!(index.recall(&hash), Presence::Absent));
    let seq = index.record(stored("a", b"a", 1), Ack::Visible).await.expect("records");
    let Presence::Present(found) = index.recall(&hash) else { panic!("is visible") };
    assert_eq!((found[0].seq, found[0].body), (seq, Some(Digest::of(b"a"))));
    assert_eq!(index.place(&Digest::of(b"a")), Presence::Present(place(1, 1)));
    assert_eq!(index.readable(&PUBLIC(), &Digest::of(b"a")), Presence::Present(()));
    assert_eq!(index.readable(&[Realm::named("other")], &Digest::of(b"a")), Presence::Absent);
    assert_eq!(index.missing(&PUBLIC(), &[sha256(b"a"), sha256(b"b")]).await.expect("answers"), [sha256(b"b")]);
    let resolved = index.resolve(&PUBLIC(), &sha256(b"a")).await.expect("answers");
    assert_eq!(resolved, Some((Digest::of(b"a"), place(1, 1))));
    assert_eq!(index.resolve(&[Realm::named("other")], &sha256(b"a")).await.expect("answers"), None);
    assert_eq!(index.counts().sql_reads, 0, "memory answers all of it");
}

#[tokio::test]
async fn a_restart_finds_what_was_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    for n in 0..50_u32 {
        let bytes = n.to_le_bytes();
        index.record(stored(&format!("p/{n}"), &bytes, n), Ack::Visible).await.expect("records");
    }
    let last =
        index.record(Record { entries: vec![put(entry("gone", None))], ..Record::default() }, Ack::Durable).await;
    let last = last.expect("records");
    index.close().await;
    assert!(matches!(index.record(stored("x", b"x", 99), Ack::Visible).await, Err(IndexError::Closed)));
    assert!(matches!(index.places_after(None, 1).await, Err(IndexError::Closed)));
    drop(index);
    let index = open(dir.path());
    index.loaded().await;
    let counts = index.counts();
    assert_eq!((counts.blobs, counts.keys, counts.loaded, counts.partial), (50, 51, true, false));
    for n in 0..50_u32 {
        let digest = Digest::of(&n.to_le_bytes());
        assert_eq!(index.place(&digest), Presence::Present(place(n, 4)));
        assert_eq!(bodies(&index, &format!("p/{n}")).await, [Some(digest)]);
        let found = index.resolve(&PUBLIC(), &sha256(&n.to_le_bytes())).await.expect("answers");
        assert_eq!(found, Some((digest, place(n, 4))));
    }
    assert_eq!(bodies(&index, "gone").await, [None]);
    assert!(matches!(index.recall(&key("p/1").hash()), Presence::Present(_)), "a cold key is read once");
    assert!(matches!(index.recall(&key("never").hash()), Presence::Absent));
    let next = index.record(stored("y", b"y", 100), Ack::Visible).await.expect("records");
    assert!(next > last, "numbers go on rising: {next} after {last}");
}

#[tokio::test]
async fn a_failed_sync_takes_everything_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let mut record = stored("a", b"a", 1);
    record.blob = Some(blob(b"a", 1, Fate::Lost));
    let error = index.record(record, Ack::Durable).await.expect_err("fails");
    assert!(matches!(error, IndexError::Sync(_)), "{error}");
    assert_eq!(index.place(&Digest::of(b"a")), Presence::Absent);
    assert!(matches!(index.recall(&key("a").hash()), Presence::Absent));
    assert_eq!(index.missing(&PUBLIC(), &[sha256(b"a")]).await.expect("answers").len(), 1);
    assert_eq!(index.counts().condemned_jobs, 1);
    assert_eq!(index.taken_back(), 0, "who awaited it was told");
    let mut record = stored("c", b"c", 3);
    record.blob = Some(blob(b"c", 3, Fate::Lost));
    index.record(record, Ack::Visible).await.expect("is visible for a moment");
    index.flush().await.expect("it goes on");
    assert_eq!([index.taken_back(), index.taken_back()], [1, 0], "told once");
    index.record(stored("a", b"a", 2), Ack::Durable).await.expect("a new copy is good");
    drop(index);
    let index = open(dir.path());
    assert_eq!(index.find_place(&Digest::of(b"a")).await.expect("reads"), Some(place(2, 1)));
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"a"))]);
}

#[tokio::test]
async fn a_failed_sync_leaves_the_answer_that_stood_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"old", 1), Ack::Durable).await.expect("records");
    let record = Record { blob: Some(blob(b"new", 2, Fate::Lost)), ..stored("a", b"new", 2) };
    index.record(record, Ack::Visible).await.expect("is visible");
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"new"))]);
    index.flush().await.expect("flushes");
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"old"))]);
    assert_eq!(index.place(&Digest::of(b"new")), Presence::Absent);
}

#[tokio::test]
async fn a_failed_copy_of_what_another_keeps_harms_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"same", 1), Ack::Durable).await.expect("records");
    let record = Record { blob: Some(blob(b"same", 2, Fate::Lost)), ..stored("b", b"same", 2) };
    index.record(record, Ack::Durable).await.expect_err("its own copy is lost");
    assert_eq!(index.place(&Digest::of(b"same")), Presence::Present(place(1, 4)));
    // The first copy fails after the second was judged redundant: the second takes the seat.
    let lost = Record { blob: Some(blob(b"two", 3, Fate::Lost)), ..stored("c", b"two", 3) };
    let (first, second) =
        tokio::join!(index.record(lost, Ack::Durable), index.record(stored("d", b"two", 4), Ack::Durable));
    assert!(matches!(first, Err(IndexError::Sync(_))));
    second.expect("its copy is good");
    assert_eq!(index.place(&Digest::of(b"two")), Presence::Present(place(4, 3)));
    assert_eq!(bodies(&index, "d").await, [Some(Digest::of(b"two"))]);
}

/// Whatever the table thought, the rows are the truth: else it names bytes that are about to be removed.
#[tokio::test]
async fn the_place_that_was_committed_is_the_one_that_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let of_class = |class, object, fate| Record {
        blob: Some(NewBlob { class, ..blob(b"same", object, fate) }),
        ..stored("a", b"same", object)
    };
    index.record(of_class(Class::Document, 1, Fate::Kept), Ack::Durable).await.expect("records");
    // It takes the seat, and gives back the place but not the class.
    index.record(of_class(Class::Trusted, 2, Fate::Lost), Ack::Durable).await.expect_err("its copy is lost");
    index.record(of_class(Class::Trusted, 3, Fate::Kept), Ack::Durable).await.expect("records");
    let digest = Digest::of(b"same");
    assert_eq!(index.superseded(), [(digest, place(1, 4))]);
    assert_eq!(index.place(&digest), Presence::Present(place(3, 4)));

    // A seat without a row, as a drop leaves it that a loading table overtook.
    let (stale, used) = (Digest::of(b"stale"), Use::default());
    index.core.table.put(&seat_of(&stale, &[], place(4, 5), Class::Trusted, used));
    index.record(stored("b", b"stale", 5), Ack::Durable).await.expect("records");
    assert_eq!(index.place(&stale), Presence::Present(place(5, 5)));
}

#[tokio::test]
async fn keys_that_cannot_be_committed_are_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"a", 1), Ack::Durable).await.expect("records");
    let other = rusqlite::Connection::open(dir.path().join("catalog.sqlite")).expect("opens");
    other.execute_batch("DROP TABLE edges").expect("breaks the catalog");
    let error = index.record(stored("b", b"b", 2), Ack::Durable).await.expect_err("fails");
    assert!(matches!(error, IndexError::Commit { .. }), "{error}");
    assert!(matches!(index.recall(&key("b").hash()), Presence::Absent));
    assert_eq!(index.place(&Digest::of(b"b")), Presence::Present(place(2, 1)), "places commit first");
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"a"))]);
}

#[tokio::test]
async fn an_expected_version_that_is_not_the_standing_one_conflicts() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let first = index.record(stored("a", b"1", 1), Ack::Visible).await.expect("records");
    let expecting = |body: &[u8], expected| Record {
        entries: vec![Put { entry: Arc::new(entry("a", Some(body))), expected: Some(expected) }],
        ..Record::default()
    };
    let second = index.record(expecting(b"2", first), Ack::Visible).await.expect("the version is right");
    let error = index.record(expecting(b"3", first), Ack::Visible).await.expect_err("is refused");
    assert!(matches!(error, IndexError::Conflict), "{error}");
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"2"))]);
    index.close().await;
    drop(index);
    let index = open(dir.path());
    index.record(expecting(b"3", first), Ack::Visible).await.expect_err("also after a restart");
    index.record(expecting(b"3", second), Ack::Durable).await.expect("the version is right");
}

#[tokio::test]
async fn racing_writers_of_one_version_have_one_winner() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let first = index.record(stored("a", b"0", 1), Ack::Durable).await.expect("records");
    let race = (0..16_u8).map(|n| {
        let put = Put { entry: Arc::new(entry("a", Some(&[n]))), expected: Some(first) };
        index.record(Record { entries: vec![put], ..Record::default() }, Ack::Durable)
    });
    let results = futures_util::future::join_all(race).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

#[tokio::test]
async fn variants_stand_side_by_side_and_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { variants_max: 3, ..Settings::default() };
    let index = open_with(dir.path(), &settings, clock());
    let varied = |value: &str, body: &[u8]| Record {
        entries: vec![put(Entry { vary: vec![("accept".into(), Some(value.into()))], ..entry("a", Some(body)) })],
        ..Record::default()
    };
    for (value, body) in [("1", b"1"), ("2", b"2"), ("3", b"3"), ("2", b"x"), ("4", b"4")] {
        index.record(varied(value, body), Ack::Visible).await.expect("records");
    }
    let expected = [b"4", b"x", b"3"].map(|body| Some(Digest::of(body)));
    assert_eq!(bodies(&index, "a").await, expected);
    index.close().await;
    drop(index);
    let index = open_with(dir.path(), &settings, clock());
    assert_eq!(bodies(&index, "a").await, expected, "the same from the database");
}

#[tokio::test]
async fn a_small_cache_hides_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings =
        Settings { entry_cache_bytes: 8192, commit_delay: std::time::Duration::from_secs(60), ..Settings::default() };
    let index = open_with(dir.path(), &settings, clock());
    for n in 0..200_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("records");
    }
    for n in 0..200_u32 {
        let Presence::Present(_) = index.recall(&key(&n.to_string()).hash()) else { panic!("{n} is pinned") };
    }
    index.flush().await.expect("flushes");
    assert!(index.counts().cached_entry_bytes <= 8192);
    for n in 0..200_u32 {
        assert_eq!(bodies(&index, &n.to_string()).await, [Some(Digest::of(&n.to_le_bytes()))]);
    }
    assert!(index.counts().sql_reads > 100);
}

#[tokio::test]
async fn forgetting_by_key_writer_and_prefix() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    for (path, writer) in [("a/1", "x"), ("a/2", "y"), ("b/1", "x"), ("b/2", "y")] {
        let written = Entry { writer: Arc::from(writer), ..entry(path, Some(path.as_bytes())) };
        let record = Record { entries: vec![put(written)], ..stored(path, path.as_bytes(), 1) };
        index.record(record, Ack::Visible).await.expect("records");
    }
    index.forget(&key("b/2").hash()).await.expect("forgets");
    assert!(matches!(index.recall(&key("b/2").hash()), Presence::Absent));
    assert_eq!(index.forget_all(Forget::Writer("x".into())).await.expect("forgets"), 2);
    assert!(bodies(&index, "a/1").await.is_empty() && bodies(&index, "b/1").await.is_empty());
    let (scope, ecosystem, upstream) = (Scope::shared(), "go".to_owned(), "https://upstream.test".to_owned());
    let ask = PrefixAsk { scope: &scope, ecosystem: "go", upstream: &upstream, prefix: "a/", from: "", limit: 9 };
    assert_eq!(index.by_prefix(ask).await.expect("lists").len(), 1);
    let whose = Forget::Prefix { scope: scope.clone(), ecosystem, upstream: upstream.clone(), prefix: "a/".into() };
    assert_eq!(index.forget_all(whose).await.expect("forgets"), 1);
    assert_eq!(index.counts().keys, 0);
    assert!(index.place(&Digest::of(b"a/1")) != Presence::Absent, "the bytes are eviction's");
    assert!(!index.changes(0, 100).await.expect("reads").is_empty());
}

#[tokio::test]
async fn other_sums_and_references_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let md5: Checksum = "md5:0cc175b9c0f1b6a831c399e269772661".parse().expect("is a sum");
    let mut record = stored("a", b"a", 1);
    record.sums = vec![(md5, Digest::of(b"a"))];
    let referring = Entry { refs: vec![Digest::of(b"a")], ..entry("action", None) };
    record.entries.push(put(referring.clone()));
    index.record(record, Ack::Durable).await.expect("records");
    let found = index.resolve(&PUBLIC(), &md5).await.expect("answers");
    assert_eq!(found, Some((Digest::of(b"a"), place(1, 1))));
    assert!(index.missing(&PUBLIC(), &[md5]).await.expect("answers").is_empty());
    assert_eq!(index.missing(&[Realm::named("x")], &[md5]).await.expect("answers"), [md5]);
    assert_eq!(index.referrers(&Digest::of(b"a"), 9).await.expect("reads"), [referring.hash]);
    // A SHA-256 that is learned later counts like one that came with the blob.
    let bare = Record { blob: Some(NewBlob { sums: Vec::new(), ..blob(b"z", 2, Fate::Kept) }), ..stored("z", b"z", 2) };
    index.record(bare, Ack::Visible).await.expect("records");
    assert_eq!(index.missing(&PUBLIC(), &[sha256(b"z")]).await.expect("answers").len(), 1);
    let learned = Record { sums: vec![(sha256(b"z"), Digest::of(b"z"))], ..Record::default() };
    index.record(learned, Ack::Visible).await.expect("records");
    assert!(index.missing(&PUBLIC(), &[sha256(b"z")]).await.expect("answers").is_empty());
    index.forget(&referring.hash).await.expect("forgets");
    assert!(index.referrers(&Digest::of(b"a"), 9).await.expect("reads").is_empty());
    drop(index);
    let index = open(dir.path());
    index.loaded().await;
    assert!(index.missing(&PUBLIC(), &[sha256(b"z"), md5]).await.expect("answers").is_empty());
}

#[tokio::test]
async fn facts_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.put_fact("upstream/go", "one".into()).await.expect("keeps");
    index.put_fact("upstream/npm", "two".into()).await.expect("keeps");
    index.put_fact("node", "n".into()).await.expect("keeps");
    index.drop_fact("upstream/npm").await.expect("drops");
    let large = vec![0; 2 << 20];
    assert!(matches!(index.put_fact("large", large.into()).await, Err(IndexError::TooLarge { .. })));
    drop(index);
    let index = open(dir.path());
    assert_eq!(index.get_fact("node").as_deref(), Some(&b"n"[..]));
    assert_eq!(index.facts("upstream/"), [("upstream/go".to_owned(), "one".into())]);
    assert_eq!(index.get_fact("large"), None);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    let again = Index::open(dir.path(), &Settings::default(), clock(), Box::new(|_, _, _| {}));
    assert!(matches!(again.err(), Some(IndexError::Locked { .. })));
    index.close().await;
    let next = open(dir.path());
    drop(next);
    std::fs::write(dir.path().join("format"), "7 9.0.0\n").expect("writes");
    let newer = Index::open(dir.path(), &Settings::default(), clock(), Box::new(|_, _, _| {}));
    assert!(matches!(newer.err(), Some(IndexError::Newer { found: 7, .. })));
}

#[tokio::test]
async fn an_older_format_opens_and_is_brought_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"a", 1), Ack::Durable).await.expect("records");
    index.close().await;
    drop(index);
    std::fs::remove_file(dir.path().join("format")).expect("format 0 had no such file");
    let index = open(dir.path());
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"a"))]);
    index.threads.wait_for_loader();
    index.close().await;
    let format = std::fs::read_to_string(dir.path().join("format")).expect("it has a number now");
    assert!(format.starts_with("1 "), "{format}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_miss() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open(dir.path());
    index.record(stored("a", b"a", 1), Ack::Visible).await.expect("records");
    index.record(stored("b", b"b", 2), Ack::Visible).await.expect("records");
    index.close().await;
    drop(index);
    let catalog = rusqlite::Connection::open(dir.path().join("catalog.sqlite")).expect("opens");
    catalog.execute("UPDATE entries SET head = x'7f' WHERE path = 'a'", []).expect("spoils a row");
    drop(catalog);
    let index = open(dir.path());
    index.loaded().await;
    assert!(bodies(&index, "a").await.is_empty());
    assert_eq!(bodies(&index, "b").await, [Some(Digest::of(b"b"))]);
    index.record(stored("a", b"a", 3), Ack::Durable).await.expect("it is stored anew");
    assert_eq!(bodies(&index, "a").await, [Some(Digest::of(b"a"))]);
}
