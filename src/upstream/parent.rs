//! The way to another larder that stands before the origins: the server, behind the agent of `larder run`.
//!
//! What comes back as `Ok` is its own word: an answer of the thing, an absence, a refusal. What is not, such as a gateway's
//! page, its own failure or no answer at all, is an error, and the caller goes on without it. Whether it is there is
//! asked when it keeps still, over a connection of its own, so that a slow origin behind it is not taken for a dead
//! larder; once it is lost nobody waits for it, and one question every while finds out when it is back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use quick_cache::sync::Cache as Kept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use url::Url;

use super::client::Client;
use super::fetch::{
    Carrier, Ends, Fetch, FetchAsk, FetchBody, Fetched, FetchedBody, Look, Opened, Redirects, Resume, TunnelAsk,
    UpstreamError,
};
use super::origin::Origin;
use super::proxy::Proxy;
use super::secret::Secret;
use super::settings::{BreakerSettings, ProxySettings, RetrySettings, Settings, SettingsError};
use super::wire::Tunnel;
use crate::model::hop::{ANSWERS, ASKS, CORRUPT, UNREAD};
use crate::model::lookup::Trust;
use crate::model::party::Party;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const HEALTH: &str = "api/v1/health";
/// How long it may keep still before it is asked whether it is there, and how long that may take.
const STILL: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(1);
/// How often it is asked whether it is back; doubled up to the most.
const REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(5);
/// How long one that is alive may take over an answer: it asks others in its turn.
const PATIENCE: Duration = Duration::from_secs(120);
/// Builds of which it is remembered what they had without it.
const BUILDS_KEPT: usize = 1000;

/// Which larder it is, and what it is shown.
#[derive(Clone)]
pub struct ParentSettings {
    /// Ends in a slash.
    pub base: Url,
    pub token: Option<String>,
    /// Whether it was there a moment ago.
    pub is_there: bool,
}

/// Another larder.
pub struct Parent {
    base: Url,
    client: Client,
    /// Its forward proxy. What it is shown depends on the build.
    proxy: Proxy,
    token: Option<Secret>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    lost: AtomicBool,
    heard: Mutex<Heard>,
    /// Held by who asks whether it is there.
    asking: tokio::sync::Mutex<()>,
}

/// The last sign of life.
#[derive(Default)]
struct Heard {
    at: Option<Duration>,
    /// The process that gave it.
    from: Option<HeaderValue>,
}

/// Asks a parent what is its to answer, and everybody else directly.
pub struct WithParent {
    direct: Client,
    parent: Arc<Parent>,
    /// Bytes that each build had directly.
    around: Kept<String, Arc<AtomicU64>>,
}

impl WithParent {
    pub fn new(direct: Client, parent: Arc<Parent>) -> WithParent {
        WithParent { direct, parent, around: Kept::new(BUILDS_KEPT) }
    }
}

impl Parent {
    /// Opens no socket. `settings` are those of the direct client: what they say of TLS holds here too.
    ///
    /// *Errors*: settings that cannot be carried out, an address or a token that cannot be sent.
    pub fn new(
        parent: ParentSettings,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
    ) -> Result<Arc<Parent>, SettingsError> {
        let wrong = |why: &str| SettingsError::Proxy { why: why.to_owned() };
        let origin = Origin::of(&parent.base).ok_or_else(|| wrong("the server's address names no host"))?;
        let token = parent.token.map(Secret::new);
        let credential = token.as_ref().map(|token| token.bearer().ok_or_else(|| wrong("the token cannot be sent")));
        let credential = credential.transpose()?.map(|value| (origin.clone(), PROXY_AUTHORIZATION, value));
        let proxy = Proxy { scheme: origin.scheme, target: origin.target, authorization: None };
        let client = Client::showing(Parent::settings(settings), clock.clone(), tasks.clone(), credential)?;
        let made = Arc::new(Parent {
            base: parent.base,
            client,
            proxy,
            token,
            clock,
            tasks,
            lost: AtomicBool::new(false),
            heard: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        });
        if !parent.is_there {
            made.lose();
        }
        Ok(made)
    }

