//! Conditions: those we send to learn whether a stored answer still holds, those that clients send us, and what a 304
//! or the answer to a HEAD changes in what is stored.
//!
//! *Source*: RFC 9110 §8.8, §13; RFC 9111 §3.2, §4.3.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::ask::AskHead;
use super::date::{self, DateField};
use super::fields::{self, members, text};
use super::rules;
use super::vary;
use crate::model::entry::Entry;
use crate::model::lookup::Freshness;
use crate::model::time::Timestamp;

/// Fields that describe the stored bytes, which a 304 does not replace.
const OF_THE_BYTES: [&str; 9] = [
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "content-range",
    "digest",
    "etag",
    "repr-digest",
    "vary",
];

/// Fields in which clients set conditions.
const CONDITIONS: [HeaderName; 4] =
    [header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];

/// Whether a conditional request can be made from the answer.
pub(crate) fn has_validator(status: u16, headers: &HeaderMap) -> bool {
    (200..300).contains(&status)
        && (headers.contains_key(header::ETAG) || DateField::of(headers, &header::LAST_MODIFIED).at().is_some())
}

/// `If-None-Match` and `If-Modified-Since` from the stored validators, both word for word. Empty: there are none.
pub fn conditions(entry: &Entry) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    if !has_validator(entry.status, &entry.headers) {
        return conditions;
    }
    if let Some(etag) = entry.headers.get(header::ETAG) {
        conditions.insert(header::IF_NONE_MATCH, etag.clone());
    }
    if DateField::of(&entry.headers, &header::LAST_MODIFIED).at().is_some()
        && let Some(changed) = entry.headers.get(header::LAST_MODIFIED)
    {
        conditions.insert(header::IF_MODIFIED_SINCE, changed.clone());
    }
    conditions
}

/// What a client's conditions make of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precondition {
    /// Send the answer.
    Proceed,
    /// Send 304 with the answer's headers.
    NotModified,
    /// Send 412. Under `Freshness::Http` this cannot come up: `decide` passes such requests on.
    Failed,
}

/// Judges the conditions of a GET or HEAD against an answer that is to be sent (RFC 9110 §13.2.2).
pub fn precondition(asked: &HeaderMap, status: u16, headers: &HeaderMap) -> Precondition {
    if !(200..300).contains(&status) || !fields::has_any(asked, &CONDITIONS) {
        return Precondition::Proceed;
    }
    let etag = headers.get(header::ETAG).map(text);
    let changed = DateField::of(headers, &header::LAST_MODIFIED).at();
    if asked.contains_key(header::IF_MATCH) {
        if !any_etag(asked, &header::IF_MATCH, |tag| etag.as_deref().is_some_and(|etag| is_strong_match(tag, etag))) {
            return Precondition::Failed;
        }
    } else if let Some(since) = DateField::of(asked, &header::IF_UNMODIFIED_SINCE).at()
        && changed.is_some_and(|changed| changed > since)
    {
        return Precondition::Failed;
    }
    if asked.contains_key(header::IF_NONE_MATCH) {
        let matches = |tag: &str| etag.as_deref().is_some_and(|etag| opaque(tag) == opaque(etag));
        return if any_etag(asked, &header::IF_NONE_MATCH, matches) {
            Precondition::NotModified
        } else {
            Precondition::Proceed
        };
    }
    let changed = changed.or_else(|| DateField::of(headers, &header::DATE).at());
    match (DateField::of(asked, &header::IF_MODIFIED_SINCE).at(), changed) {
        (Some(since), Some(changed)) if changed <= since => Precondition::NotModified,
        _ => Precondition::Proceed,
    }
}

/// Whether a `Range` may be answered with a part: `If-Range` is absent or names this very answer (RFC 9110 §13.1.5).
pub fn if_range_holds(asked: &HeaderMap, headers: &HeaderMap) -> bool {
    let Some(condition) = asked.get(header::IF_RANGE).map(text) else { return true };
    let condition = condition.trim();
    if let Some(date) = date::parse(condition) {
        let changed = DateField::of(headers, &header::LAST_MODIFIED).at();
        let made = DateField::of(headers, &header::DATE).at();
        // A date is a strong validator only when the answer was made later than the second it names (§8.8.2.2).
        return changed == Some(date) && made.is_some_and(|made| made > date);
    }
    headers.get(header::ETAG).is_some_and(|etag| is_strong_match(condition, &text(etag)))
}

