//! Cold misses: what larder adds to a fetch that has to happen anyway.

use std::time::Instant;

use crate::Options;
use crate::load::Connection;
use crate::origin::Origin;
use crate::peers::{self, Peer};
use crate::process::Peak;
use crate::report::{Report, Spread, Table};

const LEN: u64 = 256 << 20;
const HELD_TO: u64 = 100_000_000;

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let origin = Origin::start();
    let larder = peers::larder(dir.path(), "larder", "", |_| String::new());
    let rounds = options.rounds.min(3);
    report.add(held(&origin, &larder, rounds));
    report.add(unheld(&origin, &larder, rounds));
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

/// As fast as it goes: what a byte costs.
fn unheld(origin: &Origin, larder: &Peer, rounds: usize) -> Table {
    let (mut cost, mut rate) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("cold miss, unthrottled: round {} of {rounds}", round + 1);
        let (cpu, begin) = (larder.cpu(), Instant::now());
        let mut connection = Connection::open(larder.addr).expect("larder accepts");
        for part in 0..2 {
            connection.get(&origin.mirror(LEN, &format!("free-{round}-{part}"))).expect("a whole answer");
        }
        let gb = 2.0 * LEN as f64 / 1e9;
        rate.push(gb / begin.elapsed().as_secs_f64());
        cost.push((larder.cpu() - cpu) / gb);
    }
    let mut table = Table::new("Cold miss, 256 MiB, unthrottled".into(), &["what", "measured", "floor"]);
    table.row(vec!["CPU s/GB".into(), Spread::of(cost.into_iter()).text(), "at most 1.5".into()]);
    table.row(vec!["GB/s".into(), Spread::of(rate.into_iter()).text(), String::new()]);
    table
}
