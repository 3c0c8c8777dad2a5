//! Disks that are full, lie, or fail to sync. Nothing wrong is served; what cannot be kept is passed on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::alone;
use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::machine::{Mounted, root_or_say, scratch};
use crate::support::resource::Resource;
use crate::support::seed::Chance;
use crate::support::server::{LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const MIB: u64 = 1 << 20;

#[test]
fn a_full_disk_fails_no_request() {
    if !root_or_say("filling a disk") {
        return;
    }
    let (dir, upstream) = (scratch(), Upstream::start());
    let disk = Mounted::tmpfs(dir.path(), 24 * MIB);
    let server = Setup::below(dir.path()).data(&disk.at.join("data")).start();
    let sizes = [8 * MIB, 5 * MIB, MIB, 100_000, 20_000, 500];
    for round in 0..2 {
        for (at, len) in sizes.iter().cycle().take(18).enumerate() {
            let (path, seed) = (format!("/{at}"), 200 + at as u64);
            upstream.put(&path, Resource::seed(seed, *len));
            server.get(upstream.mirror(&path)).assert_is(200, Body::new(seed, *len).digest());
        }
        // Larger than the disk is: passed on whole.
        upstream.put("/whale", Resource::seed(250 + round, 40 * MIB));
        server.get(upstream.mirror("/whale")).assert_is(200, Body::new(250 + round, 40 * MIB).digest());
        upstream.remove("/whale");
    }
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_disk_that_another_filled_fails_no_request_and_heals() {
    if !root_or_say("filling a disk") {
        return;
    }
    let (dir, upstream) = (scratch(), Upstream::start());
    let disk = Mounted::tmpfs(dir.path(), 64 * MIB);
    let server = Setup::below(dir.path()).data(&disk.at.join("data")).start();
    upstream.put("/before", Resource::seed(260, MIB));
    server.get(upstream.mirror("/before")).assert_is(200, Body::new(260, MIB).digest());
    server.flush();
    let ballast = disk.at.join("ballast");
    // Until no byte more fits.
    let _ = fs::write(&ballast, vec![1; 64 << 20]);
    upstream.put("/during", Resource::seed(261, 3 * MIB));
    for _ in 0..2 {
        let reply = server.get(upstream.mirror("/during"));
        println!("with a full disk: {}", reply.cache_status());
        reply.assert_is(200, Body::new(261, 3 * MIB).digest());
        server.get(upstream.mirror("/before")).assert_is(200, Body::new(260, MIB).digest());
    }
    fs::remove_file(&ballast).expect("the ballast can be dropped");
    wait_until(Duration::from_secs(15), "it stores again without a restart", || {
        let before = upstream.count("/during");
        server.get(upstream.mirror("/during")).assert_is(200, Body::new(261, 3 * MIB).digest());
        upstream.count("/during") == before
    });
}

/// Every file below `dir` that holds bytes of blobs.
fn blob_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.join("segments"), dir.join("files")];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().map_while(Result::ok) {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else if entry.metadata().is_ok_and(|about| about.len() > 0) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, chance: &mut Chance) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a blob file can be opened");
    let at = chance.below(file.metadata().expect("it has a length").len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the byte is there");
    byte[0] ^= 1 << chance.below(8);
    file.write_all_at(&byte, at).expect("the byte can be written");
}

const FLIPPED_SIZES: [u64; 7] = [10, 900, 4_000, 60_000, 70_000, 300_000, 2 << 20];

/// Fills a data directory, stops, flips one bit in each of `flips` places, starts again with the memory tier empty.
#[test]
fn flipped_bits_are_never_served_and_heal_from_upstream() {
    let _alone = alone();
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let mut chance = Chance::announced("flipped bits");
    let body = |at: usize| Body::new(300 + at as u64, FLIPPED_SIZES[at % FLIPPED_SIZES.len()]);
    let count = FLIPPED_SIZES.len() * 6;
    let server = setup.start();
    for at in 0..count {
        upstream.put(&format!("/{at}"), Resource::seed(body(at).seed, body(at).len));
        server.get(upstream.mirror(&format!("/{at}"))).assert_is(200, body(at).digest());
    }
    server.flush();
    server.stop();
    for round in 0..8 {
        let files = blob_files(&setup.data);
        assert!(!files.is_empty(), "no blob files below {}", setup.data.display());
        for path in &files {
            for _ in 0..if path.extension().is_some_and(|end| end == "seg") { 20 } else { 1 } {
                flip(path, &mut chance);
            }
        }
        upstream.die();
        let server = setup.start();
        for at in 0..count {
            // Cut before the head is as good as an error.
            let Ok(reply) = Ask::get(upstream.mirror(&format!("/{at}"))).send(server.addr()) else { continue };
            let whole = reply.status == 200 && reply.clean;
            assert!(!whole || reply.digest == body(at).digest(), "round {round}: wrong bytes of /{at} were served");
            assert!(reply.status == 200 || reply.status >= 500, "round {round}: damage became {}", reply.status);
        }
        upstream.revive();
        for at in 0..count {
            wait_until(Duration::from_secs(40), "it heals from upstream", || {
                let Ok(reply) = Ask::get(upstream.mirror(&format!("/{at}"))).send(server.addr()) else { return false };
                let whole = reply.status == 200 && reply.clean;
                assert!(!whole || reply.digest == body(at).digest(), "round {round}: wrong bytes of /{at} were served");
                whole
            });
        }
        server.flush();
        server.stop();
    }
}

#[test]
fn verify_finds_damage_and_says_so() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let server = setup.start();
    upstream.put("/a", Resource::seed(360, 2 * MIB));
    server.get(upstream.mirror("/a")).assert_is(200, Body::new(360, 2 * MIB).digest());
    server.flush();
    let verify = |server: &Server| {
        let mut command = Command::new(LARDER);
        command.args(["verify", "--server", &server.url()]);
        end_of(command, Duration::from_secs(60))
    };
    let before = verify(&server);
    assert_eq!(before.code, Some(0), "{before:?}");
    server.stop();
    let files = blob_files(&setup.data);
    let file = files.iter().find(|path| path.extension().is_none_or(|end| end != "seg")).expect("2 MiB are a file");
    flip(file, &mut Chance::from_seed(1));
    let server = setup.start();
    let after = verify(&server);
    assert_eq!(after.code, Some(1), "{after:?}");
    // The damaged blob is set aside: a second run finds nothing wrong.
    assert_eq!(verify(&server).code, Some(0));
}

