//! What other larders lend: only what is sound, once, and never at the price of an answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream;
use http::header::{self, CACHE_CONTROL, ETAG, VARY};
use parking_lot::Mutex;

use super::super::lend;
use super::*;
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::node;
use crate::model::range::ByteRange;
use crate::model::realm::Realm;
use crate::upstream::fetch::{FetchedBody, UpstreamError};

/// How a peer fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// It breaks off after so many bytes.
    Cut(usize),
    /// One bit at this offset is another one.
    Flip(usize),
    /// It sends no more after so many bytes, and does not end.
    Still(usize),
    /// It says that it has other bytes, of this number.
    Claims(u8),
}

/// Another bed, as a peer.
struct Lender {
    cache: Cache,
    fault: Mutex<Fault>,
    finds: AtomicUsize,
    reads: AtomicUsize,
    lies: AtomicUsize,
}

impl Lender {
    fn of(bed: &Bed) -> Arc<Lender> {
        let (finds, reads, lies) = Default::default();
        Arc::new(Lender { cache: bed.cache.clone(), fault: Mutex::new(Fault::None), finds, reads, lies })
    }

    fn with(bed: &Bed, fault: Fault) -> Arc<Lender> {
        let lender = Lender::of(bed);
        *lender.fault.lock() = fault;
        lender
    }

    /// Questions about keys, bodies asked for, and lies found out.
    fn seen(&self) -> (usize, usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.finds), read(&self.reads), read(&self.lies))
    }

    fn broken(&self) -> UpstreamError {
        UpstreamError::Truncated { host: "peer".to_owned(), got: 0, expected: "more".to_owned() }
    }
}

impl Peer for Lender {
    fn name(&self) -> &str {
        "lender"
    }

