//! A bucket behind larder: what uploads and hits ask of S3, and how fast bytes come from there alone. SeaweedFS stands
//! for S3, on this machine and over loopback: ratios to the SDK alone, from the same server, are what to keep.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::app::bucket;
use larder::config;
use larder::runtime::clock::SystemClock;
use larder::runtime::tasks::Tasks;
use larder::store::s3::aws::AwsBucket;
use larder::store::s3::bucket::{Bucket, Span};

use crate::Options;
use crate::load::Connection;
use crate::origin::Origin;
use crate::peers::{self, LARDER};
use crate::report::{Report, Spread, Table};
use crate::support::s3::{S3, SECRET, WRITER};

const SMALL: u64 = 4096;
const SMALL_BLOBS: usize = 100_000;
const A_SECOND: usize = 1000;
const WRITERS: usize = 10;
const HITS: usize = 10_000;
const LARGE: u64 = 64 << 20;
/// Longest wait for all to be in the bucket.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let s3 = S3::below(dir.path());
    let config = settings(dir.path(), &s3);
    let origin = Origin::start();
    report.add(small(dir.path(), &origin, &config));
    report.add(large(dir.path(), &origin, &config, options.rounds));
}

fn settings(dir: &Path, s3: &S3) -> String {
    let credentials = dir.join("credentials");
    let text = format!("[default]\naws_access_key_id = {WRITER}\naws_secret_access_key = {SECRET}\n");
    fs::write(&credentials, text).expect("scratch can be written");
    format!("{LARDER}{}credentials_file = \"{}\"\n", s3.config(), credentials.display())
}

/// Uploads behind a steady stream of small fills, then hits after a restart.
fn small(dir: &Path, origin: &Origin, config: &str) -> Table {
    let larder = peers::larder_with(dir, "small", config, |_| String::new());
    eprintln!("s3: {SMALL_BLOBS} blobs of 4 KiB at {A_SECOND} a second");
    let (at, done) = (larder.addr, AtomicBool::new(false));
    let (took, longest) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| longest_wait(at, &done));
        let took = fill_steadily(at, origin);
        await_empty(at);
        done.store(true, Ordering::Release);
        (took, watch.join().expect("the watch panicked"))
    });
    let puts = requests(larder.addr, "put") + requests(larder.addr, "part");
    drop(larder);
    let no_memory = format!("{config}\n[store]\nmemory_bytes = 0\n");
    let larder = peers::larder_with(dir, "small", &no_memory, |_| String::new());
    let fetched = origin.requests();
    let mut connection = Connection::open(larder.addr).expect("larder accepts");
    for number in 0..HITS {
        let path = origin.mirror(SMALL, &number.to_string());
        let answer = connection.get(&path).expect("a whole answer");
        assert_eq!((answer.status, answer.body), (200, SMALL), "{path}");
    }
    let of_hits = all_requests(larder.addr);
    let mut table = Table::new("100,000 blobs of 4 KiB on their way to S3".into(), &["what", "measured", "floor"]);
    let rate = SMALL_BLOBS as f64 / took.as_secs_f64();
    table.row(vec!["fills a second".into(), format!("{rate:.0}"), A_SECOND.to_string()]);
    let each = SMALL_BLOBS as f64 / puts;
    table.row(vec!["blobs for each S3 PUT".into(), format!("{each:.0}"), "at least 500".into()]);
    table.row(vec!["longest wait to be remote, s".into(), format!("{longest:.1}"), String::new()]);
    let fetched = origin.requests() - fetched;
    table.row(vec![format!("upstream fetches of {HITS} hits after a restart"), fetched.to_string(), "0".into()]);
    table.row(vec!["S3 requests of these hits".into(), format!("{of_hits:.0}"), "0".into()]);
    table
}

/// Asks for each blob once, by the clock. Returns the time from the first to the last answer.
fn fill_steadily(larder: SocketAddr, origin: &Origin) -> Duration {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut connection = Connection::open(larder).expect("larder accepts");
                for number in (writer..SMALL_BLOBS).step_by(WRITERS) {
                    let due = Duration::from_secs_f64(number as f64 / A_SECOND as f64);
                    std::thread::sleep(due.saturating_sub(begin.elapsed()));
                    let answer = connection.get(&origin.mirror(SMALL, &number.to_string())).expect("a whole answer");
                    assert_eq!((answer.status, answer.body), (200, SMALL));
                }
            });
        }
    });
    begin.elapsed()
}

/// Seconds that the longest waiting blob had waited when it was seen to be so.
fn longest_wait(larder: SocketAddr, done: &AtomicBool) -> f64 {
    let mut longest = 0_f64;
    while !done.load(Ordering::Acquire) {
        longest = longest.max(gauge(larder, "larder_outbox_age_seconds"));
        std::thread::sleep(Duration::from_millis(100));
    }
    longest
}

