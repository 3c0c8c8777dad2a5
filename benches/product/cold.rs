//! Cold misses: what larder adds to a fetch that has to happen anyway.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::Options;
use crate::load::Connection;
use crate::origin::Origin;
use crate::peers::{self, Peer};
use crate::process::{Peak, cpu_seconds, user_and_system};
use crate::report::{Report, Spread, Table};

const LEN: u64 = 256 << 20;
const HELD_TO: u64 = 100_000_000;

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let origin = Origin::start();
    let larder = peers::larder(dir.path(), "larder", "", |_| String::new());
    let rounds = options.rounds.min(3);
    report.add(held(&origin, &larder, rounds));
    // A round takes a second or two, and its cost moves with the host's memory: more of them, for a median that stands.
    report.add(unheld(dir.path(), &origin, &larder, 2 * options.rounds));
}

/// From an upstream held to 100 MB/s, directly and through larder in turn.
fn held(origin: &Origin, larder: &Peer, rounds: usize) -> Table {
    origin.hold_to(HELD_TO);
    let (mut ratios, mut later, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("cold miss at 100 MB/s: round {} of {rounds}", round + 1);
        let timed = |addr, path: &str| {
            let mut connection = Connection::open(addr).expect("a connection");
            let begin = Instant::now();
            let answer = connection.get(path).expect("a whole answer");
            (begin.elapsed().as_secs_f64(), answer.first_byte.as_secs_f64() * 1e3)
        };
        let direct = timed(origin.addr, &origin.path(LEN, &format!("direct-{round}")));
        let peak = Peak::watch(larder.pid());
        let through = timed(larder.addr, &origin.mirror(LEN, &format!("held-{round}")));
        growth.push(peak.growth() as f64 / f64::from(1 << 20));
        ratios.push(through.0 / direct.0);
        later.push(through.1 - direct.1);
    }
    origin.hold_to(0);
    let mut table = Table::new("Cold miss, 256 MiB, upstream held to 100 MB/s".into(), &["what", "measured", "floor"]);
    table.row(vec!["time / direct".into(), Spread::of(ratios.into_iter()).text(), "at most 1.05".into()]);
    table.row(vec!["first byte later by, ms".into(), Spread::of(later.into_iter()).text(), "at most 5".into()]);
    table.row(vec!["memory growth, MiB".into(), Spread::of(growth.into_iter()).text(), "under 64".into()]);
    table
}

/// As fast as it goes: what a byte costs. Beside it what any program pays that writes so much to a new file, and what the
/// two sums cost that larder takes of each byte: this machine's cores are not as fast at one time as at another.
fn unheld(dir: &Path, origin: &Origin, larder: &Peer, rounds: usize) -> Table {
    let (mut cost, mut system, mut plain, mut rate) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut hashes = Vec::new();
    let gb = 2.0 * LEN as f64 / 1e9;
    for round in 0..rounds {
        eprintln!("cold miss, unthrottled: round {} of {rounds}", round + 1);
        // A virtual machine's host gives memory at its first touch, at many times the price of the write itself, and on
        // whose account that falls is chance. What was just given back is what the kernel hands out next.
        plain.push(write_file(&dir.join("scratch"), 8 * LEN) / (4.0 * gb));
        hashes.push(hash(LEN) / (gb / 2.0));
        let (before, begin) = (user_and_system(larder.pid()), Instant::now());
        let mut connection = Connection::open(larder.addr).expect("larder accepts");
        for part in 0..2 {
            connection.get(&origin.mirror(LEN, &format!("free-{round}-{part}"))).expect("a whole answer");
        }
        rate.push(gb / begin.elapsed().as_secs_f64());
        let after = user_and_system(larder.pid());
        system.push((after.1 - before.1) / gb);
        cost.push((after.0 - before.0 + after.1 - before.1) / gb);
    }
    let mut table = Table::new("Cold miss, 256 MiB, unthrottled".into(), &["what", "measured", "floor"]);
    table.row(vec!["CPU s/GB".into(), Spread::of(cost.into_iter()).text(), "at most 1.5".into()]);
    table.row(vec!["of it in the kernel".into(), Spread::of(system.into_iter()).text(), String::new()]);
    table.row(vec!["SHA-256 and BLAKE3 alone, CPU s/GB".into(), Spread::of(hashes.into_iter()).text(), String::new()]);
    table.row(vec!["a plain write, CPU s/GB".into(), Spread::of(plain.into_iter()).text(), String::new()]);
    table.row(vec!["GB/s".into(), Spread::of(rate.into_iter()).text(), String::new()]);
    table
}

/// Writes a file and removes it; the CPU seconds that the writing took once memory was there.
fn write_file(path: &Path, len: u64) -> f64 {
    let piece = vec![7; 256 << 10];
    let mut took = 0.0;
    for _ in 0..2 {
        let before = cpu_seconds(std::process::id());
        let mut file = File::create(path).expect("scratch can be written");
        for _ in 0..len / piece.len() as u64 {
            file.write_all(&piece).expect("there is room for scratch");
        }
        took = cpu_seconds(std::process::id()) - before;
        fs::remove_file(path).expect("what was written can be removed");
    }
    took
}

/// The CPU seconds that SHA-256 and BLAKE3 of so many bytes take, by the same code as larder's.
fn hash(len: u64) -> f64 {
    let piece = vec![7; 256 << 10];
    let (mut sha256, mut blake3) = (Sha256::new(), blake3::Hasher::new());
    let before = cpu_seconds(std::process::id());
    for _ in 0..len / piece.len() as u64 {
        sha256.update(&piece);
        blake3.update(&piece);
    }
    let took = cpu_seconds(std::process::id()) - before;
    assert_ne!(sha256.finalize()[..], blake3.finalize().as_bytes()[..]);
    took
}