    fn find(&self, key: KeyHash) -> BoxFuture<'_, Vec<node::Entry>> {
        self.finds.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let mut found = self.cache.lendable(&[key], &[Realm::public()]).await.expect("the index answers");
            let mut entries = found.pop().expect("one key").entries;
            if let Fault::Claims(number) = *self.fault.lock() {
                entries.iter_mut().for_each(|entry| entry.digest = Bytes::from(vec![number; Digest::LEN]));
            }
            entries
        })
    }

    fn read(&self, digest: Digest, _: u64) -> BoxFuture<'_, Result<FetchedBody, UpstreamError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let whole = ByteRange { start: 0, end: u64::MAX };
            let lent = self.cache.lend(&digest, whole, &[Realm::public()]).await.expect("the store answers");
            let lend::Part::Here(body) = lent else { return Err(self.broken()) };
            let mut bytes = body.into_bytes(u64::MAX).await.expect("a whole body").to_vec();
            let fault = *self.fault.lock();
            if let Fault::Flip(at) = fault {
                bytes[at] ^= 1;
            }
            let mut chunks: Vec<_> = bytes.chunks(16 << 10).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            Ok(match fault {
                Fault::None | Fault::Flip(_) | Fault::Claims(_) => FetchedBody::new(stream::iter(chunks)),
                Fault::Cut(after) => {
                    chunks.truncate(after / (16 << 10));
                    chunks.push(Err(self.broken()));
                    FetchedBody::new(stream::iter(chunks))
                }
                Fault::Still(after) => {
                    chunks.truncate(after / (16 << 10));
                    use futures_util::StreamExt;
                    FetchedBody::new(stream::iter(chunks).chain(stream::pending()))
                }
            })
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn stalled(&self) {}

    fn lied(&self) {
        self.lies.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bed that has each of these.
async fn filled(things: &[(&Lookup, Script)]) -> Bed {
    let bed = Bed::new();
    for (lookup, script) in things {
        bed.upstream.answers(&lookup.key.path, [script.clone()]);
        bed.fetch(lookup).await;
    }
    bed
}

#[tokio::test]
async fn what_a_peer_has_is_not_fetched() {
    for len in [0, 100, 256 << 10, 2 * MIB] {
        let bytes = noise(len as u64, len);
        let lookup = expecting(immutable("/a"), &bytes);
        let there = filled(&[(&lookup, Script::ok(bytes.clone()).with(ETAG, "\"a\""))]).await;
        let lender = Lender::of(&there);
        let here = Bed::beside(vec![lender.clone()]);
        let all = join_all((0..5).map(|_| here.fetch(&lookup))).await;
        assert!(all.iter().all(|(outcome, _, got)| *outcome == Outcome::Peer && *got == bytes), "{len}");
        let served = here.get(&lookup).await.expect("an answer");
        assert!(matches!(served.outcome, Outcome::Hit(_)), "{len}");
        assert_eq!(served.headers.get(ETAG).expect("as the origin sent it"), "\"a\"");
        assert_eq!(served.into_bytes(u64::MAX).await.expect("a whole body"), bytes);
        assert_eq!(lender.seen(), (1, usize::from(len > 0), 0), "{len}");
        assert!(here.upstream.asked().is_empty());
    }
}

#[tokio::test]
async fn the_same_bytes_under_another_key_do_not_come_again() {
    let bytes = noise(1, MIB);
    let (one, other) = (immutable("/one"), expecting(immutable("/other"), &bytes));
    let there = filled(&[(&one, Script::ok(bytes.clone())), (&other, Script::ok(bytes.clone()))]).await;
    let lender = Lender::of(&there);
    let here = Bed::beside(vec![lender.clone()]);
    for lookup in [&one, &other] {
        let (outcome, _, got) = here.fetch(lookup).await;
        assert!(outcome == Outcome::Peer && got == bytes);
    }
    assert_eq!(lender.seen(), (2, 1, 0));
    assert!(matches!(here.fetch(&other).await.0, Outcome::Hit(_)), "it is recorded");
}

#[tokio::test]
async fn what_is_here_for_others_does_not_become_everybodys_because_a_peer_names_it() {
    let bytes = noise(1, 400_000);
    let there = filled(&[(&immutable("/public"), Script::ok(bytes.clone()))]).await;
    let lender = Lender::with(&there, Fault::Cut(0));
    let here = Bed::beside(vec![lender.clone()]);
    here.upstream.answers("/mine", [Script::ok(bytes.clone())]);
    here.upstream.answers("/public", [Script::unreachable()]);
    let mine = Client::default().known_as("alice").get(&here, &immutable("/mine")).await.expect("an answer");
    mine.into_bytes(u64::MAX).await.expect("a whole body");
    // The peer cannot prove that it has them: it names a digest, and sends nothing.
    let (got, error) = here.attempt(&immutable("/public")).await;
    assert!(got.is_empty() && error.is_some());
    let public = here.cache.blob(&Digest::of(&bytes), &[Realm::public()]).await.expect("the index answers");
    assert!(public.is_none());
    assert_eq!(lender.seen().1, 1, "the bytes are asked for");
}

#[tokio::test]
async fn a_peer_that_ends_in_the_middle_is_taken_over_by_the_origin() {
    for stale_tag in [false, true] {
        let bytes = noise(1, MIB);
        let lookup = immutable("/a");
        let there = filled(&[(&lookup, Script::ok(bytes.clone()).tagged("\"a\""))]).await;
        let lender = Lender::with(&there, Fault::Cut(500 << 10));
        let here = Bed::beside(vec![lender.clone()]);
        // The digest proves the whole, whatever the validator has become.
        here.upstream.answers("/a", [Script::ok(bytes.clone()).tagged(if stale_tag { "\"b\"" } else { "\"a\"" })]);
        let (outcome, _, got) = here.fetch(&lookup).await;
        assert!(outcome == Outcome::Peer && got == bytes);
        let asked = here.upstream.asked();
        let from = (496 << 10).to_string();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].field(header::RANGE), Some(format!("bytes={from}-").as_str()));
        assert_eq!(lender.seen(), (1, 1, 0), "to be cut off is no lie");
        assert_eq!(here.fetch(&lookup).await.2, bytes);
    }
}

