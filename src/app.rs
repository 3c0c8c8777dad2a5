//! Composition root: settings to parts, start and stop order.
//!
//! Start: gate (refuses an open door), the predecessor's sockets, the directory's lock, store, index, upstream client,
//! engine, front, server. Stop: the other way round; what was acknowledged is committed before the directory is let go.

pub mod adopted;
pub mod bucket;
pub mod certificates;
mod control;
mod directory;
pub mod error;
mod metrics;
mod parts;
mod peers;
mod upstreams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;

use self::certificates::{certificates, guises, intercepted};
use self::control::ProcessControl;
use self::directory::HANDOVER_PATIENCE;
use self::error::{StartError, StartErrorKind};
use self::parts::RunningParts;
use self::peers::Peers;
use crate::cache::{Cache, Parts};
use crate::config::Config;
use crate::ecosystem;
use crate::model::hex;
use crate::model::lookup::Trust;
use crate::model::outcome::Outcome;
use crate::model::units::rounded_bytes;
use crate::protocol::Mount;
use crate::protocol::Packages;
use crate::protocol::front::Front;
use crate::protocol::gate::Gate;
use crate::protocol::generation::Handed;
use crate::protocol::hop::Trusting;
use crate::protocol::hosts::Hosts;
use crate::protocol::intercept::Intercept;
use crate::protocol::observe::Observers;
use crate::protocol::owner::OwnerKey;
use crate::protocol::parent::ParentMounts;
use crate::protocol::target::Targets;
use crate::protocol::upload::Tempo;
use crate::runtime::clock::{Clock, SystemClock, random_bytes};
use crate::runtime::tasks::Tasks;
use crate::server::front::{Doors, Server};
use crate::server::handover::Control as HandoverControl;
use crate::server::systemd;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream::client::Client;
use crate::upstream::fetch::Fetch;
use crate::upstream::parent::{self, ParentSettings, WithParent};

/// How long a stop waits for requests and fills under way.
const DRAIN: Duration = Duration::from_secs(30);

/// What the command line decides about a start, beside the configuration.
#[derive(Clone, Default)]
pub struct StartOptions {
    /// Answer from the cache alone.
    pub offline: bool,
    /// A process of `larder run` that builds share: gone a while after the last of them.
    pub embedded: bool,
    /// The larder that is asked before all origins: this one is an agent of builds, before their server.
    pub parent: Option<ParentSettings>,
}

/// A larder that serves.
pub struct Running {
    pub addr: SocketAddr,
    /// What to print after the address: data directory and budget, upstreams with where each was found.
    pub banner: Vec<String>,
    parts: Arc<RunningParts>,
}

