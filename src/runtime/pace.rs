//! Whether a peer that is waited for sends fast enough, for one body. Its timer is armed only while nothing comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::clock::Clock;

/// Measures how long we wait for how many bytes. Time in which nobody asks does not count: that is our own doing.
pub struct Pace {
    /// In bytes a second. 0: any.
    minimum_rate: u64,
    window: Duration,
    clock: Arc<dyn Clock>,
    bytes: u64,
    /// Waited in this window, and since when again.
    waited: Duration,
    since: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub fn new(clock: Arc<dyn Clock>, minimum_rate: u64, window: Duration) -> Pace {
        Pace { minimum_rate, window, clock, bytes: 0, waited: Duration::ZERO, since: None, timer: None }
    }

    pub fn restart(&mut self) {
        (self.bytes, self.waited, self.since, self.timer) = (0, Duration::ZERO, None, None);
    }

    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += self.clock.elapsed().saturating_sub(since);
        }
    }

    /// Ready once a window has brought too little. Called while there is nothing to read.
    pub fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.minimum_rate == 0 {
            return Poll::Pending;
        }
        loop {
            let now = self.clock.elapsed();
            let since = *self.since.get_or_insert(now);
            let window = self.window;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(window)));
            ready!(timer.as_mut().poll(context));
            let waited = self.waited + now.saturating_sub(since);
            if waited < window {
                // At least a millisecond, the timer's own grain.
                timer.set(tokio::time::sleep((window - waited).max(Duration::from_millis(1))));
                continue;
            }
            let least = u128::from(self.minimum_rate) * window.as_millis() / 1000;
            if u128::from(self.bytes) < least {
                return Poll::Ready(());
            }
            (self.bytes, self.waited, self.since) = (0, Duration::ZERO, Some(now));
            timer.set(tokio::time::sleep(window));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::TokioClock;

    async fn is_stalled(pace: &mut Pace) -> bool {
        std::future::poll_fn(|context| Poll::Ready(pace.poll_stalled(context).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_in_which_we_wait_counts() {
        let mut pace = Pace::new(TokioClock::start(), 1024, Duration::from_secs(30));
        for _ in 0..20 {
            assert!(!is_stalled(&mut pace).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
            pace.moved(10);
            // The reader is busy elsewhere.
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert!(!is_stalled(&mut pace).await, "20 s of waiting");
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(is_stalled(&mut pace).await, "31 s of waiting for 200 bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_with_enough_bytes_is_followed_by_a_new_one() {
        let mut pace = Pace::new(TokioClock::start(), 1024, Duration::from_secs(30));
        for _ in 0..100 {
            assert!(!is_stalled(&mut pace).await);
            tokio::time::sleep(Duration::from_secs(10)).await;
            pace.moved(20_000);
        }
        assert!(!is_stalled(&mut pace).await);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(is_stalled(&mut pace).await);
    }
}
