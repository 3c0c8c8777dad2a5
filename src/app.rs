//! Composition root: settings to parts, start and stop order.
//!
//! Start: gate (refuses an open door), the predecessor's sockets, the directory's lock, store, index, upstream client,
//! engine, front, server. Stop: the other way round; what was acknowledged is committed before the directory is let go.

mod control;
mod directory;
mod intercept;
mod metrics;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;

use self::control::{Adopted, ProcessControl};
use crate::cache::{Cache, Parts};
use crate::config::{Config, Variables};
use crate::ecosystem;
use crate::index::Index;
use crate::model::hex;
use crate::model::lookup::{Fallback, Trust, Upstream};
use crate::model::outcome::Outcome;
use crate::model::units::rounded_bytes;
use crate::protocol::Mount;
use crate::protocol::Packages;
use crate::protocol::front::Front;
use crate::protocol::gate::{Gate, GateError};
use crate::protocol::generation::Handed;
use crate::protocol::hop::Trusting;
use crate::protocol::hosts::{Hosts, host_of};
use crate::protocol::intercept::Intercept;
use crate::protocol::observe::Observers;
use crate::protocol::owner::OwnerKey;
use crate::protocol::package::Upstreams;
use crate::protocol::parent::ParentMounts;
use crate::protocol::target::Targets;
use crate::protocol::upload::Tempo;
use crate::runtime::clock::{Clock, SystemClock, random_bytes};
use crate::runtime::tasks::Tasks;
use crate::server::front::{Doors, Server};
use crate::server::guise::Guises;
use crate::server::handover::Control as HandoverControl;
use crate::server::tls::Certificates;
use crate::server::{authorities, ca, front, systemd};
use crate::store::Store;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream::client::Client;
use crate::upstream::fetch::Fetch;
use crate::upstream::parent::{self, ParentSettings, WithParent};

/// How long a stop waits for requests and fills under way.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a successor waits for the directory.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(20);

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

/// A source that a tool's files name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// An ecosystem's word; perhaps one that has no mount as yet.
    pub ecosystem: String,
    /// Which of the tool's sources. Empty: the default one, which the mount without a host serves.
    pub name: String,
    /// Base address without a credential.
    pub url: String,
    pub next: Fallback,
    /// For people: the file or command that named it.
    pub found_in: String,
}

/// A larder that serves.
pub struct Running {
    pub addr: SocketAddr,
    /// What to print after the address: data directory and budget, upstreams with where each was found.
    pub banner: Vec<String>,
    parts: Arc<RunningParts>,
}

pub(crate) struct RunningParts {
    pub dir: PathBuf,
    pub owner: OwnerKey,
    pub cache: Cache,
    pub store: Store,
    pub index: Index,
    pub client: Client,
    pub gate: Arc<Gate>,
    pub front: Mutex<Option<Arc<Front>>>,
    pub server: Mutex<Option<Server>>,
    pub certificates: Option<Arc<Certificates>>,
    pub guises: Arc<Guises>,
    pub metrics: Arc<Metrics>,
    pub log: Arc<AccessLog>,
    pub tasks: Tasks,
    pub clock: Arc<dyn Clock>,
    pub config: Mutex<Config>,
    pub adopted: Mutex<Vec<Adopted>>,
    pub offline: AtomicBool,
}

/// It could not start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    pub kind: StartErrorKind,
    pub message: String,
    pub help: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartErrorKind {
    /// The configuration must change.
    Config,
    /// Another larder owns the data directory.
    InUse,
    Failed,
}

impl StartError {
    pub(crate) fn new(kind: StartErrorKind, message: impl Into<String>, help: impl Into<String>) -> StartError {
        StartError { kind, message: message.into(), help: help.into() }
    }

    fn failed(message: impl std::fmt::Display) -> StartError {
        StartError::new(StartErrorKind::Failed, message.to_string(), "see the message; larder doctor checks the rest")
    }
}

impl From<GateError> for StartError {
    fn from(error: GateError) -> StartError {
        StartError::new(StartErrorKind::Config, error.to_string(), error.help())
    }
}

