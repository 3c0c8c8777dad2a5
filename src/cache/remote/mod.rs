//! The bucket that machines share, in the path of requests: what is there alone is read from it and copied here as it is
//! asked for, what is here is sent there behind the requests. No request of a client that is answered from here, and no
//! absence, asks S3 anything.

mod copy;
pub mod counters;
pub mod outbox;
mod trail;
mod uploader;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use self::copy::{Copies, Seat, Stage};
use self::counters::Counters;
use self::outbox::Pace;
use super::Inner;
use super::decide::is_outage;
use super::error::CacheError;
use super::served::{Ask, Served, ServedBody, ServedStream};
use super::terms::keyed;
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::place::Place;
use crate::model::range::ByteRange;
use crate::store::s3::cost::Meter;
use crate::store::s3::error::{Flaw, S3Error};
use crate::store::s3::names::Name;
use crate::store::s3::read::{ObjectReader, Wanted};
use crate::store::s3::remote::Remote;

/// A range up to this size of a large blob that is not here is read alone, without the rest.
const RANGE_SMALL_BYTES: u64 = 4 << 20;
/// After so long without a first piece upstream is asked.
const RELAY_PATIENCE: Duration = Duration::from_secs(10);
/// Nobody waits for a copy to get further than this to where its range begins.
const RANGE_AHEAD_BYTES: u64 = 8 << 20;

/// The bucket, as the engine holds it.
pub struct Bucket {
    /// For what goes as fast as the machine does: copies and uploads.
    pub remote: Remote,
    /// For what goes as fast as a client reads: its room in memory is another, so that slow clients hold up nobody else.
    pub relays: Remote,
    pub pace: Pace,
    /// What is asked of it, for the ledger. None: nobody is billed.
    pub bill: Option<Bill>,
    copies: Copies,
    counters: Counters,
}

/// Where a bucket's requests are counted, and whom they go to.
pub struct Bill {
    pub meter: Arc<Meter>,
    pub host: String,
}

/// What came of a look into the bucket.
pub(super) enum Found {
    Body(ServedBody),
    /// It is here by now: ask the store.
    Here,
    /// The bucket has it no more: what is known of it has changed.
    Lost,
}

impl Bucket {
    pub fn new(remote: Remote, relays: Remote, pace: Pace) -> Bucket {
        Bucket { remote, relays, pace, bill: None, copies: Copies::default(), counters: Counters::default() }
    }

    /// Has its requests counted in the ledger.
    pub fn billed(self, meter: Arc<Meter>, host: String) -> Bucket {
        Bucket { bill: Some(Bill { meter, host }), ..self }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Copies of blobs under way.
    pub fn copying(&self) -> usize {
        self.copies.under_way()
    }
}

impl Inner {
    /// *Errors*: `Remote` when none is configured (any more).
    fn bucket(&self) -> Result<&Bucket, CacheError> {
        let none = || S3Error::Settings { why: "no bucket is configured any more: set [store.s3] bucket".to_owned() };
        self.bucket.as_ref().ok_or_else(|| CacheError::Remote(Arc::new(none())))
    }

    /// A blob, or a part of it, that is in the bucket alone.
    ///
    /// *Errors*: `Remote` when the bucket cannot be asked; that says nothing about the blob.
    pub(super) async fn open_remote(
        self: &Arc<Inner>,
        digest: &Digest,
        place: Place,
        range: ByteRange,
    ) -> Result<Found, CacheError> {
        let bucket = self.bucket()?;
        let range = ByteRange { start: range.start.min(place.len), end: range.end.min(place.len) };
        if range.is_empty() {
            return Ok(Found::Body(ServedBody::Empty));
        }
        let small = range.len() <= RANGE_SMALL_BYTES && range != place.whole();
        let reached = bucket.copies.reached(digest);
        let is_near = |reached: u64| range.start <= reached.saturating_add(RANGE_AHEAD_BYTES);
        if small && place.len > RANGE_SMALL_BYTES && !reached.is_some_and(is_near) {
            return self.relayed(digest, &place, range).await;
        }
        let seat = self.board_copy(bucket, *digest, place);
        if !is_near(reached.unwrap_or(0)) {
            // The seat keeps the copy going, for later askers.
            return Ok(match self.relayed(digest, &place, range).await? {
                Found::Body(body) => Found::Body(held(body, seat)),
                found => found,
            });
        }
        let mut stage = seat.watch();
        // The sender lives in the copy that the seat holds.
        let reached = stage.wait_for(|stage| !matches!(stage, Stage::Asking)).await.map(|stage| stage.clone());
        match reached.map_err(|_| CacheError::Abandoned)? {
            Stage::Here => Ok(Found::Here),
            Stage::Lost => Ok(Found::Lost),
            Stage::Failed(error) => Err(error),
            Stage::Whole(bytes) => {
                let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Ok(Found::Body(ServedBody::Bytes(bytes.slice(within(range.start)..within(range.end)))))
            }
            Stage::Unstored { stored: 0 } => self.relayed(digest, &place, range).await,
            Stage::Asking | Stage::Coming { .. } | Stage::Sealed | Stage::Unstored { .. } => {
                Ok(Found::Body(ServedBody::Stream(trail::follow(self.clone(), seat, *digest, place, range))))
            }
        }
    }

    /// Answers without the bucket, which does not answer: what it has is asked of upstream.
    ///
    /// *Errors*: the bucket's, when upstream does not have it either.
    pub(super) async fn without_remote(
        self: &Arc<Inner>,
        ask: &Ask<'_>,
        hash: KeyHash,
        error: Arc<S3Error>,
    ) -> Result<Served, CacheError> {
        // What is stored would only lead back to the bucket.
        match Box::pin(self.through_flight(ask, keyed(ask), hash, Arc::from([]), None)).await {
            Ok(served) if is_outage(served.status) => Err(CacheError::Remote(error)),
            Err(CacheError::Upstream(upstream)) => {
                tracing::debug!(error = %upstream, "upstream cannot stand in for S3");
                Err(CacheError::Remote(error))
            }
            answered => answered,
        }
    }

