//! Where bytes come from, and the documents that say so.

use super::*;
use crate::model::kind::ErrorKind;
use crate::model::lookup::{Derive, Extract};

fn listed(scripts: &[(&str, Fallback)]) -> Lookup {
    let mut lookup = immutable("/a");
    lookup.origins = Origins::Listed(scripts.iter().map(|(path, next)| origin(path, *next)).collect());
    lookup
}

#[tokio::test]
async fn a_comma_goes_on_after_an_absence_alone() {
    let lookup = listed(&[("/1", Fallback::OnAbsence), ("/2", Fallback::OnAbsence)]);
    for (first, status, asks) in [(404, 200, 1), (410, 200, 1), (500, 500, 0), (403, 403, 0)] {
        let bed = Bed::new();
        bed.upstream.answers("/1", [Script::new(first, "no")]);
        bed.upstream.answers("/2", [Script::ok("yes")]);
        assert_eq!(bed.fetch(&lookup).await.1, status);
        assert_eq!(bed.upstream.asks("/2"), asks, "after {first}");
    }
}

#[tokio::test]
async fn a_pipe_goes_on_after_any_failure() {
    let lookup = listed(&[("/1", Fallback::OnFailure), ("/2", Fallback::OnAbsence)]);
    for first in [Script::new(500, "no"), Script::new(403, "no"), Script::new(404, "no"), Script::unreachable()] {
        let bed = Bed::new();
        bed.upstream.answers("/1", [first]);
        bed.upstream.answers("/2", [Script::ok("yes")]);
        assert_eq!(bed.fetch(&lookup).await.2, "yes");
    }
}

#[tokio::test]
async fn an_absence_behind_a_failure_is_not_believed() {
    let lookup = listed(&[("/1", Fallback::OnFailure), ("/2", Fallback::OnAbsence)]);
    for first in [Script::new(502, "no"), Script::unreachable()] {
        let bed = Bed::new();
        bed.upstream.answers("/1", [first]);
        bed.upstream.answers("/2", [Script::new(404, "not here")]);
        assert!(bed.get(&lookup).await.map_or(true, |served| served.status == 502));
        assert_eq!(bed.kept(&lookup).await, 0, "an outage is never a miss");
    }
    let bed = Bed::new();
    bed.upstream.answers("/1", [Script::new(404, "no")]);
    bed.upstream.answers("/2", [Script::new(410, "no")]);
    assert_eq!(bed.fetch(&lookup).await.1, 410);
    assert_eq!(bed.kept(&lookup).await, 1);
}

fn find(document: &[u8], what: &str) -> Option<Checksum> {
    let text = std::str::from_utf8(document).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '))?;
    Checksum::from_hex(Algorithm::Sha256, line)
}

fn urls(document: &[u8], what: &str) -> Option<Vec<Url>> {
    let base = std::str::from_utf8(document).ok()?;
    (!base.is_empty()).then(|| vec![url(&format!("{base}{what}"))])
}

/// A thing whose sum stands in `/index` and whose address in `/config`.
fn described(name: &str) -> Lookup {
    let mut lookup = immutable(&format!("/dl/{name}"));
    let extract = Extract { find, what: name.into() };
    lookup.expect = Expect::InDocument { document: Box::new(document("/index")), extract };
    let derive = Derive { urls, what: name.into(), next: Fallback::OnAbsence, trust: Trust::Configured };
    lookup.origins = Origins::InDocument { document: Box::new(document("/config")), derive };
    lookup
}

fn row(name: &str, bytes: &[u8]) -> String {
    format!("{name} {}\n", sha256(bytes).hex())
}

#[tokio::test]
async fn documents_name_address_and_sum() {
    let bed = Bed::new();
    let bytes = noise(1, 100_000);
    bed.upstream.answers("/index", [Script::ok(row("a", &bytes))]);
    bed.upstream.answers("/config", [Script::ok("/files/")]);
    bed.upstream.answers("/files/a", [Script::ok(noise(2, 100_000)), Script::ok(bytes.clone())]);
    let (_, error) = bed.attempt(&described("a")).await;
    assert!(matches!(error, Some(CacheError::Mismatch { .. })));
    let (outcome, _, got) = bed.fetch(&described("a")).await;
    assert!(outcome == Outcome::Miss && got == bytes);
    assert!(matches!(bed.fetch(&described("a")).await.0, Outcome::Hit(_)));
    assert_eq!((bed.upstream.asks("/index"), bed.upstream.asks("/config")), (1, 1));
}

#[tokio::test]
async fn a_thing_newer_than_the_stored_document_is_asked_for_once_more() {
    let bed = Bed::new();
    let (old, new) = (noise(1, 1000), noise(2, 1000));
    let both = format!("{}{}", row("old", &old), row("new", &new));
    bed.upstream.answers("/index", [Script::ok(row("old", &old)), Script::ok(both)]);
    bed.upstream.answers("/config", [Script::ok("/files/")]);
    bed.upstream.answers("/files/old", [Script::ok(old)]);
    bed.upstream.answers("/files/new", [Script::ok(new.clone())]);
    bed.fetch(&described("old")).await;
    assert_eq!(bed.fetch(&described("new")).await.2, new);
    assert_eq!(bed.upstream.asks("/index"), 2);
    let error = bed.get(&described("never")).await.err().expect("an error");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(bed.upstream.asks("/index"), 3, "once more, and no more");
}

#[tokio::test]
async fn a_document_that_cannot_be_confirmed_is_an_outage_and_no_absence() {
    for outage in [Script::unreachable(), Script::new(503, "later")] {
        let bed = Bed::new();
        let old = noise(1, 1000);
        bed.upstream.answers("/index", [Script::ok(row("old", &old)), outage]);
        bed.upstream.answers("/config", [Script::ok("/files/")]);
        bed.upstream.answers("/files/old", [Script::ok(old)]);
        bed.fetch(&described("old")).await;
        let error = bed.get(&described("new")).await.err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn the_answer_to_a_document_that_is_not_there_is_the_answer() {
    let bed = Bed::new();
    bed.upstream.answers("/index", [Script::new(404, "no such crate")]);
    bed.upstream.answers("/config", [Script::new(401, "who are you")]);
    assert_eq!(bed.fetch(&described("a")).await.1, 404);
    bed.upstream.answers("/index", [Script::ok(row("a", b"a"))]);
    bed.advance(61);
    assert_eq!(bed.fetch(&described("a")).await.1, 401);
    assert_eq!(bed.kept(&described("a")).await, 0);
}
