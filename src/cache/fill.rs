//! The task that fetches and stores. Nobody leads it: it is started by an asker and runs on without one.
//!
//! A fill ends in exactly one stage: sealed, kept (a 304, or stale for an outage), handed off (not to be shared),
//! overflowed (storage full half-way) or failed. A panic or a drop counts as failed.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{StatusCode, header};

use super::Inner;
use super::body::{self, Beginning, TakenUp};
use super::coalesce::{Flight, Stage};
use super::decide;
use super::error::CacheError;
use super::origins::Question;
use super::peer::{FromPeer, Lent, Loan};
use super::plan::{Ending, FillPlan};
use super::policy::rules::{self, Rules};
use super::policy::store::{self, Storable};
use super::policy::validate;
use super::relay;
use super::served::Served;
use super::sniff::{self, Sniffed};
use super::source::{Addresses, Keeping, Reader, Sums};
use crate::index::Ack;
use crate::index::catalog::Put;
use crate::index::record::Record;
use crate::model::checksum::Checksum;
use crate::model::entry::Entry;
use crate::model::lookup::{Expect, Freshness, Origin};
use crate::model::outcome::{Outcome, Reason};
use crate::store::{BlobWriter, Intent, StoreError};
use crate::upstream::fetch::{Ends, Fetched};

/// Runs a fill to its end. Whoever waits for it is told of its end even if the task never runs.
pub(super) fn run(cache: Arc<Inner>, plan: FillPlan, flight: Arc<Flight>) -> impl Future<Output = ()> + Send {
    let ending = Ending::new(cache.clone(), plan.id.clone(), flight);
    async move {
        let stage = match fill(&cache, &plan, &ending).await {
            Ok(stage) => stage,
            Err(error) => {
                tracing::debug!(key = %plan.key, %error, "fill failed");
                Stage::Failed(error)
            }
        };
        // Off the board first: whoever boards after this word finds the store.
        cache.flights.land(&plan.id, &ending.flight);
        ending.publish(stage);
    }
}

async fn fill(cache: &Arc<Inner>, plan: &FillPlan, ending: &Ending) -> Result<Stage, CacheError> {
    let reader = Reader::of_plan(plan);
    let (expect, keeping) = match cache.sums(&reader, &plan.lookup.expect).await? {
        Sums::Known { expect, keeping } => (expect, keeping),
        Sums::Answer(answer) => return Ok(hand_off(ending, *answer, Reason::Upstream)),
    };
    let (fetched, origin, loan) = match body::take_up(cache, plan, &expect).await {
        TakenUp::Goes(answer) => {
            let (fetched, part) = *answer;
            return body::go_on(cache, plan, ending, fetched, part).await;
        }
        TakenUp::Anew(answer) => from_origin(*answer),
        TakenUp::Nothing => match ask(cache, plan, &reader, &expect, keeping).await? {
            Asked::Answered(answer) => from_origin(*answer),
            Asked::Lent(lent) => (lent.fetched, lent.origin, Some(lent.loan)),
            Asked::Known(entry) => return Ok(Stage::Kept(entry, Outcome::Peer)),
            Asked::Kept(entry) => return Ok(Stage::Kept(entry, Outcome::Stale)),
            Asked::Document(answer) => return Ok(hand_off(ending, *answer, Reason::Upstream)),
        },
    };
    if fetched.status == StatusCode::NOT_MODIFIED
        && let Some((entry, _)) = &plan.confirm
    {
        return confirmed(cache, plan, entry, &fetched, keeping, &expect).await;
    }
    if decide::is_outage(fetched.status.as_u16())
        && let Some(entry) = usable_when_failing(cache, plan).await?
    {
        return Ok(Stage::Kept(entry, Outcome::Stale));
    }
    let is_there = fetched.status.is_success();
    // What says that it is not there hashes to something else.
    let expect = if is_there { expect } else { Vec::new() };
    if is_transient(plan, &fetched) {
        return Ok(pass_on(plan, ending, fetched, Reason::Upstream));
    }
    let vary = match judge(cache, plan, &fetched, &expect, keeping) {
        Ok(vary) if keeping != Keeping::Unproven => vary,
        Ok(_) => return Ok(hand_off_solo(cache, plan, ending, fetched, Reason::Unproven)),
        Err(reason) => return Ok(hand_off_solo(cache, plan, ending, fetched, reason)),
    };
    let (fetched, sniffed) = sniff::looked_at(&plan.lookup.expect, fetched).await.map_err(CacheError::Upstream)?;
    if sniffed == Sniffed::Otherwise {
        return Ok(hand_off_solo(cache, plan, ending, fetched, Reason::Unproven));
    }
    let is_shared = plan.lookup.freshness != Freshness::Http
        || store::shareable(fetched.status.as_u16(), &fetched.headers, &plan.ask_head());
    if !is_shared {
        cache.flights.mark_solo(&plan.id, cache.clock.elapsed());
    }
    fits(plan, fetched.status, fetched.len)?;
    let sums: BTreeSet<_> = expect.iter().map(Checksum::algorithm).collect();
    let intent = Intent { len: fetched.len, class: plan.class(), sums: sums.into_iter().collect() };
    let writer = match open_writer(cache, intent).await {
        Ok(writer) => writer,
        Err(error) => {
            tracing::warn!(%error, "nothing can be stored, passing answers on");
            return Ok(pass_on(plan, ending, fetched, Reason::Full));
        }
    };
    let draft = Entry { valid: keeping == Keeping::Allowed || !is_there, ..draft(plan, &fetched, vary) };
    body::begin(cache, plan, ending, Beginning { fetched, origin, writer, expect, draft, is_shared, loan }).await
}

