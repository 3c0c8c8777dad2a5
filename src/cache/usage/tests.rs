//! Counting, against a real catalog and a clock that is moved.

use std::time::Duration;

use super::*;
use crate::cache::tests::{Bed, Script, document, immutable, noise};
use crate::index::Index;
use crate::index::catalog::UsageAsk;
use crate::model::lookup::Trust;
use crate::model::party::Party;
use crate::model::realm::Scope;
use crate::model::usage::{Dimension, OTHER, UsageSum};
use crate::upstream::fetch::{Carrier, Fetch, FetchAsk, Fetched, Look, Opened, TunnelAsk, UpstreamError};
use futures_util::future::BoxFuture;

const DAY: u64 = 86_400;

fn key(upstream: &str) -> Key {
    let (path, variant) = (String::new(), String::new());
    Key { scope: Scope::shared(), ecosystem: "cargo", upstream: upstream.to_owned(), path, variant }
}

fn count(usage: &Usage, label: &str, key: &Key, bytes: u64, hit: Option<Saved>) {
    let peer = "10.0.0.9".parse().expect("an address");
    usage.answered(&Answer {
        label: Some(label),
        ecosystem: "cargo",
        source: Some(key),
        tier: "memory",
        peer,
        bytes,
        hit,
    });
}

async fn sums(index: &Index, by: Dimension) -> Vec<UsageSum> {
    let ask = UsageAsk { first_day: 0, last_day: u32::MAX, by, limit: 100_000 };
    index.usage(ask).await.expect("reads")
}

fn of(sums: &[UsageSum], name: &str, link: Link, counter: Counter) -> u64 {
    sums.iter().filter(|sum| sum.name == name && sum.link == link).map(|sum| sum.counts.of(counter)).sum()
}

fn all(sums: &[UsageSum], counter: Counter) -> u64 {
    sums.iter().map(|sum| sum.counts.of(counter)).sum()
}

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

#[tokio::test]
async fn a_day_ends_at_midnight_and_old_days_go() {
    let bed = Bed::new();
    let usage = Usage::new(&settings(|settings| settings.keep_days = 2), bed.clock.clone());
    let today = day_of(crate::runtime::clock::Clock::now(&*bed.clock));
    for days in 0..3 {
        count(&usage, "a", &key("u"), 10 + days, None);
        bed.advance(DAY);
        // Counted before midnight, added after it.
        count(&usage, "a", &key("u"), 1000, None);
        usage.save(&bed.index, 0).await.expect("added");
    }
    let days = sums(&bed.index, Dimension::Day).await;
    let served = |day: u32| of(&days, &day.to_string(), Link::Private, Counter::ServedBytes);
    assert_eq!([0, 1, 2, 3].map(|days| served(today + days)), [0, 0, 1012, 1000]);
}

#[tokio::test]
async fn a_flood_of_labels_stays_bounded_and_no_request_goes_uncounted() {
    let bed = Bed::new();
    let usage = Usage::new(&settings(|settings| settings.rows_max = 100), bed.clock.clone());
    count(&usage, "known", &key("u"), 1, None);
    usage.save(&bed.index, 0).await.expect("added");
    for label in 0..3 * CELLS_MAX {
        count(&usage, &format!("build-{label}"), &key(&format!("https://{label}.test")), 1, None);
        if label == 2 * CELLS_MAX {
            let held: usize = usage.shards.iter().map(|shard| shard.lock().len()).sum();
            // This thread has one shard.
            assert_eq!(held, CELLS_MAX + 1);
        }
    }
    count(&usage, "known", &key("u"), 1, None);
    usage.save(&bed.index, 0).await.expect("added");
    let labels = sums(&bed.index, Dimension::Label).await;
    assert_eq!(all(&labels, Counter::Requests), 3 * CELLS_MAX as u64 + 2);
    assert!(labels.len() <= 101, "{}", labels.len());
    assert_eq!(of(&labels, "known", Link::Private, Counter::Requests), 1, "the second came when all was full");
    assert!(of(&labels, OTHER, Link::Private, Counter::Requests) > 2 * CELLS_MAX as u64);
    assert!(usage.folded() > 2 * CELLS_MAX as u64);
}

