//! What proves a thing that no index lists: the sum beside it, the form of its beginning. And the sums that are made here.

use super::*;
use crate::model::lookup::{Extract, Sniff, Unproven};
use crate::model::outcome::Reason;

fn sum_in(document: &[u8], _: &str) -> Option<Checksum> {
    Checksum::from_hex(Algorithm::Sha256, std::str::from_utf8(document).ok()?)
}

fn beside(unproven: Unproven) -> Lookup {
    let mut lookup = immutable("/a");
    let extract = Extract { find: sum_in, what: String::new() };
    lookup.expect = Expect::Beside { document: Box::new(document("/a.sha256")), extract, unproven };
    lookup
}

fn sum_of(mut thing: Lookup, otherwise: &[&str]) -> Lookup {
    thing.expect = Expect::Nothing;
    let otherwise = otherwise.iter().map(|path| origin(path, Fallback::OnAbsence)).collect();
    let mut lookup = document("/a.md5");
    lookup.origins = Origins::SumOf { thing: Box::new(thing), algorithm: Algorithm::Md5, otherwise };
    lookup
}

fn md5(bytes: &[u8]) -> String {
    let mut hashes = crate::store::Hashes::new(&[Algorithm::Md5]);
    hashes.update(bytes);
    hashes.sum(Algorithm::Md5).expect("announced").hex()
}

#[tokio::test]
async fn what_the_sum_beside_it_contradicts_is_not_kept() {
    let bed = Bed::new();
    let bytes = noise(1, 100_000);
    bed.upstream.answers("/a.sha256", [Script::ok(sha256(&bytes).hex())]);
    bed.upstream.answers("/a", [Script::ok(noise(2, 100_000)), Script::ok(bytes.clone())]);
    let (_, error) = bed.attempt(&beside(Unproven::Kept)).await;
    assert!(matches!(error, Some(CacheError::Mismatch { .. })));
    assert_eq!(bed.fetch(&beside(Unproven::Kept)).await.2, bytes);
    assert!(matches!(bed.fetch(&beside(Unproven::Kept)).await.0, Outcome::Hit(_)));
    assert_eq!(bed.upstream.asks("/a.sha256"), 1);
}

#[tokio::test]
async fn without_a_sum_beside_it_a_thing_is_kept_where_its_path_is_enough() {
    for (sum, kept) in
        [(Script::new(404, "no"), true), (Script::ok("<html>"), true), (Script::new(503, "later"), false)]
    {
        let bed = Bed::new();
        bed.upstream.answers("/a.sha256", [sum.clone(), sum]);
        bed.upstream.answers("/a", [Script::ok("thing"), Script::ok("thing")]);
        assert_eq!(bed.fetch(&beside(Unproven::Kept)).await.2 == "thing", kept);
        assert_eq!(bed.kept(&beside(Unproven::Kept)).await, usize::from(kept));
        // Elsewhere it was a guess: the answer goes through and nothing is kept.
        if kept {
            let mut guessed = beside(Unproven::PassedOn);
            guessed.key.path = "/guessed".into();
            let (outcome, _, got) = bed.fetch(&guessed).await;
            assert_eq!((outcome, &got[..]), (Outcome::Bypass(Reason::Unproven), &b"thing"[..]));
            assert_eq!(bed.kept(&guessed).await, 0);
        }
    }
}

#[tokio::test]
async fn what_does_not_look_like_itself_is_passed_on() {
    let mut lookup = immutable("/a");
    lookup.expect = Expect::Sniff(Sniff { is_sound: |beginning| beginning.starts_with(b"!<arch>\n") });
    let bed = Bed::new();
    let package = [b"!<arch>\n".as_slice(), &noise(1, 200_000)].concat();
    bed.upstream.answers("/a", [Script::ok("<html>log in</html>"), Script::ok(""), Script::ok(package.clone())]);
    for page in ["<html>log in</html>", ""] {
        let (outcome, status, got) = bed.fetch(&lookup).await;
        assert_eq!((outcome, status, &got[..]), (Outcome::Bypass(Reason::Unproven), 200, page.as_bytes()));
        assert_eq!(bed.kept(&lookup).await, 0);
    }
    // For a while nobody waits for another's fill of it.
    bed.clock.advance(Duration::from_secs(60));
    assert_eq!(bed.fetch(&lookup).await, (Outcome::Miss, 200, package.clone().into()));
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(matches!(outcome, Outcome::Hit(_)) && got == package);
}

#[tokio::test]
async fn a_length_that_cannot_be_right_is_refused_at_once() {
    let bytes = noise(1, 1000);
    let mut lookup = immutable("/a");
    lookup.expect = Expect::Exactly { sum: sha256(&bytes), bytes: 1000 };
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok(bytes.slice(..500)), Script::new(404, "no"), Script::ok(bytes.clone())]);
    let error = bed.get(&lookup).await.err().expect("no head is sent");
    assert!(matches!(error, CacheError::Mismatch { .. }), "{error}");
    assert_eq!(bed.fetch(&lookup).await.1, 404);
    bed.clock.advance(Duration::from_secs(61));
    assert_eq!(bed.fetch(&lookup).await.2, bytes);
}

#[tokio::test]
async fn an_absence_is_not_held_against_the_sum_of_the_thing() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::new(404, "not here")]);
    let lookup = expecting(immutable("/a"), b"thing");
    let (_, status, body) = bed.fetch(&lookup).await;
    assert_eq!((status, &body[..]), (404, &b"not here"[..]));
    assert_eq!(bed.kept(&lookup).await, 0, "by its sum it may be had elsewhere");
}

#[tokio::test]
async fn an_absence_has_no_form() {
    let mut lookup = immutable("/a");
    lookup.expect = Expect::Sniff(Sniff { is_sound: |_| false });
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::new(404, "no")]);
    assert_eq!(bed.fetch(&lookup).await.1, 404);
    assert_eq!(bed.kept(&lookup).await, 1);
}

#[tokio::test]
async fn a_sum_is_made_of_what_is_kept() {
    let bed = Bed::new();
    let bytes = noise(1, 700_000);
    bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
    bed.upstream.answers("/a.md5", [Script::new(404, "no")]);
    let sum = sum_of(immutable("/a"), &["/a.md5"]);
    assert_eq!(bed.fetch(&sum).await.1, 404, "it is not here yet");
    bed.fetch(&immutable("/a")).await;
    assert_eq!(bed.fetch(&sum).await, (Outcome::Generated, 200, md5(&bytes).into()));
    assert_eq!(bed.upstream.asks("/a.md5"), 1);
}

#[tokio::test]
async fn the_sum_of_a_document_is_that_of_what_is_served() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok("one"), Script::ok("two"), Script::new(404, "no")]);
    let sum = sum_of(document("/a"), &[]);
    assert_eq!(bed.fetch(&sum).await.2, md5(b"one"));
    assert_eq!(bed.fetch(&document("/a")).await.2, "one");
    bed.clock.advance(Duration::from_secs(61));
    assert_eq!(bed.fetch(&document("/a")).await.2, "two");
    assert_eq!(bed.fetch(&sum).await.2, md5(b"two"));
    bed.clock.advance(Duration::from_secs(61));
    assert_eq!(bed.fetch(&sum).await.1, 404);
    assert_eq!(bed.upstream.asks("/a.md5"), 0);
}