    /// Reads a range straight from the bucket, for one asker. The first piece has come and is checked.
    async fn relayed(self: &Arc<Inner>, digest: &Digest, place: &Place, range: ByteRange) -> Result<Found, CacheError> {
        let bucket = self.bucket()?;
        bucket.counters.relayed();
        // Others may hold all the room there is, as long as their clients take.
        let begun = tokio::time::timeout(RELAY_PATIENCE, self.begin_relay(bucket, digest, place, range)).await;
        match begun.unwrap_or(Err(CopyError::S3(S3Error::Slow { doing: "a get" }))) {
            Ok(body) => Ok(Found::Body(body)),
            Err(error) => match self.judge_remote(digest, place, error).await? {
                Some(error) => Err(error),
                None => Ok(Found::Lost),
            },
        }
    }

    async fn begin_relay(
        self: &Arc<Inner>,
        bucket: &Bucket,
        digest: &Digest,
        place: &Place,
        range: ByteRange,
    ) -> Result<ServedBody, CopyError> {
        match self.object_of(digest, place).await? {
            Object::Pack { name, within } => {
                let bytes = bucket.relays.packed(&name, digest, within).await?;
                let at = |edge: u64| usize::try_from(edge).unwrap_or(usize::MAX).min(bytes.len());
                Ok(ServedBody::Bytes(bytes.slice(at(range.start)..at(range.end))))
            }
            Object::Blob(wanted) => {
                let mut reader = bucket.relays.blob(wanted, range).await?;
                let first = reader.next().await.transpose()?;
                let rest = self.clone().reporting(reader, *digest, *place);
                Ok(ServedBody::Stream(stream::iter(first.map(Ok)).chain(rest).boxed()))
            }
        }
    }

    /// The rest of a body that is relayed; what turns out damaged is not asked of the bucket again.
    fn reporting(self: Arc<Inner>, reader: ObjectReader, digest: Digest, place: Place) -> ServedStream {
        reader
            .then(move |chunk| {
                let cache = self.clone();
                async move {
                    match chunk {
                        Ok(bytes) => Ok(bytes),
                        Err(error) => Err(cache.told(&digest, &place, error.into()).await),
                    }
                }
            })
            .boxed()
    }

    /// What to tell an asker whose body breaks off.
    async fn told(&self, digest: &Digest, place: &Place, error: CopyError) -> CacheError {
        match self.judge_remote(digest, place, error).await {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => CacheError::Abandoned,
        }
    }

    /// Tells an outage, which is returned, from a blob that the bucket has no more, which is forgotten.
    async fn judge_remote(
        &self,
        digest: &Digest,
        place: &Place,
        error: CopyError,
    ) -> Result<Option<CacheError>, CacheError> {
        let bucket = self.bucket()?;
        match error {
            CopyError::Engine(error) => Err(error),
            CopyError::S3(error) if is_loss(&error) => {
                tracing::error!(%digest, %error, "a blob in S3 is lost, it is fetched anew and sent again");
                bucket.counters.lost();
                self.index.remote_lost(digest, place).await?;
                Ok(None)
            }
            CopyError::S3(error) => {
                tracing::warn!(%digest, %error, "S3 could not be read");
                bucket.counters.failed_read();
                Ok(Some(CacheError::Remote(Arc::new(error))))
            }
        }
    }

    /// Where in the bucket a place is.
    async fn object_of(&self, digest: &Digest, place: &Place) -> Result<Object, CopyError> {
        let gone = |name: &str| CopyError::S3(S3Error::Gone { object: name.to_owned() });
        let name = self.index.object_name(place.object).await.map_err(CacheError::from)?;
        let name = name.ok_or_else(|| gone(&format!("object {}", place.object)))?;
        match Name::parse(&name) {
            Some(Name::Pack { .. }) => {
                let start = u64::from(place.offset);
                let within = ByteRange { start, end: start + place.len };
                Ok(Object::Pack { name: name.to_string(), within })
            }
            Some(Name::Blob { .. }) => {
                Ok(Object::Blob(Wanted { object: name.to_string(), digest: *digest, len: place.len }))
            }
            None => Err(gone(&name)),
        }
    }
}

/// Where a blob lies in the bucket.
pub(super) enum Object {
    Pack { name: String, within: ByteRange },
    Blob(Wanted),
}

/// Why a blob could not be had from the bucket.
pub(super) enum CopyError {
    S3(S3Error),
    Engine(CacheError),
}

impl From<S3Error> for CopyError {
    fn from(error: S3Error) -> CopyError {
        CopyError::S3(error)
    }
}

impl From<CacheError> for CopyError {
    fn from(error: CacheError) -> CopyError {
        CopyError::Engine(error)
    }
}

/// Whether asking again could not help: the blob is not there, or not what it was.
const fn is_loss(error: &S3Error) -> bool {
    matches!(error, S3Error::Gone { .. } | S3Error::Damaged { flaw: Flaw::Damaged(_), .. })
}

/// Keeps a seat as long as the body is read.
fn held(body: ServedBody, seat: Seat) -> ServedBody {
    match body {
        ServedBody::Stream(stream) => ServedBody::Stream(
            stream
                .map(move |chunk| {
                    let _seat = &seat;
                    chunk
                })
                .boxed(),
        ),
        body @ (ServedBody::Empty | ServedBody::Bytes(_) | ServedBody::Blob(_)) => body,
    }
}
