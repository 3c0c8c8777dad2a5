//! What the front door counts. Read by whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start; those named `open` go down again.
#[derive(Default, Debug)]
pub struct Counters {
    pub open: AtomicU64,
    pub open_tls: AtomicU64,
    pub open_http2: AtomicU64,
    pub accepted: AtomicU64,
    /// Closed at once: too many from one address.
    pub refused_address: AtomicU64,
    /// Closed at once: no TLS here, or the handshake failed.
    pub refused_tls: AtomicU64,
    /// Accepting failed, mostly for want of descriptors.
    pub accept_failed: AtomicU64,
    /// Answered 429.
    pub shed: AtomicU64,
    /// Answered 4xx by the server itself: framing, header limits, forms of the target.
    pub malformed: AtomicU64,
    /// Requests that were answered beside hyper.
    pub repeated: AtomicU64,
    pub cut_handshake: AtomicU64,
    pub cut_slow_header: AtomicU64,
    pub cut_slow_body: AtomicU64,
    pub closed_idle: AtomicU64,
    pub closed_old: AtomicU64,
}

impl Counters {
    pub(crate) fn up(count: &AtomicU64) {
        count.fetch_add(1, Relaxed);
    }

    pub(crate) fn down(count: &AtomicU64) {
        count.fetch_sub(1, Relaxed);
    }

    /// Connections that were closed at once, with why.
    pub fn refused(&self) -> [(&'static str, u64); 2] {
        [("address", self.refused_address.load(Relaxed)), ("tls", self.refused_tls.load(Relaxed))]
    }

    /// Connections that a limit ended, with why.
    pub fn cut(&self) -> [(&'static str, u64); 5] {
        [
            ("handshake", self.cut_handshake.load(Relaxed)),
            ("slow-header", self.cut_slow_header.load(Relaxed)),
            ("slow-body", self.cut_slow_body.load(Relaxed)),
            ("idle", self.closed_idle.load(Relaxed)),
            ("age", self.closed_old.load(Relaxed)),
        ]
    }
}
