//! What one set of settings makes: the dial, the pools, the hosts, the credentials. Replaced as a whole on reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{HeaderName, HeaderValue};
use hyper_util::client::legacy;
use hyper_util::rt::TokioTimer;
use tokio::sync::Semaphore;

use super::connect::{Connector, Dial};
use super::credentials::Credentials;
use super::gate::Gate;
use super::headers::{HEAD_BYTES, Node};
use super::hosts::Hosts;
use super::origin::Origin;
use super::payload::SendBody;
use super::proxy::Proxies;
use super::resolve::Resolve;
use super::settings::{Purpose, Settings, SettingsError};
use super::tls::Tls;
use crate::model::lookup::Trust;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

pub(crate) type Pool = legacy::Client<Connector, SendBody>;

pub(crate) struct Network {
    pub(crate) settings: Settings,
    pub(crate) dial: Arc<Dial>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) tunnels: Arc<Semaphore>,
    pub(crate) clock: Arc<dyn Clock>,
    offline: Arc<AtomicBool>,
    configured: Pool,
    client: Pool,
    build: Pool,
}

/// What outlives a reload.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) node: Node,
    pub(crate) offline: Arc<AtomicBool>,
    pub(crate) own_credential: Option<BoundCredential>,
}

/// A credential that no settings name, and where it goes.
pub(crate) type BoundCredential = (Origin, HeaderName, HeaderValue);

impl Network {
    pub(crate) fn new(settings: Settings, ground: &Ground) -> Result<Network, SettingsError> {
        settings.check()?;
        let dial = Arc::new(Dial {
            gate: Gate::new(&settings, ground.resolver.clone()),
            proxies: Proxies::load(&settings.proxy, |name| std::env::var(name).ok())?,
            tls: Tls::new(&settings)?,
            node: ground.node.clone(),
            tasks: ground.tasks.clone(),
            handshake_deadline: settings.handshake_deadline,
            tunnel_deadline: settings.first_byte_deadline,
        });
        let pool = |trust| pool(&settings, dial.clone(), trust);
        Ok(Network {
            configured: pool(Trust::Configured),
            client: pool(Trust::Client),
            build: pool(Trust::Build),
            hosts: Arc::new(Hosts::new(&settings, ground.clock.clone())),
            credentials: Arc::new(Credentials::load(&settings)?.and(ground.own_credential.clone())),
            tunnels: Arc::new(Semaphore::new(settings.tunnels.min(Semaphore::MAX_PERMITS))),
            clock: ground.clock.clone(),
            offline: ground.offline.clone(),
            dial,
            settings,
        })
    }

    /// The same without idle connections: what is under way goes on, nothing is kept.
    pub(crate) fn closing(&self) -> Network {
        let settings = Settings { idle_per_host: 0, ..self.settings.clone() };
        let pool = |trust| pool(&settings, self.dial.clone(), trust);
        Network {
            configured: pool(Trust::Configured),
            client: pool(Trust::Client),
            build: pool(Trust::Build),
            hosts: self.hosts.clone(),
            credentials: self.credentials.clone(),
            tunnels: self.tunnels.clone(),
            clock: self.clock.clone(),
            offline: self.offline.clone(),
            dial: self.dial.clone(),
            settings,
        }
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    pub(crate) fn pool(&self, trust: Trust) -> &Pool {
        match trust {
            Trust::Configured => &self.configured,
            Trust::Client => &self.client,
            Trust::Build => &self.build,
        }
    }
}

fn pool(settings: &Settings, dial: Arc<Dial>, trust: Trust) -> Pool {
    // `Settings::check` holds both within these bounds.
    let window = u32::try_from(settings.http2_window).unwrap_or(1 << 24);
    let buffer = usize::try_from(settings.http1_buffer).unwrap_or(1 << 19);
    legacy::Client::builder(Spawner(dial.tasks.clone()))
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(settings.idle_connection)
        .pool_max_idle_per_host(settings.idle_per_host)
        .http1_max_buf_size(buffer)
        .http1_max_headers(128)
        .http2_initial_stream_window_size(window)
        .http2_initial_connection_window_size(window)
        .http2_only(settings.purpose == Purpose::Peer)
        .http2_max_frame_size(256 << 10)
        .http2_max_header_list_size(HEAD_BYTES as u32)
        .http2_max_send_buf_size(64 << 10)
        .http2_keep_alive_interval(std::time::Duration::from_secs(20))
        .http2_keep_alive_timeout(std::time::Duration::from_secs(10))
        .build(Connector { dial, trust })
}

/// Runs hyper's connection tasks among ours, so that they are named and drained.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        self.0.spawn("upstream connection", future);
    }
}
