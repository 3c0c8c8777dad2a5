//! The table of hosts: how many exchanges run and wait, whether the host is well, what it did so far. Bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breaker::{Breaker, Budget, Pass, Verdict};
use super::fetch::UpstreamError;
use super::origin::Origin;
use super::settings::{BreakerSettings, RetrySettings, Settings};
use crate::model::party::Party;
use crate::runtime::clock::Clock;

/// Shares of a host that are remembered although nobody uses them.
const SHARES_KEPT: usize = 32;

/// What statistics show of a host.
#[derive(Clone, Debug)]
pub struct HostUse {
    /// Scheme, host and port.
    pub origin: String,
    pub health: Health,
    /// Exchanges under way, bodies included.
    pub in_flight: usize,
    /// Asks that wait for a place.
    pub waiting: usize,
    /// Attempts, retries included.
    pub requests: u64,
    /// Attempts that failed: no answer, a broken body, or a 5xx status.
    pub failures: u64,
    pub retries: u64,
    /// Broken bodies taken up again.
    pub resumes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    Well,
    /// Left alone, after failures or because it asked for it.
    Resting(Duration),
    /// One request tries whether it is well again.
    Probing,
}

pub(crate) struct Hosts {
    table: Mutex<HashMap<Origin, Arc<Host>>>,
    rules: Arc<Rules>,
    /// Exchanges with all hosts together.
    slots: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

struct Rules {
    hosts: usize,
    per_host: usize,
    queue: usize,
    queue_deadline: Duration,
    breaker: BreakerSettings,
    retry: RetrySettings,
}

pub(crate) struct Host {
    name: String,
    rules: Arc<Rules>,
    slots: Arc<Semaphore>,
    all_slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    shares: Mutex<HashMap<Party, Arc<Share>>>,
    state: Mutex<(Breaker, Budget)>,
    requests: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    resumes: AtomicU64,
    clock: Arc<dyn Clock>,
}

/// What one party has of a host's places. A quarter is always left for others.
struct Share {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place among the exchanges of a host; held until the body is through.
pub(crate) struct Slot {
    _share: (OwnedSemaphorePermit, Arc<Share>),
    _host: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// One attempt that the breaker let through. Dropped without a verdict, it counts as unknown.
pub(crate) struct Admission {
    host: Arc<Host>,
    pass: Pass,
    verdict: Verdict,
}

impl Hosts {
    pub(crate) fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Hosts {
        let rules = Rules {
            hosts: settings.hosts,
            per_host: settings.requests_per_host.min(Semaphore::MAX_PERMITS),
            queue: settings.queue_per_host,
            queue_deadline: settings.queue_deadline,
            breaker: settings.breaker.clone(),
            retry: settings.retry.clone(),
        };
        let slots = Arc::new(Semaphore::new(settings.requests.min(Semaphore::MAX_PERMITS)));
        Hosts { table: Mutex::new(HashMap::new()), rules: Arc::new(rules), slots, clock }
    }

    /// The state of `origin`. Full, the table forgets hosts that are well and unused, then those unused.
    ///
    /// *Errors*: `Crowded` when every host it knows is in use.
    pub(crate) fn host(&self, origin: &Origin) -> Result<Arc<Host>, UpstreamError> {
        let mut table = self.table.lock();
        if let Some(host) = table.get(origin) {
            return Ok(host.clone());
        }
        let now = self.clock.elapsed();
        if table.len() >= self.rules.hosts {
            // Nobody can take another handle while the table is locked.
            table.retain(|_, host| Arc::strong_count(host) > 1 || !host.state.lock().0.is_quiet(now));
        }
        if table.len() >= self.rules.hosts {
            table.retain(|_, host| Arc::strong_count(host) > 1);
        }
        if table.len() >= self.rules.hosts {
            return Err(UpstreamError::Crowded { host: origin.host() });
        }
        let host = Arc::new(Host {
            name: origin.host(),
            rules: self.rules.clone(),
            slots: Arc::new(Semaphore::new(self.rules.per_host)),
            all_slots: self.slots.clone(),
            waiting: AtomicUsize::new(0),
            shares: Mutex::default(),
            state: Mutex::new((Breaker::new(), Budget::new(now, &self.rules.retry))),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            resumes: AtomicU64::new(0),
            clock: self.clock.clone(),
        });
        table.insert(origin.clone(), host.clone());
        Ok(host)
    }

