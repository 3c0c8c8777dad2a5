//! What is written down of each request when its body has ended: metrics, access log, build record. All of it is made
//! from the one `Outcome`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Method, Uri};
use parking_lot::Mutex;
use serde::Serialize;

use super::connect::Meter;
use super::hop::Asker;
use super::inside::Reception;
use crate::cache::Cache;
use crate::cache::error::CacheError;
use crate::cache::ledger::Line;
use crate::cache::relay::Carrier;
use crate::cache::usage::{self, Saved};
use crate::model::digest::Digest;
use crate::model::hex;
use crate::model::key::{Key, KeyHash};
use crate::model::outcome::{Outcome, Reason};
use crate::runtime::clock::Clock;
use crate::telemetry::access_log::{self, AccessLog};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::redact::redact;
use crate::telemetry::table::Name;

/// Builds whose totals are kept in memory.
const BUILDS_MAX: usize = 1000;
/// Hosts that are remembered of one build for going around the cache.
const HOSTS_MAX: usize = 100;

/// Everyone who wants to know.
pub struct Observers {
    pub metrics: Arc<Metrics>,
    pub log: Arc<AccessLog>,
    pub clock: Arc<dyn Clock>,
    pub cache: Cache,
    /// The words behind the numbers of ecosystems.
    labels: Vec<&'static str>,
    builds: Mutex<HashMap<Arc<str>, Totals>>,
    /// Tunnels of builds that are under way: as many as there are connections.
    open: Mutex<Vec<OpenTunnel>>,
}

struct OpenTunnel {
    label: Arc<str>,
    host: String,
    meter: Weak<Meter>,
}

/// What a build got.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    pub requests: u64,
    pub hits: u64,
    pub misses: u64,
    pub errors: u64,
    pub bytes_served: u64,
    pub bytes_from_upstream: u64,
    /// Bytes that came from the store and not from upstream.
    pub bytes_saved: u64,
    /// What fetching the hits took when they were fetched, less what serving them took.
    pub seconds_saved: f64,
    /// What of all that other larders asked for, which count it too.
    pub for_larders: Passed,
    /// Bytes that an agent fetched without its server.
    pub bytes_around_server: u64,
    /// Hosts whose bytes went through tunnels, which cannot be cached.
    pub tunnelled: Vec<Around>,
    /// Hosts whose tunnels were not entered, since the client does not take our certificate.
    pub distrusted: Vec<Distrusted>,
}

/// What went on to another larder.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Passed {
    pub requests: u64,
    pub bytes_from_upstream: u64,
    pub bytes_saved: u64,
}

/// Traffic around the cache.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Around {
    pub host: String,
    pub connections: u64,
    pub bytes: u64,
}

/// A client that does not take our certificate.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Distrusted {
    pub host: String,
    pub why: String,
}

impl Observers {
    pub fn new(
        metrics: Arc<Metrics>,
        labels: Vec<&'static str>,
        log: Arc<AccessLog>,
        clock: Arc<dyn Clock>,
        cache: Cache,
    ) -> Arc<Observers> {
        Arc::new(Observers { metrics, log, clock, cache, labels, builds: Mutex::default(), open: Mutex::default() })
    }

    /// Whether a request was for larder itself: such ones belong to no build.
    fn is_api(&self, at: usize) -> bool {
        at + 1 == self.labels.len()
    }