#[tokio::test]
async fn what_a_hit_saved_stands_under_the_link_of_its_upstream() {
    let bed = Bed::new();
    let count_all = |usage: &Usage| {
        count(usage, "a", &key("https://near.test"), 10, Some(Saved::Millis(7)));
        count(usage, "a", &key("https://never.test"), 100, Some(Saved::Untimed));
    };
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    for link in [Link::Internet, Link::Region, Link::Region] {
        let row = Row {
            day: 0,
            label: "b",
            ecosystem: "cargo",
            upstream: "https://near.test",
            scope: "shared",
            tier: "upstream",
            link,
        };
        usage.fetching(&row).fetch_add(5, Ordering::Relaxed);
    }
    count_all(&usage);
    usage.save(&bed.index, 0).await.expect("added");
    // Another life, in which nothing was fetched.
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    count_all(&usage);
    usage.save(&bed.index, 0).await.expect("added");
    let labels = sums(&bed.index, Dimension::Label).await;
    let label = |name: &str, link, counter| of(&labels, name, link, counter);
    assert_eq!(label("a", Link::Region, Counter::SavedBytes), 20);
    assert_eq!(label("a", Link::Unknown, Counter::SavedBytes), 200, "nobody knows where it is");
    assert_eq!(label("a", Link::Private, Counter::ServedBytes), 220);
    assert_eq!(
        [Counter::Hits, Counter::TimedHits, Counter::SavedMillis].map(|one| label("a", Link::Private, one)),
        [4, 2, 14]
    );
    assert_eq!(label("b", Link::Region, Counter::FetchedBytes), 10);
    assert_eq!((label("b", Link::Internet, Counter::Fetches), label("b", Link::Region, Counter::Fetches)), (1, 2));
}

#[tokio::test]
async fn bytes_count_as_they_come_and_only_once() {
    let bed = Bed::new();
    let usage = bed.cache.usage();
    let row = Row {
        day: 0,
        label: "a",
        ecosystem: "cargo",
        upstream: "u",
        scope: "shared",
        tier: "upstream",
        link: Link::Nat,
    };
    let meter = usage.fetching(&row);
    let fetched = async || all(&sums(&bed.index, Dimension::Link).await, Counter::FetchedBytes);
    for (more, so_far) in [(100, 100), (0, 100), (23, 123)] {
        meter.fetch_add(more, Ordering::Relaxed);
        bed.cache.save_usage().await.expect("added");
        assert_eq!(fetched().await, so_far);
    }
    assert_eq!(usage.fetches.lock().len(), 1);
    drop(meter);
    bed.cache.save_usage().await.expect("added");
    assert_eq!((fetched().await, usage.fetches.lock().len()), (123, 0), "what has ended takes no room");
}

#[tokio::test]
async fn whatever_is_fetched_is_counted_for_what_it_is() {
    let bed = Bed::new();
    bed.upstream.answers("/a", [Script::ok(noise(1, 100_000))]);
    bed.upstream.answers("/b", [Script::ok(noise(2, 2000))]);
    bed.fetch(&immutable("/a")).await;
    bed.fetch(&immutable("/a")).await;
    bed.fetch(&document("/b")).await;
    bed.cache.save_usage().await.expect("added");
    let upstreams = sums(&bed.index, Dimension::Upstream).await;
    let loopback = |counter| of(&upstreams, "https://upstream.test", Link::Loopback, counter);
    assert_eq!((loopback(Counter::Fetches), loopback(Counter::FetchedBytes)), (2, 102_000));
    let labels = sums(&bed.index, Dimension::Label).await;
    assert_eq!(of(&labels, NONE, Link::Loopback, Counter::FetchedBytes), 102_000);
}

#[tokio::test]
async fn what_the_catalog_does_not_take_waits_for_it() {
    let (bed, other) = (Bed::new(), Bed::new());
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    usage.save(&bed.index, 0).await.expect("nothing to add");
    bed.index.close().await;
    for label in 0..100 {
        count(&usage, &format!("build-{label}"), &key("u"), 1, None);
        usage.save(&bed.index, 0).await.expect_err("it has closed");
    }
    usage.save(&other.index, 0).await.expect("added");
    let labels = sums(&other.index, Dimension::Label).await;
    assert_eq!((labels.len(), all(&labels, Counter::Requests)), (100, 100));
    usage.save(&other.index, 0).await.expect("nothing is left");
    assert_eq!(all(&sums(&other.index, Dimension::Label).await, Counter::Requests), 100);
}

