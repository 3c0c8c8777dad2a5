//! From an asker to a flight and along with it: the first one starts the fill, all follow it, and who may not share it
//! makes an exchange of its own.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::coalesce::{Boarded, Seat, Stage};
use super::error::CacheError;
use super::plan::FillPlan;
use super::served::{Ask, Part, Served, ServedBody};
use super::terms::{fits, judged, keyed, part_of};
use super::{Inner, fill, follow};
use crate::model::entry::{Candidates, Entry};
use crate::model::key::{Key, KeyHash};
use crate::model::outcome::{Forwarded, Outcome, Reason};

/// A range that starts so far past what a fill has is relayed, when it is also small.
const RANGE_AHEAD_BYTES: u64 = 8 << 20;
const RANGE_SMALL_BYTES: u64 = 4 << 20;

impl Inner {
    /// Answers from a fill: one under way, or one started here.
    pub(super) async fn through_flight(
        self: &Arc<Inner>,
        ask: &Ask<'_>,
        key: Key,
        hash: KeyHash,
        stored: Candidates,
        confirm: Option<(Arc<Entry>, HeaderMap)>,
    ) -> Result<Served, CacheError> {
        let plan = FillPlan::of(ask, key, hash, stored, confirm);
        let (id, confirming) = (plan.id.clone(), plan.confirm.is_some());
        let (seat, outcome) = match self.flights.board(&id, self.clock.elapsed()) {
            Boarded::First(seat) => {
                self.start(plan, &seat);
                (seat, Outcome::Miss)
            }
            Boarded::Joined(seat) => (seat, Outcome::Coalesced),
        };
        let mut watch = seat.flight.watch();
        let stage = match watch.wait_for(|stage| !seat.flight.is_awaited(stage)).await {
            Ok(stage) => stage.clone(),
            Err(_) => return Err(CacheError::Abandoned),
        };
        match stage {
            Stage::Asking | Stage::Failed(CacheError::Abandoned) => Err(CacheError::Abandoned),
            Stage::Failed(error) => Err(error),
            Stage::HandedOff(reason) => self.take_off(ask, &seat, reason).await,
            Stage::Kept(entry, kept) if fits(ask, &entry) => match self.from_store(ask, &entry, Some(kept)).await? {
                Some(served) => Ok(served),
                // The body went meanwhile.
                None if confirming || outcome == Outcome::Coalesced || kept == Outcome::Peer => {
                    Box::pin(self.through_flight(ask, keyed(ask), hash, Arc::from([]), None)).await
                }
                None => Err(CacheError::Abandoned),
            },
            Stage::Kept(..) => self.relay(ask, Reason::NoStore).await,
            Stage::Streaming { .. } | Stage::Sealed(_) | Stage::Overflowed { .. } => {
                self.along(ask, seat, outcome).await
            }
        }
    }

    /// Follows a fill whose head is there.
    async fn along(self: &Arc<Inner>, ask: &Ask<'_>, seat: Seat, outcome: Outcome) -> Result<Served, CacheError> {
        let flight = seat.flight.clone();
        let head = flight.head.get().ok_or(CacheError::Abandoned)?;
        if outcome == Outcome::Coalesced && !(head.is_shared && fits(ask, &head.entry)) {
            // Another variant than ours, or meant for the first asker: an exchange of our own.
            return self.relay(ask, Reason::NoStore).await;
        }
        let outcome = if head.lent.is_some() { Outcome::Peer } else { outcome };
        let part = part_of(ask, head.entry.status, &head.entry.headers, head.len);
        let range = match part {
            Part::Range(range) => Some(range),
            Part::Whole | Part::NotModified | Part::PreconditionFailed | Part::Unsatisfiable => None,
        };
        if let Some(range) = range
            && range.len() <= RANGE_SMALL_BYTES
            && range.start > head.partial.written() + RANGE_AHEAD_BYTES
        {
            return self.relay(ask, Reason::Range).await;
        }
        let body = match part {
            Part::Whole | Part::Range(_) if *ask.method == Method::GET => {
                ServedBody::Stream(follow::follow(self.clone(), seat, range, ask.framing))
            }
            Part::Whole | Part::Range(_) | Part::NotModified | Part::PreconditionFailed | Part::Unsatisfiable => {
                ServedBody::Empty
            }
        };
        Ok(Served {
            status: head.entry.status,
            headers: head.entry.headers.clone(),
            len: head.len,
            part,
            body,
            outcome,
            forwarded: Forwarded::default(),
            age: None,
            key: Some(head.entry.hash),
            source: Some(head.entry.key.clone()),
            digest: head.lent,
            fetch_ms: 0,
        })
    }

    /// The first asker takes an answer that cannot be shared; the others make an exchange of their own.
    async fn take_off(self: &Arc<Inner>, ask: &Ask<'_>, seat: &Seat, why: Reason) -> Result<Served, CacheError> {
        let handoff = seat.flight.handoff.lock().take();
        match handoff {
            Some(served) => Ok(judged(ask, served)),
            None => self.relay(ask, why).await,
        }
    }

    /// Refreshes behind a stale answer.
    pub(super) fn refresh(
        self: &Arc<Inner>,
        ask: &Ask<'_>,
        key: Key,
        hash: KeyHash,
        stored: Candidates,
        confirm: (Arc<Entry>, HeaderMap),
    ) {
        let plan = FillPlan::of(ask, key, hash, stored, Some(confirm));
        if self.flights.is_solo(&plan.id, self.clock.elapsed()) {
            return;
        }
        match self.flights.board(&plan.id.clone(), self.clock.elapsed()) {
            Boarded::First(seat) => self.start(plan, &seat),
            Boarded::Joined(_) => {}
        }
    }

    fn start(self: &Arc<Inner>, plan: FillPlan, seat: &Seat) {
        self.tasks.spawn("fill", fill::run(self.clone(), plan, seat.flight.clone()));
    }
}
