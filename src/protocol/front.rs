//! The front door: who may come in, which conversation it is, and who writes it down.
//!
//! A request is in proxy form (absolute target, or CONNECT), or it names a mount of ours under a `Host` that is ours.
//! Anything else is answered 421: a name that we do not know must not reach a cache by way of a rebound address.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use url::Url;

use super::again::{Fields, Packages, Repeated};
use super::enter::Heeded;
use super::form::{Form, needed_right};
use super::gate::{Caller, Denied, Door, Gate, heeded};
use super::generation::Handed;
use super::hop::{Asker, Trusting, add_advice};
use super::hosts::{Hosts, Nearness, without_port};
use super::intercept::Intercept;
use super::label;
use super::mount::split_mount;
use super::observe::{Observation, Observers};
use super::owner::OwnerKey;
use super::package::{Routed, Upstreams};
use super::page;
use super::parent::ParentMounts;
use super::reply::{self, ReplyBody};
use super::target::{Target, Targets};
use super::upload::{Tempo, Upload};
use super::{Answering, Mount, Peer};
use crate::cache::Cache;
use crate::cache::served::{Ask, Framing, Partiality, Served};
use crate::model::credential;
use crate::model::digest::Digest;
use crate::model::hop;
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::{Lookup, Trust};
use crate::model::node;
use crate::model::outcome::{Outcome, Reason};
use crate::model::party::Party;
use crate::runtime::tasks::Tasks;

/// `[public]`: under which names and address clients know us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Base address as clients see it; None: as each client asked.
    pub url: Option<String>,
    /// Host names that are ours, beside localhost, this machine's name and addresses.
    pub names: Vec<String>,
    /// What the place is called where this larder stands, for those who have it as a peer.
    pub region: Option<String>,
}

/// Everything that protocols share.
pub struct Front {
    pub cache: Cache,
    pub gate: Arc<Gate>,
    pub hosts: Hosts,
    pub intercept: Arc<Intercept>,
    pub upstreams: ArcSwap<Upstreams>,
    pub observers: Arc<Observers>,
    pub tasks: Tasks,
    /// Host names that are ours, in lower case and without a port.
    pub names: Vec<String>,
    /// What clients see as our address, where the operator says so.
    pub public_url: Option<String>,
    /// What the operator calls the place where this node stands.
    pub region: String,
    pub control: Arc<dyn super::api::Control>,
    pub targets: Targets,
    pub packages: Packages,
    pub handed: Handed,
    /// How long a tunnel may be silent.
    pub tunnel_idle: Duration,
    /// Of clients' bodies on HTTP/2; elsewhere the server sees to it.
    pub tempo: Tempo,
    /// The larder that this one stands before: it is asked first.
    pub parent: Option<ParentMounts>,
    pub trusting: Trusting,
    /// Proves who serves here.
    pub owner: OwnerKey,
    /// For builds, and gone with them.
    pub embedded: bool,
    /// How far a host that nobody vouched for is trusted where nothing of its answer is kept.
    pub relayed: Trust,
    /// Names this process to other larders.
    pub instance: HeaderValue,
}

/// A request that passed the gate.
pub(super) struct Visit<'a> {
    pub peer: &'a Peer,
    pub caller: Caller,
    pub party: Party,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub version: http::Version,
    pub extensions: Extensions,
    pub asker: Asker,
}

impl Visit<'_> {
    pub(super) fn nearness(&self) -> Nearness {
        Nearness::of(self.peer.addr.ip())
    }

    pub(super) fn framing(&self) -> Framing {
        if self.version == http::Version::HTTP_10 { Framing::Closing } else { Framing::Marked }
    }

    /// Who is written down as the cause of what this request makes us store.
    pub(super) fn writer(&self) -> Arc<str> {
        self.caller.token.clone().unwrap_or_else(|| self.caller.label.clone())
    }

    /// What is asked of the engine. `hash`: of the lookup's key; `url`: what the client calls the thing.
    pub(super) fn ask<'b>(
        &'b self,
        lookup: &'b Lookup,
        hash: KeyHash,
        url: &'b Url,
        identity: Option<Box<str>>,
    ) -> Ask<'b> {
        Ask {
            lookup,
            hash,
            method: &self.method,
            headers: &self.headers,
            url,
            identity,
            label: self.writer(),
            party: &self.party,
            partial: Partiality::Allowed,
            framing: self.framing(),
        }
    }

    /// A hash of the credential that is meant for upstream, if there is one.
    pub(super) fn identity(&self) -> Option<Box<str>> {
        let shown = self.headers.iter().filter(|(name, _)| credential::is_credential(name));
        let fields: Vec<&[u8]> = shown.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]).collect();
        (!fields.is_empty()).then(|| Digest::of(&fields.join(&b'\n')).to_string()[..32].into())
    }
}

/// An answer, with what the observers need to know of it.
pub(super) struct Answered {
    pub response: Response<ReplyBody>,
    pub outcome: Outcome,
    /// Index of the metric label.
    pub ecosystem: usize,
    pub key: Option<KeyHash>,
    /// What was asked for, where that has a name.
    pub source: Option<Arc<Key>>,
    pub digest: Option<Digest>,
    pub fetch_ms: u32,
}

