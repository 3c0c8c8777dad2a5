//! Key records: a node that lost its disk gets from the packs what it had, and nothing that was forgotten.

use super::error::IndexError;
use super::record::{NewBlob, Record};
use super::records::{KeyRecord, KeyRecords, Unreadable};
use super::remote_test::{open_with_bucket, sent, with_bucket};
use super::testing::{Fate, blob, clock, entry, key, open_with, put, sha256, stored};
use super::{Ack, Index, Presence, Settings};
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::place::Class;
use crate::model::realm::Realm;

const PLENTY: usize = 1 << 20;

async fn bodies(index: &Index, path: &str) -> Vec<Option<Digest>> {
    let found = index.candidates(&key(path).hash()).await.expect("reads");
    found.map_or_else(Vec::new, |found| found.iter().map(|entry| entry.body).collect())
}

/// One pack: told to the index that made it, and remembered with what it says.
async fn seal(index: &Index, packs: &mut Vec<(Vec<Vec<u8>>, KeyRecords)>, blobs: &[&[u8]], max_bytes: usize) {
    let since = packs.last().map_or(0, |(_, records)| records.upto);
    let digests: Vec<Digest> = blobs.iter().map(|bytes| Digest::of(bytes)).collect();
    let records = index.key_records(since, &digests, max_bytes).await.expect("tells");
    let name = format!("pack {}", packs.len());
    index.uploaded(&name, 9, blobs.iter().map(|bytes| sent(bytes, 0)).collect()).await.expect("commits");
    packs.push((blobs.iter().map(|bytes| bytes.to_vec()).collect(), records));
}

async fn restore(packs: &[(Vec<Vec<u8>>, KeyRecords)], index: &Index) {
    for (number, (blobs, records)) in packs.iter().enumerate() {
        let blobs = blobs.iter().map(|bytes| sent(bytes, 0)).collect();
        index.uploaded(&format!("pack {number}"), 9, blobs).await.expect("commits");
        let records = KeyRecord::decode_all(&records.bytes).expect("our own");
        index.take_back(records).await.expect("takes back");
    }
}

#[tokio::test]
async fn an_empty_node_gets_back_what_packs_say_and_nothing_that_was_forgotten() {
    let (lost, new) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let index = open_with_bucket(lost.path());
    let mut packs = Vec::new();
    for (n, path) in ["stays", "replaced", "forgotten", "recalled"].into_iter().enumerate() {
        index.record(stored(path, path.as_bytes(), n as u32), Ack::Visible).await.expect("records");
    }
    let varied = |value: &str, body: &[u8]| Entry {
        vary: vec![("accept".into(), Some(value.into()))],
        refs: vec![Digest::of(b"stays")],
        ..entry("varied", Some(body))
    };
    let two = vec![put(varied("a", b"stays")), put(varied("b", b"replaced"))];
    index.record(Record { entries: two, ..Record::default() }, Ack::Visible).await.expect("records");
    seal(&index, &mut packs, &[b"stays", b"replaced", b"forgotten", b"recalled"], PLENTY).await;
    // A larger one has an object of its own: its keys travel in the next pack.
    index.record(stored("replaced", b"large", 10), Ack::Visible).await.expect("records");
    index.forget(&key("forgotten").hash()).await.expect("forgets");
    index.forget(&key("recalled").hash()).await.expect("forgets");
    index.record(stored("recalled", b"recalled", 3), Ack::Visible).await.expect("records");
    let edges = vec![(Realm::named("mine"), Digest::of(b"stays"))];
    let none = Record {
        entries: vec![put(entry("none", None)), put(entry("mine", Some(b"stays")))],
        edges,
        ..Record::default()
    };
    index.record(none, Ack::Visible).await.expect("records");
    let class = Class::Untrusted;
    let more = Record { blob: Some(NewBlob { class, ..blob(b"more", 11, Fate::Kept) }), ..stored("more", b"more", 11) };
    index.record(more, Ack::Visible).await.expect("records");
    seal(&index, &mut packs, &[b"more"], PLENTY).await;
    // Put and forgotten again within what one pack says.
    for body in [&b"stays"[..], b"more"] {
        index.record(stored("twice", body, 12), Ack::Durable).await.expect("records");
        index.forget(&key("twice").hash()).await.expect("forgets");
    }
    index.forget(&key("recalled").hash()).await.expect("forgets");
    seal(&index, &mut packs, &[b"large"], PLENTY).await;
    drop(index);

    let index = open_with_bucket(new.path());
    restore(&packs, &index).await;
    drop(index);
    let index = open_with_bucket(new.path());
    index.loaded().await;
    assert_eq!(bodies(&index, "stays").await, [Some(Digest::of(b"stays"))]);
    assert_eq!(bodies(&index, "replaced").await, [Some(Digest::of(b"large"))]);
    assert!(bodies(&index, "forgotten").await.is_empty() && bodies(&index, "recalled").await.is_empty());
    assert_eq!(bodies(&index, "none").await, [None]);
    assert!(bodies(&index, "twice").await.is_empty());
    assert_eq!(bodies(&index, "varied").await.len(), 2);
    let referrers = index.referrers(&Digest::of(b"stays"), 9).await.expect("reads");
    assert_eq!(referrers, [key("varied").hash()]);
    let found = index.candidates(&key("more").hash()).await.expect("reads").expect("is there");
    let original = entry("more", Some(b"more"));
    assert_eq!((&found[0].headers, found[0].fetched_at), (&original.headers, original.fetched_at));
    for (bytes, mine) in [(&b"stays"[..], true), (b"more", false), (b"large", false), (b"forgotten", false)] {
        let digest = Digest::of(bytes);
        assert!(matches!(index.place(&digest), Presence::Present(place) if !place.tier.is_local()));
        assert_eq!(index.readable(&[Realm::public()], &digest), Presence::Present(()));
        assert_eq!(index.readable(&[Realm::named("mine")], &digest) == Presence::Present(()), mine);
        assert_eq!(index.missing(&[Realm::public()], &[sha256(bytes)]).await.expect("answers"), []);
    }
}