/// The stored answers that a 304 updates: the one that was asked about, and any other with the same strong validator.
///
/// A 304 that names another strong validator than the one we sent still confirms the one we sent, since that was the
/// question; servers that mark a coding in the ETag answer so. RFC 9111 §4.3.4 would have us fetch again.
pub fn selects(entries: &[Arc<Entry>], asked: usize, headers_304: &HeaderMap) -> Vec<usize> {
    let etag = headers_304.get(header::ETAG).filter(|etag| !is_weak(&text(etag)));
    let same = |entry: &Entry| etag.is_some() && entry.headers.get(header::ETAG) == etag;
    (0..entries.len()).filter(|&at| at == asked || (same(&entries[at]) && entries[at].status < 300)).collect()
}

/// The stored answer as a 304 leaves it: its fields replaced by those of the 304, but for those that describe the
/// bytes; its times renewed. `ask` is the request that was answered with the 304.
pub fn freshen(
    entry: &Entry,
    ask: &AskHead<'_>,
    headers_304: &HeaderMap,
    requested_at: Timestamp,
    received_at: Timestamp,
) -> Entry {
    let mut fresh = entry.clone();
    replace(&mut fresh.headers, &rules::stored_fields(headers_304));
    fresh.requested_at = requested_at;
    fresh.fetched_at = received_at;
    fresh.valid = true;
    if fields::has_any(headers_304, &[header::VARY, header::SET_COOKIE]) {
        narrow(&mut fresh, ask, headers_304);
    }
    fresh
}

/// What the answer to a HEAD says about a stored answer to GET (RFC 9111 §4.3.5).
#[derive(Clone, Debug)]
pub enum HeadSays {
    /// The same representation: this entry takes the old one's place.
    Fresh(Box<Entry>),
    /// Another representation by now: validate before use.
    Outdated,
    /// Nothing: an error, or an answer that is not a 200.
    Nothing,
}

/// Compares the answer to a HEAD with a stored answer that fits the same request.
pub fn head_says(
    entry: &Entry,
    ask: &AskHead<'_>,
    status: u16,
    headers: &HeaderMap,
    requested_at: Timestamp,
    received_at: Timestamp,
) -> HeadSays {
    if status != 200 || entry.status != 200 {
        return if is_outdating(status) { HeadSays::Outdated } else { HeadSays::Nothing };
    }
    let agrees = |name: HeaderName| headers.get(&name).is_none_or(|value| entry.headers.get(&name) == Some(value));
    let length = headers.get(header::CONTENT_LENGTH).map(text);
    let same_length = length.is_none_or(|length| length.trim().parse() == Ok(entry.len));
    if !(agrees(header::ETAG) && agrees(header::LAST_MODIFIED) && same_length) {
        return HeadSays::Outdated;
    }
    HeadSays::Fresh(Box::new(freshen(entry, ask, headers, requested_at, received_at)))
}

/// The document is gone or moved.
fn is_outdating(status: u16) -> bool {
    matches!(status, 301 | 308 | 404 | 410)
}

