//! What the ledger says of some days: sums, what they cost and what they saved. Money is computed here and stored
//! nowhere: other prices make another report of the same days.

use serde::Serialize;

use super::day_of;
use super::prices::{Bill, Prices, gb_months};
use crate::cache::Cache;
use crate::cache::error::CacheError;
use crate::index::catalog::UsageAsk;
use crate::model::usage::{Counter, Counts, Dimension, Link, UsageSum};
use crate::telemetry::stamp::rfc3339;

/// Rows of a report at most.
pub const LINES_MAX: usize = 1000;
/// Days that the ledger can tell of, each with all its links.
const TOTALS_MAX: usize = 100_000;
const DAY_MS: i64 = 86_400_000;

/// Some days, summed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Both in UTC, both among them.
    pub first_day: String,
    pub last_day: String,
    /// The first of them that anything is known of.
    pub counted_since: Option<String>,
    pub by: Dimension,
    pub currency: String,
    pub total: Line,
    pub rows: Vec<Line>,
    /// What the rows leave out.
    pub rest: Option<Line>,
}

/// What one label, day or the like added up to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Line {
    pub name: String,
    pub requests: u64,
    pub hits: u64,
    pub bytes_served: u64,
    /// Exchanges with upstream that were answered.
    pub fetches: u64,
    pub bytes_fetched: u64,
    pub bytes_saved: u64,
    pub seconds_saved: f64,
    /// Hits whose saved time is not among it, since nobody knows what their fetch took.
    pub hits_untimed: u64,
    pub s3: S3,
    pub gb_months_disk: f64,
    pub gb_months_s3: f64,
    #[serde(flatten)]
    pub bill: Bill,
}

/// What S3 was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct S3 {
    pub put: u64,
    pub part: u64,
    pub list: u64,
    pub get: u64,
    pub head: u64,
    pub delete: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

impl Cache {
    /// The last `days` days, today among them, by one dimension: what was counted until now.
    ///
    /// *Errors*: the index's.
    pub async fn usage_report(&self, days: u32, by: Dimension, lines: usize) -> Result<Report, CacheError> {
        self.save_usage().await?;
        let today = day_of(self.inner.clock.now());
        let first_day = (today + 1).saturating_sub(days.max(1));
        let ask = UsageAsk { first_day, last_day: today, by: Dimension::Day, limit: TOTALS_MAX };
        let totals = self.inner.index.usage(ask).await?;
        let sums = self.inner.index.usage(UsageAsk { by, limit: lines.saturating_mul(Link::COUNT), ..ask }).await?;
        let days = Days { first_day, last_day: today };
        Ok(report(&days, &totals, sums, by, lines, &self.inner.usage.settings().prices))
    }
}

struct Days {
    first_day: u32,
    last_day: u32,
}

fn report(
    days: &Days,
    totals: &[UsageSum],
    sums: Vec<UsageSum>,
    by: Dimension,
    lines: usize,
    prices: &Prices,
) -> Report {
    let mut rows: Vec<(String, ByLink)> = Vec::new();
    for UsageSum { name, link, counts } in sums {
        let has_room = rows.len() < lines;
        match rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, row)) => row.add(link, &counts),
            None if has_room => {
                let mut row = ByLink::default();
                row.add(link, &counts);
                rows.push((name, row));
            }
            None => {}
        }
    }
    let (mut all, mut rest) = (ByLink::default(), ByLink::default());
    totals.iter().for_each(|sum| all.add(sum.link, &sum.counts));
    for link in Link::ALL {
        let mut shown = Counts::default();
        rows.iter().for_each(|(_, row)| shown.add(row.of(link)));
        rest.add(link, &all.of(link).less(&shown));
    }
    if by == Dimension::Day {
        rows.sort_by_key(|(day, _)| day.parse::<u32>().unwrap_or(u32::MAX));
    }
    let counted_since = totals.iter().filter_map(|sum| sum.name.parse().ok()).min().map(date);
    let line = |(name, row): (String, ByLink)| {
        let name = if by == Dimension::Day { name.parse().map_or(name, date) } else { name };
        row.line(name, prices)
    };
    Report {
        first_day: date(days.first_day),
        last_day: date(days.last_day),
        counted_since,
        by,
        currency: prices.currency.clone(),
        total: all.line("total".to_owned(), prices),
        rows: rows.into_iter().map(line).collect(),
        rest: (!rest.is_zero()).then(|| rest.line("(rest)".to_owned(), prices)),
    }
}

/// Counts, each link's apart: it decides what bytes cost.
#[derive(Default)]
struct ByLink([Counts; Link::COUNT]);

impl ByLink {
    fn add(&mut self, link: Link, counts: &Counts) {
        self.0[link as usize].add(counts);
    }

