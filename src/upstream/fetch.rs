//! The seam to the world outside: one question, one answer with a body that streams.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, Version};
use parking_lot::Mutex;
use url::Url;

use crate::model::key::Key;
use crate::model::kind::ErrorKind;
use crate::model::lookup::Trust;
use crate::model::party::Party;
use crate::model::time::Timestamp;

pub use super::wire::Tunnel;

/// Asks upstream servers. A trait because simulation replaces the network.
pub trait Fetch: Send + Sync + 'static {
    /// Asks, follows redirects (each judged by the egress gate), retries within the budget, and answers once the
    /// head is there. A response of any status is Ok.
    ///
    /// *Errors*: `Unavailable` (no answer; `retry_after` when known), `Denied` (the egress gate refused), `Busy` (the
    /// host's queue is full or its breaker is open).
    /// *Cancel*: the exchange is dropped.
    fn fetch(&self, ask: FetchAsk) -> BoxFuture<'_, Result<Fetched, UpstreamError>>;

    /// Opens a way to a host for CONNECT, through the egress gate.
    ///
    /// *Errors*: `Denied` for a port or address that may not be reached, `Busy`, `Unavailable`.
    fn tunnel<'a>(&'a self, ask: TunnelAsk<'a>) -> BoxFuture<'a, Result<Opened, UpstreamError>>;

    /// Whether a fetch would be let out, without making one. Whoever wraps another asks that one: there is no answer that
    /// would do for all.
    ///
    /// *Errors*: as those of a fetch before its first byte.
    fn judge<'a>(&'a self, url: &'a Url, trust: Trust) -> BoxFuture<'a, Result<(), UpstreamError>>;

    /// Bytes that were fetched for a build around another larder that stands before the origins.
    fn bytes_around_parent(&self, _build: &str) -> u64 {
        0
    }
}

/// Where a tunnel is to lead, and for whom.
#[derive(Clone, Copy)]
pub struct TunnelAsk<'a> {
    pub host: &'a str,
    pub port: u16,
    pub trust: Trust,
    pub party: &'a Party,
    pub look: Look,
}

/// Whether another larder that carries a tunnel may look into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    Allowed,
    Declined,
}

/// A tunnel that is open.
pub struct Opened {
    pub io: Tunnel,
    pub carrier: Carrier,
    /// The address that was connected to. None: it stands behind a proxy.
    pub reached: Option<IpAddr>,
}

/// Who carries a tunnel, and counts what goes through it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    Ourselves,
    /// Another larder, which may look into it.
    Parent,
}

/// A question to an upstream.
pub struct FetchAsk {
    pub method: Method,
    pub url: Url,
    /// End-to-end fields alone; hop-by-hop ones, Host and Via are the client's business.
    pub headers: HeaderMap,
    pub body: FetchBody,
    pub trust: Trust,
    /// Whether a broken body is taken up again by Range (safe methods alone).
    pub resume: Resume,
    /// Whether redirects are followed; a forward proxy passes them on, and failures that the host itself reports.
    pub redirects: Redirects,
    /// Whose part of the host's places it takes.
    pub party: Party,
    /// What is fetched for, by which the ledger counts it. None: for larder itself.
    pub cause: Option<Arc<Key>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    ByRange,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirects {
    Follow,
    PassOn,
}

/// What is sent along: nothing, bytes in memory (may be retried), or a stream (sent once).
pub enum FetchBody {
    Empty,
    Bytes(Bytes),
    Stream { len: Option<u64>, body: BodyStream },
}

/// A stream of body chunks with an error at most at its end.
pub type BodyStream = Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, UpstreamError>> + Send>>;

/// The head of an answer, and its body to come.
pub struct Fetched {
    pub status: StatusCode,
    pub version: Version,
    /// As sent, hop-by-hop fields removed.
    pub headers: HeaderMap,
    /// Content-Length of the body to come, where the framing tells it.
    pub len: Option<u64>,
    pub body: FetchedBody,
    /// After redirects.
    pub url: Url,
    /// The address that answered. None: it stands behind a proxy.
    pub reached: Option<IpAddr>,
    pub requested_at: Timestamp,
    pub received_at: Timestamp,
}

impl fmt::Debug for Fetched {
    /// Leaves out address and fields, which may carry secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Fetched").field("status", &self.status).field("len", &self.len).finish_non_exhaustive()
    }
}

