//! The task that fetches and stores. Nobody leads it: it is started by an asker and runs on without one.
//!
//! A fill ends in exactly one stage: sealed, kept (a 304, or stale for an outage), handed off (not to be shared),
//! overflowed (storage full half-way) or failed. A panic or a drop counts as failed.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::Inner;
use super::coalesce::{Flight, FlightId, Head, Resumption, Stage};
use super::decide;
use super::error::CacheError;
use super::policy::ask::AskHead;
use super::policy::store::{self, Storable};
use super::policy::{fields, validate};
use super::relay;
use super::served::Served;
use super::source::Sources;
use crate::index::Ack;
use crate::index::catalog::Put;
use crate::index::record::{NewBlob, Record};
use crate::model::entry::{Candidates, Entry};
use crate::model::key::Key;
use crate::model::lookup::{Fallback, Freshness, Lookup, Origin};
use crate::model::outcome::{Outcome, Reason};
use crate::model::place::Class;
use crate::model::realm::Realm;
use crate::store::{BlobWriter, Intent, Partial, SealedBlob, StoreError};
use crate::upstream::fetch::{FetchAsk, FetchBody, Fetched, Redirects, Resume, UpstreamError};

/// Bodies up to this size are filled to the end though nobody waits.
const FINISH_ALONE_BYTES: u64 = 64 << 20;

/// All that a fill needs; it outlives the request that started it.
pub(super) struct FillPlan {
    pub lookup: Lookup,
    pub key: Arc<Key>,
    pub id: FlightId,
    /// The client's method and fields: storing depends on them.
    pub method: Method,
    pub client_headers: HeaderMap,
    /// What goes upstream: fields of the key, or of `Vary`.
    pub request: HeaderMap,
    /// The stored answer to be confirmed, and the conditions that ask for it.
    pub confirm: Option<(Arc<Entry>, HeaderMap)>,
    pub stored: Candidates,
    pub realm: Realm,
    pub writer: Arc<str>,
    pub redirects: Redirects,
}

impl FillPlan {
    pub(super) fn ask_head(&self) -> AskHead<'_> {
        super::ask_head(&self.method, &self.client_headers, &self.lookup)
    }

    fn class(&self) -> Class {
        match self.lookup.freshness {
            Freshness::Immutable => Class::Trusted,
            Freshness::Revalidate { .. } => Class::Document,
            Freshness::Http => Class::Trusted,
        }
    }
}

/// Publishes a failure if the fill ends without a word.
struct Ending {
    cache: Arc<Inner>,
    id: FlightId,
    flight: Arc<Flight>,
}

impl Ending {
    fn publish(&self, stage: Stage) {
        self.flight.publish(stage);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.cache.flights.land(&self.id, &self.flight);
        if !self.flight.is_ended() {
            self.flight.publish(Stage::Failed(CacheError::Abandoned));
        }
    }
}