    fn of(&self, link: Link) -> &Counts {
        &self.0[link as usize]
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(Counts::is_zero)
    }

    fn line(&self, name: String, prices: &Prices) -> Line {
        let (mut all, mut bill) = (Counts::default(), Bill::default());
        for link in Link::ALL {
            all.add(self.of(link));
            bill.add(&prices.bill(link, self.of(link)));
        }
        let of = |counter| all.of(counter);
        Line {
            name,
            requests: of(Counter::Requests),
            hits: of(Counter::Hits),
            bytes_served: of(Counter::ServedBytes),
            fetches: of(Counter::Fetches),
            bytes_fetched: of(Counter::FetchedBytes),
            bytes_saved: of(Counter::SavedBytes),
            seconds_saved: of(Counter::SavedMillis) as f64 / 1000.0,
            hits_untimed: of(Counter::Hits).saturating_sub(of(Counter::TimedHits)),
            s3: S3 {
                put: of(Counter::S3Put),
                part: of(Counter::S3Part),
                list: of(Counter::S3List),
                get: of(Counter::S3Get),
                head: of(Counter::S3Head),
                delete: of(Counter::S3Delete),
                bytes_sent: of(Counter::S3SentBytes),
                bytes_received: of(Counter::S3ReceivedBytes),
            },
            gb_months_disk: gb_months(of(Counter::DiskKibSeconds)),
            gb_months_s3: gb_months(of(Counter::S3KibSeconds)),
            bill,
        }
    }
}

/// `2026-01-31`
fn date(day: u32) -> String {
    let stamp = rfc3339(i64::from(day) * DAY_MS);
    String::from_utf8_lossy(&stamp[..10]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_GB: u64 = 1 << 30;

    fn sum(name: &str, link: Link, counts: &[(Counter, u64)]) -> UsageSum {
        let mut all = Counts::default();
        counts.iter().for_each(|(counter, amount)| all.count(*counter, *amount));
        UsageSum { name: name.to_owned(), link, counts: all }
    }

    fn days() -> Days {
        Days { first_day: 20_000, last_day: 20_001 }
    }

    #[test]
    fn a_label_is_one_row_whatever_links_it_used() {
        use Counter::{FetchedBytes, Hits, Requests, SavedBytes, SavedMillis, ServedBytes, TimedHits};
        let sums = || {
            vec![
                sum(
                    "a",
                    Link::Zone,
                    &[(Requests, 4), (Hits, 3), (TimedHits, 2), (SavedMillis, 1500), (ServedBytes, 9)],
                ),
                sum("b", Link::Loopback, &[(Requests, 1)]),
                sum("a", Link::Nat, &[(FetchedBytes, ONE_GB), (SavedBytes, 2 * ONE_GB)]),
                sum("a", Link::Unknown, &[(SavedBytes, 7)]),
                sum("c", Link::Nat, &[(FetchedBytes, 5)]),
            ]
        };
        let prices = Prices::default();
        let told = report(&days(), &sums(), sums(), Dimension::Label, 2, &prices);
        assert_eq!((told.first_day.as_str(), told.last_day.as_str()), ("2024-10-04", "2024-10-05"));
        let names: Vec<_> = told.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let row = &told.rows[0];
        assert_eq!((row.requests, row.hits, row.hits_untimed, row.seconds_saved), (4, 3, 1, 1.5));
        assert_eq!((row.bytes_saved, row.bill.unpriced_bytes), (2 * ONE_GB + 7, 7));
        assert!((row.bill.saved - 0.09).abs() < 1e-9 && (row.bill.spent.total() - 0.045).abs() < 1e-6, "{row:?}");
        let rest = told.rest.expect("a third");
        assert_eq!((rest.name.as_str(), rest.requests, rest.bytes_fetched), ("(rest)", 0, 5));
        assert_eq!(told.total.bytes_fetched, ONE_GB + 5);
        assert!(report(&days(), &sums(), sums(), Dimension::Label, 3, &prices).rest.is_none());
    }

    #[test]
    fn days_come_in_their_order_by_their_dates() {
        let sums = || {
            vec![
                sum("20001", Link::Nat, &[(Counter::FetchedBytes, 9)]),
                sum("20000", Link::Nat, &[(Counter::FetchedBytes, 1)]),
            ]
        };
        let told = report(&days(), &sums(), sums(), Dimension::Day, 10, &Prices::default());
        let names: Vec<_> = told.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["2024-10-04", "2024-10-05"]);
        assert_eq!(told.counted_since.as_deref(), Some("2024-10-04"));
        let none = report(&days(), &[], Vec::new(), Dimension::Day, 10, &Prices::default());
        assert_eq!((none.counted_since, none.rows.len(), none.rest), (None, 0, None));
    }
}
