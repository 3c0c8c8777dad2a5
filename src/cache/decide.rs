//! What to do about a request, given what is stored. Pure: `now` is an argument.
//!
//! *Source*: RFC 9111 §4 for `Freshness::Http`. For the rest the ecosystem knows better than upstream's cache headers:
//! immutable answers are served as long as they are here, revalidated ones for the ecosystem's own time. Of a
//! client's wishes those two hear `only-if-cached`, and revalidated ones `no-cache`. They do not hear `max-age`,
//! which pip sends as 0 with each index page to steer its own cache: every build would ask upstream every time.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{self, HeaderMap};

use super::policy::ask::AskHead;
use super::policy::fields::has_any;
use super::policy::freshness::{self, Lifetime, Times, age, is_absence, lifetime, made_at};
use super::policy::rules::{Rules, Wishes};
use super::policy::{store, validate, vary};
use crate::model::entry::Entry;
use crate::model::lookup::Freshness;
use crate::model::outcome::{Forwarded, Reason};
use crate::model::time::Timestamp;

/// How long past its lifetime an answer may stand in during an outage, where neither side says.
///
/// RFC 9111 §4.2.4 allows a disconnected cache to serve stale answers without naming a bound. Three days: a weekend.
const OUTAGE_GRACE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// What to do about a request. `at` points into the candidates.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Fresh. `age` in seconds.
    Serve { at: usize, age: u64 },
    /// Stale, and yet allowed. `age` in seconds.
    ServeStale { at: usize, age: u64, refresh: Refresh },
    /// Ask upstream with these conditions; on 304 serve the stored answer, freshened.
    Revalidate { at: usize, conditions: HeaderMap },
    /// Ask upstream. What stands in during an outage is found with `selected` and `stale_if_error`.
    Fetch,
    /// The client wants no fetch, and nothing stored will do: 504.
    Unsatisfiable,
    /// Pass the request on as it is, around the cache.
    Relay(Reason),
}

/// Whether a stale answer is renewed behind the client's back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refresh {
    /// `stale-while-revalidate`: start one, if none runs.
    InBackground,
    /// The client asked for a stale answer with `max-stale`.
    No,
}

/// Decides about a request. `candidates`: all stored answers of its key.
pub fn decide(ask: &AskHead<'_>, candidates: &[Arc<Entry>], freshness: &Freshness, now: Timestamp) -> Decision {
    if *ask.method != Method::GET && *ask.method != Method::HEAD {
        return Decision::Relay(Reason::Method);
    }
    let wishes = ask.wishes();
    if matches!(freshness, Freshness::Http) {
        if wishes.no_store && !wishes.only_if_cached {
            return Decision::Relay(Reason::NoStore);
        }
        // Only the origin can judge these (RFC 9111 §4.3.2).
        if has_any(ask.headers, &[header::IF_MATCH, header::IF_UNMODIFIED_SINCE]) {
            return Decision::Relay(Reason::Method);
        }
    }
    let selected = select(ask, candidates, freshness);
    let usable = selected.and_then(|(at, rules)| serve(&wishes, at, &candidates[at], rules.as_ref(), freshness, now));
    if let Some(decision) = usable {
        return decision;
    }
    if wishes.only_if_cached {
        return Decision::Unsatisfiable;
    }
    match selected.map(|(at, _)| (at, validate::conditions(&candidates[at]))) {
        Some((at, conditions)) if !conditions.is_empty() => Decision::Revalidate { at, conditions },
        _ => Decision::Fetch,
    }
}

/// Why a request that `decide` did not let the store answer goes upstream.
pub fn forwarded(ask: &AskHead<'_>, candidates: &[Arc<Entry>], freshness: &Freshness, now: Timestamp) -> Forwarded {
    let wishes = ask.wishes();
    if wishes.no_store {
        return Forwarded::Request;
    }
    let Some((at, rules)) = select(ask, candidates, freshness) else {
        return if candidates.is_empty() { Forwarded::UriMiss } else { Forwarded::VaryMiss };
    };
    let served = |wishes: &Wishes| serve(wishes, at, &candidates[at], rules.as_ref(), freshness, now);
    match (served(&wishes), served(&Wishes::default())) {
        // It may be used, so its bytes are gone.
        (Some(_), _) => Forwarded::UriMiss,
        (None, Some(Decision::Serve { .. })) => Forwarded::Request,
        (None, _) => Forwarded::Stale,
    }
}

/// The stored answer that was made for requests like this one: of several, the one made last (RFC 9111 §4.1).
pub fn selected(ask: &AskHead<'_>, candidates: &[Arc<Entry>], freshness: &Freshness) -> Option<usize> {
    select(ask, candidates, freshness).map(|(at, _)| at)
}