/// Starts all parts and listens.
///
/// *Errors*: nothing runs then.
pub async fn start(mut config: Config, options: StartOptions) -> Result<Running, StartError> {
    settle_ways(&mut config, &options);
    let dir = directory::made(&config)?;
    let clock = SystemClock::new();
    let tasks = Tasks::new();
    let gate = Arc::new(Gate::open(&config.gate, &dir, clock.clone())?);
    gate.check_listen(&config.server.listen)?;
    directory::check(&dir)?;
    // Before a running larder is told to make room for this one.
    let bucket = bucket::writable(&config, &clock, &tasks).await?;
    let given = systemd::sockets().map_err(StartError::failed)?;
    let inherited = if options.embedded || !given.is_empty() { given } else { directory::take_over(&dir).await? };
    let patience = (!inherited.is_empty()).then_some(HANDOVER_PATIENCE);
    let (store, index) = directory::open(&dir, &config, &clock, patience).await?;
    bucket::known(&config.store.s3, &index).await?;
    let owner = OwnerKey::read_or_make(&dir).map_err(StartError::failed)?;
    let client = Client::new(config.upstream.clone(), clock.clone(), tasks.clone()).map_err(|error| {
        StartError::new(
            StartErrorKind::Config,
            format!("[upstream] {error}"),
            "larder config show prints what is in force",
        )
    })?;
    client.set_offline(options.offline || config.upstream.offline);
    let peers = Peers::new(&config, &index, &clock, &tasks)?;
    peers.set_offline(options.offline || config.upstream.offline);
    let fetch = ways(&client, &options, &config, &clock, &tasks)?;
    let cache = Cache::new(Parts {
        store: store.clone(),
        index: index.clone(),
        fetch,
        peers: peers.as_asked(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        bucket: bucket.as_ref().map(|bucket| bucket::shared(bucket, &config.store.s3, &clock)).transpose()?,
        ledger: config.ledger.clone(),
    });
    let labels: Vec<_> = ecosystem::ALL.iter().map(|one| one.about().name).chain(["http", "tunnel", "api"]).collect();
    let outcomes = Outcome::ALL.map(|outcome| (outcome.label(), outcome.tier()));
    let metrics = Arc::new(Metrics::new(&labels, &outcomes));
    let log = AccessLog::open(&config.log.access_log()).map(Arc::new).map_err(|error| {
        StartError::new(StartErrorKind::Config, format!("log.access: {error}"), "name a file that can be written")
    })?;
    let parts = Arc::new(RunningParts {
        certificates: certificates(&config, &dir, &clock)?,
        guises: guises(&config, &dir, &clock)?,
        offline: (options.offline || config.upstream.offline).into(),
        adopted: Mutex::new(adopted::adopted(&index)),
        front: Mutex::new(None),
        server: Mutex::new(None),
        config: Mutex::new(config),
        dir,
        owner,
        cache,
        store,
        index,
        bucket,
        client,
        peers,
        gate,
        metrics,
        log,
        tasks,
        clock,
    });
    parts.open_doors(inherited, labels, options).await
}

/// Through whom this larder asks others.
fn settle_ways(config: &mut Config, options: &StartOptions) {
    if options.parent.is_some() {
        // It asks on behalf of builds, and its server has peers of its own.
        config.peers.clear();
        // The bucket is the server's too.
        config.store.s3.bucket = None;
    }
    if options.parent.is_some() || !config.peers.is_empty() {
        // All ways out are one node's.
        config.upstream.node_id.get_or_insert_with(|| hex::encode(&random_bytes::<8>()));
    }
}

/// What the engine fetches with: directly, or through another larder first.
fn ways(
    client: &Client,
    options: &StartOptions,
    config: &Config,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Arc<dyn Fetch>, StartError> {
    let Some(parent) = options.parent.clone() else { return Ok(Arc::new(client.clone())) };
    let settings = config.upstream.clone();
    let parent = parent::Parent::new(parent, &settings, clock.clone(), tasks.clone()).map_err(|error| {
        StartError::new(StartErrorKind::Config, format!("the server: {error}"), "see --server and LARDER_TOKEN")
    })?;
    Ok(Arc::new(WithParent::new(client.clone(), parent)))
}

/// A word that no other process has.
fn instance() -> HeaderValue {
    HeaderValue::try_from(hex::encode(&random_bytes::<8>())).unwrap_or(HeaderValue::from_static("larder"))
}

impl RunningParts {
    async fn open_doors(
        self: Arc<RunningParts>,
        inherited: Vec<std::net::TcpListener>,
        labels: Vec<&'static str>,
        options: StartOptions,
    ) -> Result<Running, StartError> {
        let config = self.config.lock().clone();
        let allowed = adopted::allowed(&self.index);
        let upstreams = self.upstreams(&config)?;
        let hosts = Hosts::new(&config.upstreams, allowed);
        hosts.adopt(self.vouched(&config, &upstreams));
        let observers =
            Observers::new(self.metrics.clone(), labels, self.log.clone(), self.clock.clone(), self.cache.clone());
        let root = Arc::new(Front {
            cache: self.cache.clone(),
            gate: self.gate.clone(),
            hosts,
            intercept: Arc::new(Intercept::new(intercepted(&config)?)),
            upstreams: ArcSwap::from_pointee(upstreams),
            observers,
            tasks: self.tasks.clone(),
            names: own_names(&config),
            public_url: config.public.url.clone(),
            region: config.public.region.clone().unwrap_or_default(),
            control: Arc::new(ProcessControl::new(self.clone())),
            targets: Targets::default(),
            packages: Packages::default(),
            handed: Handed::default(),
            parent: options.parent.map(|parent| ParentMounts::new(parent.base)),
            trusting: Trusting::default(),
            owner: self.owner,
            embedded: options.embedded,
            // Without us the build would go there.
            relayed: if options.embedded { Trust::Build } else { Trust::Client },
            instance: instance(),
            tunnel_idle: config.server.limits.tunnel_idle,
            tempo: Tempo { bytes: config.server.limits.slow_body_bytes, window: config.server.limits.slow_body_window },
        });
        *self.front.lock() = Some(root.clone());
        let guises = Some(self.guises.clone());
        let doors = Doors { inherited, certificates: self.certificates.clone(), guises };
        let server =
            Server::bind(&config.server, doors, self.tasks.clone(), root as Arc<dyn Mount>).map_err(|error| {
                StartError::new(
                    StartErrorKind::Failed,
                    error.to_string(),
                    "choose another address with --listen ADDR:PORT",
                )
            })?;
        let addr = server.addresses()[0];
        let mut upstream = config.upstream.clone();
        upstream.own_addresses.extend_from_slice(server.addresses());
        upstream.offline = self.offline.load(Ordering::Relaxed);
        self.client.reload(upstream).map_err(StartError::failed)?;
        *self.server.lock() = Some(server.clone());
        metrics::register(&self);
        self.start_tasks(&server, options.embedded);
        let banner = self.banner(&config);
        systemd::ready();
        Ok(Running { addr, banner, parts: self })
    }

    fn start_tasks(self: &Arc<RunningParts>, server: &Server, embedded: bool) {
        let serving = server.clone();
        self.tasks.spawn("server", async move { serving.run().await });
        self.cache.maintain();
        self.peers.maintain(&self.index, &self.tasks);
        if let Some(certificates) = self.certificates.clone() {
            let tasks = self.tasks.clone();
            self.tasks.spawn("certificates", async move {
                tokio::select! { () = certificates.keep_renewed() => {}, () = tasks.stopping() => {} }
            });
        }
        if embedded {
            return;
        }
        let tasks = self.tasks.clone();
        self.tasks.spawn("watchdog", async move {
            tokio::select! { () = systemd::feed_watchdog(|| true) => {}, () = tasks.stopping() => {} }
        });
        match HandoverControl::listen(&self.dir) {
            Ok(control) => self.await_successor(control, server.clone()),
            Err(error) => tracing::warn!(%error, "no successor can take over the sockets"),
        }
    }

    /// Ends this process's part once a successor has the sockets and the directory.
    fn await_successor(self: &Arc<RunningParts>, control: HandoverControl, server: Server) {
        let (parts, tasks) = (self.clone(), self.tasks.clone());
        let releasing = Arc::new(AtomicBool::new(false));
        self.tasks.spawn("handover", async move {
            let release = || async {
                releasing.store(true, Ordering::Release);
                parts.tasks.stop();
                parts.cache.drain(HANDOVER_PATIENCE).await;
                parts.let_go().await;
            };
            // A stop that the release itself began must not cut the release short.
            let stopped = async {
                tasks.stopping().await;
                if releasing.load(Ordering::Acquire) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = control.hand_over(&server, release) => tracing::info!("a successor took over"),
                () = stopped => {}
            }
        });
    }

    fn banner(&self, config: &Config) -> Vec<String> {
        let usage = self.store.usage();
        let mut banner = vec![format!(
            "data in {}, budget {}, {} always left free",
            self.dir.display(),
            rounded_bytes(usage.budget_bytes),
            rounded_bytes(usage.min_free_bytes),
        )];
        for (name, settings) in &config.ecosystem {
            banner.extend(settings.upstreams.iter().map(|url| format!("{name} from {url} (configuration)")));
        }
        for found in self.adopted.lock().iter().filter(|found| !config.ecosystem.contains_key(&found.ecosystem)) {
            banner.push(format!("{} from {} ({})", found.ecosystem, found.url, found.found_in));
        }
        if banner.len() == 1 {
            banner.push(
                "no upstream yet: larder run and env name them, or: larder init --json | larder upstream import -"
                    .into(),
            );
        }
        banner
    }
}

impl Running {
    /// Takes tokens, certificates and policy anew.
    ///
    /// *Errors*: what was in force stays so.
    pub async fn reload(&self, config: Config) -> Result<(), StartError> {
        self.parts.reload(config)
    }

    /// Resolves when a successor has taken over: nothing is left to serve.
    pub async fn taken_over(&self) {
        self.parts.tasks.stopping().await;
    }

    /// Drains and closes.
    pub async fn stop(self) {
        systemd::stopping(DRAIN);
        let server = self.parts.server.lock().clone();
        if let Some(server) = server {
            let cut = server.drain(DRAIN).await;
            if cut > 0 {
                tracing::warn!(cut, "connections were cut at the end of the drain");
            }
        }
        self.parts.tasks.stop();
        let left = self.parts.tasks.drain(DRAIN).await;
        if left > 0 {
            tracing::warn!(left, "tasks were still running at the end of the drain");
        }
        self.parts.let_go().await;
        self.parts.log.close();
    }
}

/// Names under which clients may know us.
fn own_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> =
        ["larder", "host.docker.internal", "host.containers.internal"].map(str::to_owned).to_vec();
    names.extend(config.public.names.iter().chain(&config.server.tls.names).map(|name| name.to_ascii_lowercase()));
    let uname = rustix::system::uname();
    names.push(uname.nodename().to_string_lossy().to_ascii_lowercase());
    names
}
