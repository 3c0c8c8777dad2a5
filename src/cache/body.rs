//! The body of a fill: from upstream into the store, hashed on the way, recorded when it is whole.
//!
//! When storage gives up half-way, what is stored stays readable and followers go on upstream by Range. When it gives
//! up at the very end, or the index cannot take the record, the bytes are there and verified, so followers get them
//! all the same, and only nothing is kept. What nobody waits for any more is finished, or parked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::Inner;
use super::coalesce::{Flight, Head, Resumption, Stage};
use super::error::CacheError;
use super::park::{GivenUp, Part};
use super::peer::Loan;
use super::plan::{Ending, FillPlan};
use crate::index::Ack;
use crate::index::catalog::Put;
use crate::index::record::{NewBlob, Record};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::lookup::{Fallback, Origin};
use crate::model::time::Timestamp;
use crate::store::{BlobWriter, Partial, SealedBlob, StoreError};
use crate::upstream::fetch::{Fetched, FetchedBody, UpstreamError};
use crate::upstream::resume;

/// Bodies up to this size are filled to the end though nobody waits.
pub(super) const FINISH_ALONE_BYTES: u64 = 64 << 20;

/// A fill of unknown length looks after its room so often.
const LOOK_BYTES: u64 = 4 << 20;

/// Followers are told at once of a chunk of this size.
const MUCH_BYTES: usize = 128 << 10;

/// An answer that is about to be stored.
pub(super) struct Beginning {
    pub fetched: Fetched,
    pub origin: Origin,
    pub writer: BlobWriter,
    pub expect: Vec<Checksum>,
    pub draft: Entry,
    /// Whether others than the first asker may have it while it comes.
    pub is_shared: bool,
    /// None: it comes from the origin.
    pub loan: Option<Loan>,
}

/// What became of a part that was parked.
pub(super) enum TakenUp {
    /// There is none, or it is of no use any more.
    Nothing,
    /// It has changed upstream: this is the whole.
    Anew(Box<(Fetched, Origin)>),
    /// The rest of it comes.
    Goes(Box<(Fetched, Part)>),
}

struct Body {
    from: FetchedBody,
    writer: BlobWriter,
    partial: Partial,
    expect: Vec<Checksum>,
    draft: Entry,
    resume: Resumption,
    is_shared: bool,
    /// What a peer said that it is.
    lent: Option<Digest>,
    /// Of the whole, where it is known.
    len: Option<u64>,
    started: Timestamp,
    /// What earlier fills of the same body took.
    spent: Duration,
}

/// Begins to store an answer, and runs to the end of it.
pub(super) async fn begin(
    cache: &Arc<Inner>,
    plan: &FillPlan,
    ending: &Ending,
    beginning: Beginning,
) -> Result<Stage, CacheError> {
    let Beginning { fetched, origin, writer, expect, draft, is_shared, loan } = beginning;
    let of_origin = || resume::Plan::of(&plan.method, &plan.request, fetched.status, &fetched.headers, fetched.len);
    let is_of_origin = loan.is_none_or(|loan| loan.is_at_origin);
    let resume = Resumption {
        url: origin.url,
        trust: origin.trust,
        plan: if is_of_origin { of_origin() } else { None },
        headers: plan.request.clone(),
        expect: expect.clone(),
        party: plan.party.clone(),
        cause: plan.key.clone(),
    };
    let (started, len) = (loan.map_or(fetched.requested_at, |loan| loan.asked_at), fetched.len);
    let lent = loan.map(|loan| loan.digest);
    let partial = writer.partial();
    let from = fetched.body;
    let spent = Duration::ZERO;
    let body = Body { from, writer, partial, expect, draft, resume, is_shared, lent, len, started, spent };
    store(cache, plan, ending, body).await
}

/// Goes on with what an earlier fill began.
pub(super) async fn go_on(
    cache: &Arc<Inner>,
    plan: &FillPlan,
    ending: &Ending,
    fetched: Fetched,
    part: Part,
) -> Result<Stage, CacheError> {
    let Part { writer, resume, expect, draft, len, spent, .. } = part;
    let started = fetched.requested_at;
    let partial = writer.partial();
    tracing::debug!(key = %plan.key, at = partial.written(), "taking up a parked part");
    let from = fetched.body;
    // Only what may be shared is parked.
    let (is_shared, lent) = (true, None);
    let body = Body { from, writer, partial, expect, draft, resume, is_shared, lent, len, started, spent };
    store(cache, plan, ending, body).await
}

/// Asks upstream for the rest of a part that was parked.
pub(super) async fn take_up(cache: &Arc<Inner>, plan: &FillPlan, expect: &[Checksum]) -> TakenUp {
    let Some(part) = cache.parked.take(&plan.id, cache.clock.elapsed()) else { return TakenUp::Nothing };
    let question = part.question(plan.redirects).filter(|_| part.fits(&plan.request, expect, plan.class()));
    let Some(question) = question else {
        GivenUp::of(part).drop_on_a_pool();
        return TakenUp::Nothing;
    };
    let origin = Origin { url: question.url.clone(), next: Fallback::OnAbsence, trust: question.trust };
    let Ok(fetched) = cache.fetch.fetch(question).await else {
        // The outage may end before the part is too old.
        cache.parked.park(plan.id.clone(), part, cache.clock.elapsed()).drop_on_a_pool();
        return TakenUp::Nothing;
    };
    let accepted = part
        .resume
        .plan
        .as_ref()
        .map(|resume| resume.accept(fetched.status, &fetched.headers, fetched.len, part.written()));
    if let Some(Ok(_)) = accepted {
        return TakenUp::Goes(Box::new((fetched, part)));
    }
    GivenUp::of(part).drop_on_a_pool();
    if fetched.status == http::StatusCode::OK { TakenUp::Anew(Box::new((fetched, origin))) } else { TakenUp::Nothing }
}

