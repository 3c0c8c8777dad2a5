//! What is served, as an HTTP body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

/// The body failed while it was being sent.
#[derive(Debug, thiserror::Error)]
#[error("body cut short")]
pub struct BodyError;

impl From<Infallible> for BodyError {
    fn from(never: Infallible) -> BodyError {
        match never {}
    }
}

/// A body on its way out.
pub struct ReplyBody(UnsyncBoxBody<Bytes, BodyError>);

impl ReplyBody {
    pub fn full(bytes: Bytes) -> ReplyBody {
        ReplyBody::new(http_body_util::Full::new(bytes).map_err(BodyError::from))
    }

    pub fn empty() -> ReplyBody {
        ReplyBody::full(Bytes::new())
    }

    pub fn new(body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> ReplyBody {
        ReplyBody(UnsyncBoxBody::new(body))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
