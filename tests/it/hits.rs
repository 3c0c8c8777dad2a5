//! What was fetched once is served again: across restarts, without the upstream, after it said that nothing changed.

use std::time::Duration;

use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::Setup;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// Around the borders of memory tier, segments, files, chunks and 0.
const SIZES: [u64; 12] = [0, 1, 1023, 1024, 4096, 65_535, 65_536, 65_537, 262_144, 262_145, 1 << 20, (5 << 20) + 3];

fn path(len: u64) -> String {
    format!("/of/{len}")
}

#[test]
fn a_restart_keeps_content_and_needs_no_upstream() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let server = setup.start();
    for len in SIZES {
        upstream.put(&path(len), Resource::seed(40 + len, len));
        for _ in 0..2 {
            server.get(upstream.mirror(&path(len))).assert_is(200, Body::new(40 + len, len).digest());
        }
        assert_eq!(upstream.count(&path(len)), 1, "the second answer came from the cache");
    }
    server.stop();
    upstream.die();
    let server = setup.start();
    for len in SIZES {
        server.get(upstream.mirror(&path(len))).assert_is(200, Body::new(40 + len, len).digest());
    }
    server.stop();
}

#[test]
fn every_answer_says_how_it_came_about() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(50, 2000));
    let server = Setup::below(dir.path()).start();
    let (cold, warm) = (server.get(upstream.mirror("/a")), server.get(upstream.mirror("/a")));
    assert!(cold.cache_status().contains("fwd=uri-miss"), "{}", cold.cache_status());
    assert!(warm.cache_status().contains("hit"), "{}", warm.cache_status());
    assert!(warm.header("age").is_some_and(|age| age.parse::<u64>().is_ok()), "{:?}", warm.headers);
    assert!(warm.header("via").is_some(), "{:?}", warm.headers);
    assert!(upstream.seen("/a")[0].header("via").is_some(), "Via goes upstream too: {:?}", upstream.seen("/a"));
    for path in ["/healthz", "/api/v1/stats", "/nothing/of/the/kind"] {
        let reply = server.get(path);
        assert!(reply.header("cache-status").is_some(), "{path}: {:?}", reply.headers);
    }
}

#[test]
fn a_head_request_agrees_with_get() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/h", Resource::seed(51, 70_000));
    let server = Setup::below(dir.path()).start();
    for round in ["cold", "warm"] {
        let head = Ask::get(upstream.mirror("/h")).method("HEAD").must(server.addr());
        assert_eq!((head.status, head.len), (200, 0), "{round}");
        assert_eq!(head.header("content-length"), Some("70000"), "{round}");
        server.get(upstream.mirror("/h")).assert_is(200, Body::new(51, 70_000).digest());
    }
}

#[test]
fn a_304_renews_what_is_kept() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(52, 9_000);
    let stale = Resource::seed(52, body.len).header("cache-control", "max-age=5").header("age", "10");
    upstream.put("/e", stale.clone());
    upstream.put("/l", stale.without("etag").header("last-modified", "Mon, 02 Nov 2026 10:00:00 GMT"));
    let server = Setup::below(dir.path()).start();
    for (path, field) in [("/e", "if-none-match"), ("/l", "if-modified-since")] {
        for _ in 0..3 {
            server.get(upstream.mirror(path)).assert_is(200, body.digest());
        }
        let seen = upstream.seen(path);
        assert!(seen[1..].iter().all(|seen| seen.header(field).is_some()), "{path}: {seen:?}");
    }
}

#[test]
fn a_clients_own_validator_gets_304() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/v", Resource::seed(53, 9_000));
    let server = Setup::below(dir.path()).start();
    let etag = server.get(upstream.mirror("/v")).header("etag").expect("an ETag").to_owned();
    let ask = |etag: &str| Ask::get(upstream.mirror("/v")).header("if-none-match", etag).must(server.addr());
    assert_eq!((ask(&etag).status, ask(&etag).len), (304, 0));
    ask("\"other\"").assert_is(200, Body::new(53, 9_000).digest());
    assert_eq!(upstream.count("/v"), 1);
}

#[test]
fn a_changed_document_replaces_the_kept_one() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let stale = |seed| Resource::seed(seed, 9_000).header("cache-control", "max-age=5").header("age", "10");
    let server = Setup::below(dir.path()).start();
    for seed in 54..58 {
        upstream.put("/c", stale(seed));
        server.get(upstream.mirror("/c")).assert_is(200, Body::new(seed, 9_000).digest());
    }
}