    /// Every host it knows, by origin.
    pub(crate) fn uses(&self) -> Vec<HostUse> {
        let mut uses: Vec<_> = self.table.lock().iter().map(|(origin, host)| host.usage(origin.to_string())).collect();
        uses.sort_by(|a, b| a.origin.cmp(&b.origin));
        uses
    }
}

impl Host {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Fails at once when the host rests, so that nobody queues for it.
    pub(crate) fn check(&self) -> Result<(), UpstreamError> {
        match self.state.lock().0.rest(self.clock.elapsed()) {
            Some(retry_after) => Err(UpstreamError::Resting { host: self.name.clone(), retry_after }),
            None => Ok(()),
        }
    }

    /// Waits for a place within the party's share.
    ///
    /// *Errors*: `Crowded` when too many wait, or none came free in time.
    /// *Cancel*: the place in the queue is given up.
    pub(crate) async fn enter(&self, party: &Party) -> Result<Slot, UpstreamError> {
        let crowded = || UpstreamError::Crowded { host: self.name.clone() };
        let share = self.share(party);
        let waiting = Waiting::begin(&self.waiting);
        let like_it = Waiting::begin(&share.waiting);
        // Those in flight and the newcomer itself are not a queue.
        let must_wait = self.slots.available_permits() == 0 || share.slots.available_permits() == 0;
        if must_wait && (waiting.ahead >= self.rules.queue || like_it.ahead >= most_of(self.rules.queue)) {
            return Err(crowded());
        }
        let slots = async {
            let of_share = share.slots.clone().acquire_owned().await;
            let host = self.slots.clone().acquire_owned().await;
            let all = self.all_slots.clone().acquire_owned().await;
            Some(Slot { _share: (of_share.ok()?, share.clone()), _host: host.ok()?, _all: all.ok()? })
        };
        let slot = tokio::time::timeout(self.rules.queue_deadline, slots).await;
        slot.ok().flatten().ok_or_else(crowded)
    }

    fn share(&self, party: &Party) -> Arc<Share> {
        let party = party.share();
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(&party) {
            return share.clone();
        }
        if shares.len() >= SHARES_KEPT {
            // Nobody can take another handle while they are locked; those in use are as many as places and queue.
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let slots = Arc::new(Semaphore::new(most_of(self.rules.per_host)));
        let share = Arc::new(Share { slots, waiting: AtomicUsize::new(0) });
        shares.insert(party, share.clone());
        share
    }

    /// Asks the breaker for one attempt.
    pub(crate) fn admit(self: &Arc<Host>) -> Result<Admission, UpstreamError> {
        let admitted = self.state.lock().0.admit(self.clock.elapsed());
        match admitted {
            Ok(pass) => {
                self.requests.fetch_add(1, Ordering::Relaxed);
                Ok(Admission { host: self.clone(), pass, verdict: Verdict::Unknown })
            }
            Err(retry_after) => Err(UpstreamError::Resting { host: self.name.clone(), retry_after }),
        }
    }

    /// An ask of its own, no retry, is about to be sent: the budget grows.
    pub(crate) fn earn_retry(&self) {
        self.state.lock().1.earn(&self.rules.retry);
    }

    /// Whether the budget allows one more retry; takes it.
    pub(crate) fn spend_retry(&self) -> bool {
        let spent = self.state.lock().1.spend(self.clock.elapsed(), &self.rules.retry);
        self.retries.fetch_add(u64::from(spent), Ordering::Relaxed);
        spent
    }

    pub(crate) fn resumed(&self) {
        self.resumes.fetch_add(1, Ordering::Relaxed);
    }

    /// A body broke off after its head had counted as a success. It may yet be taken up again.
    pub(crate) fn body_failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// A body broke off for good.
    pub(crate) fn body_broke(&self) {
        self.state.lock().0.body_broke(self.clock.elapsed(), &self.rules.breaker);
    }

    pub(crate) fn body_ended(&self) {
        self.state.lock().0.body_ended();
    }

    /// The host asked to be left alone for a while.
    pub(crate) fn rest_for(&self, rest: Duration) {
        self.state.lock().0.rest_for(rest, self.clock.elapsed(), &self.rules.breaker);
    }

    fn usage(&self, origin: String) -> HostUse {
        let state = self.state.lock();
        let health = match (state.0.is_probing(), state.0.rest(self.clock.elapsed())) {
            (true, _) => Health::Probing,
            (false, Some(rest)) => Health::Resting(rest),
            (false, None) => Health::Well,
        };
        HostUse {
            origin,
            health,
            in_flight: self.rules.per_host - self.slots.available_permits(),
            waiting: self.waiting.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            resumes: self.resumes.load(Ordering::Relaxed),
        }
    }
}

impl Admission {
    pub(crate) fn settle(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.verdict == Verdict::Failure {
            self.host.failures.fetch_add(1, Ordering::Relaxed);
        }
        let now = self.host.clock.elapsed();
        self.host.state.lock().0.settle(self.pass, self.verdict, now, &self.host.rules.breaker);
    }
}

/// What one party may have of a number of places: three quarters, and at least one.
fn most_of(places: usize) -> usize {
    places - places / 4
}

struct Waiting<'a> {
    count: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Waiting<'a> {
        let ahead = count.fetch_add(1, Ordering::AcqRel);
        Waiting { count, ahead }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use url::Url;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::runtime::clock::ManualClock;

