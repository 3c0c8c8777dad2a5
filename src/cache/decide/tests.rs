//! Tables of one rule each, then properties over made-up answers and requests.

use http::header::HeaderName;
use proptest::prelude::*;

use super::super::policy::ask::Authorized;
use super::super::policy::fixture::{NOW, date, entry, headers, http};
use super::super::policy::store::{Storable, storable};
use super::*;

fn later(secs: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(secs))
}

/// What becomes of a GET with these fields, so many seconds after the answers came.
fn decided(asked: &[(&str, &str)], stored: Vec<Entry>, freshness: &Freshness, secs: u64) -> String {
    let asked = headers(asked);
    let stored: Vec<Arc<Entry>> = stored.into_iter().map(Arc::new).collect();
    word(&decide(&AskHead::new(&Method::GET, &asked), &stored, freshness, later(secs)))
}

fn word(decision: &Decision) -> String {
    match decision {
        Decision::Serve { at, age } => format!("serve {at} {age}"),
        Decision::ServeStale { at, age, refresh: Refresh::InBackground } => format!("refresh {at} {age}"),
        Decision::ServeStale { at, age, refresh: Refresh::No } => format!("stale {at} {age}"),
        Decision::Revalidate { at, conditions } => {
            format!("ask {at} {}", conditions.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(" "))
        }
        Decision::Fetch => "fetch".to_owned(),
        Decision::Unsatisfiable => "unsatisfiable".to_owned(),
        Decision::Relay(reason) => format!("relay {reason:?}"),
    }
}

/// A GET without wishes of an answer with this Cache-Control and an ETag.
fn plain(rule: &str, secs: u64) -> String {
    wished("", rule, secs)
}

fn wished(wish: &str, rule: &str, secs: u64) -> String {
    let asked: &[(&str, &str)] = if wish.is_empty() { &[] } else { &[("cache-control", wish)] };
    decided(asked, vec![http(&[("cache-control", rule), ("etag", "\"a\"")])], &Freshness::Http, secs)
}

#[test]
fn fresh_is_served_and_stale_is_validated() {
    assert_eq!(plain("max-age=60", 59), "serve 0 59");
    assert_eq!(plain("max-age=60", 60), "ask 0 if-none-match");
    assert_eq!(plain("max-age=0", 0), "ask 0 if-none-match");
    assert_eq!(plain("no-cache, max-age=60", 1), "ask 0 if-none-match");
    assert_eq!(plain("no-cache=\"set-cookie\", max-age=60", 1), "serve 0 1");
    assert_eq!(decided(&[], vec![http(&[("cache-control", "max-age=1")])], &Freshness::Http, 3), "fetch");
    assert_eq!(decided(&[], vec![], &Freshness::Http, 3), "fetch");
    assert_eq!(plain("must-revalidate, max-age=60", 59), "serve 0 59");
}

/// A clock that is a year ahead, and then right again.
#[test]
fn what_came_at_a_time_that_is_still_to_come_is_asked_again() {
    let ahead = |mut entry: Entry, by: u64| {
        (entry.requested_at, entry.fetched_at) = (later(by), later(by));
        vec![entry]
    };
    let kept = || http(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]);
    let minutes = Freshness::Revalidate { fresh_for: Duration::from_secs(60), stale_if_error: Duration::ZERO };
    for (freshness, answer) in [
        (&Freshness::Http, "ask 0 if-none-match"),
        (&minutes, "ask 0 if-none-match"),
        (&Freshness::Immutable, "serve 0 0"),
    ] {
        assert_eq!(decided(&[], ahead(kept(), 31_536_000), freshness, 0), answer);
        assert_eq!(decided(&[], ahead(kept(), 5), freshness, 0), "serve 0 0", "a clock that was set a little");
    }
    assert_eq!(decided(&[], ahead(entry(404, &[]), 31_536_000), &Freshness::Immutable, 0), "fetch");
}

#[test]
fn what_a_304_withdrew_is_not_even_asked_about() {
    for rule in ["private, max-age=60", "no-store, max-age=60"] {
        assert_eq!(plain(rule, 1), "fetch", "{rule}");
    }
}