    /// It is reached directly, and judged here: not by its answers' statuses, which may be its origins'.
    fn settings(direct: &Settings) -> Settings {
        Settings {
            offline: false,
            connect_deadline: PONG,
            first_byte_deadline: PATIENCE,
            answer_deadline: PATIENCE,
            requests_per_host: direct.requests,
            retry: RetrySettings { attempts: 2, resumes: 3, reserve: 1000, ..RetrySettings::default() },
            breaker: BreakerSettings { failures: u32::MAX, ..BreakerSettings::default() },
            deny: Vec::new(),
            own_addresses: Vec::new(),
            proxy: ProxySettings { from_env: false, ..ProxySettings::default() },
            credentials: Vec::new(),
            netrc: None,
            netrc_from_env: false,
            ..direct.clone()
        }
    }

    fn is_at(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    fn away(&self, why: &str) -> UpstreamError {
        UpstreamError::Unreachable { host: self.proxy.target.to_string(), why: why.to_owned() }
    }

    fn resting(&self) -> UpstreamError {
        UpstreamError::Resting { host: self.proxy.target.to_string(), retry_after: REST }
    }

    /// Its word, or an error; `Resting` when it was not asked.
    async fn ask(self: &Arc<Parent>, mut ask: FetchAsk) -> Result<Fetched, UpstreamError> {
        // What must not be asked twice is not asked where nobody may be.
        if self.is_lost() || (!ask.method.is_safe() && !self.is_there_yet().await) {
            return Err(self.resting());
        }
        // It follows redirects where they are to be followed, and what it says of an origin's failure is not its own.
        ask.redirects = Redirects::PassOn;
        ask.headers.insert(ASKS, HeaderValue::from_static("1"));
        let answer = tokio::select! {
            answer = self.client.fetch(ask) => answer,
            error = self.silence(None) => Err(error),
        };
        let mut fetched = match answer {
            Ok(fetched) => fetched,
            Err(error) => {
                self.doubt().await;
                return Err(error);
            }
        };
        let from = self.judge(fetched.status, &mut fetched.headers)?;
        if fetched.body.ends() == Ends::Marked {
            let watched = Watched { parent: self.clone(), body: fetched.body, from };
            fetched.body = FetchedBody::new(futures_util::stream::unfold(watched, |mut watched| async move {
                let chunk = watched.next().await?;
                Some((chunk, watched))
            }));
        }
        Ok(fetched)
    }

    /// Which process answers. Err: it is not what the larder there says of the thing.
    fn judge(self: &Arc<Parent>, status: StatusCode, headers: &mut HeaderMap) -> Result<HeaderValue, UpstreamError> {
        let Some(from) = headers.remove(ANSWERS) else {
            return Err(self.away("what answers there is no larder, or an old one"));
        };
        self.hear(Some(from.clone()));
        let said = headers.get_all(CACHE_STATUS).iter().next_back().and_then(|value| value.to_str().ok());
        let said = said.unwrap_or_default();
        let its_own_failure = status.is_server_error() && said.ends_with("detail=upstream");
        let unknown_mount = status == StatusCode::NOT_FOUND && said.ends_with("detail=denied");
        if its_own_failure && headers.remove(CORRUPT).is_none() {
            return Err(self.away(&format!("it answered {status}")));
        }
        if unknown_mount {
            return Err(self.away("it does not know such requests"));
        }
        // What is kept here says by itself how it came.
        headers.remove(CACHE_STATUS);
        Ok(from)
    }

    /// Resolves when it keeps still and is not there, or not the process any more that began to answer.
    async fn silence(self: &Arc<Parent>, began: Option<&HeaderValue>) -> UpstreamError {
        loop {
            tokio::time::sleep(STILL).await;
            if !self.is_there_yet().await || began.is_some_and(|began| self.is_another(began)) {
                return UpstreamError::Silent { host: self.proxy.target.to_string(), limit: STILL };
            }
        }
    }

    /// After a failure: whether it is lost, or only one connection was.
    async fn doubt(self: &Arc<Parent>) {
        self.heard.lock().at = None;
        self.is_there_yet().await;
    }

    fn is_another(&self, began: &HeaderValue) -> bool {
        self.heard.lock().from.as_ref() != Some(began)
    }

    fn hear(&self, from: Option<HeaderValue>) {
        *self.heard.lock() = Heard { at: Some(self.clock.elapsed()), from };
    }

    fn was_heard_lately(&self) -> bool {
        let now = self.clock.elapsed();
        self.heard.lock().at.is_some_and(|at| now.saturating_sub(at) < STILL)
    }

    /// Asks whether it is there, unless it was just heard. One asks for all.
    async fn is_there_yet(self: &Arc<Parent>) -> bool {
        let _asking = self.asking.lock().await;
        if self.is_lost() {
            return false;
        }
        let is_there = self.was_heard_lately() || self.pongs().await;
        if !is_there {
            self.lose();
        }
        is_there
    }

    async fn pongs(&self) -> bool {
        let Ok(url) = self.base.join(HEALTH) else { return false };
        let ask = FetchAsk {
            method: Method::GET,
            url,
            headers: HeaderMap::from_iter([(ASKS, HeaderValue::from_static("1"))]),
            body: FetchBody::Empty,
            trust: Trust::Configured,
            resume: Resume::Never,
            redirects: Redirects::PassOn,
            party: Party::of(std::net::Ipv4Addr::LOCALHOST.into(), None),
            cause: None,
        };
        match tokio::time::timeout(PONG, self.client.fetch(ask)).await {
            Ok(Ok(answer)) => {
                let from = answer.headers.get(ANSWERS).cloned();
                let is_it = from.is_some();
                if is_it {
                    self.hear(from);
                }
                is_it
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Nobody asks it until it is back, which is found out beside.
    fn lose(self: &Arc<Parent>) {
        if self.lost.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(server = %self.proxy.target, "the server is lost; going on without it");
        let (parent, tasks) = (Arc::downgrade(self), self.tasks.clone());
        self.tasks.spawn("look for the server", async move {
            let mut rest = REST;
            loop {
                tokio::select! { () = tokio::time::sleep(rest) => {}, () = tasks.stopping() => return }
                rest = (rest * 2).min(LONGEST_REST);
                let Some(parent) = parent.upgrade() else { return };
                let back = tokio::select! { back = parent.pongs() => back, () = tasks.stopping() => return };
                if back {
                    parent.lost.store(false, Ordering::Release);
                    tracing::warn!(server = %parent.proxy.target, "the server is back");
                    return;
                }
            }
        });
    }

    /// A tunnel through it. Ok(Err): its refusal.
    async fn tunnel(self: &Arc<Parent>, ask: TunnelAsk<'_>) -> Result<Result<Opened, UpstreamError>, UpstreamError> {
        if self.is_lost() {
            return Err(self.resting());
        }
        let opened = tokio::select! {
            opened = self.client.tunnel_by(&self.proxy, self.shown_for(ask), (ask.host, ask.port)) => opened,
            error = self.silence(None) => Err(error),
        };
        let mut said = match opened {
            Ok(said) => said,
            Err(error) => {
                self.doubt().await;
                return Err(error);
            }
        };
        self.judge(said.status, &mut said.headers)?;
        Ok(match said.tunnel {
            Some(io) => {
                let io = Box::new(Carried { parent: self.clone(), io, silence: None });
                Ok(Opened { io, carrier: Carrier::Parent, reached: None })
            }
            None => {
                let why = format!("the server {} answered {}", self.proxy.target, said.status);
                Err(UpstreamError::Refused { host: ask.host.to_owned(), why })
            }
        })
    }

    /// What tells it of a CONNECT who asks, and that what it says of itself is understood.
    fn shown_for(&self, ask: TunnelAsk<'_>) -> HeaderMap {
        let mut fields = HeaderMap::from_iter([(ASKS, HeaderValue::from_static("1"))]);
        if ask.look == Look::Declined {
            fields.insert(UNREAD, HeaderValue::from_static("1"));
        }
        let credential = match (ask.party.build(), &self.token) {
            (Some(build), Some(token)) => token.basic(build),
            // A user name has no colon (RFC 7617): only beside a token is it told where a label ends.
            (Some(build), None) if !build.contains(':') => Secret::new(String::new()).basic(build),
            (None, Some(token)) => token.bearer(),
            (Some(_) | None, None) => None,
        };
        fields.extend(credential.map(|credential| (PROXY_AUTHORIZATION, credential)));
        fields
    }
}

/// A tunnel that it carries. One through which nothing comes is cut when the larder at its other end is not there.
struct Carried {
    parent: Arc<Parent>,
    io: Tunnel,
    /// Since nothing came.
    silence: Option<BoxFuture<'static, UpstreamError>>,
}

impl AsyncRead for Carried {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(context, buffer) {
            this.silence = None;
            return Poll::Ready(read);
        }
        let parent = &this.parent;
        let silence = this.silence.get_or_insert_with(|| {
            let parent = parent.clone();
            Box::pin(async move { parent.silence(None).await })
        });
        silence.as_mut().poll(context).map(|error| Err(io::Error::new(io::ErrorKind::ConnectionReset, error)))
    }
}

impl AsyncWrite for Carried {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

/// A body that it sends. One that breaks off while the process that sent it is there is its own word: a body that it
/// refused as corrupt ends so, and must not be finished elsewhere.
struct Watched {
    parent: Arc<Parent>,
    body: FetchedBody,
    /// The process that began it.
    from: HeaderValue,
}

impl Watched {
    async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let chunk = tokio::select! {
            biased;
            chunk = self.body.chunk() => chunk,
            error = self.parent.silence(Some(&self.from)) => Some(Err(error)),
        };
        match chunk? {
            Ok(chunk) => Some(Ok(chunk)),
            Err(error) => {
                self.parent.doubt().await;
                let is_gone = self.parent.is_lost() || self.parent.is_another(&self.from);
                Some(Err(if is_gone { self.parent.away("it went in the middle of a body") } else { error }))
            }
        }
    }
}

impl Fetch for WithParent {
    fn fetch(&self, ask: FetchAsk) -> BoxFuture<'_, Result<Fetched, UpstreamError>> {
        if self.parent.is_at(&ask.url) {
            return Box::pin(self.parent.ask(ask));
        }
        let meter = ask.party.build().map(|build| {
            let meter = self.around.get_or_insert_with(build, || Ok::<_, std::convert::Infallible>(Arc::default()));
            meter.unwrap_or_else(|never| match never {})
        });
        Box::pin(async move {
            let fetched = self.direct.fetch(ask).await?;
            let Some(meter) = meter else { return Ok(fetched) };
            Ok(Fetched { body: fetched.body.metered(meter), ..fetched })
        })
    }

    fn judge<'a>(&'a self, url: &'a Url, trust: Trust) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Fetch::judge(&self.direct, url, trust)
    }

    fn tunnel<'a>(&'a self, ask: TunnelAsk<'a>) -> BoxFuture<'a, Result<Opened, UpstreamError>> {
        Box::pin(async move {
            match self.parent.tunnel(ask).await {
                Ok(word) => word,
                Err(error) => {
                    tracing::debug!(host = ask.host, %error, "a tunnel goes around the server");
                    Fetch::tunnel(&self.direct, ask).await
                }
            }
        })
    }

    fn bytes_around_parent(&self, build: &str) -> u64 {
        self.around.get(build).map_or(0, |meter| meter.load(Ordering::Relaxed))
    }
}
