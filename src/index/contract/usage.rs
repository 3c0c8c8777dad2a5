//! What every engine must do for the ledger of use.

use std::sync::Arc;

use crate::index::catalog::{Catalog, Change, UsageAsk};
use crate::model::usage::{Counter, Counts, Dimension, Link, OTHER, UsageKey, UsageRow};

pub(super) async fn every_contract<G>(fresh: &mut impl FnMut() -> (Arc<dyn Catalog>, G)) {
    let (catalog, _guard) = fresh();
    usage_adds_up_by_any_of_its_names(&catalog).await;
    let (catalog, _guard) = fresh();
    a_day_of_usage_is_bounded_and_loses_no_count(&catalog).await;
    let (catalog, _guard) = fresh();
    usage_of_old_days_goes(&catalog).await;
}

fn used(day: u32, label: &str, link: Link, counts: &[(Counter, u64)]) -> UsageRow {
    let key = UsageKey {
        day,
        label: label.into(),
        ecosystem: "go".into(),
        upstream: "https://upstream.test".into(),
        scope: "shared".into(),
        tier: "memory".into(),
        link,
    };
    let mut row = UsageRow { key, counts: Counts::default() };
    counts.iter().for_each(|(counter, amount)| row.counts.count(*counter, *amount));
    row
}

async fn add_usage(catalog: &Arc<dyn Catalog>, rows: Vec<UsageRow>, rows_max: u64, oldest_day: u32) -> u64 {
    let catalog = catalog.clone();
    let write = move || catalog.write(&[Change::Usage { rows: &rows, rows_max, oldest_day }]);
    let written = tokio::task::spawn_blocking(write).await.expect("it does not panic").expect("commits");
    written.found[0].folded
}

async fn usage_by(catalog: &Arc<dyn Catalog>, by: Dimension, days: (u32, u32)) -> Vec<(String, Link, Counts)> {
    let ask = UsageAsk { first_day: days.0, last_day: days.1, by, limit: 1000 };
    let sums = catalog.usage(ask).await.expect("reads");
    sums.into_iter().map(|sum| (sum.name, sum.link, sum.counts)).collect()
}

async fn usage_adds_up_by_any_of_its_names(catalog: &Arc<dyn Catalog>) {
    use Counter::{FetchedBytes, Hits, Requests, ServedBytes};
    let all: Vec<(Counter, u64)> = Counter::ALL.into_iter().map(|counter| (counter, 1 << counter as u64)).collect();
    let rows = || {
        vec![
            used(7, "a", Link::Loopback, &[(Requests, 3), (Hits, 2), (ServedBytes, 1 << 40)]),
            used(8, "a", Link::Internet, &[(FetchedBytes, 9)]),
            used(8, "b", Link::Loopback, &all),
        ]
    };
    assert_eq!(add_usage(catalog, rows(), 100, 0).await, 0);
    assert_eq!(add_usage(catalog, rows(), 100, 0).await, 0, "the same rows again are added to them");
    let twice = |row: usize| {
        let mut counts = rows()[row].counts;
        counts.add(&rows()[row].counts);
        counts
    };
    let (first, second, third) = (twice(0), twice(1), twice(2));
    let whole = |name: &str, link, counts| (name.to_owned(), link, counts);
    let both = {
        let mut both = first;
        both.add(&third);
        both
    };
    assert_eq!(
        usage_by(catalog, Dimension::Label, (0, 9)).await,
        [whole("a", Link::Loopback, first), whole("b", Link::Loopback, third), whole("a", Link::Internet, second)],
        "the greatest comes first"
    );
    assert_eq!(usage_by(catalog, Dimension::Day, (8, 8)).await[0], whole("8", Link::Loopback, third));
    for (by, name) in [
        (Dimension::Ecosystem, "go"),
        (Dimension::Upstream, "https://upstream.test"),
        (Dimension::Scope, "shared"),
        (Dimension::Tier, "memory"),
    ] {
        let sums = usage_by(catalog, by, (0, 9)).await;
        assert_eq!(sums, [whole(name, Link::Loopback, both), whole(name, Link::Internet, second)], "{by:?}");
    }
    assert_eq!(usage_by(catalog, Dimension::Link, (0, 9)).await[1], whole("internet", Link::Internet, second));
    assert_eq!(usage_by(catalog, Dimension::Link, (9, 9)).await, []);
    let one = UsageAsk { first_day: 0, last_day: 9, by: Dimension::Label, limit: 1 };
    assert_eq!(catalog.usage(one).await.expect("reads").len(), 1);
}

async fn a_day_of_usage_is_bounded_and_loses_no_count(catalog: &Arc<dyn Catalog>) {
    let flood: Vec<_> =
        (0..50).map(|n| used(7, &format!("build-{n}"), Link::Loopback, &[(Counter::Requests, 1)])).collect();
    assert_eq!(add_usage(catalog, flood.clone(), 10, 0).await, 40);
    assert_eq!(add_usage(catalog, flood, 10, 0).await, 40, "those that have a row keep it");
    add_usage(catalog, vec![used(8, "build-40", Link::Loopback, &[(Counter::Requests, 5)])], 10, 0).await;
    let sums = usage_by(catalog, Dimension::Label, (7, 7)).await;
    assert_eq!(sums.len(), 11);
    let requests = |name: &str| {
        let of = sums.iter().filter(|(label, _, _)| label == name);
        of.map(|(_, _, counts)| counts.of(Counter::Requests)).sum::<u64>()
    };
    assert_eq!((requests("build-0"), requests("build-9"), requests(OTHER)), (2, 2, 80));
    assert_eq!(usage_by(catalog, Dimension::Upstream, (7, 7)).await.len(), 2, "it is nobody's any more");
    assert_eq!(usage_by(catalog, Dimension::Label, (8, 8)).await[0].0, "build-40", "each day has room of its own");
}

async fn usage_of_old_days_goes(catalog: &Arc<dyn Catalog>) {
    let row = |day| used(day, "a", Link::Loopback, &[(Counter::Requests, 1)]);
    add_usage(catalog, vec![row(5), row(6), row(7)], 10, 0).await;
    add_usage(catalog, vec![row(5), row(7)], 10, 6).await;
    let days: Vec<_> = usage_by(catalog, Dimension::Day, (0, 9)).await.into_iter().map(|(day, _, _)| day).collect();
    assert_eq!(days, ["6", "7"], "and does not come back");
}
