//! Many askers, one fill. A flight is what they share: the fill publishes its stage, everybody else watches.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::CacheError;
use super::served::Served;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::outcome::{Outcome, Reason};
use crate::store::Partial;

/// What may share a fill: the same key, asked under the same credential.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct FlightId {
    pub key: KeyHash,
    pub identity: Option<Box<str>>,
}

/// A fill under way.
pub(super) struct Flight {
    pub head: OnceLock<Head>,
    /// An answer that cannot be shared: one asker gets it as it is.
    pub handoff: Mutex<Option<Served>>,
    stage: watch::Sender<Stage>,
    followers: AtomicUsize,
    /// Its answer may be from before a write to the same address.
    doubtful: AtomicBool,
}

/// The head of an answer that is being stored.
pub(super) struct Head {
    /// As it will be recorded, but for what only the end tells.
    pub entry: Entry,
    /// Whether others than the first asker may have it while it comes.
    pub is_shared: bool,
    pub len: Option<u64>,
    pub partial: Partial,
    /// Where the rest can be had when storing stops half-way.
    pub resume: Resumption,
    /// What a peer said that it is, if one lends it: proven before its end is passed on.
    pub lent: Option<Digest>,
}

/// How to take up a body again at an offset.
#[derive(Clone)]
pub(super) struct Resumption {
    pub url: url::Url,
    pub trust: crate::model::lookup::Trust,
    /// As they went upstream.
    pub headers: http::HeaderMap,
    /// None: nothing proves that the rest would belong to the same body.
    pub plan: Option<crate::upstream::resume::Plan>,
    pub expect: Vec<crate::model::checksum::Checksum>,
    pub party: crate::model::party::Party,
    pub cause: std::sync::Arc<crate::model::key::Key>,
}

/// How far a fill is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// No head yet.
    Asking,
    /// So many bytes can be read.
    Streaming {
        written: u64,
    },
    /// Storage is full: so many bytes stay readable, no more will come.
    Overflowed {
        stored: u64,
    },
    /// All there and verified; recorded, unless storage failed at the very end.
    Sealed(Arc<Entry>),
    /// What was stored before may be used.
    Kept(Arc<Entry>, Outcome),
    /// Not to be shared: the answer waits in `handoff` for the first who takes it.
    HandedOff(Reason),
    Failed(CacheError),
}

impl Flight {
    pub fn new() -> Arc<Flight> {
        Arc::new(Flight {
            head: OnceLock::new(),
            handoff: Mutex::new(None),
            stage: watch::Sender::new(Stage::Asking),
            followers: AtomicUsize::new(0),
            doubtful: AtomicBool::new(false),
        })
    }