#[test]
fn what_a_write_made_doubtful_is_validated() {
    let mut doubtful = http(&[("cache-control", "max-age=60, stale-while-revalidate=60"), ("etag", "\"a\"")]);
    doubtful.valid = false;
    let own = Freshness::Revalidate { fresh_for: Duration::from_secs(60), stale_if_error: Duration::ZERO };
    for freshness in [Freshness::Http, own, Freshness::Immutable] {
        let asked = [("cache-control", "max-stale")];
        assert_eq!(decided(&asked, vec![doubtful.clone()], &freshness, 1), "ask 0 if-none-match", "{freshness:?}");
    }
}

#[test]
fn client_wishes_narrow_what_is_fresh() {
    for (wish, rule, secs, expected) in [
        ("max-age=0", "max-age=60", 3, "ask 0 if-none-match"),
        ("max-age=3", "max-age=60", 3, "serve 0 3"),
        ("max-age=2", "max-age=60", 3, "ask 0 if-none-match"),
        ("max-age=0", "max-age=60, immutable", 3, "serve 0 3"),
        ("no-cache", "max-age=60, immutable", 3, "ask 0 if-none-match"),
        ("max-age=0", "max-age=2, immutable", 3, "ask 0 if-none-match"),
        ("min-fresh=57", "max-age=60", 3, "serve 0 3"),
        ("min-fresh=58", "max-age=60", 3, "ask 0 if-none-match"),
        ("no-cache", "max-age=60", 3, "ask 0 if-none-match"),
        ("no-store", "max-age=60", 3, "relay NoStore"),
    ] {
        assert_eq!(wished(wish, rule, secs), expected, "{wish} on {rule}");
    }
}

#[test]
fn max_stale_widens_it_unless_the_answer_forbids() {
    for (wish, rule, expected) in [
        ("max-stale", "max-age=1", "stale 0 11"),
        ("max-stale=10", "max-age=1", "stale 0 11"),
        ("max-stale=9", "max-age=1", "ask 0 if-none-match"),
        ("max-stale, max-age=5", "max-age=1", "ask 0 if-none-match"),
        ("max-stale, min-fresh=1", "max-age=1", "ask 0 if-none-match"),
        ("max-stale", "max-age=1, must-revalidate", "ask 0 if-none-match"),
        ("max-stale", "max-age=1, proxy-revalidate", "ask 0 if-none-match"),
        ("max-stale", "s-maxage=1", "ask 0 if-none-match"),
        ("max-stale", "no-cache", "ask 0 if-none-match"),
    ] {
        assert_eq!(wished(wish, rule, 11), expected, "{wish} on {rule}");
    }
}

#[test]
fn stale_while_revalidate_has_a_window() {
    for (wish, rule, expected) in [
        ("", "max-age=1, stale-while-revalidate=10", "refresh 0 11"),
        ("", "max-age=1, stale-while-revalidate=9", "ask 0 if-none-match"),
        ("", "max-age=1, stale-while-revalidate=10, must-revalidate", "ask 0 if-none-match"),
        ("max-age=10", "max-age=1, stale-while-revalidate=10", "ask 0 if-none-match"),
        ("no-cache", "max-age=1, stale-while-revalidate=10", "ask 0 if-none-match"),
    ] {
        assert_eq!(wished(wish, rule, 11), expected, "{wish} on {rule}");
    }
}

#[test]
fn only_if_cached_never_asks_upstream() {
    assert_eq!(wished("only-if-cached", "max-age=60", 1), "serve 0 1");
    assert_eq!(wished("only-if-cached", "max-age=60", 99), "unsatisfiable");
    assert_eq!(wished("only-if-cached, max-stale", "max-age=60", 99), "stale 0 99");
    for freshness in [Freshness::Http, Freshness::Immutable] {
        assert_eq!(decided(&[("cache-control", "only-if-cached")], vec![], &freshness, 0), "unsatisfiable");
    }
}

#[test]
fn what_goes_upstream_says_why() {
    let why = |asked: &[(&str, &str)], stored: &[Arc<Entry>], secs| {
        let asked = headers(asked);
        forwarded(&AskHead::new(&Method::GET, &asked), stored, &Freshness::Http, later(secs))
    };
    let stored = [Arc::new(http(&[("cache-control", "max-age=60")]))];
    let other = [Arc::new(Entry { vary: vec![("accept".to_owned(), Some("x".to_owned()))], ..http(&[]) })];
    assert_eq!(why(&[], &[], 1), Forwarded::UriMiss);
    assert_eq!(why(&[], &stored, 61), Forwarded::Stale);
    assert_eq!(why(&[("cache-control", "no-cache")], &stored, 1), Forwarded::Request);
    assert_eq!(why(&[("cache-control", "max-age=0")], &stored, 1), Forwarded::Request);
    assert_eq!(why(&[("cache-control", "no-store")], &stored, 1), Forwarded::Request);
    assert_eq!(why(&[("cache-control", "no-cache")], &stored, 61), Forwarded::Stale);
    assert_eq!(why(&[("cache-control", "no-cache")], &[], 1), Forwarded::UriMiss);
    assert_eq!(why(&[], &other, 1), Forwarded::VaryMiss);
    assert_eq!(why(&[], &stored, 1), Forwarded::UriMiss, "its bytes are gone");
}

