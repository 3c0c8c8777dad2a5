//! What is shown while something takes more than two seconds: a bar on a terminal, plain lines elsewhere.

use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::runtime::clock::{Clock, SystemClock};

const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// How far something has come.
pub(crate) struct Progress {
    what: &'static str,
    clock: Arc<dyn Clock>,
    terminal: bool,
    bar: Option<ProgressBar>,
    next_line: Duration,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { what, clock: SystemClock::new(), terminal, bar: None, next_line: PATIENCE }
    }

    /// Tells that `done` of `of` is done.
    pub fn at(&mut self, done: u64, of: u64) {
        let elapsed = self.clock.elapsed();
        if elapsed < PATIENCE {
            return;
        }
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(Some(of), ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len}, {eta} left");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.with_message(self.what)
            });
            bar.set_length(of);
            bar.set_position(done);
        } else if elapsed >= self.next_line {
            super::out::note(&format!("{}: {done} of {of}", self.what));
            self.next_line = elapsed + BETWEEN_LINES;
        }
    }

    /// Takes the bar away.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits for `work`; says after two seconds what is being waited for.
///
/// *Cancel*: as `work`.
pub(crate) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    match tokio::time::timeout(PATIENCE, &mut work).await {
        Ok(done) => return done,
        Err(_) if !std::io::stderr().is_terminal() => super::out::note(&format!("{what} …")),
        Err(_) => {
            let bar = ProgressBar::new_spinner().with_message(format!("{what} …"));
            bar.enable_steady_tick(Duration::from_millis(100));
            let done = work.await;
            bar.finish_and_clear();
            return done;
        }
    }
    work.await
}
