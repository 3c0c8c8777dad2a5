//! Data directories that earlier formats left: they must be read as long as they are kept here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::agent::larder_run;
use crate::support::body::Body;
use crate::support::machine::{run, scratch};
use crate::support::resource::Resource;
use crate::support::server::{Server, Setup, end_of};
use crate::support::upstream::Upstream;

/// Small enough for the repository, one on each side of every border.
const SIZES: [u64; 6] = [0, 1, 1000, 65_536, 70_000, 300_000];

/// Beside the data: the address of the upstream that it was made from, which is part of every key.
const ORIGIN: &str = "origin.txt";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("scratch can be written");
    for entry in fs::read_dir(from).expect("a golden folder").map_while(Result::ok) {
        let name = entry.file_name();
        let target = to.join(&name);
        // Of the process that was, not of the store.
        if name == "lock" || name.to_string_lossy().ends_with("-shm") {
            continue;
        }
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("scratch can be written");
        }
    }
}

/// Makes a store for the format at hand.
fn make(into: &Path) {
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let server = setup.start();
    for len in SIZES {
        let path = format!("/golden/{len}");
        upstream.put(&path, Resource::seed(len, len).header("cache-control", "max-age=31536000, immutable"));
        server.get(upstream.mirror(&path)).assert_is(200, Body::new(len, len).digest());
    }
    server.flush();
    server.stop();
    copy(&setup.data, &into.join("data"));
    fs::write(into.join(ORIGIN), upstream.addr().to_string()).expect("the golden folder can be written");
    println!("made {}", into.display());
}

#[test]
fn every_format_is_still_read() {
    let formats = golden();
    let mut found: Vec<PathBuf> =
        fs::read_dir(&formats).expect("the golden folder").map_while(Result::ok).map(|entry| entry.path()).collect();
    found.retain(|path| path.is_dir());
    if let (Some(into), true) = (std::env::var_os("LARDER_GOLDEN"), found.is_empty()) {
        let made = PathBuf::from(into).join("format-1");
        make(&made);
        found.push(made);
    }
    assert!(!found.is_empty(), "no golden store in {}: tests/golden/make makes one", formats.display());
    for format in found {
        let dir = scratch();
        let setup = Setup::below(dir.path()).argument("--offline");
        copy(&format.join("data"), &setup.data);
        let origin = fs::read_to_string(format.join(ORIGIN)).expect("a golden store has the address it was made from");
        let server = setup.start();
        assert_all(&server, &origin);
        server.stop();
    }
}

#[track_caller]
fn assert_all(server: &Server, origin: &str) {
    for len in SIZES {
        server.get(format!("/http/{origin}/golden/{len}")).assert_is(200, Body::new(len, len).digest());
    }
}

/// Every file of a store but those of processes.
fn files(dir: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = open.pop() {
        for path in fs::read_dir(&at).expect("a folder").map_while(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if path.is_file() && name != "lock" && !name.ends_with("-shm") && !name.ends_with("-wal") {
                let hash = blake3::hash(&fs::read(&path).expect("a file that is there"));
                found.insert(path, hash);
            }
        }
    }
    found
}

/// The store of the version before the last, then this version's, then a later version's, which this one leaves alone.
#[test]
fn two_upgrades_and_a_way_back_that_is_refused() {
    let dir = scratch();
    let setup = Setup::below(dir.path()).argument("--offline");
    let format = setup.data.join("format");
    copy(&golden().join("format-1/data"), &setup.data);
    // Format 0 had no number.
    fs::remove_file(&format).expect("it has one");
    let origin = fs::read_to_string(golden().join("format-1").join(ORIGIN)).expect("a golden store has its address");
    let server = setup.start();
    assert_all(&server, &origin);
    crate::support::wait_until(Duration::from_secs(20), "it is brought up", || format.exists());
    server.stop();
    let server = setup.start();
    assert_all(&server, &origin);
    server.stop();

    let this = fs::read(&format).expect("a number");
    // What stood there before.
    let set = |name: &str, version: &str| {
        let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nprint(c.execute('pragma user_version').fetchone()[0])\n\
                      c.execute('pragma user_version='+sys.argv[2])\nc.close()";
        run(&["python3", "-c", script, &setup.data.join(name).display().to_string(), version]).trim().to_owned()
    };
    let refused = |what: &str| {
        let before = files(&setup.data);
        let ended = setup.run_to_end(Duration::from_secs(20));
        assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
        for said in ["the data directory has format", "help: run that larder", "--data DIR", "nothing was changed"] {
            assert!(ended.stderr.contains(said), "{what}: {}", ended.stderr);
        }
        assert_eq!(files(&setup.data), before, "{what}");
    };
    fs::write(&format, "9 3.1.4\n").expect("scratch can be written");
    refused("a newer format");
    fs::write(&format, &this).expect("scratch can be written");
    for name in ["places.sqlite", "catalog.sqlite"] {
        let ours = set(name, "99");
        refused(name);
        set(name, &ours);
    }
    let server = setup.start();
    assert_all(&server, &origin);

    // The newer one serves: an older one does not even make it hand over.
    fs::write(&format, "9 3.1.4\n").expect("scratch can be written");
    refused("a newer larder that serves");
    assert_all(&server, &origin);
    server.stop();
}

/// A home that builds of several versions share.
#[test]
fn an_older_larder_beside_a_newer_ones_store_runs_the_build() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/file", Resource::text("bytes\n"));
    let server = Setup::below(dir.path()).start();
    let build = || {
        let mut command = larder_run(dir.path(), &server.url());
        let fetch = format!("curl -sSf $LARDER_SERVER{}", upstream.mirror("/file"));
        command.args(["--", "sh", "-c", &fetch]);
        end_of(command, Duration::from_secs(60))
    };
    let agents = dir.path().join("agent/agents");
    assert_eq!(build().stdout, "bytes\n");
    let agent = fs::read_dir(&agents).expect("agents").next().expect("one").expect("one").path();
    let owner = || fs::File::open(agent.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
    crate::support::wait_until(Duration::from_secs(20), "the agent goes", || !owner());
    fs::write(agent.join("format"), "9 3.1.4\n").expect("scratch can be written");
    let ended = build();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "bytes\n"), "{}", ended.stderr);
    let note = "the server is used without an agent: the data directory has format 9";
    assert!(ended.stderr.contains(note) && ended.stderr.contains("3.1.4"), "{}", ended.stderr);
}
