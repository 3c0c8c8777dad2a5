//! CONNECT (RFC 9110 §9.3.6): tunnelled and metered. The bytes are opaque, so nothing is cached; what goes this way is
//! shown to the build as traffic around the cache.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::front::{Answered, Front, Visit};
use super::reply::{self, ReplyBody};
use crate::cache::relay::{Carrier, Opened, TunnelAsk};
use crate::model::lookup::Trust;
use crate::model::outcome::{Outcome, Reason};

const TUNNEL: Outcome = Outcome::Bypass(Reason::Tunnel);
/// Copy buffer of each direction of a tunnel, in bytes.
const COPY_BYTES: usize = 64 << 10;
/// How often a tunnel is looked at within the time that it may be silent.
const LOOKS: u32 = 4;
/// How long a client may take to hear that its tunnel ends.
const FAREWELL: Duration = Duration::from_secs(2);

impl Front {
    pub(super) async fn connect(&self, mut visit: Visit<'_>) -> Answered {
        let at = self.http_label() + 1;
        let Some((host, port)) = target(&visit) else {
            let why = "CONNECT takes HOST:PORT and nothing else\n";
            return Answered::made(reply::text(StatusCode::BAD_REQUEST, TUNNEL, why), TUNNEL, at);
        };
        // Hosts are listed without the usual ports; whether port 80 may be tunnelled to is another matter.
        let listed = if matches!(port, 443 | 80) { host.clone() } else { format!("{host}:{port}") };
        if !self.hosts.may_ask(&listed, visit.nearness()) {
            return self.host_must_wait(&visit, &listed, at);
        }
        let Some(upgrade) = visit.extensions.remove::<OnUpgrade>() else {
            let why = "this connection cannot be turned into a tunnel\n";
            return Answered::made(reply::text(StatusCode::BAD_REQUEST, TUNNEL, why), TUNNEL, at);
        };
        if let Some(server) = self.looks_inside(&visit, &host, port) {
            return self.enter(visit, upgrade, server, (host, port), &listed);
        }
        let (trust, look) = (self.tunnel_trust(&listed), self.look(&visit.party));
        let ask = TunnelAsk { host: &host, port, trust, party: &visit.party, look };
        let Opened { io: upstream, carrier, .. } = match self.cache.tunnel(ask).await {
            Ok(opened) => opened,
            Err(error) => return self.failed(&error, at),
        };
        let (observers, tasks, idle) = (self.observers.clone(), self.tasks.clone(), self.tunnel_idle);
        let label: Option<Arc<str>> = visit.caller.build_label();
        // What the server put there counts the tunnel as under way.
        let kept = visit.extensions;
        self.tasks.spawn("tunnel", async move {
            let meter = observers.metered(label.as_ref(), &host, carrier);
            let carried = async {
                let Ok(client) = upgrade.await else { return };
                carry_unless_silent(TokioIo::new(client), upstream, &meter, idle).await;
            };
            tokio::select! { () = carried => {}, () = tasks.stopping() => {} }
            observers.tunnelled(label.as_ref(), &host, &meter, carrier);
            drop(kept);
        });
        let response: Response<ReplyBody> = Response::new(ReplyBody::empty());
        match carrier {
            Carrier::Ourselves => Answered::made(response, TUNNEL, at),
            // It counts the tunnel, or the requests that come through it.
            Carrier::Parent => Answered::made(response, Outcome::Generated, self.api_label()),
        }
    }

    /// How far the host of a tunnel is trusted, which takes no credential of ours along.
    fn tunnel_trust(&self, host: &str) -> Trust {
        if self.relayed == Trust::Build { Trust::Build } else { self.hosts.trust(host) }
    }
}

/// Host and port of an authority-form target. A port must be given.
fn target(visit: &Visit<'_>) -> Option<(String, u16)> {
    let authority = visit.uri.authority()?;
    if visit.uri.scheme().is_some() || authority.as_str().contains('@') {
        return None;
    }
    Some((authority.host().to_ascii_lowercase(), authority.port_u16()?))
}

