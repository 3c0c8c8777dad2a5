//! Which of several answers fits a request: `Vary` and the request fields that it names (RFC 9111 §4.1).
//!
//! Values are compared after the changes that no field's meaning can depend on: lines joined, space around commas
//! and empty members removed, and the case of languages, charsets and codings, which RFC 9110 §12.5 declares
//! irrelevant. Nothing is reordered and no weights are read: a server may do with them what it likes.
//!
//! An answer that opens a session varies on who asks as well, whatever it says.
//!
//! Only values of content negotiation are kept as they are. Any other may be a secret (`Vary: Cookie`), and is kept
//! as a digest.

use http::header::{self, HeaderMap, HeaderName};

use super::ask::AskHead;
use super::fields::{members, text};
use super::rules::{self, Rules};
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::lookup::Freshness;

/// Request fields and the values they had; None for a field that was not sent.
pub type Variant = Vec<(String, Option<String>)>;

/// Fields whose values are no secret and say something to a reader.
const READABLE: [&str; 6] = ["accept", "accept-charset", "accept-encoding", "accept-language", "origin", "user-agent"];

/// Fields whose values are compared without regard to case.
const CASELESS: [&str; 3] = ["accept-charset", "accept-encoding", "accept-language"];

/// Stands among the names of fields for who asks. No field's name has a colon.
const ASKER: &str = ":asker";

/// What an answer to `ask` with these headers varies on. None: on everything, so that it fits no other request.
///
/// `*` and names that are no names count under `Freshness::Http` alone; elsewhere the ecosystem knows better.
pub fn variant(ask: &AskHead<'_>, headers: &HeaderMap, freshness: &Freshness) -> Option<Variant> {
    let mut variant = Variant::new();
    for line in headers.get_all(header::VARY) {
        for member in members(&text(line)) {
            let name = HeaderName::from_bytes(member.as_bytes()).ok().filter(|_| member != "*");
            let Some(name) = name else {
                match freshness {
                    Freshness::Http => return None,
                    Freshness::Immutable | Freshness::Revalidate { .. } => continue,
                }
            };
            if !variant.iter().any(|(known, _)| known == name.as_str()) {
                variant.push((name.as_str().to_owned(), value(ask, name.as_str())));
            }
        }
    }
    if matches!(freshness, Freshness::Http) && sets_a_cookie_of_its_own(headers) {
        variant.push((ASKER.to_owned(), value(ask, ASKER)));
    }
    variant.sort_unstable();
    Some(variant)
}

/// Whether an answer is one asker's own although its directives let a shared cache keep it: it opens a session, and
/// whoever wrote its directives did not say that it is for all. RFC 9111 §7.3 leaves the care for that to the origin,
/// which most often does not take it.
fn sets_a_cookie_of_its_own(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::SET_COOKIE) || rules::listed_fields(headers).contains(&header::SET_COOKIE) {
        return false;
    }
    let rules = Rules::of(headers);
    !rules.public && !rules.s_maxage.is_present()
}

/// Whether a request has the values that an answer was stored under.
pub fn fits(ask: &AskHead<'_>, variant: &[(String, Option<String>)]) -> bool {
    variant.iter().all(|(name, stored)| value(ask, name) == *stored)
}

/// Whether the stored answer was made for requests like this one.
pub(crate) fn selects(ask: &AskHead<'_>, entry: &Entry, freshness: &Freshness) -> bool {
    fits(ask, &entry.vary) && !(matches!(freshness, Freshness::Http) && varies_on_everything(&entry.headers))
}

/// Whether what an answer varies on says nothing of anybody: neither who asks, nor what may be a secret.
pub(crate) fn is_nobodys_secret(variant: &[(String, Option<String>)]) -> bool {
    variant.iter().all(|(name, _)| READABLE.contains(&name.as_str()))
}

/// Whether `Vary` holds a `*`.
pub(crate) fn varies_on_everything(headers: &HeaderMap) -> bool {
    headers.get_all(header::VARY).iter().any(|line| members(&text(line)).any(|member| member == "*"))
}

