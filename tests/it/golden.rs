//! Data directories that earlier formats left: they must be read as long as they are kept here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::body::Body;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::Setup;
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
        for len in SIZES {
            let reply = server.get(format!("/http/{origin}/golden/{len}"));
            reply.assert_is(200, Body::new(len, len).digest());
        }
        server.stop();
    }
}
