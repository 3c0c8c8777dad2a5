//! What is worth asking again, after which pause, and what `Retry-After` says. Pure but for the dice.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, StatusCode};

use super::breaker::Verdict;
use super::exchange::{Failed, Stale};
use super::fetch::{Redirects, UpstreamError};
use super::settings::RetrySettings;
use crate::model::time::Timestamp;
use crate::runtime::clock::random_bytes;

/// How an attempt went, as far as the next step depends on it.
#[derive(Clone, Copy)]
pub(crate) enum Outcome<'a> {
    Answer(StatusCode, &'a HeaderMap),
    Failure(&'a Failed),
}

/// What the breaker learns from it. Refusals are ours, so they say nothing about the host. Neither does a 5xx that is
/// passed on: strangers name the addresses, and one that always fails must not close the whole host to all others.
pub(crate) fn verdict(outcome: Outcome<'_>, redirects: Redirects) -> Verdict {
    match outcome {
        Outcome::Answer(status, _) => match (status.as_u16(), redirects) {
            (500 | 502 | 503 | 504, Redirects::Follow) => Verdict::Failure,
            (500 | 502 | 503 | 504, Redirects::PassOn) => Verdict::Unknown,
            _ => Verdict::Success,
        },
        Outcome::Failure(Failed { stale: Stale::Yes, .. }) => Verdict::Unknown,
        Outcome::Failure(failed) => match failed.error {
            UpstreamError::Unreachable { .. }
            | UpstreamError::Silent { .. }
            | UpstreamError::Slow { .. }
            | UpstreamError::Truncated { .. }
            | UpstreamError::Untrusted { .. }
            | UpstreamError::Protocol { .. } => Verdict::Failure,
            UpstreamError::Refused { .. }
            | UpstreamError::Resting { .. }
            | UpstreamError::Crowded { .. }
            | UpstreamError::Redirects { .. }
            | UpstreamError::Offline
            | UpstreamError::SourceBroke { .. } => Verdict::Unknown,
        },
    }
}

/// Whether another attempt may help and cannot harm (RFC 9110 §9.2.2). A host that says when to come back is believed.
///
/// An asker that passes redirects on passes all answers on: its own client judges a 5xx, and may have asked for it.
pub(crate) fn is_worth_it(method: &Method, outcome: Outcome<'_>, redirects: Redirects) -> bool {
    match outcome {
        Outcome::Answer(..) if redirects == Redirects::PassOn => false,
        Outcome::Answer(status, headers) => {
            matches!(status.as_u16(), 500 | 502 | 503 | 504)
                && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
                && !headers.contains_key(RETRY_AFTER)
        }
        Outcome::Failure(failed) => {
            let passing = matches!(failed.error, UpstreamError::Unreachable { .. } | UpstreamError::Silent { .. });
            passing && method.is_idempotent()
        }
    }
}

/// How long a 429 or 503 asks to be left alone: seconds or a date (RFC 9110 §10.2.3).
pub(crate) fn rest_asked(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(secs) = value.parse::<u64>() {
        return Some(Duration::from_secs(secs));
    }
    let until = httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp(i64::try_from(until.as_millis()).ok()?).since(now))
}

/// Full jitter: anything from nothing to the doubled pause.
pub(crate) fn pause(retry: u32, rules: &RetrySettings) -> Duration {
    let most = rules.pause.saturating_mul(1 << retry.min(16)).min(rules.longest_pause);
    let share = u32::from_le_bytes(random_bytes());
    most.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().expect("a value"));
        headers
    }

    #[test]
    fn only_what_cannot_harm_is_asked_again() {
        let none = HeaderMap::new();
        let is_worth_it = |method: &Method, outcome| is_worth_it(method, outcome, Redirects::Follow);
        let bad = Outcome::Answer(StatusCode::BAD_GATEWAY, &none);
        assert!(is_worth_it(&Method::GET, bad) && !is_worth_it(&Method::PUT, bad) && !is_worth_it(&Method::POST, bad));
        let later = after("1");
        assert!(!is_worth_it(&Method::GET, Outcome::Answer(StatusCode::SERVICE_UNAVAILABLE, &later)));
        for status in [200, 404, 429, 501] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(!is_worth_it(&Method::GET, Outcome::Answer(status, &none)), "{status}");
        }
        let gone = Failed::from(UpstreamError::Unreachable { host: String::new(), why: String::new() });
        assert!(is_worth_it(&Method::PUT, Outcome::Failure(&gone)));
        assert!(!is_worth_it(&Method::POST, Outcome::Failure(&gone)));
        let refused = Failed::from(UpstreamError::Refused { host: String::new(), why: String::new() });
        assert!(!is_worth_it(&Method::GET, Outcome::Failure(&refused)));
    }

    #[test]
    fn a_failure_that_is_passed_on_is_asked_for_once() {
        let none = HeaderMap::new();
        let bad = Outcome::Answer(StatusCode::BAD_GATEWAY, &none);
        assert!(!is_worth_it(&Method::GET, bad, Redirects::PassOn));
        assert_eq!(
            [Redirects::PassOn, Redirects::Follow].map(|redirects| verdict(bad, redirects)),
            [Verdict::Unknown, Verdict::Failure]
        );
        let gone = Failed::from(UpstreamError::Unreachable { host: String::new(), why: String::new() });
        assert!(is_worth_it(&Method::GET, Outcome::Failure(&gone), Redirects::PassOn), "no answer at all");
        assert_eq!(verdict(Outcome::Failure(&gone), Redirects::PassOn), Verdict::Failure);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::from_secs(784_111_700);
        let rest = |status, value| rest_asked(StatusCode::from_u16(status).expect("a status"), &after(value), now);
        assert_eq!(rest(429, "120"), Some(Duration::from_secs(120)));
        assert_eq!(rest(503, "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(rest(503, "Wed, 06 Nov 1974 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(rest(429, "soon"), None);
        assert_eq!(rest(404, "120"), None);
    }

    #[test]
    fn pauses_stay_below_their_bound() {
        let rules = RetrySettings::default();
        for retry in 0..40 {
            assert!(pause(retry, &rules) <= rules.longest_pause);
        }
        assert!(pause(0, &rules) <= rules.pause);
    }
}
