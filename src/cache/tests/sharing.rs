//! Who may share an answer with whom.

use futures_util::future::join_all;
use http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, ETAG, SET_COOKIE, VARY};

use super::*;
use crate::model::digest::Digest;
use crate::model::realm::Realm;

#[tokio::test]
async fn personal_answers_are_an_exchange_each() {
    for (name, value) in [(CACHE_CONTROL, "no-store"), (CACHE_CONTROL, "private"), (SET_COOKIE, "me=1")] {
        let bed = Bed::new();
        bed.upstream.answers("/a", [Script::ok("mine").with(name.clone(), value)]);
        let lookup = http("/a");
        let answers = join_all((0..5).map(|_| bed.get(&lookup))).await;
        for served in answers {
            let served = served.expect("an answer");
            assert!(matches!(served.outcome, Outcome::Bypass(_)));
            assert_eq!(served.into_bytes(100).await.expect("a body"), "mine");
        }
        assert_eq!(bed.upstream.asks("/a"), 5, "{name}");
        assert_eq!(bed.kept(&lookup).await, 0);
    }
}

/// Nginx and Varnish keep none of them; the public suite wants both kept.
#[tokio::test]
async fn a_session_is_not_handed_to_another_asker_unless_its_answer_is_public() {
    let from = |text: &str| Client { from: text.parse().expect("an address"), ..Client::default() };
    let (one, other) = (from("192.0.2.1"), from("192.0.2.2"));
    for (rule, shared) in [
        ("max-age=60", false),
        ("max-age=60, must-revalidate", false),
        ("max-age=60, public", true),
        ("s-maxage=60", true),
        ("max-age=60, no-cache=\"set-cookie\"", true),
    ] {
        let bed = Bed::new();
        let answer = |text| Script::ok(text).with(CACHE_CONTROL, rule).with(SET_COOKIE, "session=1");
        bed.upstream.answers("/a", [answer("first"), answer("second")]);
        let lookup = http("/a");
        let mut got = Vec::new();
        for client in [&one, &other, &one, &other] {
            let served = client.get(&bed, &lookup).await.expect("an answer");
            got.push(served.into_bytes(100).await.expect("a body"));
        }
        let second = if shared { "first" } else { "second" };
        assert_eq!(got, ["first", second, "first", second], "{rule}");
        assert_eq!(bed.upstream.asks("/a"), if shared { 1 } else { 2 }, "{rule}");
    }
}

#[tokio::test]
async fn a_session_that_comes_with_a_304_is_its_askers_own() {
    let bed = Bed::new();
    let plain = Script::ok("all").with(CACHE_CONTROL, "max-age=60").with(ETAG, "\"a\"");
    let cookie =
        Script::new(304, "").with(CACHE_CONTROL, "max-age=60").with(ETAG, "\"a\"").with(SET_COOKIE, "session=1");
    bed.upstream.answers("/a", [plain, cookie.clone(), cookie]);
    let lookup = http("/a");
    let other = Client { from: "192.0.2.2".parse().expect("an address"), ..Client::default() };
    bed.fetch(&lookup).await;
    bed.advance(61);
    let mine = bed.get(&lookup).await.expect("an answer");
    assert!(mine.headers.contains_key(SET_COOKIE));
    assert!(!mine.headers.get_all(VARY).iter().any(|value| value.as_bytes().contains(&b':')));
    other.get(&bed, &lookup).await.expect("an answer");
    assert_eq!(bed.upstream.asks("/a"), 3, "the other asks for itself");
}

#[tokio::test]
async fn a_package_comes_without_a_session() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok("package").with(SET_COOKIE, "edge=1")]);
    let lookup = immutable("/a");
    for _ in 0..2 {
        assert!(!bed.get(&lookup).await.expect("an answer").headers.contains_key(SET_COOKIE));
    }
}

