//! Warm hits: nginx, a bare hyper server and larder with and without its memory tier, in turn, round after round.

use std::time::Duration;

use crate::Options;
use crate::load::{self, Connection, Measured};
use crate::origin::Origin;
use crate::peers::{self, Peer};
use crate::report::{Report, Spread, Table};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

pub const SIZES: [u64; 4] = [KIB, 64 * KIB, MIB, 256 * MIB];

/// Connections for each size.
fn connections(len: u64) -> usize {
    if len >= 256 * MIB { 2 } else { 8 }
}

/// What the project promises of larder, relative to nginx: rate, and CPU where it is said.
fn floors(len: u64, memory: bool) -> (f64, Option<f64>) {
    match (len, memory) {
        (KIB, true) => (1.1, Some(0.9)),
        (KIB, false) => (1.0, None),
        (0x1_0000, true) => (0.9, None),
        (0x1_0000, false) => (0.75, None),
        _ => (1.2, None),
    }
}

pub fn size_name(len: u64) -> String {
    if len >= MIB { format!("{} MiB", len / MIB) } else { format!("{} KiB", len / KIB) }
}

pub fn once(peer: &Peer, len: u64, span: Duration) -> Measured {
    let path = (peer.path)(len);
    let before = peer.cpu();
    let mut measured = if len <= KIB {
        let mut measured = load::wrk(peer.addr, &path, span);
        measured.bytes = measured.requests * len;
        measured
    } else {
        load::bodies(peer.addr, &path, connections(len), span)
    };
    measured.cpu = peer.cpu() - before;
    measured
}

/// Fetches each object once through larder, then until it is a hit.
fn warm(peer: &Peer, origin: &Origin) {
    let mut connection = Connection::open(peer.addr).expect("larder accepts");
    for len in SIZES {
        for _ in 0..3 {
            let answer = connection.get(&(peer.path)(len)).expect("the object comes through larder");
            assert_eq!((answer.status, answer.body), (200, len));
        }
    }
    let before = origin.requests();
    for len in SIZES {
        connection.get(&(peer.path)(len)).expect("a hit");
    }
    assert_eq!(origin.requests(), before, "warm objects are hits");
}

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let origin = Origin::start();
    let mirror = origin.addr;
    let path = move |len: u64| format!("/http/{mirror}/{len}/hit");
    let all = [
        peers::nginx(dir.path(), &SIZES),
        peers::bare(),
        peers::larder(dir.path(), "larder, memory", "", path),
        peers::larder(dir.path(), "larder, disk", "\n[store]\nmemory_bytes = 0\n", path),
    ];
    for peer in &all[2..] {
        warm(peer, &origin);
    }
    let span = Duration::from_secs_f64(options.seconds);
    for len in SIZES.into_iter().filter(|len| options.sizes.is_empty() || options.sizes.contains(len)) {
        let mut rounds: Vec<Vec<Measured>> = Vec::new();
        for round in 0..options.rounds {
            eprintln!("hits, {}: round {} of {}", size_name(len), round + 1, options.rounds);
            rounds.push(all.iter().map(|peer| once(peer, len, span)).collect());
        }
        report.add(table(len, &all, &rounds));
    }
}

fn table(len: u64, all: &[Peer], rounds: &[Vec<Measured>]) -> Table {
    let mut table = Table::new(
        format!("Warm hits, {}", size_name(len)),
        &[
            "server",
            "rate",
            "CPU",
            "p99",
            "rate / nginx",
            "floor",
            "CPU / nginx",
            "floor",
            "rate / bare hyper",
            "floor",
        ],
    );
    for (at, peer) in all.iter().enumerate() {
        let of = |what: &dyn Fn(&[Measured]) -> f64| Spread::of(rounds.iter().map(|round| what(round)));
        let rate = of(&|round| round[at].requests_per_second());
        let (rate_text, cpu_text) = if len <= KIB {
            let cpu = of(&|round| round[at].cpu_per_request() * 1e6);
            (format!("{:.0} /s", rate.median), format!("{:.1} us", cpu.median))
        } else {
            let cpu = of(&|round| round[at].cpu_per_gb());
            (format!("{:.2} GB/s", rate.median * len as f64 / 1e9), format!("{:.3} s/GB", cpu.median))
        };
        let p99 = of(&|round| round[at].p99.as_secs_f64() * 1e3);
        let to_nginx = of(&|round| round[at].requests_per_second() / round[0].requests_per_second());
        let cpu_to_nginx = of(&|round| round[at].cpu_per_request() / round[0].cpu_per_request());
        let to_bare = of(&|round| round[at].requests_per_second() / round[1].requests_per_second());
        let (rate_floor, cpu_floor) = floors(len, at == 2);
        let is_larder = at >= 2;
        let blank = String::new;
        table.row(vec![
            peer.name.to_owned(),
            rate_text,
            cpu_text,
            format!("{:.2} ms", p99.median),
            to_nginx.text(),
            if is_larder { format!("{rate_floor}") } else { blank() },
            cpu_to_nginx.text(),
            if is_larder { cpu_floor.map_or_else(blank, |floor| format!("at most {floor}")) } else { blank() },
            to_bare.text(),
            if at == 2 { "0.8".to_owned() } else { blank() },
        ]);
    }
    table
}
