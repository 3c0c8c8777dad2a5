//! The client: takes an ask through redirects, queue, breaker and retries to the head of its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method};
use http_body::Body;
use percent_encoding::percent_decode_str;
use url::Url;

use super::body::{Download, Source};
use super::breaker::Verdict;
use super::connect::Said;
use super::exchange::{Failed, Head, Question, Stale, exchange};
use super::fetch::{
    Carrier, Ends, Fetch, FetchAsk, FetchBody, Fetched, FetchedBody, Opened, Redirects, Resume, TunnelAsk,
    UpstreamError,
};
use super::headers::{Node, outgoing};
use super::hosts::{Host, HostUse, Slot};
use super::network::{BoundCredential, Ground, Network};
use super::origin::{Origin, Scheme, Target};
use super::payload::Payload;
use super::proxy::Proxy;
use super::redirect::{self, Hop, Keep};
use super::resolve::{Resolve, SystemResolver};
use super::resume::Plan;
use super::retry::{self, Outcome};
use super::secret::Secret;
use super::settings::{Settings, SettingsError};
use super::wire::{Counted, Reached, Tunnel};
use crate::model::hop;
use crate::model::lookup::Trust;
use crate::model::party::Party;
use crate::runtime::clock::{Clock, random_bytes};
use crate::runtime::tasks::Tasks;

/// Asks upstream servers through one pool and one gate. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    network: ArcSwap<Network>,
    ground: Ground,
}

/// A body that nobody wants is read up to here, so that its connection can be used again.
const DRAIN_BYTES: u64 = 64 << 10;
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

