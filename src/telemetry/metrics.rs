//! Counting, and the scrape page. Recording a request is three relaxed adds on a line that this thread mostly has
//! to itself; everything else is read when somebody asks.
//!
//! Format: Prometheus text exposition 0.0.4.

use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::RwLock;

use super::table::{Kind, Name, TABLE};

/// Upper bounds of the histogram, in microseconds. The last bucket has none.
pub const BOUNDS_MICROS: [u64; 12] =
    [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000, 300_000_000];

const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// The content type of `render`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All counts of one process.
pub struct Metrics {
    ecosystems: Vec<&'static str>,
    outcomes: Vec<(&'static str, &'static str)>,
    shards: Vec<Shard>,
    gauges: [AtomicU64; TABLE.len()],
    sources: RwLock<Vec<(Name, Source)>>,
}

type Source = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// Counts of one ecosystem, outcome and thread: two cache lines, so that cores do not share.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    bytes: AtomicU64,
    micros: AtomicU64,
}

/// What one thread has counted.
struct Shard {
    counts: Vec<Counts>,
    totals: Box<[AtomicU64; TABLE.len()]>,
}

/// What one ecosystem and outcome add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum {
    pub ecosystem: &'static str,
    pub outcome: &'static str,
    pub tier: &'static str,
    pub requests: u64,
    pub bytes: u64,
    pub micros: u64,
    pub buckets: [u64; BUCKETS],
}

/// Receives the values of one metric, read when the page is made.
pub struct Samples<'a> {
    name: &'static str,
    labels: &'static [&'static str],
    page: &'a mut String,
}

impl Metrics {
    /// *Shape*: `ecosystems` and `outcomes` (label, tier) are the words of the labels; `record` takes their places.
    pub fn new(ecosystems: &[&'static str], outcomes: &[(&'static str, &'static str)]) -> Metrics {
        let cores = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 16);
        let cells = ecosystems.len() * outcomes.len();
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        let shard = || Shard { counts: (0..cells).map(|_| Counts::default()).collect(), totals: Box::new(zeros()) };
        Metrics {
            ecosystems: ecosystems.to_vec(),
            outcomes: outcomes.to_vec(),
            shards: (0..cores).map(|_| shard()).collect(),
            gauges: zeros(),
            sources: RwLock::new(Vec::new()),
        }
    }

    /// Counts one answered request. An index out of range is not counted.
    pub fn record(&self, ecosystem: usize, outcome: usize, bytes: u64, micros: u64) {
        if outcome >= self.outcomes.len() {
            return;
        }
        let Some(counts) = self.shard().counts.get(ecosystem * self.outcomes.len() + outcome) else { return };
        counts.buckets[bucket(micros)].fetch_add(1, Relaxed);
        counts.bytes.fetch_add(bytes, Relaxed);
        counts.micros.fetch_add(micros, Relaxed);
    }

    /// Adds to a counter without labels. Those in seconds are counted in microseconds.
    pub fn add(&self, name: Name, amount: u64) {
        self.shard().totals[name as usize].fetch_add(amount, Relaxed);
    }

    /// Sets a gauge without labels.
    pub fn set(&self, name: Name, value: u64) {
        self.gauges[name as usize].store(value, Relaxed);
    }

    /// The value of a metric without labels.
    pub fn total(&self, name: Name) -> u64 {
        let counted: u64 = self.shards.iter().map(|shard| shard.totals[name as usize].load(Relaxed)).sum();
        self.gauges[name as usize].load(Relaxed) + counted
    }

    fn shard(&self) -> &Shard {
        &self.shards[thread_number() % self.shards.len()]
    }

    /// Has `source` asked for the values of `name` each time the page is made. It must not block.
    pub fn observe(&self, name: Name, source: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.sources.write().push((name, Box::new(source)));
    }