/// Starts all parts and listens.
///
/// *Errors*: nothing runs then.
pub async fn start(mut config: Config, options: StartOptions) -> Result<Running, StartError> {
    if options.parent.is_some() {
        // Both ways out are one node's.
        config.upstream.node_id.get_or_insert_with(|| hex::encode(&random_bytes::<8>()));
    }
    let dir = config
        .data_dir(&Variables::of_process())
        .map_err(|error| StartError::new(StartErrorKind::Config, error.to_string(), "larder serve --data DIR"))?;
    std::fs::create_dir_all(&dir).map_err(|error| {
        let message = format!("the data directory {} cannot be made: {error}", dir.display());
        StartError::new(StartErrorKind::Config, message, "choose another with --data DIR")
    })?;
    let clock = SystemClock::new();
    let tasks = Tasks::new();
    let gate = Arc::new(Gate::open(&config.gate, &dir, clock.clone())?);
    gate.check_listen(&config.server.listen)?;
    directory::check(&dir)?;
    let given = systemd::sockets().map_err(StartError::failed)?;
    let inherited = if options.embedded || !given.is_empty() { given } else { directory::take_over(&dir).await? };
    let patience = (!inherited.is_empty()).then_some(HANDOVER_PATIENCE);
    let (store, index) = directory::open(&dir, &config, &clock, patience).await?;
    let owner = OwnerKey::read_or_make(&dir).map_err(StartError::failed)?;
    let client = Client::new(config.upstream.clone(), clock.clone(), tasks.clone()).map_err(|error| {
        StartError::new(
            StartErrorKind::Config,
            format!("[upstream] {error}"),
            "larder config show prints what is in force",
        )
    })?;
    client.set_offline(options.offline || config.upstream.offline);
    let fetch = ways(&client, &options, &config, &clock, &tasks)?;
    let cache = Cache::new(Parts {
        store: store.clone(),
        index: index.clone(),
        fetch,
        clock: clock.clone(),
        tasks: tasks.clone(),
    });
    let labels: Vec<_> = ecosystem::ALL.iter().map(|one| one.about().name).chain(["http", "tunnel", "api"]).collect();
    let outcomes = Outcome::ALL.map(|outcome| (outcome.label(), outcome.tier()));
    let metrics = Arc::new(Metrics::new(&labels, &outcomes));
    let log = AccessLog::open(&config.log.access_log()).map(Arc::new).map_err(|error| {
        StartError::new(StartErrorKind::Config, format!("log.access: {error}"), "name a file that can be written")
    })?;
    let parts = Arc::new(RunningParts {
        certificates: certificates(&config, &dir, &clock)?,
        guises: intercept::guises(&config, &dir, &clock)?,
        offline: (options.offline || config.upstream.offline).into(),
        adopted: Mutex::new(control::adopted(&index)),
        front: Mutex::new(None),
        server: Mutex::new(None),
        config: Mutex::new(config),
        dir,
        owner,
        cache,
        store,
        index,
        client,
        gate,
        metrics,
        log,
        tasks,
        clock,
    });
    parts.open_doors(inherited, labels, options).await
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

/// Makes larder's own certificate authority in a data directory, if it is not there, and those for intercepted hosts.
///
/// *Errors*: no name is set for either; the directory cannot be written.
pub fn certificate_authority(dir: &Path, config: &Config) -> Result<(), StartError> {
    let clock = SystemClock::new();
    let names = &config.server.tls.names;
    if names.is_empty() && config.intercept.hosts.is_empty() && !ca::Ca::is_in(&dir.join("ca")) {
        let message = "there is no name that an authority would vouch for";
        return Err(StartError::new(StartErrorKind::Config, message, "set server.tls.names, or intercept.hosts"));
    }
    if !names.is_empty() {
        authorities::own(&dir.join("ca"), names, clock.clone()).map_err(StartError::failed)?;
    }
    intercept::guises(config, dir, &(clock as Arc<dyn Clock>)).map(drop)
}

fn certificates(config: &Config, dir: &Path, clock: &Arc<dyn Clock>) -> Result<Option<Arc<Certificates>>, StartError> {
    let wrong = |error: crate::server::error::ServerError| {
        let help =
            "server.tls.certificate and server.tls.key name PEM files; or set server.tls.names for larder's own CA";
        StartError::new(StartErrorKind::Config, format!("server.tls: {error}"), help)
    };
    if let Some(from_files) = front::certificates_from(&config.server).map_err(wrong)? {
        return Ok(Some(from_files));
    }
    let names = &config.server.tls.names;
    if names.is_empty() {
        return Ok(None);
    }
    let authority = authorities::own(&dir.join("ca"), names, clock.clone()).map(Arc::new).map_err(wrong)?;
    let issued = Certificates::from_ca(authority, names.clone(), clock.clone()).map_err(wrong)?;
    Ok(Some(Arc::new(issued)))
}

impl RunningParts {
    async fn open_doors(
        self: Arc<RunningParts>,
        inherited: Vec<std::net::TcpListener>,
        labels: Vec<&'static str>,
        options: StartOptions,
    ) -> Result<Running, StartError> {
        let config = self.config.lock().clone();
        let allowed = control::allowed(&self.index);
        let upstreams = self.upstreams(&config)?;
        let hosts = Hosts::new(&config.upstreams, allowed);
        hosts.adopt(self.vouched(&config, &upstreams));
        let observers =
            Observers::new(self.metrics.clone(), labels, self.log.clone(), self.clock.clone(), self.cache.clone());
        let root = Arc::new(Front {
            cache: self.cache.clone(),
            gate: self.gate.clone(),
            hosts,
            intercept: Arc::new(Intercept::new(intercept::intercepted(&config)?)),
            upstreams: ArcSwap::from_pointee(upstreams),
            observers,
            tasks: self.tasks.clone(),
            names: own_names(&config),
            public_url: config.public.url.clone(),
            control: Arc::new(ProcessControl::new(self.clone())),
            targets: Targets::default(),
            packages: Packages::default(),
            handed: Handed::default(),
            parent: options.parent.map(|parent| ParentMounts::new(parent.base)),
            trusting: Trusting::default(),
            owner: self.owner,
            embedded: options.embedded,
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

    /// Commits what was sealed and lets go of the data directory. Fills that still run are passed on and not kept.
    async fn let_go(&self) {
        let store = self.store.clone();
        // It waits for writes under way; should the pool be gone, so are they.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        self.index.close().await;
    }

    /// The configured upstreams, and for ecosystems without any the adopted ones.
    pub(crate) fn upstreams(&self, config: &Config) -> Result<Upstreams, StartError> {
        let mut configured = BTreeMap::new();
        for one in ecosystem::ALL {
            let name = one.about().name;
            let listed = match config.ecosystem.get(name) {
                Some(settings) => settings.upstreams().map_err(|why| {
                    let help = "larder init prints what this machine's tools use";
                    StartError::new(StartErrorKind::Config, format!("ecosystem.{name}.upstreams: {why}"), help)
                })?,
                None => Vec::new(),
            };
            let adopted = self.adopted.lock();
            let found = adopted.iter().filter(|found| found.ecosystem == name && found.name.is_empty());
            let found = found.filter_map(|found| {
                let url = url::Url::parse(&found.url).ok()?;
                Some(Upstream { url, next: found.fallback(), trust: Trust::Configured })
            });
            let upstreams: Vec<_> = if listed.is_empty() { found.collect() } else { listed };
            configured.insert(name, upstreams);
        }
        Ok(Upstreams::new(ecosystem::ALL, configured))
    }

    /// Hosts that clients may name as if they were configured: those of all upstreams, and what was adopted for tools
    /// that have no mount, such as apt's mirrors.
    pub(crate) fn vouched(&self, config: &Config, upstreams: &Upstreams) -> Vec<String> {
        let mut hosts = upstreams.hosts();
        let adopted = self.adopted.lock();
        // What the configuration names stands in the place of what was adopted.
        let adopted = adopted.iter().filter(|one| !config.ecosystem.contains_key(&one.ecosystem));
        hosts.extend(adopted.filter_map(|one| host_of(&url::Url::parse(&one.url).ok()?)));
        hosts
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
