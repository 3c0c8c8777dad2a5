//! Pure state of one host's health: a breaker, a rest that the host itself asked for, and the budget of retries.

use std::time::Duration;

use super::settings::{BreakerSettings, RetrySettings};

/// Opens after failures in a row, lets one request try after a rest, closes when that one succeeds. A host that answers
/// in between is not left alone for what it fails at: strangers name the addresses, and some always fail. All times are
/// `Clock::elapsed`.
pub(crate) struct Breaker {
    state: State,
    /// Until when the host asked to be left alone (`Retry-After`).
    rests_until: Duration,
    /// Requests without an answer.
    in_row: u32,
    /// Bodies that broke off for good. Their heads had come well, so heads do not end this row.
    broken_in_row: u32,
    /// How often it opened since it was last well.
    trips: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Open { until: Duration },
    Probing,
}

/// How a request was let through; goes back with its verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pass {
    Normal,
    /// The one that tries whether the host is well again.
    Probe,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Success,
    Failure,
    /// Dropped before it was known.
    Unknown,
}

/// While a probe is under way, others may come back after this.
const PROBE_WAIT: Duration = Duration::from_secs(1);

impl Breaker {
    pub(crate) fn new() -> Breaker {
        Breaker { state: State::Closed, rests_until: Duration::ZERO, in_row: 0, broken_in_row: 0, trips: 0 }
    }

    /// How long the host rests yet; None when a request may go.
    pub(crate) fn rest(&self, now: Duration) -> Option<Duration> {
        if now < self.rests_until {
            return Some(self.rests_until - now);
        }
        match self.state {
            State::Closed => None,
            State::Open { until } => until.checked_sub(now).filter(|rest| !rest.is_zero()),
            State::Probing => Some(PROBE_WAIT),
        }
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.state == State::Probing
    }

    /// Nothing to remember: closed and not asked to rest.
    pub(crate) fn is_quiet(&self, now: Duration) -> bool {
        self.state == State::Closed && now >= self.rests_until
    }

    /// Lets a request through, or says how long to wait.
    pub(crate) fn admit(&mut self, now: Duration) -> Result<Pass, Duration> {
        if let Some(rest) = self.rest(now) {
            return Err(rest);
        }
        match self.state {
            State::Closed => Ok(Pass::Normal),
            State::Open { .. } | State::Probing => {
                self.state = State::Probing;
                Ok(Pass::Probe)
            }
        }
    }

    /// Learns how a request went.
    pub(crate) fn settle(&mut self, pass: Pass, verdict: Verdict, now: Duration, rules: &BreakerSettings) {
        match (pass, self.state) {
            (Pass::Probe, State::Probing) => match verdict {
                Verdict::Success => {
                    let rests_until = self.rests_until;
                    *self = Breaker { rests_until, ..Breaker::new() };
                }
                Verdict::Failure => self.open(now, rules),
                Verdict::Unknown => self.state = State::Open { until: now },
            },
            (_, State::Closed) => self.count(verdict, now, rules),
            // Late news about requests that were let through before it opened.
            (_, State::Open { .. } | State::Probing) => {}
        }
    }

    /// The host asked to be left alone.
    pub(crate) fn rest_for(&mut self, rest: Duration, now: Duration, rules: &BreakerSettings) {
        self.rests_until = self.rests_until.max(now + rest.min(rules.longest_retry_after));
    }

    /// A body came to its end.
    pub(crate) fn body_ended(&mut self) {
        self.broken_in_row = 0;
    }

    /// A body broke off, and was not taken up again.
    pub(crate) fn body_broke(&mut self, now: Duration, rules: &BreakerSettings) {
        self.broken_in_row += 1;
        if self.state == State::Closed && self.broken_in_row >= rules.failures {
            self.open(now, rules);
        }
    }

    fn count(&mut self, verdict: Verdict, now: Duration, rules: &BreakerSettings) {
        match verdict {
            Verdict::Unknown => {}
            Verdict::Success => self.in_row = 0,
            Verdict::Failure => {
                self.in_row += 1;
                if self.in_row >= rules.failures {
                    self.open(now, rules);
                }
            }
        }
    }

    fn open(&mut self, now: Duration, rules: &BreakerSettings) {
        let rest = rules.rest.saturating_mul(1 << self.trips.min(16)).min(rules.longest_rest);
        self.trips += 1;
        (self.in_row, self.broken_in_row) = (0, 0);
        self.state = State::Open { until: now + rest };
    }
}

/// How many retries a host may still be sent: a share of its requests, and a reserve that grows back slowly.
pub(crate) struct Budget {
    /// In hundredths of a retry.
    left: u32,
    refilled: Duration,
}

