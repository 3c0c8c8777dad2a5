//! The body of an answer on its way in: ends cleanly only when the framing says so, is given up when it drips, and is
//! taken up again by Range when it breaks and the plan allows.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::Version;
use http_body::Body;
use hyper::body::Incoming;

use super::exchange::{Question, describe, exchange, find};
use super::fetch::{Redirects, UpstreamError};
use super::hosts::{Host, Slot};
use super::network::Network;
use super::payload::SendBody;
use super::resume::Plan;
use super::retry::{self, Outcome};
use crate::runtime::pace::Pace;

/// Where a body comes from.
pub(crate) struct Source {
    pub(crate) network: Arc<Network>,
    pub(crate) host: Arc<Host>,
    pub(crate) question: Question,
    /// None when it may not be taken up again.
    pub(crate) plan: Option<Plan>,
}

pub(crate) struct Download {
    source: Arc<Source>,
    state: State,
    /// Held to the end, so that bodies count as exchanges.
    slot: Option<Slot>,
    pace: Pace,
    http2: bool,
    /// Bytes that came, and those that must have come at the end, where known.
    got: u64,
    expected: Option<u64>,
    resumes_left: u32,
}

enum State {
    Reading(Incoming),
    Resuming(BoxFuture<'static, Result<Resumed, UpstreamError>>),
    Over,
}

struct Resumed {
    incoming: Incoming,
    http2: bool,
    /// Bytes to come.
    left: u64,
    resumes_left: u32,
}

impl Download {
    pub(crate) fn new(source: Source, incoming: Incoming, version: Version, slot: Slot) -> Download {
        let settings = &source.network.settings;
        Download {
            pace: Pace::new(source.network.clock.clone(), settings.minimum_rate, settings.rate_window),
            resumes_left: settings.retry.resumes,
            slot: Some(slot),
            http2: version == Version::HTTP_2,
            got: 0,
            expected: incoming.size_hint().exact(),
            state: State::Reading(incoming),
            source: Arc::new(source),
        }
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.slot = None;
    }

    /// What a clean end of the framing amounts to.
    fn closed(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let State::Reading(incoming) = &self.state else { return None };
        // hyper takes a reset with NO_ERROR for an end; without END_STREAM it is none (RFC 9113 §8.1).
        let cut =
            (self.http2 && !incoming.is_end_stream()) || self.expected.is_some_and(|expected| expected > self.got);
        if cut {
            return self.broke(self.truncated());
        }
        self.source.host.body_ended();
        self.end();
        None
    }

    /// Takes the body up again, or gives it up with `error`.
    fn broke(&mut self, error: UpstreamError) -> Option<Result<Bytes, UpstreamError>> {
        self.source.host.body_failed();
        let resumable = !matches!(error, UpstreamError::Protocol { .. }) && self.resumes_left > 0;
        if resumable && self.source.plan.is_some() {
            let resume = resume(self.source.clone(), self.got, self.resumes_left, error);
            self.state = State::Resuming(Box::pin(resume));
            return None;
        }
        self.source.host.body_broke();
        self.end();
        Some(Err(error))
    }

    fn truncated(&self) -> UpstreamError {
        UpstreamError::Truncated {
            host: self.source.host.name().to_owned(),
            got: self.got,
            expected: self.expected.map_or_else(|| "an unknown number".to_owned(), |expected| expected.to_string()),
        }
    }

    fn failure(&self, error: &hyper::Error) -> UpstreamError {
        let nonsense = find::<io::Error>(error)
            .is_some_and(|error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
        if nonsense || error.is_parse() {
            UpstreamError::Protocol { host: self.source.host.name().to_owned(), why: describe(error) }
        } else {
            self.truncated()
        }
    }

    fn chunk(&mut self, bytes: Bytes) -> Option<Result<Bytes, UpstreamError>> {
        self.got += bytes.len() as u64;
        self.pace.moved(bytes.len());
        if self.expected.is_some_and(|expected| self.got > expected) {
            let why = "it sent more than it announced".to_owned();
            return self.broke(UpstreamError::Protocol { host: self.source.host.name().to_owned(), why });
        }
        Some(Ok(bytes))
    }

    fn poll_reading(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let State::Reading(incoming) = &mut self.state else { return Poll::Ready(None) };
        let frame = match Pin::new(incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.pace.poll_stalled(context));
                let settings = &self.source.network.settings;
                let (minimum_rate, window) = (settings.minimum_rate, settings.rate_window);
                let host = self.source.host.name().to_owned();
                return Poll::Ready(self.broke(UpstreamError::Slow { host, minimum_rate, window }));
            }
        };
        Poll::Ready(match frame {
            // Trailers are not kept; an empty chunk says nothing.
            Some(Ok(frame)) => frame.into_data().ok().filter(|data| !data.is_empty()).and_then(|data| self.chunk(data)),
            Some(Err(error)) => {
                let error = self.failure(&error);
                self.broke(error)
            }
            None => self.closed(),
        })
    }
}

impl Stream for Download {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Over => return Poll::Ready(None),
                State::Reading(_) => {
                    if let Some(item) = ready!(this.poll_reading(context)) {
                        return Poll::Ready(Some(item));
                    }
                }
                State::Resuming(resume) => match ready!(resume.as_mut().poll(context)) {
                    Ok(resumed) => {
                        this.expected = Some(this.got + resumed.left);
                        this.http2 = resumed.http2;
                        this.resumes_left = resumed.resumes_left;
                        this.pace.restart();
                        this.state = State::Reading(resumed.incoming);
                    }
                    Err(error) => {
                        this.source.host.body_broke();
                        this.end();
                        return Poll::Ready(Some(Err(error)));
                    }
                },
            }
        }
    }
}

/// Asks for what is missing. Fails with `broken`, the error that made it necessary.
async fn resume(source: Arc<Source>, got: u64, mut left: u32, broken: UpstreamError) -> Result<Resumed, UpstreamError> {
    let Source { network, host, question, plan } = &*source;
    let Some((plan, headers)) = plan.as_ref().and_then(|plan| Some((plan, plan.request(&question.headers, got)?)))
    else {
        return Err(broken);
    };
    let question = Question { headers, ..question.clone() };
    for tried in 0.. {
        if left == 0 || network.is_offline() || !host.spend_retry() {
            break;
        }
        left -= 1;
        tokio::time::sleep(retry::pause(tried, &network.settings.retry)).await;
        let Ok(admission) = host.admit() else { break };
        let answer = exchange(network, &question, SendBody::empty(), None).await;
        match answer {
            Ok(head) => {
                admission.settle(retry::verdict(Outcome::Answer(head.status, &head.headers), Redirects::Follow));
                let fits = plan.accept(head.status, &head.headers, head.len, got);
                let fits = fits.and_then(|left| Ok((left, head.incoming.ok_or("it sent nothing")?)));
                match fits {
                    Ok((to_come, incoming)) => {
                        host.resumed();
                        let http2 = head.version == Version::HTTP_2;
                        return Ok(Resumed { incoming, http2, left: to_come, resumes_left: left });
                    }
                    Err(why) if !head.status.is_server_error() => {
                        tracing::debug!(host = host.name(), why, "a broken body could not be taken up again");
                        break;
                    }
                    Err(_) => {}
                }
            }
            Err(failed) => admission.settle(retry::verdict(Outcome::Failure(&failed), Redirects::Follow)),
        }
    }
    Err(broken)
}