/// With the rules of the answer, where they count.
fn select(ask: &AskHead<'_>, candidates: &[Arc<Entry>], freshness: &Freshness) -> Option<(usize, Option<Rules>)> {
    let fitting = |at: usize| candidate(ask, &candidates[at], freshness).map(|rules| (at, rules));
    if candidates.len() == 1 {
        return fitting(0);
    }
    let all = (0..candidates.len()).rev().filter_map(fitting);
    all.max_by_key(|(at, _)| made_at(Times::from(&*candidates[*at])))
}

/// Whether a stored answer may stand in when upstream fails: unreachable, broken off, or `is_outage`.
pub fn stale_if_error(entry: &Entry, freshness: &Freshness, ask: &AskHead<'_>, now: Timestamp) -> bool {
    let overdue = freshness::spent(entry, freshness, now).saturating_sub(lifetime(entry, freshness));
    match freshness {
        Freshness::Immutable => !is_absence(entry.status),
        Freshness::Revalidate { stale_if_error, .. } => !is_absence(entry.status) && overdue <= *stale_if_error,
        Freshness::Http => {
            let rules = Rules::of(&entry.headers);
            let wishes = ask.wishes();
            let forbidden = rules.forbids_stale()
                || store::is_withdrawn(entry.status, &rules)
                || wishes.no_cache
                || !entry.valid
                || entry.status >= 500;
            let window = if rules.stale_if_error.is_present() {
                rules.stale_if_error.get().unwrap_or_default()
            } else {
                wishes.stale_if_error.unwrap_or(OUTAGE_GRACE)
            };
            !forbidden && overdue <= window
        }
    }
}

/// Whether upstream's status counts as a failure to answer, so that a stale answer is the better one: any 5xx that is
/// not a definite refusal, and 429 (RFC 5861 §4, RFC 9111 §4.3.3).
pub fn is_outage(status: u16) -> bool {
    status == 429 || (status >= 500 && !matches!(status, 501 | 505))
}

/// None: made for other requests, or withdrawn.
fn candidate(ask: &AskHead<'_>, entry: &Entry, freshness: &Freshness) -> Option<Option<Rules>> {
    if !vary::selects(ask, entry, freshness) {
        return None;
    }
    match freshness {
        Freshness::Http => {
            Some(Rules::of(&entry.headers)).filter(|rules| !store::is_withdrawn(entry.status, rules)).map(Some)
        }
        Freshness::Immutable | Freshness::Revalidate { .. } => Some(None),
    }
}

/// None: it must not be used without asking upstream.
fn serve(
    wishes: &Wishes,
    at: usize,
    entry: &Entry,
    rules: Option<&Rules>,
    freshness: &Freshness,
    now: Timestamp,
) -> Option<Decision> {
    if !entry.valid || freshness::is_ahead(entry, now) && lifetime(entry, freshness) < Duration::MAX {
        return None;
    }
    if let Some(rules) = rules {
        return serve_http(wishes, at, entry, rules, now);
    }
    let fresh = freshness::spent(entry, freshness, now) < lifetime(entry, freshness);
    let welcome = *freshness == Freshness::Immutable || !wishes.no_cache;
    (fresh && welcome).then(|| Decision::Serve { at, age: age(entry, now) })
}

fn serve_http(wishes: &Wishes, at: usize, entry: &Entry, rules: &Rules, now: Timestamp) -> Option<Decision> {
    if rules.no_cache || wishes.no_cache {
        return None;
    }
    let spent = freshness::spent(entry, &Freshness::Http, now);
    let lifetime = Lifetime::of(Times::from(entry), rules).span;
    let young = wishes.max_age.is_none_or(|limit| spent <= limit);
    let age = spent.as_secs();
    if let Some(left) = lifetime.checked_sub(spent).filter(|left| !left.is_zero()) {
        // `immutable` answers a reload, which is what max-age=0 says (RFC 8246 §2).
        let welcome = (young || rules.immutable) && wishes.min_fresh.is_none_or(|least| left >= least);
        return welcome.then_some(Decision::Serve { at, age });
    }
    if rules.forbids_stale() || !young || wishes.min_fresh.is_some() {
        return None;
    }
    let overdue = spent.saturating_sub(lifetime);
    if rules.stale_while_revalidate.get().is_some_and(|window| overdue <= window) {
        return Some(Decision::ServeStale { at, age, refresh: Refresh::InBackground });
    }
    let welcome = wishes.max_stale.is_some_and(|limit| overdue <= limit);
    welcome.then_some(Decision::ServeStale { at, age, refresh: Refresh::No })
}

#[cfg(test)]
mod tests;