    fn ecosystem(&self, at: usize) -> &'static str {
        self.labels.get(at).copied().unwrap_or("other")
    }

    /// What a build got, and what goes through its tunnels at this moment.
    pub(super) fn totals(&self, label: &str) -> Option<Totals> {
        // Held, so that no tunnel that ends is counted twice or not at all.
        let builds = self.builds.lock();
        let known = builds.get(label).cloned();
        let mut totals = known.clone().unwrap_or_default();
        for one in self.open.lock().iter().filter(|one| &*one.label == label) {
            let bytes = one.meter.upgrade().map_or(0, |meter| meter.bytes());
            if bytes > 0 {
                totals.tunnelled(&one.host, bytes);
            }
        }
        totals.bytes_around_server = self.cache.bytes_around_parent(label);
        Some(totals).filter(|totals| known.is_some() || !totals.tunnelled.is_empty())
    }

    fn add(&self, label: &Arc<str>, change: impl FnOnce(&mut Totals)) {
        let mut builds = self.builds.lock();
        if builds.len() >= BUILDS_MAX && !builds.contains_key(label) {
            // Full: the newest build counts for more than an arbitrary old one.
            if let Some(old) = builds.keys().next().cloned() {
                builds.remove(&old);
            }
        }
        change(builds.entry(label.clone()).or_default());
    }

    /// For a tunnel that a build opens: who asks before its end is told of it too. Of one that another larder carries, that
    /// one says what became of it.
    pub(super) fn metered(&self, label: Option<&Arc<str>>, host: &str, carrier: Carrier) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        if let Some(label) = label.filter(|_| carrier == Carrier::Ourselves) {
            let one = OpenTunnel { label: label.clone(), host: host.to_owned(), meter: Arc::downgrade(&meter) };
            let mut open = self.open.lock();
            open.retain(|one| one.meter.strong_count() > 0);
            open.push(one);
        }
        meter
    }

    /// Notes what went through a tunnel that has ended.
    pub(super) fn tunnelled(&self, label: Option<&Arc<str>>, host: &str, meter: &Meter, carrier: Carrier) {
        self.metrics.add(Name::TunnelledBytes, meter.bytes());
        if let Some(label) = label.filter(|_| carrier == Carrier::Ourselves) {
            self.add(label, |totals| totals.tunnelled(host, meter.taken()));
        }
    }
}

impl Totals {
    fn tunnelled(&mut self, host: &str, bytes: u64) {
        let known = self.tunnelled.iter().position(|around| around.host == host);
        let at = known.unwrap_or_else(|| {
            if self.tunnelled.len() < HOSTS_MAX {
                self.tunnelled.push(Around { host: host.to_owned(), ..Around::default() });
            }
            self.tunnelled.len() - 1
        });
        self.tunnelled[at].connections += 1;
        self.tunnelled[at].bytes += bytes;
    }
}

impl Observers {
    /// Notes a client that does not take our certificate for a host, and is left alone from now on.
    pub(super) fn distrusted(&self, label: Option<&Arc<str>>, host: &str, reception: &Reception) {
        let why = match reception {
            Reception::Distrusted { alert } => format!("alert {alert}"),
            Reception::Left | Reception::Whole | Reception::Failed { .. } => {
                "left after it saw the certificate".to_owned()
            }
        };
        let build = label.map_or("-", |label| &**label);
        tracing::warn!(
            host,
            build,
            %why,
            "a client does not trust larder's authority and is tunnelled for a while; give it what `larder ca print` \
             prints, or start its build by `larder run`; one that pins its certificates needs the host taken out of \
             intercept.hosts"
        );
        self.metrics.add(Name::DistrustedTunnels, 1);
        if let Some(label) = label {
            self.add(label, |totals| {
                let is_known = totals.distrusted.iter().any(|known| known.host == host);
                if !is_known && totals.distrusted.len() < HOSTS_MAX {
                    totals.distrusted.push(Distrusted { host: host.to_owned(), why });
                }
            });
        }
    }
}

/// One request, until its body has ended.
pub(super) struct Observation {
    pub observers: Arc<Observers>,
    pub started: Duration,
    pub peer: SocketAddr,
    /// None: the request named no build.
    pub label: Option<Arc<str>>,
    pub method: Method,
    pub uri: Uri,
    pub asker: Asker,
    pub status: u16,
    pub outcome: Outcome,
    pub ecosystem: usize,
    pub key: Option<KeyHash>,
    /// What was asked for, where that has a name.
    pub source: Option<Arc<Key>>,
    pub digest: Option<Digest>,
    pub fetch_ms: u32,
}

/// One request whose answer has ended, whoever keeps its parts.
pub(super) struct Ended<'a> {
    pub started: Duration,
    pub peer: SocketAddr,
    pub label: Option<&'a Arc<str>>,
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub asker: Asker,
    pub status: u16,
    pub outcome: Outcome,
    pub ecosystem: usize,
    pub key: Option<KeyHash>,
    pub source: Option<&'a Key>,
    pub digest: Option<&'a Digest>,
    pub fetch_ms: u32,
}

impl Observation {
    pub(super) fn conclude(&self, bytes: u64, error: Option<&CacheError>) {
        let ended = Ended {
            started: self.started,
            peer: self.peer,
            label: self.label.as_ref(),
            method: &self.method,
            uri: &self.uri,
            asker: self.asker,
            status: self.status,
            outcome: self.outcome,
            ecosystem: self.ecosystem,
            key: self.key,
            source: self.source.as_deref(),
            digest: self.digest.as_ref(),
            fetch_ms: self.fetch_ms,
        };
        self.observers.conclude(&ended, bytes, error);
    }
}