/// As `carry`, until nothing has passed for `idle`.
pub(super) async fn carry_unless_silent<C, U>(client: C, upstream: U, meter: &Meter, idle: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        () = carry(client, upstream, meter) => {}
        () = meter.silent(idle) => tracing::debug!("a tunnel was silent for too long"),
    }
}

/// Copies both ways. Where one side ends, the other is told and may go on; where one fails, both end.
///
/// *Cancel*: both ends are closed.
async fn carry<C, U>(mut client: C, upstream: U, meter: &Meter)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut upstream = Metered { inner: upstream, meter };
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, COPY_BYTES, COPY_BYTES).await;
    if copied.is_err() {
        // The client may be gone already, or not listen.
        let _ = tokio::time::timeout(FAREWELL, client.shutdown()).await;
    }
}

/// Counts what passes, also through a tunnel that fails.
#[derive(Default)]
pub(super) struct Meter(AtomicU64);

impl Meter {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What has passed, which counts no more as under way.
    pub(super) fn taken(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Resolves when nothing has passed for `limit`. One timer, which no byte touches, so it may be a quarter late.
    async fn silent(&self, limit: Duration) {
        let (mut seen, mut looks) = (self.bytes(), 0);
        while looks < LOOKS {
            tokio::time::sleep(limit / LOOKS).await;
            let bytes = self.bytes();
            looks = if bytes == seen { looks + 1 } else { 0 };
            seen = bytes;
        }
    }
}

struct Metered<'a, T> {
    inner: T,
    meter: &'a Meter,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<'_, T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        this.meter.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<'_, T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(context, bytes))?;
        this.meter.add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    /// Says something and then fails.
    struct Failing(&'static [u8]);

    impl AsyncRead for Failing {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buffer.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_fails_is_counted_nevertheless() {
        let meter = Meter::default();
        let (mut client, ours) = tokio::io::duplex(64);
        client.write_all(b"ping").await.expect("fits");
        carry(ours, Failing(b"pong!"), &meter).await;
        assert_eq!(meter.bytes(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_listen_holds_no_failed_tunnel() {
        let meter = Meter::default();
        let (client, ours) = tokio::io::duplex(1);
        carry(tokio::io::BufWriter::new(ours), Failing(b"more than fits"), &meter).await;
        drop(client);
    }

    #[tokio::test]
    async fn who_has_said_all_may_still_listen() {
        let meter = Meter::default();
        let (mut client, ours) = tokio::io::duplex(64);
        let (theirs, mut upstream) = tokio::io::duplex(64);
        let talk = async {
            client.write_all(b"ask").await.expect("sends");
            client.shutdown().await.expect("ends its half");
            let mut asked = String::new();
            upstream.read_to_string(&mut asked).await.expect("the end comes through");
            upstream.write_all(b"answer").await.expect("sends");
            drop(upstream);
            let mut answered = String::new();
            client.read_to_string(&mut answered).await.expect("reads on");
            (asked, answered)
        };
        let (told, ()) = tokio::join!(talk, carry(ours, theirs, &meter));
        assert_eq!((told.0.as_str(), told.1.as_str(), meter.bytes()), ("ask", "answer", 9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_ends_and_one_that_murmurs_does_not() {
        let meter = Meter::default();
        tokio::time::timeout(LIMIT, meter.silent(LIMIT)).await.expect("ends");
        let murmur = async {
            for _ in 0..5 {
                tokio::time::sleep(LIMIT * 3 / 4).await;
                meter.add(1);
            }
        };
        tokio::select! {
            biased;
            () = murmur => {}
            () = meter.silent(LIMIT) => panic!("it was not silent"),
        }
        let last = LIMIT + LIMIT / LOOKS;
        tokio::time::timeout(last, meter.silent(LIMIT)).await.expect("ends");
    }
}