const REFILL: Duration = Duration::from_secs(10);

impl Budget {
    pub(crate) fn new(now: Duration, rules: &RetrySettings) -> Budget {
        Budget { left: rules.reserve.saturating_mul(100), refilled: now }
    }

    /// A request of its own was sent.
    pub(crate) fn earn(&mut self, rules: &RetrySettings) {
        self.left = self.left.saturating_add(rules.percent).min(rules.reserve.saturating_mul(100));
    }

    /// Takes one retry out of it; false when there is none.
    pub(crate) fn spend(&mut self, now: Duration, rules: &RetrySettings) -> bool {
        let periods = now.saturating_sub(self.refilled).as_secs() / REFILL.as_secs();
        if periods > 0 {
            self.refilled = now;
            let grown = u32::try_from(periods).unwrap_or(u32::MAX).saturating_mul(100);
            self.left = self.left.saturating_add(grown).min(rules.reserve.saturating_mul(100));
        }
        if self.left < 100 {
            return false;
        }
        self.left -= 100;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Duration) {
        for _ in 0..times {
            if let Ok(pass) = breaker.admit(now) {
                breaker.settle(pass, Verdict::Failure, now, &BreakerSettings::default());
            }
        }
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_heals_by_one_probe() {
        let rules = BreakerSettings::default();
        let mut breaker = Breaker::new();
        fail(&mut breaker, 4, secs(1));
        assert_eq!(breaker.admit(secs(1)), Ok(Pass::Normal));
        fail(&mut breaker, 1, secs(1));
        assert_eq!(breaker.admit(secs(2)), Err(secs(4)));
        assert_eq!(breaker.admit(secs(6)), Ok(Pass::Probe));
        assert_eq!(breaker.admit(secs(6)), Err(PROBE_WAIT), "one probe at a time");
        breaker.settle(Pass::Probe, Verdict::Unknown, secs(6), &rules);
        assert_eq!(breaker.admit(secs(6)), Ok(Pass::Probe), "a dropped probe gives its place back");
        breaker.settle(Pass::Probe, Verdict::Failure, secs(6), &rules);
        assert_eq!(breaker.admit(secs(6)), Err(secs(10)), "the second rest is twice as long");
        assert_eq!(breaker.admit(secs(16)), Ok(Pass::Probe));
        breaker.settle(Pass::Probe, Verdict::Success, secs(16), &rules);
        assert_eq!(breaker.admit(secs(16)), Ok(Pass::Normal));
        fail(&mut breaker, 5, secs(17));
        assert_eq!(breaker.rest(secs(17)), Some(secs(5)), "health resets the rest");
    }

    #[test]
    fn a_host_that_answers_in_between_is_not_rested() {
        let rules = BreakerSettings::default();
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            fail(&mut breaker, rules.failures - 1, secs(1));
            breaker.settle(Pass::Normal, Verdict::Success, secs(1), &rules);
        }
        assert_eq!(breaker.rest(secs(1)), None);
    }

    #[test]
    fn bodies_that_break_are_a_row_of_their_own() {
        let rules = BreakerSettings::default();
        let mut breaker = Breaker::new();
        for at in 0..100 {
            breaker.body_broke(secs(1), &rules);
            if at % 4 == 0 {
                breaker.body_ended();
            }
        }
        assert_eq!(breaker.rest(secs(1)), None);
        for _ in 0..rules.failures {
            breaker.settle(Pass::Normal, Verdict::Success, secs(1), &rules);
            breaker.body_broke(secs(1), &rules);
        }
        assert!(breaker.rest(secs(1)).is_some());
    }

    #[test]
    fn a_host_that_asks_for_rest_gets_it_within_bounds() {
        let rules = BreakerSettings::default();
        let mut breaker = Breaker::new();
        breaker.rest_for(secs(30), secs(10), &rules);
        breaker.rest_for(secs(5), secs(10), &rules);
        assert_eq!(breaker.admit(secs(20)), Err(secs(20)));
        assert_eq!(breaker.admit(secs(40)), Ok(Pass::Normal));
        breaker.rest_for(secs(1_000_000), secs(40), &rules);
        assert_eq!(breaker.rest(secs(40)), Some(rules.longest_retry_after));
    }

    #[test]
    fn retries_are_a_tenth_of_requests_beyond_the_reserve() {
        let rules = RetrySettings::default();
        let mut budget = Budget::new(Duration::ZERO, &rules);
        let mut spent = 0;
        for _ in 0..1000 {
            budget.earn(&rules);
            spent += u32::from(budget.spend(Duration::ZERO, &rules));
        }
        assert!((100..=110).contains(&spent), "{spent}");
        assert!(budget.spend(secs(100), &rules), "it grows back");
    }
}
