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

/// The address that the golden stores have in their keys. Nothing listens there: what is asked for must be kept.
const ORIGIN: &str = "127.0.0.1:9";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("scratch can be written");
    for entry in fs::read_dir(from).expect("a golden folder").map_while(Result::ok) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("scratch can be written");
        }
    }
}

/// Makes a store for the format at hand: fetched over the forward proxy, since that way the upstream's name in the key
/// can be chosen while another port answers.
fn make(into: &Path) {
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path()).variable("http_proxy", &upstream.url(""));
    let server = setup.start();
    for len in SIZES {
        // As an outbound proxy, the upstream is asked in absolute form.
        let immutable = Resource::seed(len, len).header("cache-control", "max-age=31536000, immutable");
        upstream.put(&format!("http://{ORIGIN}/golden/{len}"), immutable.clone());
        upstream.put(&format!("/golden/{len}"), immutable);
        server.get(format!("/http/{ORIGIN}/golden/{len}")).assert_is(200, Body::new(len, len).digest());
    }
    server.flush();
    server.stop();
    copy(&setup.data, into);
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
        copy(&format, &setup.data);
        let server = setup.start();
        for len in SIZES {
            let reply = server.get(format!("/http/{ORIGIN}/golden/{len}"));
            reply.assert_is(200, Body::new(len, len).digest());
        }
        server.stop();
    }
}
