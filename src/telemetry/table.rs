//! Every metric once: the table that the scrape page and `docs/metrics.md` are made from.

use std::fmt::Write;

/// What a metric is called, in the table's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Name {
    Requests,
    ResponseBytes,
    RequestSeconds,
    SavedBytes,
    SavedSeconds,
    TunnelledBytes,
    InterceptedConnections,
    DistrustedTunnels,
    CoalescedAskers,
    FillsInFlight,
    StoreBytes,
    StoreObjects,
    StoreBudgetBytes,
    VolumeFreeBytes,
    IndexRows,
    IndexTableBytes,
    IndexLoaded,
    QueueDepth,
    OutboxBlobs,
    OutboxBytes,
    OutboxAge,
    OutboxShed,
    S3Requests,
    S3Bytes,
    S3UploadsFailed,
    S3Copied,
    S3Lost,
    EvictedBlobs,
    EvictedBytes,
    CorruptBlobs,
    FailedSyncs,
    UpstreamRequests,
    LinkBytes,
    LedgerFolded,
    UpstreamHosts,
    PeerRequests,
    PeerBytes,
    LinkBytesToday,
    ConnectionsOpen,
    ConnectionsAccepted,
    ConnectionsRefused,
    ConnectionsCut,
    RequestsRepeated,
    RequestsMalformed,
    RequestsShed,
    TasksRunning,
    LogLinesDropped,
    BuildInfo,
    StartTime,
}

/// How a value behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound, with a sum.
    Histogram,
}

