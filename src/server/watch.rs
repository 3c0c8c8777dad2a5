//! Looks at every connection once a second and ends those that break a limit. One task for all: no timer is armed for
//! a request, and an idle connection costs a few comparisons a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::counters::Counters;
use super::pulse::{Beat, Order, Pulse, Stage};
use super::settings::Limits;

/// How often connections are looked at; the limits are as coarse.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// How long a connection may take to go once it was told to finish and has nothing under way.
const FINISH_TICKS: u32 = 5;

/// After how many quiet looks a connection is let doze.
const DOZE_TICKS: u32 = 2;

/// All open connections.
pub(crate) struct Watch {
    limits: Ticks,
    counters: Arc<Counters>,
    next: AtomicU64,
    open: Mutex<Open>,
    emptied: Notify,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Watched>,
    draining: bool,
}

struct Watched {
    pulse: Arc<Pulse>,
    history: History,
}

/// The limits, in looks.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    header_read: u32,
    idle: u32,
    opening: u32,
    life: u32,
    window: u32,
    window_bytes: u64,
}

/// What earlier looks left behind.
#[derive(Clone, Copy, Default, Debug)]
struct History {
    age: u32,
    last: Option<Beat>,
    opening: u32,
    quiet: u32,
    head: u32,
    finishing: Option<u32>,
    upload: Window,
    download: Window,
}

/// A stretch of looks at all of which the peer was waited for.
#[derive(Clone, Copy, Default, Debug)]
struct Window {
    ticks: u32,
    start: u64,
}

/// Why a connection has to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Live,
    Idle,
    Old,
    Lingering,
    SlowOpening,
    SlowHeader,
    SlowBody,
}

/// Keeps a connection in the watch until dropped.
pub(crate) struct Registered {
    watch: Arc<Watch>,
    number: u64,
    pub pulse: Arc<Pulse>,
}

impl Watch {
    pub fn new(limits: &Limits, counters: Arc<Counters>) -> Arc<Watch> {
        let ticks = |duration: Duration| u32::try_from(duration.as_secs().max(1)).unwrap_or(u32::MAX);
        let limits = Ticks {
            header_read: ticks(limits.header_read),
            idle: ticks(limits.idle),
            opening: ticks(limits.tls_handshake),
            life: ticks(limits.connection_life),
            window: ticks(limits.slow_body_window),
            window_bytes: limits.slow_body_bytes.saturating_mul(limits.slow_body_window.as_secs().max(1)),
        };
        Arc::new(Watch { limits, counters, next: AtomicU64::new(0), open: Mutex::default(), emptied: Notify::new() })
    }

    /// Begins to watch a connection. While draining, it is told at once to finish.
    pub fn register(self: &Arc<Watch>) -> Registered {
        let pulse = Arc::new(Pulse::new());
        let number = self.next.fetch_add(1, Relaxed);
        let mut open = self.open.lock();
        if open.draining {
            pulse.give(Order::Finish);
        }
        open.connections.insert(number, Watched { pulse: pulse.clone(), history: History::default() });
        drop(open);
        Counters::up(&self.counters.open);
        Registered { watch: self.clone(), number, pulse }
    }

    /// Looks at all connections, once each tick, until dropped.
    pub async fn run(&self, mut each_tick: impl FnMut()) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.look();
            each_tick();
        }
    }

    /// Tells all connections, and those that still come, to finish.
    pub fn finish(&self) {
        let mut open = self.open.lock();
        open.draining = true;
        for watched in open.connections.values() {
            watched.pulse.give(Order::Finish);
        }
    }

    pub fn cut(&self) {
        for watched in self.open.lock().connections.values() {
            watched.pulse.give(Order::Cut);
        }
    }

    pub fn open(&self) -> usize {
        self.open.lock().connections.len()
    }

    /// Requests under way on all connections.
    pub fn in_flight(&self) -> u64 {
        let open = self.open.lock();
        open.connections.values().map(|watched| u64::from(watched.pulse.beat().in_flight)).sum()
    }

    /// Resolves when no connection is left.
    ///
    /// *Cancel*: nothing is lost.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.open() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn look(&self) {
        let mut open = self.open.lock();
        for watched in open.connections.values_mut() {
            let order = watched.pulse.order();
            if order == Order::Cut {
                continue;
            }
            let verdict = watched.history.judge(watched.pulse.beat(), order, &self.limits);
            if watched.history.quiet == DOZE_TICKS {
                watched.pulse.let_doze();
            }
            let (order, count) = match verdict {
                Verdict::Live => continue,
                Verdict::Idle => (Order::Finish, Some(&self.counters.closed_idle)),
                Verdict::Old => (Order::Finish, Some(&self.counters.closed_old)),
                Verdict::Lingering => (Order::Cut, None),
                Verdict::SlowOpening => (Order::Cut, Some(&self.counters.cut_handshake)),
                Verdict::SlowHeader => (Order::Cut, Some(&self.counters.cut_slow_header)),
                Verdict::SlowBody => (Order::Cut, Some(&self.counters.cut_slow_body)),
            };
            if let Some(count) = count {
                Counters::up(count);
            }
            watched.pulse.give(order);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = self.watch.open.lock();
        open.connections.remove(&self.number);
        let empty = open.connections.is_empty();
        drop(open);
        Counters::down(&self.watch.counters.open);
        if empty {
            self.watch.emptied.notify_waiters();
        }
    }
}

