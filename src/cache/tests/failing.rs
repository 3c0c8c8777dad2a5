//! Upstreams that break off, lie and send other bytes than they promised: nothing of it is served whole, nothing kept.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn a_fill_that_breaks_fails_every_follower_and_keeps_nothing() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(1, 2 * MIB), Gate::new());
    let broken = Script::ok(bytes.clone()).gate(MIB, &gate).breaks_at(MIB + 100_000);
    bed.upstream.answers("/a", [broken, Script::ok(bytes.clone())]);
    let lookup = immutable("/a");
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(bed.get(&lookup).await.expect("an answer"));
    }
    gate.open();
    for (got, error) in join_all(all.into_iter().map(drain)).await {
        assert!(error.is_some(), "an end that looks clean");
        assert!(got.len() < bytes.len() && got == bytes[..got.len()]);
    }
    assert_eq!(bed.kept(&lookup).await, 0);
    until(|| bed.store.usage().disk_bytes() == 0).await;
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(outcome == Outcome::Miss && got == bytes);
}

#[tokio::test]
async fn bytes_that_do_not_match_are_never_whole_nor_kept() {
    for len in [100, 20_000, 3 * MIB] {
        let bed = Bed::new();
        let (good, bad) = (noise(2, len), noise(3, len));
        bed.upstream.answers("/a", [Script::ok(bad), Script::ok(good.clone())]);
        let lookup = expecting(immutable("/a"), &good);
        let (one, two) = tokio::join!(bed.attempt(&lookup), bed.attempt(&lookup));
        for (got, error) in [one, two] {
            assert!(matches!(error, Some(CacheError::Mismatch { .. })), "{error:?}");
            assert!(got.len() <= len.saturating_sub(16 << 10), "{} of {len} unverified bytes", got.len());
        }
        assert_eq!(bed.kept(&lookup).await, 0);
        let (outcome, _, got) = bed.fetch(&lookup).await;
        assert!(outcome == Outcome::Miss && got == good);
    }
}

/// Its head is all of it: there is no last byte to withhold.
#[tokio::test]
async fn an_empty_answer_that_does_not_match_is_not_even_begun() {
    let bed = Bed::new();
    let good = noise(2, 100);
    bed.upstream.answers("/a", [Script::ok(""), Script::ok(good.clone())]);
    let lookup = expecting(immutable("/a"), &good);
    let (one, two) = tokio::join!(bed.get(&lookup), bed.get(&lookup));
    for served in [one, two] {
        let error = served.err();
        assert!(matches!(error, Some(CacheError::Mismatch { .. })), "{error:?}");
    }
    assert_eq!(bed.kept(&lookup).await, 0);
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(outcome == Outcome::Miss && got == good);
}

/// Else a flush that the client asks for next would not cover it.
#[tokio::test]
async fn an_empty_answer_is_recorded_before_it_is_given() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok("")]);
    bed.upstream.answers("/b", [Script::new(404, "")]);
    for lookup in [immutable("/a"), immutable("/b")] {
        let served = bed.get(&lookup).await.expect("an answer");
        assert_eq!(bed.kept(&lookup).await, 1);
        assert_eq!(drain(served).await.0, b"");
    }
}

#[tokio::test]
async fn a_wrong_length_is_never_whole_nor_kept() {
    for (said, len) in [(2 * MIB as u64, MIB), (MIB as u64 / 2, MIB), (10, 0)] {
        let bed = Bed::new();
        let bytes = noise(4, len);
        bed.upstream.answers("/a", [Script::ok(bytes).says_len(said)]);
        let (got, error) = bed.attempt(&immutable("/a")).await;
        assert!(error.is_some() && (got.len() as u64) < said, "{} of {said}", got.len());
        assert_eq!(bed.kept(&immutable("/a")).await, 0);
    }
}

#[tokio::test]
async fn an_unknown_length_is_held_back_where_only_closing_could_mark_its_end() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(5, MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).chunked().gate(MIB / 2, &gate)]);
    let lookup = immutable("/a");
    let old = Client { closing: true, ..Client::default() };
    let mut old = old.get(&bed, &lookup).await.expect("a head");
    let mut new = bed.get(&lookup).await.expect("a head");
    let mut read = Vec::new();
    read_some(&mut new, &mut read, MIB / 2).await;
    let early = std::future::poll_fn(|context| std::task::Poll::Ready(old.body.poll_chunk(context).is_ready())).await;
    assert!(!early, "bytes before the end is known");
    gate.open();
    let (got, error) = drain(old).await;
    assert!(error.is_none() && got == bytes);
    read_some(&mut new, &mut read, usize::MAX).await;
    assert!(read == bytes);
}

#[tokio::test]
async fn an_unknown_length_that_breaks_has_no_clean_end() {
    let bed = Bed::new();
    let bytes = noise(6, MIB);
    bed.upstream.answers("/a", [Script::ok(bytes).chunked().breaks_at(MIB / 2)]);
    for closing in [false, true] {
        let client = Client { closing, ..Client::default() };
        let (got, error) = client.attempt(&bed, &immutable("/a")).await;
        assert!(error.is_some());
        assert!(!closing || got.is_empty());
    }
    assert_eq!(bed.kept(&immutable("/a")).await, 0);
}

#[tokio::test]
async fn what_only_closing_ends_is_kept_only_when_a_sum_proves_it() {
    let bed = Bed::new();
    let bytes = noise(7, MIB);
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).closing()]);
    let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
    assert!(matches!(outcome, Outcome::Bypass(_)) && got == bytes);
    assert_eq!(bed.kept(&immutable("/a")).await, 0);
    let lookup = expecting(immutable("/a"), &bytes);
    bed.advance(60);
    assert_eq!(bed.fetch(&lookup).await.0, Outcome::Miss);
    assert!(matches!(bed.fetch(&lookup).await.0, Outcome::Hit(_)));
}

#[tokio::test]
async fn failures_of_upstream_are_neither_kept_nor_turned_into_absence() {
    for status in [500, 502, 503, 429] {
        for lookup in [immutable("/a"), document("/a"), http("/a")] {
            let bed = Bed::new();
            bed.upstream.answers("/a", [Script::new(status, "no"), Script::ok("yes")]);
            let (outcome, got, _) = bed.fetch(&lookup).await;
            assert_eq!(got, status);
            assert!(matches!(outcome, Outcome::Bypass(_)));
            assert_eq!(bed.kept(&lookup).await, 0);
            assert_eq!(bed.fetch(&lookup).await.1, 200);
        }
    }
}

#[tokio::test]
async fn an_unreachable_upstream_is_an_error_and_asked_again() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::unreachable(), Script::ok("back")]);
    let error = bed.get(&immutable("/a")).await.err().expect("an error");
    assert_eq!(error.kind(), crate::model::kind::ErrorKind::Unavailable);
    assert_eq!(bed.fetch(&immutable("/a")).await.2, "back");
}
