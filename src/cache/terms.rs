//! The terms of one request: which key it asks for, what of it goes upstream, and which part of an answer it wants.
//! Pure.

use http::{HeaderMap, Method, StatusCode};

use super::policy::ask::{AskHead, Authorized, Forward};
use super::policy::validate::{self, Precondition};
use super::policy::vary;
use super::served::{Ask, Part, Partiality, Served, ServedBody};
use crate::model::credential;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::hop;
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::{Freshness, Lookup};
use crate::model::range::{Asked, ByteRange, RangeSpec, Resolved};
use crate::upstream::fetch::Redirects;

/// Fields that ask for less than the whole: a shared fill asks for all of it.
const PARTIAL: [http::HeaderName; 6] = [
    http::header::RANGE,
    http::header::IF_RANGE,
    http::header::IF_MATCH,
    http::header::IF_NONE_MATCH,
    http::header::IF_MODIFIED_SINCE,
    http::header::IF_UNMODIFIED_SINCE,
];

/// A forward proxy passes redirects on, since the client acts on them; a mirror follows them.
pub(super) fn redirects(freshness: &Freshness) -> Redirects {
    match freshness {
        Freshness::Http => Redirects::PassOn,
        Freshness::Immutable | Freshness::Revalidate { .. } => Redirects::Follow,
    }
}

/// The lookup's key, with the credential's identity where the answer may depend on it. Under RFC 9111 the response
/// itself says whether answers to credentials may be shared (§3.5), so its key carries none.
pub(super) fn keyed(ask: &Ask<'_>) -> Key {
    let mut key = ask.lookup.key.clone();
    match (&ask.lookup.freshness, &ask.identity) {
        (Freshness::Http, _) | (_, None) => {}
        (Freshness::Immutable | Freshness::Revalidate { .. }, Some(identity)) => {
            key.variant.push_str("identity=");
            key.variant.push_str(identity);
        }
    }
    key
}

/// The hash of `keyed`.
pub(super) fn hashed(ask: &Ask<'_>) -> KeyHash {
    match (&ask.lookup.freshness, &ask.identity) {
        (Freshness::Http, _) | (_, None) => ask.hash,
        (Freshness::Immutable | Freshness::Revalidate { .. }, Some(_)) => keyed(ask).hash(),
    }
}

/// What of the client's request a shared fill sends upstream.
pub(super) fn upstream_fields(ask: &Ask<'_>) -> HeaderMap {
    let mut sent = match ask.lookup.freshness {
        // Selected by `Vary`: all end-to-end fields, but for those that ask for less than the whole.
        Freshness::Http => ask.headers.clone(),
        Freshness::Immutable | Freshness::Revalidate { .. } => {
            let names = ask.lookup.forward.iter();
            names.filter_map(|name| Some((name.clone(), ask.headers.get(name)?.clone()))).collect()
        }
    };
    if ask.identity.is_some()
        && let Some(credential) = ask.headers.get(http::header::AUTHORIZATION)
    {
        sent.insert(http::header::AUTHORIZATION, credential.clone());
    }
    for name in PARTIAL {
        sent.remove(name);
    }
    hop::strip(&mut sent);
    sent
}

/// A request as decisions look at it.
pub(super) fn head_of<'a>(ask: &'a Ask<'_>) -> AskHead<'a> {
    AskHead { asker: Some(ask.party), ..ask_head(ask.method, ask.headers, ask.lookup) }
}

/// The same, of nobody in particular.
pub(super) fn ask_head<'a>(method: &'a Method, headers: &'a HeaderMap, lookup: &'a Lookup) -> AskHead<'a> {
    match lookup.freshness {
        Freshness::Http => {
            let authorized = if credential::is_shown(headers) { Authorized::Yes } else { Authorized::No };
            AskHead { method, headers, forward: Forward::All, authorized, asker: None }
        }
        // The key carries the identity, so that nobody else finds the answer.
        Freshness::Immutable | Freshness::Revalidate { .. } => {
            AskHead { forward: Forward::Only(&lookup.forward), ..AskHead::new(method, headers) }
        }
    }
}

pub(super) fn only_if_cached(ask: &Ask<'_>) -> bool {
    head_of(ask).wishes().only_if_cached
}

/// Whether a stored answer was made for requests like this one.
pub(super) fn fits(ask: &Ask<'_>, entry: &Entry) -> bool {
    vary::fits(&head_of(ask), &entry.vary)
}

pub(super) fn part_of(ask: &Ask<'_>, status: u16, headers: &HeaderMap, len: Option<u64>) -> Part {
    if ask.partial == Partiality::Whole {
        return Part::Whole;
    }
    match validate::precondition(ask.headers, status, headers) {
        Precondition::NotModified => return Part::NotModified,
        Precondition::Failed => return Part::PreconditionFailed,
        Precondition::Proceed => {}
    }
    if !ask.headers.contains_key(http::header::RANGE) {
        return Part::Whole;
    }
    let asked = ask.range();
    if asked == Asked::Whole || status != StatusCode::OK.as_u16() || !validate::if_range_holds(ask.headers, headers) {
        return Part::Whole;
    }
    match (len, asked) {
        (Some(len), asked) => match asked.resolve(len) {
            Resolved::Whole => Part::Whole,
            Resolved::Part(range) => Part::Range(range),
            Resolved::Unsatisfiable => Part::Unsatisfiable,
        },
        // The length is not known yet: the whole is a right answer to any range.
        (None, Asked::Whole | Asked::One(RangeSpec::From { .. } | RangeSpec::Suffix(_))) => Part::Whole,
    }
}

