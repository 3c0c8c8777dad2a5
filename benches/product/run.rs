//! `larder run -- true`: what it adds to a command that does nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Options;
use crate::peers;
use crate::report::{Report, Spread, Table};

/// Rounds for one of the others: each takes some milliseconds.
const TIMES: usize = 8;
const WARM: &str = "at most 30";
const EMBEDDED: &str = "at most 150";

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let server = peers::larder(dir.path(), "larder", "", |_| String::new());
    let url = format!("http://{}", server.addr);
    let at = |name: &str| dir.path().join(name);
    let (with_server, embedded) = (["--server", url.as_str()], []);
    let rounds = TIMES * options.rounds;
    eprintln!("larder run: {rounds} rounds");
    let asked = added(&at("asked"), &embedded);
    let mut rows: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        rows[0].push(added(&at("before"), &with_server));
        rows[1].push(added(&at("embedded"), &embedded));
        // In a directory of its own nothing runs yet; what tools answered is not news.
        let fresh = at(&format!("fresh-{round}"));
        for (row, words) in [(2, &with_server[..]), (3, &embedded)] {
            fs::create_dir_all(fresh.join("asked")).expect("scratch can be written");
            for file in fs::read_dir(at("asked/asked")).into_iter().flatten().map_while(Result::ok) {
                fs::copy(file.path(), fresh.join("asked").join(file.file_name())).expect("scratch can be written");
            }
            rows[row].push(added(&fresh, words));
            // What was started there sees that its directory is gone, and goes.
            fs::remove_dir_all(&fresh).expect("scratch can be removed");
        }
    }
    let mut table = Table::new("`larder run -- true`, ms more than `true`".into(), &["what", "measured", "floor"]);
    // The first of each row starts what the others find.
    for (name, row, floor) in [
        ("with --server, its agent there", &rows[0][1..], WARM),
        ("embedded, its process there", &rows[1][1..], EMBEDDED),
        ("with --server, starting the agent, store and all", &rows[2][..], ""),
        ("embedded, starting the process, store and all", &rows[3][..], EMBEDDED),
        ("the first of all, which asks the tools", &[asked][..], ""),
    ] {
        table.row(vec![name.into(), Spread::of(row.iter().copied()).text(), floor.into()]);
    }
    report.add(table);
}

/// What it takes longer than the command alone, right before, in milliseconds.
fn added(data: &Path, words: &[&str]) -> f64 {
    let alone = took(Command::new("true"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.arg("run").arg("--data").arg(data).args(words).args(["--", "true"]);
    for name in ["LARDER_SERVER", "LARDER_TOKEN", "LARDER_LABEL"] {
        command.env_remove(name);
    }
    took(command) - alone
}

fn took(mut command: Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = command.status().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(status.success(), "{command:?}: {status}");
    begin.elapsed().as_secs_f64() * 1e3
}
