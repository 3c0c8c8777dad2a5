//! The only door to time and chance. `clippy.toml` forbids the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::time::Timestamp;

/// Tells the time. A trait because simulation and tests choose their own.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock, for what is stored and what HTTP dates say. May jump.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary start; never goes back.
    fn elapsed(&self) -> Duration;
}

/// The machine's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[allow(
        clippy::disallowed_methods,
        clippy::new_ret_no_self,
        reason = "this is the door, and it is only ever shared"
    )]
    pub fn new() -> Arc<dyn Clock> {
        Arc::new(SystemClock { start: Instant::now() })
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is moved: for tests.
pub struct ManualClock {
    now: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    pub fn at(now: Timestamp) -> Arc<ManualClock> {
        Arc::new(ManualClock { now: Mutex::new((now, Duration::ZERO)) })
    }

    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock();
        now.0 = now.0.plus(by);
        now.1 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.now.lock().0
    }

    fn elapsed(&self) -> Duration {
        self.now.lock().1
    }
}

/// A clock that goes with tokio's, so that it stands still when that is paused.
#[cfg(test)]
pub(crate) struct TokioClock(tokio::time::Instant);

#[cfg(test)]
impl TokioClock {
    #[allow(clippy::disallowed_methods, reason = "a clock for paused time")]
    pub(crate) fn start() -> Arc<TokioClock> {
        Arc::new(TokioClock(tokio::time::Instant::now()))
    }
}

#[cfg(test)]
impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_000_000_000).plus(self.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Random bytes from the system, for tokens, tags and jitter.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}