#[test]
fn deleted_blob_files_are_fetched_again() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let server = setup.start();
    let body = Body::new(361, 2 * MIB);
    upstream.put("/gone", Resource::seed(361, body.len));
    server.get(upstream.mirror("/gone")).assert_is(200, body.digest());
    server.flush();
    server.stop();
    for path in blob_files(&setup.data) {
        fs::remove_file(path).expect("a blob file can be removed");
    }
    let server = setup.start();
    for _ in 0..2 {
        server.get(upstream.mirror("/gone")).assert_is(200, body.digest());
    }
    assert_eq!(upstream.count("/gone"), 2);
}

/// fsyncgate: a sync that failed is not repeated and believed.
#[test]
fn a_failed_fsync_condemns_what_it_covered() {
    if !root_or_say("failing fsync with strace") {
        return;
    }
    let _alone = alone();
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let server = setup.start();
    upstream.put("/safe", Resource::seed(370, 30_000));
    server.get(upstream.mirror("/safe")).assert_is(200, Body::new(370, 30_000).digest());
    server.flush();
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
        .args(["-e", "inject=fsync,fdatasync:error=EIO", "-p", &server.pid().to_string()])
        .spawn()
        .expect("strace is installed");
    wait_until(Duration::from_secs(10), "strace is attached", || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    });
    for at in 0..20u64 {
        let len = if at % 2 == 0 { 5_000 } else { 400_000 };
        upstream.put(&format!("/unsafe/{at}"), Resource::seed(371 + at, len));
        server.get(upstream.mirror(&format!("/unsafe/{at}"))).assert_is(200, Body::new(371 + at, len).digest());
    }
    server.get(upstream.mirror("/safe")).assert_is(200, Body::new(370, 30_000).digest());
    std::thread::sleep(Duration::from_millis(300));
    let strace_pid = rustix::process::Pid::from_raw(strace.id() as i32).expect("a pid is not 0");
    rustix::process::kill_process(strace_pid, rustix::process::Signal::TERM).expect("our own child");
    strace.wait().expect("our own child");
    assert_eq!(server.get("/healthz").status, 200, "it goes on");
    let told = Ask::get("/api/v1/flush").method("POST").must(server.addr()).text();
    let told: serde_json::Value = serde_json::from_str(&told).expect("is JSON");
    assert!(told["taken_back"].as_u64().is_some_and(|lost| lost > 0), "{told}");
    server.kill();
    let server = setup.start();
    upstream.die();
    server.get(upstream.mirror("/safe")).assert_is(200, Body::new(370, 30_000).digest());
    upstream.revive();
    for at in 0..20u64 {
        let len = if at % 2 == 0 { 5_000 } else { 400_000 };
        wait_until(Duration::from_secs(40), "it is fetched again", || {
            let reply = server.get(upstream.mirror(&format!("/unsafe/{at}")));
            let whole = reply.status == 200 && reply.clean;
            assert!(!whole || reply.digest == Body::new(371 + at, len).digest(), "wrong bytes were served");
            whole
        });
    }
}
