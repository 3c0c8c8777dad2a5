//! Other larders that are asked for what is missing here, before its origins: the cheapest first, none for long.
//!
//! Of what a peer keeps only that is taken which would be served as it is, were it kept here: fresh, whole and public.
//! Its bytes are hashed as they come, and the last of them is withheld until they are what it said. Bytes that are here
//! already, under another key, do not come again. Where a peer ends in the middle, an origin goes on by Range; the digest
//! proves that both belong together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use url::Url;

use super::decide::{self, Decision};
use super::error::CacheError;
use super::origins::Question;
use super::parent::Elsewhere;
use super::plan::FillPlan;
use super::policy::rules;
use super::source::{Keeping, Reader};
use super::{Inner, fill};
use crate::index::Ack;
use crate::index::catalog::Put;
use crate::index::record::Record;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::lookup::{Expect, Origin, Origins, Trust};
use crate::model::node;
use crate::model::time::Timestamp;
use crate::upstream::fetch::{Fetched, FetchedBody, UpstreamError};
use crate::upstream::peer::Peer;
use crate::upstream::resume;

/// Fields of one answer, in bytes: as many as an origin may send.
const FIELDS_MAX_BYTES: usize = 64 << 10;
/// A body of up to one piece is proven before anybody is told of it: if it is wrong, nobody notices.
const PROVEN_FIRST_BYTES: u64 = node::PIECE as u64;

/// What a peer had.
pub(super) enum FromPeer {
    /// The bytes were here, and only the answer was missing. It is recorded.
    Known(Arc<Entry>),
    Coming(Box<Lent>),
}

/// An answer whose body a peer sends.
pub(super) struct Lent {
    pub fetched: Fetched,
    pub origin: Origin,
    pub loan: Loan,
}

/// How a body is lent.
#[derive(Clone, Copy)]
pub(super) struct Loan {
    pub digest: Digest,
    pub asked_at: Timestamp,
    /// Whether the origin beside it has the thing itself. Else it names who does.
    pub is_at_origin: bool,
}

/// What a peer offers, as an entry of ours.
struct Offer {
    entry: Arc<Entry>,
    digest: Digest,
    sums: Vec<Checksum>,
}

impl Inner {
    /// Asks the peers for what is not here. None: none has it, or they are not to be asked.
    pub(super) async fn ask_peers(
        self: &Arc<Inner>,
        plan: &FillPlan,
        reader: &Reader,
        expect: &[Checksum],
        keeping: Keeping,
    ) -> Result<Option<FromPeer>, CacheError> {
        let Some(origin) = plan.lookup.first_origin().filter(|_| is_everybodys(plan)) else { return Ok(None) };
        if keeping != Keeping::Allowed {
            return Ok(None);
        }
        let is_at_origin = matches!(plan.lookup.origins, Origins::Listed(_));
        for peer in &self.peers {
            let asked_at = self.clock.now();
            let found = peer.find(plan.id.key).await;
            let offers = found.iter().filter_map(|entry| read(entry, plan, asked_at));
            let offers: Vec<Offer> = offers.filter(|offer| may_be_expected(plan, offer, expect)).collect();
            let entries: Vec<Arc<Entry>> = offers.iter().map(|offer| offer.entry.clone()).collect();
            let judged = decide::decide(&plan.ask_head(), &entries, &plan.lookup.freshness, self.clock.now());
            let Decision::Serve { at, .. } = judged else { continue };
            let Offer { entry, digest, .. } = &offers[at];
            // What a client may not have fetched from here it does not get by way of a peer, in whose network the same name
            // may be another's.
            if origin.trust != Trust::Configured && self.fetch.judge(&origin.url, origin.trust).await.is_err() {
                return Ok(None);
            }
            if self.is_known(plan, entry, digest, expect).await? {
                return Ok(Some(FromPeer::Known(entry.clone())));
            }
            match self.borrow_from(peer, plan, reader, (entry, *digest)).await {
                Ok(body) => {
                    let loan = Loan { digest: *digest, asked_at, is_at_origin };
                    let fetched = answer(entry, body, origin.url.clone());
                    return Ok(Some(FromPeer::Coming(Box::new(Lent { fetched, origin: origin.clone(), loan }))));
                }
                Err(error) => tracing::debug!(peer = peer.name(), key = %plan.key, %error, "going on without a peer"),
            }
        }
        Ok(None)
    }

