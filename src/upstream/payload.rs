//! What an exchange sends along, as hyper wants it, and whether it can be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::fetch::{BodyStream, FetchBody, UpstreamError};

/// A body to send.
pub(crate) enum Payload {
    /// Empty, or in memory: may be sent again.
    Whole(Bytes),
    /// None once it was sent.
    Once(Option<(Option<u64>, BodyStream)>),
}

impl Payload {
    pub(crate) fn of(body: FetchBody) -> Payload {
        match body {
            FetchBody::Empty => Payload::Whole(Bytes::new()),
            FetchBody::Bytes(bytes) => Payload::Whole(bytes),
            FetchBody::Stream { len, body } => Payload::Once(Some((len, body))),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Payload::Whole(_))
    }

    /// The body for one attempt, and for a stream the watch over its progress. None when the stream was already sent.
    pub(crate) fn take(&mut self) -> Option<(SendBody, Option<Arc<Progress>>)> {
        match self {
            Payload::Whole(bytes) => Some((SendBody::Whole(bytes.clone()), None)),
            Payload::Once(stream) => {
                let (left, stream) = stream.take()?;
                let progress = Arc::new(Progress::default());
                Some((SendBody::Stream { left, stream, progress: progress.clone() }, Some(progress)))
            }
        }
    }
}

/// How far a stream was sent: so that a slow upload is not taken for a silent upstream.
#[derive(Default)]
pub(crate) struct Progress {
    steps: AtomicU64,
    /// Set while we wait for the source, which is not the upstream's fault.
    starved: AtomicU64,
}

impl Progress {
    /// A number that changes when anything moves; None while the source is what we wait for.
    pub(crate) fn mark(&self) -> Option<u64> {
        if self.starved.load(Ordering::Acquire) == 1 { None } else { Some(self.steps.load(Ordering::Acquire)) }
    }
}

/// A request body. Its errors come from the source alone.
pub(crate) enum SendBody {
    Whole(Bytes),
    Stream { left: Option<u64>, stream: BodyStream, progress: Arc<Progress> },
}

impl SendBody {
    pub(crate) fn empty() -> SendBody {
        SendBody::Whole(Bytes::new())
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self.get_mut() {
            SendBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            SendBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            SendBody::Stream { left, stream, progress } => {
                progress.starved.store(1, Ordering::Release);
                let next = ready!(stream.as_mut().poll_next(context));
                progress.starved.store(0, Ordering::Release);
                progress.steps.fetch_add(1, Ordering::AcqRel);
                let next = next.map(|chunk| {
                    chunk.inspect(|chunk| {
                        *left = left.map(|left| left.saturating_sub(chunk.len() as u64));
                    })
                });
                Poll::Ready(next.map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            SendBody::Whole(bytes) => bytes.is_empty(),
            SendBody::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            SendBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            SendBody::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            SendBody::Stream { left: None, .. } => SizeHint::default(),
        }
    }
}
