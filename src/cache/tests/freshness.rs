//! Revalidation, stale answers, absences.

use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};

use super::*;
use crate::index::Ack;
use crate::index::catalog::{PrefixAsk, Put};
use crate::index::record::Record;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::outcome::Forwarded;

#[tokio::test]
async fn a_304_freshens_what_is_stored() {
    let bed = Bed::new();
    let bytes = noise(1, 100_000);
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).tagged("\"one\"")]);
    let lookup = document("/a");
    bed.fetch(&lookup).await;
    bed.advance(61);
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(outcome == Outcome::Revalidated && got == bytes);
    assert_eq!(bed.upstream.asked()[1].field(IF_NONE_MATCH), Some("\"one\""));
    assert!(matches!(bed.fetch(&lookup).await.0, Outcome::Hit(_)));
    assert_eq!(bed.upstream.asks("/a"), 2);
}

#[tokio::test]
async fn a_changed_document_replaces_the_stored_one() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok("old").tagged("\"1\""), Script::ok("new").tagged("\"2\"")]);
    let lookup = document("/a");
    bed.fetch(&lookup).await;
    bed.advance(61);
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(outcome == Outcome::Miss && got == "new");
    assert_eq!(bed.kept(&lookup).await, 1);
}

#[tokio::test]
async fn what_is_gone_is_not_confirmed() {
    let bed = Bed::new();
    let bytes = noise(2, 100_000);
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).tagged("\"one\"")]);
    let lookup = document("/a");
    bed.fetch(&lookup).await;
    let digest = Digest::of(&bytes);
    let place = bed.index.find_place(&digest).await.expect("told").expect("a place");
    bed.index.drop_place(&digest, &place).await.expect("dropped");
    bed.store.remove(&digest, &place);
    bed.advance(61);
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(outcome == Outcome::Miss && got == bytes);
    assert_eq!(bed.upstream.asked()[1].field(IF_NONE_MATCH), None);
}

#[tokio::test]
async fn a_body_that_goes_while_it_is_confirmed_is_fetched() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(3, 100_000), Gate::new());
    let script = || Script::ok(bytes.clone()).tagged("\"one\"");
    bed.upstream.answers("/a", [script(), script().held(&gate), script()]);
    let lookup = document("/a");
    bed.fetch(&lookup).await;
    bed.advance(61);
    let meanwhile = async {
        gate.reached().await;
        let digest = Digest::of(&bytes);
        let place = bed.index.find_place(&digest).await.expect("told").expect("a place");
        bed.index.drop_place(&digest, &place).await.expect("dropped");
        bed.store.remove(&digest, &place);
        gate.open();
    };
    let (one, two, ()) = tokio::join!(bed.get(&lookup), bed.get(&lookup), meanwhile);
    for served in [one, two] {
        assert_eq!(served.expect("an answer").into_bytes(u64::MAX).await.expect("a body"), bytes);
    }
    assert_eq!(bed.upstream.asks("/a"), 3);
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_an_outage_and_no_longer_than_allowed() {
    for outage in [Script::unreachable(), Script::new(503, "later"), Script::new(429, "slower")] {
        let bed = Bed::new();
        bed.upstream.answers("/a", [Script::ok("kept"), outage]);
        let lookup = document("/a");
        bed.fetch(&lookup).await;
        bed.advance(61);
        let (outcome, status, got) = bed.fetch(&lookup).await;
        assert_eq!((outcome, status), (Outcome::Stale, 200));
        assert_eq!(got, "kept");
        bed.advance(3600);
        let late = bed.get(&lookup).await;
        assert!(late.map_or(true, |served| served.status != 200));
    }
}

#[tokio::test]
async fn a_stale_answer_whose_body_is_gone_does_not_stand_in() {
    let bed = Bed::new();
    let bytes = noise(4, 100_000);
    bed.upstream.answers("/a", [Script::ok(bytes.clone()), Script::unreachable()]);
    let lookup = document("/a");
    bed.fetch(&lookup).await;
    let digest = Digest::of(&bytes);
    let place = bed.index.find_place(&digest).await.expect("told").expect("a place");
    bed.advance(61);
    bed.index.drop_place(&digest, &place).await.expect("dropped");
    let error = bed.get(&lookup).await.err().expect("an error");
    assert!(matches!(error, CacheError::Upstream(_)), "{error}");
}

