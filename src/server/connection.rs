//! One connection from accept to close: told apart by its first bytes, then driven by hyper under the watch's orders.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::admission::Admitted;
use super::counters::Counters;
use super::framing::Framing;
use super::guarded::{Guarded, Http1, Prefix};
use super::lane::Lane;
use super::pulse::{Order, Pulse, Stage};
use super::seal::shaking;
use super::sealed::Sealed;
use super::service::answer;
use super::session::{Ends, Place, Session, Shared, Tally};
use super::settings::Limits;
use crate::protocol::Peer;
use crate::runtime::tasks::Tasks;

/// Which conversation the first bytes began.
pub(crate) struct Opened<T> {
    io: T,
    first: Prefix,
    http2: bool,
}

/// Boxed, so that each connection is as large as what it does, not as the largest thing one could do.
pub(crate) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves a connection that was just accepted.
pub(crate) async fn serve_socket(shared: Arc<Shared>, socket: TcpStream, ends: Ends, admitted: Admitted) {
    let mut place = Place::new(&shared, admitted);
    let pulse = place.registered.pulse.clone();
    if !shows_tls(&shared, &socket, &pulse).await {
        return serve_stream(shared, socket, ends, place).await;
    }
    pulse.set_stage(Stage::Opening);
    let opening = Box::pin(open_tls(shared.clone(), socket, pulse.clone()));
    if let Some(opened) = obeying(&pulse, opening).await.flatten() {
        place.tls = Some(Tally::new(&shared.counters, |counters| &counters.open_tls));
        drop(pulse);
        serve(shared, opened, ends, place).await;
    }
}

#[cfg(test)]
pub(crate) async fn serve_memory(shared: Arc<Shared>, io: tokio::io::DuplexStream, ends: Ends, admitted: Admitted) {
    let place = Place::new(&shared, admitted);
    serve_stream(shared, io, ends, place).await;
}

/// Whether the first byte begins a TLS handshake. It stays to be read.
async fn shows_tls(shared: &Shared, socket: &TcpStream, pulse: &Pulse) -> bool {
    let mut first = [0];
    shared.acceptor.is_some() && matches!(obeying(pulse, socket.peek(&mut first)).await, Some(Ok(1))) && first == [0x16]
}

/// Serves a stream on which no byte was read yet.
pub(crate) async fn serve_stream<T>(shared: Arc<Shared>, mut io: T, ends: Ends, place: Place)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = &place.registered.pulse;
    if let Some(Ok(Some(first))) = obeying(pulse, Prefix::read(&mut io, pulse)).await {
        serve(shared, Opened { io, http2: first.is_http2(), first }, ends, place).await;
    }
}

/// *Shape*: None when the handshake failed or the peer left.
async fn open_tls(shared: Arc<Shared>, socket: TcpStream, pulse: Arc<Pulse>) -> Option<Opened<Box<Sealed<TcpStream>>>> {
    let acceptor = shared.acceptor.as_ref()?;
    // A handshake takes room that each connection would have for ever.
    let io = match Box::pin(shaking(acceptor.accept(socket))).await {
        (Ok(io), sealer) => Box::new(Sealed::new(io, sealer)),
        (Err(error), _) => {
            Counters::up(&shared.counters.refused_tls);
            tracing::debug!(%error, "tls handshake failed");
            return None;
        }
    };
    opened(io, &pulse).await.ok()?
}

/// After a handshake.
///
/// *Shape*: None when the peer left.
pub(crate) async fn opened<T>(mut io: Box<Sealed<T>>, pulse: &Pulse) -> std::io::Result<Option<Opened<Box<Sealed<T>>>>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    pulse.set_stage(Stage::Waiting);
    Ok(match io.alpn_protocol() {
        Some(b"h2") => Some(Opened { io, first: Prefix::default(), http2: true }),
        Some(_) => Some(Opened { io, first: Prefix::default(), http2: false }),
        None => {
            let first = Prefix::read(&mut io, pulse).await?;
            first.map(|first| Opened { io, http2: first.is_http2(), first })
        }
    })
}

