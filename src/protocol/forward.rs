//! The forward proxy (absolute-form requests, RFC 9112 §3.2.2) and the generic mirror (`/https/HOST/PATH`): one thing,
//! under RFC 9111, but for what an ecosystem recognises (`recognised`). Tried with curl, wget, apt and the public HTTP cache suite.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use url::Url;

use super::again::Ready;
use super::front::{Answered, Front, Visit};
use super::gate::Right;
use super::hosts::host_of;
use super::parent::{ByName, ParentMounts};
use super::reply;
use super::target::Target;
use super::upload::Upload;
use crate::cache::error::{Blame, CacheError};
use crate::cache::invalidate;
use crate::cache::relay::{Exchange, Sent};
use crate::cache::standing;
use crate::model::hop;
use crate::model::key::Key;
use crate::model::lookup::{Expect, Fallback, Freshness, Lookup, Origin, Origins, Trust};
use crate::model::outcome::{Outcome, Reason};
use crate::model::realm::Scope;

/// The largest body that is stored under RFC 9111, in bytes.
const BODY_MAX_BYTES: u64 = 64 << 30;

impl Front {
    pub(super) fn unusable(&self) -> Answered {
        let why = "the address is not one that larder can fetch: use http://HOST/PATH or /https/HOST/PATH\n";
        let outcome = Outcome::Generated;
        Answered::made(reply::text(StatusCode::BAD_REQUEST, outcome, why), outcome, self.http_label())
    }

    pub(super) fn http_label(&self) -> usize {
        self.upstreams.load().len()
    }

    /// What is here and may be given. None: `generic` has to see to it.
    pub(super) fn generic_at_once(&self, visit: &Visit<'_>, target: &Target) -> Option<Answered> {
        if !self.hosts.may_ask(&target.host, visit.nearness()) {
            return None;
        }
        let is_plain = standing::is_plain(&visit.method, &visit.headers);
        if is_plain && let Some(answered) = self.generic_again(target) {
            return Some(answered);
        }
        let recognised = self.recognised_at_once(visit, target);
        let recognised = recognised.and_then(|(ask, at)| Some((self.cache.at_once_and_again(&ask)?, at)));
        let ((served, standing), at) = match recognised {
            Some(answer) => answer,
            None => (
                self.cache.at_once_and_again(&visit.ask(&target.lookup, target.hash, &target.url, visit.identity()))?,
                self.http_label(),
            ),
        };
        let answered = Answered::of_served(served, &visit.method, at);
        if let Some(standing) = standing {
            target.set_ready(Ready::new(standing, &answered, &visit.uri));
        }
        Some(answered)
    }

    /// The last answer once more, if it stands.
    fn generic_again(&self, target: &Target) -> Option<Answered> {
        let ready = target.ready();
        let ready = ready.as_ref()?;
        let again = self.cache.again(&ready.standing)?;
        if Outcome::Hit(again.tier) != ready.outcome {
            return None;
        }
        Some(Answered {
            response: reply::again(ready.status, ready.headers.clone(), again),
            outcome: ready.outcome,
            ecosystem: ready.ecosystem,
            key: ready.key,
            source: ready.source.clone(),
            digest: ready.digest,
            fetch_ms: ready.fetch_ms,
        })
    }

    /// An address in proxy form, or behind a mirror's path.
    pub(super) async fn generic(&self, mut visit: Visit<'_>, body: Upload<Incoming>, target: &Target) -> Answered {
        let at = self.http_label();
        if !self.hosts.may_ask(&target.host, visit.nearness()) {
            return self.host_must_wait(&visit, &target.host, at);
        }
        let answer = match visit.method {
            Method::GET | Method::HEAD if body.is_end_stream() => {
                hop::strip_claims(&mut visit.headers);
                if let Some(answered) = self.recognised(&visit, target).await {
                    return answered;
                }
                let lookup = &*self.through(&visit, &target.lookup, ByName::Proxied(&target.url));
                let served = self.cache.serve(&visit.ask(lookup, target.hash, &target.url, visit.identity())).await;
                served.map(|served| Answered::of_served(served, &visit.method, at))
            }
            // Its answer repeats the request, with the operator's credential for that origin.
            Method::TRACE => {
                return self.made(StatusCode::METHOD_NOT_ALLOWED, Reason::Method, "TRACE is not passed on\n");
            }
            _ => self.generic_unsafe(&visit, body, &target.url).await,
        };
        match answer {
            Err(error) if self.is_for_the_build(&error) && visit.method.is_safe() => self.around(&visit, target).await,
            answer => answer.unwrap_or_else(|error| self.failed(&error, at)),
        }
    }

