//! The index against its bars: bytes in memory for each blob, FindMissing against SQLite's best form, time to open.
//!
//! Ratios within one run count, absolute numbers depend on the machine. Prints a line for each figure and fails when
//! one misses its bar: at most 100 bytes for a blob with its SHA-256 and a key at the worst point while the table
//! grows, at most 10 ms of CPU for 100,000 checksums among a million and 8 times faster than SQLite, open in under
//! a second. Two figures have no bar: how long hits take while the writer commits all the time, against a quiet index,
//! and what the whole program holds more for a million blobs than for none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use larder::index::record::{NewBlob, Record};
use larder::index::table::{Blob, Minutes, Table, Use};
use larder::index::{Ack, Index, Presence, Settings};
use larder::model::checksum::{Algorithm, Checksum};
use larder::model::digest::Digest;
use larder::model::entry::Entry;
use larder::model::key::Key;
use larder::model::place::{Class, Place, TierName};
use larder::model::realm::{Realm, Scope};
use larder::model::time::Timestamp;
use larder::runtime::clock::SystemClock;
use larder::runtime::durable::{Dirty, Unsynced};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BLOBS: u32 = 1_000_000;
const ASKS: u32 = 100_000;
const ROUNDS: usize = 11;
/// Single hits that are timed.
const HITS: usize = 4_000_000;

struct Bar {
    failed: bool,
}

impl Bar {
    fn check(&mut self, what: &str, holds: bool) {
        println!("{} {what}", if holds { "ok    " } else { "MISSED" });
        self.failed |= !holds;
    }
}

fn main() {
    // `cargo test --benches` runs this too, with nothing to measure in it.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let blobs = std::env::var("LARDER_BENCH_BLOBS").ok().and_then(|count| count.parse().ok()).unwrap_or(BLOBS);
    let mut bar = Bar { failed: false };
    memory(blobs, &mut bar);
    if std::env::var_os("LARDER_BENCH_TABLE").is_some() {
        return;
    }
    let temporary = tempfile::tempdir().expect("a directory");
    // A directory that is given is filled once and used again.
    let dir = std::env::var_os("LARDER_BENCH_DIR").map_or(temporary.path().to_owned(), Into::into);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if !dir.join("places.sqlite").exists() {
            fill(&dir, blobs).await;
        }
        let index = open(&dir, &mut bar).await;
        recall(&index, blobs).await;
        find_missing(&index, blobs, &mut bar).await;
        during_commits(&index, blobs).await;
        index.close().await;
    });
    whole_program(&dir, blobs);
    std::process::exit(i32::from(bar.failed));
}

/// Times of single hits, first with nothing else to do, then while records come as fast as they are taken.
async fn during_commits(index: &Index, blobs: u32) {
    let hits = |index: Index| std::thread::spawn(move || times_of_hits(&index, blobs));
    let quiet = hits(index.clone()).join().expect("it counts to its end");
    println!("hits: {}, of a quiet index", of_many(&quiet));
    let dirty: Dirty = Arc::new(Synced);
    let before = index.counts();
    let start = cpu(ClockId::Monotonic);
    let busy = hits(index.clone());
    // Numbers that no other figure asks for.
    let mut n = 3 << 30;
    while !busy.is_finished() {
        index.record(record(n, &dirty), Ack::Visible).await.expect("records");
        n += 1;
    }
    let (took, after) = (cpu(ClockId::Monotonic) - start, index.counts());
    let busy = busy.join().expect("it counts to its end");
    let records = f64::from(n - (3 << 30)) / took.as_secs_f64();
    let commits = after.commits - before.commits;
    println!("hits: {}, during {records:.0} records a second in {commits} commits", of_many(&busy));
}