pub(crate) fn serve<T>(shared: Arc<Shared>, opened: Opened<T>, ends: Ends, mut place: Place) -> Serving
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Opened { io, first, http2 } = opened;
    let pulse = place.registered.pulse.clone();
    let inside = place.inside.take();
    let peer = Peer { addr: ends.addr, local: ends.local, tls: place.tls.is_some(), http2, inside };
    let session = Arc::new(Session {
        root: shared.root.clone(),
        peer: Arc::new(peer),
        pulse: pulse.clone(),
        bucket: place.bucket.clone(),
        counters: shared.counters.clone(),
        target_bytes: usize::try_from(shared.limits.target_bytes).unwrap_or(usize::MAX),
        shared: shared.clone(),
    });
    if http2 {
        place.http2 = Some(Tally::new(&shared.counters, |counters| &counters.open_http2));
        pulse.set_http2();
        pulse.set_stage(Stage::Frames);
        Box::pin(serve_http2(shared, Guarded::new(io, pulse, None, first, place), session))
    } else {
        pulse.set_stage(Stage::Between);
        let header_bytes = usize::try_from(shared.limits.header_bytes).unwrap_or(usize::MAX);
        let http1 = Http1 { framing: Framing::new(header_bytes), lane: Lane::new(session.clone()) };
        let guarded = Guarded::new(io, pulse, Some(http1), first, place);
        Box::pin(serve_http1(shared, guarded, session))
    }
}

async fn serve_http1<T>(shared: Arc<Shared>, mut io: Guarded<T, Place>, session: Arc<Session>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let per_request = session.clone();
        let service = service_fn(move |request| answer(per_request.clone(), request));
        let connection = http1_builder(&shared.limits).serve_connection(TokioIo::new(io), service).with_upgrades();
        let mut driven = Driven { connection, pulse: session.pulse.clone(), told: false };
        let end = (&mut driven).await;
        if let End::Failed(error) = &end {
            note_failure(&shared.counters, error);
        }
        // None: the stream was upgraded and is no longer ours.
        let Some(rest) = driven.connection.into_parts().map(|parts| parts.io.into_inner()) else { return };
        io = rest;
        match end {
            End::Dozes => {}
            End::Closed => return io.linger().await,
            End::Failed(error) if error.is_parse() => return io.linger().await,
            End::Failed(_) | End::Cut => return,
        }
        if !matches!(dozing(&session.pulse, io.wake()).await, Some(Ok(true))) {
            return;
        }
    }
}

async fn serve_http2<T>(shared: Arc<Shared>, io: Guarded<T, Place>, session: Arc<Session>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = session.pulse.clone();
    let service = service_fn(move |request| answer(session.clone(), request));
    let connection = http2_builder(&shared).serve_connection(TokioIo::new(io), service);
    let mut driven = Driven { connection, pulse, told: false };
    if let End::Failed(error) = (&mut driven).await {
        note_failure(&shared.counters, &error);
    }
}

fn note_failure(counters: &Counters, error: &hyper::Error) {
    if error.is_parse() {
        Counters::up(&counters.malformed);
    }
    tracing::debug!(%error, "connection failed");
}

/// What hyper queues of an answer before it writes, in bytes: with one piece of the store's it has enough. More would
/// be memory for each slow reader, and cold in the cache when it is written at last.
const QUEUED_BYTES: usize = 64 << 10;

/// No timer is given to hyper: its header time-out would arm one for each request and count idle time as well. The
/// watch has both limits.
fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let head_bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
    builder
        .max_buf_size(head_bytes.saturating_add(8 << 10).max(QUEUED_BYTES))
        .max_header_size(head_bytes)
        .header_read_timeout(None)
        .keep_alive(true);
    if limits.headers != 100 {
        // 100 is hyper's own number, for which it needs no allocation.
        builder.max_headers(limits.headers);
    }
    builder
}