    /// Whether what the egress gate refused is where the build would go without us.
    pub(super) fn is_for_the_build(&self, error: &CacheError) -> bool {
        self.relayed == Trust::Build && error.blame() == Blame::Policy
    }

    /// Passes on what a host in a private network has: the build would reach it without us, and whoever else reads this
    /// store might not.
    async fn around(&self, visit: &Visit<'_>, target: &Target) -> Answered {
        match self.cache.exchange(exchange(visit, &target.url, self.relayed, Reason::Private)).await {
            Ok(served) => Answered::of_served(served, &visit.method, self.http_label()),
            Err(error) => self.failed(&error, self.http_label()),
        }
    }

    /// Other methods go through, and what they change is validated before its next use (RFC 9111 §4.4).
    async fn generic_unsafe(
        &self,
        visit: &Visit<'_>,
        body: Upload<Incoming>,
        url: &Url,
    ) -> Result<Answered, CacheError> {
        // The operator's credential is for those who may write.
        let may_write = visit.caller.allows(Right::Write);
        let vouched = || self.hosts.trust(&host_of(url).unwrap_or_default()) == Trust::Configured;
        let trust = if may_write && vouched() { Trust::Configured } else { self.relayed };
        let len = body.size_hint().exact();
        let sent = (!body.is_end_stream()).then(|| Sent {
            len,
            stream: BodyDataStream::new(body)
                .map(|chunk: Result<Bytes, _>| chunk.map_err(|error| error.to_string()))
                .boxed(),
        });
        let mut exchange = exchange(visit, url, trust, Reason::Method);
        exchange.headers.remove(header::EXPECT);
        exchange.parent = self.parent.as_ref().and_then(|parent| parent.origin(visit, &ParentMounts::mirror_of(url)));
        exchange.body = sent;
        let served = self.cache.exchange(exchange).await?;
        let stale = invalidate::invalidated(&visit.method, served.status, url, &served.headers);
        if !stale.is_empty() {
            let keys: Vec<_> = stale.iter().map(|url| key(url).hash()).collect();
            self.cache.invalidate(&keys).await?;
        }
        Ok(Answered::of_served(served, &visit.method, self.http_label()))
    }
}

/// A request that is passed on as it came, but for its body.
fn exchange(visit: &Visit<'_>, url: &Url, trust: Trust, reason: Reason) -> Exchange {
    Exchange {
        method: visit.method.clone(),
        parent: None,
        origin: Origin { trust, ..origin(url) },
        headers: visit.headers.clone(),
        body: None,
        reason,
        freshness: Freshness::Http,
        party: visit.party.clone(),
        cause: key(url),
    }
}

fn origin(url: &Url) -> Origin {
    Origin { url: url.clone(), next: Fallback::OnAbsence, trust: Trust::Client }
}

/// The key of an address: scheme, host and port; then path and query as sent.
pub(super) fn key(url: &Url) -> Key {
    Key {
        scope: Scope::shared(),
        ecosystem: "http",
        upstream: url.origin().ascii_serialization(),
        path: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
        variant: String::new(),
    }
}

pub(super) fn lookup(url: &Url) -> Lookup {
    Lookup {
        key: key(url),
        origins: Origins::Listed(vec![origin(url)]),
        freshness: Freshness::Http,
        expect: Expect::Nothing,
        rewrite: None,
        max_bytes: BODY_MAX_BYTES,
        forward: Vec::new(),
        stand_in: None,
        alias: None,
    }
}
