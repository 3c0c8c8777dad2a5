//! The arithmetic of RFC 9111 §4.2: how long an answer lives, how old it is, and the account of both for `explain`.
//!
//! Instants of the origin have whole seconds; our own have milliseconds, and are used where the origin's clock is not
//! involved. `Date` is believed only as far as it makes an answer older.

use std::time::Duration;

use http::header::{self, HeaderMap};

use super::date::DateField;
use super::fields::text;
use super::rules::{self, Rules, Span};
use crate::model::entry::Entry;
use crate::model::lookup::Freshness;
use crate::model::time::Timestamp;

/// Share of the time since the last change that an answer without any date of expiry counts as fresh: a tenth.
const HEURISTIC_DIVISOR: u32 = 10;

/// The longest lifetime that is guessed.
const HEURISTIC_LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an absence is believed, where the times are ours.
pub const ABSENCE: Duration = Duration::from_secs(60);
/// How far a clock may be set back without a word.
const CLOCK_STEP: Duration = Duration::from_secs(60);

/// Final statuses that may be reused without explicit freshness (RFC 9110 §15.1), but for 206, which is not stored.
pub(crate) fn is_heuristic(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether the status tells that there is nothing.
pub fn is_absence(status: u16) -> bool {
    matches!(status, 404 | 410)
}

/// What the arithmetic needs of an answer, stored or just come.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub requested_at: Timestamp,
    pub received_at: Timestamp,
}

impl<'a> From<&'a Entry> for Times<'a> {
    fn from(entry: &'a Entry) -> Times<'a> {
        Times {
            status: entry.status,
            headers: &entry.headers,
            requested_at: entry.requested_at,
            received_at: entry.fetched_at,
        }
    }
}

/// How old the answer is, in whole seconds: the value of `Age` (RFC 9111 §4.2.3, §5.1).
pub fn age(entry: &Entry, now: Timestamp) -> u64 {
    Age::of(Times::from(entry), now).current().as_secs()
}

/// How long the answer is fresh, counted from when it was made. `Duration::MAX`: for ever.
pub fn lifetime(entry: &Entry, freshness: &Freshness) -> Duration {
    match freshness {
        Freshness::Immutable if is_absence(entry.status) => ABSENCE,
        Freshness::Immutable => Duration::MAX,
        Freshness::Revalidate { fresh_for, .. } if is_absence(entry.status) => (*fresh_for).min(ABSENCE),
        Freshness::Revalidate { fresh_for, .. } => *fresh_for,
        Freshness::Http => Lifetime::of(Times::from(entry), &Rules::of(&entry.headers)).span,
    }
}

/// How much of its lifetime the answer has behind it. Where the times are ours, they run from when it came here.
pub(crate) fn spent(entry: &Entry, freshness: &Freshness, now: Timestamp) -> Duration {
    match freshness {
        Freshness::Http => Age::of(Times::from(entry), now).current(),
        Freshness::Immutable | Freshness::Revalidate { .. } => now.since(entry.fetched_at),
    }
}

/// Whether the answer came at a time that is still to come: the clock was wrong then, or is now, and how long the answer
/// has been here cannot be told.
pub(crate) fn is_ahead(entry: &Entry, now: Timestamp) -> bool {
    entry.fetched_at.since(now) > CLOCK_STEP
}

/// When the origin made the answer: `Date`, or when it came here.
pub(crate) fn made_at(times: Times<'_>) -> Timestamp {
    DateField::of(times.headers, &header::DATE).at().unwrap_or(times.received_at)
}

/// The parts of an answer's age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Age {
    /// How old `Date` makes it look on arrival.
    apparent: Duration,
    /// What the caches before us said.
    told: Duration,
    /// From asking to the head of the answer.
    delay: Duration,
    /// Since it came here.
    resident: Duration,
}