#[tokio::test]
async fn a_rest_of_other_bytes_is_never_whole_nor_kept() {
    let bytes = noise(1, MIB);
    let lookup = immutable("/a");
    let there = filled(&[(&lookup, Script::ok(bytes.clone()))]).await;
    let lender = Lender::with(&there, Fault::Cut(500 << 10));
    let here = Bed::beside(vec![lender.clone()]);
    here.upstream.answers("/a", [Script::ok(noise(2, MIB)).tagged("\"b\"")]);
    let (got, error) = here.attempt(&lookup).await;
    assert!(error.is_some() && got.len() <= MIB - (16 << 10));
    assert_eq!(here.kept(&lookup).await, 0);
    assert_eq!(lender.seen().2, 0, "who of the two was wrong is not known");
}

#[tokio::test]
async fn a_small_lie_goes_unnoticed_and_a_large_one_is_never_whole() {
    for (len, at) in [(100, 99), (256 << 10, 0), (MIB, 0), (MIB, MIB - 1)] {
        let bytes = noise(1, len);
        let lookup = immutable("/a");
        let there = filled(&[(&lookup, Script::ok(bytes.clone()))]).await;
        let lender = Lender::with(&there, Fault::Flip(at));
        let here = Bed::beside(vec![lender.clone()]);
        here.upstream.answers("/a", [Script::ok(bytes.clone())]);
        let (got, error) = here.attempt(&lookup).await;
        if len <= 256 << 10 {
            assert!(error.is_none() && got == bytes, "the origin answers");
        } else {
            assert!(error.is_some() && got.len() <= len - (16 << 10), "{} of {len}", got.len());
            assert_eq!(here.kept(&lookup).await, 0);
        }
        assert_eq!(lender.seen().2, 1);
    }
}

#[tokio::test]
async fn a_peer_that_keeps_still_costs_its_bound_and_the_origin_is_asked() {
    let bytes = noise(1, 100_000);
    let lookup = immutable("/a");
    let there = filled(&[(&lookup, Script::ok(bytes.clone()))]).await;
    let here = Bed::beside(vec![Lender::with(&there, Fault::Still(50_000))]);
    here.upstream.answers("/a", [Script::ok(bytes.clone())]);
    let (outcome, _, got) = here.fetch(&lookup).await;
    assert!(outcome == Outcome::Miss && got == bytes);
}

#[tokio::test]
async fn the_next_peer_is_asked_when_the_first_has_nothing_sound() {
    let bytes = noise(1, 100_000);
    let lookup = expecting(immutable("/a"), &bytes);
    let empty = Lender::of(&Bed::new());
    let wrong = filled(&[(&immutable("/a"), Script::ok("other bytes"))]).await;
    let there = filled(&[(&lookup, Script::ok(bytes.clone()))]).await;
    let claims = Lender::with(&there, Fault::Claims(7));
    let (wrong, good) = (Lender::of(&wrong), Lender::of(&there));
    let here = Bed::beside(vec![empty.clone(), wrong.clone(), claims.clone(), good.clone()]);
    let (outcome, _, got) = here.fetch(&lookup).await;
    assert!(outcome == Outcome::Peer && got == bytes);
    assert_eq!((empty.seen(), good.seen()), ((1, 0, 0), (1, 1, 0)));
    assert_eq!(wrong.seen(), (1, 0, 0), "its sum is another one: nothing is asked for");
    assert_eq!(claims.seen(), (1, 1, 0), "it does not have what it names");
}

