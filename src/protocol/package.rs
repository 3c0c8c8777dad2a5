//! Any ecosystem, served: its grammar describes, the engine answers, and what must be rewritten is rewritten here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::again::Ready;
use super::forward::key;
use super::front::{Answered, Front, Visit};
use super::generation::Asking;
use super::hop::{Asker, add_advice};
use super::hosts::host_of;
use super::parent::ByName;
use super::reply::{self, ReplyBody};
use super::status;
use crate::cache::error::CacheError;
use crate::cache::relay::Exchange;
use crate::cache::served::{Ask, Partiality, Served};
use crate::ecosystem::Ecosystem;
use crate::model::key::Key;
use crate::model::kind::ErrorKind;
use crate::model::lookup::{
    Answer, Expect, Freshness, Lookup, Member, Origin, Origins, Rejection, Request, Rewrite, Route, Shown, Trust,
    Upstream,
};
use crate::model::outcome::{Outcome, Reason};

/// The ecosystems that are served, and the upstreams that each was given.
pub struct Upstreams {
    ecosystems: &'static [&'static dyn Ecosystem],
    configured: BTreeMap<&'static str, Vec<Upstream>>,
}

impl Upstreams {
    pub fn new(
        ecosystems: &'static [&'static dyn Ecosystem],
        configured: BTreeMap<&'static str, Vec<Upstream>>,
    ) -> Upstreams {
        Upstreams { ecosystems, configured }
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.ecosystems.iter().position(|ecosystem| ecosystem.about().name == name)
    }

    pub fn len(&self) -> usize {
        self.ecosystems.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ecosystems.is_empty()
    }

    /// The hosts of all upstreams.
    pub fn hosts(&self) -> Vec<String> {
        self.configured.values().flatten().filter_map(|upstream| host_of(&upstream.url)).collect()
    }

    pub fn of(&self, name: &str) -> &[Upstream] {
        self.configured.get(name).map_or(&[], |upstreams| upstreams.as_slice())
    }

    pub(super) fn ecosystem(&self, at: usize) -> &'static dyn Ecosystem {
        self.ecosystems[at]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static dyn Ecosystem, &[Upstream])> {
        self.ecosystems.iter().map(|ecosystem| (*ecosystem, self.of(ecosystem.about().name)))
    }
}

impl Front {
    /// What an ecosystem makes of a request below its mount.
    pub(super) fn routed(&self, visit: &Visit<'_>, at: usize, name: &str, rest: &str) -> Routed {
        let policy = self.hosts.version();
        let upstreams = self.upstreams.load_full();
        let ecosystem = upstreams.ecosystem(at);
        let base = format!("{}/{name}", self.public_base(visit));
        let mut route = ecosystem.route(&Request {
            method: &visit.method,
            path: rest,
            query: visit.uri.query(),
            headers: &visit.headers,
            upstreams: upstreams.of(name),
            public_base: &base,
            shown: shown(visit),
        });
        if let Ok(route) = &mut route {
            self.hosts.settle_route(route);
        }
        Routed { ecosystem, at, route, upstreams, policy }
    }

    /// What is here and may be given as it is. None: `package` has to see to it.
    pub(super) fn package_at_once(&self, visit: &Visit<'_>, routed: &Routed) -> Option<Answered> {
        let Ok(Route::Cached(lookup)) = &routed.route else { return None };
        if lookup.rewrite.is_some() || self.unknown_host(visit, lookup).is_some() {
            return None;
        }
        let (served, standing) = self.cache.at_once_and_again(&ask(visit, lookup)?)?;
        let answered = Answered::of_served(served, &visit.method, routed.at);
        if let Some(standing) = standing {
            let ready = Ready::new(standing, &answered, &visit.uri);
            self.keep_package(&routed.upstreams, routed.policy, named_hosts(lookup), ready);
        }
        Some(answered)
    }

