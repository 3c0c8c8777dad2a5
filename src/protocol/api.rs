//! larder's own HTTP API and what monitoring reads: `/healthz`, `/readyz`, `/metrics`, `/api/v1/...`, and a page at `/`.
//! All but health, metrics and reading stats need the admin right beyond loopback.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::front::{Answered, Front, Visit};
use super::generation::Asking;
use super::observe::Totals;
use super::owner::CHALLENGE;
use super::reply;
use super::upload::Upload;
use crate::cache::error::CacheError;
use crate::model::digest::{Digest, DigestError};
use crate::model::lookup::{Lookup, Origin, Request, Route, Shown};
use crate::model::outcome::{Forwarded, Outcome};
use crate::model::realm::Realm;

/// The largest body that the API reads, in bytes.
const BODY_MAX_BYTES: usize = 4 << 20;

/// What the running process can be told, and what it says of itself. The composition root implements it.
pub trait Control: Send + Sync + 'static {
    fn is_ready(&self) -> bool;
    fn is_offline(&self) -> bool;
    /// Whether a request has come through this node before.
    fn is_looping(&self, headers: &HeaderMap) -> bool;
    /// Why a fetch would not be let out to an origin: policy, or a name that nobody knows. None: it would.
    fn objection<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Option<String>>;
    /// Answers from the cache alone, or asks upstream again.
    fn set_offline(&self, offline: bool);
    /// The certificates that clients have to trust (PEM): of our own listener, and of intercepted hosts.
    fn trust_anchors(&self) -> TrustAnchors;
    /// Reads tokens, certificates and policy anew. Ok: what was read; Err: what is wrong, with the old settings kept.
    fn reload(&self) -> BoxFuture<'_, Result<String, String>>;
    /// What every part says of itself.
    fn report(&self) -> Value;
    /// Brings the gauges up to date and renders all metrics.
    fn metrics(&self) -> String;
    /// The upstreams of the ecosystems, configured and adopted.
    fn upstreams(&self) -> Vec<Listed>;
    /// Keeps the list of hosts that were allowed.
    fn keep_allowed(&self, hosts: Vec<String>) -> BoxFuture<'_, Result<(), String>>;
    /// Adopts discovered upstreams and keeps them. Ok: one line for each.
    fn adopt(&self, found: Value) -> BoxFuture<'_, Result<Vec<String>, String>>;
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GcAsk {
    max_bytes: Option<u64>,
    dry_run: bool,
}

#[derive(Deserialize)]
struct OfflineAsk {
    on: bool,
}

#[derive(Deserialize)]
struct HostAsk {
    host: String,
}

#[derive(Deserialize)]
struct BuildAsk {
    build: String,
    /// The authority of the server behind an agent.
    trusts: bool,
}

/// What clients have to trust (the trust anchors of RFC 5280), as PEM; empty where there is nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrustAnchors {
    /// For TLS with larder itself.
    pub own: String,
    /// For hosts that are intercepted.
    pub intercept: String,
    /// Those that are listed.
    pub hosts: Vec<String>,
}

/// One upstream or host that clients may be sent to, or that waits.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Listed {
    /// Empty for a host that no ecosystem is tied to.
    pub ecosystem: String,
    pub url: String,
    pub found_in: String,
    /// `configured`, `adopted`, `allowed` or `pending`.
    pub state: &'static str,
    /// How its server fares; empty when it was not asked yet.
    pub breaker: String,
}

impl Listed {
    fn host(host: String, state: &'static str, found_in: &str) -> Listed {
        Listed { url: host, state, found_in: found_in.to_owned(), ..Listed::default() }
    }
}

#[derive(Serialize)]
struct OfBuild {
    build: String,
    #[serde(flatten)]
    totals: Totals,
}

impl Front {
    /// Answers below `/api`, `/healthz`, `/readyz`, `/metrics` and `/`.
    pub(super) async fn api(&self, visit: Visit<'_>, body: Upload<Incoming>) -> Answered {
        let response = match self.api_answer(&visit, body, visit.uri.path()).await {
            Ok(response) => response,
            Err((status, why)) => json(status, &json!({ "error": why })),
        };
        Answered::made(response, Outcome::Generated, self.api_label())
    }

