//! `larder stats`.

use crate::model::units::rounded_bytes;
use crate::model::usage::Dimension;
use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::ledger;
use super::out;
use super::summary::{Shared, Stats};
use super::where_at::{ServerArgs, block_on};

/// Show what was served, what that saved, and what is kept
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder stats
  larder stats --build build-42
  larder stats --days 30 --by label
  larder stats --server http://cache:7070 --json")]
pub(crate) struct Args {
    /// Count the requests of one build label alone
    #[arg(long, value_name = "LABEL")]
    build: Option<String>,
    /// Show the ledger of so many days, today among them: what was used, what it cost and what it saved
    #[arg(long, value_name = "N", conflicts_with = "build")]
    days: Option<u32>,
    /// Sum the days up by this
    #[arg(long, requires = "days", value_parser = Dimension::ALL.map(Dimension::name), default_value = "day")]
    by: String,
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// *Errors*: the server's.
pub(crate) fn stats(args: &Args) -> Result<(), Failure> {
    let client = args.server.client()?;
    block_on(async {
        let path = match args.days {
            Some(days) => format!("/api/v1/stats?days={days}&by={}", args.by),
            None => path(args.build.as_deref()),
        };
        let said: Value = client.get(&path).await?;
        if args.json {
            out::line(&said.to_string());
            return Ok(());
        }
        if args.days.is_some() {
            let report: ledger::Report = serde_json::from_value(said).unwrap_or_default();
            out::text_out(&ledger::page(&report));
            return Ok(());
        }
        let stats: Stats = serde_json::from_value(said).unwrap_or_default();
        out::text_out(&page(&stats));
        Ok(())
    })
}

/// Asks for the numbers of one build. *Errors*: the server's.
pub(crate) async fn of_build(client: &Client, label: &str) -> Result<Stats, Failure> {
    Ok(client.get(&path(Some(label))).await?)
}

/// A label as part of a path or query.
pub(crate) fn encoded(label: &str) -> String {
    utf8_percent_encode(label, NON_ALPHANUMERIC).to_string()
}

fn path(build: Option<&str>) -> String {
    build.map_or_else(|| "/api/v1/stats".to_owned(), |label| format!("/api/v1/stats?build={}", encoded(label)))
}

fn page(stats: &Stats) -> String {
    let mut text = String::new();
    if let Some(build) = &stats.build {
        text.push_str(&format!("build {}\n", out::plain(build)));
        if stats.requests == 0 && stats.tunnelled.is_empty() {
            text.push_str("nothing was counted for it since the server's start\n");
            return text;
        }
    }
    let share = if stats.requests == 0 { 0.0 } else { 100.0 * stats.hits as f64 / stats.requests as f64 };
    text.push_str(&format!(
        "{}, {} ({share:.0} %)\n{} served, {} fetched\n{} and {} saved\n",
        out::count(stats.requests, "request", "requests"),
        out::count(stats.hits, "hit", "hits"),
        rounded_bytes(stats.bytes_served),
        rounded_bytes(stats.bytes_from_upstream),
        rounded_bytes(stats.bytes_saved),
        out::seconds(stats.seconds_saved),
    ));
    if let Some(store) = &stats.store {
        text.push_str(&format!(
            "{} kept of {}, {}; {} free on the volume; {} in memory\n",
            rounded_bytes(store.bytes),
            rounded_bytes(store.budget_bytes),
            out::count(store.objects, "object", "objects"),
            rounded_bytes(store.free_bytes),
            rounded_bytes(store.memory_bytes),
        ));
    }
    if let Some(s3) = &stats.s3 {
        text.push_str(&shared(s3));
    }
    if stats.offline {
        text.push_str("offline: upstream is not asked; `larder offline off` ends that\n");
    }
    let mut rows: BTreeMap<(String, String, String), (u64, u64, f64)> = BTreeMap::new();
    for row in stats.rows.iter().filter(|row| row.requests > 0) {
        let key = (out::plain(&row.ecosystem), out::plain(&row.outcome), out::plain(&row.tier));
        let sum = rows.entry(key).or_default();
        *sum = (sum.0 + row.requests, sum.1 + row.bytes, sum.2 + row.seconds);
    }
    if !rows.is_empty() {
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|((ecosystem, outcome, tier), (requests, bytes, seconds))| {
                vec![ecosystem, outcome, tier, requests.to_string(), rounded_bytes(bytes), out::seconds(seconds)]
            })
            .collect();
        text.push('\n');
        text.push_str(&out::table(&["ecosystem", "outcome", "tier", "requests", "bytes", "time"], &rows));
    }
    for host in &stats.tunnelled {
        text.push_str(&format!("went around the cache: {} ({})\n", out::plain(&host.host), rounded_bytes(host.bytes)));
    }
    text
}

fn shared(s3: &Shared) -> String {
    let mut text = format!(
        "S3: {} sent, {} received, {:.4} USD of requests; ",
        rounded_bytes(s3.sent_bytes),
        rounded_bytes(s3.received_bytes),
        s3.usd,
    );
    match s3.waiting_blobs {
        0 => text.push_str("nothing waits"),
        blobs => text.push_str(&format!(
            "{} with {} wait, the first for {}",
            out::count(blobs, "blob", "blobs"),
            rounded_bytes(s3.waiting_bytes),
            out::seconds(s3.waiting_seconds as f64),
        )),
    }
    if s3.shed > 0 {
        text.push_str(&format!("; {} found no room to wait", out::count(s3.shed, "blob", "blobs")));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_people() {
        let said = serde_json::json!({
            "requests": 4, "hits": 3, "bytes_served": 4096, "bytes_from_upstream": 1024, "bytes_saved": 3072,
            "seconds_saved": 0.5, "unknown_to_this_version": 1,
            "rows": [{"ecosystem": "go", "outcome": "hit", "tier": "memory", "requests": 3, "bytes": 3072, "seconds": 0.0},
                     {"ecosystem": "go", "outcome": "miss", "tier": "upstream", "requests": 0}],
            "s3": {"waiting_blobs": 2, "waiting_bytes": 2048, "waiting_seconds": 3, "sent_bytes": 1024, "usd": 0.0125},
            "store": {"bytes": 4096, "budget_bytes": 1073741824_u64, "free_bytes": 2048, "objects": 1, "memory_bytes": 0},
        });
        let stats: Stats = serde_json::from_value(said).expect("reads");
        assert_eq!(
            page(&stats),
            "4 requests, 3 hits (75 %)\n4.0 KiB served, 1.0 KiB fetched\n3.0 KiB and 500 ms saved\n\
             4.0 KiB kept of 1.0 GiB, 1 object; 2.0 KiB free on the volume; 0 B in memory\n\
             S3: 1.0 KiB sent, 0 B received, 0.0125 USD of requests; 2 blobs with 2.0 KiB wait, the first for 3.0 s\n\n\
             ecosystem  outcome  tier    requests    bytes  time\n\
             go         hit      memory         3  3.0 KiB   0 s\n"
        );
    }
}