    /// What was recorded, without the ecosystems and outcomes that never occurred.
    pub fn sums(&self) -> Vec<Sum> {
        let mut sums = Vec::new();
        for (at_ecosystem, ecosystem) in self.ecosystems.iter().enumerate() {
            for (at_outcome, (outcome, tier)) in self.outcomes.iter().enumerate() {
                let cell = at_ecosystem * self.outcomes.len() + at_outcome;
                let mut sum = Sum { ecosystem, outcome, tier, requests: 0, bytes: 0, micros: 0, buckets: [0; BUCKETS] };
                for shard in &self.shards {
                    let counts = &shard.counts[cell];
                    for (total, count) in sum.buckets.iter_mut().zip(&counts.buckets) {
                        *total += count.load(Relaxed);
                    }
                    sum.bytes += counts.bytes.load(Relaxed);
                    sum.micros += counts.micros.load(Relaxed);
                }
                sum.requests = sum.buckets.iter().sum();
                if sum.requests > 0 {
                    sums.push(sum);
                }
            }
        }
        sums
    }

    /// The scrape page.
    pub fn render(&self) -> String {
        let sums = self.sums();
        let mut page = String::with_capacity(16 << 10);
        for row in TABLE {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "# HELP {} {}", row.name, escape(row.help, Quote::No));
            let _ = writeln!(page, "# TYPE {} {}", row.name, row.kind.word());
            match row.id {
                Name::Requests => render_sums(&mut page, row.name, &sums, |sum| sum.requests),
                Name::ResponseBytes => render_sums(&mut page, row.name, &sums, |sum| sum.bytes),
                Name::RequestSeconds => render_histogram(&mut page, row.name, &sums),
                _ => self.render_row(&mut page, row.id),
            }
        }
        page
    }

    fn render_row(&self, page: &mut String, id: Name) {
        let row = id.row();
        let mut observed = false;
        for (name, source) in self.sources.read().iter() {
            if *name == id {
                observed = true;
                source(&mut Samples { name: row.name, labels: row.labels, page });
            }
        }
        if observed || !row.labels.is_empty() {
            return;
        }
        let total = self.total(id);
        let _ = if row.kind == Kind::Counter && row.unit == "seconds" {
            writeln!(page, "{} {}", row.name, Seconds(total))
        } else {
            writeln!(page, "{} {total}", row.name)
        };
    }
}

impl Samples<'_> {
    /// One value. `labels` are the values of the row's labels, in its order.
    pub fn push(&mut self, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        self.page.push_str(self.name);
        let pairs = self.labels.iter().copied().zip(labels.iter().copied());
        render_labels(self.page, pairs);
        let _ = writeln!(self.page, " {value}");
    }
}

/// Microseconds, shown as seconds without the rounding of floats.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if micros == 0 {
            return write!(out, "{whole}");
        }
        let text = format!("{micros:06}");
        write!(out, "{whole}.{}", text.trim_end_matches('0'))
    }
}

fn bucket(micros: u64) -> usize {
    BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS_MICROS.len())
}

/// A small number for each thread, dealt out in turn.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

fn render_sums(page: &mut String, name: &str, sums: &[Sum], value: impl Fn(&Sum) -> u64) {
    for sum in sums {
        page.push_str(name);
        render_labels(page, sum_labels(sum).into_iter());
        let _ = writeln!(page, " {}", value(sum));
    }
}

fn render_histogram(page: &mut String, name: &str, sums: &[Sum]) {
    for sum in sums {
        let mut below = 0;
        for (at, count) in sum.buckets.iter().enumerate() {
            below += count;
            let bound = BOUNDS_MICROS.get(at).map_or("+Inf".to_owned(), |micros| Seconds(*micros).to_string());
            let _ = write!(page, "{name}_bucket");
            render_labels(page, sum_labels(sum).into_iter().chain([("le", bound.as_str())]));
            let _ = writeln!(page, " {below}");
        }
        let _ = write!(page, "{name}_sum");
        render_labels(page, sum_labels(sum).into_iter());
        let _ = writeln!(page, " {}", Seconds(sum.micros));
        let _ = write!(page, "{name}_count");
        render_labels(page, sum_labels(sum).into_iter());
        let _ = writeln!(page, " {}", sum.requests);
    }
}

