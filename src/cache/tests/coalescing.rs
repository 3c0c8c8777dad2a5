//! Many askers, one fill.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn a_thousand_askers_cause_one_fetch_and_get_the_same_bytes() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(1, 3 * MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(MIB, &gate)]);
    let lookup = immutable("/a");
    let askers = (0..1000).map(|_| async {
        let served = bed.get(&lookup).await.expect("an answer");
        let outcome = served.outcome;
        gate.open();
        let (got, error) = drain(served).await;
        assert!(error.is_none());
        assert!(got == bytes);
        outcome
    });
    let outcomes = join_all(askers).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Miss).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Coalesced).count(), 999);
    assert_eq!(bed.upstream.asks("/a"), 1);
    assert!(matches!(bed.fetch(&lookup).await.0, Outcome::Hit(_)));
    assert_eq!(bed.cache.fills(), 0);
}

#[tokio::test]
async fn who_joins_late_reads_from_the_first_byte() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(2, 2 * MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(MIB, &gate)]);
    let lookup = immutable("/a");
    let mut first = bed.get(&lookup).await.expect("an answer");
    let mut read = Vec::new();
    read_some(&mut first, &mut read, MIB).await;
    let mut late = bed.get(&lookup).await.expect("an answer");
    assert_eq!(late.outcome, Outcome::Coalesced);
    let mut also = Vec::new();
    read_some(&mut late, &mut also, MIB).await;
    assert!(also == bytes[..MIB]);
    gate.open();
    read_some(&mut late, &mut also, usize::MAX).await;
    assert!(also == bytes);
}

#[tokio::test]
async fn the_first_asker_hangs_up_and_the_others_go_on() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(3, 2 * MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(MIB, &gate)]);
    let lookup = immutable("/a");
    let first = bed.get(&lookup).await.expect("an answer");
    let second = bed.get(&lookup).await.expect("an answer");
    gate.reached().await;
    drop(first);
    gate.open();
    let (got, error) = drain(second).await;
    assert!(error.is_none() && got == bytes);
    assert_eq!(bed.upstream.asks("/a"), 1);
}

#[tokio::test]
async fn a_small_fill_is_finished_though_nobody_waits() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(4, MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(MIB / 2, &gate)]);
    let lookup = immutable("/a");
    drop(bed.get(&lookup).await.expect("an answer"));
    gate.open();
    until(|| bed.cache.fills() == 0).await;
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(matches!(outcome, Outcome::Hit(_)) && got == bytes);
    assert_eq!(bed.upstream.asks("/a"), 1);
}

#[tokio::test]
async fn a_panic_in_a_fill_wedges_nobody() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::panicking(), Script::ok("fine")]);
    let lookup = immutable("/a");
    assert!(matches!(bed.get(&lookup).await, Err(CacheError::Abandoned)));
    assert_eq!(bed.cache.fills(), 0);
    assert_eq!(bed.fetch(&lookup).await.2, "fine");
}

#[tokio::test]
async fn a_fill_that_never_ran_wedges_nobody() {
    let bed = Bed::new();
    let gate = Gate::new();
    bed.upstream.answers("/a", [Script::ok("fine").held(&gate), Script::ok("fine")]);
    let lookup = immutable("/a");
    // Dropped while the fill asks.
    let client = Client::default();
    let asking = client.get(&bed, &lookup);
    tokio::select! {
        _ = asking => panic!("the gate is closed"),
        () = gate.reached() => {}
    }
    gate.open();
    assert_eq!(bed.fetch(&lookup).await.2, "fine");
    until(|| bed.cache.fills() == 0).await;
}