/// Runs a fill to its end.
pub(super) async fn run(cache: Arc<Inner>, plan: FillPlan, flight: Arc<Flight>) {
    let ending = Ending { cache: cache.clone(), id: plan.id.clone(), flight };
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

async fn fill(cache: &Arc<Inner>, plan: &FillPlan, ending: &Ending) -> Result<Stage, CacheError> {
    let (origins, expect) = match cache.sources(plan).await? {
        Sources::Found { origins, expect } => (origins, expect),
        Sources::Answer(answer) => return Ok(hand_off(ending, *answer)),
    };
    let (fetched, origin) = match ask(cache, plan, &origins).await {
        Ok(answer) => answer,
        Err(error) => return stale_or(cache, plan, CacheError::Upstream(error)),
    };
    if fetched.status == StatusCode::NOT_MODIFIED
        && let Some((entry, _)) = &plan.confirm
    {
        return confirmed(cache, plan, entry, &fetched).await;
    }
    if decide::is_outage(fetched.status.as_u16())
        && let Some(entry) = usable_when_failing(cache, plan)
    {
        return Ok(Stage::Kept(entry, Outcome::Stale));
    }
    let vary = match store::storable(
        &plan.ask_head(),
        fetched.status.as_u16(),
        &fetched.headers,
        &plan.lookup.freshness,
        cache.clock.now(),
    ) {
        Storable::Yes { vary } => vary,
        Storable::No(reason, why) => {
            tracing::debug!(key = %plan.key, why, "not stored");
            return Ok(hand_off_solo(cache, plan, ending, fetched, reason));
        }
    };
    let is_shared = plan.lookup.freshness != Freshness::Http
        || store::shareable(fetched.status.as_u16(), &fetched.headers, &plan.ask_head());
    if !is_shared {
        cache.flights.mark_solo(&plan.id, cache.clock.elapsed());
    }
    if fetched.len.is_some_and(|len| len > plan.lookup.max_bytes) {
        return Err(CacheError::TooLarge { limit: plan.lookup.max_bytes });
    }
    let mut sums: Vec<_> = expect.iter().map(|sum| sum.algorithm()).collect();
    sums.dedup();
    let writer = match open_writer(cache, Intent { len: fetched.len, class: plan.class(), sums }).await {
        Ok(writer) => writer,
        Err(error) => {
            tracing::warn!(%error, "nothing can be stored, passing answers on");
            return Ok(hand_off(ending, relay::served(fetched, &plan.method, Reason::Full)));
        }
    };
    let entry = draft(plan, &fetched, vary);
    let partial = writer.partial();
    let head = Head {
        is_shared,
        len: fetched.len,
        partial: partial.clone(),
        resume: Resumption {
            url: fetched.url.clone(),
            trust: origin.trust,
            headers: plan.request.clone(),
            validator: strong_validator(&fetched.headers),
            expect: expect.first().copied(),
        },
        entry,
    };
    let draft = ending.flight.head.get_or_init(|| head).entry.clone();
    ending.publish(Stage::Streaming { written: 0 });
    store_body(cache, plan, ending, Body { fetched, writer, partial, expect, draft }).await
}

/// Opens a writer; when there is no room, tries to make some first.
async fn open_writer(cache: &Arc<Inner>, intent: Intent) -> Result<BlobWriter, StoreError> {
    match cache.store.writer(intent.clone()) {
        Err(StoreError::Full { .. }) if cache.make_room(intent.class, intent.len.unwrap_or(0)).await => {
            cache.store.writer(intent)
        }
        other => other,
    }
}

struct Body {
    fetched: Fetched,
    writer: BlobWriter,
    partial: Partial,
    expect: Vec<crate::model::checksum::Checksum>,
    draft: Entry,
}

async fn store_body(cache: &Arc<Inner>, plan: &FillPlan, ending: &Ending, mut body: Body) -> Result<Stage, CacheError> {
    let mut written = 0_u64;
    while let Some(chunk) = body.fetched.body.chunk().await {
        let chunk = chunk.map_err(CacheError::Upstream)?;
        written += chunk.len() as u64;
        if written > plan.lookup.max_bytes {
            return Err(CacheError::TooLarge { limit: plan.lookup.max_bytes });
        }
        if let Err(error) = body.writer.write(chunk).await {
            return overflow(cache, &body, error);
        }
        ending.publish(Stage::Streaming { written: body.partial.written() });
        if is_forsaken(&ending.flight, body.fetched.len, written) {
            tracing::debug!(key = %plan.key, written, "nobody waits for this fill any more");
            return Err(CacheError::Abandoned);
        }
    }
    let sealed = match body.writer.seal(&body.expect, body.fetched.len).await {
        Ok(sealed) => sealed,
        Err(StoreError::Full { why }) => {
            tracing::warn!(%why, "storage is full at the end of a fill");
            return Ok(Stage::Overflowed { stored: written });
        }
        Err(error) => return Err(error.into()),
    };
    let spent = cache.clock.now().since(body.draft.requested_at);
    body.draft.fetch_ms = u32::try_from(spent.as_millis()).unwrap_or(u32::MAX);
    body.draft.valid = !ending.flight.is_doubtful();
    record(cache, plan, body.draft, sealed).await.map(Stage::Sealed)
}

/// Storage gave up half-way: what is stored stays readable and followers go on by Range.
fn overflow(cache: &Arc<Inner>, body: &Body, error: StoreError) -> Result<Stage, CacheError> {
    let stored = body.partial.written();
    tracing::warn!(%error, stored, "storage gave up in the middle of a fill, followers go on upstream");
    cache.counters.overflowed();
    Ok(Stage::Overflowed { stored })
}

/// Places before keys: the blob's place and the entry go to the index in one record.
async fn record(
    cache: &Arc<Inner>,
    plan: &FillPlan,
    mut entry: Entry,
    sealed: SealedBlob,
) -> Result<Arc<Entry>, CacheError> {
    entry.body = Some(sealed.digest);
    entry.len = sealed.len;
    let entry = Arc::new(entry);
    if let Some(bytes) = sealed.small {
        cache.store.remember(&sealed.digest, bytes);
    }
    let blob = NewBlob {
        digest: sealed.digest,
        sums: sealed.sums,
        place: sealed.place,
        class: plan.class(),
        dirty: sealed.dirty,
    };
    let record = Record {
        blob: Some(blob),
        entries: vec![Put { entry: entry.clone(), expected: None }],
        edges: vec![(plan.realm.clone(), sealed.digest)],
        ..Record::default()
    };
    cache.index.record(record, Ack::Visible).await?;
    Ok(entry)
}

async fn confirmed(
    cache: &Arc<Inner>,
    plan: &FillPlan,
    entry: &Arc<Entry>,
    fetched: &Fetched,
) -> Result<Stage, CacheError> {
    let ask = plan.ask_head();
    let freshened = validate::freshen(entry, &ask, &fetched.headers, fetched.requested_at, fetched.received_at);
    let freshened = Arc::new(freshened);
    let put = Put { entry: freshened.clone(), expected: None };
    let record = Record { entries: vec![put], ..Record::default() };
    cache.index.record(record, Ack::Visible).await?;
    tracing::debug!(key = %plan.key, "confirmed by upstream");
    Ok(Stage::Kept(freshened, Outcome::Revalidated))
}

/// Asks the origins in turn, as each allows going on to the next.
async fn ask(cache: &Arc<Inner>, plan: &FillPlan, origins: &[Origin]) -> Result<(Fetched, Origin), UpstreamError> {
    let mut last = Err(UpstreamError::Offline);
    for (at, origin) in origins.iter().enumerate() {
        let is_last = at + 1 == origins.len();
        let mut headers = plan.request.clone();
        if let Some((_, conditions)) = &plan.confirm {
            headers.extend(conditions.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let fetched = cache
            .fetch
            .fetch(FetchAsk {
                method: plan.method.clone(),
                url: origin.url.clone(),
                headers,
                body: FetchBody::Empty,
                trust: origin.trust,
                resume: Resume::ByRange,
                redirects: plan.redirects,
            })
            .await;
        let go_on = match (&fetched, origin.next) {
            (Ok(fetched), _) if is_absence(fetched.status) => true,
            (Ok(fetched), Fallback::OnFailure) => !fetched.status.is_success() && !fetched.status.is_redirection(),
            (Ok(_), Fallback::OnAbsence) => false,
            (Err(_), Fallback::OnFailure) => true,
            (Err(_), Fallback::OnAbsence) => false,
        };
        last = fetched.map(|fetched| (fetched, origin.clone()));
        if !go_on || is_last {
            break;
        }
    }
    last
}

fn draft(plan: &FillPlan, fetched: &Fetched, vary: Vec<(String, Option<String>)>) -> Entry {
    let headers = fields::stored(&fetched.headers);
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

fn stale_or(cache: &Arc<Inner>, plan: &FillPlan, error: CacheError) -> Result<Stage, CacheError> {
    match usable_when_failing(cache, plan) {
        Some(entry) => {
            tracing::info!(key = %plan.key, %error, "upstream failed, serving what is stored");
            Ok(Stage::Kept(entry, Outcome::Stale))
        }
        None => Err(error),
    }
}

/// The newest stored answer to this very request that may stand in while upstream fails.
fn usable_when_failing(cache: &Inner, plan: &FillPlan) -> Option<Arc<Entry>> {
    let (ask, freshness) = (plan.ask_head(), &plan.lookup.freshness);
    let entry = &plan.stored[decide::selected(&ask, &plan.stored, freshness)?];
    decide::stale_if_error(entry, freshness, &ask, cache.clock.now()).then(|| entry.clone())
}

fn hand_off(ending: &Ending, served: Served) -> Stage {
    *ending.flight.handoff.lock() = Some(served);
    Stage::HandedOff
}

fn hand_off_solo(cache: &Inner, plan: &FillPlan, ending: &Ending, fetched: Fetched, reason: Reason) -> Stage {
    cache.flights.mark_solo(&plan.id, cache.clock.elapsed());
    hand_off(ending, relay::served(fetched, &plan.method, reason))
}

/// A fill that nobody waits for goes on when it is small or past half.
fn is_forsaken(flight: &Flight, len: Option<u64>, written: u64) -> bool {
    if flight.followers() > 0 {
        return false;
    }
    match len {
        Some(len) => len > FINISH_ALONE_BYTES && written < len / 2,
        None => written > FINISH_ALONE_BYTES,
    }
}

pub(super) fn is_absence(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// What `If-Range` may carry: a strong ETag, or else a Last-Modified date (RFC 9110 §13.1.5).
fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let etag = headers.get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/"));
    etag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}