async fn store(cache: &Arc<Inner>, plan: &FillPlan, ending: &Ending, mut body: Body) -> Result<Stage, CacheError> {
    let head = Head {
        entry: body.draft.clone(),
        is_shared: body.is_shared,
        len: body.len,
        partial: body.partial.clone(),
        resume: body.resume.clone(),
        lent: body.lent,
    };
    // One fill, one head.
    let _ = ending.flight.head.set(head);
    let mut written = body.partial.written();
    let mut look_at = written;
    while let Some(chunk) = next(&mut body, ending).await {
        let chunk = chunk.map_err(CacheError::Upstream)?;
        written += chunk.len() as u64;
        if written > plan.lookup.max_bytes {
            return Err(CacheError::TooLarge { limit: plan.lookup.max_bytes });
        }
        if body.len.is_none() && written >= look_at {
            // Nobody could promise room for it. A body that cannot be taken up again must not run out of it.
            cache.make_room(plan.class(), 2 * LOOK_BYTES).await;
            look_at = written + LOOK_BYTES;
        }
        if let Err(error) = take(&mut body, ending, chunk).await {
            let stored = body.partial.written();
            tracing::warn!(%error, stored, "storage gave up in the middle of a fill, followers go on upstream");
            cache.counters.overflowed();
            return Ok(Stage::Overflowed { stored });
        }
        if is_forsaken(&ending.flight, body.len, written) && cache.flights.forsake(&plan.id, &ending.flight) {
            tracing::debug!(key = %plan.key, written, "nobody waits for this fill any more");
            park(cache, plan, &ending.flight, body).await;
            return Err(CacheError::Abandoned);
        }
    }
    body.draft.valid &= !ending.flight.is_doubtful();
    finish(cache, plan, body).await
}

/// The next bytes from upstream. Followers are told how far they may read before anybody waits, and not before that:
/// each telling wakes them all.
async fn next(body: &mut Body, ending: &Ending) -> Option<Result<Bytes, UpstreamError>> {
    let ready = body.from.chunk().now_or_never();
    if let Some(Some(chunk)) = ready {
        return Some(chunk);
    }
    tell(body, ending);
    match ready {
        Some(end) => end,
        None => body.from.chunk().await,
    }
}

/// Stores a chunk. Of much that came at once followers are told at once: they find it in memory for a while, and would
/// have to read it back later.
async fn take(body: &mut Body, ending: &Ending, chunk: Bytes) -> Result<(), StoreError> {
    let much = chunk.len() >= MUCH_BYTES;
    body.writer.write(chunk).await?;
    if much {
        tell(body, ending);
    }
    Ok(())
}

fn tell(body: &Body, ending: &Ending) {
    ending.publish(Stage::Streaming { written: body.partial.written() });
}

async fn finish(cache: &Arc<Inner>, plan: &FillPlan, body: Body) -> Result<Stage, CacheError> {
    let Body { writer, partial, expect, mut draft, len, started, spent, .. } = body;
    let took = spent + cache.clock.now().since(started);
    draft.fetch_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
    draft.len = partial.written();
    let sealed = match writer.seal(&expect, len).await {
        Ok(sealed) => sealed,
        Err(error @ (StoreError::Mismatch { .. } | StoreError::Length { .. })) => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "storage gave up at the end of a fill, it is served and not kept");
            cache.counters.overflowed();
            partial.check(&expect, len).await?;
            return Ok(Stage::Sealed(Arc::new(draft)));
        }
    };
    draft.body = Some(sealed.digest);
    draft.len = sealed.len;
    let draft = Arc::new(draft);
    let (digest, place) = (sealed.digest, sealed.place);
    if let Err(error) = record(cache, plan, &draft, sealed).await {
        tracing::warn!(%error, key = %plan.key, "a fill could not be recorded, it is served and not kept");
        let store = cache.store.clone();
        drop(tokio::task::spawn_blocking(move || store.remove(&digest, &place)));
    }
    Ok(Stage::Sealed(draft))
}

/// Places before keys: the blob's place and the entry go to the index in one record.
async fn record(cache: &Arc<Inner>, plan: &FillPlan, entry: &Arc<Entry>, sealed: SealedBlob) -> Result<(), CacheError> {
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
    Ok(())
}

async fn park(cache: &Inner, plan: &FillPlan, flight: &Flight, mut body: Body) {
    // A piece in flight would hold its room beyond the part.
    let rests = body.writer.rest().await.is_ok();
    let now = cache.clock.now();
    let part = Part {
        writer: body.writer,
        resume: body.resume,
        expect: body.expect,
        draft: body.draft,
        class: plan.class(),
        len: body.len,
        spent: body.spent + now.since(body.started),
    };
    // What is lent is proven by its digest, as a whole: nothing proves its beginning beside another's rest.
    let parked = if rests && body.is_shared && body.lent.is_none() && !flight.is_doubtful() {
        cache.parked.park(plan.id.clone(), part, cache.clock.elapsed())
    } else {
        GivenUp::of(part)
    };
    parked.drop_on_a_pool();
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