#[tokio::test]
async fn absences_and_what_is_stale_are_for_the_origin_to_say() {
    let there = filled(&[
        (&immutable("/gone"), Script::new(404, "no such thing")),
        (&document("/old"), Script::ok("old")),
        (&http("/personal"), Script::ok("mine").with(CACHE_CONTROL, "private")),
        (&http("/session"), Script::ok("mine").with(CACHE_CONTROL, "max-age=60").with(header::SET_COOKIE, "a=1")),
        (&http("/cookie"), Script::ok("mine").with(CACHE_CONTROL, "max-age=60").with(VARY, "cookie")),
    ])
    .await;
    there.advance(61);
    let lender = Lender::of(&there);
    let here = Bed::beside(vec![lender.clone()]);
    for lookup in [immutable("/gone"), document("/old"), http("/personal"), http("/session"), http("/cookie")] {
        here.upstream.answers(&lookup.key.path, [Script::ok("new").with(CACHE_CONTROL, "no-store")]);
        assert_eq!(here.fetch(&lookup).await.2, "new", "{}", lookup.key.path);
    }
    assert_eq!(lender.seen(), (5, 0, 0));
}

#[tokio::test]
async fn what_is_lent_is_as_old_here_as_it_was_there() {
    let aged = http("/aged");
    let there = filled(&[
        (&document("/a"), Script::ok("one")),
        (&aged, Script::ok("one").with(CACHE_CONTROL, "max-age=60").with(header::AGE, "10")),
    ])
    .await;
    there.advance(40);
    let here = Bed::beside(vec![Lender::of(&there)]);
    // The clocks of the two have nothing to do with each other.
    here.advance(1_000_000);
    for lookup in [document("/a"), aged] {
        here.upstream.answers(&lookup.key.path, [Script::ok("two").with(CACHE_CONTROL, "max-age=60")]);
        assert_eq!(here.fetch(&lookup).await.0, Outcome::Peer);
        let served = here.get(&lookup).await.expect("an answer");
        let told = if lookup.key.path == "/aged" { 50 } else { 40 };
        assert_eq!((served.outcome.label(), served.age), ("hit", Some(told)));
    }
    here.advance(21);
    there.advance(21);
    for path in ["/a", "/aged"] {
        let lookup = if path == "/a" { document(path) } else { http(path) };
        assert_eq!(here.fetch(&lookup).await.2, "two", "{path}");
    }
}

#[tokio::test]
async fn who_wants_the_origins_word_or_shows_a_credential_is_not_answered_by_a_peer() {
    let there = filled(&[(&document("/a"), Script::ok("kept"))]).await;
    let lender = Lender::of(&there);
    let here = Bed::beside(vec![lender.clone()]);
    here.upstream.answers("/a", [Script::ok("fresh")]);
    let served = Client::default().known_as("alice").get(&here, &document("/a")).await.expect("an answer");
    assert_eq!(served.into_bytes(100).await.expect("a body"), "fresh");
    assert_eq!(lender.seen().0, 0, "not even the key is told");
    let confirmed = Client::default().with(CACHE_CONTROL, "no-cache").get(&here, &document("/a")).await;
    assert_eq!(confirmed.expect("an answer").into_bytes(100).await.expect("a body"), "fresh");
    assert_eq!(lender.seen().1, 0);
}

#[tokio::test]
async fn variants_are_told_apart() {
    let lookup = http("/a");
    let there = Bed::new();
    let answer = |text: &'static str| Script::ok(text).with(CACHE_CONTROL, "max-age=60").with(VARY, "accept-language");
    there.upstream.answers("/a", [answer("deutsch"), answer("english")]);
    let asker = |language| Client::default().with(header::ACCEPT_LANGUAGE, language);
    for language in ["de", "en"] {
        asker(language).attempt(&there, &lookup).await;
    }
    let here = Bed::beside(vec![Lender::of(&there)]);
    here.upstream.answers("/a", [answer("français")]);
    for (language, text) in [("en", "english"), ("de", "deutsch"), ("fr", "français")] {
        let (got, error) = asker(language).attempt(&here, &lookup).await;
        assert!(error.is_none() && got == text.as_bytes(), "{language}");
    }
    assert_eq!(here.upstream.asks("/a"), 1);
}
