//! A Maven repository in a proxy's request line: what its own checksum files prove is kept by the layout's rules, in
//! common with the mount. What they do not prove stays under RFC 9111.

use crate::support::archive::file;
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::maven::{Artifact, jar, place, publish};
use crate::support::resource::Resource;
use crate::support::server::Setup;
use crate::support::upstream::Upstream;

const LIB: &str = "test.example:lib:1.0";

#[test]
fn a_proven_file_is_one_for_proxy_and_mount() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    let path = format!("{}.jar", place(LIB).0);
    publish(&upstream, &Artifact { name: LIB, needs: &[], more: "" });
    // Its own headers would not let it be kept.
    upstream.put(&path, file(&jar(LIB)).header("cache-control", "no-store"));
    let get = |target: &str| Ask::get(target).must(server.addr());
    let mount = format!("/maven/@http:{}{path}", upstream.addr());
    for target in [upstream.url(&path), mount.clone(), upstream.mirror(&path)] {
        get(&target).assert_is(200, blake3::hash(&jar(LIB)));
    }
    assert_eq!((upstream.count(&path), upstream.count(&format!("{path}.sha1"))), (1, 1));
    // Upstream has no such file; the sum is that of what is here.
    for target in [upstream.url(&format!("{path}.sha256")), format!("{mount}.sha256")] {
        assert_eq!(get(&target).text(), crate::support::body::sha256_hex(&jar(LIB)));
    }
    upstream.die();
    get(&upstream.url(&path)).assert_is(200, blake3::hash(&jar(LIB)));
    // One who shows who it is has to be known upstream.
    let known = Ask::get(upstream.url(&path)).header("authorization", "Basic eDp5").must(server.addr());
    assert!(known.status >= 500, "{}", known.status);
}

#[test]
fn an_unproven_file_is_what_its_headers_say() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    let path = format!("{}.jar", place(LIB).0);
    for (at, text) in ["first", "second", "third"].into_iter().enumerate() {
        upstream.put(&path, Resource::text(text).header("cache-control", "no-store"));
        let reply = Ask::get(upstream.url(&path)).must(server.addr());
        assert_eq!((reply.text().as_str(), upstream.count(&path)), (text, at + 1));
    }
    upstream.put(&path, Resource::text("fourth").header("cache-control", "max-age=600"));
    for _ in 0..2 {
        assert_eq!(Ask::get(upstream.url(&path)).must(server.addr()).text(), "fourth");
    }
    assert_eq!(upstream.count(&path), 4, "by its headers it is kept");
}

/// By mount a file that nothing proves is kept, and confirmed upstream each time. To a proxy's clients it stays what its
/// own headers say, whatever others were given by mount, and no sum is made of it.
#[test]
fn what_a_mount_keeps_without_proof_is_no_proof_for_anybody() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    let path = format!("{}.jar", place(LIB).0);
    let [mount, proxy] = [format!("/maven/@http:{}{path}", upstream.addr()), upstream.url(&path)];
    let get = |target: &str| Ask::get(target).must(server.addr());
    for (text, headers) in [("1", "no-store"), ("2", "max-age=600"), ("3", "max-age=600"), ("4", "no-store")] {
        let tag = format!("\"{text}\"");
        upstream.put(&path, Resource::text(text).header("cache-control", headers).header("etag", &tag));
        for _ in 0..2 {
            assert_eq!(get(&mount).text(), text);
        }
        assert_eq!(get(&format!("{mount}.sha256")).status, 404, "upstream has none");
    }
    for text in ["5", "6"] {
        upstream.put(&path, Resource::text(text).header("cache-control", "no-store"));
        assert_eq!(get(&proxy).text(), text, "nothing is fresh of what a mount was given");
    }
    upstream.put(&path, Resource::text("7").header("cache-control", "max-age=600").header("etag", "\"7\""));
    assert_eq!(get(&mount).text(), "7");
    upstream.die();
    assert_eq!(get(&mount).text(), "7", "the best there is");
}