impl Client {
    /// Reads certificates and credentials; opens no socket. Must be called within a tokio runtime.
    ///
    /// *Errors*: settings that cannot be carried out.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, tasks: Tasks) -> Result<Client, SettingsError> {
        Client::with_resolver(settings, clock, tasks, Arc::new(SystemResolver))
    }

    /// The same with another resolver: the seam for tests and simulation.
    pub fn with_resolver(
        settings: Settings,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Client, SettingsError> {
        Client::made(settings, clock, tasks, resolver, None)
    }

    /// The same, showing one origin a credential that no settings name.
    pub(super) fn showing(
        settings: Settings,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        own_credential: Option<BoundCredential>,
    ) -> Result<Client, SettingsError> {
        Client::made(settings, clock, tasks, Arc::new(SystemResolver), own_credential)
    }

    fn made(
        settings: Settings,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        resolver: Arc<dyn Resolve>,
        own_credential: Option<BoundCredential>,
    ) -> Result<Client, SettingsError> {
        let id = settings.node_id.clone().unwrap_or_else(|| crate::model::hex::encode(&random_bytes::<8>()));
        let node = Node::new(&id).ok_or(SettingsError::Value {
            key: "node_id",
            value: id,
            why: "is made of at most 64 letters, digits, and - . _ ~",
        })?;
        let offline = Arc::new(AtomicBool::new(settings.offline));
        let ground = Ground { clock, tasks: tasks.clone(), resolver, node, offline, own_credential };
        let network = ArcSwap::from_pointee(Network::new(settings, &ground)?);
        let inner = Arc::new(Inner { network, ground });
        let weak = Arc::downgrade(&inner);
        tasks.clone().spawn("upstream pool", async move {
            tasks.stopping().await;
            // Idle connections would keep the drain waiting; those in use end with their exchange.
            if let Some(inner) = weak.upgrade() {
                let closing = inner.network.load().closing();
                inner.network.store(Arc::new(closing));
            }
        });
        Ok(Client { inner })
    }

    /// Takes up new settings; exchanges under way end under the old ones. Breakers start anew; the node id stays.
    ///
    /// *Errors*: settings that cannot be carried out; the old ones stay.
    pub fn reload(&self, settings: Settings) -> Result<(), SettingsError> {
        let offline = settings.offline;
        let network = Network::new(settings, &self.inner.ground)?;
        self.inner.network.store(Arc::new(network));
        self.set_offline(offline);
        Ok(())
    }

    /// Offline, every ask fails with `Offline`; bodies under way go on.
    pub fn set_offline(&self, offline: bool) {
        self.inner.ground.offline.store(offline, Ordering::Release);
    }

    /// Every host that is remembered, for statistics.
    pub fn hosts(&self) -> Vec<HostUse> {
        self.inner.network.load().hosts.uses()
    }

    /// What we write into `Via`: a request that carries it has been here before.
    pub fn via(&self) -> HeaderValue {
        self.inner.ground.node.via().clone()
    }

    /// Whether a request has already come through this node.
    pub fn is_looping(&self, headers: &HeaderMap) -> bool {
        self.inner.ground.node.is_in(headers)
    }

    /// Opens a way to a host for CONNECT, through the gate and, where one is set, through the outbound proxy.
    ///
    /// *Errors*: `Refused` for a port that CONNECT may not reach or an address that may not be; `Crowded` when too many
    /// tunnels are open; `Resting`; `Unreachable`.
    /// *Cancel*: nothing is left.
    pub async fn tunnel(&self, host: &str, port: u16, trust: Trust) -> Result<Opened, UpstreamError> {
        let network = self.network()?;
        let refused = |host: String, why: &str| UpstreamError::Refused { host, why: why.to_owned() };
        let target =
            Target::parse(host, port).ok_or_else(|| refused("the host".to_owned(), "its name cannot be right"))?;
        if trust != Trust::Build && !network.settings.connect_ports.contains(&port) {
            return Err(refused(target.to_string(), "the port is not open to CONNECT"));
        }
        let origin = Origin { scheme: Scheme::Https, target };
        network.dial.gate.judge(&origin.target, trust)?;
        let place = network.tunnels.clone().try_acquire_owned();
        let place = place.map_err(|_| UpstreamError::Crowded { host: origin.host() })?;
        let admission = network.hosts.host(&origin)?.admit()?;
        let opened = network.dial.tunnel(&origin, trust).await;
        let opened = opened.map_err(Failed::from);
        admission.settle(match &opened {
            Ok(_) => Verdict::Success,
            Err(failed) => retry::verdict(Outcome::Failure(failed), Redirects::PassOn),
        });
        let (io, Reached(reached)) = opened.map_err(|failed| failed.error)?;
        Ok(Opened { io: Box::new(Counted::new(io, place)), carrier: Carrier::Ourselves, reached })
    }

    /// Opens a way to a host by CONNECT through a proxy that judges both, showing it `fields` too.
    ///
    /// *Errors*: the proxy could not be asked.
    pub(super) async fn tunnel_by(
        &self,
        proxy: &Proxy,
        fields: HeaderMap,
        (host, port): (&str, u16),
    ) -> Result<Said, UpstreamError> {
        let network = self.network()?;
        let wrong =
            || UpstreamError::Refused { host: "the host".to_owned(), why: "its name cannot be right".to_owned() };
        let target = Target::parse(host, port).ok_or_else(wrong)?;
        let place = network.tunnels.clone().try_acquire_owned();
        let place = place.map_err(|_| UpstreamError::Crowded { host: host.to_owned() })?;
        let said = network.dial.tunnel_by(proxy, fields, &target).await?;
        Ok(Said { tunnel: said.tunnel.map(|tunnel| Box::new(Counted::new(tunnel, place)) as Tunnel), ..said })
    }

    /// Whether a fetch of `url` would be let out, without making one: names are resolved, nothing is connected to.
    ///
    /// *Errors*: as those of a fetch before its first byte; `Offline` too.
    pub async fn judge(&self, url: &Url, trust: Trust) -> Result<(), UpstreamError> {
        let network = self.network()?;
        let Some(origin) = Origin::of(url) else {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(UpstreamError::Refused { host, why: "its address cannot be right".to_owned() });
        };
        network.dial.judge(&origin, trust).await
    }

    fn network(&self) -> Result<Arc<Network>, UpstreamError> {
        let network = self.inner.network.load_full();
        if network.is_offline() { Err(UpstreamError::Offline) } else { Ok(network) }
    }

    async fn answer(&self, ask: FetchAsk) -> Result<Fetched, UpstreamError> {
        let network = self.network()?;
        let is_stream = matches!(ask.body, FetchBody::Stream { .. });
        let limit = network.settings.answer_deadline;
        let host = ask.url.host_str().unwrap_or_default().to_owned();
        let chain = Chain::start(network, ask)?.run();
        if is_stream {
            // Sending takes as long as it takes; `exchange` watches that it moves.
            return chain.await;
        }
        tokio::time::timeout(limit, chain).await.unwrap_or(Err(UpstreamError::Silent { host, limit }))
    }
}