    /// Records the answer if its bytes are here, for the same readers and proven by the same sums.
    async fn is_known(
        &self,
        plan: &FillPlan,
        entry: &Arc<Entry>,
        digest: &Digest,
        expect: &[Checksum],
    ) -> Result<bool, CacheError> {
        // A digest is not a right: what is here for others does not become everybody's because a peer names it.
        let is_here = self.index.is_readable(std::slice::from_ref(&plan.realm), digest).await?
            && self.index.find_place(digest).await?.is_some_and(|place| place.len == entry.len)
            && fill::has_sums(self, entry, expect).await?;
        if is_here {
            let put = Put { entry: entry.clone(), expected: None };
            self.index.record(Record { entries: vec![put], ..Record::default() }, Ack::Visible).await?;
            tracing::debug!(key = %plan.key, %digest, "a peer's answer names bytes that are here");
        }
        Ok(is_here)
    }

    async fn borrow_from(
        self: &Arc<Inner>,
        peer: &Arc<dyn Peer>,
        plan: &FillPlan,
        reader: &Reader,
        (entry, digest): (&Entry, Digest),
    ) -> Result<FetchedBody, UpstreamError> {
        if entry.len == 0 && digest == Digest::of(b"") {
            return Ok(FetchedBody::empty());
        }
        if entry.len <= PROVEN_FIRST_BYTES {
            let whole = async { proven(peer.read(digest, entry.len).await?, entry.len, &digest).await };
            let limit = peer.patience();
            let silent = |_| {
                peer.stalled();
                Err(UpstreamError::Silent { host: peer.name().to_owned(), limit })
            };
            return match tokio::time::timeout(limit, whole).await.unwrap_or_else(silent)? {
                Some(bytes) => Ok(FetchedBody::new(futures_util::stream::iter([Ok(bytes)]))),
                None => {
                    peer.lied();
                    Err(other_bytes(peer))
                }
            };
        }
        let body = peer.read(digest, entry.len).await?;
        let question = Question {
            method: plan.method.clone(),
            headers: plan.request.clone(),
            redirects: plan.redirects,
            party: plan.party.clone(),
            cause: plan.key.clone(),
        };
        let elsewhere = resume::Plan::under_a_sum(StatusCode::OK, &entry.headers, Some(entry.len)).map(|resume| {
            Elsewhere { origins: plan.lookup.origins.clone(), reader: reader.clone(), question, plan: resume }
        });
        let borrowed = Borrowed {
            cache: self.clone(),
            peer: peer.clone(),
            body,
            hasher: Box::default(),
            got: 0,
            len: entry.len,
            digest,
            held: None,
            elsewhere,
            is_mixed: false,
        };
        Ok(FetchedBody::new(futures_util::stream::unfold(Some(borrowed), |borrowed| async move {
            let mut borrowed = borrowed?;
            let chunk = borrowed.next().await?;
            let rest = chunk.is_ok().then_some(borrowed);
            Some((chunk, rest))
        })))
    }
}

/// Whether the answer would be the same for all who may ask.
fn is_everybodys(plan: &FillPlan) -> bool {
    plan.confirm.is_none()
        && plan.id.identity.is_none()
        && plan.realm.is_public()
        && plan.lookup.origins.parent().is_none()
}

/// What is said, as an entry of ours. None: it cannot be used.
fn read(said: &node::Entry, plan: &FillPlan, asked_at: Timestamp) -> Option<Offer> {
    let digest = Digest::from_slice(&said.digest)?;
    if said.status != 200 || said.len > plan.lookup.max_bytes {
        return None;
    }
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    for field in &said.fields {
        bytes += field.name.len() + field.value.len();
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(&field.value).ok()?);
    }
    // Older than it can be rather than younger: when the peer answered is not known.
    let fetched_at = asked_at.minus(Duration::from_millis(said.resident_ms));
    let entry = Entry {
        key: plan.key.clone(),
        hash: plan.id.key,
        status: 200,
        headers: rules::stored_fields(&headers),
        vary: said.vary.iter().map(|one| (one.name.clone(), one.value.clone())).collect(),
        body: Some(digest),
        len: said.len,
        requested_at: fetched_at.minus(Duration::from_millis(said.delay_ms)),
        fetched_at,
        fetch_ms: 0,
        seq: 0,
        refs: Vec::new(),
        writer: plan.writer.clone(),
        realm: plan.realm.clone(),
        valid: true,
    };
    let sums = said.sums.iter().filter_map(node::Sum::read).collect();
    (bytes <= FIELDS_MAX_BYTES).then(|| Offer { entry: Arc::new(entry), digest, sums })
}