impl Age {
    pub(crate) fn of(times: Times<'_>, now: Timestamp) -> Age {
        let made = made_at(times).as_secs();
        let apparent = u64::try_from(times.received_at.as_secs().saturating_sub(made)).unwrap_or(0);
        Age {
            apparent: Duration::from_secs(apparent),
            told: told(times.headers),
            delay: times.received_at.since(times.requested_at),
            resident: now.since(times.received_at),
        }
    }

    pub(crate) fn current(&self) -> Duration {
        self.initial().saturating_add(self.resident)
    }

    fn initial(&self) -> Duration {
        self.apparent.max(self.told.saturating_add(self.delay))
    }
}

/// The `Age` field: the first member of the first line; parameters are ignored, and so is what is no number
/// (RFC 9111 §5.1).
fn told(headers: &HeaderMap) -> Duration {
    let Some(line) = headers.get(header::AGE) else { return Duration::ZERO };
    let line = text(line);
    let digits = line.split([',', ';']).next().unwrap_or("").trim();
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let secs = if valid { digits.parse().unwrap_or(u64::MAX) } else { 0 };
    Duration::from_secs(secs.min(1 << 31))
}

/// A lifetime, and what it rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lifetime {
    pub(crate) span: Duration,
    pub(crate) basis: Basis,
}

/// What says how long an answer lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Basis {
    SMaxage,
    MaxAge,
    Expires,
    /// A number or a date that is none: stale from the start.
    Unreadable,
    LastModified,
    Nothing,
}

impl Basis {
    /// Whether the origin said it, so that the status need not be one that allows guessing.
    pub(crate) fn is_explicit(self) -> bool {
        !matches!(self, Basis::LastModified | Basis::Nothing)
    }
}

impl Lifetime {
    pub(crate) fn of(times: Times<'_>, rules: &Rules) -> Lifetime {
        for (span, basis) in [(rules.s_maxage, Basis::SMaxage), (rules.max_age, Basis::MaxAge)] {
            match span {
                Span::Of(span) => return Lifetime { span, basis },
                Span::Invalid => return Lifetime { span: Duration::ZERO, basis: Basis::Unreadable },
                Span::Absent => {}
            }
        }
        let expires = if rules.targeted { DateField::Absent } else { DateField::of(times.headers, &header::EXPIRES) };
        match expires {
            DateField::At(expires) => Lifetime { span: expires.since(made_at(times)), basis: Basis::Expires },
            DateField::Invalid => Lifetime { span: Duration::ZERO, basis: Basis::Unreadable },
            DateField::Absent => Lifetime::guess(times, rules),
        }
    }

    fn guess(times: Times<'_>, rules: &Rules) -> Lifetime {
        let allowed = (is_heuristic(times.status) || rules.public)
            && !rules::pragma_no_cache(times.headers)
            && !times.headers.contains_key(header::SET_COOKIE);
        let changed = DateField::of(times.headers, &header::LAST_MODIFIED).at();
        match changed.filter(|_| allowed) {
            Some(changed) => {
                let span = made_at(times).since(changed) / HEURISTIC_DIVISOR;
                Lifetime { span: span.min(HEURISTIC_LONGEST), basis: Basis::LastModified }
            }
            None => Lifetime { span: Duration::ZERO, basis: Basis::Nothing },
        }
    }
}

/// The arithmetic in words, one line a step, for `larder explain`.
pub fn explain(entry: &Entry, freshness: &Freshness, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    if is_ahead(entry, now) {
        lines.push("came at a time that is still to come: asked upstream before its next use".to_owned());
    }
    if !entry.valid {
        lines.push("marked as doubtful: asked upstream before its next use".to_owned());
    }
    let lifetime = lifetime(entry, freshness);
    let spent = spent(entry, freshness, now);
    match freshness {
        Freshness::Immutable if lifetime == Duration::MAX => {
            lines.push("immutable: the same bytes for ever".to_owned());
            return lines;
        }
        Freshness::Immutable => lines.push(format!("an absence is believed for {}", secs(lifetime))),
        Freshness::Revalidate { stale_if_error, .. } => {
            lines.push(format!("fresh for {}: the ecosystem's own time", secs(lifetime)));
            if !is_absence(entry.status) {
                lines.push(format!("kept for outages for another {}", secs(*stale_if_error)));
            }
        }
        Freshness::Http => explain_http(entry, now, &mut lines),
    }
    lines.push(match lifetime.checked_sub(spent).filter(|left| !left.is_zero()) {
        Some(left) => format!("fresh for another {}", secs(left)),
        None => format!("stale since {}", secs(spent.saturating_sub(lifetime))),
    });
    lines
}

