//! Entry for the fuzz targets: a request's headers and an answer's, judged by all that RFC 9111 has rules for.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use url::Url;

use super::super::decide::{Decision, decide, stale_if_error};
use super::ask::AskHead;
use super::store::{Storable, shareable, storable};
use super::{date, freshness, invalidate, rules, validate, vary};
use crate::model::fuzz::{NOW, entry, headers};
use crate::model::lookup::Freshness;

/// *Shape*: the request's fields, an empty line, a status, the answer's fields.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (asked, answer) = text.split_once("\n\n").unwrap_or((text, ""));
    let (status, answer) = answer.split_once('\n').unwrap_or(("200", answer));
    let status = StatusCode::from_bytes(status.as_bytes()).unwrap_or_default().as_u16();
    let (asked, answer) = (headers(asked), headers(answer));
    dates(&answer);
    let ask = AskHead::new(&Method::GET, &asked);
    let stored = storable(&ask, status, &answer, &Freshness::Http, NOW);
    if let Storable::Yes { vary } = &stored {
        assert!(vary::fits(&ask, vary), "an answer does not fit the request it was made for");
        kept(&ask, vary.clone(), status, &answer);
    }
    shareable(status, &answer, &ask);
    let mut forbidden = answer.clone();
    forbidden.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let rules = rules::Rules::of(&forbidden);
    let may = storable(&ask, status, &forbidden, &Freshness::Http, NOW);
    assert!(rules.targeted || rules.must_understand || matches!(may, Storable::No(..)), "no-store was not heard");
    invalidate::invalidated(&Method::POST, status, &Url::parse("http://a.test/b").expect("a URL"), &answer);
}

/// What is done with an answer once it is here.
fn kept(ask: &AskHead<'_>, vary: vary::Variant, status: u16, answer: &HeaderMap) {
    let mut kept = entry(status, super::rules::stored_fields(answer));
    kept.vary = vary;
    let document = Freshness::Revalidate { fresh_for: Duration::from_secs(60), stale_if_error: Duration::MAX };
    for later in [0, 1, 1000, i64::MAX / 2] {
        let now = crate::model::time::Timestamp(NOW.0 + later);
        for freshness in [Freshness::Http, Freshness::Immutable, document] {
            let decision = decide(ask, &[Arc::new(kept.clone())], &freshness, now);
            if let Decision::Serve { at, .. } | Decision::ServeStale { at, .. } | Decision::Revalidate { at, .. } =
                decision
            {
                assert_eq!(at, 0);
            }
            stale_if_error(&kept, &freshness, ask, now);
            assert!(!freshness::explain(&kept, &freshness, now).is_empty());
        }
    }
    validate::precondition(ask.headers, status, answer);
    validate::if_range_holds(ask.headers, answer);
    let fresh = validate::freshen(&kept, ask, ask.headers, NOW, NOW);
    assert_eq!((fresh.len, fresh.body), (kept.len, kept.body));
    validate::head_says(&kept, ask, status, ask.headers, NOW, NOW);
}

fn dates(answer: &HeaderMap) {
    for text in answer.values().filter_map(|value| value.to_str().ok()) {
        let Some(read) = date::parse(text) else { continue };
        let secs = u64::try_from(read.as_secs()).expect("not before 1970");
        let written = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(date::parse(&written), Some(read), "{text}");
    }
}
