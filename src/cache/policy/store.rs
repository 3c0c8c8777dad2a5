//! What may be kept, and what followers may join while it comes (RFC 9111 §3; `docs/ARCHITECTURE.md`, invariant 5).

use std::time::Duration;

use http::Method;
use http::header::{self, HeaderMap};

use super::ask::{AskHead, Authorized};
use super::freshness::{Lifetime, Times, is_absence, is_heuristic};
use super::rules::Rules;
use super::validate;
use super::vary::{self, Variant};
use crate::model::lookup::Freshness;
use crate::model::outcome::Reason;
use crate::model::time::Timestamp;

/// Whether an answer may be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Storable {
    /// Under these values of the request's fields.
    Yes { vary: Variant },
    /// With the sentence for logs and `explain`.
    No(Reason, &'static str),
}

/// Whether the answer to `ask` may be kept. `now`: when its head came.
///
/// *Shape*: `Freshness::Http` follows RFC 9111 as a shared cache. Elsewhere upstream's cache headers are not asked:
/// 200, 203, and the absences 404 and 410 are kept; who may read them is the key's and the realm's business.
pub fn storable(
    ask: &AskHead<'_>,
    status: u16,
    headers: &HeaderMap,
    freshness: &Freshness,
    now: Timestamp,
) -> Storable {
    if *ask.method != Method::GET {
        return Storable::No(Reason::Method, "only answers to GET are kept");
    }
    if status == 206 {
        return Storable::No(Reason::Range, "a part is not kept");
    }
    let refusal = match freshness {
        Freshness::Http => refused(ask, Times { status, headers, requested_at: now, received_at: now }),
        Freshness::Immutable | Freshness::Revalidate { .. } => {
            let kept = matches!(status, 200 | 203) || is_absence(status);
            (!kept).then_some((Reason::Upstream, "upstream did not answer with a document or an absence"))
        }
    };
    if let Some((reason, why)) = refusal {
        return Storable::No(reason, why);
    }
    match vary::variant(ask, headers, freshness) {
        Some(vary) => Storable::Yes { vary },
        None => Storable::No(Reason::NoStore, "the answer varies on everything"),
    }
}

/// Whether requests that wait for the same key may be given this answer while it comes.
///
/// Each follower must also fit the variant that `storable` told, or `vary::variant` where it is not stored. Under
/// `Freshness::Immutable` there is nothing to ask: the bytes are the same for all who may read the key.
pub fn shareable(status: u16, headers: &HeaderMap, ask: &AskHead<'_>) -> bool {
    let rules = Rules::of(headers);
    let personal = forbids_storing(status, &rules) || rules.private || headers.contains_key(header::SET_COOKIE);
    let partial = matches!(status, 206 | 304 | 401 | 407 | 416);
    !personal
        && !partial
        && !vary::varies_on_everything(headers)
        && !ask.wishes().no_store
        && (ask.authorized == Authorized::No || allows_sharing_authorized(&rules))
}

/// Whether a stored answer's own directives have come to forbid its use, as a 304 may bring them.
pub(crate) fn is_withdrawn(status: u16, rules: &Rules) -> bool {
    rules.private || forbids_storing(status, rules)
}

fn refused(ask: &AskHead<'_>, times: Times<'_>) -> Option<(Reason, &'static str)> {
    let Times { status, headers, .. } = times;
    let rules = Rules::of(headers);
    let why = if status < 200 || status == 304 {
        "not a final answer"
    } else if ask.wishes().no_store {
        "the request says no-store"
    } else if forbids_storing(status, &rules) {
        "the answer says no-store, or must-understand with a status that is not understood"
    } else if rules.private {
        "the answer is private"
    } else if matches!(status, 401 | 407 | 421 | 429) {
        "the answer is about this client or connection"
    } else if ask.authorized == Authorized::Yes && !allows_sharing_authorized(&rules) {
        "the request had a credential and the answer does not say that others may have it"
    } else if !is_reusable(times, &rules) {
        "nothing says how the answer could be used again"
    } else {
        return None;
    };
    Some((Reason::NoStore, why))
}

/// RFC 9111 §3.5.
fn allows_sharing_authorized(rules: &Rules) -> bool {
    rules.public || rules.must_revalidate || rules.s_maxage.is_present()
}

/// RFC 9111 §5.2.2.3: `must-understand` overrides `no-store` where the status is understood, and forbids elsewhere.
fn forbids_storing(status: u16, rules: &Rules) -> bool {
    if rules.must_understand { !is_understood(status) } else { rules.no_store }
}

/// Statuses whose caching asks for nothing beyond the general rules.
fn is_understood(status: u16) -> bool {
    is_heuristic(status) || matches!(status, 201 | 202 | 302 | 303 | 307 | 400 | 403 | 451 | 500 | 502 | 503 | 504)
}