#[tokio::test]
async fn stale_while_revalidate_refreshes_once_and_behind() {
    let bed = Bed::new();
    let gate = Gate::new();
    let answer = |text| Script::ok(text).with(CACHE_CONTROL, "max-age=10, stale-while-revalidate=100");
    bed.upstream.answers("/a", [answer("old").with(ETAG, "\"1\""), answer("new").held(&gate)]);
    let lookup = http("/a");
    bed.fetch(&lookup).await;
    bed.advance(20);
    for _ in 0..5 {
        let (outcome, _, got) = bed.fetch(&lookup).await;
        assert_eq!((outcome, got), (Outcome::Stale, "old".into()));
    }
    gate.reached().await;
    assert_eq!(bed.upstream.asks("/a"), 2);
    gate.open();
    until(|| bed.cache.fills() == 0).await;
    let (outcome, _, got) = bed.fetch(&lookup).await;
    assert!(matches!(outcome, Outcome::Hit(_)) && got == "new");
}

#[tokio::test]
async fn an_absence_is_believed_for_a_minute() {
    for status in [404, 410] {
        for lookup in [immutable("/a"), document("/a")] {
            let bed = Bed::new();
            bed.upstream.answers("/a", [Script::new(status, "no such thing"), Script::ok("it came")]);
            assert_eq!(bed.fetch(&lookup).await.1, status);
            let (outcome, again, _) = bed.fetch(&lookup).await;
            assert!(matches!(outcome, Outcome::Hit(_)) && again == status);
            bed.advance(61);
            assert_eq!(bed.fetch(&lookup).await.2, "it came");
            assert_eq!(bed.upstream.asks("/a"), 2);
        }
    }
}

#[tokio::test]
async fn an_absence_does_not_stand_in_for_an_outage() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::new(404, "no"), Script::unreachable()]);
    bed.fetch(&document("/a")).await;
    bed.advance(61);
    assert!(bed.get(&document("/a")).await.is_err());
}

#[tokio::test]
async fn what_a_client_would_not_have_from_the_store_went_upstream_for_the_request() {
    let bed = Bed::new();
    let answer = || Script::ok("a").with(CACHE_CONTROL, "max-age=60");
    bed.upstream.answers("/a", [answer(), answer(), answer()]);
    let (lookup, reload) = (http("/a"), Client::default().with(CACHE_CONTROL, "no-cache"));
    let why = async |client: &Client| {
        let served = client.get(&bed, &lookup).await.expect("an answer");
        let (outcome, forwarded) = (served.outcome, served.forwarded);
        served.into_bytes(10).await.expect("a body");
        (outcome, forwarded)
    };
    assert_eq!(why(&Client::default()).await, (Outcome::Miss, Forwarded::UriMiss));
    assert_eq!(why(&reload).await, (Outcome::Miss, Forwarded::Request));
    bed.advance(61);
    assert_eq!(why(&Client::default()).await, (Outcome::Miss, Forwarded::Stale));
}

#[tokio::test]
async fn all_below_a_path_is_out_of_date_however_much_it_is() {
    const KEPT: usize = 2_500;
    let bed = Bed::new();
    bed.upstream.answers("/pool/", [Script::ok(noise(1, 100))]);
    bed.fetch(&immutable("/pool/")).await;
    let key = immutable("/pool/").key;
    let ask = PrefixAsk {
        scope: &key.scope,
        ecosystem: key.ecosystem,
        upstream: &key.upstream,
        prefix: "",
        from: "",
        limit: 9_999,
    };
    let one = bed.index.by_prefix(ask).await.expect("lists").remove(0);
    let below = |n: usize| {
        let key =
            Key { path: format!("/pool/{}/{n}", if n.is_multiple_of(5) { "proven" } else { "named" }), ..key.clone() };
        Put { entry: Arc::new(Entry { hash: key.hash(), key: Arc::new(key), ..one.clone() }), expected: None }
    };
    let record = Record { entries: (0..KEPT).map(below).collect(), ..Record::default() };
    bed.index.record(record, Ack::Visible).await.expect("records");
    bed.cache.invalidate_below(&key, "/pool/", |path| !path.contains("proven")).await.expect("marks");
    let all = bed.index.by_prefix(ask).await.expect("lists");
    assert_eq!(all.len(), KEPT + 1);
    assert!(all.iter().all(|entry| entry.valid == entry.key.path.contains("proven")));
}