impl History {
    /// Takes one look. Called once a tick.
    fn judge(&mut self, beat: Beat, order: Order, limits: &Ticks) -> Verdict {
        let last = self.last.replace(beat);
        self.age = self.age.saturating_add(1);
        if beat.stage == Stage::Tunnel {
            return Verdict::Live;
        }
        let slow = self.judge_speed(&beat, last.as_ref(), limits);
        if slow != Verdict::Live {
            return slow;
        }
        if order == Order::Finish {
            return self.judge_finishing(&beat);
        }
        self.quiet = if last.is_some_and(|last| is_quiet(&beat, &last)) { self.quiet + 1 } else { 0 };
        if self.quiet >= limits.idle {
            return Verdict::Idle;
        }
        if self.age >= limits.life { Verdict::Old } else { Verdict::Live }
    }

    fn judge_finishing(&mut self, beat: &Beat) -> Verdict {
        let ticks = if beat.in_flight == 0 && !beat.waits_to_write { self.finishing.unwrap_or(0) + 1 } else { 0 };
        self.finishing = Some(ticks);
        if ticks >= FINISH_TICKS { Verdict::Lingering } else { Verdict::Live }
    }

    fn judge_speed(&mut self, beat: &Beat, last: Option<&Beat>, limits: &Ticks) -> Verdict {
        self.opening = if beat.stage == Stage::Opening { self.opening + 1 } else { 0 };
        if self.opening > limits.opening {
            return Verdict::SlowOpening;
        }
        let in_head = beat.stage == Stage::Head && beat.in_flight == 0 && !beat.waits_to_write;
        let same_head = in_head && last.is_some_and(|last| last.stage == Stage::Head && last.requests == beat.requests);
        self.head = if same_head { self.head + 1 } else { 0 };
        if self.head >= limits.header_read {
            return Verdict::SlowHeader;
        }
        let uploads = beat.stage == Stage::Body && beat.waits_to_read && beat.in_flight > 0;
        // An HTTP/2 peer that opens no window stops us without leaving a write behind.
        let stalls = beat.http2 && beat.in_flight > 0 && beat.ours == 0;
        let too_slow = self.upload.is_slow(uploads, beat.read, limits)
            | self.download.is_slow(beat.waits_to_write || stalls, beat.written + beat.read, limits);
        if too_slow { Verdict::SlowBody } else { Verdict::Live }
    }
}

impl Window {
    fn is_slow(&mut self, waited_for: bool, moved: u64, limits: &Ticks) -> bool {
        if !waited_for || self.ticks == 0 {
            *self = Window { ticks: u32::from(waited_for), start: moved };
            return false;
        }
        self.ticks += 1;
        if self.ticks <= limits.window {
            return false;
        }
        let slow = moved.saturating_sub(self.start) < limits.window_bytes;
        *self = Window { ticks: 1, start: moved };
        slow
    }
}

