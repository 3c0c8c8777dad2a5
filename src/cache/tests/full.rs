//! Storage that has no room, gives up half-way, or cannot make durable what it took.

use futures_util::future::join_all;
use http::header::{IF_RANGE, RANGE};

use super::*;
use crate::model::outcome::Reason;
use crate::store::fault::{EIO, ENOSPC, Operation, Plan};

fn writes_fail(after: u64, code: i32) -> Plan {
    Plan { only: Some(Operation::Write), after, times: u64::MAX, code }
}

#[tokio::test]
async fn when_nothing_can_be_stored_answers_are_passed_on() {
    let settings = Settings { max_bytes: Some(4 << 20), min_free_percent: 0, ..Settings::default() };
    let bed = Bed::with(settings);
    let bytes = noise(1, 8 * MIB);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
    assert!(outcome == Outcome::Bypass(Reason::Full) && got == bytes);
    assert_eq!(bed.kept(&immutable("/a")).await, 0);
}

#[tokio::test]
async fn when_the_volume_must_stay_free_answers_are_passed_on() {
    let bed = Bed::with(Settings { min_free_percent: 100, ..Settings::default() });
    let bytes = noise(1, MIB);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    let lookup = immutable("/a");
    let (one, two) = tokio::join!(bed.fetch(&lookup), bed.fetch(&lookup));
    for (outcome, _, got) in [one, two] {
        assert!(outcome == Outcome::Bypass(Reason::Full) && got == bytes);
    }
}

#[tokio::test]
async fn followers_go_on_upstream_when_the_disk_fills_half_way() {
    for code in [ENOSPC, EIO] {
        for sum in [false, true] {
            let bed = Bed::new();
            let bytes = noise(2, 4 * MIB);
            bed.upstream.answers("/a", [Script::ok(bytes.clone()).tagged("\"one\"")]);
            let lookup = if sum { expecting(immutable("/a"), &bytes) } else { immutable("/a") };
            bed.files.fail(writes_fail(2, code));
            let part = Client::default().with(RANGE, "bytes=3000000-3500000");
            let (whole, also, part) = tokio::join!(bed.get(&lookup), bed.get(&lookup), part.get(&bed, &lookup));
            let bodies = join_all([whole, also, part].map(|served| drain(served.expect("a head")))).await;
            for (at, (got, error)) in bodies.into_iter().enumerate() {
                assert!(error.is_none(), "{error:?}");
                let wanted = if at == 2 { bytes.slice(3_000_000..3_500_001) } else { bytes.clone() };
                assert!(got == wanted, "asker {at} got {} bytes", got.len());
            }
            let again = bed.upstream.asked();
            assert!(again.len() == 4 && again[1..].iter().all(|asked| asked.field(IF_RANGE) == Some("\"one\"")));
            assert_eq!(bed.kept(&lookup).await, 0);
            assert_eq!(bed.cache.counters().read().overflows, 1);
            bed.files.mend();
            assert_eq!(bed.fetch(&lookup).await.0, Outcome::Miss);
        }
    }
}

#[tokio::test]
async fn the_rest_from_upstream_is_held_against_the_sum() {
    let bed = Bed::new();
    let (good, mut bad) = (noise(3, 4 * MIB), noise(3, 4 * MIB).to_vec());
    bad[3 * MIB] ^= 1;
    bed.upstream.answers("/a", [Script::ok(good.clone()).tagged("\"one\""), Script::ok(bad).tagged("\"one\"")]);
    let lookup = expecting(immutable("/a"), &good);
    bed.files.fail(writes_fail(2, ENOSPC));
    for client in [Client::default(), Client::default().with(RANGE, "bytes=2000000-4000000")] {
        let (got, error) = client.attempt(&bed, &lookup).await;
        assert!(matches!(error, Some(CacheError::Mismatch { .. })), "{error:?} after {}", got.len());
        assert!(got.len() < good.len());
    }
}

#[tokio::test]
async fn the_rest_of_another_body_is_never_appended() {
    let bed = Bed::new();
    let (old, new) = (noise(4, 4 * MIB), noise(5, 4 * MIB));
    bed.upstream.answers("/a", [Script::ok(old.clone()).tagged("\"old\""), Script::ok(new).tagged("\"new\"")]);
    bed.files.fail(writes_fail(2, ENOSPC));
    let (got, error) = bed.attempt(&immutable("/a")).await;
    assert!(error.is_some() && got == old[..got.len()]);
}

#[tokio::test]
async fn a_disk_that_fills_at_the_very_end_costs_nobody_the_answer() {
    for len in [1000, 100_000, 600_000] {
        for code in [ENOSPC, EIO] {
            let bed = Bed::new();
            let bytes = noise(6, len);
            bed.upstream.answers("/a", [Script::ok(bytes.clone()).chunked(), Script::ok(bytes.clone())]);
            // The last piece of a file, or its trailer, is written when it is sealed.
            bed.files.fail(writes_fail((len / (256 << 10)) as u64, code));
            let lookup = expecting(immutable("/a"), &bytes);
            let (one, two) = tokio::join!(bed.fetch(&lookup), bed.fetch(&lookup));
            assert!(one.2 == bytes && two.2 == bytes);
            assert_eq!(bed.upstream.asks("/a"), 1);
            assert_eq!(bed.kept(&lookup).await, 0);
            bed.files.mend();
            bed.fetch(&lookup).await;
            assert!(matches!(bed.fetch(&lookup).await.0, Outcome::Hit(_)));
        }
    }
}

#[tokio::test]
async fn a_disk_that_fills_at_the_very_end_vouches_for_nothing() {
    let bed = Bed::new();
    let (good, bad) = (noise(7, 600_000), noise(8, 600_000));
    bed.upstream.answers("/a", [Script::ok(bad)]);
    bed.files.fail(writes_fail(2, ENOSPC));
    let (got, error) = bed.attempt(&expecting(immutable("/a"), &good)).await;
    assert!(matches!(error, Some(CacheError::Mismatch { .. })) && got.len() < good.len());
}

#[tokio::test]
async fn what_cannot_be_made_durable_disappears_again() {
    for len in [1000, 600_000] {
        let bed = Bed::new();
        let bytes = noise(9, len);
        bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
        let lookup = immutable("/a");
        bed.files.fail(Plan { only: Some(Operation::Sync), after: 0, times: u64::MAX, code: EIO });
        let (outcome, _, got) = bed.fetch(&lookup).await;
        assert!(outcome == Outcome::Miss && got == bytes, "it is served all the same");
        bed.cache.flush().await.expect("the index goes on");
        assert!(bed.files.mend().0 > 0);
        assert_eq!(bed.kept(&lookup).await, 0);
        assert_eq!(bed.fetch(&lookup).await.0, Outcome::Miss);
        bed.cache.flush().await.expect("the index goes on");
        assert!(matches!(bed.fetch(&lookup).await.0, Outcome::Hit(_)));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_asked_upstream() {
    let bed = Bed::new();
    let bytes = noise(10, 2 * MIB);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    bed.fetch(&immutable("/a")).await;
    let bed = bed.restart().await;
    bed.files.fail(Plan { only: Some(Operation::Open), after: 0, times: u64::MAX, code: EIO });
    let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
    assert!(outcome == Outcome::Bypass(Reason::Full) && got == bytes);
    bed.files.mend();
    assert!(matches!(bed.fetch(&immutable("/a")).await.0, Outcome::Hit(_)), "a disk that recovers has lost nothing");
}
