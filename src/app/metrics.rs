//! Where the gauges come from: each is read from its part when the page is made.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use super::parts::RunningParts;
use crate::store::s3::cost::RequestKind;
use crate::telemetry::metrics::Samples;
use crate::telemetry::table::Name;
use crate::upstream::hosts::Health;

/// Has every gauge read from the parts. Holds them weakly: the metrics belong to the parts.
pub(super) fn register(parts: &Arc<RunningParts>) {
    let read = |name: Name, source: fn(&RunningParts, &mut Samples)| {
        let parts: Weak<RunningParts> = Arc::downgrade(parts);
        parts.upgrade().inspect(|here| {
            here.metrics.observe(name, move |samples| {
                if let Some(parts) = parts.upgrade() {
                    source(&parts, samples);
                }
            });
        });
    };
    let shared = if parts.bucket.is_some() { SHARED } else { &[] };
    for (name, source) in STORE.iter().chain(INDEX).chain(shared).chain(ENGINE).chain(SERVER) {
        read(*name, *source);
    }
    let started = parts.clock.now().as_secs();
    parts.metrics.set(Name::StartTime, u64::try_from(started).unwrap_or(0));
}

type Source = (Name, fn(&RunningParts, &mut Samples));

const STORE: &[Source] = &[
    (Name::StoreBytes, |parts, samples| {
        let usage = parts.store.usage();
        samples.push(&["memory", "all"], usage.memory_bytes);
        for class in &usage.classes {
            samples.push(&["segment", class.class.name()], class.segment_bytes);
            samples.push(&["file", class.class.name()], class.file_bytes);
        }
    }),
    (Name::StoreObjects, |parts, samples| {
        let usage = parts.store.usage();
        samples.push(&["memory"], usage.memory_blobs);
        samples.push(&["segment"], usage.classes.iter().map(|class| class.segment_blobs).sum());
        samples.push(&["file"], usage.classes.iter().map(|class| class.file_blobs).sum());
    }),
    (Name::StoreBudgetBytes, |parts, samples| {
        let usage = parts.store.usage();
        samples.push(&["memory"], usage.memory_budget_bytes);
        samples.push(&["disk"], usage.budget_bytes);
    }),
    (Name::VolumeFreeBytes, |parts, samples| samples.push(&[], parts.store.usage().free_bytes)),
];

const INDEX: &[Source] = &[
    (Name::IndexRows, |parts, samples| {
        let index = parts.index.counts();
        samples.push(&["blobs"], index.blobs);
        samples.push(&["keys"], index.keys);
    }),
    (Name::IndexTableBytes, |parts, samples| samples.push(&[], parts.index.counts().table_bytes)),
    (Name::IndexLoaded, |parts, samples| samples.push(&[], u64::from(parts.index.counts().loaded))),
    (Name::QueueDepth, |parts, samples| samples.push(&["index"], parts.index.counts().queued)),
    (Name::FailedSyncs, |parts, samples| samples.push(&[], parts.index.counts().condemned_jobs)),
];

const SHARED: &[Source] = &[
    (Name::OutboxBlobs, |parts, samples| samples.push(&[], parts.index.outbox().blobs)),
    (Name::OutboxBytes, |parts, samples| samples.push(&[], parts.index.outbox().bytes)),
    (Name::OutboxAge, |parts, samples| samples.push(&[], parts.outbox_age().as_secs())),
    (Name::OutboxShed, |parts, samples| samples.push(&[], parts.index.outbox().shed)),
    (Name::S3Requests, |parts, samples| {
        if let Some(bucket) = &parts.bucket {
            let used = bucket.meter().used();
            RequestKind::ALL.into_iter().for_each(|kind| samples.push(&[kind.name()], used.of(kind)));
        }
    }),
    (Name::S3Bytes, |parts, samples| {
        if let Some(bucket) = &parts.bucket {
            let used = bucket.meter().used();
            samples.push(&["sent"], used.sent_bytes);
            samples.push(&["received"], used.received_bytes);
        }
    }),
    (Name::S3UploadsFailed, |parts, samples| samples.push(&[], parts.shared().failed_uploads)),
    (Name::S3Copied, |parts, samples| samples.push(&[], parts.shared().copied_bytes)),
    (Name::S3Lost, |parts, samples| samples.push(&[], parts.shared().lost)),
];