#[test]
fn some_requests_go_around() {
    let none = HeaderMap::new();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        for freshness in [Freshness::Http, Freshness::Immutable] {
            let decision = decide(&AskHead::new(&method, &none), &[], &freshness, NOW);
            assert!(matches!(decision, Decision::Relay(Reason::Method)), "{method}");
        }
    }
    let fresh = || vec![http(&[("cache-control", "max-age=60")])];
    assert_eq!(decided(&[("if-match", "\"a\"")], fresh(), &Freshness::Http, 1), "relay Method");
    assert_eq!(decided(&[("if-match", "\"a\"")], fresh(), &Freshness::Immutable, 1), "serve 0 1");
    let head = decide(&AskHead::new(&Method::HEAD, &none), &[Arc::new(fresh().remove(0))], &Freshness::Http, NOW);
    assert_eq!(word(&head), "serve 0 0");
}

#[test]
fn the_variant_made_last_is_taken() {
    let variant = |value: &str, made| {
        let mut entry = http(&[("cache-control", "max-age=60"), ("vary", "foo"), ("date", &date(made))]);
        let asked = headers(&[("foo", value)]);
        entry.vary =
            vary::variant(&AskHead::new(&Method::GET, &asked), &entry.headers, &Freshness::Http).expect("fits");
        entry
    };
    let stored = || vec![variant("1", -9), variant("2", -1), variant("1", -3), variant("1", -3)];
    assert_eq!(decided(&[("foo", "1")], stored(), &Freshness::Http, 0), "serve 2 3");
    assert_eq!(decided(&[("foo", "2")], stored(), &Freshness::Http, 0), "serve 1 1");
    assert_eq!(decided(&[("foo", "3")], stored(), &Freshness::Http, 0), "fetch");
    assert_eq!(decided(&[], stored(), &Freshness::Http, 0), "fetch");
}

#[test]
fn immutable_answers_are_served_whatever_is_said() {
    let stored = || vec![http(&[("cache-control", "no-store, max-age=0"), ("vary", "*")])];
    for wish in ["no-cache", "no-store", "max-age=0", "min-fresh=9"] {
        assert_eq!(decided(&[("cache-control", wish)], stored(), &Freshness::Immutable, 9_999_999), "serve 0 9999999");
    }
    assert_eq!(decided(&[], vec![entry(404, &[])], &Freshness::Immutable, 59), "serve 0 59");
    assert_eq!(decided(&[], vec![entry(404, &[("etag", "\"a\"")])], &Freshness::Immutable, 60), "fetch");
}

#[test]
fn ecosystems_times_are_their_own() {
    let own = Freshness::Revalidate { fresh_for: Duration::from_secs(300), stale_if_error: Duration::from_secs(100) };
    let stored = || vec![http(&[("cache-control", "no-store, max-age=0"), ("age", "9999"), ("etag", "\"a\"")])];
    let asked = |wish: &str, secs| decided(&[("cache-control", wish)], stored(), &own, secs);
    assert_eq!(asked("max-age=0", 299), "serve 0 10298");
    assert_eq!(asked("max-age=0", 300), "ask 0 if-none-match");
    assert_eq!(asked("no-cache", 1), "ask 0 if-none-match");
    assert_eq!(asked("no-store", 1), "serve 0 10000");
    assert_eq!(decided(&[], vec![entry(410, &[])], &own, 59), "serve 0 59");
    assert_eq!(decided(&[], vec![entry(410, &[])], &own, 61), "fetch");
}

