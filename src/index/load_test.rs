//! While the table loads, and when it is too small: what memory does not know is never told as absent.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;

use super::record::Record;
use super::remote_test::{open_with_bucket, sent, with_bucket};
use super::testing::{clock, entry, key, open, open_with, place, put, sha256, stored};
use super::{Ack, Index, Presence, Settings};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::model::realm::Realm;

/// Opens with a loader that stands still at its first blob until told to go on.
fn open_slowly(dir: &std::path::Path, settings: &Settings) -> (Index, Sender<()>) {
    let (go, gate): (Sender<()>, Receiver<()>) = channel();
    let mut gate = Some(gate);
    let on_place = move |_: &Digest, _: &Place, _: Class| {
        if let Some(gate) = gate.take() {
            // An error means that the test is over.
            let _ = gate.recv();
        }
    };
    (Index::open(dir, settings, clock(), Box::new(on_place)).expect("opens"), go)
}

async fn fill(dir: &std::path::Path, blobs: u32) {
    let index = open(dir);
    for n in 0..blobs {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("records");
    }
    index.close().await;
}

fn digest(n: u32) -> Digest {
    Digest::of(&n.to_le_bytes())
}

#[tokio::test]
async fn loading_says_unknown_never_absent() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 20).await;
    let (index, go) = open_slowly(dir.path(), &Settings::default());
    let public = [Realm::public()];
    assert!(!index.counts().loaded);
    for n in 0..25 {
        let hash = key(&n.to_string()).hash();
        assert_eq!(index.place(&digest(n)), Presence::Unknown);
        assert!(matches!(index.recall(&hash), Presence::Unknown));
        assert_eq!(index.readable(&public, &digest(n)), Presence::Unknown);
        let here = n < 20;
        assert_eq!(index.find_place(&digest(n)).await.expect("reads"), here.then(|| place(n, 4)));
        assert_eq!(index.candidates(&hash).await.expect("reads").is_some(), here);
        assert_eq!(index.is_readable(&public, &digest(n)).await.expect("reads"), here);
        let resolved = index.resolve(&public, &sha256(&n.to_le_bytes())).await.expect("reads");
        assert_eq!(resolved, here.then(|| (digest(n), place(n, 4))));
    }
    let asks: Vec<_> = (0..25_u32).map(|n| sha256(&n.to_le_bytes())).collect();
    assert_eq!(index.missing(&public, &asks).await.expect("reads"), asks[20..]);
    assert_eq!(index.missing(&[Realm::named("x")], &asks).await.expect("reads"), asks);
    go.send(()).expect("the loader waits");
    index.loaded().await;
    assert_eq!(index.place(&digest(3)), Presence::Present(place(3, 4)));
    assert_eq!(index.place(&digest(22)), Presence::Absent);
    assert_eq!(index.missing(&public, &asks).await.expect("answers"), asks[20..]);
}

#[tokio::test]
async fn changes_made_while_loading_win() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 20).await;
    let (index, go) = open_slowly(dir.path(), &Settings::default());
    let mine = Realm::named("mine");
    index.drop_place(&digest(1), &place(1, 4)).await.expect("drops");
    index.drop_place(&digest(2), &place(99, 4)).await.expect("leaves another place alone");
    index.forget(&key("3").hash()).await.expect("forgets");
    index
        .record(Record { edges: vec![(mine.clone(), digest(4))], ..Record::default() }, Ack::Visible)
        .await
        .expect("records");
    let body = Some(&b"new"[..]);
    index
        .record(Record { entries: vec![put(entry("5", body))], ..Record::default() }, Ack::Visible)
        .await
        .expect("records");
    index.record(stored("again", &6_u32.to_le_bytes(), 66), Ack::Durable).await.expect("records");
    assert_eq!(index.place(&digest(6)), Presence::Present(place(6, 4)), "the standing copy is found and stays");
    assert_eq!(index.superseded(), [(digest(6), place(66, 4))]);
    go.send(()).expect("the loader waits");
    index.loaded().await;
    assert_eq!(index.place(&digest(1)), Presence::Absent);
    assert!(matches!(index.recall(&key("1").hash()), Presence::Absent | Presence::Unknown));
    assert!(index.candidates(&key("1").hash()).await.expect("reads").is_none());
    assert_eq!(index.place(&digest(2)), Presence::Present(place(2, 4)));
    assert!(matches!(index.recall(&key("3").hash()), Presence::Absent));
    assert_eq!(index.readable(&[mine], &digest(4)), Presence::Present(()));
    assert_eq!(index.readable(&[Realm::public()], &digest(4)), Presence::Present(()));
    let found = index.candidates(&key("5").hash()).await.expect("reads").expect("is there");
    assert_eq!(found[0].body, Some(Digest::of(b"new")));
    assert_eq!(index.readable(&[Realm::public()], &digest(6)), Presence::Present(()));
    assert_eq!(index.counts().blobs, 19);
}