#[tokio::test]
async fn after_a_personal_answer_nobody_queues_for_a_while() {
    let bed = Bed::new();
    let gate = Gate::new();
    let personal = || Script::ok("mine").with(CACHE_CONTROL, "no-store");
    bed.upstream.answers("/a", [personal(), personal().held(&gate), personal()]);
    let lookup = http("/a");
    bed.fetch(&lookup).await;
    let client = Client::default();
    let slow = client.get(&bed, &lookup);
    tokio::pin!(slow);
    tokio::select! {
        _ = &mut slow => panic!("the gate is closed"),
        () = gate.reached() => {}
    }
    // It does not wait for the slow one.
    assert_eq!(bed.fetch(&lookup).await.2, "mine");
    gate.open();
    assert!(slow.await.is_ok());
    assert_eq!(bed.upstream.asks("/a"), 3);
}

#[tokio::test]
async fn an_answer_for_another_variant_is_not_shared() {
    let bed = Bed::new();
    let gate = Gate::new();
    let answer = |text| Script::ok(text).with(VARY, "accept-language").with(CACHE_CONTROL, "max-age=60");
    bed.upstream.answers("/a", [answer("english").held(&gate), answer("deutsch")]);
    let lookup = http("/a");
    let english = Client::default().with(ACCEPT_LANGUAGE, "en");
    let german = Client::default().with(ACCEPT_LANGUAGE, "de");
    let opened = async {
        gate.reached().await;
        gate.open();
    };
    let (english, also, german, ()) =
        tokio::join!(english.get(&bed, &lookup), english.get(&bed, &lookup), german.get(&bed, &lookup), opened);
    let text = |served: Result<Served, CacheError>| served.expect("an answer").into_bytes(100);
    assert_eq!(text(english).await.expect("a body"), "english");
    assert_eq!(text(also).await.expect("a body"), "english");
    assert_eq!(text(german).await.expect("a body"), "deutsch");
    assert_eq!(bed.upstream.asks("/a"), 2);
}

#[tokio::test]
async fn a_digest_alone_reads_nothing() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok("secret")]);
    let served = Client::default().known_as("alice").get(&bed, &immutable("/a")).await.expect("an answer");
    served.into_bytes(100).await.expect("a body");
    let digest = Digest::of(b"secret");
    let owned = Realm::named("https://upstream.test alice");
    assert!(bed.cache.blob(&digest, &[Realm::public()]).await.expect("the index answers").is_none());
    assert!(bed.cache.blob(&digest, &[Realm::public(), owned]).await.expect("the index answers").is_some());
}

#[tokio::test]
async fn two_credentials_never_share() {
    for lookup in [immutable("/a"), document("/a"), http("/a")] {
        let bed = Bed::new();
        let gate = Gate::new();
        bed.upstream.answers(
            "/a",
            [Script::ok("for alice").held(&gate), Script::ok("for bob"), Script::new(404, "nothing for you")],
        );
        let (alice, bob) = (Client::default().known_as("alice"), Client::default().known_as("bob"));
        let opened = async {
            gate.reached().await;
            gate.open();
        };
        let (for_alice, ()) = tokio::join!(alice.get(&bed, &lookup), opened);
        assert_eq!(for_alice.expect("an answer").into_bytes(100).await.expect("a body"), "for alice");
        let for_bob = bob.get(&bed, &lookup).await.expect("an answer");
        assert_eq!(for_bob.into_bytes(100).await.expect("a body"), "for bob");
        let (_, status, _) = bed.fetch(&lookup).await;
        assert_eq!(status, 404, "a stranger must not see what needed a credential");
    }
}

#[tokio::test]
async fn one_credential_shares_with_itself() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok("for alice")]);
    let (alice, lookup) = (Client::default().known_as("alice"), immutable("/a"));
    let (one, two) = tokio::join!(alice.get(&bed, &lookup), alice.get(&bed, &lookup));
    assert!(one.is_ok() && two.is_ok());
    drop((one, two));
    until(|| bed.cache.fills() == 0).await;
    assert!(matches!(alice.get(&bed, &lookup).await.expect("an answer").outcome, Outcome::Hit(_)));
    assert_eq!(bed.upstream.asks("/a"), 1);
    assert_eq!(bed.upstream.asked()[0].field(http::header::AUTHORIZATION), Some("alice"));
}
