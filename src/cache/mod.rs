//! The engine: lookup, decide, coalesce, fill. It knows keys, entries and bytes; which status tells a client of a
//! failure is decided above, which grammar made a key is decided above as well.
//!
//! A request's walk: `serve` asks the index for the key's entries, `decide` (pure) says what may be done with them,
//! and then either the store answers, or a flight does: one fill task that every asker follows.

mod blob;
mod board;
mod body;
pub mod coalesce;
pub mod counters;
pub mod decide;
mod document;
pub mod error;
pub mod evict;
mod explain;
mod fill;
mod follow;
mod head;
pub mod invalidate;
pub mod ledger;
pub mod lend;
mod open;
mod origins;
mod own_sum;
mod parent;
mod park;
mod peer;
mod plan;
pub mod policy;
pub mod relay;
pub mod remote;
pub mod scrub;
pub mod served;
mod sniff;
mod source;
mod stand_in;
pub mod standing;
mod terms;
#[cfg(test)]
mod tests;
pub mod upkeep;
pub mod usage;

use std::sync::Arc;

use http::Method;
use tokio::sync::mpsc;

use self::coalesce::Flights;
use self::counters::Counters;
use self::decide::{Decision, Refresh};
use self::error::CacheError;
use self::park::Parked;
use self::policy::freshness;
use self::policy::validate;
use self::served::{Ask, Part, Served, ServedBody};
use self::standing::Standing;
use self::terms::{hashed, head_of, keyed, only_if_cached, part_of, wanted};
use self::usage::{Metered, Usage};
use crate::index::{Index, Presence};
use crate::model::entry::{Candidates, Entry};
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::Freshness;
use crate::model::outcome::{Forwarded, Outcome, Reason};
use crate::model::place::TierName;
use crate::model::time::Timestamp;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::store::Store;
use crate::upstream::fetch::Fetch;
use crate::upstream::peer::Peer;

/// Where no bytes are needed, none have to be looked for.
const NO_BODY: (ServedBody, TierName) = (ServedBody::Empty, TierName::Memory);

/// The engine. Clones share everything.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Store,
    pub index: Index,
    pub fetch: Arc<dyn Fetch>,
    /// Asked before origins, in this order.
    pub peers: Vec<Arc<dyn Peer>>,
    pub clock: Arc<dyn Clock>,
    pub tasks: Tasks,
    pub counters: Counters,
    pub usage: Arc<Usage>,
    flights: Flights,
    parked: Parked,
    /// None: nothing is shared.
    bucket: Option<remote::Bucket>,
    notes: mpsc::Sender<ledger::Note>,
    /// Held by the eviction under way.
    evicting: tokio::sync::Mutex<()>,
}

/// The parts of an engine.
pub struct Parts {
    pub store: Store,
    pub index: Index,
    pub fetch: Arc<dyn Fetch>,
    /// Asked before origins, in this order.
    pub peers: Vec<Arc<dyn Peer>>,
    pub clock: Arc<dyn Clock>,
    pub tasks: Tasks,
    /// None: nothing is shared.
    pub bucket: Option<remote::Bucket>,
    pub ledger: usage::Settings,
}

impl Cache {
    pub fn new(parts: Parts) -> Cache {
        let Parts { store, index, fetch, peers, clock, tasks, bucket, ledger } = parts;
        let usage = Usage::new(&ledger, clock.clone());
        let fetch = Arc::new(Metered { inner: fetch, usage: usage.clone() });
        let (counters, flights) = (Counters::default(), Flights::default());
        let (notes, to_keep) = mpsc::channel(ledger::QUEUE);
        tasks.spawn("build records", Inner::keep_notes(index.clone(), tasks.clone(), to_keep));
        let evicting = tokio::sync::Mutex::new(());
        let parked = Parked::default();
        let inner = Inner {
            store,
            index,
            fetch,
            peers,
            clock,
            tasks,
            counters,
            usage,
            flights,
            parked,
            bucket,
            notes,
            evicting,
        };
        Cache { inner: Arc::new(inner) }
    }

    /// Answers from the store, or from upstream while it is being stored.
    ///
    /// *Errors*: upstream's, storage's and the index's kinds; `Unavailable` for `only-if-cached` with nothing usable.
    /// *Cancel*: a fill that was started goes on.
    pub async fn serve(&self, ask: &Ask<'_>) -> Result<Served, CacheError> {
        self.inner.serve(ask).await
    }

    /// Answers with what memory and the page cache have and nothing speaks against: the hot path. The decision goes
    /// along if it can be used again. None: `serve` has to be asked.
    pub fn at_once_and_again(&self, ask: &Ask<'_>) -> Option<(Served, Option<Standing>)> {
        let (served, decided) = self.inner.at_once(ask)?;
        Some((served, Standing::of(ask, &decided.stored, decided.at, decided.now)))
    }

    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// The bucket that is shared with other machines. None: there is none.
    pub fn bucket(&self) -> Option<&remote::Bucket> {
        self.inner.bucket.as_ref()
    }

    /// Fills under way.
    pub fn fills(&self) -> usize {
        self.inner.flights.under_way()
    }
}

