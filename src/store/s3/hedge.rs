//! A read that is slow to begin is asked a second time, within a budget: object stores have a long tail, and another
//! connection is seldom in it too. *Source*: AWS's guidance on latency, which asks again after what most requests take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::Mutex;

use super::bucket::{Bucket, Got, Span};
use super::error::S3Error;
use super::settings::Settings;
use crate::runtime::clock::Clock;

/// So many first bytes are remembered.
const REMEMBERED: usize = 128;
/// What one request earns, and what a second one costs.
const WHOLE: u32 = 100;
/// Second requests that may be saved up.
const SAVED_MAX: u32 = 20 * WHOLE;

/// Reads with a second try.
pub(super) struct Hedge {
    bucket: Arc<dyn Bucket>,
    clock: Arc<dyn Clock>,
    after: Duration,
    percent: u32,
    state: Mutex<State>,
}

struct State {
    /// How long the last answers took to begin.
    took: VecDeque<Duration>,
    /// In hundredths of a request.
    saved: u32,
}

impl Hedge {
    pub fn new(bucket: Arc<dyn Bucket>, clock: Arc<dyn Clock>, settings: &Settings) -> Hedge {
        let state = Mutex::new(State { took: VecDeque::with_capacity(REMEMBERED), saved: 0 });
        Hedge { bucket, clock, after: settings.hedge_after, percent: settings.hedge_percent.min(WHOLE), state }
    }

    /// Reads an object, by whichever of two requests is answered first.
    pub async fn get(&self, name: &str, span: Span) -> Result<Option<Got>, S3Error> {
        self.earn();
        let began = self.clock.elapsed();
        let mut first = self.bucket.get(name, span);
        let got = match tokio::time::timeout(self.patience(), &mut first).await {
            Ok(got) => got,
            Err(_) if !self.spend() => first.await,
            Err(_) => match select(first, self.bucket.get(name, span)).await {
                // Of two, one that is answered is enough.
                Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
                Either::Left((got, _)) | Either::Right((got, _)) => got,
            },
        };
        if got.is_ok() {
            self.remember(self.clock.elapsed().saturating_sub(began));
        }
        got
    }

    /// As long as nineteen of twenty took, and at least what the settings say.
    fn patience(&self) -> Duration {
        let mut took: Vec<Duration> = self.state.lock().took.iter().copied().collect();
        took.sort_unstable();
        let most = took.get(took.len() * 19 / 20).copied().unwrap_or_default();
        most.max(self.after)
    }

    fn remember(&self, took: Duration) {
        let mut state = self.state.lock();
        if state.took.len() == REMEMBERED {
            state.took.pop_front();
        }
        state.took.push_back(took);
    }

    fn earn(&self) {
        let mut state = self.state.lock();
        state.saved = (state.saved + self.percent).min(SAVED_MAX);
    }

    fn spend(&self) -> bool {
        let mut state = self.state.lock();
        let left = state.saved.checked_sub(WHOLE);
        state.saved = left.unwrap_or(state.saved);
        left.is_some()
    }
}