/// Whether §3 allows to keep it, and there is a way in which it could serve again: fresh, validated, or in an outage.
fn is_reusable(times: Times<'_>, rules: &Rules) -> bool {
    let lifetime = Lifetime::of(times, rules);
    let allowed = lifetime.basis.is_explicit() || rules.public || is_heuristic(times.status);
    let fresh = !lifetime.span.is_zero() && !rules.no_cache;
    let outage = rules.stale_if_error.get().is_some_and(|span| span > Duration::ZERO) && !rules.forbids_stale();
    allowed && (fresh || outage || validate::has_validator(times.status, times.headers))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{NOW, date, headers};
    use super::*;

    fn kept(status: u16, asked: &[(&str, &str)], answer: &[(&str, &str)], authorized: Authorized) -> bool {
        let asked = headers(asked);
        let ask = AskHead { authorized, ..AskHead::new(&Method::GET, &asked) };
        matches!(storable(&ask, status, &headers(answer), &Freshness::Http, NOW), Storable::Yes { .. })
    }

    fn plain(status: u16, rule: &str) -> bool {
        kept(status, &[], &[("cache-control", rule)], Authorized::No)
    }

    #[test]
    fn an_answer_with_explicit_freshness_is_kept_whatever_its_status() {
        for status in [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599] {
            assert!(plain(status, "max-age=60"), "{status}");
            assert!(kept(status, &[], &[("expires", &date(60))], Authorized::No), "{status}");
        }
        for status in [100, 103, 206, 304, 401, 407, 421, 429] {
            assert!(!plain(status, "max-age=60"), "{status}");
        }
    }

    #[test]
    fn what_could_never_serve_again_is_not_kept() {
        assert!(!kept(200, &[], &[], Authorized::No));
        assert!(!plain(200, "max-age=0"));
        assert!(!plain(200, "no-cache, max-age=60"));
        assert!(plain(200, "max-age=0, stale-if-error=60"));
        assert!(kept(200, &[], &[("etag", "\"a\"")], Authorized::No));
        assert!(kept(200, &[], &[("cache-control", "no-cache"), ("etag", "\"a\"")], Authorized::No));
        assert!(!kept(500, &[], &[("etag", "\"a\"")], Authorized::No), "nothing explicit, nothing to guess");
        assert!(!kept(404, &[], &[("etag", "\"a\"")], Authorized::No), "an error is not validated");
        assert!(kept(200, &[], &[("last-modified", &date(-99))], Authorized::No));
    }

    #[test]
    fn directives_forbid() {
        for rule in ["no-store", "No-StOrE, max-age=60", "private, max-age=60", "max-age=60, no-store, public"] {
            assert!(!plain(200, rule), "{rule}");
        }
        assert!(plain(200, "private=\"x\", max-age=60"));
        assert!(!kept(200, &[("cache-control", "no-store")], &[("cache-control", "max-age=60")], Authorized::No));
    }

    #[test]
    fn must_understand_asks_for_a_known_status() {
        assert!(plain(200, "max-age=60, no-store, must-understand"));
        assert!(!plain(599, "max-age=60, must-understand"));
        assert!(!plain(599, "max-age=60, no-store, must-understand"));
        assert!(!plain(200, "private, max-age=60, must-understand"));
    }

    #[test]
    fn a_credential_asks_for_leave_to_share() {
        for (rule, leave) in [
            ("max-age=60", false),
            ("max-age=60, proxy-revalidate", false),
            ("max-age=60, public", true),
            ("max-age=60, must-revalidate", true),
            ("s-maxage=60", true),
        ] {
            assert_eq!(kept(200, &[], &[("cache-control", rule)], Authorized::Yes), leave, "{rule}");
            assert!(plain(200, rule), "{rule}");
        }
    }

    #[test]
    fn the_targeted_field_decides() {
        let rule = |cdn| kept(200, &[], &[("cache-control", "no-store"), ("cdn-cache-control", cdn)], Authorized::No);
        assert!(rule("max-age=60"));
        assert!(!rule("private"));
        assert!(!rule("max-age=60, &"));
        let fresh = [("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")];
        assert!(!kept(200, &[], &fresh, Authorized::No));
    }

    #[test]
    fn ecosystems_keep_documents_and_absences() {
        let none = HeaderMap::new();
        let ask = AskHead::new(&Method::GET, &none);
        let forbidding = headers(&[("cache-control", "no-store, private"), ("vary", "*")]);
        let own = Freshness::Revalidate { fresh_for: Duration::ZERO, stale_if_error: Duration::ZERO };
        for freshness in [Freshness::Immutable, own] {
            for (status, kept) in
                [(200, true), (203, true), (404, true), (410, true), (206, false), (302, false), (401, false)]
            {
                let yes = storable(&ask, status, &forbidding, &freshness, NOW) == Storable::Yes { vary: vec![] };
                assert_eq!(yes, kept, "{status}");
            }
            for status in [403, 429, 500, 502, 503] {
                let no = storable(&ask, status, &none, &freshness, NOW);
                assert!(matches!(no, Storable::No(Reason::Upstream, _)), "{status}");
            }
        }
        let head = AskHead::new(&Method::HEAD, &none);
        assert!(matches!(storable(&head, 200, &none, &own, NOW), Storable::No(Reason::Method, _)));
    }

    #[test]
    fn followers_join_what_is_for_everybody() {
        let none = HeaderMap::new();
        let ask = AskHead::new(&Method::GET, &none);
        let joins = |status, fields: &[(&str, &str)]| shareable(status, &headers(fields), &ask);
        assert!(joins(200, &[]));
        assert!(joins(503, &[("cache-control", "max-age=0")]));
        assert!(!joins(200, &[("cache-control", "no-store")]));
        assert!(!joins(200, &[("cache-control", "private")]));
        assert!(!joins(200, &[("set-cookie", "a=b")]));
        assert!(!joins(200, &[("vary", "accept, *")]));
        assert!(!joins(206, &[]));
        let known = AskHead { authorized: Authorized::Yes, ..ask };
        assert!(!shareable(200, &none, &known));
        assert!(shareable(200, &headers(&[("cache-control", "public")]), &known));
    }
}
