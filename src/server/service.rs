//! From hyper to the mount and back, for one request: what a connection-level check cannot see is checked here, and
//! the answer is followed to its end so that the watch and a drain know what is under way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::counters::Counters;
use super::pulse::Order;
use super::session::Session;
use crate::protocol::reply::{BodyError, ReplyBody};

/// Answers one request.
///
/// *Cancel*: the mount's future is dropped with it.
pub(crate) async fn answer(
    session: Arc<Session>,
    mut request: Request<Incoming>,
) -> Result<Response<Tracked>, Infallible> {
    let mut flight = Flight::begin(session);
    let session = &flight.session;
    if let Some(refusal) = refuse(session, &request) {
        return Ok(refusal.map(|body| Tracked { body, flight }));
    }
    let http1 = request.version() < Version::HTTP_2;
    let chunked = http1 && request.headers().contains_key(TRANSFER_ENCODING);
    let connect = http1 && request.method() == Method::CONNECT;
    if request.method() == Method::CONNECT {
        request.extensions_mut().insert((session.shared.tunnels)(session));
        if !http1 {
            // Such a tunnel is a stream of this connection, which would be taken for idle.
            request.extensions_mut().insert(Arc::new(Flight::begin(session.clone())));
        }
    }
    let mut response = session.root.serve(request, &session.peer).await;
    let refused_tunnel = connect && !response.status().is_success();
    let finishing = http1 && session.pulse.order() != Order::Live;
    if chunked || refused_tunnel || finishing {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    flight.wait_for_peer();
    Ok(response.map(|body| Tracked { body, flight }))
}

/// The answer to a request that no mount should see.
fn refuse(session: &Session, request: &Request<Incoming>) -> Option<Response<ReplyBody>> {
    if session.bucket.as_ref().is_some_and(|bucket| !bucket.take()) {
        Counters::up(&session.counters.shed);
        let mut response = Response::new(ReplyBody::empty());
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Some(response);
    }
    let uri = request.uri();
    let target_bytes = uri.path().len() + uri.query().map_or(0, str::len);
    let status = if target_bytes > session.target_bytes {
        StatusCode::URI_TOO_LONG
    } else if session.peer.http2 && !is_clear(request) {
        StatusCode::BAD_REQUEST
    } else {
        return None;
    };
    Counters::up(&session.counters.malformed);
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = status;
    if !session.peer.http2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Some(response)
}

/// Whether an HTTP/2 request names one host, and nobody but it. HTTP/1 was judged on the wire.
fn is_clear(request: &Request<Incoming>) -> bool {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    let alike = match (authority, host) {
        (Some(authority), Some(host)) => host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()),
        (None, None) => false,
        _ => true,
    };
    alike && hosts.next().is_none() && !authority.is_some_and(|authority| authority.contains('@'))
}

/// Counts a request from its head to the last byte of its answer.
struct Flight {
    session: Arc<Session>,
    ours: bool,
}

impl Flight {
    fn begin(session: Arc<Session>) -> Flight {
        session.pulse.request_began();
        let ours = session.peer.http2;
        if ours {
            session.pulse.ours_began();
        }
        Flight { session, ours }
    }

    fn wait_for_us(&mut self) {
        if self.session.peer.http2 && !self.ours {
            self.session.pulse.ours_began();
            self.ours = true;
        }
    }

    fn wait_for_peer(&mut self) {
        if self.ours {
            self.session.pulse.ours_ended();
            self.ours = false;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.wait_for_peer();
        self.session.pulse.request_ended();
    }
}

pin_project_lite::pin_project! {
    /// A body that is counted as under way until it is dropped.
    pub(crate) struct Tracked {
        #[pin]
        body: ReplyBody,
        flight: Flight,
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        let poll = this.body.poll_frame(cx);
        if poll.is_pending() {
            this.flight.wait_for_us();
        } else {
            this.flight.wait_for_peer();
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