#[test]
fn an_outage_is_bridged_where_nothing_forbids() {
    let none = HeaderMap::new();
    let bridged = |rule: &str, secs| {
        let entry = http(&[("cache-control", rule)]);
        stale_if_error(&entry, &Freshness::Http, &AskHead::new(&Method::GET, &none), later(secs))
    };
    assert!(bridged("max-age=2", 9));
    assert!(!bridged("max-age=2", 2 + OUTAGE_GRACE.as_secs() + 1));
    assert!(bridged("max-age=2, stale-if-error=7", 9));
    assert!(!bridged("max-age=2, stale-if-error=7", 10));
    assert!(!bridged("max-age=2, stale-if-error=x", 10));
    for rule in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=2", "no-store", "private"] {
        assert!(!bridged(&format!("max-age=2, {rule}"), 9), "{rule}");
    }
}

#[test]
fn an_outage_is_no_absence() {
    let none = HeaderMap::new();
    let ask = AskHead::new(&Method::GET, &none);
    let own = Freshness::Revalidate { fresh_for: Duration::from_secs(5), stale_if_error: Duration::from_secs(10) };
    let bridged = |entry: &Entry, freshness, secs| stale_if_error(entry, freshness, &ask, later(secs));
    assert!(bridged(&http(&[]), &own, 15));
    assert!(!bridged(&http(&[]), &own, 16));
    assert!(!bridged(&entry(404, &[]), &own, 6));
    assert!(!bridged(&entry(404, &[]), &Freshness::Immutable, 61));
    assert!(bridged(&http(&[]), &Freshness::Immutable, 61));
    assert!(!bridged(&entry(503, &[("cache-control", "max-age=1")]), &Freshness::Http, 5));
    let reload = headers(&[("cache-control", "no-cache")]);
    let ask = AskHead::new(&Method::GET, &reload);
    assert!(!stale_if_error(&http(&[("cache-control", "max-age=1")]), &Freshness::Http, &ask, later(5)));
    assert!(is_outage(503) && is_outage(429) && is_outage(599) && !is_outage(501) && !is_outage(404));
}

fn span() -> impl Strategy<Value = String> {
    prop_oneof![4 => (0u32..40).prop_map(|secs| secs.to_string()), 1 => Just("x".to_owned()), 1 => Just("\"7\"".into())]
}

/// A list of directives, each perhaps with a number.
fn rule(flags: &'static [&'static str], spans: &'static [&'static str]) -> impl Strategy<Value = String> {
    let flag = prop::sample::select(flags).prop_map(str::to_owned);
    let timed = (prop::sample::select(spans), span()).prop_map(|(name, secs)| format!("{name}={secs}"));
    prop::collection::vec(prop_oneof![1 => flag, 2 => timed], 0..4).prop_map(|parts| parts.join(", "))
}

fn answer_rule() -> impl Strategy<Value = String> {
    let flags =
        &["no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate", "immutable", "foo"];
    rule(flags, &["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"])
}

fn wish() -> impl Strategy<Value = String> {
    rule(&["no-cache", "max-stale", "only-if-cached"], &["max-age", "min-fresh", "max-stale", "stale-if-error"])
}

prop_compose! {
    fn stored()(
        status in prop::sample::select(&[200u16, 203, 301, 404, 503, 599][..]),
        rule in answer_rule(),
        targeted in prop::option::weighted(0.2, answer_rule()),
        age in prop::option::of(0u32..40),
        made in prop::option::of(-40i64..40),
        expires in prop::option::of(-40i64..40),
        changed in prop::option::of(-400i64..40),
        etag in any::<bool>(),
        valid in prop::bool::weighted(0.9),
    ) -> Entry {
        let mut fields = vec![("cache-control", rule)];
        fields.extend(targeted.map(|rule| ("cdn-cache-control", rule)));
        fields.extend(age.map(|secs| ("age", secs.to_string())));
        fields.extend(made.map(|secs| ("date", date(secs))));
        fields.extend(expires.map(|secs| ("expires", date(secs))));
        fields.extend(changed.map(|secs| ("last-modified", date(secs))));
        fields.extend(etag.then(|| ("etag", "\"a\"".to_owned())));
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut stored = entry(status, &fields);
        stored.valid = valid;
        stored
    }
}

fn served(decision: &Decision) -> bool {
    matches!(decision, Decision::Serve { .. } | Decision::ServeStale { .. })
}

