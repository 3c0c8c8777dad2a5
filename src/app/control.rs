//! What the running process can be told through its API: offline, reload, adopt; and what it says of itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::adopted::{Adopted, keep_allowed};
use super::certificates::{self, cover, intercepted};
use super::error::{StartError, StartErrorKind};
use super::parts::RunningParts;
use crate::config::Config;
use crate::model::lookup::Origin;
use crate::model::outcome::Outcome;
use crate::protocol::api::{Control, Listed, TrustAnchors};
use crate::store::ClassUse;
use crate::store::s3::cost::RequestKind;
use crate::telemetry::table::Name;
use crate::upstream::hosts::Health;
use crate::upstream::peer::PeerUse;

/// The process, as its API sees it.
pub(super) struct ProcessControl {
    parts: Arc<RunningParts>,
}

impl ProcessControl {
    pub(super) fn new(parts: Arc<RunningParts>) -> ProcessControl {
        ProcessControl { parts }
    }
}

impl Control for ProcessControl {
    fn is_ready(&self) -> bool {
        !self.parts.tasks.is_stopping()
    }

    fn is_offline(&self) -> bool {
        self.parts.offline.load(Ordering::Relaxed)
    }

    fn is_looping(&self, headers: &http::HeaderMap) -> bool {
        self.parts.client.is_looping(headers)
    }

    fn objection<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Option<String>> {
        Box::pin(async { self.parts.client.judge(&origin.url, origin.trust).await.err().map(|why| why.to_string()) })
    }

    fn set_offline(&self, offline: bool) {
        self.parts.offline.store(offline, Ordering::Relaxed);
        self.parts.client.set_offline(offline);
        self.parts.peers.set_offline(offline);
        tracing::info!(offline, "offline switched");
    }

    fn trust_anchors(&self) -> TrustAnchors {
        certificates::trust_anchors(&self.parts)
    }

    fn reload(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async {
            let config = self.parts.config.lock().clone();
            self.parts.reload(config).map_err(|error| error.to_string())?;
            Ok("tokens, certificates and policy; send SIGHUP to read the configuration file too".to_owned())
        })
    }

    fn report(&self) -> Value {
        report(&self.parts)
    }

    fn metrics(&self) -> String {
        self.parts.metrics.render()
    }

    fn upstreams(&self) -> Vec<Listed> {
        let hosts = self.parts.client.hosts();
        let listed = |ecosystem: &str, url: &str, found_in: &str, state| {
            let origin = url::Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
            let known = hosts.iter().find(|host| host.origin == origin);
            Listed {
                ecosystem: ecosystem.to_owned(),
                url: url.to_owned(),
                found_in: found_in.to_owned(),
                state,
                breaker: known.map(|host| health(host.health)).unwrap_or_default(),
            }
        };
        let config = self.parts.config.lock();
        let mut all = Vec::new();
        for (name, settings) in &config.ecosystem {
            all.extend(settings.upstreams.iter().map(|url| listed(name, url, "the configuration", "configured")));
        }
        // What the configuration names stands in the place of what was adopted.
        for one in self.parts.adopted.lock().iter().filter(|one| !config.ecosystem.contains_key(&one.ecosystem)) {
            all.push(listed(&one.ecosystem, &one.url, &one.found_in, "adopted"));
        }
        all
    }

    fn keep_allowed(&self, hosts: Vec<String>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { keep_allowed(&self.parts.index, &hosts).await })
    }

    fn adopt(&self, found: Value) -> BoxFuture<'_, Result<Vec<String>, String>> {
        Box::pin(async move {
            let found = found.get("upstreams").cloned().unwrap_or(found);
            let found: Vec<Adopted> = serde_json::from_value(found)
                .map_err(|error| format!("not the JSON of larder init --json: {error}"))?;
            self.parts.adopt(found).await
        })
    }
}

impl RunningParts {
    /// Takes up tokens, certificates and policy.
    pub(super) fn reload(&self, config: Config) -> Result<(), StartError> {
        let upstreams = self.upstreams(&config)?;
        self.gate.reload(&config.gate)?;
        self.cache.usage().reload(&config.ledger);
        if let Some(certificates) = &self.certificates {
            certificates.reload().map_err(|error| {
                StartError::new(StartErrorKind::Config, error.to_string(), "the old certificate stays in force")
            })?;
        }
        let intercepted = intercepted(&config)?;
        cover(&self.guises, &intercepted)?;
        let mut upstream = config.upstream.clone();
        upstream.offline = self.offline.load(Ordering::Relaxed);
        if let Some(server) = &*self.server.lock() {
            upstream.own_addresses.extend_from_slice(server.addresses());
        }
        self.client.reload(upstream).map_err(|error| {
            StartError::new(StartErrorKind::Config, format!("[upstream] {error}"), "the old settings stay in force")
        })?;
        if let Some(front) = &*self.front.lock() {
            front.hosts.reload(&config.upstreams);
            front.intercept.reload(intercepted);
            front.hosts.adopt(self.vouched(&config, &upstreams));
            front.upstreams.store(Arc::new(upstreams));
        }
        self.log.reopen();
        *self.config.lock() = config;
        Ok(())
    }
}

