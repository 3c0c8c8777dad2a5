//! What the engine answers: a head, a body to come, and the one word for how.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Method};
use url::Url;

use super::Inner;
use super::error::CacheError;
use crate::model::digest::Digest;
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::Lookup;
use crate::model::outcome::{Forwarded, Outcome};
use crate::model::party::Party;
use crate::model::place::Place;
use crate::model::range::{Asked, ByteRange};
use crate::store::{BlobReader, StoreError};

/// A request as the engine sees it.
#[derive(Clone)]
pub struct Ask<'a> {
    pub lookup: &'a Lookup,
    /// Of the lookup's key.
    pub hash: KeyHash,
    pub method: &'a Method,
    /// The client's end-to-end fields; larder's own credentials are taken out.
    pub headers: &'a HeaderMap,
    /// What the client calls the thing, for invalidation.
    pub url: &'a Url,
    /// A hash of the credential that the client sent for upstream.
    pub identity: Option<Box<str>>,
    /// Who asks, for the record.
    pub label: Arc<str>,
    /// Whose part of an upstream's places is used.
    pub party: &'a Party,
    /// Whether conditional fields and Range are honoured; a body that is rewritten at the door needs the whole.
    pub partial: Partiality,
    pub framing: Framing,
}

/// How the client can tell that a body of unknown length has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// A chunk or frame says so.
    Marked,
    /// Closing alone marks the end (HTTP/1.0): nothing may be sent before all of it is verified.
    Closing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Partiality {
    Allowed,
    /// The caller needs the whole body with its first status.
    Whole,
}

impl Ask<'_> {
    pub(super) fn range(&self) -> Asked {
        if self.partial == Partiality::Whole || *self.method != Method::GET {
            return Asked::Whole;
        }
        Asked::parse(self.headers.get(http::header::RANGE).and_then(|value| value.to_str().ok()))
    }
}

/// An answer.
pub struct Served {
    /// As stored, or as upstream sent it.
    pub status: u16,
    pub headers: HeaderMap,
    /// Length of the whole representation, where known.
    pub len: Option<u64>,
    pub part: Part,
    pub body: ServedBody,
    pub outcome: Outcome,
    pub forwarded: Forwarded,
    /// RFC 9111 Age in seconds; None for what does not come from the store.
    pub age: Option<u64>,
    pub key: Option<KeyHash>,
    /// What was asked for, where that has a name.
    pub source: Option<Arc<Key>>,
    pub digest: Option<Digest>,
    /// What fetching it took, in milliseconds.
    pub fetch_ms: u32,
}

/// Which part of the representation the body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Whole,
    Range(ByteRange),
    /// The client has it already.
    NotModified,
    /// The client's `If-Match` or `If-Unmodified-Since` does not hold.
    PreconditionFailed,
    /// The range starts past the end.
    Unsatisfiable,
}

/// Where the bytes come from.
pub enum ServedBody {
    Empty,
    Bytes(Bytes),
    Blob(StoredBlob),
    /// A fill under way, or an exchange that is passed on.
    Stream(ServedStream),
}

/// A blob that is read as it is sent. When a damaged piece turns up, the blob is set aside: the next asker's is good.
pub struct StoredBlob {
    reader: BlobReader,
    cache: Arc<Inner>,
    digest: Digest,
    place: Place,
}

pub type ServedStream = Pin<Box<dyn Stream<Item = Result<Bytes, CacheError>> + Send>>;

impl Served {
    /// Reads the body to its end.
    ///
    /// *Errors*: `TooLarge` beyond `limit` bytes.
    pub async fn into_bytes(self, limit: u64) -> Result<Bytes, CacheError> {
        self.body.into_bytes(limit).await
    }
}

impl ServedBody {
    /// Reads to the end.
    ///
    /// *Errors*: `TooLarge` beyond `limit` bytes.
    pub async fn into_bytes(mut self, limit: u64) -> Result<Bytes, CacheError> {
        if let ServedBody::Bytes(bytes) = self {
            return Ok(bytes);
        }
        let mut whole = Vec::new();
        while let Some(chunk) = std::future::poll_fn(|context| self.poll_chunk(context)).await {
            let chunk = chunk?;
            if (whole.len() + chunk.len()) as u64 > limit {
                return Err(CacheError::TooLarge { limit });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(whole))
    }

    /// The next piece of the body.
    ///
    /// *Errors*: after one the body is not whole; the connection must not end cleanly.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, CacheError>>> {
        match self {
            ServedBody::Empty => Poll::Ready(None),
            ServedBody::Bytes(_) => match std::mem::replace(self, ServedBody::Empty) {
                ServedBody::Bytes(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(bytes))),
                _ => Poll::Ready(None),
            },
            ServedBody::Blob(blob) => blob.poll_chunk(context),
            ServedBody::Stream(stream) => stream.as_mut().poll_next(context),
        }
    }
}

impl StoredBlob {
    pub(super) fn new(reader: BlobReader, cache: Arc<Inner>, digest: Digest, place: Place) -> StoredBlob {
        StoredBlob { reader, cache, digest, place }
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, CacheError>>> {
        self.reader.poll_chunk(context).map(|chunk| {
            chunk.map(|chunk| {
                chunk.map_err(|error| {
                    if matches!(error, StoreError::Corrupt { .. } | StoreError::Gone) {
                        self.set_aside(&error);
                    }
                    CacheError::from(error)
                })
            })
        })
    }

    fn set_aside(&self, error: &StoreError) {
        let (cache, digest, place) = (self.cache.clone(), self.digest, self.place);
        tracing::error!(%digest, %error, "a stored blob turned out damaged while it was sent, it is set aside");
        self.cache.tasks.spawn("set aside", async move {
            if let Err(error) = cache.set_aside(&digest, &place).await {
                tracing::warn!(%digest, %error, "a damaged blob could not be set aside");
            }
        });
    }
}