impl Answered {
    pub(super) fn of_served(served: Served, method: &Method, ecosystem: usize) -> Answered {
        let (outcome, key, digest, fetch_ms) = (served.outcome, served.key, served.digest, served.fetch_ms);
        let source = served.source.clone();
        Answered { response: reply::response(served, method), outcome, ecosystem, key, source, digest, fetch_ms }
    }

    pub(super) fn made(response: Response<ReplyBody>, outcome: Outcome, ecosystem: usize) -> Answered {
        Answered { response, outcome, ecosystem, key: None, source: None, digest: None, fetch_ms: 0 }
    }
}

/// Where a request goes once it was let in.
enum Way {
    Connect,
    /// An address that the client named. None: it is none that can be fetched.
    Address(Option<Arc<Target>>),
    Package(Routed),
    Api,
    /// Another larder's question.
    Node,
    Nowhere,
}

/// What is noted of a request when it comes, for when it is answered.
struct Noted {
    started: Duration,
    peer: SocketAddr,
    label: Option<Arc<str>>,
    method: Method,
    uri: Uri,
    asker: Asker,
}

impl Mount for Front {
    fn serve<'a>(&'a self, mut request: Request<Incoming>, peer: &'a Arc<Peer>) -> Answering<'a> {
        let form = self.form(&request, peer);
        if let (Form::Inside, Some(inside)) = (&form, &peer.inside) {
            inside.complete(request.uri_mut());
        }
        let asker = if request.headers().contains_key(hop::ASKS) { Asker::Larder } else { Asker::Client };
        let mut noted = Noted {
            started: self.observers.clock.elapsed(),
            peer: peer.addr,
            label: None,
            method: request.method().clone(),
            uri: request.uri().clone(),
            asker,
        };
        let (mut visit, body) = match self.admit(request, peer, &form, &mut noted.label) {
            Ok((visit, body)) => (Visit { asker, ..visit }, body),
            Err(refused) => return Answering::Left(ready(self.observed(noted, self.signed(*refused, asker)))),
        };
        visit.headers.remove(hop::ASKS);
        let way = self.way(&form, &mut visit);
        if body.is_end_stream()
            && let Some(mut answered) = self.at_once(&visit, &way)
        {
            if is_shown(&form, &way, &visit) {
                page::sandbox(&mut answered.response);
            }
            return Answering::Left(ready(self.observed(noted, self.signed(answered, asker))));
        }
        Answering::Right(Box::pin(async move {
            let is_shown = is_shown(&form, &way, &visit);
            let body = self.upload(body, peer);
            let mut answered = self.go(visit, body, way).await;
            if is_shown {
                page::sandbox(&mut answered.response);
            }
            self.observed(noted, self.signed(answered, asker))
        }))
    }

    fn acquaint(&self, head: &[u8], peer: &Peer) -> Option<Fields> {
        self.judged(head, peer)
    }

    fn again(&self, target: &str, fields: &mut Fields, peer: &Peer) -> Option<Repeated> {
        self.repeated(target, fields, peer)
    }

    fn sent_again(&self, answer: &Repeated, peer: &Peer, bytes: u64) {
        self.conclude(answer, peer, bytes);
    }
}

impl Front {
    fn observed(&self, noted: Noted, answered: Answered) -> Response<ReplyBody> {
        let Noted { started, peer, label, method, uri, asker } = noted;
        let observation = Observation {
            observers: self.observers.clone(),
            started,
            peer,
            label,
            method,
            uri,
            asker,
            status: answered.response.status().as_u16(),
            outcome: answered.outcome,
            ecosystem: answered.ecosystem,
            key: answered.key,
            source: answered.source,
            digest: answered.digest,
            fetch_ms: answered.fetch_ms,
        };
        answered.response.map(|body| body.observed(Box::new(observation)))
    }