fn explain_http(entry: &Entry, now: Timestamp, lines: &mut Vec<String>) {
    let times = Times::from(entry);
    let rules = Rules::of(&entry.headers);
    let lifetime = Lifetime::of(times, &rules);
    let source = if rules.targeted { "CDN-Cache-Control" } else { "Cache-Control" };
    let basis = match lifetime.basis {
        Basis::SMaxage => format!("s-maxage of {source}"),
        Basis::MaxAge => format!("max-age of {source}"),
        Basis::Expires => "Expires less Date".to_owned(),
        Basis::Unreadable => "the stated one cannot be read".to_owned(),
        Basis::LastModified => "a tenth of the time since Last-Modified, at most a day".to_owned(),
        Basis::Nothing => "nothing states one".to_owned(),
    };
    lines.push(format!("lifetime {}: {basis}", secs(lifetime.span)));
    let age = Age::of(times, now);
    lines.push(format!(
        "age {} on arrival: the greater of {} by Date and {} by Age plus {} under way",
        secs(age.initial()),
        secs(age.apparent),
        secs(age.told),
        secs(age.delay)
    ));
    lines.push(format!("age {} now: {} here", secs(age.current()), secs(age.resident)));
    if rules.no_cache {
        lines.push("no-cache: asked upstream before each use".to_owned());
    } else if rules.forbids_stale() {
        lines.push("must-revalidate, proxy-revalidate or s-maxage: never served stale".to_owned());
    } else if let Some(span) = rules.stale_while_revalidate.get() {
        lines.push(format!("stale-while-revalidate: served for {} more while it is refreshed", secs(span)));
    }
}