#[tokio::test]
async fn a_link_that_is_renamed_counts_under_its_new_name_from_then_on() {
    let bed = Bed::new();
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    count(&usage, "a", &key("u"), 1, None);
    let zone = vec!["10.0.0.0/16".parse().expect("a network")];
    usage.reload(&settings(|settings| settings.links.zone = zone));
    count(&usage, "a", &key("u"), 20, None);
    usage.save(&bed.index, 0).await.expect("added");
    let labels = sums(&bed.index, Dimension::Label).await;
    let served = |link| of(&labels, "a", link, Counter::ServedBytes);
    assert_eq!((served(Link::Private), served(Link::Zone)), (1, 20));
}

#[tokio::test]
async fn what_is_kept_counts_by_the_time_that_it_is_kept() {
    let bed = Bed::new();
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    for (secs, bytes) in [(100, 10 << 20), (50, 0), (7, 2047)] {
        bed.advance(secs);
        usage.save(&bed.index, bytes).await.expect("added");
    }
    let tiers = sums(&bed.index, Dimension::Tier).await;
    assert_eq!(of(&tiers, "disk", Link::Loopback, Counter::DiskKibSeconds), 100 * 10 * 1024 + 7);
}

#[tokio::test]
async fn a_hundred_thousand_counts_on_four_threads_add_up() {
    let bed = Bed::new();
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let usage = &usage;
            scope.spawn(move || {
                let label = format!("build-{}", thread % 2);
                (0..25_000).for_each(|_| count(usage, &label, &key("u"), 3, Some(Saved::Millis(1))));
            });
        }
    });
    usage.save(&bed.index, 0).await.expect("added");
    let labels = sums(&bed.index, Dimension::Label).await;
    for label in ["build-0", "build-1"] {
        assert_eq!(of(&labels, label, Link::Private, Counter::Requests), 50_000);
        assert_eq!(of(&labels, label, Link::Private, Counter::ServedBytes), 150_000);
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    Settings::default().check().expect("the defaults are fine");
    for wrong in [
        settings(|settings| settings.keep_days = 0),
        settings(|settings| settings.save_every = Duration::ZERO),
        settings(|settings| settings.prices.s3_gb_month = -1.0),
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
}

/// A way upstream that leads to a tunnel of so many bytes.
struct Tunnels(&'static [u8]);

impl Fetch for Tunnels {
    fn fetch(&self, _: FetchAsk) -> BoxFuture<'_, Result<Fetched, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::Offline) })
    }

    fn judge<'a>(
        &'a self,
        _: &'a url::Url,
        _: crate::model::lookup::Trust,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn tunnel<'a>(&'a self, _: TunnelAsk<'a>) -> BoxFuture<'a, Result<Opened, UpstreamError>> {
        let io = Box::new(tokio::io::join(self.0, tokio::io::sink()));
        let reached = Some("192.0.2.1".parse().expect("an address"));
        Box::pin(async move { Ok(Opened { io, carrier: Carrier::Ourselves, reached }) })
    }
}

#[tokio::test]
async fn what_comes_out_of_a_tunnel_is_counted() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let bed = Bed::new();
    let usage = Usage::new(&Settings::default(), bed.clock.clone());
    let metered = Metered { inner: Arc::new(Tunnels(b"pong!")), usage: usage.clone() };
    let party = Party::of("127.0.0.1".parse().expect("an address"), Some(&Arc::from("a")));
    let ask = TunnelAsk { host: "files.test", port: 443, trust: Trust::Client, party: &party, look: Look::Declined };
    let mut opened = metered.tunnel(ask).await.expect("opens").io;
    opened.write_all(b"ping").await.expect("sinks");
    let mut said = Vec::new();
    opened.read_to_end(&mut said).await.expect("ends");
    usage.save(&bed.index, 0).await.expect("added");
    let ecosystems = sums(&bed.index, Dimension::Ecosystem).await;
    assert_eq!((of(&ecosystems, "tunnel", Link::Internet, Counter::FetchedBytes), said.len()), (5, 5));
    assert_eq!(of(&sums(&bed.index, Dimension::Label).await, "a", Link::Internet, Counter::Fetches), 1);
}