    /// Answers a request below an ecosystem's mount.
    pub(super) async fn package(&self, visit: Visit<'_>, routed: Routed) -> Answered {
        let Routed { ecosystem, at, route, .. } = routed;
        let answer = match route {
            Ok(Route::Cached(lookup)) => self.cached(&visit, &lookup, ByName::Asked(asked(&visit)), at).await,
            Ok(Route::Generation(generation)) => self.generation(&visit, &generation, at).await,
            Ok(Route::Member(member)) => self.member(&visit, &member, at).await,
            Ok(Route::Generated(answer)) => {
                let response = answered(answer, Outcome::Generated);
                return Answered::made(response, Outcome::Generated, at);
            }
            Ok(Route::PassThrough(origin)) => self.passed(&visit, origin, at).await,
            Ok(Route::NoUpstream) => return self.no_upstream(ecosystem, at),
            Err(rejection) => return rejected(ecosystem, &rejection, at),
        };
        answer.unwrap_or_else(|error| failed(ecosystem, &error, at))
    }

    async fn cached(
        &self,
        visit: &Visit<'_>,
        lookup: &Lookup,
        by: ByName<'_>,
        at: usize,
    ) -> Result<Answered, CacheError> {
        if let Some(host) = self.unknown_host(visit, lookup) {
            return Ok(self.host_must_wait(visit, &host, at));
        }
        let lookup = &*self.through(visit, lookup, by);
        let served = self.cache.serve(&ask(visit, lookup).ok_or(CacheError::Abandoned)?).await?;
        match &lookup.rewrite {
            Some(rewrite) if served.status == 200 && visit.asker == Asker::Client => {
                rewritten(served, rewrite, visit, at).await
            }
            Some(_) | None => Ok(Answered::of_served(served, &visit.method, at)),
        }
    }

    /// A name that a generation gives its meaning, or that stands for itself.
    async fn member(&self, visit: &Visit<'_>, member: &Member, at: usize) -> Result<Answered, CacheError> {
        if let Some(host) = self.unknown_host(visit, &member.plain) {
            return Ok(self.host_must_wait(visit, &host, at));
        }
        match self.meant(visit, member, Asking::Allowed).await {
            Ok(Some(lookup)) => self.cached(visit, &lookup, ByName::Own, at).await,
            Ok(None) | Err(CacheError::Upstream(_)) => self.cached(visit, &member.plain, ByName::Own, at).await,
            Err(error) => Err(error),
        }
    }

    async fn passed(&self, visit: &Visit<'_>, origin: Origin, at: usize) -> Result<Answered, CacheError> {
        if origin.trust == Trust::Client
            && let Some(host) = host_of(&origin.url)
            && !self.hosts.may_ask(&host, visit.nearness())
        {
            return Ok(self.host_must_wait(visit, &host, at));
        }
        let exchange = Exchange {
            method: visit.method.clone(),
            parent: self.parent.as_ref().and_then(|parent| parent.origin(visit, asked(visit))),
            cause: Key { ecosystem: self.upstreams.load().ecosystem(at).about().name, ..key(&origin.url) },
            origin,
            headers: visit.headers.clone(),
            body: None,
            reason: Reason::Method,
            freshness: Freshness::Immutable,
            party: visit.party.clone(),
        };
        Ok(Answered::of_served(self.cache.exchange(exchange).await?, &visit.method, at))
    }

    /// The first host in a lookup that the client named and that policy does not let it name.
    pub(super) fn unknown_host(&self, visit: &Visit<'_>, lookup: &Lookup) -> Option<String> {
        named_hosts(lookup).into_iter().find(|host| !self.hosts.may_ask(host, visit.nearness()))
    }

    pub(super) fn host_must_wait(&self, visit: &Visit<'_>, host: &str, at: usize) -> Answered {
        self.hosts.must_wait(host, &visit.party);
        let outcome = Outcome::Bypass(Reason::Denied);
        let why = format!("{host} is not allowed as an upstream; allow it with: larder upstream allow {host}\n");
        Answered::made(reply::text(StatusCode::FORBIDDEN, outcome, why), outcome, at)
    }

    fn no_upstream(&self, ecosystem: &dyn Ecosystem, at: usize) -> Answered {
        let about = ecosystem.about();
        let outcome = Outcome::Bypass(Reason::NoUpstream);
        let why = format!(
            "no upstream is known for {name}; adopt this machine's with: larder init --json | larder upstream import -",
            name = about.name
        );
        let mut answer = ecosystem.error_body(about.without_upstream, &why);
        answer.status = status::of_kind(about.without_upstream).as_u16();
        Answered::made(answered(answer, outcome), outcome, at)
    }
}