    async fn api_answer(&self, visit: &Visit<'_>, body: Upload<Incoming>, path: &str) -> ApiResult {
        let is_read = matches!(visit.method, Method::GET | Method::HEAD);
        match (is_read, path) {
            (true, "/") => Ok(self.page()),
            (true, "/healthz") => Ok(reply::text(StatusCode::OK, Outcome::Generated, "ok\n")),
            (true, "/readyz") => Ok(self.ready()),
            (true, "/metrics") => {
                let text = Bytes::from(self.control.metrics());
                Ok(reply::body(StatusCode::OK, Outcome::Generated, "text/plain; version=0.0.4", text))
            }
            (true, "/api/v1/health") => Ok(self.health(visit)),
            (true, "/api/v1/stats") => self.stats(visit).await,
            (true, "/api/v1/ca") => Ok(json(StatusCode::OK, &self.control.trust_anchors())),
            (true, "/api/v1/explain") => self.explain(visit).await,
            (true, "/api/v1/upstreams") => {
                let pending_alone = visit.uri.query().is_some_and(|query| query.starts_with("pending"));
                Ok(json(StatusCode::OK, &self.upstream_list(pending_alone)))
            }
            (true, path) if path.starts_with("/api/v1/builds/") => self.build(&path["/api/v1/builds/".len()..]).await,
            (true, path) if path.starts_with("/api/v1/blobs/") => {
                self.blob(visit, &path["/api/v1/blobs/".len()..]).await
            }
            (false, path) if visit.method == Method::POST => self.command(path, body).await,
            (_, _) => Err((StatusCode::NOT_FOUND, format!("no such endpoint: {path}"))),
        }
    }

    async fn command(&self, path: &str, body: Upload<Incoming>) -> ApiResult {
        let body = Limited::new(body, BODY_MAX_BYTES).collect().await;
        let body = body.map_err(|_| bad_request("the body broke off or is too large"))?.to_bytes();
        match path {
            "/api/v1/offline" => {
                let ask: OfflineAsk = parse(&body)?;
                self.control.set_offline(ask.on);
                Ok(json(StatusCode::OK, &json!({ "offline": ask.on })))
            }
            "/api/v1/reload" => match self.control.reload().await {
                Ok(read) => Ok(json(StatusCode::OK, &json!({ "reloaded": read }))),
                Err(why) => Err(bad_request(why)),
            },
            "/api/v1/gc" => {
                let ask: GcAsk = if body.is_empty() { GcAsk::default() } else { parse(&body)? };
                let done = self.cache.collect(ask.max_bytes, ask.dry_run).await.map_err(internal)?;
                Ok(json(StatusCode::OK, &done))
            }
            "/api/v1/trusting" => {
                let ask: BuildAsk = parse(&body)?;
                self.trusts(&ask.build, ask.trusts);
                Ok(json(StatusCode::OK, &json!({ "build": ask.build, "trusts": ask.trusts })))
            }
            "/api/v1/verify" => Ok(self.verify()),
            "/api/v1/flush" => {
                let taken_back = self.cache.flush().await.map_err(internal)?;
                Ok(json(StatusCode::OK, &json!({ "durable": true, "taken_back": taken_back })))
            }
            "/api/v1/upstreams/allow" => {
                let ask: HostAsk = parse(&body)?;
                let host = named_host(&ask.host)
                    .ok_or_else(|| bad_request(format!("{:?} is no host; write HOST or HOST:PORT", ask.host)))?;
                self.control.keep_allowed(self.hosts.allow(&host)).await.map_err(bad_request)?;
                Ok(json(StatusCode::OK, &json!({ "allowed": host })))
            }
            "/api/v1/upstreams/import" => {
                let lines = self.control.adopt(parse(&body)?).await.map_err(bad_request)?;
                Ok(json(StatusCode::OK, &json!({ "adopted": lines })))
            }
            path => Err((StatusCode::NOT_FOUND, format!("no such endpoint: {path}"))),
        }
    }

    fn health(&self, visit: &Visit<'_>) -> http::Response<reply::ReplyBody> {
        let (ready, offline) = (self.control.is_ready(), self.control.is_offline());
        let version = env!("CARGO_PKG_VERSION");
        let (agent, instance) = (self.parent.is_some(), self.instance.to_str().unwrap_or_default());
        let challenge = visit.headers.get(CHALLENGE).map(http::HeaderValue::as_bytes);
        let proof = challenge.and_then(|challenge| self.owner.proof(challenge, visit.peer.local.port()));
        let health = json!({
            "ready": ready, "version": version, "offline": offline, "agent": agent, "instance": instance,
            "embedded": self.embedded, "proof": proof,
        });
        json(StatusCode::OK, &health)
    }