/// What every part says of itself: `/api/v1/stats`.
fn report(parts: &RunningParts) -> Value {
    let usage = parts.store.usage();
    let index = parts.index.counts();
    let sums = parts.metrics.sums();
    // Asking for this page is no build's request.
    let asked = || sums.iter().filter(|sum| sum.ecosystem != "api");
    let is = |label: &str, such: fn(Outcome) -> bool| Outcome::ALL.iter().any(|one| one.label() == label && such(*one));
    let hits = sums.iter().filter(|sum| is(sum.outcome, Outcome::saved_a_fetch));
    let from_upstream = asked().filter(|sum| is(sum.outcome, Outcome::was_fetched));
    let rows: Vec<Value> = sums
        .iter()
        .map(|sum| {
            json!({
                "ecosystem": sum.ecosystem, "outcome": sum.outcome, "tier": sum.tier,
                "requests": sum.requests, "bytes": sum.bytes, "seconds": sum.micros as f64 / 1e6,
            })
        })
        .collect();
    let objects: u64 = usage.classes.iter().map(|class| class.segment_blobs + class.file_blobs).sum();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "offline": parts.offline.load(Ordering::Relaxed),
        "requests": asked().map(|sum| sum.requests).sum::<u64>(),
        "hits": hits.map(|sum| sum.requests).sum::<u64>(),
        "bytes_served": asked().map(|sum| sum.bytes).sum::<u64>(),
        "bytes_from_upstream": from_upstream.map(|sum| sum.bytes).sum::<u64>(),
        "bytes_saved": parts.metrics.total(Name::SavedBytes),
        "seconds_saved": parts.metrics.total(Name::SavedSeconds) as f64 / 1e6,
        "bytes_tunnelled": parts.metrics.total(Name::TunnelledBytes),
        "rows": rows,
        "store": {
            "bytes": usage.disk_bytes(), "objects": objects, "budget_bytes": usage.budget_bytes,
            "free_bytes": usage.free_bytes, "volume_bytes": usage.volume_bytes,
            "memory_bytes": usage.memory_bytes, "memory_objects": usage.memory_blobs,
            "memory_budget_bytes": usage.memory_budget_bytes,
            "classes": usage.classes.iter().map(class).collect::<Vec<_>>(),
        },
        "index": {
            "blobs": index.blobs, "keys": index.keys, "loaded": index.loaded, "table_bytes": index.table_bytes,
            "queued": index.queued, "commits": index.commits, "condemned": index.condemned_jobs,
        },
        "s3": shared(parts),
        "fills": parts.cache.fills(),
        "engine": parts.cache.counters().read(),
        "upstreams": parts.client.hosts().iter().map(host).collect::<Vec<_>>(),
        "peers": parts.peers.siblings.iter().map(|one| peer(&one.usage())).collect::<Vec<_>>(),
    })
}

/// The bucket; null where there is none.
fn shared(parts: &RunningParts) -> Value {
    let Some(bucket) = &parts.bucket else { return Value::Null };
    let (outbox, used) = (parts.index.outbox(), bucket.meter().used());
    let requests: serde_json::Map<String, Value> =
        RequestKind::ALL.into_iter().map(|kind| (kind.name().to_owned(), used.of(kind).into())).collect();
    json!({
        "waiting_blobs": outbox.blobs, "waiting_bytes": outbox.bytes, "waiting_max_bytes": outbox.max_bytes,
        "waiting_seconds": parts.outbox_age().as_secs(), "shed": outbox.shed,
        "requests": requests, "sent_bytes": used.sent_bytes, "received_bytes": used.received_bytes,
        "usd": used.cost(&parts.config.lock().ledger.prices.requests), "done": parts.shared(),
    })
}

fn class(class: &ClassUse) -> Value {
    json!({
        "class": class.class.name(),
        "segment_bytes": class.segment_bytes, "segment_blobs": class.segment_blobs,
        "file_bytes": class.file_bytes, "file_blobs": class.file_blobs, "budget_bytes": class.budget_bytes,
    })
}

fn health(health: Health) -> String {
    match health {
        Health::Well => "well".to_owned(),
        Health::Resting(pause) => format!("resting for {} s", pause.as_secs()),
        Health::Probing => "probing".to_owned(),
    }
}

fn host(host: &crate::upstream::hosts::HostUse) -> Value {
    json!({
        "origin": host.origin, "health": health(host.health), "in_flight": host.in_flight, "waiting": host.waiting,
        "requests": host.requests, "failures": host.failures, "retries": host.retries, "resumes": host.resumes,
    })
}

fn peer(peer: &PeerUse) -> Value {
    json!({
        "name": peer.name, "link": peer.link, "bytes": peer.bytes, "usd": peer.usd,
        "found": peer.found, "absent": peer.absent, "failed": peer.failed, "skipped": peer.skipped,
        "link_bytes_today": peer.link_bytes_today, "link_budget_bytes": peer.link_budget,
    })
}
