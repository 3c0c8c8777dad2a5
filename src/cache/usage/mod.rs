//! The ledger of use: what was asked, served, fetched and kept, summed in memory and added to the catalog's rows of the
//! day every few seconds. A crash loses what was not added yet; what is under way counts when it ends, but for bytes
//! from upstream, which count as they come.
//!
//! Each count stands under the link that it belongs to. The bytes that a hit saved would have come over the link of
//! their upstream, which is known from the last fetch from there, of this run or of those that the rows tell of.

mod fetch;
pub mod links;
pub mod prices;
pub mod report;
mod saving;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::links::Links;
use self::prices::Prices;
use crate::model::key::Key;
use crate::model::time::Timestamp;
use crate::model::units;
use crate::model::usage::{Counter, Counts, Link, NONE, UsageKey};
use crate::runtime::clock::Clock;
use crate::store::s3::cost::Used;
use crate::telemetry::metrics::thread_number;

pub(super) use self::fetch::Metered;

/// Rows of one shard, rows of fetches, and upstreams whose link is remembered. What is more is folded.
const CELLS_MAX: usize = 4096;
/// Rows that wait to be added while the catalog does not take them.
const UNSAVED_MAX: usize = 16_384;
const DAY_SECS: i64 = 86_400;

/// `[ledger]` in the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How often what was counted is made durable: a crash loses no more.
    #[serde(with = "units::duration")]
    pub save_every: Duration,
    pub keep_days: u32,
    /// Rows of one day. What does not fit is counted in a row called `(other)`.
    pub rows_max: u64,
    pub links: links::Settings,
    pub prices: Prices,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            save_every: Duration::from_secs(20),
            keep_days: 100,
            rows_max: 5000,
            links: links::Settings::default(),
            prices: Prices::default(),
        }
    }
}

impl Settings {
    /// *Errors*: which setting cannot be, and why.
    pub fn check(&self) -> Result<(), String> {
        self.prices.check().map_err(|why| format!("prices: {why}"))?;
        match (self.keep_days, self.save_every.is_zero()) {
            (0, _) => Err("keep_days: at least 1".to_owned()),
            (_, true) => Err("save_every: more than nothing".to_owned()),
            (_, false) => Ok(()),
        }
    }
}

/// One answered request.
pub struct Answer<'a> {
    /// Of the build.
    pub label: Option<&'a str>,
    pub ecosystem: &'static str,
    /// None: larder made the answer, or refused one.
    pub source: Option<&'a Key>,
    pub tier: &'static str,
    pub peer: IpAddr,
    /// That were sent.
    pub bytes: u64,
    /// None: it was no hit.
    pub hit: Option<Saved>,
}

/// What a hit saved beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saved {
    /// So many milliseconds.
    Millis(u64),
    /// Nobody knows what the fetch took.
    Untimed,
}

/// What was counted and not added yet.
pub struct Usage {
    in_force: ArcSwap<InForce>,
    clock: Arc<dyn Clock>,
    /// Of answers. One for each core, taken by that core's threads and by who adds.
    shards: Box<[Mutex<HashMap<UsageKey, Counts>>]>,
    /// Of fetches, whose day is the one in which they are added.
    fetches: Mutex<HashMap<UsageKey, Fetching>>,
    unsaved: Mutex<HashMap<UsageKey, Counts>>,
    /// By upstream.
    seen: Mutex<HashMap<String, Link>>,
    /// Whether the rows that stand were asked for what they know of links.
    has_learnt: AtomicBool,
    folded: AtomicU64,
    moved: [Moved; Link::COUNT],
    /// When what is kept was looked at last.
    looked: Mutex<Duration>,
    /// What the bucket's meter said then.
    billed: Mutex<Used>,
    /// Held by who adds.
    saving: tokio::sync::Mutex<()>,
}

struct InForce {
    settings: Settings,
    links: Links,
}

/// Fetches of one kind, since they were added last.
#[derive(Default)]
struct Fetching {
    count: AtomicU64,
    bytes: Arc<AtomicU64>,
}

/// Bytes that went over one link since the start, as far as they were added.
#[derive(Debug, Default)]
pub struct Moved {
    pub served: AtomicU64,
    pub fetched: AtomicU64,
    pub saved: AtomicU64,
}

/// A row, borrowed.
#[derive(Hash)]
struct Row<'a> {
    day: u32,
    label: &'a str,
    ecosystem: &'a str,
    upstream: &'a str,
    scope: &'a str,
    tier: &'a str,
    link: Link,
}

impl Equivalent<UsageKey> for Row<'_> {
    fn equivalent(&self, key: &UsageKey) -> bool {
        let Row { day, label, ecosystem, upstream, scope, tier, link } = *self;
        let names = label == key.label && ecosystem == key.ecosystem && upstream == key.upstream;
        names && scope == key.scope && tier == key.tier && day == key.day && link == key.link
    }
}