/// Its readers went with it: whoever stores the bytes again names those of today.
#[tokio::test]
async fn readers_of_what_was_dropped_while_loading_do_not_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 20).await;
    let (index, go) = open_slowly(dir.path(), &Settings::default());
    let (mine, theirs) = ([Realm::named("mine")], [Realm::named("theirs")]);
    let read_by = |realms: &[Realm; 1], n: u32, object| {
        let edges = vec![(realms[0].clone(), digest(n))];
        Record { edges, ..stored(&n.to_string(), &n.to_le_bytes(), object) }
    };
    index.drop_place(&digest(1), &place(1, 4)).await.expect("drops");
    index.record(read_by(&mine, 1, 51), Ack::Durable).await.expect("records");
    // Also those that were named since the start.
    index.record(read_by(&theirs, 40, 40), Ack::Durable).await.expect("records");
    index.drop_place(&digest(40), &place(40, 4)).await.expect("drops");
    index.record(read_by(&mine, 40, 41), Ack::Durable).await.expect("records");
    go.send(()).expect("the loader waits");
    index.loaded().await;
    for n in [1, 40] {
        assert!(index.is_readable(&mine, &digest(n)).await.expect("reads"), "{n}");
        assert!(!index.is_readable(&[Realm::public()], &digest(n)).await.expect("reads"), "{n}");
        assert!(!index.is_readable(&theirs, &digest(n)).await.expect("reads"), "{n}");
    }
}

/// The loader reads places here and in the bucket as they stood at the start, and what happened since wins.
#[tokio::test]
async fn what_comes_and_goes_in_the_bucket_while_loading_wins() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 20).await;
    let index = open_with_bucket(dir.path());
    index.loaded().await;
    let all = |numbers: std::ops::Range<u32>| numbers.map(|n| sent(&n.to_le_bytes(), n)).collect::<Vec<_>>();
    index.uploaded("early", 9, all(4..20)).await.expect("commits");
    for n in 8..20 {
        index.drop_place(&digest(n), &place(n, 4)).await.expect("drops");
    }
    let early = index.remote_places(&[digest(19)]).await.expect("reads")[0].expect("is remote");
    let in_early = |n| Place { offset: n, ..early };
    index.close().await;
    drop(index);

    let (index, go) = open_slowly(dir.path(), &with_bucket());
    assert_eq!((index.place(&digest(19)), index.place(&digest(25))), (Presence::Unknown, Presence::Unknown));
    assert_eq!(index.find_place(&digest(19)).await.expect("reads"), Some(early));
    let asks: Vec<_> = (0..25_u32).map(|n| sha256(&n.to_le_bytes())).collect();
    assert_eq!(index.missing(&[Realm::public()], &asks).await.expect("reads"), asks[20..]);
    index.uploaded("late", 9, [all(0..2), all(10..11), all(30..31)].concat()).await.expect("commits");
    let late = index.remote_places(&[digest(0)]).await.expect("reads")[0].expect("is remote");
    let in_late = |n| Place { offset: n, ..late };
    index.drop_place(&digest(1), &place(1, 4)).await.expect("drops");
    index.drop_place(&digest(5), &place(5, 4)).await.expect("drops");
    index.remote_lost(&digest(6), &in_early(6)).await.expect("forgets");
    index.remote_lost(&digest(11), &in_early(11)).await.expect("forgets");
    index.remote_lost(&digest(12), &in_early(12)).await.expect("forgets");
    index.uploaded("early", 9, all(12..13)).await.expect("commits");
    let copy = Record {
        blob: Some(super::testing::blob(&[13, 0, 0, 0], 99, super::testing::Fate::Kept)),
        ..Record::default()
    };
    index.record(copy, Ack::Durable).await.expect("records");
    go.send(()).expect("the loader waits");
    index.loaded().await;
    let expected = |n: u32| match n {
        0 | 2..5 | 6..8 => Some(place(n, 4)),
        1 | 10 | 30 => Some(in_late(n)),
        5 | 8..10 | 12 | 14..20 => Some(in_early(n)),
        13 => Some(place(99, 4)),
        _ => None,
    };
    for n in 0..32 {
        assert_eq!(index.find_place(&digest(n)).await.expect("reads"), expected(n), "{n}");
        let here = expected(n).map_or(Presence::Absent, Presence::Present);
        assert_eq!(index.place(&digest(n)), here, "{n}");
        // What was lost, and came again by itself, has no reader.
        let read = expected(n).is_some() && n != 12 && n != 30;
        assert_eq!(index.is_readable(&[Realm::public()], &digest(n)).await.expect("reads"), read, "{n}");
    }
    let reads = index.counts().sql_reads;
    assert_eq!(index.missing(&[Realm::public()], &asks[13..20]).await.expect("answers"), []);
    assert_eq!(index.readable(&[Realm::public()], &digest(17)), Presence::Present(()));
    assert_eq!(index.counts().sql_reads, reads, "realms are loaded with what is only remote");
    assert_eq!(index.outbox().blobs, 1, "the sixth alone is here and lost there");
}