impl Fetch for Client {
    fn fetch(&self, ask: FetchAsk) -> BoxFuture<'_, Result<Fetched, UpstreamError>> {
        Box::pin(self.answer(ask))
    }

    fn judge<'a>(&'a self, url: &'a Url, trust: Trust) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(Client::judge(self, url, trust))
    }

    fn tunnel<'a>(&'a self, ask: TunnelAsk<'a>) -> BoxFuture<'a, Result<Opened, UpstreamError>> {
        Box::pin(Client::tunnel(self, ask.host, ask.port, ask.trust))
    }
}

/// An ask on its way through redirects.
struct Chain {
    network: Arc<Network>,
    question: Question,
    /// The asker's fields, before ours were added.
    asked: HeaderMap,
    payload: Payload,
    resume: Resume,
    redirects: Redirects,
    party: Party,
}

/// An answer and what it holds on to.
struct Answer {
    head: Head,
    host: Arc<Host>,
    slot: Slot,
}

impl Chain {
    fn start(network: Arc<Network>, ask: FetchAsk) -> Result<Chain, UpstreamError> {
        let FetchAsk { method, mut url, headers: mut asked, body, trust, resume, redirects, party, cause: _ } = ask;
        let host = url.host_str().unwrap_or("the address").to_owned();
        let refused = |why: &str| UpstreamError::Refused { host: host.clone(), why: why.to_owned() };
        let origin = Origin::of(&url).ok_or_else(|| refused("the address names no http or https host"))?;
        if method == Method::CONNECT {
            return Err(refused("CONNECT needs a tunnel"));
        }
        if let Some(value) = take_userinfo(&mut url) {
            asked.entry(AUTHORIZATION).or_insert(value);
        }
        url.set_fragment(None);
        let headers = outgoing(asked.clone(), &network.dial.node, &host)?;
        // What Connection lists is gone now, so that it cannot come back with the next hop.
        hop::strip(&mut asked);
        let question = Question { url, origin, method, headers, trust };
        Ok(Chain { network, question, asked, payload: Payload::of(body), resume, redirects, party })
    }

    async fn run(mut self) -> Result<Fetched, UpstreamError> {
        let requested_at = self.network.clock.now();
        let limit = self.network.settings.redirects;
        for _ in 0..=limit {
            let answer = self.ask_host().await?;
            let step = match self.redirects {
                Redirects::PassOn => None,
                Redirects::Follow => redirect::next(&Hop {
                    url: &self.question.url,
                    method: &self.question.method,
                    headers: &self.asked,
                    trust: self.question.trust,
                    status: answer.head.status,
                    answer: &answer.head.headers,
                    whole: self.payload.is_whole(),
                    allow_downgrade: self.network.settings.allow_downgrade,
                })?,
            };
            let Some(step) = step else { return Ok(self.finish(answer, requested_at)) };
            drain(answer.head).await;
            let origin = Origin::of(&step.url).ok_or(UpstreamError::Redirects { limit })?;
            let headers = outgoing(step.headers.clone(), &self.network.dial.node, &origin.host())?;
            self.asked = step.headers;
            self.question = Question { url: step.url, origin, method: step.method, headers, trust: step.trust };
            if step.body == Keep::No {
                self.payload = Payload::of(FetchBody::Empty);
            }
        }
        Err(UpstreamError::Redirects { limit })
    }

