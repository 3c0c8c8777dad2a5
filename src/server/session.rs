//! What connections hold: what all of them share, what one has as long as its stream lives, and what its requests share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio_rustls::TlsAcceptor;

use super::admission::{Admission, Admitted, Bucket};
use super::counters::Counters;
use super::guise::Guises;
use super::pulse::Pulse;
use super::settings::Limits;
use super::watch::{Registered, Watch};
use crate::protocol::{Inside, Mount, Peer, TunnelServer};
use crate::runtime::tasks::Tasks;

/// What all connections share.
pub(crate) struct Shared {
    pub root: Arc<dyn Mount>,
    pub limits: Limits,
    pub counters: Arc<Counters>,
    pub watch: Arc<Watch>,
    pub admission: Arc<Admission>,
    pub acceptor: Option<TlsAcceptor>,
    /// Looks into the tunnels that a connection's requests open.
    pub tunnels: fn(&Arc<Session>) -> Arc<dyn TunnelServer>,
    /// For what goes through tunnels.
    pub guises: Option<Arc<Guises>>,
    pub tasks: Tasks,
}

/// What the requests of one connection share.
pub(crate) struct Session {
    pub root: Arc<dyn Mount>,
    pub peer: Arc<Peer>,
    pub pulse: Arc<Pulse>,
    pub bucket: Option<Arc<Bucket>>,
    pub counters: Arc<Counters>,
    pub target_bytes: usize,
    pub shared: Arc<Shared>,
}

/// The two ends of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub addr: SocketAddr,
    pub local: SocketAddr,
}

/// What a connection holds as long as its stream lives.
pub(crate) struct Place {
    /// None: the connection around it has it.
    pub _admitted: Option<Admitted>,
    pub bucket: Option<Arc<Bucket>>,
    pub registered: Registered,
    pub tls: Option<Tally>,
    pub http2: Option<Tally>,
    /// The tunnel that it goes through.
    pub inside: Option<Arc<Inside>>,
}

impl Place {
    pub fn new(shared: &Shared, admitted: Admitted) -> Place {
        let bucket = admitted.bucket.clone();
        let registered = shared.watch.register();
        Place { _admitted: Some(admitted), bucket, registered, tls: None, http2: None, inside: None }
    }
}

/// Counts something that is open.
pub(crate) struct Tally {
    counters: Arc<Counters>,
    which: fn(&Counters) -> &AtomicU64,
}

impl Tally {
    pub fn new(counters: &Arc<Counters>, which: fn(&Counters) -> &AtomicU64) -> Tally {
        which(counters).fetch_add(1, Relaxed);
        Tally { counters: counters.clone(), which }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        Counters::down((self.which)(&self.counters));
    }
}
