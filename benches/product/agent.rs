//! The agent of `larder run --server`: warm hits of its own store beside those of the server.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Options;
use crate::hits::{once, size_name};
use crate::load::{Connection, Measured};
use crate::origin::Origin;
use crate::peers::{self, Peer};
use crate::process::start_and_read;
use crate::report::{Report, Spread, Table};

const SIZES: [u64; 3] = [1 << 10, 64 << 10, 1 << 20];

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let origin = Origin::start();
    let mirror = origin.addr;
    let path = move |len: u64| format!("/http/{mirror}/{len}/hit");
    let server = peers::larder(dir.path(), "the server", "", path);
    let (agent, _guest) = agent(&dir.path().join("agent"), &server, path);
    for peer in [&server, &agent] {
        let mut connection = Connection::open(peer.addr).expect("larder accepts");
        for len in SIZES.into_iter().flat_map(|len| [len; 3]) {
            connection.get(&(peer.path)(len)).expect("the object comes through larder");
        }
    }
    assert_eq!(origin.requests(), SIZES.len(), "the agent asked the server");
    let head = ["size", "the server", "its agent", "agent / server", "floor", "CPU, agent / server"];
    let mut table = Table::new("Warm hits by way of the agent".into(), &head);
    let span = Duration::from_secs_f64(options.seconds);
    for len in SIZES.into_iter().filter(|len| options.sizes.is_empty() || options.sizes.contains(len)) {
        let mut rounds: Vec<[Measured; 2]> = Vec::new();
        for round in 0..options.rounds {
            eprintln!("agent, {}: round {} of {}", size_name(len), round + 1, options.rounds);
            rounds.push([&server, &agent].map(|peer| once(peer, len, span)));
        }
        let of = |what: &dyn Fn(&[Measured; 2]) -> f64| Spread::of(rounds.iter().map(what));
        let rate = |at: usize| format!("{:.0} /s", of(&|round| round[at].requests_per_second()).median);
        let ratio = of(&|round| round[1].requests_per_second() / round[0].requests_per_second());
        let cpu = of(&|round| round[1].cpu_per_request() / round[0].cpu_per_request());
        table.row(vec![size_name(len), rate(0), rate(1), ratio.text(), "0.95".into(), cpu.text()]);
    }
    report.add(table);
}

/// The agent, and what makes it stay.
fn agent(data: &Path, server: &Peer, path: impl Fn(u64) -> String + 'static) -> (Peer, File) {
    fs::create_dir_all(data).expect("scratch can be written");
    let guest = File::create(data.join("users.lock")).expect("scratch can be written");
    guest.lock_shared().expect("nobody else is there");
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.arg("shared").arg("--data").arg(data).args(["--server", &format!("http://{}", server.addr)]).env_clear();
    let (running, addr) = start_and_read(command, "ready http://");
    (Peer { name: "its agent", addr: addr.parse().expect("an address"), running, path: Box::new(path) }, guest)
}
