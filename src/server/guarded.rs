//! The bytes of one connection on their way to hyper: counted for the watch, and for HTTP/1 judged by `framing`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::framing::Framing;
use super::lane::Lane;
use super::pulse::{Order, Pulse, Stage};

/// Given to hyper in place of what must not be believed: no header, name, size or line can hold it, so that hyper
/// refuses the request at its turn, after the answers to those before it.
const REFUSAL: &[u8] = b"\0\r\n\r\n";

/// What is read and thrown away after the answer, so that the peer gets to read it before a reset.
const LINGER_BYTES: usize = 2 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// The preface of HTTP/2.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that is watched. `place` is kept as long as the stream lives, also when it was upgraded to a tunnel.
pub(crate) struct Guarded<T, P> {
    inner: T,
    pulse: Arc<Pulse>,
    http1: Option<Http1>,
    first: Prefix,
    refused: Option<usize>,
    ended: bool,
    _place: P,
}

/// What HTTP/1 needs beside hyper.
pub(crate) struct Http1 {
    pub framing: Framing,
    pub lane: Lane,
}

/// Bytes that were read to tell the protocols apart.
#[derive(Clone, Copy, Default)]
pub(crate) struct Prefix {
    bytes: [u8; PREFACE.len()],
    len: u8,
    given: u8,
}

impl Prefix {
    /// Reads until the bytes can no longer be HTTP/2's preface, or are it.
    ///
    /// *Shape*: None when the peer closed without a byte.
    pub async fn read(from: &mut (impl AsyncRead + Unpin), pulse: &Pulse) -> io::Result<Option<Prefix>> {
        let mut first = Prefix::default();
        loop {
            let len = usize::from(first.len);
            let more = from.read(&mut first.bytes[len..]).await?;
            if more == 0 {
                return Ok((len > 0).then_some(first));
            }
            pulse.set_stage(Stage::Opening);
            first.len += u8::try_from(more).unwrap_or_default();
            let read = &first.bytes[..len + more];
            if !PREFACE.starts_with(read) || read.len() == PREFACE.len() {
                return Ok(Some(first));
            }
        }
    }

    pub fn is_http2(&self) -> bool {
        usize::from(self.len) == PREFACE.len() && self.bytes == *PREFACE
    }

    /// Whether there was something left to give.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.bytes[usize::from(self.given)..usize::from(self.len)];
        let len = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..len]);
        self.given += u8::try_from(len).unwrap_or_default();
        len > 0
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, P> Guarded<T, P> {
    /// *Shape*: without `http1` the bytes are not judged (HTTP/2).
    pub fn new(inner: T, pulse: Arc<Pulse>, http1: Option<Http1>, first: Prefix, place: P) -> Guarded<T, P> {
        Guarded { inner, pulse, http1, first, refused: None, ended: false, _place: place }
    }

    /// Waits for the first bytes of the next request and keeps them to be read.
    ///
    /// *Shape*: false when the peer closed.
    pub async fn wake(&mut self) -> io::Result<bool> {
        self.first = Prefix::default();
        if let Some(http1) = &mut self.http1 {
            http1.lane.rest();
        }
        let more = self.inner.read(&mut self.first.bytes).await?;
        self.first.len = u8::try_from(more).unwrap_or_default();
        Ok(more > 0)
    }

    /// Reads and drops what the peer still sends of a request that was answered early: closing at once would reset
    /// the connection and take the answer with it. Bounded in bytes and time.
    pub async fn linger(mut self) {
        let in_middle = self.http1.as_ref().is_some_and(|http1| http1.framing.stage() != Stage::Between);
        if self.ended || !in_middle {
            return;
        }
        let read_on = async {
            let mut sink = vec![0; 16 << 10];
            let mut left = LINGER_BYTES;
            while let Ok(len @ 1..) = self.inner.read(&mut sink).await {
                left = left.saturating_sub(len);
                if left == 0 {
                    return;
                }
            }
        };
        // Whoever still sends after this finds the connection reset.
        let _ = tokio::time::timeout(LINGER, read_on).await;
    }

    /// The next bytes of the connection; none at its end.
    fn poll_fresh(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // What was read ahead goes together with what follows: in two parts, hyper would double its buffer for it.
        let ahead = self.first.give(buf);
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if !ahead && read?.is_pending() {
            self.pulse.wait_to_read();
            if self.pulse.stage() == Stage::Tunnel {
                // Nobody drives a tunnel's connection: an order has to reach its reader.
                self.pulse.register(cx.waker());
            }
            return Poll::Pending;
        }
        let fresh = buf.filled().len() - before;
        self.ended = fresh == 0 && buf.remaining() > 0;
        self.pulse.has_read(fresh);
        Poll::Ready(Ok(()))
    }

    fn judge(&mut self, fresh: &[u8], cx: &mut Context<'_>) -> io::Result<Judged> {
        let Some(Http1 { framing, lane }) = &mut self.http1 else { return Ok(Judged::ForHyper) };
        let (is_open, heads) = (lane.is_open(framing), framing.heads());
        // The rules of `framing` need not be gone through again: what is new is a target that was answered before.
        let is_heard = is_open && lane.has_heard(fresh);
        if is_heard && lane.take(fresh, &mut self.inner, cx)? {
            framing.has_passed_a_head();
            return Ok(Judged::Taken);
        }
        let judged = framing.scan(fresh);
        self.pulse.set_stage(framing.stage());
        let is_one_head = judged.is_ok() && framing.heads() == heads.wrapping_add(1) && framing.is_between_heads();
        if is_open && !is_heard && is_one_head && lane.take(fresh, &mut self.inner, cx)? {
            return Ok(Judged::Taken);
        }
        lane.handed_over(framing);
        Ok(judged.map_or_else(|good| Judged::Refused { good }, |()| Judged::ForHyper))
    }

    /// Hands over the refusal, and then the end.
    fn refuse(&mut self, buf: &mut ReadBuf<'_>) {
        let given = self.refused.unwrap_or(0);
        let len = (REFUSAL.len() - given).min(buf.remaining());
        buf.put_slice(&REFUSAL[given..given + len]);
        self.refused = Some(given + len);
    }

    fn is_cut(&self) -> bool {
        self.pulse.order() == Order::Cut
    }
}

/// What becomes of bytes that came.
enum Judged {
    /// They were a request, which is answered.
    Taken,
    ForHyper,
    /// Up to where they may be believed.
    Refused {
        good: usize,
    },
}

fn cut() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl<T: AsyncRead + AsyncWrite + Unpin, P: Unpin> AsyncRead for Guarded<T, P> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        if this.refused.is_some() {
            this.refuse(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            if let Some(http1) = &mut this.http1 {
                ready!(http1.lane.pay(&mut this.inner, cx))?;
            }
            ready!(this.poll_fresh(cx, buf))?;
            match this.judge(&buf.filled()[before..], cx)? {
                Judged::Taken => buf.set_filled(before),
                Judged::ForHyper => return Poll::Ready(Ok(())),
                Judged::Refused { good } => {
                    buf.set_filled(before + good);
                    this.refuse(buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, P: Unpin> AsyncWrite for Guarded<T, P> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.wrote(poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.wrote(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_flush(cx);
        if poll.is_pending() {
            this.pulse.wait_to_write();
        } else if let Some(http1) = &mut this.http1 {
            http1.lane.flushed(&http1.framing);
        }
        poll
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, P> Guarded<T, P> {
    fn wrote(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        if poll.is_pending() {
            self.pulse.wait_to_write();
        }
        let written = ready!(poll)?;
        self.pulse.wrote(written);
        Poll::Ready(Ok(written))
    }
}