    fn origin(text: &str) -> Origin {
        Origin::of(&Url::parse(text).expect("a url")).expect("an origin")
    }

    fn hosts(settings: &Settings) -> Hosts {
        Hosts::new(settings, ManualClock::at(Timestamp(0)))
    }

    fn party(name: &str) -> Party {
        Party::of(std::net::Ipv4Addr::LOCALHOST.into(), Some(&name.into()))
    }

    async fn is_waiting(entering: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *entering).poll(context).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn one_party_cannot_take_all_places_and_all_of_the_queue() {
        let settings = Settings { requests_per_host: 4, queue_per_host: 8, ..Settings::default() };
        let host = hosts(&settings).host(&origin("http://a.test")).expect("room");
        let greedy = party("greedy");
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(host.enter(&greedy).await.expect("its share"));
        }
        let mut queue: Vec<_> = (0..6).map(|_| Box::pin(host.enter(&greedy))).collect();
        for waits in &mut queue {
            assert!(is_waiting(waits).await, "its share is taken");
        }
        assert!(matches!(host.enter(&greedy).await, Err(UpstreamError::Crowded { .. })), "so is its part of the queue");
        let modest = host.enter(&party("modest")).await.expect("a place is left");
        let third = party("third");
        let mut next = Box::pin(host.enter(&third));
        assert!(is_waiting(&mut next).await, "the queue has room for others");
        drop(modest);
        next.await.expect("not behind those who have their share");
        drop(held.pop());
        queue.remove(0).await.expect("its share again");
    }

    #[tokio::test]
    async fn shares_that_nobody_uses_are_forgotten() {
        let host = hosts(&Settings::default()).host(&origin("http://a.test")).expect("room");
        let _held = host.enter(&party("kept")).await.expect("free");
        for at in 0..3 * SHARES_KEPT {
            host.enter(&party(&at.to_string())).await.expect("free");
        }
        assert!(host.shares.lock().len() <= SHARES_KEPT && host.shares.lock().contains_key(&party("kept")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_turns_away_and_a_long_wait_ends() {
        let settings = Settings { requests_per_host: 1, queue_per_host: 1, ..Settings::default() };
        let host = hosts(&settings).host(&origin("http://a.test")).expect("room");
        let slot = host.enter(&party("a")).await.expect("free");
        let a = party("a");
        let mut second = Box::pin(host.enter(&a));
        assert!(is_waiting(&mut second).await);
        assert!(matches!(host.enter(&party("a")).await, Err(UpstreamError::Crowded { .. })));
        assert_eq!(host.usage(String::new()).waiting, 1);
        drop(slot);
        let slot = second.await.expect("came free");
        assert!(matches!(host.enter(&party("a")).await, Err(UpstreamError::Crowded { .. })), "waited too long");
        drop(slot);
        assert_eq!((host.usage(String::new()).waiting, host.usage(String::new()).in_flight), (0, 0));
    }

    #[tokio::test]
    async fn the_table_forgets_unused_hosts_and_never_those_in_use() {
        let hosts = hosts(&Settings { hosts: 2, ..Settings::default() });
        let kept = hosts.host(&origin("http://a.test")).expect("room");
        for at in 0..10 {
            hosts.host(&origin(&format!("http://{at}.test"))).expect("room");
        }
        assert!(hosts.uses().len() <= 2);
        assert!(Arc::ptr_eq(&kept, &hosts.host(&origin("http://a.test")).expect("room")));
        let other = hosts.host(&origin("http://b.test")).expect("room");
        assert!(matches!(hosts.host(&origin("http://c.test")), Err(UpstreamError::Crowded { .. })));
        drop(other);
        hosts.host(&origin("http://c.test")).expect("room");
    }
}