    /// Asks one host until there is an answer worth returning, or the retries are used up.
    async fn ask_host(&mut self) -> Result<Answer, UpstreamError> {
        let network = self.network.clone();
        network.dial.gate.judge(&self.question.origin.target, self.question.trust)?;
        let host = network.hosts.host(&self.question.origin)?;
        host.check()?;
        let slot = host.enter(&self.party).await?;
        let mut admission = host.admit()?;
        host.earn_retry();
        let mut tried = 0;
        loop {
            let sent = self.payload.take();
            let (body, progress) = sent.ok_or_else(|| UpstreamError::Unreachable {
                host: host.name().to_owned(),
                why: "its request's body can be sent only once".to_owned(),
            })?;
            let answer = exchange(&network, &self.question, body, progress).await;
            let outcome = match &answer {
                Ok(head) => Outcome::Answer(head.status, &head.headers),
                Err(failed) => Outcome::Failure(failed),
            };
            let stale = matches!(&answer, Err(Failed { stale: Stale::Yes, .. }));
            admission.settle(retry::verdict(outcome, self.redirects));
            if let Outcome::Answer(status, headers) = outcome
                && let Some(rest) = retry::rest_asked(status, headers, network.clock.now())
            {
                host.rest_for(rest);
            }
            tried += 1;
            let again = retry::is_worth_it(&self.question.method, outcome, self.redirects)
                && self.payload.is_whole()
                && tried < network.settings.retry.attempts
                && !network.is_offline()
                && host.check().is_ok()
                // One stale connection is nobody's fault; more draw on the budget.
                && ((stale && tried == 1) || host.spend_retry());
            if !again {
                return answer.map(|head| Answer { head, host, slot }).map_err(|failed| failed.error);
            }
            tracing::debug!(host = host.name(), tried, "asking again");
            if !stale {
                tokio::time::sleep(retry::pause(tried - 1, &network.settings.retry)).await;
            }
            admission = match host.admit() {
                Ok(admission) => admission,
                // It opened meanwhile: what we have is the better answer.
                Err(_) => return answer.map(|head| Answer { head, host, slot }).map_err(|failed| failed.error),
            };
            if let Ok(head) = answer {
                drain(head).await;
            }
        }
    }

    fn finish(self, answer: Answer, requested_at: crate::model::time::Timestamp) -> Fetched {
        let Answer { head, host, slot } = answer;
        let Head { status, version, headers, len, ends, incoming, reached } = head;
        let plan = match self.resume {
            Resume::ByRange => Plan::of(&self.question.method, &self.question.headers, status, &headers, len),
            Resume::Never => None,
        };
        let received_at = self.network.clock.now();
        let url = self.question.url.clone();
        let body = if let Some(incoming) = incoming {
            let source = Source { network: self.network, host, question: self.question, plan };
            let download = Download::new(source, incoming, version, slot);
            match ends {
                Ends::Marked => FetchedBody::new(download),
                Ends::OnClose => FetchedBody::until_close(download),
            }
        } else {
            FetchedBody::empty()
        };
        Fetched { status, version, headers, len, body, url, reached, requested_at, received_at }
    }
}

/// Takes user and password out of an address; they go as a header, to its origin alone.
fn take_userinfo(url: &mut Url) -> Option<HeaderValue> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = decode(url.username());
    let password = url.password().map(decode);
    // Neither call fails on an http address.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if user.is_empty() && password.is_none() {
        return None;
    }
    Secret::new(password.unwrap_or_default()).basic(&user)
}

/// Reads a small body that nobody wants to its end.
async fn drain(head: Head) {
    let Some(mut incoming) = head.incoming else { return };
    if head.ends == Ends::OnClose || head.len.is_some_and(|len| len > DRAIN_BYTES) {
        return;
    }
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut incoming).poll_frame(cx)).await {
            let len = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = left.checked_sub(len) else { return };
            left = rest;
        }
    };
    // Over time or not, the connection is closed where it was not read to its end.
    let _ = tokio::time::timeout(DRAIN_DEADLINE, read).await;
}
