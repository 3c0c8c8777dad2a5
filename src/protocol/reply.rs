//! What the engine served, as HTTP (RFC 9110): statuses of parts, `Cache-Status` (RFC 9211), `Age`, `Via`, and the
//! body that tells the observers when it has ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::observe::Observation;
use crate::cache::error::CacheError;
use crate::cache::served::{Part, Served, ServedBody};
use crate::cache::standing::Again;
use crate::model::outcome::{Forwarded, Outcome, Reason};
use crate::model::place::TierName;

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A body on its way to a client.
pub struct ReplyBody {
    body: ServedBody,
    /// Bytes to come, where known.
    left: Option<u64>,
    sent: u64,
    observation: Option<Box<Observation>>,
    /// What follows a body on HTTP/2.
    trailers: Option<Box<HeaderMap>>,
}

/// A body that broke off. The connection is cut, so that the client cannot take a part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the body broke off")]
pub struct BodyError(#[from] CacheError);

impl ReplyBody {
    pub fn new(body: ServedBody, len: Option<u64>) -> ReplyBody {
        ReplyBody { body, left: len, sent: 0, observation: None, trailers: None }
    }

    pub fn empty() -> ReplyBody {
        ReplyBody::new(ServedBody::Empty, Some(0))
    }

    pub fn full(bytes: Bytes) -> ReplyBody {
        let len = bytes.len() as u64;
        ReplyBody::new(ServedBody::Bytes(bytes), Some(len))
    }

    pub(super) fn with_trailers(body: ServedBody, trailers: HeaderMap) -> ReplyBody {
        let mut reply = ReplyBody::new(body, None);
        reply.trailers = Some(Box::new(trailers));
        reply
    }

    pub(super) fn observed(mut self, observation: Box<Observation>) -> ReplyBody {
        self.observation = Some(observation);
        self
    }

    fn conclude(&mut self, error: Option<&CacheError>) {
        if let Some(observation) = self.observation.take() {
            observation.conclude(self.sent, error);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let chunk = match self.body.poll_chunk(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(chunk) => chunk,
        };
        match chunk {
            Some(Ok(chunk)) => {
                self.sent += chunk.len() as u64;
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(chunk.len() as u64);
                    if *left == 0 {
                        self.conclude(None);
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Some(Err(error)) => {
                self.conclude(Some(&error));
                Poll::Ready(Some(Err(BodyError(error))))
            }
            None => {
                self.conclude(None);
                self.body = ServedBody::Empty;
                Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && (matches!(self.body, ServedBody::Empty) || self.left == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if self.observation.is_some() {
            let whole = matches!(self.body, ServedBody::Empty) || self.left == Some(0);
            let error = if whole { None } else { Some(CacheError::Abandoned) };
            self.conclude(error.as_ref());
        }
    }
}

/// Turns an answer of the engine into a response.
pub(super) fn response(served: Served, method: &Method) -> Response<ReplyBody> {
    let Served { status, mut headers, len, part, body, outcome, forwarded, age, .. } = served;
    decorate(&mut headers, cache_status(outcome, forwarded), age);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let (status, body) = match part {
        Part::Whole => (status, whole(&mut headers, status, len, body, method)),
        Part::Range(range) => {
            let total = len.map_or_else(|| "*".to_owned(), |len| len.to_string());
            let content_range = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            set(&mut headers, header::CONTENT_RANGE, content_range);
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.len()));
            (StatusCode::PARTIAL_CONTENT, ReplyBody::new(body, Some(range.len())))
        }
        Part::NotModified => {
            for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING] {
                headers.remove(name);
            }
            (StatusCode::NOT_MODIFIED, ReplyBody::empty())
        }
        Part::PreconditionFailed => {
            headers.remove(header::CONTENT_LENGTH);
            (StatusCode::PRECONDITION_FAILED, ReplyBody::empty())
        }
        Part::Unsatisfiable => {
            set(&mut headers, header::CONTENT_RANGE, format!("bytes */{}", len.unwrap_or(0)));
            headers.remove(header::CONTENT_LENGTH);
            (StatusCode::RANGE_NOT_SATISFIABLE, ReplyBody::empty())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An answer that was given before, with what it was given with.
pub(super) fn again(status: StatusCode, headers: HeaderMap, again: Again) -> Response<ReplyBody> {
    let Again { body, age, len, .. } = again;
    let mut response = Response::new(ReplyBody::new(body, Some(len)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(header::AGE, HeaderValue::from(age));
    response
}

fn whole(
    headers: &mut HeaderMap,
    status: StatusCode,
    len: Option<u64>,
    body: ServedBody,
    method: &Method,
) -> ReplyBody {
    if bodiless(status) {
        headers.remove(header::CONTENT_LENGTH);
        return ReplyBody::empty();
    }
    match len {
        Some(len) => headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len)),
        None if *method == Method::HEAD => None,
        None => headers.remove(header::CONTENT_LENGTH),
    };
    if *method == Method::HEAD { ReplyBody::empty() } else { ReplyBody::new(body, len) }
}

fn bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Adds what every answer carries.
pub(super) fn decorate(headers: &mut HeaderMap, cache_status: &'static str, age: Option<u64>) {
    headers.append(CACHE_STATUS, HeaderValue::from_static(cache_status));
    headers.append(header::VIA, HeaderValue::from_static("1.1 larder"));
    if let Some(age) = age {
        headers.insert(header::AGE, HeaderValue::from(age));
    }
}

/// The member that larder adds to `Cache-Status` (RFC 9211).
pub(super) const fn cache_status(outcome: Outcome, forwarded: Forwarded) -> &'static str {
    use Forwarded::{Request, Stale, UriMiss, VaryMiss};
    match (outcome, forwarded) {
        (Outcome::Hit(TierName::Memory), _) => "larder; hit; detail=memory",
        (Outcome::Hit(TierName::Segment), _) => "larder; hit; detail=segment",
        (Outcome::Hit(TierName::File), _) => "larder; hit; detail=file",
        (Outcome::Hit(TierName::S3), _) => "larder; hit; detail=s3",
        (Outcome::Coalesced, UriMiss) => "larder; fwd=uri-miss; collapsed",
        (Outcome::Coalesced, VaryMiss) => "larder; fwd=vary-miss; collapsed",
        (Outcome::Coalesced, Stale) => "larder; fwd=stale; collapsed",
        (Outcome::Coalesced, Request) => "larder; fwd=request; collapsed",
        (Outcome::Miss, UriMiss) => "larder; fwd=uri-miss; stored",
        (Outcome::Miss, VaryMiss) => "larder; fwd=vary-miss; stored",
        (Outcome::Miss, Stale) => "larder; fwd=stale; stored",
        (Outcome::Miss, Request) => "larder; fwd=request; stored",
        (Outcome::Peer, UriMiss) => "larder; fwd=uri-miss; stored; detail=peer",
        (Outcome::Peer, VaryMiss) => "larder; fwd=vary-miss; stored; detail=peer",
        (Outcome::Peer, Stale) => "larder; fwd=stale; stored; detail=peer",
        (Outcome::Peer, Request) => "larder; fwd=request; stored; detail=peer",
        (Outcome::Revalidated, Request) => "larder; fwd=request; fwd-status=304; detail=revalidated",
        (Outcome::Revalidated, UriMiss | VaryMiss | Stale) => "larder; fwd=stale; fwd-status=304; detail=revalidated",
        (Outcome::Stale, _) => "larder; hit; detail=stale",
        (Outcome::Generated, _) => "larder; detail=generated",
        (Outcome::Bypass(Reason::Method), _) => "larder; fwd=method",
        (Outcome::Bypass(Reason::NoStore), UriMiss) => "larder; fwd=uri-miss; detail=no-store",
        (Outcome::Bypass(Reason::NoStore), VaryMiss) => "larder; fwd=vary-miss; detail=no-store",
        (Outcome::Bypass(Reason::NoStore), Stale) => "larder; fwd=stale; detail=no-store",
        (Outcome::Bypass(Reason::NoStore), Request) => "larder; fwd=request; detail=no-store",
        (Outcome::Bypass(Reason::Full), _) => "larder; fwd=uri-miss; detail=full",
        (Outcome::Bypass(Reason::Range), _) => "larder; fwd=partial; detail=range",
        (Outcome::Bypass(Reason::NoUpstream), _) => "larder; fwd=bypass; detail=no-upstream",
        (Outcome::Bypass(Reason::Tunnel), _) => "larder; fwd=bypass; detail=tunnel",
        (Outcome::Bypass(Reason::Offline), _) => "larder; detail=offline",
        (Outcome::Bypass(Reason::Denied), _) => "larder; detail=denied",
        (Outcome::Bypass(Reason::Upstream), _) => "larder; fwd=uri-miss; detail=upstream",
        (Outcome::Bypass(Reason::Unproven), _) => "larder; fwd=uri-miss; detail=unproven",
        (Outcome::Bypass(Reason::Private), _) => "larder; fwd=uri-miss; detail=private",
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// A short text, made by us.
pub(super) fn text(status: StatusCode, outcome: Outcome, text: impl Into<String>) -> Response<ReplyBody> {
    body(status, outcome, "text/plain; charset=utf-8", Bytes::from(text.into()))
}

/// A body made by us.
pub(super) fn body(
    status: StatusCode,
    outcome: Outcome,
    content_type: &'static str,
    bytes: Bytes,
) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::full(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    decorate(headers, cache_status(outcome, Forwarded::default()), None);
    response
}