fn secs(span: Duration) -> String {
    format!("{} s", span.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{NOW, date, entry, http};
    use super::*;

    fn lives(fields: &[(&str, &str)]) -> u64 {
        lifetime(&entry(200, fields), &Freshness::Http).as_secs()
    }

    #[test]
    fn the_first_of_s_maxage_max_age_expires_counts() {
        let (past, future, made) = (date(-7200), date(100), date(0));
        assert_eq!(lives(&[("cache-control", "max-age=60, s-maxage=1")]), 1);
        assert_eq!(lives(&[("cache-control", "s-maxage=60"), ("cache-control", "max-age=1")]), 60);
        assert_eq!(lives(&[("cache-control", "max-age=60"), ("expires", &past), ("date", &made)]), 60);
        assert_eq!(lives(&[("cache-control", "max-age=60"), ("expires", "0")]), 60);
        assert_eq!(lives(&[("cache-control", "max-age=0"), ("expires", &future)]), 0);
        assert_eq!(lives(&[("expires", &future), ("date", &made)]), 100);
        assert_eq!(lives(&[("expires", &future), ("date", "foo")]), 100, "without a date it counts from arrival");
        assert_eq!(lives(&[("cdn-cache-control", "no-cache"), ("expires", &future)]), 0);
    }

    #[test]
    fn what_cannot_be_read_is_stale() {
        assert_eq!(lives(&[("expires", "0")]), 0);
        assert_eq!(lives(&[("expires", &date(99)), ("expires", &date(99))]), 0);
        assert_eq!(lives(&[("cache-control", "max-age=soon"), ("expires", &date(99))]), 0);
        assert_eq!(lives(&[("expires", &date(300)), ("date", &date(400))]), 0, "expired before it was made");
    }

    #[test]
    fn guesses_are_a_tenth_and_at_most_a_day() {
        let (made, hour, years) = (date(0), date(-3600), date(-99_999_999));
        assert_eq!(lives(&[("last-modified", &hour), ("date", &made)]), 360);
        assert_eq!(lives(&[("last-modified", &years), ("date", &made)]), 86_400);
        assert_eq!(lives(&[]), 0);
        assert_eq!(lives(&[("last-modified", &hour), ("set-cookie", "a=b")]), 0);
        assert_eq!(lives(&[("last-modified", &hour), ("pragma", "no-cache")]), 0);
        assert_eq!(lives(&[("last-modified", &date(50)), ("date", &made)]), 0, "changed in the future");
    }

    #[test]
    fn guesses_depend_on_the_status() {
        let hour = date(-3600);
        let lives = |status, rule: &str| {
            lifetime(&entry(status, &[("last-modified", &hour), ("cache-control", rule)]), &Freshness::Http).as_secs()
        };
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(lives(status, "x"), 360, "{status}");
        }
        for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
            assert_eq!(lives(status, "x"), 0, "{status}");
            assert_eq!(lives(status, "public"), 360, "{status}");
        }
    }

    #[test]
    fn age_is_the_worst_of_what_is_known() {
        let aged = |fields: &[(&str, &str)], after| age(&entry(200, fields), NOW.plus(Duration::from_secs(after)));
        assert_eq!(aged(&[], 3), 3);
        assert_eq!(aged(&[("date", &date(-20))], 3), 23);
        assert_eq!(aged(&[("date", &date(20))], 3), 3, "a date in the future makes nothing younger");
        assert_eq!(aged(&[("age", "30"), ("date", &date(-20))], 3), 33);
        assert_eq!(aged(&[("age", "30"), ("date", &date(-40))], 3), 43);
        let mut slow = entry(200, &[("age", "30")]);
        slow.requested_at = NOW.minus(Duration::from_secs(5));
        assert_eq!(age(&slow, NOW), 35);
        assert_eq!(age(&slow, NOW.minus(Duration::from_secs(99))), 35, "our clock went back");
    }

    #[test]
    fn the_age_field_is_read_as_rfc_9111_says() {
        for (value, secs) in [
            ("7200", 7200),
            ("7200, 0", 7200),
            ("0, 7200", 0),
            ("7200;foo=bar", 7200),
            ("2147483649", 1 << 31),
            ("99999999999999999999", 1 << 31),
            ("abc", 0),
            ("-7200", 0),
            ("7200.0", 0),
            ("", 0),
        ] {
            assert_eq!(age(&entry(200, &[("age", value)]), NOW), secs, "{value}");
        }
        assert_eq!(age(&entry(200, &[("age", "7"), ("age", "9")]), NOW), 7);
    }

    #[test]
    fn our_own_times_leave_the_origins_aside() {
        let old = entry(200, &[("age", "9999"), ("cache-control", "no-store")]);
        let own = Freshness::Revalidate { fresh_for: Duration::from_secs(100), stale_if_error: Duration::ZERO };
        assert_eq!(lifetime(&old, &own).as_secs(), 100);
        assert_eq!(spent(&old, &own, NOW), Duration::ZERO);
        assert_eq!(lifetime(&entry(404, &[]), &own), ABSENCE);
        assert_eq!(lifetime(&entry(200, &[]), &Freshness::Immutable), Duration::MAX);
        assert_eq!(lifetime(&entry(410, &[]), &Freshness::Immutable), ABSENCE);
    }

    #[test]
    fn explain_shows_each_step() {
        let fields = [("cache-control", "max-age=60"), ("age", "10")];
        let lines = explain(&http(&fields), &Freshness::Http, NOW.plus(Duration::from_secs(5)));
        assert_eq!(
            lines,
            [
                "lifetime 60 s: max-age of Cache-Control",
                "age 10 s on arrival: the greater of 0 s by Date and 10 s by Age plus 0 s under way",
                "age 15 s now: 5 s here",
                "fresh for another 45 s",
            ]
        );
    }
}
