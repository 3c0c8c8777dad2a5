//! `larder stats --days N`: what the ledger says, for people.

use serde::Deserialize;

use super::out;
use crate::model::units::rounded_bytes;

/// What `GET /api/v1/stats?days=N` tells.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Report {
    first_day: String,
    last_day: String,
    counted_since: Option<String>,
    by: String,
    currency: String,
    total: Line,
    rows: Vec<Line>,
    rest: Option<Line>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Line {
    name: String,
    requests: u64,
    hits: u64,
    bytes_served: u64,
    bytes_fetched: u64,
    bytes_saved: u64,
    seconds_saved: f64,
    hits_untimed: u64,
    spent: Spent,
    saved: f64,
    unpriced_bytes: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spent {
    transfer: f64,
    requests: f64,
    storage: f64,
}

impl Spent {
    fn total(&self) -> f64 {
        self.transfer + self.requests + self.storage
    }
}

const COLUMNS: [&str; 8] = ["requests", "hits", "served", "fetched", "saved", "time saved", "spent", "saved"];

/// The report as a page.
pub(super) fn page(report: &Report) -> String {
    let mut text = format!("{} to {} (UTC)", out::plain(&report.first_day), out::plain(&report.last_day));
    match &report.counted_since {
        None => return format!("{text}: nothing was counted\n"),
        Some(since) if *since != report.first_day => text.push_str(&format!(", counted since {}", out::plain(since))),
        Some(_) => {}
    }
    text.push_str("\n\n");
    let by = out::plain(&report.by);
    let mut names = vec![by.as_str()];
    names.extend(COLUMNS);
    let lines = report.rows.iter().chain(&report.rest).chain([&report.total]);
    let rows: Vec<Vec<String>> = lines.map(|line| cells(line, &report.currency)).collect();
    text.push_str(&out::table(&names, &rows));
    let total = &report.total;
    text.push_str(&format!(
        "\nspent: {} for transfer, {} for requests to S3, {} for storage\n",
        money(total.spent.transfer, &report.currency),
        money(total.spent.requests, &report.currency),
        money(total.spent.storage, &report.currency),
    ));
    if total.unpriced_bytes > 0 {
        text.push_str(&format!(
            "unknown: over which link {} went, so they have no price; name the hosts or networks in [ledger.links]\n",
            rounded_bytes(total.unpriced_bytes),
        ));
    }
    if total.hits_untimed > 0 {
        let hits = out::count(total.hits_untimed, "hit", "hits");
        text.push_str(&format!("unknown: the time that {hits} saved\n"));
    }
    text
}

fn cells(line: &Line, currency: &str) -> Vec<String> {
    let share = if line.requests == 0 { 0.0 } else { 100.0 * line.hits as f64 / line.requests as f64 };
    vec![
        out::plain(&line.name),
        line.requests.to_string(),
        format!("{share:.0} %"),
        rounded_bytes(line.bytes_served),
        rounded_bytes(line.bytes_fetched),
        rounded_bytes(line.bytes_saved),
        out::seconds(line.seconds_saved),
        money(line.spent.total(), currency),
        money(line.saved, currency),
    ]
}

/// Small sums with more places, so that nothing that was paid looks like nothing.
fn money(amount: f64, currency: &str) -> String {
    let currency = out::plain(currency);
    match amount {
        0.0 => format!("0 {currency}"),
        _ if amount < 0.000_001 => format!("<0.000001 {currency}"),
        _ if amount < 1.0 => format!("{amount:.6} {currency}"),
        _ => format!("{amount:.2} {currency}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: serde_json::Value) -> Report {
        serde_json::from_value(said).expect("reads")
    }

    #[test]
    fn a_page_tells_what_is_unknown() {
        let line = |name: &str| {
            serde_json::json!({
                "name": name, "requests": 4, "hits": 3, "hits_untimed": 1, "bytes_served": 4096, "bytes_fetched": 1024,
                "bytes_saved": 3072, "seconds_saved": 1.5, "spent": {"transfer": 12.5, "requests": 0.0, "storage": 0.25},
                "saved": 0.000_000_1, "unpriced_bytes": 2048, "unknown_to_this_version": 1,
            })
        };
        let said = serde_json::json!({
            "first_day": "2026-11-01", "last_day": "2026-11-23", "counted_since": "2026-11-20", "by": "label",
            "currency": "USD", "total": line("total"), "rows": [line("a")], "rest": null,
        });
        assert_eq!(
            page(&read(said)),
            "2026-11-01 to 2026-11-23 (UTC), counted since 2026-11-20\n\n\
             label  requests  hits   served  fetched    saved  time saved      spent  saved\n\
             a             4  75 %  4.0 KiB  1.0 KiB  3.0 KiB       1.5 s  12.75 USD  <0.000001 USD\n\
             total         4  75 %  4.0 KiB  1.0 KiB  3.0 KiB       1.5 s  12.75 USD  <0.000001 USD\n\n\
             spent: 12.50 USD for transfer, 0 USD for requests to S3, 0.250000 USD for storage\n\
             unknown: over which link 2.0 KiB went, so they have no price; name the hosts or networks in [ledger.links]\n\
             unknown: the time that 1 hit saved\n"
        );
        let nothing = read(serde_json::json!({"first_day": "2026-11-01", "last_day": "2026-11-23"}));
        assert_eq!(page(&nothing), "2026-11-01 to 2026-11-23 (UTC): nothing was counted\n");
    }
}