    fn ready(&self) -> http::Response<reply::ReplyBody> {
        let (status, text) = if self.control.is_ready() {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        };
        reply::text(status, Outcome::Generated, text)
    }

    async fn stats(&self, visit: &Visit<'_>) -> ApiResult {
        if let Some(days) = query(visit, "days") {
            return self.usage(visit, &days).await;
        }
        match query(visit, "build") {
            Some(label) => {
                let totals = self.observers.totals(&label).unwrap_or_default();
                Ok(json(StatusCode::OK, &OfBuild { build: label, totals }))
            }
            None => Ok(json(StatusCode::OK, &self.control.report())),
        }
    }

    fn upstream_list(&self, pending_alone: bool) -> Value {
        let mut listed = Vec::new();
        if !pending_alone {
            listed = self.control.upstreams();
            listed.extend(self.hosts.allowed().into_iter().map(|host| Listed::host(host, "allowed", "an operator")));
        }
        let pending = self.hosts.pending().into_iter();
        listed.extend(pending.map(|(host, asked)| Listed::host(host, "pending", &format!("{asked} requests"))));
        json!({ "upstreams": listed })
    }

    /// The record of a build, one JSON line for each request.
    async fn build(&self, label: &str) -> ApiResult {
        let label = percent_encoding::percent_decode_str(label).decode_utf8_lossy();
        let lines = self.cache.record_of(&label).await.map_err(internal)?;
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).map_err(|error| bad_request(error.to_string()))?;
            text.push(b'\n');
        }
        Ok(reply::body(StatusCode::OK, Outcome::Generated, "application/jsonl", Bytes::from(text)))
    }

    /// Public bytes by their BLAKE3 digest, as a build's record names them.
    async fn blob(&self, visit: &Visit<'_>, digest: &str) -> ApiResult {
        let digest: Digest = digest.parse().map_err(|error: DigestError| bad_request(error.to_string()))?;
        match self.cache.blob(&digest, &[Realm::public()]).await.map_err(internal)? {
            Some(served) => Ok(reply::response(served, &visit.method)),
            None => Err((StatusCode::NOT_FOUND, "no such blob is kept".to_owned())),
        }
    }

    /// Re-hashes everything; progress goes out as JSON lines while it runs.
    fn verify(&self) -> http::Response<reply::ReplyBody> {
        let progress = self.cache.verify().map(|progress| {
            let mut line = serde_json::to_vec(&progress?).unwrap_or_default();
            line.push(b'\n');
            Ok(Bytes::from(line))
        });
        let body = crate::cache::served::ServedBody::Stream(progress.boxed());
        let mut response = http::Response::new(reply::ReplyBody::new(body, None));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/jsonl"));
        reply::decorate(headers, reply::cache_status(Outcome::Generated, Forwarded::default()), None);
        response
    }

    /// What larder knows of an address, and why it would or would not come from the cache.
    async fn explain(&self, visit: &Visit<'_>) -> ApiResult {
        let url = query(visit, "url").ok_or_else(|| bad_request("say which: ?url=URL"))?;
        let mut lookup = self.described(visit, &url).await?;
        self.hosts.settle(&mut lookup);
        let mut explained = self.cache.explain(&lookup).await.map_err(internal)?;
        let objection = match self.unknown_host(visit, &lookup) {
            Some(host) => Some(format!("{host} is not allowed as an upstream: larder upstream allow {host}")),
            None => match lookup.first_origin() {
                Some(origin) => self.control.objection(origin).await,
                None => None,
            },
        };
        match objection {
            Some(why) if explained.asks_upstream => explained.decision = format!("refused: {why}"),
            Some(why) => explained.notes.push(format!("upstream would not be asked: {why}")),
            None => {}
        }
        Ok(json(StatusCode::OK, &explained))
    }

    /// The lookup that a GET of `url` would be: a path below one of our mounts, or any address as the proxy would see it.
    async fn described(&self, visit: &Visit<'_>, url: &str) -> Result<Lookup, (StatusCode, String)> {
        let path = match Url::parse(url) {
            Ok(url) if self.is_own(visit, &url) => url[url::Position::BeforePath..].to_owned(),
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                return self.addressed(visit, &url).await.map_err(internal);
            }
            Ok(url) => return Err(bad_request(format!("{} is not fetched: http and https are", url.scheme()))),
            Err(_) => url.to_owned(),
        };
        let (path, asked) = path.split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
        let (mount, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        if mount == "http" || mount == "https" {
            let target = format!("{mount}://{rest}{}", asked.map(|asked| format!("?{asked}")).unwrap_or_default());
            let url = Url::parse(&target).map_err(|_| bad_request("that is no address"))?;
            return self.addressed(visit, &url).await.map_err(internal);
        }
        let upstreams = self.upstreams.load();
        let at = upstreams.position(mount).ok_or_else(|| bad_request(format!("no mount is called {mount}")))?;
        let base = format!("{}/{mount}", self.public_base(visit));
        let route = upstreams.ecosystem(at).route(&Request {
            method: &Method::GET,
            path: &format!("/{rest}"),
            query: asked,
            headers: &visit.headers,
            upstreams: upstreams.of(mount),
            public_base: &base,
            shown: Shown::Nothing,
        });
        match route {
            Ok(Route::Cached(lookup)) => Ok(*lookup),
            Ok(Route::Generation(generation)) => Ok(generation.document),
            Ok(Route::Member(member)) => {
                let meant = self.meant(visit, &member, Asking::No).await.map_err(internal)?;
                Ok(meant.unwrap_or(member.plain))
            }
            Ok(Route::Generated(_)) => Err(bad_request("larder makes this answer itself; it is not cached")),
            Ok(Route::PassThrough(_)) => Err(bad_request("this is passed through and never cached")),
            Ok(Route::NoUpstream) => Err(bad_request(format!("no upstream is known for {mount}"))),
            Err(rejection) => Err(bad_request(rejection.why.to_string())),
        }
    }

    fn is_own(&self, visit: &Visit<'_>, url: &Url) -> bool {
        let base = self.public_base(visit);
        Url::parse(&base).is_ok_and(|base| base.origin() == url.origin())
    }

    fn page(&self) -> http::Response<reply::ReplyBody> {
        let mut text =
            String::from("larder: one warm cache for everything a build fetches, makes and ships\n\nmounts:\n");
        let upstreams = self.upstreams.load();
        for (ecosystem, _) in upstreams.iter() {
            let about = ecosystem.about();
            text.push_str(&format!("  /{}/  {}\n", about.name, about.title));
        }
        text.push_str("  /https/HOST/PATH, /http/HOST/PATH  any server\n  forward proxy on the same port\n\n");
        text.push_str("see also: /metrics /healthz /readyz /api/v1/stats\n");
        reply::text(StatusCode::OK, Outcome::Generated, text)
    }
}