impl Inner {
    fn at_once(self: &Arc<Inner>, ask: &Ask<'_>) -> Option<(Served, Decided)> {
        let Presence::Present(stored) = self.index.recall(&hashed(ask)) else { return None };
        let head = head_of(ask);
        let now = self.clock.now();
        let Decision::Serve { at, age } = decide::decide(&head, &stored, &ask.lookup.freshness, now) else {
            return None;
        };
        let entry = &stored[at];
        let part = part_of(ask, entry.status, &entry.headers, Some(entry.len));
        let (body, tier) = match wanted(ask, entry, part) {
            Some((digest, range)) => self.open_now(digest, range)?,
            None => NO_BODY,
        };
        let served = served(entry, part, body, Outcome::Hit(tier), age);
        Some((served, Decided { stored, at, now }))
    }

    pub(crate) async fn serve(self: &Arc<Inner>, ask: &Ask<'_>) -> Result<Served, CacheError> {
        if *ask.method != Method::GET && *ask.method != Method::HEAD {
            return self.relay(ask, Reason::Method).await;
        }
        if let Some(served) = self.own_sum(ask).await? {
            return Ok(served);
        }
        let (key, hash) = (keyed(ask), hashed(ask));
        let stored = self.stored(&hash).await?;
        let forwarded = decide::forwarded(&head_of(ask), &stored, &ask.lookup.freshness, self.clock.now());
        match self.answer(ask, key, hash, stored).await {
            Ok(served) => Ok(Served { forwarded, ..served }),
            Err(CacheError::Upstream(error)) => self.stand_in(ask, error).await,
            Err(CacheError::Remote(error)) if !only_if_cached(ask) => self.without_remote(ask, hash, error).await,
            // What cannot be read here is still to be had there.
            Err(CacheError::Store(error)) if !only_if_cached(ask) => {
                tracing::error!(%error, "storage failed, passing the request on");
                self.relay(ask, Reason::Full).await
            }
            failed => failed,
        }
    }

    async fn stored(&self, hash: &KeyHash) -> Result<Candidates, CacheError> {
        let found = match self.index.recall(hash) {
            Presence::Present(found) => Some(found),
            Presence::Absent => None,
            Presence::Unknown => self.index.candidates(hash).await?,
        };
        Ok(found.unwrap_or_else(|| Arc::from([])))
    }

    async fn answer(
        self: &Arc<Inner>,
        ask: &Ask<'_>,
        key: Key,
        hash: KeyHash,
        stored: Candidates,
    ) -> Result<Served, CacheError> {
        let head = head_of(ask);
        let now = self.clock.now();
        match decide::decide(&head, &stored, &ask.lookup.freshness, now) {
            Decision::Serve { at, .. } => {
                if let Some(served) = self.from_store(ask, &stored[at], None).await? {
                    return Ok(served);
                }
                self.through_flight(ask, key, hash, stored, None).await
            }
            Decision::ServeStale { at, refresh, .. } => {
                let entry = stored[at].clone();
                let Some(served) = self.from_store(ask, &entry, Some(Outcome::Stale)).await? else {
                    return self.through_flight(ask, key, hash, stored, None).await;
                };
                if refresh == Refresh::InBackground {
                    let conditions = validate::conditions(&entry);
                    self.refresh(ask, key, hash, stored, (entry, conditions));
                }
                Ok(served)
            }
            // A HEAD is not worth a body: it goes through as it is.
            Decision::Revalidate { .. } if *ask.method == Method::HEAD && ask.lookup.freshness == Freshness::Http => {
                self.relay_head(ask, &stored).await
            }
            Decision::Revalidate { at, conditions } => {
                let entry = stored[at].clone();
                // A body that is gone cannot be confirmed: its validators are not sent.
                let confirm = if self.has_body(&entry).await? { Some((entry, conditions)) } else { None };
                self.through_flight(ask, key, hash, stored, confirm).await
            }
            Decision::Fetch if *ask.method == Method::HEAD => self.relay_head(ask, &stored).await,
            Decision::Fetch => self.through_flight(ask, key, hash, stored, None).await,
            Decision::Unsatisfiable => Err(CacheError::OnlyIfCached),
            Decision::Relay(reason) => self.relay(ask, reason).await,
        }
    }

    async fn has_body(&self, entry: &Entry) -> Result<bool, CacheError> {
        let Some(digest) = &entry.body else { return Ok(true) };
        Ok(self.index.find_place(digest).await?.is_some())
    }

    /// Serves a stored answer; None when its bytes are not there any more.
    async fn from_store(
        self: &Arc<Inner>,
        ask: &Ask<'_>,
        entry: &Arc<Entry>,
        outcome: Option<Outcome>,
    ) -> Result<Option<Served>, CacheError> {
        let part = part_of(ask, entry.status, &entry.headers, Some(entry.len));
        let (body, tier) = match wanted(ask, entry, part) {
            Some((digest, range)) => match self.open(digest, range).await? {
                Some(opened) => opened,
                None => return Ok(None),
            },
            None => NO_BODY,
        };
        let age = freshness::age(entry, self.clock.now());
        Ok(Some(served(entry, part, body, outcome.unwrap_or(Outcome::Hit(tier)), age)))
    }
}

/// Which of the stored answers was chosen, and when.
struct Decided {
    stored: Candidates,
    at: usize,
    now: Timestamp,
}

/// A stored answer on its way out.
fn served(entry: &Entry, part: Part, body: ServedBody, outcome: Outcome, age: u64) -> Served {
    Served {
        status: entry.status,
        headers: entry.headers.clone(),
        len: Some(entry.len),
        part,
        body,
        outcome,
        forwarded: Forwarded::default(),
        age: Some(age),
        key: Some(entry.hash),
        source: Some(entry.key.clone()),
        digest: entry.body,
        fetch_ms: entry.fetch_ms,
    }
}