/// A large blob that the bucket alone has, by larder and by the SDK in turn.
fn large(dir: &Path, origin: &Origin, config: &str, rounds: usize) -> Table {
    let larder = peers::larder_with(dir, "large", config, |_| String::new());
    let mut connection = Connection::open(larder.addr).expect("larder accepts");
    for round in 0..rounds {
        let answer = connection.get(&origin.mirror(LARGE, &round.to_string())).expect("a whole answer");
        assert_eq!((answer.status, answer.body), (200, LARGE));
    }
    await_empty(larder.addr);
    drop(larder);
    // The bytes go, what is known of them stays.
    for folder in ["files", "segments"] {
        fs::remove_dir_all(dir.join("large/data").join(folder)).expect("it was made");
    }
    let larder = peers::larder_with(dir, "large", config, |_| String::new());
    let fetched = origin.requests();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    let alone = runtime.block_on(sdk(config));
    let objects = runtime.block_on(blobs(&alone));
    let (mut rates, mut firsts) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("s3: 64 MiB, round {} of {rounds}", round + 1);
        let name = round.to_string();
        let digest = origin.digest(LARGE, &name).to_hex();
        let object = objects.iter().find(|object| object.contains(digest.as_str())).expect("it is in the bucket");
        let by_larder = || {
            let mut connection = Connection::open(larder.addr).expect("larder accepts");
            let begin = Instant::now();
            let answer = connection.get(&origin.mirror(LARGE, &name)).expect("a whole answer");
            assert_eq!((answer.status, answer.body), (200, LARGE));
            (begin.elapsed().as_secs_f64(), answer.first_byte.as_secs_f64())
        };
        let by_sdk = || runtime.block_on(get(&alone, object));
        // Who comes second finds the object in the page cache of the server's machine: each does as often.
        let (through, direct) = if round % 2 == 0 {
            let through = by_larder();
            (through, by_sdk())
        } else {
            let direct = by_sdk();
            (by_larder(), direct)
        };
        rates.push((LARGE as f64 / 1e6 / through.0, LARGE as f64 / 1e6 / direct.0));
        firsts.push(((through.1) * 1e3, (direct.1) * 1e3));
    }
    assert_eq!(origin.requests(), fetched, "the bytes come from the bucket");
    let mut table =
        Table::new("64 MiB that S3 alone has".into(), &["what", "larder", "the SDK alone", "ratio", "floor"]);
    let of = |pairs: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| Spread::of(pairs.iter().map(pick)).text();
    let mut row = |what: &str, pairs: &[(f64, f64)], floor: &str| {
        let cells = [of(pairs, |pair| pair.0), of(pairs, |pair| pair.1), of(pairs, |pair| pair.0 / pair.1)];
        let [larder, sdk, ratio] = cells;
        table.row(vec![what.into(), larder, sdk, ratio, floor.into()]);
    };
    row("MB/s", &rates, "0.9");
    row("first byte, ms", &firsts, "as early");
    table
}

/// The SDK by itself, over the same connections as larder's.
async fn sdk(text: &str) -> AwsBucket {
    let config = config::parse("bench", text).expect("settings");
    let opened = bucket::open(&config, SystemClock::new(), Tasks::new()).await;
    opened.expect("settings that can be carried out").expect("a bucket is named")
}

async fn blobs(bucket: &AwsBucket) -> Vec<String> {
    let page = bucket.list("v1/blob/", None).await.expect("the bucket lists");
    page.objects.into_iter().map(|(name, _)| name).collect()
}

/// Reads an object whole, unchecked. Seconds until its end and its first byte.
async fn get(bucket: &AwsBucket, object: &str) -> (f64, f64) {
    let begin = Instant::now();
    let mut got = bucket.get(object, Span::Whole).await.expect("the bucket answers").expect("the object is there");
    let (mut first, mut len) = (None, 0);
    while let Some(chunk) = got.body.chunk().await {
        first.get_or_insert_with(|| begin.elapsed().as_secs_f64());
        len += chunk.expect("the body does not break").len() as u64;
    }
    assert_eq!(len, LARGE);
    (begin.elapsed().as_secs_f64(), first.expect("a byte came"))
}

fn await_empty(larder: SocketAddr) {
    let begin = Instant::now();
    while gauge(larder, "larder_outbox_blobs") > 0.0 {
        assert!(begin.elapsed() < PATIENCE, "not all is in the bucket after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn requests(larder: SocketAddr, kind: &str) -> f64 {
    metrics(larder, &format!("larder_s3_requests_total{{kind=\"{kind}\""))
}

fn all_requests(larder: SocketAddr) -> f64 {
    metrics(larder, "larder_s3_requests_total{")
}

fn gauge(larder: SocketAddr, name: &str) -> f64 {
    metrics(larder, &format!("{name} "))
}

/// The sum of all that begin so; there must be one.
fn metrics(larder: SocketAddr, beginning: &str) -> f64 {
    let mut text = Vec::new();
    let mut connection = Connection::open(larder).expect("larder accepts");
    connection.get_bytes("/metrics", &mut text).expect("larder tells its metrics");
    let text = String::from_utf8(text).expect("metrics are text");
    let found: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with(beginning))
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number"))
        .collect();
    assert!(!found.is_empty(), "no metric begins with {beginning}");
    found.iter().sum()
}
