//! What the record of a build says of each answer.

use super::*;
use crate::cache::ledger::{Line, ShownLine};
use crate::model::digest::Digest;

async fn note(bed: &Bed, lookup: &Lookup, served: &Served) {
    bed.cache.note(
        &Arc::from("build"),
        Line {
            url: lookup.key.path.clone(),
            key: served.key.unwrap_or(lookup.key.hash()),
            digest: served.digest,
            outcome: served.outcome,
            bytes: 0,
            millis: 3,
            at: crate::runtime::clock::Clock::now(&*bed.clock),
        },
    );
}

async fn lines(bed: &Bed, count: usize) -> Vec<ShownLine> {
    let shown = bed.cache.record_of("build").await.expect("told");
    assert_eq!(shown.len(), count);
    shown
}

#[tokio::test]
async fn a_record_that_is_read_at_once_has_its_last_line() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok(noise(1, 100))]);
    let served = bed.get(&immutable("/a")).await.expect("an answer");
    for count in 1..=600 {
        note(&bed, &immutable("/a"), &served).await;
        if count % 100 == 1 {
            assert_eq!(lines(&bed, count).await.last().map(|line| line.seq), Some(count as u64));
        }
    }
}

#[tokio::test]
async fn a_line_names_the_bytes_of_a_miss_and_of_a_hit() {
    let bed = Bed::new();
    let bytes = noise(1, 100_000);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    for _ in 0..2 {
        let mut served = bed.get(&immutable("/a")).await.expect("an answer");
        let mut read = Vec::new();
        read_some(&mut served, &mut read, usize::MAX).await;
        note(&bed, &immutable("/a"), &served).await;
    }
    let lines = lines(&bed, 2).await;
    assert_eq!((lines[0].outcome, lines[1].outcome), ("miss", "hit"));
    for line in lines {
        assert_eq!(line.blake3, Some(Digest::of(&bytes).to_string()));
        assert_eq!(line.sums, vec![sha256(&bytes).to_string()]);
        assert_eq!(line.key, immutable("/a").key.hash().to_string());
    }
}

#[tokio::test]
async fn a_line_of_a_failed_fill_names_no_older_bytes() {
    let bed = Bed::new();
    let gate = Gate::new();
    let broken = Script::ok(noise(2, 50_000)).gate(10_000, &gate).breaks_at(20_000);
    bed.upstream.answers("/a", [Script::ok("old"), broken]);
    bed.fetch(&document("/a")).await;
    bed.advance(61);
    let mut served = bed.get(&document("/a")).await.expect("a head");
    gate.open();
    while let Some(Ok(_)) = chunk(&mut served).await {}
    note(&bed, &document("/a"), &served).await;
    assert_eq!(lines(&bed, 1).await[0].blake3, None);
}