fn sum_labels(sum: &Sum) -> [(&'static str, &'static str); 3] {
    [("ecosystem", sum.ecosystem), ("outcome", sum.outcome), ("tier", sum.tier)]
}

fn render_labels<'a>(page: &mut String, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut open = false;
    for (name, value) in pairs {
        page.push(if open { ',' } else { '{' });
        open = true;
        let _ = write!(page, "{name}=\"{}\"", escape(value, Quote::Yes));
    }
    if open {
        page.push('}');
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Quote {
    Yes,
    No,
}

fn escape(text: &str, quote: Quote) -> std::borrow::Cow<'_, str> {
    if !text.contains(['\\', '\n', '"']) {
        return text.into();
    }
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quote == Quote::Yes { text.replace('"', "\\\"").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(&["cargo", "go"], &[("hit", "memory"), ("miss", "upstream")])
    }

    #[test]
    fn what_is_recorded_is_shown() {
        let metrics = metrics();
        metrics.record(0, 0, 1024, 90);
        metrics.record(0, 0, 1024, 101);
        metrics.record(1, 1, 7, 400_000_001);
        let page = metrics.render();
        for line in [
            "# TYPE larder_requests_total counter",
            "larder_requests_total{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\"} 2",
            "larder_response_bytes_total{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\"} 2048",
            "larder_request_seconds_bucket{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\",le=\"0.0001\"} 1",
            "larder_request_seconds_bucket{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\",le=\"0.0005\"} 2",
            "larder_request_seconds_bucket{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\",le=\"+Inf\"} 2",
            "larder_request_seconds_sum{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\"} 0.000191",
            "larder_request_seconds_count{ecosystem=\"cargo\",outcome=\"hit\",tier=\"memory\"} 2",
            "larder_request_seconds_bucket{ecosystem=\"go\",outcome=\"miss\",tier=\"upstream\",le=\"300\"} 0",
            "larder_request_seconds_bucket{ecosystem=\"go\",outcome=\"miss\",tier=\"upstream\",le=\"+Inf\"} 1",
            "larder_saved_seconds_total 0",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}\nnot in\n{page}");
        }
    }

    #[test]
    fn an_index_out_of_range_counts_nothing() {
        let metrics = metrics();
        metrics.record(0, 2, 1, 1);
        metrics.record(2, 0, 1, 1);
        assert_eq!(metrics.sums(), []);
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = metrics();
        metrics.observe(Name::QueueDepth, |samples| samples.push(&["a\\b\"c\nd"], 5));
        assert!(metrics.render().contains("larder_queue_depth{queue=\"a\\\\b\\\"c\\nd\"} 5\n"));
    }

    #[test]
    fn totals_and_gauges_are_shown_with_their_units() {
        let metrics = metrics();
        metrics.add(Name::SavedSeconds, 1_500_000);
        metrics.set(Name::FillsInFlight, 3);
        metrics.observe(Name::TasksRunning, |samples| samples.push(&[], 9));
        let page = metrics.render();
        assert!(page.contains("\nlarder_saved_seconds_total 1.5\n"));
        assert!(page.contains("\nlarder_fills_in_flight 3\n"));
        assert!(page.contains("\nlarder_tasks_running 9\n"));
    }

    #[test]
    fn threads_add_up() {
        let metrics = metrics();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| metrics.record(0, 0, 2, 3)));
            }
        });
        let sums = metrics.sums();
        assert_eq!((sums[0].requests, sums[0].bytes, sums[0].micros), (4000, 8000, 12_000));
    }

    #[test]
    fn each_page_line_is_a_comment_or_a_sample() {
        let metrics = metrics();
        metrics.record(1, 0, 1, 1);
        for line in metrics.render().lines() {
            let sample = line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok());
            assert!(line.starts_with("# ") || sample, "{line}");
        }
    }
}