/// Whether the bytes may be those that are expected: nothing is asked for to be refused at its end.
fn may_be_expected(plan: &FillPlan, offer: &Offer, expect: &[Checksum]) -> bool {
    let is_long_enough = match plan.lookup.expect {
        Expect::Exactly { bytes, .. } => offer.entry.len == bytes,
        Expect::Nothing | Expect::Sum(_) | Expect::InDocument { .. } | Expect::Beside { .. } | Expect::Sniff(_) => true,
    };
    let contradicts = |sum: &Checksum| offer.sums.iter().any(|said| said.algorithm() == sum.algorithm() && said != sum);
    is_long_enough && !expect.iter().any(contradicts)
}

fn answer(entry: &Entry, body: FetchedBody, url: Url) -> Fetched {
    Fetched {
        status: StatusCode::OK,
        version: Version::HTTP_2,
        headers: entry.headers.clone(),
        len: Some(entry.len),
        body,
        url,
        reached: None,
        requested_at: entry.requested_at,
        received_at: entry.fetched_at,
    }
}

/// A body of one piece. None: it is another one than was said.
async fn proven(mut body: FetchedBody, len: u64, digest: &Digest) -> Result<Option<Bytes>, UpstreamError> {
    let mut whole = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
    while let Some(chunk) = body.chunk().await {
        let chunk = chunk?;
        if (whole.len() + chunk.len()) as u64 > len {
            return Ok(None);
        }
        whole.extend_from_slice(&chunk);
    }
    let whole = whole.freeze();
    Ok((Digest::of(&whole) == *digest).then_some(whole))
}

fn other_bytes(peer: &Arc<dyn Peer>) -> UpstreamError {
    UpstreamError::Protocol { host: peer.name().to_owned(), why: "it sent other bytes than it said".to_owned() }
}

/// A body that comes from a peer, and from an origin when the peer ends in the middle.
struct Borrowed {
    cache: Arc<Inner>,
    peer: Arc<dyn Peer>,
    body: FetchedBody,
    hasher: Box<blake3::Hasher>,
    got: u64,
    len: u64,
    digest: Digest,
    /// The last piece that came: it goes on when the next one is there, or all is proven.
    held: Option<Bytes>,
    elsewhere: Option<Elsewhere>,
    /// Whether an origin has sent a part.
    is_mixed: bool,
}

impl Borrowed {
    async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            match self.body.chunk().await {
                Some(Ok(chunk)) => {
                    self.hasher.update(&chunk);
                    self.got += chunk.len() as u64;
                    if let Some(ready) = self.held.replace(chunk) {
                        return Some(Ok(ready));
                    }
                }
                Some(Err(error)) => {
                    let Some(elsewhere) = self.elsewhere.take() else { return Some(Err(error)) };
                    let Some(rest) = elsewhere.rest(self.cache.clone(), self.got).await else {
                        return Some(Err(error));
                    };
                    tracing::info!(peer = self.peer.name(), at = self.got, %error, "a peer's body goes on from its origin");
                    self.is_mixed = true;
                    self.body = rest;
                }
                None => return self.end(),
            }
        }
    }

    fn end(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let is_it = self.got == self.len && Digest::from_bytes(*self.hasher.finalize().as_bytes()) == self.digest;
        // Asked once more, after the last piece.
        self.body = FetchedBody::empty();
        if is_it {
            return self.held.take().map(Ok);
        }
        if !self.is_mixed {
            self.peer.lied();
        }
        self.held = None;
        Some(Err(other_bytes(&self.peer)))
    }
}