impl Row<'_> {
    fn owned(&self) -> UsageKey {
        let Row { day, label, ecosystem, upstream, scope, tier, link } = *self;
        let [label, ecosystem, upstream] = [label, ecosystem, upstream].map(str::to_owned);
        UsageKey { day, label, ecosystem, upstream, scope: scope.to_owned(), tier: tier.to_owned(), link }
    }
}

impl Usage {
    pub fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Arc<Usage> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 16);
        Arc::new(Usage {
            in_force: ArcSwap::from_pointee(InForce::new(settings)),
            shards: (0..cores).map(|_| Mutex::default()).collect(),
            fetches: Mutex::default(),
            unsaved: Mutex::default(),
            seen: Mutex::default(),
            has_learnt: AtomicBool::new(false),
            folded: AtomicU64::new(0),
            moved: std::array::from_fn(|_| Moved::default()),
            looked: Mutex::new(clock.elapsed()),
            billed: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            clock,
        })
    }

    /// Takes up other settings for what is counted from now on.
    pub fn reload(&self, settings: &Settings) {
        self.in_force.store(Arc::new(InForce::new(settings)));
    }

    /// Counts an answer. On the path of hits: a lock that its core alone takes, and no allocation for a row that is there.
    pub fn answered(&self, answer: &Answer<'_>) {
        let row = Row {
            day: day_of(self.clock.now()),
            label: answer.label.unwrap_or(NONE),
            ecosystem: answer.ecosystem,
            upstream: answer.source.map_or(NONE, |source| &source.upstream),
            scope: answer.source.map_or(NONE, |source| source.scope.as_str()),
            tier: answer.tier,
            link: self.in_force.load().links.of_address(answer.peer),
        };
        let mut shard = self.shards[thread_number() % self.shards.len()].lock();
        if let Some(counts) = shard.get_mut(&row) {
            return answer.add_to(counts);
        }
        answer.add_to(self.counts_of(&mut shard, row.owned(), CELLS_MAX));
    }

    /// The counts of a row that may be new, or of the one that takes it in.
    fn counts_of<'a>(&self, rows: &'a mut HashMap<UsageKey, Counts>, key: UsageKey, max: usize) -> &'a mut Counts {
        let key = if rows.len() < max || rows.contains_key(&key) {
            key
        } else {
            self.folded.fetch_add(1, Ordering::Relaxed);
            key.folded()
        };
        rows.entry(key).or_default()
    }

    /// Counts a fetch that was answered, and gives the meter for the bytes to come.
    fn fetching(&self, row: &Row<'_>) -> Arc<AtomicU64> {
        self.see(row.upstream, row.link);
        let mut fetches = self.fetches.lock();
        if !fetches.contains_key(row) && fetches.len() >= CELLS_MAX {
            self.folded.fetch_add(1, Ordering::Relaxed);
            return fetches.entry(row.owned().folded()).or_default().begun();
        }
        fetches.entry(row.owned()).or_default().begun()
    }

    fn see(&self, upstream: &str, link: Link) {
        let mut seen = self.seen.lock();
        if let Some(known) = seen.get_mut(upstream) {
            *known = link;
        } else if seen.len() < CELLS_MAX {
            seen.insert(upstream.to_owned(), link);
        } // Else what it saves is not priced.
    }

    /// What went over each link since the start.
    pub fn moved(&self) -> impl Iterator<Item = (Link, &Moved)> {
        Link::ALL.into_iter().zip(&self.moved)
    }

    /// Rows that had no room of their own since the start, each as often as it had none.
    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    pub(super) fn settings(&self) -> Settings {
        self.in_force.load().settings.clone()
    }
}

impl InForce {
    fn new(settings: &Settings) -> InForce {
        InForce { links: Links::new(&settings.links), settings: settings.clone() }
    }
}

impl Fetching {
    fn begun(&self) -> Arc<AtomicU64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.clone()
    }
}

impl Answer<'_> {
    fn add_to(&self, counts: &mut Counts) {
        counts.count(Counter::Requests, 1);
        counts.count(Counter::ServedBytes, self.bytes);
        let Some(saved) = self.hit else { return };
        counts.count(Counter::Hits, 1);
        counts.count(Counter::SavedBytes, self.bytes);
        if let Saved::Millis(millis) = saved {
            counts.count(Counter::TimedHits, 1);
            counts.count(Counter::SavedMillis, millis);
        }
    }
}

/// Days since 1970-01-01, of UTC.
fn day_of(now: Timestamp) -> u32 {
    u32::try_from(now.as_secs().div_euclid(DAY_SECS)).unwrap_or(0)
}