fn replace(kept: &mut HeaderMap, new: &HeaderMap) {
    for name in new.keys() {
        let adopted = name == header::ETAG && !kept.contains_key(name);
        if OF_THE_BYTES.contains(&name.as_str()) && !adopted {
            continue;
        }
        kept.remove(name);
        for value in new.get_all(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    // Those of the old journey say nothing about this one.
    for name in [header::AGE, header::DATE] {
        if !new.contains_key(&name) {
            kept.remove(name);
        }
    }
}

/// Takes on what the fields of a 304 make the answer vary on, with the values of the request that it answered.
fn narrow(entry: &mut Entry, ask: &AskHead<'_>, headers_304: &HeaderMap) {
    let mut headers = entry.headers.clone();
    headers.remove(header::VARY);
    headers.extend(headers_304.get_all(header::VARY).iter().map(|names| (header::VARY, names.clone())));
    match vary::variant(ask, &headers, &Freshness::Http) {
        None => {
            entry.headers.append(header::VARY, HeaderValue::from_static("*"));
        }
        Some(variant) => {
            for (name, value) in variant {
                if !entry.vary.iter().any(|(known, _)| *known == name) {
                    if let Ok(field) = HeaderName::from_bytes(name.as_bytes()) {
                        entry.headers.append(header::VARY, field.into());
                    }
                    entry.vary.push((name, value));
                }
            }
            entry.vary.sort_unstable();
        }
    }
}

/// Whether `*` or a tag of the list satisfies `matches`.
fn any_etag(asked: &HeaderMap, name: &HeaderName, matches: impl Fn(&str) -> bool) -> bool {
    asked.get_all(name).iter().any(|line| members(&text(line)).any(|tag| tag == "*" || matches(tag)))
}

fn is_weak(etag: &str) -> bool {
    etag.starts_with("W/")
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn is_strong_match(one: &str, other: &str) -> bool {
    one == other && !is_weak(one)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;

    use super::super::fixture::{NOW, date, entry, headers, http};
    use super::*;

    fn freshened(stored: &[(&str, &str)], new: &[(&str, &str)]) -> Entry {
        let none = HeaderMap::new();
        let later = NOW.plus(Duration::from_secs(9));
        freshen(&http(stored), &AskHead::new(&Method::GET, &none), &headers(new), later, later)
    }

    #[test]
    fn conditions_are_the_validators_word_for_word() {
        let changed = date(-50);
        let both = http(&[("etag", "W/\"a\""), ("last-modified", &changed)]);
        assert_eq!(conditions(&both), headers(&[("if-none-match", "W/\"a\""), ("if-modified-since", &changed)]));
        assert!(conditions(&http(&[("last-modified", "yesterday")])).is_empty());
        assert!(conditions(&entry(404, &[("etag", "\"a\"")])).is_empty());
    }

    #[test]
    fn a_304_replaces_fields_but_not_those_of_the_bytes() {
        let stored = [
            ("a", "1"),
            ("a", "2"),
            ("b", "1"),
            ("content-length", "4"),
            ("content-encoding", "x"),
            ("content-range", "x"),
            ("content-md5", "x"),
            ("content-type", "text/plain"),
            ("etag", "\"1\""),
            ("age", "50"),
            ("set-cookie", "a=b"),
            ("cache-control", "max-age=1"),
        ];
        let new = [
            ("a", "3"),
            ("content-length", "0"),
            ("content-encoding", "y"),
            ("content-range", "y"),
            ("content-md5", "y"),
            ("content-type", "text/html"),
            ("etag", "\"2\""),
            ("set-cookie", "a=c"),
            ("connection", "c"),
            ("c", "1"),
            ("cache-control", "max-age=3600"),
        ];
        let fresh = freshened(&stored, &new);
        let expected = headers(&[
            ("a", "3"),
            ("b", "1"),
            ("content-length", "4"),
            ("content-encoding", "x"),
            ("content-range", "x"),
            ("content-md5", "x"),
            ("content-type", "text/html"),
            ("etag", "\"1\""),
            ("set-cookie", "a=c"),
            ("cache-control", "max-age=3600"),
        ]);
        assert_eq!(fresh.headers, expected);
        assert_eq!((fresh.fetched_at, fresh.valid), (NOW.plus(Duration::from_secs(9)), true));
        assert_eq!(freshened(&[], &[("etag", "\"2\"")]).headers, headers(&[("etag", "\"2\"")]));
    }

    #[test]
    fn a_304_may_add_to_vary_but_never_take_from_it() {
        let asked = headers(&[("foo", "1"), ("accept", "x")]);
        let ask = AskHead::new(&Method::GET, &asked);
        let mut stored = http(&[("vary", "foo")]);
        stored.vary = vary::variant(&ask, &stored.headers, &Freshness::Http).expect("no star");
        let fresh = |new| freshen(&stored, &ask, &headers(&[("vary", new)]), NOW, NOW);
        assert!(fresh("accept").vary.iter().any(|(name, value)| name == "accept" && value.as_deref() == Some("x")));
        assert!(fresh("accept").vary.iter().any(|(name, _)| name == "foo"));
        assert!(vary::varies_on_everything(&fresh("*").headers));
    }

    #[test]
    fn a_304_updates_what_was_asked_and_its_likes() {
        let entries: Vec<Arc<Entry>> = [
            http(&[("etag", "\"a\"")]),
            http(&[("etag", "\"b\"")]),
            http(&[("etag", "\"a\"")]),
            http(&[("etag", "W/\"a\"")]),
            entry(404, &[("etag", "\"a\"")]),
        ]
        .map(Arc::new)
        .into();
        assert_eq!(selects(&entries, 0, &headers(&[("etag", "\"a\"")])), [0, 2]);
        assert_eq!(selects(&entries, 0, &headers(&[("etag", "W/\"a\"")])), [0]);
        assert_eq!(selects(&entries, 1, &headers(&[("etag", "\"zz\"")])), [1]);
        assert_eq!(selects(&entries, 3, &headers(&[])), [3]);
    }

    #[test]
    fn if_none_match_compares_weakly_and_comes_first() {
        let answer = headers(&[("etag", "\"a\""), ("last-modified", &date(-50))]);
        let judged = |asked: &[(&str, &str)]| precondition(&headers(asked), 200, &answer);
        for list in ["\"a\"", "W/\"a\"", "*", "\"x\", \"a\", \"y\"", "\"x,\", \"a\""] {
            assert_eq!(judged(&[("if-none-match", list)]), Precondition::NotModified, "{list}");
        }
        for list in ["\"b\"", "a", "\"A\"", ""] {
            let both = [("if-none-match", list), ("if-modified-since", &date(0))];
            assert_eq!(judged(&both), Precondition::Proceed, "{list}");
        }
        let both = [("if-none-match", "\"a\""), ("if-modified-since", &date(-99))];
        assert_eq!(judged(&both), Precondition::NotModified);
        assert_eq!(precondition(&headers(&[("if-none-match", "*")]), 404, &answer), Precondition::Proceed);
    }

    #[test]
    fn if_modified_since_compares_dates() {
        let judged = |since: &str, answer: &[(&str, &str)]| {
            precondition(&headers(&[("if-modified-since", since)]), 200, &headers(answer))
        };
        let changed = date(-50);
        let answer = [("last-modified", changed.as_str())];
        assert_eq!(judged(&date(-50), &answer), Precondition::NotModified);
        assert_eq!(judged(&date(-40), &answer), Precondition::NotModified);
        assert_eq!(judged(&date(-51), &answer), Precondition::Proceed);
        assert_eq!(judged("yesterday", &answer), Precondition::Proceed);
        assert_eq!(judged(&date(0), &[("date", &changed)]), Precondition::NotModified, "Date stands in");
        assert_eq!(judged(&date(0), &[]), Precondition::Proceed);
    }

    #[test]
    fn if_match_compares_strongly() {
        let judged = |asked: &[(&str, &str)], etag| {
            precondition(&headers(asked), 200, &headers(&[("etag", etag), ("last-modified", &date(-50))]))
        };
        assert_eq!(judged(&[("if-match", "\"a\"")], "\"a\""), Precondition::Proceed);
        assert_eq!(judged(&[("if-match", "*")], "\"a\""), Precondition::Proceed);
        assert_eq!(judged(&[("if-match", "W/\"a\"")], "W/\"a\""), Precondition::Failed);
        assert_eq!(judged(&[("if-match", "\"b\"")], "\"a\""), Precondition::Failed);
        assert_eq!(judged(&[("if-unmodified-since", &date(-51))], "\"a\""), Precondition::Failed);
        assert_eq!(judged(&[("if-unmodified-since", &date(-50))], "\"a\""), Precondition::Proceed);
    }

    #[test]
    fn if_range_names_the_very_answer() {
        let holds =
            |condition, answer: &[(&str, &str)]| if_range_holds(&headers(&[("if-range", condition)]), &headers(answer));
        let (changed, made) = (date(-50), date(0));
        assert!(if_range_holds(&HeaderMap::new(), &HeaderMap::new()));
        assert!(holds("\"a\"", &[("etag", "\"a\"")]));
        assert!(!holds("W/\"a\"", &[("etag", "W/\"a\"")]));
        assert!(!holds("\"b\"", &[("etag", "\"a\"")]));
        assert!(!holds("\"a\"", &[]));
        assert!(holds(&changed, &[("last-modified", &changed), ("date", &made)]));
        assert!(
            !holds(&changed, &[("last-modified", &changed), ("date", &changed)]),
            "may have changed in that second"
        );
        assert!(!holds(&made, &[("last-modified", &changed), ("date", &made)]));
    }

    #[test]
    fn a_head_freshens_what_it_agrees_with() {
        let none = HeaderMap::new();
        let says = |status, fields: &[(&str, &str)]| {
            let stored = http(&[("etag", "\"a\""), ("b", "1"), ("cache-control", "max-age=1")]);
            head_says(&stored, &AskHead::new(&Method::HEAD, &none), status, &headers(fields), NOW, NOW)
        };
        let HeadSays::Fresh(fresh) = says(200, &[("cache-control", "max-age=9"), ("content-length", "4")]) else {
            panic!("agrees")
        };
        assert_eq!(fresh.headers, headers(&[("etag", "\"a\""), ("b", "1"), ("cache-control", "max-age=9")]));
        assert!(matches!(says(200, &[("etag", "\"b\"")]), HeadSays::Outdated));
        assert!(matches!(says(200, &[("content-length", "5")]), HeadSays::Outdated));
        assert!(matches!(says(410, &[]), HeadSays::Outdated));
        assert!(matches!(says(500, &[]), HeadSays::Nothing));
    }
}