    /// Lets a request in, or says why not. `label` becomes the build that it names.
    fn admit<'a>(
        &self,
        mut request: Request<Incoming>,
        peer: &'a Peer,
        form: &Form,
        label: &mut Option<Arc<str>>,
    ) -> Result<(Visit<'a>, Incoming), Box<Answered>> {
        if let Form::Misdirected = form {
            let why = match peer.inside {
                None => "this name is not larder's; add it to public.names if it should be\n",
                Some(_) => "this tunnel leads to another host\n",
            };
            return Err(Box::new(self.made(StatusCode::MISDIRECTED_REQUEST, Reason::Denied, why)));
        }
        // Before anything is judged by its path.
        let named = if let Form::Ours = form { label::take_from_path(request.uri_mut()) } else { None };
        if let Some((status, why)) = self.unwelcome(&request, form) {
            return Err(Box::new(self.made(status, Reason::Denied, why)));
        }
        let needs = needed_right(&request, form);
        let door = form.door();
        let caller = self.admitted(request.headers(), peer, needs, door);
        let caller = caller.map_err(|denied| Box::new(self.denied(denied, door)))?;
        let (mut parts, body) = request.into_parts();
        *label = caller.build_label().or(named).or_else(|| label::of_agent(&parts.headers));
        if let Form::Connect = form {
            parts.extensions.insert(Heeded(heeded(&parts.headers)));
        }
        caller.strip.apply(&mut parts.headers);
        let http::request::Parts { method, uri, version, headers, extensions, .. } = parts;
        let party = Party::of(peer.addr.ip(), label.as_ref());
        let asker = Asker::Client;
        Ok((Visit { peer, caller, party, method, uri, headers, version, extensions, asker }, body))
    }

    fn way(&self, form: &Form, visit: &mut Visit<'_>) -> Way {
        let way = match form {
            Form::Connect => return Way::Connect,
            Form::Forward | Form::Inside => Way::Address(self.targets.absolute(&visit.uri.to_string(), &self.hosts)),
            Form::Ours | Form::Misdirected => {
                let (mount, rest) = split_mount(visit.uri.path());
                match mount {
                    "http" | "https" => {
                        let raw = visit.uri.path_and_query().map_or("", PathAndQuery::as_str);
                        Way::Address(self.targets.mirrored(raw, &self.hosts))
                    }
                    "healthz" | "readyz" | "metrics" | "api" | "" => return Way::Api,
                    node::SERVICE => return Way::Node,
                    name => match self.upstreams.load().position(name) {
                        Some(at) => return Way::Package(self.routed(visit, at, name, rest)),
                        None => return Way::Nowhere,
                    },
                }
            }
        };
        // Before anything is looked up: a field that stays here must not tell variants apart.
        hop::strip(&mut visit.headers);
        way
    }

    /// What is here and may be given.
    fn at_once(&self, visit: &Visit<'_>, way: &Way) -> Option<Answered> {
        match way {
            Way::Address(target) => self.generic_at_once(visit, target.as_ref()?),
            Way::Package(routed) => self.package_at_once(visit, routed),
            Way::Connect | Way::Api | Way::Node | Way::Nowhere => None,
        }
    }

    fn upload(&self, body: Incoming, peer: &Peer) -> Upload<Incoming> {
        if peer.http2 && !body.is_end_stream() {
            return Upload::paced(body, self.tempo, self.observers.clock.clone());
        }
        Upload::plain(body)
    }

    async fn go(&self, visit: Visit<'_>, body: Upload<Incoming>, way: Way) -> Answered {
        match way {
            Way::Connect => self.connect(visit).await,
            Way::Address(Some(target)) => self.generic(visit, body, &target).await,
            Way::Address(None) => self.unusable(),
            Way::Package(routed) => self.package(visit, routed).await,
            Way::Api => self.api(visit, body).await,
            Way::Node => self.node(visit, body).await,
            Way::Nowhere => self.made(StatusCode::NOT_FOUND, Reason::Denied, "no such mount; GET / lists them\n"),
        }
    }

    /// The address under which the client reaches us, without a slash at the end.
    pub(super) fn public_base(&self, visit: &Visit<'_>) -> String {
        if let Some(url) = &self.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let scheme = if visit.peer.tls { "https" } else { "http" };
        let named = visit.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = match named.or(visit.uri.authority().map(|authority| authority.as_str())) {
            Some(host) if self.is_ours(without_port(host)) => host.to_owned(),
            Some(_) | None => visit.peer.local.to_string(),
        };
        format!("{scheme}://{host}")
    }

    pub(super) fn api_label(&self) -> usize {
        self.upstreams.load().len() + 2
    }

    pub(super) fn made(&self, status: StatusCode, reason: Reason, why: &'static str) -> Answered {
        let outcome = Outcome::Bypass(reason);
        Answered::made(reply::text(status, outcome, why), outcome, self.api_label())
    }

    fn denied(&self, denied: Denied, door: Door) -> Answered {
        let outcome = Outcome::Bypass(Reason::Denied);
        let (status, challenge) = denied.answer(door);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        let mut response = reply::text(status, outcome, format!("{denied}\n"));
        if let Some((name, value)) = challenge {
            response.headers_mut().insert(name, value);
        }
        Answered::made(response, outcome, self.api_label())
    }

    /// Renders a failure of the engine.
    pub(super) fn failed(&self, error: &crate::cache::error::CacheError, ecosystem: usize) -> Answered {
        let verdict = super::status::of_error(error);
        tracing::debug!(%error, status = verdict.status.as_u16(), "answered with a failure");
        let mut response = reply::text(verdict.status, verdict.outcome, format!("{}\n", verdict.why));
        add_advice(&mut response, &verdict);
        Answered::made(response, verdict.outcome, ecosystem)
    }
}

/// Whether somebody else's document may be shown under our own name: only what leads its reader somewhere asks for HTML.
fn is_shown(form: &Form, way: &Way, visit: &Visit<'_>) -> bool {
    let is_document = matches!((form, way), (Form::Ours, Way::Address(_) | Way::Package(_)));
    is_document && visit.asker == Asker::Client && wants_html(&visit.headers)
}

pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}