proptest! {
    #[test]
    fn nothing_is_served_past_its_lifetime_without_leave(
        stored in prop::collection::vec(stored(), 0..4), wish in wish(), secs in 0u64..90,
    ) {
        let asked = headers(&[("cache-control", &wish)]);
        let ask = AskHead::new(&Method::GET, &asked);
        let stored: Vec<Arc<Entry>> = stored.into_iter().map(Arc::new).collect();
        let now = later(secs);
        match decide(&ask, &stored, &Freshness::Http, now) {
            Decision::Serve { at, age } => {
                let rules = Rules::of(&stored[at].headers);
                prop_assert!(freshness::spent(&stored[at], &Freshness::Http, now) < lifetime(&stored[at], &Freshness::Http));
                prop_assert!(!rules.no_cache && !rules.private && !rules.no_store && stored[at].valid);
                prop_assert!(!ask.wishes().no_cache);
                prop_assert_eq!(age, freshness::age(&stored[at], now));
            }
            Decision::ServeStale { at, .. } => {
                let rules = Rules::of(&stored[at].headers);
                prop_assert!(!rules.forbids_stale() && !rules.private && !rules.no_store && stored[at].valid);
                prop_assert!(rules.stale_while_revalidate.get().is_some() || ask.wishes().max_stale.is_some());
            }
            Decision::Revalidate { at, conditions } => {
                prop_assert!(!ask.wishes().only_if_cached && !conditions.is_empty());
                prop_assert!((200..300).contains(&stored[at].status));
            }
            Decision::Fetch => prop_assert!(!ask.wishes().only_if_cached),
            Decision::Unsatisfiable => prop_assert!(ask.wishes().only_if_cached),
            Decision::Relay(_) => prop_assert!(false, "nothing asked for a relay"),
        }
    }

    #[test]
    fn what_is_not_served_now_is_not_served_later(
        stored in stored(), wish in wish(), secs in 0u64..90, more in 0u64..90,
    ) {
        let asked = headers(&[("cache-control", &wish)]);
        let ask = AskHead::new(&Method::GET, &asked);
        let stored = [Arc::new(stored)];
        let own = Freshness::Revalidate { fresh_for: Duration::from_secs(30), stale_if_error: Duration::from_secs(30) };
        for freshness in [Freshness::Http, own, Freshness::Immutable] {
            let at = |secs| decide(&ask, &stored, &freshness, later(secs));
            prop_assert!(served(&at(secs)) || !served(&at(secs + more)));
            let bridged = |secs| stale_if_error(&stored[0], &freshness, &ask, later(secs));
            prop_assert!(bridged(secs) || !bridged(secs + more));
        }
    }

    #[test]
    fn what_may_not_be_stored_is_not_served_either(stored in stored(), secs in 0u64..90) {
        let none = HeaderMap::new();
        let ask = AskHead::new(&Method::GET, &none);
        let verdict = storable(&ask, stored.status, &stored.headers, &Freshness::Http, NOW);
        let decision = decide(&ask, &[Arc::new(stored)], &Freshness::Http, later(secs));
        if matches!(verdict, Storable::No(..)) {
            prop_assert!(!matches!(decision, Decision::Serve { .. }), "{:?}", verdict);
        }
    }

    #[test]
    fn a_credential_only_ever_narrows(stored in stored()) {
        let none = HeaderMap::new();
        let open = AskHead::new(&Method::GET, &none);
        let known = AskHead { authorized: Authorized::Yes, ..open };
        let kept = |ask: &AskHead<'_>| {
            matches!(storable(ask, stored.status, &stored.headers, &Freshness::Http, NOW), Storable::Yes { .. })
        };
        prop_assert!(kept(&open) || !kept(&known));
    }

    #[test]
    fn any_bytes_in_the_fields_are_read(
        rule in "[ -~]{0,40}", cdn in "[ -~]{0,40}", vary in "[ -~]{0,20}", when in "[ -~]{0,30}", wish in "[ -~]{0,40}",
    ) {
        let stored = http(&[
            ("cache-control", &rule), ("cdn-cache-control", &cdn), ("vary", &vary), ("expires", &when),
            ("age", &when), ("date", &when), ("etag", &when), ("last-modified", &when),
        ]);
        let asked = headers(&[("cache-control", &wish), ("if-none-match", &wish), ("if-range", &when), ("x", &rule)]);
        let ask = AskHead::new(&Method::GET, &asked);
        decide(&ask, &[Arc::new(stored.clone())], &Freshness::Http, later(5));
        storable(&ask, 200, &stored.headers, &Freshness::Http, NOW);
        validate::precondition(&asked, 200, &stored.headers);
        validate::if_range_holds(&asked, &stored.headers);
        freshness::explain(&stored, &Freshness::Http, later(5));
    }
}