/// A hit's share of the index: the entry, the place of its body, the use.
fn times_of_hits(index: &Index, blobs: u32) -> Vec<u64> {
    let hot: Vec<_> = (0..10_000.min(blobs)).map(|n| (key(n).hash(), digest(n))).collect();
    let mut times = Vec::with_capacity(HITS);
    for (key, digest) in hot.iter().cycle().take(HITS) {
        let start = cpu(ClockId::Monotonic);
        let found = matches!(index.recall(key), Presence::Present(_));
        assert!(found && matches!(index.place(digest), Presence::Present(_)), "it was read before");
        index.touch(digest);
        times.push(u64::try_from((cpu(ClockId::Monotonic) - start).as_nanos()).unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    times
}

fn of_many(sorted: &[u64]) -> String {
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    format!("p50 {p50} ns, p99 {p99} ns, p99.9 {p999} ns, most {} us", at(1.0) / 1000)
}

/// The program itself on this directory and on an empty one, each once its table is loaded.
fn whole_program(dir: &Path, blobs: u32) {
    let empty = tempfile::tempdir().expect("a directory");
    let none = Serving::start(empty.path()).resident_when_loaded();
    let all = Serving::start(dir).resident_when_loaded();
    let (mib, each) = (|bytes: u64| bytes >> 20, (all.saturating_sub(none)) as f64 / f64::from(blobs));
    println!(
        "program: {} MiB resident with {blobs} blobs, {} MiB with none: {each:.1} bytes each",
        mib(all),
        mib(none)
    );
}

struct Serving {
    child: Child,
    addr: String,
    /// Held, so that it can go on printing.
    _said: BufReader<ChildStdout>,
}

impl Serving {
    fn start(dir: &Path) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir).env_clear().env("HOME", "");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let (mut line, mut said) = (String::new(), BufReader::new(child.stdout.take().expect("piped")));
        said.read_line(&mut line).expect("it says where");
        let addr = line.trim().strip_prefix("listening on http://").expect("it listens").to_owned();
        Serving { child, addr, _said: said }
    }

    fn resident_when_loaded(&self) -> u64 {
        let stats = || {
            let mut stream = TcpStream::connect(&self.addr)?;
            write!(stream, "GET /api/v1/stats HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.addr)?;
            let mut said = String::new();
            stream.read_to_string(&mut said).map(|_| said.replace(' ', ""))
        };
        while !stats().expect("it answers").contains("\"loaded\":true") {
            std::thread::sleep(Duration::from_millis(20));
        }
        resident_of(&self.child.id().to_string())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Grows a table and looks at the process's memory after every growth.
fn memory(blobs: u32, bar: &mut Bar) {
    let table = Table::new(u64::MAX);
    let (mut worst, mut worst_table, mut bytes) = (0.0_f64, 0.0_f64, 0);
    let before = resident();
    let start = cpu(ClockId::ThreadCPUTime);
    let mut looking = Duration::ZERO;
    for n in 0..blobs {
        let digest = digest(n).prefix();
        let used = Use { last: Minutes::default(), hits: 0 };
        table.put(&Blob { digest, sha256: Some(sum(n).prefix()), place: place(n), class: Class::Trusted, used });
        table.name(&key(n).hash().0, Some(&digest));
        if table.bytes() != bytes {
            bytes = table.bytes();
            // Before that the fixed cost of the shards shows.
            if n > blobs / 2 {
                let look = cpu(ClockId::ThreadCPUTime);
                worst = worst.max(resident().saturating_sub(before) as f64 / f64::from(n));
                worst_table = worst_table.max(bytes as f64 / f64::from(n));
                looking += cpu(ClockId::ThreadCPUTime) - look;
            }
        }
    }
    let each = (cpu(ClockId::ThreadCPUTime) - start - looking).as_nanos() as f64 / f64::from(blobs);
    let end = resident().saturating_sub(before) as f64 / f64::from(blobs);
    println!("table: {end:.1} bytes resident for each of {blobs} blobs at the end, insert {each:.0} ns with hashing");
    println!("table: {worst:.1} bytes resident at the worst point, {worst_table:.1} by its own count");
    bar.check("at most 100 bytes for a blob, its SHA-256 and a key", worst <= 100.0);
    assert_eq!(table.blobs(), u64::from(blobs));
    let realm = Realm::public();
    (0..blobs).for_each(|n| assert!(table.add_realm(&digest(n).prefix(), &realm)));
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS as u32 {
        let asks = asks(round, blobs);
        let mut found = Vec::new();
        let start = cpu(ClockId::ThreadCPUTime);
        table.find_sums(std::slice::from_ref(&realm), &asks, Minutes::default(), &mut found);
        rounds.add(cpu(ClockId::ThreadCPUTime) - start);
    }
    println!("table: {rounds} of CPU for {ASKS} checksums, half of them present");
}

/// Half of them present, spread over all that is there: neighbours in a list of outputs are no neighbours in memory.
fn asks(round: u32, blobs: u32) -> Vec<Checksum> {
    let spread = |n: u32| (u64::from(round * ASKS + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % blobs;
    (0..ASKS).map(|n| sum(if n % 2 == 0 { spread(n) } else { blobs + spread(n) })).collect()
}

/// Records a million blobs as fills would.
async fn fill(dir: &Path, blobs: u32) {
    let clock = SystemClock::new();
    let index = Index::open(dir, &settings(), clock.clone(), Box::new(|_, _, _| {})).expect("opens");
    let dirty: Dirty = Arc::new(Synced);
    let start = clock.elapsed();
    for n in 0..blobs {
        index.record(record(n, &dirty), Ack::Visible).await.expect("records");
    }
    index.flush().await.expect("flushes");
    let took = clock.elapsed() - start;
    let rate = f64::from(blobs) / took.as_secs_f64();
    println!("record: {rate:.0} blobs a second with sums, edge and entry, {} commits", index.counts().commits);
    index.close().await;
}

async fn open(dir: &Path, bar: &mut Bar) -> Index {
    let clock = SystemClock::new();
    let before = resident();
    let (start, worked) = (clock.elapsed(), cpu(ClockId::ProcessCPUTime));
    let index = Index::open(dir, &settings(), clock.clone(), Box::new(|_, _, _| {})).expect("opens");
    let opened = clock.elapsed() - start;
    let found = index.find_place(&digest(7)).await.expect("answers");
    let served = clock.elapsed() - start;
    index.loaded().await;
    let loaded = clock.elapsed() - start;
    let worked = cpu(ClockId::ProcessCPUTime) - worked;
    let counts = index.counts();
    println!(
        "open: ready in {opened:.1?}, first answer after {served:.1?}, {} blobs and {} keys loaded after {loaded:.1?}, \
         {worked:.1?} of CPU",
        counts.blobs, counts.keys
    );
    let each = resident().saturating_sub(before) as f64 / counts.blobs as f64;
    println!("open: {each:.1} bytes resident for each blob after loading, page caches included");
    assert_eq!(found, Some(place(7)));
    bar.check("ready in under a second", served < Duration::from_secs(1));
    index
}

/// The hot path: keys whose entries are in memory.
async fn recall(index: &Index, blobs: u32) {
    let keys: Vec<_> = (0..10_000.min(blobs)).map(|n| key(n).hash()).collect();
    for key in &keys {
        index.candidates(key).await.expect("answers").expect("is there");
    }
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let start = cpu(ClockId::ThreadCPUTime);
        let found = keys.iter().filter(|key| matches!(index.recall(key), Presence::Present(_))).count();
        rounds.add((cpu(ClockId::ThreadCPUTime) - start) / u32::try_from(keys.len()).expect("few"));
        assert_eq!(found, keys.len());
    }
    println!("recall: {rounds} of CPU for an entry in memory");
}

/// 100,000 checksums, half of them present, asked of the index and of SQLite in turn.
async fn find_missing(index: &Index, blobs: u32, bar: &mut Bar) {
    let sqlite = Sqlite::fill(blobs);
    let realms = [Realm::named("mine"), Realm::public()];
    let reads = index.counts().sql_reads;
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for round in 0..ROUNDS as u32 {
        let from = round * 7919;
        let asks: Vec<Checksum> =
            (0..ASKS).map(|n| if n % 2 == 0 { sum((from + n * 9) % blobs) } else { sum(blobs + from + n) }).collect();
        let start = cpu(ClockId::ThreadCPUTime);
        let missing = index.missing(&realms, &asks).await.expect("answers");
        ours.add(cpu(ClockId::ThreadCPUTime) - start);
        let start = cpu(ClockId::ThreadCPUTime);
        let absent = sqlite.missing(&asks);
        theirs.add(cpu(ClockId::ThreadCPUTime) - start);
        assert_eq!((missing.len(), absent.len()), (ASKS as usize / 2, ASKS as usize / 2));
    }
    assert_eq!(index.counts().sql_reads, reads, "no SQL");
    println!("find missing: ours {ours}, SQLite sorted in one transaction {theirs}");
    let ratio = theirs.median().as_secs_f64() / ours.median().as_secs_f64();
    println!("find missing: {ratio:.1} times faster than SQLite");
    bar.check("100,000 checksums in at most 10 ms of CPU", ours.median() <= Duration::from_millis(10));
    bar.check("at least 8 times faster than SQLite", ratio >= 8.0);
}

/// SQLite in its best form: a table by SHA-256 without rowid, its pages cached, asked sorted in one transaction. It
/// does not even look at realms.
struct Sqlite {
    connection: rusqlite::Connection,
    _dir: tempfile::TempDir,
}

impl Sqlite {
    fn fill(blobs: u32) -> Sqlite {
        let dir = tempfile::tempdir().expect("a directory");
        let mut connection = rusqlite::Connection::open(dir.path().join("sums.sqlite")).expect("opens");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -262144;
                 CREATE TABLE blobs (sha256 BLOB PRIMARY KEY, object INTEGER, offset INTEGER, len INTEGER) WITHOUT ROWID",
            )
            .expect("makes the table");
        let mut sums: Vec<Checksum> = (0..blobs).map(sum).collect();
        sums.sort_unstable();
        let transaction = connection.transaction().expect("begins");
        {
            let mut insert = transaction.prepare("INSERT INTO blobs VALUES (?1, 1, 2, 3)").expect("prepares");
            for sum in &sums {
                insert.execute([sum.as_bytes()]).expect("inserts");
            }
        }
        transaction.commit().expect("commits");
        Sqlite { connection, _dir: dir }
    }

    fn missing(&self, asks: &[Checksum]) -> Vec<Checksum> {
        let mut sorted: Vec<&Checksum> = asks.iter().collect();
        sorted.sort_unstable();
        let transaction = self.connection.unchecked_transaction().expect("begins");
        let mut find = transaction.prepare_cached("SELECT 1 FROM blobs WHERE sha256 = ?1").expect("prepares");
        sorted.into_iter().filter(|sum| !find.exists([sum.as_bytes()]).expect("answers")).copied().collect()
    }
}

/// Durations of several rounds: median, least, most.
#[derive(Default)]
struct Rounds(Vec<Duration>);

impl Rounds {
    fn add(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort_unstable();
    }

    fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }
}

impl std::fmt::Display for Rounds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.1?} ({:.1?} to {:.1?})", self.median(), self.0[0], self.0[self.0.len() - 1])
    }
}