#[tokio::test]
async fn what_does_not_fit_goes_with_the_next_pack() {
    let (lost, new) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let index = open_with_bucket(lost.path());
    for n in 0..1500_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Visible).await.expect("records");
    }
    let mut packs = Vec::new();
    seal(&index, &mut packs, &[&[0; 4]], 1).await;
    seal(&index, &mut packs, &[&[1, 0, 0, 0]], PLENTY).await;
    assert!(packs[0].1.bytes.len() < packs[1].1.bytes.len() && packs[0].1.upto > 0);
    let last = packs[1].1.upto;
    assert_eq!(index.key_records(last, &[], PLENTY).await.expect("tells").bytes.len(), 1, "nothing is said twice");
    drop(index);
    let index = open_with_bucket(new.path());
    restore(&packs, &index).await;
    let commits = index.counts().commits;
    assert!(commits < 20, "{commits} commits for 1500 keys");
    for n in 0..1500_u32 {
        assert_eq!(bodies(&index, &n.to_string()).await, [Some(Digest::of(&n.to_le_bytes()))], "{n}");
    }
}

#[tokio::test]
async fn a_feed_that_is_too_short_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = open_with(dir.path(), &Settings { feed_max: 8, ..with_bucket() }, clock());
    for n in 0..40_u32 {
        index.record(stored(&n.to_string(), &n.to_le_bytes(), n), Ack::Durable).await.expect("records");
    }
    let error = index.key_records(1, &[], PLENTY).await.expect_err("keys are missing from it");
    assert!(matches!(error, IndexError::Behind { .. }), "{error}");
}

#[test]
fn records_of_another_kind_are_refused() {
    assert_eq!(KeyRecord::decode_all(&[]).err(), Some(Unreadable::Damaged));
    assert_eq!(KeyRecord::decode_all(&[0]).err(), Some(Unreadable::Damaged));
    assert_eq!(KeyRecord::decode_all(&[2]).err(), Some(Unreadable::Newer { found: 2 }));
    assert_eq!(KeyRecord::decode_all(&[1, 3, 4, 0, 0, 0, 0]).err(), Some(Unreadable::Damaged));
    assert!(KeyRecord::decode_all(&[1]).expect("none").is_empty());
}