const ENGINE: &[Source] = &[
    (Name::FillsInFlight, |parts, samples| samples.push(&[], parts.cache.fills() as u64)),
    (Name::CoalescedAskers, |parts, samples| {
        let sums = parts.metrics.sums();
        samples.push(&[], sums.iter().filter(|sum| sum.outcome == "coalesced").map(|sum| sum.requests).sum());
    }),
    (Name::EvictedBlobs, |parts, samples| samples.push(&[], parts.cache.counters().read().evicted_blobs)),
    (Name::EvictedBytes, |parts, samples| samples.push(&[], parts.cache.counters().read().evicted_bytes)),
    (Name::CorruptBlobs, |parts, samples| samples.push(&[], parts.cache.counters().read().corrupt)),
    (Name::TasksRunning, |parts, samples| samples.push(&[], parts.tasks.running() as u64)),
    (Name::LogLinesDropped, |parts, samples| samples.push(&[], parts.log.dropped())),
    (Name::UpstreamRequests, |parts, samples| {
        for host in parts.client.hosts() {
            samples.push(&[&host.origin, "ok"], host.requests.saturating_sub(host.failures));
            samples.push(&[&host.origin, "failed"], host.failures);
        }
    }),
    (Name::UpstreamHosts, |parts, samples| {
        let hosts = parts.client.hosts();
        let count = |state: fn(&Health) -> bool| hosts.iter().filter(|host| state(&host.health)).count() as u64;
        samples.push(&["well"], count(|health| matches!(health, Health::Well)));
        samples.push(&["resting"], count(|health| matches!(health, Health::Resting(_))));
        samples.push(&["probing"], count(|health| matches!(health, Health::Probing)));
    }),
    (Name::LinkBytes, |parts, samples| {
        for (link, moved) in parts.cache.usage().moved() {
            samples.push(&[link.name(), "served"], moved.served.load(Relaxed));
            samples.push(&[link.name(), "fetched"], moved.fetched.load(Relaxed));
            samples.push(&[link.name(), "saved"], moved.saved.load(Relaxed));
        }
    }),
    (Name::LedgerFolded, |parts, samples| samples.push(&[], parts.cache.usage().folded())),
    (Name::PeerRequests, |parts, samples| {
        for peer in parts.peers.siblings.iter().map(|one| one.usage()) {
            samples.push(&[&peer.name, "found"], peer.found);
            samples.push(&[&peer.name, "absent"], peer.absent);
            samples.push(&[&peer.name, "failed"], peer.failed);
            samples.push(&[&peer.name, "skipped"], peer.skipped);
        }
    }),
    (Name::PeerBytes, |parts, samples| {
        for peer in parts.peers.siblings.iter().map(|one| one.usage()) {
            samples.push(&[&peer.name, &peer.link], peer.bytes);
        }
    }),
    (Name::LinkBytesToday, |parts, samples| {
        for link in &parts.peers.links {
            samples.push(&[link.name()], link.came_today().1);
        }
    }),
    (Name::BuildInfo, |_, samples| samples.push(&[env!("CARGO_PKG_VERSION")], 1)),
];

const SERVER: &[Source] = &[
    (Name::ConnectionsOpen, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            let counters = server.counters();
            samples.push(&["all"], counters.open.load(Relaxed));
            samples.push(&["tls"], counters.open_tls.load(Relaxed));
            samples.push(&["http2"], counters.open_http2.load(Relaxed));
        }
    }),
    (Name::ConnectionsAccepted, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            samples.push(&[], server.counters().accepted.load(Relaxed));
        }
    }),
    (Name::ConnectionsRefused, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            server.counters().refused().iter().for_each(|(why, count)| samples.push(&[why], *count));
        }
    }),
    (Name::ConnectionsCut, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            server.counters().cut().iter().for_each(|(why, count)| samples.push(&[why], *count));
        }
    }),
    (Name::RequestsRepeated, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            samples.push(&[], server.counters().repeated.load(Relaxed));
        }
    }),
    (Name::RequestsMalformed, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            samples.push(&[], server.counters().malformed.load(Relaxed));
        }
    }),
    (Name::RequestsShed, |parts, samples| {
        if let Some(server) = &*parts.server.lock() {
            samples.push(&[], server.counters().shed.load(Relaxed));
        }
    }),
];