pub(super) type ApiResult = Result<http::Response<reply::ReplyBody>, (StatusCode, String)>;

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|error| bad_request(format!("the body is not what it should be: {error}")))
}

/// The host that an operator means, by its name or by an address there; with its port unless that is the scheme's own.
fn named_host(text: &str) -> Option<String> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}/") };
    let url = Url::parse(&with_scheme).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = url.host_str().filter(|_| url.username().is_empty() && url.password().is_none())?;
    if !text.contains("://") && (url.path() != "/" || text.contains(['/', '?', '#'])) {
        return None;
    }
    // Hosts that clients name come without the port of their scheme.
    let port = url.port().filter(|port| *port != 443);
    Some(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> http::Response<reply::ReplyBody> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    reply::body(status, Outcome::Generated, "application/json", Bytes::from(bytes))
}

pub(super) fn bad_request(why: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, why.into())
}

pub(super) fn internal(error: CacheError) -> (StatusCode, String) {
    tracing::error!(%error, "an API call failed");
    let verdict = super::status::of_error(&error);
    (verdict.status, verdict.why)
}

pub(super) fn query(visit: &Visit<'_>, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(visit.uri.query()?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_a_host() {
        for (text, host) in [
            ("Packages.example", Some("packages.example")),
            ("packages.example:8443", Some("packages.example:8443")),
            ("https://packages.example/a/b", Some("packages.example")),
            ("packages.example:443", Some("packages.example")),
            ("[::1]:80", Some("[::1]")),
            ("bad host!", None),
            ("packages.example/a", None),
            ("user@packages.example", None),
            ("ftp://packages.example", None),
            ("", None),
        ] {
            assert_eq!(named_host(text).as_deref(), host, "{text:?}");
        }
    }
}
