//! The lane beside hyper: a request that the mount has answered before is answered where its bytes are read, and hyper
//! never hears of it. Everything else goes on to hyper, which stays the one that decides what HTTP/1 means.
//!
//! It is open only while hyper holds nothing: every request it was handed has begun, ended and been flushed. So answers
//! leave in the order of their requests. `Framing` has judged the bytes before they are judged here; only those that are
//! the same as before, but for a target that was answered before, need not pass it again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::counters::Counters;
use super::framing::Framing;
use super::pulse::{Order, Pulse};
use super::session::Session;
use crate::protocol::{Fields, Repeated};

/// How many different heads of one connection are judged. A client that never repeats itself gains nothing by it.
const JUDGED_MAX: u8 = 8;

/// What is left of an answer is sent from one piece up to this, in bytes: the kernel takes longer to gather it.
const GATHERED: usize = 2 << 10;

/// Answers what comes again on one connection.
pub(crate) struct Lane {
    session: Arc<Session>,
    fields: Option<Box<Fields>>,
    judged: u8,
    /// hyper has nothing in hand.
    is_clear: bool,
    is_shut: bool,
    owed: Option<Box<Owed>>,
}

/// An answer that the socket has not taken all of.
struct Owed {
    answer: Repeated,
    sent: usize,
}

impl Lane {
    pub fn new(session: Arc<Session>) -> Lane {
        Lane { session, fields: None, judged: 0, is_clear: true, is_shut: false, owed: None }
    }

    /// Whether bytes that are read now may be answered here, if they turn out to be one whole head.
    pub fn is_open(&self, framing: &Framing) -> bool {
        self.is_clear && framing.is_between_heads() && self.session.pulse.order() == Order::Live
    }

    /// Bytes went on to hyper.
    pub fn handed_over(&mut self, framing: &Framing) {
        self.is_clear = false;
        // Whether hyper has read a body to its end is not seen from here.
        self.is_shut = framing.had_body();
    }

    /// hyper has flushed all it had.
    pub fn flushed(&mut self, framing: &Framing) {
        self.is_clear = !self.is_shut && self.session.pulse.has_settled(framing.heads());
    }

    /// Gives up what only a busy connection needs.
    pub fn rest(&mut self) {
        self.fields = None;
        self.judged = self.judged.saturating_sub(1);
    }

    /// Takes on a request, if it came before, and sends what the connection takes of the answer. `head` is one whole head
    /// and nothing else. False: it is hyper's.
    ///
    /// *Errors*: the connection's; it is of no use after one.
    pub fn take<T: AsyncWrite + Unpin>(&mut self, head: &[u8], to: &mut T, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(answer) = self.answer_to(head) else { return Ok(false) };
        self.session.pulse.request_began();
        Counters::up(&self.session.counters.repeated);
        let mut owed = Owed { answer, sent: 0 };
        let poll = owed.pay(&self.session.pulse, to, cx);
        match poll {
            Poll::Ready(paid) => {
                self.conclude(&owed);
                paid.map(|()| true)
            }
            Poll::Pending => {
                self.owed = Some(Box::new(owed));
                Ok(true)
            }
        }
    }

    /// Whether all of these bytes but the request line were a head's before, on this connection.
    pub fn has_heard(&self, head: &[u8]) -> bool {
        let known = |fields: &Fields| split(head).is_some_and(|(target, rest)| fields.are(target, rest));
        self.fields.as_deref().is_some_and(known)
    }

    fn answer_to(&mut self, head: &[u8]) -> Option<Repeated> {
        let (target, rest) = split(head)?;
        let session = &self.session;
        if target.len() > session.target_bytes {
            return None;
        }
        if !self.fields.as_ref().is_some_and(|fields| fields.are(target, rest)) {
            if self.judged >= JUDGED_MAX {
                return None;
            }
            self.judged += 1;
            self.fields = session.root.acquaint(head, &session.peer).map(Box::new);
        }
        let answer = session.root.again(target, self.fields.as_mut()?, &session.peer)?;
        // One that may not ask is told so by hyper's way.
        session.bucket.as_ref().is_none_or(|bucket| bucket.take()).then_some(answer)
    }

    /// Sends what is owed.
    ///
    /// *Errors*: as `take`.
    pub fn pay<T: AsyncWrite + Unpin>(&mut self, to: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(owed) = &mut self.owed {
            ready!(owed.pay(&self.session.pulse, to, cx))?;
        }
        if let Some(owed) = self.owed.take() {
            self.conclude(&owed);
        }
        Poll::Ready(Ok(()))
    }

    fn conclude(&self, owed: &Owed) {
        let session = &self.session;
        session.pulse.request_ended();
        session.root.sent_again(&owed.answer, &session.peer, owed.answer.body_among(owed.sent));
    }
}

impl Owed {
    fn pay<T: AsyncWrite + Unpin>(&mut self, pulse: &Pulse, to: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.answer.wire_bytes() {
            let poll = self.poll_send(to, cx);
            if poll.is_pending() {
                pulse.wait_to_write();
            }
            let written = ready!(poll)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            pulse.wrote(written);
            self.sent += written;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send<T: AsyncWrite + Unpin>(&self, to: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (rest, left) = (self.answer.rest(self.sent), self.answer.wire_bytes() - self.sent);
        if left > GATHERED {
            let first = rest.iter().position(|piece| !piece.is_empty()).unwrap_or(0);
            return Pin::new(to).poll_write_vectored(cx, &rest.map(IoSlice::new)[first..]);
        }
        let (mut bytes, mut at) = ([0; GATHERED], 0);
        for piece in rest {
            bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        Pin::new(to).poll_write(cx, &bytes[..left])
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(owed) = self.owed.take() {
            self.conclude(&owed);
        }
    }
}

/// The target of a GET by HTTP/1.1, and what follows its line.
fn split(head: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(b'\n', head)?;
    let target = head[..end].strip_prefix(b"GET ")?.strip_suffix(b" HTTP/1.1\r")?;
    Some((std::str::from_utf8(target).ok()?, &head[end + 1..]))
}
