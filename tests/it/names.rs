//! Upstreams that nobody named, and what a mount says then.

use crate::support::machine::scratch;
use crate::support::registry::{Crates, go_mount};
use crate::support::resource::Resource;
use crate::support::server::Setup;
use crate::support::upstream::Upstream;

#[test]
fn a_mount_without_upstream_says_how_to_mend_it() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    // Go's list of proxies goes on after a 404; cargo would take it for an absence.
    let go = server.get("/go/example.test/m/@v/list");
    assert_eq!(go.status, 404, "{}", go.text());
    let cargo = server.get("/cargo/se/rd/serde");
    assert_eq!(cargo.status, 503, "{}", cargo.text());
    for reply in [go, cargo] {
        assert!(reply.cache_status().contains("no-upstream"), "{}", reply.cache_status());
        assert!(reply.text().contains("larder "), "no command that mends it: {}", reply.text());
    }
}

#[test]
fn an_upstream_in_the_path_is_used() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let body = crate::support::body::Body::new(90, 5000);
    crates.publish("demo", body);
    upstream.put("/example.test/m/@v/list", Resource::text("v1.0.0\n"));
    let server = Setup::below(dir.path()).start();
    assert_eq!(server.get(format!("{}/example.test/m/@v/list", go_mount(&upstream))).text(), "v1.0.0\n");
    let index = server.get(format!("{}/{}", crates.mount(), Crates::index_path("demo")));
    assert_eq!(index.status, 200);
    assert!(index.text().contains("\"name\":\"demo\""), "raw is served: {}", index.text());
    let target = crates.download_target(&server, "demo", &crate::support::body::sha256_hex(&body.whole()));
    for _ in 0..2 {
        server.get(&target).assert_is(200, body.digest());
    }
    assert_eq!(upstream.count(&Crates::download_path("demo")), 1);
    let absent = server.get(format!("{}/{}", crates.mount(), Crates::index_path("absent")));
    assert_eq!(absent.status, 404);
}

#[test]
fn a_configured_upstream_serves_the_bare_mount() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/example.test/m/@v/list", Resource::text("v1.0.0\n"));
    let config = format!("\n[ecosystem.go]\nupstreams = [\"{}\"]\n", upstream.url(""));
    let server = Setup::below(dir.path()).config(&config).start();
    assert_eq!(server.get("/go/example.test/m/@v/list").text(), "v1.0.0\n");
}