fn http2_builder(shared: &Shared) -> http2::Builder<Streams> {
    let limits = &shared.limits.http2;
    let window = limits.window(shared.counters.open.load(Relaxed));
    let mut builder = http2::Builder::new(Streams { tasks: shared.tasks.clone() });
    builder
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_frame_size(u32::try_from(limits.frame_bytes).unwrap_or(1 << 18))
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_list_bytes).unwrap_or(16 << 10))
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.local_resets)
        .max_send_buf_size(usize::try_from(limits.send_buffer_bytes).unwrap_or(64 << 10));
    builder
}

/// Runs HTTP/2 streams as tasks that a shutdown waits for.
#[derive(Clone)]
struct Streams {
    tasks: Tasks,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.tasks.spawn("http/2 stream", stream);
    }
}

/// Runs `future` until it is done or the connection is cut.
pub(crate) async fn obeying<F: Future>(pulse: &Pulse, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        pulse.register(cx.waker());
        if pulse.order() == Order::Cut {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Waits for the next request until the connection is told anything. A request that is there already comes first.
async fn dozing<F: Future>(pulse: &Pulse, wake: F) -> Option<F::Output> {
    let mut wake = std::pin::pin!(wake);
    std::future::poll_fn(|cx| {
        pulse.register(cx.waker());
        match wake.as_mut().poll(cx) {
            Poll::Pending if pulse.order() != Order::Live => Poll::Ready(None),
            poll => poll.map(Some),
        }
    })
    .await
}

/// A hyper connection that can be told to finish.
trait Finish: Future<Output = hyper::Result<()>> + Unpin {
    /// Whether it may be told now.
    fn may_finish(&self, pulse: &Pulse) -> bool;
    /// Whether it can be taken apart between requests.
    fn may_doze(&self, pulse: &Pulse) -> bool;
    fn finish(&mut self);
}

impl<T, P, S> Finish for http1::UpgradeableConnection<TokioIo<Guarded<T, P>>, S>
where
    Self: Future<Output = hyper::Result<()>> + Unpin,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Unpin + Send + 'static,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = super::service::Tracked>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// hyper closes an idle connection without looking whether a request has come. So it is told only when the peer
    /// has nothing for us, and one that never asked is given the time to (the watch ends it soon after). The answers
    /// meanwhile say `Connection: close`.
    fn may_finish(&self, pulse: &Pulse) -> bool {
        pulse.rests() && pulse.beat().requests > 0
    }

    fn may_doze(&self, pulse: &Pulse) -> bool {
        pulse.rests()
    }

    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<T, P, S> Finish for http2::Connection<TokioIo<Guarded<T, P>>, S, Streams>
where
    Self: Future<Output = hyper::Result<()>> + Unpin,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Unpin + Send + 'static,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = super::service::Tracked>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    fn may_finish(&self, _pulse: &Pulse) -> bool {
        true
    }

    fn may_doze(&self, _pulse: &Pulse) -> bool {
        false
    }

    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

/// How a connection ended.
enum End {
    Closed,
    Failed(hyper::Error),
    Cut,
    /// It rests, and is only waited for: hyper's buffers (24 KiB) need not be kept for that.
    Dozes,
}

struct Driven<C> {
    connection: C,
    pulse: Arc<Pulse>,
    told: bool,
}

impl<C: Finish> Future for &mut Driven<C> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = &mut **self;
        this.pulse.register(cx.waker());
        loop {
            let order = this.pulse.order();
            if order == Order::Cut {
                return Poll::Ready(End::Cut);
            }
            this.pulse.clear_waits();
            if let Poll::Ready(end) = Pin::new(&mut this.connection).poll(cx) {
                return Poll::Ready(end.map_or_else(End::Failed, |()| End::Closed));
            }
            if this.pulse.may_doze() && order == Order::Live && this.connection.may_doze(&this.pulse) {
                return Poll::Ready(End::Dozes);
            }
            if order == Order::Live || this.told || !this.connection.may_finish(&this.pulse) {
                return Poll::Pending;
            }
            this.connection.finish();
            this.told = true;
        }
    }
}
