//! Parts of large bodies that nobody waits for any more.

use http::header::{IF_RANGE, RANGE};

use super::*;
use crate::cache::body::FINISH_ALONE_BYTES;

const LEN: usize = FINISH_ALONE_BYTES as usize + 4 * MIB;

/// Asks, reads the beginning and hangs up; the rest is let go only then.
async fn hang_up(bed: &Bed, lookup: &Lookup, gate: &Gate) {
    let mut served = bed.get(lookup).await.expect("an answer");
    let mut read = Vec::new();
    read_some(&mut served, &mut read, MIB).await;
    gate.reached().await;
    drop(served);
    gate.open();
    until(|| bed.cache.fills() == 0).await;
}

#[tokio::test]
async fn a_part_is_gone_on_with() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(1, LEN), Gate::new());
    bed.upstream.answers(
        "/a",
        [Script::ok(bytes.clone()).tagged("\"one\"").gate(2 * MIB, &gate), Script::ok(bytes.clone()).tagged("\"one\"")],
    );
    let lookup = expecting(immutable("/a"), &bytes);
    hang_up(&bed, &lookup, &gate).await;
    until(|| bed.cache.parked() == 1).await;
    let (one, two) = tokio::join!(bed.fetch(&lookup), bed.fetch(&lookup));
    assert!(one.2 == bytes && two.2 == bytes);
    let asked = bed.upstream.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].field(IF_RANGE), Some("\"one\""));
    assert!(asked[1].field(RANGE).is_some_and(|range| range != "bytes=0-"));
    assert_eq!(bed.cache.parked(), 0);
    assert!(matches!(bed.fetch(&lookup).await.0, Outcome::Hit(_)));
    assert_eq!(bed.upstream.asks("/a"), 2);
}

#[tokio::test]
async fn a_part_of_another_body_is_dropped() {
    let bed = Bed::new();
    let (old, new, gate) = (noise(2, LEN), noise(3, 100_000), Gate::new());
    bed.upstream.answers(
        "/a",
        [Script::ok(old).tagged("\"old\"").gate(2 * MIB, &gate), Script::ok(new.clone()).tagged("\"new\"")],
    );
    hang_up(&bed, &immutable("/a"), &gate).await;
    until(|| bed.cache.parked() == 1).await;
    assert!(bed.fetch(&immutable("/a")).await.2 == new);
    assert_eq!((bed.upstream.asks("/a"), bed.cache.parked()), (2, 0));
    until(|| bed.store.usage().classes.iter().all(|class| class.reserved_bytes == 0)).await;
}

#[tokio::test]
async fn without_a_strong_validator_nothing_is_parked() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(4, LEN), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(2 * MIB, &gate)]);
    hang_up(&bed, &immutable("/a"), &gate).await;
    assert_eq!(bed.cache.parked(), 0);
    until(|| bed.store.usage().disk_bytes() == 0).await;
}

#[tokio::test]
async fn parts_are_too_old_after_a_while_and_an_outage_leaves_them() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(5, LEN), Gate::new());
    let whole = || Script::ok(bytes.clone()).tagged("\"one\"");
    bed.upstream.answers("/a", [whole().gate(2 * MIB, &gate), Script::unreachable(), Script::unreachable(), whole()]);
    hang_up(&bed, &immutable("/a"), &gate).await;
    until(|| bed.cache.parked() == 1).await;
    assert!(bed.get(&immutable("/a")).await.is_err());
    assert_eq!(bed.cache.parked(), 1);
    bed.advance(601);
    assert!(bed.fetch(&immutable("/a")).await.2 == bytes);
    assert_eq!(bed.upstream.asked().last().and_then(|asked| asked.field(RANGE).map(str::to_owned)), None);
    assert_eq!(bed.cache.parked(), 0);
}

#[tokio::test]
async fn parts_give_way_to_who_needs_room() {
    let max = (LEN * 2) as u64;
    let bed = Bed::with(Settings { max_bytes: Some(max), min_free_percent: 0, ..Settings::default() });
    let (bytes, gate) = (noise(6, LEN), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).tagged("\"one\"").gate(2 * MIB, &gate)]);
    bed.upstream.answers("/b", [Script::ok(bytes.clone())]);
    hang_up(&bed, &immutable("/a"), &gate).await;
    until(|| bed.cache.parked() == 1).await;
    let (outcome, _, got) = bed.fetch(&immutable("/b")).await;
    assert!(outcome == Outcome::Miss && got == bytes);
    assert_eq!(bed.cache.parked(), 0);
}