/// The request's value of a field, in the form that is compared and stored.
fn value(ask: &AskHead<'_>, name: &str) -> Option<String> {
    if name == ASKER {
        return ask.asker.map(|party| Digest::of(party.to_string().as_bytes()).to_string());
    }
    if !ask.sends(name) || !ask.headers.contains_key(name) {
        return None;
    }
    let mut joined = String::new();
    for line in ask.headers.get_all(name) {
        for member in members(&text(line)) {
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(member);
        }
    }
    if CASELESS.contains(&name) {
        joined.make_ascii_lowercase();
    }
    Some(if READABLE.contains(&name) { joined } else { Digest::of(joined.as_bytes()).to_string() })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::ask::Forward;
    use super::super::fixture::headers;
    use super::*;

    fn same(names: &str, first: &[(&str, &str)], second: &[(&str, &str)]) -> bool {
        let (first, second) = (headers(first), headers(second));
        let answer = headers(&[("vary", names)]);
        let variant = variant(&AskHead::new(&Method::GET, &first), &answer, &Freshness::Http).expect("no star");
        fits(&AskHead::new(&Method::GET, &second), &variant)
    }

    #[test]
    fn named_fields_tell_variants_apart_and_others_do_not() {
        assert!(same("Foo", &[("foo", "1")], &[("foo", "1")]));
        assert!(same("Foo", &[("foo", "1"), ("other", "2")], &[("foo", "1"), ("other", "3")]));
        assert!(!same("Foo", &[("foo", "1")], &[("foo", "2")]));
        assert!(!same("Foo", &[], &[("foo", "1")]));
        assert!(!same("Foo", &[("foo", "1")], &[]));
        assert!(!same("Foo", &[("foo", "")], &[]), "empty is not absent");
        assert!(same("Foo, Bar, Baz", &[("foo", "1"), ("baz", "3")], &[("foo", "1"), ("baz", "3")]));
        assert!(!same("Foo, Bar, Baz", &[("foo", "1"), ("bar", "2")], &[("foo", "1"), ("bar", "22")]));
        assert!(!same("Foo, Bar", &[("foo", "1")], &[]));
    }

    #[test]
    fn values_are_compared_by_members() {
        assert!(same("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(same("foo", &[("foo", "1,2")], &[("foo", " 1 ,  2 ")]));
        assert!(!same("foo", &[("foo", "1, 2")], &[("foo", "2, 1")]));
        assert!(!same("foo", &[("foo", "a")], &[("foo", "A")]));
        assert!(!same("foo", &[("foo", "\"a, b\"")], &[("foo", "\"a,b\"")]), "space in quotes is content");
        assert!(same("accept-language", &[("accept-language", "en, de")], &[("accept-language", "eN ,De")]));
        assert!(!same("accept-language", &[("accept-language", "en, de")], &[("accept-language", "de, en")]));
    }

    #[test]
    fn a_star_anywhere_fits_nobody() {
        let none = HeaderMap::new();
        let ask = AskHead::new(&Method::GET, &none);
        for lines in [&["*"][..], &["*, *"], &["*", "*"], &[", *"], &["", "*"], &["*, foo"], &["foo, *"], &["a b"]] {
            let fields: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            assert_eq!(variant(&ask, &headers(&fields), &Freshness::Http), None, "{lines:?}");
            assert!(variant(&ask, &headers(&fields), &Freshness::Immutable).is_some());
        }
    }

    #[test]
    fn a_field_that_stays_here_does_not_tell_variants_apart() {
        let answer = headers(&[("vary", "Cookie, Accept")]);
        let forward = [header::ACCEPT];
        let ask = |fields| AskHead { forward: Forward::Only(&forward), ..AskHead::new(&Method::GET, fields) };
        let (first, second) = (headers(&[("cookie", "1"), ("accept", "a")]), headers(&[("accept", "a")]));
        let variant = variant(&ask(&first), &answer, &Freshness::Immutable).expect("no star");
        assert!(fits(&ask(&second), &variant));
        assert_eq!(variant, [("accept".to_owned(), Some("a".to_owned())), ("cookie".to_owned(), None)]);
    }

    #[test]
    fn a_value_that_may_be_secret_is_kept_as_a_digest() {
        let fields = headers(&[("authorization", "Bearer hunter2")]);
        let ask = AskHead::new(&Method::GET, &fields);
        let variant = variant(&ask, &headers(&[("vary", "authorization")]), &Freshness::Http);
        assert!(!format!("{variant:?}").contains("hunter2"));
    }
}