struct Synced;

impl Unsynced for Synced {
    fn object(&self) -> u64 {
        0
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}

fn settings() -> Settings {
    Settings::default()
}

fn digest(n: u32) -> Digest {
    Digest::of(&n.to_le_bytes())
}

/// Not a true SHA-256, but as random.
fn sum(n: u32) -> Checksum {
    Checksum::new(Algorithm::Sha256, Digest::of(&(u64::from(n) << 32 | 1).to_le_bytes()).as_bytes()).expect("32 bytes")
}

fn key(n: u32) -> Key {
    Key {
        scope: Scope::shared(),
        ecosystem: "go",
        upstream: "https://upstream.test".into(),
        path: format!("/example.test/module{}/@v/v1.{}.0.zip", n / 16, n % 16),
        variant: String::new(),
    }
}

fn place(n: u32) -> Place {
    Place { tier: TierName::Segment, object: n >> 14, offset: (n & 0x3fff) << 14, len: 16_000 }
}

fn record(n: u32, dirty: &Dirty) -> Record {
    let (key, digest) = (key(n), digest(n));
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("application/zip"));
    headers.insert("etag", http::HeaderValue::from_static("\"0123456789abcdef0123456789abcdef\""));
    headers.insert("last-modified", http::HeaderValue::from_static("Mon, 23 Nov 2026 02:50:09 GMT"));
    let entry = Entry {
        hash: key.hash(),
        key: Arc::new(key),
        status: 200,
        headers,
        vary: Vec::new(),
        body: Some(digest),
        len: 16_000,
        requested_at: Timestamp(1),
        fetched_at: Timestamp(2),
        fetch_ms: 30,
        seq: 0,
        refs: Vec::new(),
        writer: Arc::from("anonymous"),
        realm: Realm::public(),
        valid: true,
    };
    let blob = NewBlob { digest, sums: vec![sum(n)], place: place(n), class: Class::Trusted, dirty: dirty.clone() };
    Record {
        blob: Some(blob),
        entries: vec![larder::index::catalog::Put { entry: Arc::new(entry), expected: None }],
        edges: vec![(Realm::public(), digest)],
        ..Record::default()
    }
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    resident_of("self")
}

fn resident_of(process: &str) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("the kernel says");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as u64
}