/// Whether nothing happened since the last look. On HTTP/2 pings are nothing.
fn is_quiet(beat: &Beat, last: &Beat) -> bool {
    let silent = beat.http2 || (beat.read == last.read && beat.written == last.written);
    let resting = matches!(beat.stage, Stage::Waiting | Stage::Between | Stage::Frames);
    resting && beat.in_flight == 0 && !beat.waits_to_write && beat.requests == last.requests && silent
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Ticks =
        Ticks { header_read: 10, idle: 60, opening: 5, life: 3600, window: 30, window_bytes: 30 << 10 };

    const REST: Beat = Beat {
        stage: Stage::Between,
        waits_to_read: true,
        waits_to_write: false,
        http2: false,
        requests: 1,
        in_flight: 0,
        ours: 0,
        read: 100,
        written: 100,
    };

    /// Ticks until a verdict, at most 5,000, of a connection that looks like `beat(tick)`.
    fn ticks_until(beat: impl Fn(u32) -> Beat) -> (u32, Verdict) {
        let mut history = History::default();
        for tick in 1..5_000 {
            let verdict = history.judge(beat(tick), Order::Live, &LIMITS);
            if verdict != Verdict::Live {
                return (tick, verdict);
            }
        }
        (5_000, Verdict::Live)
    }

    #[test]
    fn each_limit_ends_what_breaks_it() {
        let head = Beat { stage: Stage::Head, ..REST };
        let body = Beat { stage: Stage::Body, in_flight: 1, ..REST };
        let slow_reader = Beat { waits_to_write: true, in_flight: 1, ..REST };
        let http2 = Beat { stage: Stage::Frames, http2: true, ..REST };
        let dribble = |beat: Beat, per_tick: u64| move |tick: u32| Beat { read: per_tick * u64::from(tick), ..beat };
        assert_eq!(ticks_until(|_| REST), (61, Verdict::Idle));
        assert_eq!(ticks_until(|_| Beat { stage: Stage::Waiting, ..REST }), (61, Verdict::Idle));
        assert_eq!(ticks_until(|_| Beat { stage: Stage::Opening, ..REST }), (6, Verdict::SlowOpening));
        assert_eq!(ticks_until(dribble(head, 1)), (11, Verdict::SlowHeader));
        assert_eq!(ticks_until(dribble(body, 1000)), (31, Verdict::SlowBody));
        assert_eq!(ticks_until(|_| slow_reader), (31, Verdict::SlowBody));
        assert_eq!(ticks_until(dribble(http2, 17)), (61, Verdict::Idle));
        assert_eq!(ticks_until(|_| Beat { in_flight: 2, ..http2 }), (31, Verdict::SlowBody));
    }

    #[test]
    fn what_keeps_to_the_limits_lives_out_its_life() {
        let old = (3600, Verdict::Old);
        let busy = |tick: u32| Beat { requests: tick, ..REST };
        let fast_upload = |tick: u32| Beat { stage: Stage::Body, in_flight: 1, read: 1100 * u64::from(tick), ..REST };
        let slow_handler = |_: u32| Beat { stage: Stage::Body, in_flight: 1, waits_to_read: false, ..REST };
        let fast_reader = |tick: u32| Beat { waits_to_write: true, written: 1100 * u64::from(tick), ..REST };
        let long_poll = |_: u32| Beat { stage: Stage::Frames, http2: true, in_flight: 2, ours: 1, ..REST };
        let early_head = |_: u32| Beat { stage: Stage::Head, in_flight: 1, ..REST };
        let many_heads = |tick: u32| Beat { stage: Stage::Head, requests: tick, ..REST };
        assert_eq!(ticks_until(busy), old);
        assert_eq!(ticks_until(fast_upload), old);
        assert_eq!(ticks_until(slow_handler), old);
        assert_eq!(ticks_until(fast_reader), old);
        assert_eq!(ticks_until(long_poll), old);
        assert_eq!(ticks_until(early_head), old);
        assert_eq!(ticks_until(many_heads), old);
        assert_eq!(ticks_until(|_| Beat { stage: Stage::Tunnel, ..REST }), (5_000, Verdict::Live));
    }

    #[test]
    fn one_told_to_finish_is_cut_when_it_has_nothing_left_to_do() {
        let mut history = History::default();
        let busy = Beat { in_flight: 1, requests: 1, ..REST };
        for _ in 0..100 {
            assert_eq!(history.judge(busy, Order::Finish, &LIMITS), Verdict::Live);
        }
        let verdicts: Vec<_> = (0..5).map(|_| history.judge(REST, Order::Finish, &LIMITS)).collect();
        assert_eq!(verdicts[3..], [Verdict::Live, Verdict::Lingering]);
    }

    #[tokio::test]
    async fn one_that_comes_while_draining_is_told_to_finish() {
        let watch = Watch::new(&Limits::default(), Arc::default());
        let before = watch.register();
        watch.finish();
        let after = watch.register();
        assert_eq!((before.pulse.order(), after.pulse.order()), (Order::Finish, Order::Finish));
        drop((before, after));
        watch.empty().await;
    }
}