fn pass_on(plan: &FillPlan, ending: &Ending, fetched: Fetched, reason: Reason) -> Stage {
    hand_off(ending, relay::served(fetched, &plan.method, reason, plan.key.clone()), reason)
}

fn from_origin((fetched, origin): (Fetched, Origin)) -> (Fetched, Origin, Option<Loan>) {
    (fetched, origin, None)
}

/// Whether an absence says little: a thing that is asked for by its sum may be had under another name.
fn is_transient(plan: &FillPlan, fetched: &Fetched) -> bool {
    let by_sum = matches!(plan.lookup.expect, Expect::Sum(_) | Expect::Exactly { .. });
    by_sum && matches!(fetched.status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Under which variant the answer is kept, or why it is not.
fn judge(
    cache: &Inner,
    plan: &FillPlan,
    fetched: &Fetched,
    expect: &[Checksum],
    keeping: Keeping,
) -> Result<Vec<(String, Option<String>)>, Reason> {
    let (status, freshness) = (fetched.status.as_u16(), &plan.lookup.freshness);
    let refused = |reason, why| {
        tracing::debug!(key = %plan.key, why, "not stored");
        reason
    };
    let now = cache.clock.now();
    let vary = match store::storable(&plan.ask_head(), status, &fetched.headers, freshness, now) {
        Storable::Yes { vary } => vary,
        Storable::No(reason, why) => return Err(refused(reason, why)),
    };
    if keeping == Keeping::Doubted
        && fetched.status.is_success()
        && store::is_withdrawn(status, &Rules::of(&fetched.headers))
    {
        return Err(refused(Reason::NoStore, "no sum proves it, and the answer forbids keeping it"));
    }
    // RFC 9112 §8 lets a body that only closing ends count as whole. A cache would serve it cut for ever.
    if fetched.len.is_none() && fetched.body.ends() == Ends::OnClose && expect.is_empty() {
        return Err(refused(
            Reason::NoStore,
            "only the closing of the connection marked its end, and no sum proves it",
        ));
    }
    Ok(vary)
}

/// Whether an answer that announces its length may be what is expected.
fn fits(plan: &FillPlan, status: StatusCode, len: Option<u64>) -> Result<(), CacheError> {
    let Some(len) = len else { return Ok(()) };
    match plan.lookup.expect {
        Expect::Exactly { bytes, .. } if status == StatusCode::OK && len != bytes => {
            Err(CacheError::Mismatch { why: format!("{len} bytes where {bytes} were named") })
        }
        _ if len > plan.lookup.max_bytes => Err(CacheError::TooLarge { limit: plan.lookup.max_bytes }),
        _ => Ok(()),
    }
}

/// Opens a writer; when there is no room, tries to make some first.
pub(super) async fn open_writer(cache: &Arc<Inner>, intent: Intent) -> Result<BlobWriter, StoreError> {
    match cache.store.writer(intent.clone()) {
        Err(StoreError::Full { .. }) if cache.make_room(intent.class, intent.len.unwrap_or(0)).await => {
            cache.store.writer(intent)
        }
        other => other,
    }
}

async fn confirmed(
    cache: &Arc<Inner>,
    plan: &FillPlan,
    entry: &Arc<Entry>,
    fetched: &Fetched,
    keeping: Keeping,
    expect: &[Checksum],
) -> Result<Stage, CacheError> {
    let ask = plan.ask_head();
    let mut freshened = validate::freshen(entry, &ask, &fetched.headers, fetched.requested_at, fetched.received_at);
    freshened.valid = keeping == Keeping::Allowed && has_sums(cache, entry, expect).await?;
    let freshened = Arc::new(freshened);
    let put = Put { entry: freshened.clone(), expected: None };
    let record = Record { entries: vec![put], ..Record::default() };
    cache.index.record(record, Ack::Visible).await?;
    tracing::debug!(key = %plan.key, "confirmed by upstream");
    Ok(Stage::Kept(freshened, Outcome::Revalidated))
}

/// Whether what is stored was once compared with all of the sums.
pub(super) async fn has_sums(cache: &Inner, entry: &Entry, expect: &[Checksum]) -> Result<bool, CacheError> {
    let Some(digest) = entry.body.filter(|_| !expect.is_empty()) else { return Ok(true) };
    let known = cache.index.sums_of(&[digest]).await?.pop().unwrap_or_default();
    Ok(expect.iter().all(|sum| known.contains(sum)))
}

/// What came of asking.
enum Asked {
    Answered(Box<(Fetched, Origin)>),
    /// By another larder.
    Lent(Box<Lent>),
    /// Another larder named bytes that are here.
    Known(Arc<Entry>),
    /// Nobody could be asked: what is stored stands in.
    Kept(Arc<Entry>),
    /// The document that should name the origins could not be had: its answer is ours too.
    Document(Box<Served>),
}

/// Asks the larder that stands before the origins, or those beside this one, then the origins in turn, under the
/// conditions of what is to be confirmed. What is stored goes before origins that are asked for want of the larder alone.
async fn ask(
    cache: &Arc<Inner>,
    plan: &FillPlan,
    reader: &Reader,
    expect: &[Checksum],
    keeping: Keeping,
) -> Result<Asked, CacheError> {
    match cache.ask_peers(plan, reader, expect, keeping).await? {
        Some(FromPeer::Coming(lent)) => return Ok(Asked::Lent(lent)),
        Some(FromPeer::Known(entry)) => return Ok(Asked::Known(entry)),
        None => {}
    }
    let mut headers = plan.request.clone();
    if let Some((_, conditions)) = &plan.confirm {
        headers.extend(conditions.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    let (method, redirects, party) = (plan.method.clone(), plan.redirects, plan.party.clone());
    let question = Question { method, headers, redirects, party, cause: plan.key.clone() };
    if plan.lookup.origins.parent().is_some() {
        if let Some(answer) = cache.ask_parent(&plan.lookup, reader, &question, expect).await {
            return Ok(Asked::Answered(Box::new(answer)));
        }
        if let Some(entry) = usable_when_failing(cache, plan).await? {
            return Ok(Asked::Kept(entry));
        }
    }
    let origins = match cache.resolve(reader, &plan.lookup.origins).await? {
        Addresses::Origins(origins) => origins,
        Addresses::Answer(answer) => return Ok(Asked::Document(answer)),
    };
    match cache.ask_in_turn(&origins, &question).await {
        Ok(answer) => Ok(Asked::Answered(Box::new(answer))),
        Err(error) => stale_or(cache, plan, CacheError::Upstream(error)).await.map(Asked::Kept),
    }
}

fn draft(plan: &FillPlan, fetched: &Fetched, vary: Vec<(String, Option<String>)>) -> Entry {
    let mut headers = rules::stored_fields(&fetched.headers);
    if plan.lookup.freshness != Freshness::Http {
        // A package is the same for all, and no package manager keeps a session.
        headers.remove(header::SET_COOKIE);
    }
    Entry {
        key: plan.key.clone(),
        hash: plan.id.key,
        status: fetched.status.as_u16(),
        headers,
        vary,
        body: None,
        len: fetched.len.unwrap_or(0),
        requested_at: fetched.requested_at,
        fetched_at: fetched.received_at,
        fetch_ms: 0,
        seq: 0,
        refs: Vec::new(),
        writer: plan.writer.clone(),
        realm: plan.realm.clone(),
        valid: true,
    }
}

async fn stale_or(cache: &Inner, plan: &FillPlan, error: CacheError) -> Result<Arc<Entry>, CacheError> {
    let Some(entry) = usable_when_failing(cache, plan).await? else { return Err(error) };
    tracing::info!(key = %plan.key, %error, "upstream failed, serving what is stored");
    Ok(entry)
}

/// The newest stored answer to this very request that may stand in while upstream fails.
async fn usable_when_failing(cache: &Inner, plan: &FillPlan) -> Result<Option<Arc<Entry>>, CacheError> {
    let (ask, freshness) = (plan.ask_head(), &plan.lookup.freshness);
    let Some(at) = decide::selected(&ask, &plan.stored, freshness) else { return Ok(None) };
    let entry = &plan.stored[at];
    let usable = decide::stale_if_error(entry, freshness, &ask, cache.clock.now());
    Ok((usable && cache.has_body(entry).await?).then(|| entry.clone()))
}

fn hand_off(ending: &Ending, served: Served, why: Reason) -> Stage {
    *ending.flight.handoff.lock() = Some(served);
    Stage::HandedOff(why)
}

fn hand_off_solo(cache: &Inner, plan: &FillPlan, ending: &Ending, fetched: Fetched, reason: Reason) -> Stage {
    cache.flights.mark_solo(&plan.id, cache.clock.elapsed());
    pass_on(plan, ending, fetched, reason)
}
