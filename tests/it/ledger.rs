//! The ledger: what was used, by day and by what it is told apart, what that cost and what it saved. Numbers are
//! exact, and stand after restarts and a kill.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::body::Body;
use crate::support::client::{Ask, Reply};
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::{LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const MIB: u64 = 1 << 20;

/// Two upstreams at the ends of two links. A MiB in from another region costs 1, out to this machine 0.5. Nothing is
/// saved by itself.
const SETTINGS: &str = r#"
[upstreams]
learn = "public"
[upstream]
allow_private = ["127.0.0.0/8"]
[ledger]
save_every = "1h"
[ledger.links]
region = ["127.0.0.2"]
[ledger.prices]
currency = "EUR"
[ledger.prices.transfer_gb]
region_in = 1024
loopback_out = 512
"#;

/// What is told once so many requests are counted: one counts when its last byte was sent, which the client may see first.
fn report_of(server: &Server, requests: u64, by: &str) -> Value {
    wait_until(Duration::from_secs(10), "every request is counted", || {
        report(server, "day")["total"]["requests"] == requests
    });
    report(server, by)
}

fn report(server: &Server, by: &str) -> Value {
    let reply = server.get(format!("/api/v1/stats?days=30&by={by}&limit=1000"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_str(&reply.text()).expect("JSON")
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// Requests, hits, MiB served, fetches, MiB fetched and MiB saved.
fn counts(row: &Value) -> [u64; 6] {
    let mib = |name: &str| row[name].as_u64().expect("a number") / MIB;
    let number = |name: &str| row[name].as_u64().expect("a number");
    [
        number("requests"),
        number("hits"),
        mib("bytes_served"),
        number("fetches"),
        mib("bytes_fetched"),
        mib("bytes_saved"),
    ]
}

fn get(server: &Server, label: &str, target: &str) -> Reply {
    let target = if label.is_empty() { target.to_owned() } else { format!("/~{label}{target}") };
    let reply = Ask::get(target).must(server.addr());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

fn stats(server: &Server, words: &[&str]) -> String {
    let mut command = Command::new(LARDER);
    command.args(["stats", "--server", &server.url()]).args(words);
    let ended = end_of(command, Duration::from_secs(20));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

#[test]
fn two_labels_through_two_restarts_and_a_kill_add_up_to_the_byte() {
    let (dir, near, far) = (scratch(), Upstream::start(), Upstream::start_on("127.0.0.2:0"));
    near.put("/n", Resource::seed(301, 2 * MIB));
    far.put("/f", Resource::seed(302, MIB));
    far.put("/g", Resource::seed(303, 3 * MIB));
    let setup = Setup::below(dir.path()).default_policy().config(SETTINGS);
    let (n, f, g) = (near.mirror("/n"), far.mirror("/f"), far.mirror("/g"));

    let server = setup.start();
    for (label, target) in [("a", &f), ("a", &f), ("b", &f), ("a", &f), ("b", &n), ("", &n)] {
        get(&server, label, target);
    }
    let labels = report_of(&server, 6, "label");
    assert_eq!(counts(row(&labels, "a")), [3, 2, 3, 1, 1, 2]);
    assert_eq!(counts(row(&labels, "b")), [2, 1, 3, 1, 2, 1]);
    assert_eq!(counts(row(&labels, "(none)")), [1, 1, 2, 0, 0, 2], "who asks for reports is not among them");
    server.stop();

    // What upstreams are at the other end of is known from the life before.
    near.die();
    far.die();
    let server = setup.start();
    for (label, target) in [("b", &f), ("a", &n)] {
        get(&server, label, target);
    }
    let links = report_of(&server, 8, "link");
    assert_eq!(counts(row(&links, "region")), [0, 0, 0, 1, 1, 4]);
    assert_eq!(counts(row(&links, "loopback")), [8, 6, 11, 1, 2, 4]);
    let paid = |row: &Value| [&row["spent"]["transfer"], &row["saved"]].map(|sum| sum.as_f64().expect("a sum"));
    assert_eq!(paid(row(&links, "region")), [1.0, 4.0]);
    assert_eq!(paid(row(&links, "loopback")), [5.5, 0.0]);
    assert_eq!((paid(&links["total"]), &links["currency"]), ([6.5, 4.0], &"EUR".into()));
    assert_eq!(links["total"]["unpriced_bytes"], 0);

    // Nothing asks for it after the last report: a kill loses this one.
    get(&server, "a", &n);
    server.kill();
    far.revive();
    let server = setup.start();
    assert_eq!(counts(&report(&server, "day")["total"]), [8, 6, 11, 2, 3, 8], "what was told stands");
    get(&server, "b", &g);
    server.stop();

    let server = setup.start();
    let labels = report(&server, "label");
    assert_eq!(counts(row(&labels, "a")), [4, 3, 5, 1, 1, 4]);
    assert_eq!(counts(row(&labels, "b")), [4, 2, 7, 2, 5, 2]);
    assert_eq!(counts(&labels["total"]), [9, 6, 14, 3, 6, 8], "what an orderly stop saved stands");
    let upstreams = report(&server, "upstream");
    assert_eq!(counts(row(&upstreams, &format!("http://{}", far.addr()))), [6, 4, 8, 2, 4, 4]);
    assert_eq!(counts(row(&report(&server, "ecosystem"), "http")), [9, 6, 14, 3, 6, 8]);
    assert_eq!(counts(row(&report(&server, "scope"), "shared")), [9, 6, 14, 3, 6, 8]);
    let tiers = report(&server, "tier");
    assert_eq!(counts(row(&tiers, "upstream"))[3..], [3, 6, 0]);
    // That is kept for some milliseconds, so the sum is small.
    assert!(row(&tiers, "disk")["gb_months_disk"].as_f64().expect("a number") > 0.0);
    assert_eq!(tiers["counted_since"], tiers["last_day"]);

    let page = stats(&server, &["--days", "7", "--by", "link"]);
    for part in ["loopback", "region", "total", "7.00 EUR", "11.00 EUR", "4.00 EUR"] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let said: Value = serde_json::from_str(&stats(&server, &["--days", "7", "--json"])).expect("JSON");
    assert_eq!(counts(&said["total"]), [9, 6, 14, 3, 6, 8]);
}

/// What is asked wrongly is told what there is.
fn assert_refusals(server: &Server) {
    for (target, what) in
        [("days=0&by=day", "number of days"), ("days=7&by=moon", "there is: day, label"), ("days=7&limit=0", "limit")]
    {
        let reply = server.get(format!("/api/v1/stats?{target}"));
        assert!(reply.status == 400 && reply.text().contains(what), "{target}: {}", reply.text());
    }
}

#[test]
fn a_flood_of_labels_keeps_to_the_rows_of_a_day() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(304, 1000));
    let setup = Setup::below(dir.path()).config("\n[ledger]\nrows_max = 10\n");
    let server = setup.start();
    assert_refusals(&server);
    let target = upstream.mirror("/a");
    get(&server, "first", &target).assert_is(200, Body::new(304, 1000).digest());
    report_of(&server, 1, "label");
    for label in 0..200 {
        get(&server, &format!("build-{label}"), &target);
    }
    get(&server, "first", &target);
    let labels = report_of(&server, 202, "label");
    let rows = labels["rows"].as_array().expect("rows").len();
    assert!((2..=11).contains(&rows), "{labels:#}");
    assert_eq!((labels["total"]["requests"].as_u64(), labels["total"]["hits"].as_u64()), (Some(202), Some(201)));
    assert!(row(&labels, "(other)")["requests"].as_u64() > Some(180), "{labels:#}");
    assert_eq!(counts(row(&labels, "first"))[3], 1, "{labels:#}");
    let metrics = server.get("/metrics").text();
    let folded = metrics.lines().find_map(|line| line.strip_prefix("larder_ledger_folded_total "));
    assert!(folded.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 180), "{folded:?}");
    let served = "larder_link_bytes_total{link=\"loopback\",way=\"served\"} 202000";
    assert!(metrics.lines().any(|line| line == served), "{metrics}");
}