/// The body of an answer. Ends cleanly only after all that the framing promised has come.
pub struct FetchedBody {
    /// The lock is never taken: it makes the body `Sync`, so that who holds one may be shared across an await.
    stream: Mutex<BodyStream>,
    ends: Ends,
    meters: Vec<Arc<AtomicU64>>,
}

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// A length, a last chunk or an end-of-stream flag: a body that is cut short is an error.
    Marked,
    /// The connection closes (HTTP/1.0): cleartext that is cut short looks whole.
    OnClose,
}

impl FetchedBody {
    pub fn new(stream: impl futures_util::Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static) -> FetchedBody {
        FetchedBody { stream: Mutex::new(Box::pin(stream)), ends: Ends::Marked, meters: Vec::new() }
    }

    /// A body whose end only the closing of the connection marks.
    pub fn until_close(
        stream: impl futures_util::Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static,
    ) -> FetchedBody {
        FetchedBody { stream: Mutex::new(Box::pin(stream)), ends: Ends::OnClose, meters: Vec::new() }
    }

    pub fn ends(&self) -> Ends {
        self.ends
    }

    pub fn empty() -> FetchedBody {
        FetchedBody::new(futures_util::stream::empty())
    }

    /// The next chunk; None at the clean end.
    ///
    /// *Cancel*: nothing is lost.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        std::future::poll_fn(|context| self.poll_chunk(context)).await
    }

    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let chunk = self.stream.get_mut().as_mut().poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &chunk {
            for meter in &self.meters {
                meter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        }
        chunk
    }

    /// Adds what comes to a meter too.
    pub fn metered(mut self, meter: Arc<AtomicU64>) -> FetchedBody {
        self.meters.push(meter);
        self
    }
}

impl fmt::Debug for FetchedBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("FetchedBody")
    }
}

/// Why there is no answer, or no more of it. Messages name no credential and no path.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    #[error("{host} could not be reached: {why}")]
    Unreachable { host: String, why: String },
    #[error("{host} gave no answer within {limit:?}")]
    Silent { host: String, limit: Duration },
    #[error("{host} closed early: {got} of {expected} bytes")]
    Truncated { host: String, got: u64, expected: String },
    #[error("{host} sent less than {minimum_rate} bytes a second for {window:?}")]
    Slow { host: String, minimum_rate: u64, window: Duration },
    #[error("{host} cannot be trusted: {why}")]
    Untrusted { host: String, why: String },
    #[error("{host} broke the protocol: {why}")]
    Protocol { host: String, why: String },
    #[error("{host} is not allowed: {why}")]
    Refused { host: String, why: String },
    #[error("{host} is resting after failures; next try in {retry_after:?}")]
    Resting { host: String, retry_after: Duration },
    #[error("too many requests wait for {host}")]
    Crowded { host: String },
    #[error("more than {limit} redirects")]
    Redirects { limit: usize },
    #[error("larder is offline")]
    Offline,
    /// What was to be sent broke off at its source: not upstream's failure.
    #[error("the request's body broke off: {why}")]
    SourceBroke { why: String },
}

impl UpstreamError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            UpstreamError::Refused { .. } => ErrorKind::Denied,
            UpstreamError::Crowded { .. } => ErrorKind::Busy,
            UpstreamError::SourceBroke { .. } => ErrorKind::Invalid,
            UpstreamError::Unreachable { .. }
            | UpstreamError::Silent { .. }
            | UpstreamError::Truncated { .. }
            | UpstreamError::Slow { .. }
            | UpstreamError::Untrusted { .. }
            | UpstreamError::Protocol { .. }
            | UpstreamError::Resting { .. }
            | UpstreamError::Redirects { .. }
            | UpstreamError::Offline => ErrorKind::Unavailable,
        }
    }

    /// How long to wait before asking again, where it is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            UpstreamError::Resting { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}