impl Ended<'_> {
    /// Whether it is known what the fetch took that was not made again. Who followed one under way waited for it.
    fn is_timed(&self) -> bool {
        self.fetch_ms > 0 && self.outcome != Outcome::Coalesced
    }
}

impl Observers {
    /// Writes down a request of whose answer so many bytes were sent.
    pub(super) fn conclude(&self, ended: &Ended<'_>, bytes: u64, error: Option<&CacheError>) {
        let spent = self.clock.elapsed().saturating_sub(ended.started);
        let micros = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
        self.metrics.record(ended.ecosystem, ended.outcome.index(), bytes, micros);
        let saved = ended.outcome.saved_a_fetch() && error.is_none();
        let saved_ms = if saved { u64::from(ended.fetch_ms).saturating_sub(micros / 1000) } else { 0 };
        if saved {
            self.metrics.add(Name::SavedBytes, bytes);
            if saved_ms > 0 {
                self.metrics.add(Name::SavedSeconds, saved_ms * 1000);
            }
        }
        if self.log.is_on() {
            self.log_line(ended, bytes, micros);
        }
        if self.is_api(ended.ecosystem) {
            return;
        }
        self.cache.usage().answered(&usage::Answer {
            label: ended.label.map(|label| &**label),
            ecosystem: self.ecosystem(ended.ecosystem),
            source: ended.source,
            tier: ended.outcome.tier(),
            peer: ended.peer.ip(),
            bytes,
            hit: saved.then(|| if ended.is_timed() { Saved::Millis(saved_ms) } else { Saved::Untimed }),
        });
        if let Some(label) = ended.label {
            self.record(ended, label, &Sent { bytes, micros, saved, saved_ms, whole: error.is_none() });
        }
    }

    fn log_line(&self, ended: &Ended<'_>, bytes: u64, micros: u64) {
        let mut room = [0; 2 * Digest::LEN];
        let digest = ended.digest.map(|digest| hex::text(digest.as_bytes(), &mut room));
        self.log.write(&access_log::Line {
            epoch_ms: self.clock.now().0,
            peer: ended.peer,
            build: ended.label.map(|label| &**label),
            method: ended.method.as_str(),
            path: ended.uri.path(),
            status: ended.status,
            outcome: ended.outcome.label(),
            tier: ended.outcome.tier(),
            ecosystem: self.ecosystem(ended.ecosystem),
            bytes,
            micros,
            digest,
        });
    }

    fn record(&self, ended: &Ended<'_>, label: &Arc<str>, sent: &Sent) {
        // A tunnel is counted by who carries it.
        let is_for_a_larder = ended.asker == Asker::Larder && ended.method != Method::CONNECT;
        self.add(label, |totals| {
            totals.requests += 1;
            totals.for_larders.requests += u64::from(is_for_a_larder);
            totals.bytes_served += sent.bytes;
            totals.seconds_saved += sent.saved_ms as f64 / 1000.0;
            let passed = if is_for_a_larder { sent.bytes } else { 0 };
            if sent.saved {
                totals.hits += 1;
                totals.bytes_saved += sent.bytes;
                totals.for_larders.bytes_saved += passed;
            } else if matches!(ended.outcome, Outcome::Miss | Outcome::Bypass(_)) {
                totals.misses += 1;
                if ended.outcome.was_fetched() {
                    totals.bytes_from_upstream += sent.bytes;
                    totals.for_larders.bytes_from_upstream += passed;
                }
            }
            if ended.status >= 500 || !sent.whole {
                totals.errors += 1;
            }
        });
        if matches!(ended.outcome, Outcome::Generated | Outcome::Bypass(Reason::Denied)) {
            return;
        }
        self.cache.note(
            label,
            Line {
                url: redact(&ended.uri.to_string()).into_owned(),
                key: ended.key.unwrap_or(KeyHash([0; 16])),
                digest: ended.digest.copied(),
                outcome: ended.outcome,
                bytes: sent.bytes,
                millis: u32::try_from(sent.micros / 1000).unwrap_or(u32::MAX),
                at: self.clock.now(),
            },
        );
    }
}

struct Sent {
    bytes: u64,
    micros: u64,
    saved: bool,
    saved_ms: u64,
    whole: bool,
}