    pub fn publish(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    pub fn is_ended(&self) -> bool {
        !matches!(*self.stage.borrow(), Stage::Asking | Stage::Streaming { .. })
    }

    pub fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Whether an asker has to wait: there is no head yet, or it is all of the answer and not yet proven and recorded.
    /// Of other answers the last piece is withheld instead; an empty one has none.
    pub fn is_awaited(&self, stage: &Stage) -> bool {
        match stage {
            Stage::Asking => true,
            Stage::Streaming { .. } => self.head.get().is_some_and(|head| head.len == Some(0)),
            Stage::Overflowed { .. } | Stage::Sealed(_) | Stage::Kept(..) | Stage::HandedOff(_) | Stage::Failed(_) => {
                false
            }
        }
    }

    pub fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    pub fn followers(&self) -> usize {
        self.followers.load(Ordering::Acquire)
    }
}

/// One asker's share in a flight; dropped when it hangs up.
pub(super) struct Seat {
    pub flight: Arc<Flight>,
}

impl Seat {
    pub fn take(flight: &Arc<Flight>) -> Seat {
        flight.followers.fetch_add(1, Ordering::AcqRel);
        Seat { flight: flight.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.flight.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All fills under way.
#[derive(Default)]
pub(super) struct Flights {
    under_way: Mutex<HashMap<FlightId, Arc<Flight>>>,
    /// Keys whose last answer could not be shared, and until when nobody should wait for one.
    solo: Mutex<HashMap<FlightId, Duration>>,
}

/// How an asker came to its flight.
pub(super) enum Boarded {
    /// Nobody was filling: the caller starts the fill.
    First(Seat),
    Joined(Seat),
}

impl Flights {
    const SOLO_MAX: usize = 4096;
    const SOLO_FOR: Duration = Duration::from_secs(10);

    /// Joins the fill under way, or opens a flight.
    pub fn board(&self, id: &FlightId, now: Duration) -> Boarded {
        if self.is_solo(id, now) {
            return Boarded::First(Seat::take(&Flight::new()));
        }
        match self.under_way.lock().entry(id.clone()) {
            Slot::Occupied(slot) => Boarded::Joined(Seat::take(slot.get())),
            Slot::Vacant(slot) => Boarded::First(Seat::take(slot.insert(Flight::new()))),
        }
    }

    /// Takes a flight off the board; later askers find the store, or start anew.
    pub fn land(&self, id: &FlightId, flight: &Arc<Flight>) {
        let mut under_way = self.under_way.lock();
        if under_way.get(id).is_some_and(|found| Arc::ptr_eq(found, flight)) {
            under_way.remove(id);
        }
    }

    /// Takes a flight off the board if nobody follows it: then nobody ever will.
    pub fn forsake(&self, id: &FlightId, flight: &Arc<Flight>) -> bool {
        let mut under_way = self.under_way.lock();
        if flight.followers() > 0 {
            return false;
        }
        if under_way.get(id).is_some_and(|found| Arc::ptr_eq(found, flight)) {
            under_way.remove(id);
        }
        true
    }

    /// Closes the fills of a key to later askers: what they bring may be out of date when it is stored.
    pub fn doubt(&self, key: &KeyHash) {
        self.under_way.lock().retain(|id, flight| {
            let is_it = id.key == *key;
            if is_it {
                flight.doubtful.store(true, Ordering::Release);
            }
            !is_it
        });
    }

    /// Remembers for a moment that answers to this are not shared, so that askers do not queue for each other.
    pub fn mark_solo(&self, id: &FlightId, now: Duration) {
        let mut solo = self.solo.lock();
        if solo.len() >= Flights::SOLO_MAX {
            solo.retain(|_, until| *until > now);
        }
        if solo.len() < Flights::SOLO_MAX {
            solo.insert(id.clone(), now + Flights::SOLO_FOR);
        }
    }

    pub fn is_solo(&self, id: &FlightId, now: Duration) -> bool {
        let mut solo = self.solo.lock();
        match solo.get(id) {
            Some(until) if *until > now => true,
            Some(_) => {
                solo.remove(id);
                false
            }
            None => false,
        }
    }

    pub fn under_way(&self) -> usize {
        self.under_way.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::fixture::http;
    use super::*;

    #[test]
    fn a_write_closes_the_fills_of_its_key_to_later_askers() {
        let flights = Flights::default();
        let id = |identity: Option<&str>| FlightId { key: http(&[]).hash, identity: identity.map(Into::into) };
        let board = |id: &FlightId| flights.board(id, Duration::ZERO);
        let Boarded::First(before) = board(&id(None)) else { panic!("nobody was there") };
        let Boarded::First(_other) = board(&id(Some("x"))) else { panic!("another credential") };
        assert!(matches!(board(&id(None)), Boarded::Joined(_)));
        flights.doubt(&http(&[]).hash);
        assert!(before.flight.is_doubtful());
        let Boarded::First(after) = board(&id(None)) else { panic!("what comes now is from before the write") };
        assert!(!after.flight.is_doubtful());
        assert!(matches!(board(&id(Some("x"))), Boarded::First(_)));
    }
}