/// The hosts in a lookup that the client named.
fn named_hosts(lookup: &Lookup) -> Vec<String> {
    let origins = match &lookup.origins {
        Origins::Listed(origins) => origins,
        Origins::InDocument { document, .. } => return named_hosts(document),
        Origins::SumOf { thing, .. } => return named_hosts(thing),
        // What stands behind it was judged before it was put there.
        Origins::Through { .. } => return Vec::new(),
    };
    let mut hosts = match &lookup.expect {
        Expect::InDocument { document, .. } | Expect::Beside { document, .. } => named_hosts(document),
        Expect::Nothing | Expect::Sum(_) | Expect::Exactly { .. } | Expect::Sniff(_) => Vec::new(),
    };
    let named = origins.iter().filter(|origin| origin.trust == Trust::Client);
    hosts.extend(named.filter_map(|origin| host_of(&origin.url)));
    hosts
}

/// What a request below an ecosystem's mount turned out to be.
pub(super) struct Routed {
    ecosystem: &'static dyn Ecosystem,
    at: usize,
    route: Result<Route, Rejection>,
    /// What the route was made from, and by which policy its trust was settled.
    upstreams: Arc<Upstreams>,
    policy: u64,
}

fn shown(visit: &Visit<'_>) -> Shown {
    // One that came as the proxy's credential comes again without being asked for.
    let token = visit.caller.token.is_some() && visit.caller.strip.authorization;
    if token { Shown::Token } else { Shown::Nothing }
}

/// What the client asks for: path and query, without its build's label.
fn asked<'a>(visit: &'a Visit<'_>) -> &'a str {
    visit.uri.path_and_query().map_or("/", |asked| asked.as_str())
}

/// None: the lookup names no address.
pub(super) fn ask<'a>(visit: &'a Visit<'_>, lookup: &'a Lookup) -> Option<Ask<'a>> {
    let partial = match visit.asker {
        Asker::Client if lookup.rewrite.is_some() => Partiality::Whole,
        Asker::Client | Asker::Larder => Partiality::Allowed,
    };
    let url = &lookup.first_origin()?.url;
    Some(Ask { partial, ..visit.ask(lookup, lookup.key.hash(), url, visit.identity()) })
}

/// Applies a rewrite to a document of bounded size. Its validators name what upstream sent, so they do not go along.
async fn rewritten(served: Served, rewrite: &Rewrite, visit: &Visit<'_>, at: usize) -> Result<Answered, CacheError> {
    let (outcome, key, source, digest) = (served.outcome, served.key, served.source.clone(), served.digest);
    let (fetch_ms, age, forwarded) = (served.fetch_ms, served.age, served.forwarded);
    let content_type = served.headers.get(header::CONTENT_TYPE).cloned();
    let raw = served.into_bytes(rewrite.max_bytes).await?;
    let document = (rewrite.apply)(&raw, &rewrite.with).map_err(|why| CacheError::Mismatch { why })?;
    let len = document.len();
    let body = if visit.method == http::Method::HEAD { Bytes::new() } else { Bytes::from(document) };
    let mut response = Response::new(ReplyBody::full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    reply::decorate(headers, reply::cache_status(outcome, forwarded), age);
    Ok(Answered { response, outcome, ecosystem: at, key, source, digest, fetch_ms })
}

fn answered(answer: Answer, outcome: Outcome) -> Response<ReplyBody> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply::body(status, outcome, answer.content_type, answer.body);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn rejected(ecosystem: &dyn Ecosystem, rejection: &Rejection, at: usize) -> Answered {
    let outcome = Outcome::Generated;
    Answered::made(worded(ecosystem, rejection.kind, &rejection.why, outcome), outcome, at)
}

fn failed(ecosystem: &dyn Ecosystem, error: &CacheError, at: usize) -> Answered {
    let verdict = status::of_error(error);
    tracing::debug!(%error, status = verdict.status.as_u16(), "answered with a failure");
    let mut response = worded(ecosystem, verdict.kind, &verdict.why, verdict.outcome);
    *response.status_mut() = verdict.status;
    add_advice(&mut response, &verdict);
    Answered::made(response, verdict.outcome, at)
}

/// A failure in the words that the ecosystem's clients show.
fn worded(ecosystem: &dyn Ecosystem, kind: ErrorKind, why: &str, outcome: Outcome) -> Response<ReplyBody> {
    let mut answer = ecosystem.error_body(kind, why);
    answer.status = status::of_kind(kind).as_u16();
    answered(answer, outcome)
}