#[test]
fn stale_while_revalidate_answers_at_once_and_refreshes() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let stale = |seed| {
        Resource::seed(seed, 9_000).header("cache-control", "max-age=5, stale-while-revalidate=100").header("age", "10")
    };
    upstream.put("/s", stale(60));
    let server = Setup::below(dir.path()).start();
    let target = upstream.mirror("/s");
    server.get(&target).assert_is(200, Body::new(60, 9_000).digest());
    upstream.put("/s", stale(61));
    server.get(&target).assert_is(200, Body::new(60, 9_000).digest());
    wait_until(Duration::from_secs(10), "the refresh behind the answer", || upstream.count("/s") >= 2);
    wait_until(Duration::from_secs(10), "the new version", || {
        server.get(&target).digest == Body::new(61, 9_000).digest()
    });
}

#[test]
fn vary_keeps_answers_apart() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    let ask =
        |language: &str| Ask::get(upstream.mirror("/vary")).header("accept-language", language).must(server.addr());
    upstream.put("/vary", Resource::seed(62, 3000).header("vary", "accept-language"));
    ask("en").assert_is(200, Body::new(62, 3000).digest());
    upstream.put("/vary", Resource::seed(63, 3000).header("vary", "accept-language"));
    ask("de").assert_is(200, Body::new(63, 3000).digest());
    ask("en").assert_is(200, Body::new(62, 3000).digest());
    ask("de").assert_is(200, Body::new(63, 3000).digest());
    assert_eq!(upstream.count("/vary"), 2);
}

#[test]
fn what_may_not_be_stored_is_fetched_each_time() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    for (path, field, value) in [
        ("/no-store", "cache-control", "no-store, max-age=60"),
        ("/private", "cache-control", "private, max-age=60"),
        // No freshness is guessed for it; where the origin states one, it is an answer like any other (RFC 9111 §7.3).
        ("/cookie", "set-cookie", "who=me"),
    ] {
        upstream.put(path, Resource::seed(64, 3000).without("cache-control").header(field, value));
        server.get(upstream.mirror(path)).assert_is(200, Body::new(64, 3000).digest());
        server.get(upstream.mirror(path)).assert_is(200, Body::new(64, 3000).digest());
        assert_eq!(upstream.count(path), 2, "{path}");
    }
}

#[test]
fn one_identitys_answer_is_not_anothers() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/secret", Resource::seed(65, 3000));
    let server = Setup::below(dir.path()).start();
    let ask = |who: &str| Ask::get(upstream.mirror("/secret")).header("authorization", who).must(server.addr());
    ask("Bearer one").assert_is(200, Body::new(65, 3000).digest());
    upstream.put("/secret", Resource::seed(66, 3000));
    ask("Bearer two").assert_is(200, Body::new(66, 3000).digest());
    let nobody = server.get(upstream.mirror("/secret"));
    assert_ne!(nobody.digest, Body::new(65, 3000).digest(), "an authorised answer went to a stranger");
}

#[test]
fn the_forward_proxy_and_the_mirror_cache() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/proxied", Resource::seed(67, 40_000));
    let server = Setup::below(dir.path()).start();
    let ask = Ask::get(upstream.url("/proxied")).header("host", upstream.addr().to_string());
    for _ in 0..2 {
        ask.must(server.addr()).assert_is(200, Body::new(67, 40_000).digest());
    }
    assert_eq!(upstream.count("/proxied"), 1);
}

#[test]
fn offline_answers_from_the_cache_alone() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/kept", Resource::seed(68, 4000).header("cache-control", "max-age=5").header("age", "10"));
    upstream.put("/unkept", Resource::seed(69, 4000));
    let setup = Setup::below(dir.path());
    let server = setup.start();
    server.get(upstream.mirror("/kept")).assert_is(200, Body::new(68, 4000).digest());
    server.stop();
    upstream.forget_log();
    let server = setup.argument("--offline").start();
    server.get(upstream.mirror("/kept")).assert_is(200, Body::new(68, 4000).digest());
    let unkept = server.get(upstream.mirror("/unkept"));
    assert!(unkept.status >= 500, "{}: never an absence", unkept.status);
    assert!(upstream.all_seen().is_empty(), "offline asked upstream: {:?}", upstream.all_seen());
}