#[tokio::test]
async fn the_store_is_told_of_every_place_once() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 700).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let on_place = move |_: &Digest, place: &Place, class: Class| telling.lock().push((place.object, class));
    let index = Index::open(dir.path(), &Settings::default(), clock(), Box::new(on_place)).expect("opens");
    index.loaded().await;
    let mut told = told.lock().clone();
    told.sort_unstable_by_key(|(object, _)| *object);
    assert_eq!(told, (0..700).map(|n| (n, Class::Trusted)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_table_too_small_still_answers_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { table_max_bytes: 1, ..Settings::default() };
    let index = open_with(dir.path(), &settings, clock());
    let public = [Realm::public()];
    for round in 0..2 {
        for n in 0..30_u32 {
            if round == 0 {
                index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("records");
                assert_eq!(index.place(&digest(n)), Presence::Present(place(n, 4)), "visible though not in the table");
            }
            assert_eq!(index.find_place(&digest(n)).await.expect("reads"), Some(place(n, 4)));
        }
        index.flush().await.expect("flushes");
    }
    let asks: Vec<_> = (0..40_u32).map(|n| sha256(&n.to_le_bytes())).collect();
    assert_eq!(index.missing(&public, &asks).await.expect("answers"), asks[30..]);
    assert_eq!(index.find_place(&digest(35)).await.expect("reads"), None);
    assert!(index.candidates(&key("7").hash()).await.expect("reads").is_some());
    assert!(index.candidates(&key("70").hash()).await.expect("reads").is_none());
    index.drop_place(&digest(7), &place(7, 4)).await.expect("drops");
    assert_eq!(index.find_place(&digest(7)).await.expect("reads"), None);
    assert!(index.candidates(&key("7").hash()).await.expect("reads").is_none());
    assert!(index.counts().partial);
    drop(index);
    let index = open_with(dir.path(), &settings, clock());
    index.loaded().await;
    assert_eq!(index.place(&digest(35)), Presence::Unknown);
    assert_eq!(index.missing(&public, &asks[..7]).await.expect("answers"), []);
}

#[tokio::test]
async fn a_kill_leaves_no_key_without_a_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<u32> = Vec::new();
    for round in 0..6_u32 {
        let index = open(dir.path());
        index.loaded().await;
        for n in 0..40 {
            let n = round * 40 + n;
            let ack = if n % 7 == 0 { Ack::Durable } else { Ack::Visible };
            index.record(stored(&n.to_string(), &n.to_le_bytes(), n), ack).await.expect("records");
            if ack == Ack::Durable {
                acknowledged.push(n);
            }
        }
        index.core.queue.abandon();
        drop(index);
        let index = open(dir.path());
        index.loaded().await;
        for n in 0..(round + 1) * 40 {
            let found = index.candidates(&key(&n.to_string()).hash()).await.expect("reads");
            if let Some(body) = found.and_then(|found| found[0].body) {
                assert_eq!(index.find_place(&body).await.expect("reads"), Some(place(n, 4)), "{n} is named");
            }
        }
        for n in &acknowledged {
            let found = index.candidates(&key(&n.to_string()).hash()).await.expect("reads");
            assert!(found.is_some(), "{n} was acknowledged as durable");
        }
        drop(index);
    }
}

#[tokio::test]
async fn a_catalog_ahead_of_its_places_is_a_miss() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path(), 5).await;
    let places = rusqlite::Connection::open(dir.path().join("places.sqlite")).expect("opens");
    places.execute("DELETE FROM blobs WHERE object = 3", []).expect("a place is lost");
    drop(places);
    let index = open(dir.path());
    index.loaded().await;
    assert_eq!(index.place(&digest(3)), Presence::Absent);
    assert_eq!(index.missing(&[Realm::public()], &[sha256(&3_u32.to_le_bytes())]).await.expect("answers").len(), 1);
    assert_eq!(index.resolve(&[Realm::public()], &sha256(&3_u32.to_le_bytes())).await.expect("answers"), None);
}