/// The bytes that an answer needs. None: it has no body.
pub(super) fn wanted<'e>(ask: &Ask<'_>, entry: &'e Entry, part: Part) -> Option<(&'e Digest, ByteRange)> {
    let range = match part {
        Part::Range(range) => range,
        Part::Whole => ByteRange::whole(entry.len),
        Part::NotModified | Part::PreconditionFailed | Part::Unsatisfiable => return None,
    };
    let digest = entry.body.as_ref()?;
    (!range.is_empty() && *ask.method != Method::HEAD).then_some((digest, range))
}

/// An answer under the client's own conditions, which were not sent upstream.
pub(super) fn judged(ask: &Ask<'_>, served: Served) -> Served {
    match part_of(ask, served.status, &served.headers, None) {
        part @ (Part::NotModified | Part::PreconditionFailed) => Served { part, body: ServedBody::Empty, ..served },
        Part::Whole | Part::Range(_) | Part::Unsatisfiable => served,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use url::Url;

    use super::super::policy::fixture::headers;
    use super::super::served::Framing;
    use super::*;
    use crate::model::lookup::{Expect, Origins};
    use crate::model::outcome::{Forwarded, Outcome, Reason};
    use crate::model::realm::Scope;

    fn with_ask<T>(asked: &[(&str, &str)], act: impl FnOnce(&Ask<'_>) -> T) -> T {
        let url = Url::parse("http://origin.test/a").expect("an address");
        let key = Key {
            scope: Scope::shared(),
            ecosystem: "http",
            upstream: "http://origin.test".into(),
            path: "/a".into(),
            variant: String::new(),
        };
        let lookup = Lookup {
            key,
            origins: Origins::Listed(Vec::new()),
            freshness: Freshness::Http,
            expect: Expect::Nothing,
            rewrite: None,
            max_bytes: 1,
            forward: Vec::new(),
            stand_in: None,
            alias: None,
        };
        act(&Ask {
            hash: lookup.key.hash(),
            lookup: &lookup,
            method: &Method::GET,
            headers: &headers(asked),
            url: &url,
            identity: None,
            label: Arc::from("anonymous"),
            party: &crate::model::party::Party::of(std::net::Ipv4Addr::LOCALHOST.into(), None),
            partial: Partiality::Allowed,
            framing: Framing::Marked,
        })
    }

    fn passed_on(status: u16, fields: &[(&str, &str)]) -> Served {
        Served {
            status,
            headers: headers(fields),
            len: Some(4),
            part: Part::Whole,
            body: ServedBody::Bytes(bytes::Bytes::from_static(b"body")),
            outcome: Outcome::Bypass(Reason::NoStore),
            forwarded: Forwarded::default(),
            age: None,
            key: None,
            source: None,
            digest: None,
            fetch_ms: 0,
        }
    }

    #[test]
    fn conditions_hold_for_answers_that_are_not_kept() {
        let part = |asked: &[(&str, &str)], status| {
            with_ask(asked, |ask| judged(ask, passed_on(status, &[("etag", "\"a\"")])).part)
        };
        assert_eq!(part(&[("if-none-match", "W/\"a\"")], 200), Part::NotModified);
        assert_eq!(part(&[("if-none-match", "\"b\"")], 200), Part::Whole);
        assert_eq!(part(&[("if-match", "\"b\"")], 200), Part::PreconditionFailed);
        assert_eq!(part(&[("if-none-match", "\"a\"")], 404), Part::Whole);
        assert_eq!(part(&[("range", "bytes=0-1")], 200), Part::Whole, "the whole answers any range");
    }

    #[test]
    fn a_part_needs_a_200_of_known_length_and_the_same_answer() {
        let part = |asked: &[(&str, &str)], status, len| {
            with_ask(asked, |ask| part_of(ask, status, &headers(&[("etag", "\"a\"")]), len))
        };
        let range = ("range", "bytes=1-2");
        assert_eq!(part(&[range], 200, Some(4)), Part::Range(ByteRange { start: 1, end: 3 }));
        assert_eq!(part(&[range], 200, Some(1)), Part::Unsatisfiable);
        assert_eq!(part(&[range], 200, None), Part::Whole);
        assert_eq!(part(&[range], 404, Some(4)), Part::Whole);
        assert_eq!(part(&[range, ("if-range", "\"b\"")], 200, Some(4)), Part::Whole);
    }

    #[test]
    fn a_shared_fill_asks_for_the_whole() {
        let asked = [("range", "bytes=0-1"), ("if-none-match", "\"a\""), ("accept", "x"), ("connection", "close")];
        assert_eq!(with_ask(&asked, upstream_fields), headers(&[("accept", "x")]));
    }
}
