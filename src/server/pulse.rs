//! The signs of life of one connection: written by the connection with plain relaxed stores, read once a second by
//! the watch. This is what makes timers per request unnecessary.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Accepted; not a byte came yet.
    Waiting,
    /// Within a TLS handshake, or the first bytes that tell the protocols apart.
    Opening,
    /// Between HTTP/1 requests.
    Between,
    /// Within the head of an HTTP/1 request.
    Head,
    /// Within the body of an HTTP/1 request.
    Body,
    /// HTTP/2: its framing is not followed.
    Frames,
    /// A tunnel: the connection belongs to whoever took it over.
    Tunnel,
}

/// What the watch wants of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Order {
    Live,
    /// Finish what is under way, take nothing new.
    Finish,
    /// End now.
    Cut,
}

/// Which direction the connection waits for the peer in.
const READ: u8 = 1;
const WRITE: u8 = 2;

/// The shared state of one connection.
pub(crate) struct Pulse {
    stage: AtomicU8,
    order: AtomicU8,
    waits: AtomicU8,
    doze: AtomicBool,
    http2: AtomicBool,
    requests: AtomicU32,
    in_flight: AtomicU32,
    ours: AtomicU32,
    read: AtomicU64,
    written: AtomicU64,
    waker: AtomicWaker,
}

/// One look at a pulse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Beat {
    pub stage: Stage,
    /// The last attempt to read found nothing, and somebody wants what comes.
    pub waits_to_read: bool,
    /// The peer has not taken what was written.
    pub waits_to_write: bool,
    pub http2: bool,
    pub requests: u32,
    pub in_flight: u32,
    /// Of those in flight, how many wait for us and not for the peer (HTTP/2 alone).
    pub ours: u32,
    pub read: u64,
    pub written: u64,
}

impl Pulse {
    pub fn new() -> Pulse {
        Pulse {
            stage: AtomicU8::new(Stage::Waiting as u8),
            order: AtomicU8::new(Order::Live as u8),
            waits: AtomicU8::new(0),
            doze: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            ours: AtomicU32::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        }
    }

    pub fn beat(&self) -> Beat {
        let waits = self.waits.load(Relaxed);
        Beat {
            stage: self.stage(),
            waits_to_read: waits & READ != 0,
            waits_to_write: waits & WRITE != 0,
            http2: self.http2.load(Relaxed),
            requests: self.requests.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            ours: self.ours.load(Relaxed),
            read: self.read.load(Relaxed),
            written: self.written.load(Relaxed),
        }
    }

    pub fn stage(&self) -> Stage {
        const STAGES: [Stage; 7] =
            [Stage::Waiting, Stage::Opening, Stage::Between, Stage::Head, Stage::Body, Stage::Frames, Stage::Tunnel];
        STAGES[usize::from(self.stage.load(Relaxed))]
    }

    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Relaxed);
    }

    pub fn set_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    pub fn order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Live,
            1 => Order::Finish,
            _ => Order::Cut,
        }
    }

    /// Tells the connection. An order is never taken back, only sharpened.
    pub fn give(&self, order: Order) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.waker.wake();
        }
    }

    /// Lets a connection that rests give up what it needs only at work.
    pub fn let_doze(&self) {
        self.doze.store(true, Relaxed);
        self.waker.wake();
    }

    /// Whether it was let doze since the last time this was asked.
    pub fn may_doze(&self) -> bool {
        self.doze.load(Relaxed) && self.doze.swap(false, Relaxed)
    }

    /// Whether an HTTP/1 connection is between requests and the peer has sent nothing more.
    pub fn rests(&self) -> bool {
        let beat = self.beat();
        beat.stage == Stage::Between && beat.in_flight == 0 && beat.waits_to_read && !beat.waits_to_write
    }

    /// Whether as many requests as `heads` have begun, and ended.
    pub fn has_settled(&self, heads: u32) -> bool {
        self.in_flight.load(Relaxed) == 0 && self.requests.load(Relaxed) == heads
    }

    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    // The connection's task is the only writer of the following three, so plain loads and stores are enough.

    pub fn clear_waits(&self) {
        self.waits.store(0, Relaxed);
    }

    pub fn wait_to_read(&self) {
        self.waits.store(self.waits.load(Relaxed) | READ, Relaxed);
    }

    pub fn wait_to_write(&self) {
        self.waits.store(self.waits.load(Relaxed) | WRITE, Relaxed);
    }

    pub fn wrote(&self, bytes: usize) {
        self.written.store(self.written.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub fn has_read(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub fn request_began(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub fn ours_began(&self) {
        self.ours.fetch_add(1, Relaxed);
    }

    pub fn ours_ended(&self) {
        self.ours.fetch_sub(1, Relaxed);
    }
}