impl Kind {
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub id: Name,
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const BY_OUTCOME: &[&str] = &["ecosystem", "outcome", "tier"];

macro_rules! rows {
    ($($id:ident $name:literal $kind:ident $unit:literal $labels:expr, $help:literal;)*) => {
        /// All metrics, each at the place that its `Name` counts to.
        pub const TABLE: &[Row] = &[$(Row {
            id: Name::$id, name: $name, kind: Kind::$kind, unit: $unit, labels: $labels, help: $help,
        }),*];
    };
}

rows! {
    Requests "larder_requests_total" Counter "requests" BY_OUTCOME, "Requests answered, by how the cache answered.";
    ResponseBytes "larder_response_bytes_total" Counter "bytes" BY_OUTCOME, "Body bytes sent to clients.";
    RequestSeconds "larder_request_seconds" Histogram "seconds" BY_OUTCOME, "Time from the request's head to the last byte of its answer.";
    SavedBytes "larder_saved_bytes_total" Counter "bytes" &[], "Bytes served that were not fetched from upstream.";
    SavedSeconds "larder_saved_seconds_total" Counter "seconds" &[], "Time that fetching from upstream would have taken, by what the first fetch took.";
    TunnelledBytes "larder_tunnelled_bytes_total" Counter "bytes" &[], "Bytes passed through CONNECT tunnels, both ways.";
    InterceptedConnections "larder_intercepted_connections_total" Counter "connections" &[], "Tunnels that were ended here, so that what goes through them is cached.";
    DistrustedTunnels "larder_distrusted_tunnels_total" Counter "tunnels" &[], "Clients found not to trust larder's authority for a host; they are tunnelled for a while.";
    CoalescedAskers "larder_coalesced_askers_total" Counter "requests" &[], "Requests that followed a fill another request had started.";
    FillsInFlight "larder_fills_in_flight" Gauge "fills" &[], "Fetches from upstream under way.";
    StoreBytes "larder_store_bytes" Gauge "bytes" &["tier", "class"], "Bytes kept.";
    StoreObjects "larder_store_objects" Gauge "objects" &["tier"], "Blobs, segments or files kept.";
    StoreBudgetBytes "larder_store_budget_bytes" Gauge "bytes" &["tier"], "Bytes that may be kept.";
    VolumeFreeBytes "larder_volume_free_bytes" Gauge "bytes" &[], "Free space on the volume of the data directory.";
    IndexRows "larder_index_rows" Gauge "rows" &["kind"], "Rows known to the index.";
    IndexTableBytes "larder_index_table_bytes" Gauge "bytes" &[], "Memory of the index's table.";
    IndexLoaded "larder_index_loaded" Gauge "bool" &[], "1 once the table is complete; until then absence is unknown.";
    QueueDepth "larder_queue_depth" Gauge "items" &["queue"], "Items that wait in a bounded queue.";
    OutboxBlobs "larder_outbox_blobs" Gauge "blobs" &[], "Blobs that wait to be sent to S3.";
    OutboxBytes "larder_outbox_bytes" Gauge "bytes" &[], "Bytes that wait to be sent to S3.";
    OutboxAge "larder_outbox_age_seconds" Gauge "seconds" &[], "How long the longest waiting of them waits.";
    OutboxShed "larder_outbox_shed_total" Counter "blobs" &[], "Blobs that found the outbox full and are kept here alone.";
    S3Requests "larder_s3_requests_total" Counter "requests" &["kind"], "Requests to S3, repetitions counted singly.";
    S3Bytes "larder_s3_bytes_total" Counter "bytes" &["direction"], "Bytes sent to S3 and received from it.";
    S3UploadsFailed "larder_s3_uploads_failed_total" Counter "uploads" &[], "Packs and objects that S3 did not take; they are tried again.";
    S3Copied "larder_s3_copied_bytes_total" Counter "bytes" &[], "Bytes that came from S3 and are kept here since.";
    S3Lost "larder_s3_lost_blobs_total" Counter "blobs" &[], "Blobs that were gone from S3, or damaged there.";
    EvictedBlobs "larder_evicted_blobs_total" Counter "blobs" &[], "Blobs evicted to make room.";
    EvictedBytes "larder_evicted_bytes_total" Counter "bytes" &[], "Bytes evicted to make room.";
    CorruptBlobs "larder_corrupt_blobs_total" Counter "blobs" &[], "Blobs whose bytes no longer hashed to their digest.";
    FailedSyncs "larder_failed_syncs_total" Counter "syncs" &[], "Syncs that failed and condemned what they covered.";
    UpstreamRequests "larder_upstream_requests_total" Counter "requests" &["host", "result"], "Requests sent upstream, attempts counted singly.";
    LinkBytes "larder_link_bytes_total" Counter "bytes" &["link", "way"], "Body bytes by the link that they went over: served to clients, fetched from upstream, or saved since a hit needed no fetch. As far as they are in the ledger.";
    LedgerFolded "larder_ledger_folded_total" Counter "rows" &[], "Rows of the ledger that had no room of their own and were counted as (other).";
    UpstreamHosts "larder_upstream_hosts" Gauge "hosts" &["state"], "Upstream hosts, by the state of their breaker.";
    PeerRequests "larder_peer_requests_total" Counter "requests" &["peer", "result"], "Questions to other larders about what is missing here, by what came of them.";
    PeerBytes "larder_peer_bytes_total" Counter "bytes" &["peer", "link"], "Bytes received from other larders.";
    LinkBytesToday "larder_link_bytes_today" Gauge "bytes" &["link"], "Bytes that a link to other larders carried since midnight UTC, as its budget counts them.";
    ConnectionsOpen "larder_connections_open" Gauge "connections" &["kind"], "Client connections open.";
    ConnectionsAccepted "larder_connections_accepted_total" Counter "connections" &[], "Client connections accepted.";
    ConnectionsRefused "larder_connections_refused_total" Counter "connections" &["why"], "Client connections closed at once.";
    ConnectionsCut "larder_connections_cut_total" Counter "connections" &["why"], "Client connections ended by a limit.";
    RequestsRepeated "larder_requests_repeated_total" Counter "requests" &[], "Requests that came again byte for byte and were answered without being taken apart.";
    RequestsMalformed "larder_requests_malformed_total" Counter "requests" &[], "Requests refused for ambiguous or broken framing.";
    RequestsShed "larder_requests_shed_total" Counter "requests" &[], "Requests answered 429 by the rate limit.";
    TasksRunning "larder_tasks_running" Gauge "tasks" &[], "Background tasks and connections under way.";
    LogLinesDropped "larder_log_lines_dropped_total" Counter "lines" &[], "Access log lines dropped because the writer was behind.";
    BuildInfo "larder_build_info" Gauge "info" &["version"], "Always 1; the label tells the version.";
    StartTime "larder_start_time_seconds" Gauge "seconds" &[], "When the process started, since the Unix epoch.";
}

impl Name {
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

/// The page of docs that lists the metrics.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\nGenerated from `src/telemetry/table.rs`; do not edit. Scraped as Prometheus text.\n\n\
         | metric | kind | unit | labels | what it counts |\n|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let labels = row.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let labels = if labels.is_empty() { "–".to_owned() } else { labels };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {} | {} | {labels} | {} |", row.name, row.kind.word(), row.unit, row.help);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_where_its_name_counts_to() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.id as usize, at, "{}", row.name);
            assert_eq!(row.id.row().name, row.name);
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        for row in TABLE {
            assert!(row.name.starts_with("larder_"), "{}", row.name);
            assert_eq!(row.kind == Kind::Counter, row.name.ends_with("_total"), "{}", row.name);
            assert!(row.help.ends_with('.') && !row.help.contains('\n'), "{}", row.name);
            assert!(
                row.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn the_page_lists_every_metric() {
        let page = markdown();
        for row in TABLE {
            assert!(page.contains(row.name), "{}", row.name);
        }
    }

    #[test]
    fn the_page_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).expect("writes the page");
        }
        let page = std::fs::read_to_string(path).expect("the page is there");
        assert_eq!(page, markdown(), "run the tests once with UPDATE_DOCS=1");
    }
}
