//! A thousand clients ask for one cold object at once, and hash what they get.

use std::sync::Barrier;
use std::time::Instant;

use crate::Options;
use crate::load::Connection;
use crate::origin::Origin;
use crate::peers;
use crate::process::Peak;
use crate::report::{Report, Table};

const ASKERS: usize = 1000;
const LEN: u64 = 16 << 20;

pub fn run(_: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let origin = Origin::start();
    let larder = peers::larder(dir.path(), "larder", "", |_| String::new());
    // What starting up takes is not the crowd's: one small fetch first.
    Connection::open(larder.addr).and_then(|mut one| one.get(&origin.mirror(1000, "first"))).expect("an answer");
    let (before, expected) = (origin.requests(), origin.digest(LEN, "crowd"));
    eprintln!("crowd: {ASKERS} askers of 16 MiB");
    let barrier = Barrier::new(ASKERS);
    let peak = Peak::watch(larder.pid());
    let (cpu, begin) = (larder.cpu(), Instant::now());
    let right = std::thread::scope(|scope| {
        let ask = || {
            let mut connection = Connection::open(larder.addr).expect("larder accepts");
            barrier.wait();
            let mut hasher = blake3::Hasher::new();
            let got = connection.get_hashed(&origin.mirror(LEN, "crowd"), &mut hasher);
            got.is_ok_and(|len| len == LEN) && hasher.finalize() == expected
        };
        let start = || std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, ask).expect("a thread");
        let threads: Vec<_> = (0..ASKERS).map(|_| start()).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|right| *right).count()
    });
    let (seconds, growth) = (begin.elapsed().as_secs_f64(), peak.growth() >> 20);
    let mut table = Table::new("A thousand concurrent askers of a cold 16 MiB".into(), &["what", "measured", "floor"]);
    table.row(vec!["upstream fetches".into(), (origin.requests() - before).to_string(), "1".into()]);
    table.row(vec!["right bodies".into(), right.to_string(), ASKERS.to_string()]);
    table.row(vec!["memory growth, MiB".into(), growth.to_string(), "under 189".into()]);
    table.row(vec!["seconds".into(), format!("{seconds:.1}"), String::new()]);
    let gb = ASKERS as f64 * LEN as f64 / 1e9;
    table.row(vec!["CPU s/GB".into(), format!("{:.2}", (larder.cpu() - cpu) / gb), String::new()]);
    report.add(table);
}
