//! Upstreams on a bad day: nothing wrong is served or kept, an outage is never an absence.

use std::time::Duration;

use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::registry::{Crates, go_mount};
use crate::support::resource::{Fault, Ranges, Resource};
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const MIB: u64 = 1 << 20;

fn start() -> (tempfile::TempDir, Upstream, Server) {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    (dir, upstream, server)
}

/// Asks until the upstream, well again, is believed: a breaker may rest for a while. Anything wrong or absent on the
/// way is a failure.
#[track_caller]
fn heals(server: &Server, target: &str, digest: blake3::Hash) {
    wait_until(Duration::from_secs(40), "the answer is whole again", || {
        let reply = server.get(target);
        assert!(reply.status == 200 || reply.status >= 500, "{}: {}", reply.status, reply.text());
        assert!(reply.status != 200 || !reply.clean || reply.digest == digest, "wrong bytes were served");
        reply.status == 200 && reply.clean
    });
}

#[test]
fn a_body_that_breaks_off_is_resumed_by_range() {
    for (name, fault) in [
        ("truncated", Fault::Truncate(3 * MIB)),
        ("reset", Fault::Reset(3 * MIB)),
        ("dies", Fault::Truncate(1)),
        ("headless", Fault::Truncate(0)),
    ] {
        let (_dir, upstream, server) = start();
        let body = Body::new(20, 8 * MIB);
        upstream.put("/broken", Resource::seed(20, body.len).then(fault));
        server.get(upstream.mirror("/broken")).assert_is(200, body.digest());
        let seen = upstream.seen("/broken");
        assert!(seen.len() >= 2, "{name}: {seen:?}");
        assert!(name == "headless" || seen[1].header("range").is_some(), "{name}: not resumed: {seen:?}");
        upstream.die();
        server.get(upstream.mirror("/broken")).assert_is(200, body.digest());
    }
}

#[test]
fn a_resumed_body_is_never_spliced_from_two_versions() {
    let (_dir, upstream, server) = start();
    upstream.put("/changes", Resource::seed(21, 4 * MIB).then(Fault::Hold(2 * MIB)));
    let target = upstream.mirror("/changes");
    let mut open = Ask::get(&target).open(server.addr()).expect("a head");
    open.read_some(MIB).expect("first bytes");
    // The upstream cuts, and has another version of the same length when asked again.
    upstream.put("/changes", Resource::seed(22, 4 * MIB));
    upstream.cut();
    let reply = open.finish().expect("a head was read");
    let whole = reply.clean && reply.len == 4 * MIB;
    assert!(!whole || reply.digest == Body::new(21, 4 * MIB).digest(), "two versions in one body");
    heals(&server, &target, Body::new(22, 4 * MIB).digest());
}

#[test]
fn what_cannot_be_resumed_is_cut_and_not_kept() {
    for fault in [Fault::Truncate(MIB), Fault::TooShort(1), Fault::TooShort(MIB), Fault::ChunkedCut(MIB)] {
        let (_dir, upstream, server) = start();
        let body = Body::new(23, 2 * MIB);
        let resource = Resource::seed(23, body.len).ranges(Ranges::Ignored);
        upstream.put("/lies", resource.clone().always(fault.clone()));
        let reply = server.get(upstream.mirror("/lies"));
        let claims_whole = reply.status == 200 && reply.clean;
        assert!(!claims_whole, "{fault:?}: {} bytes were passed off as whole", reply.len);
        assert!(reply.status == 200 || reply.status >= 500, "{fault:?} became {}", reply.status);
        upstream.put("/lies", resource);
        heals(&server, &upstream.mirror("/lies"), body.digest());
    }
}

#[test]
fn bytes_past_the_announced_length_do_no_harm() {
    let (_dir, upstream, server) = start();
    let (body, other) = (Body::new(24, 100_000), Body::new(25, 5_000));
    upstream.put("/long", Resource::seed(24, body.len).then(Fault::TooLong(500)));
    upstream.put("/next", Resource::seed(25, other.len));
    server.get(upstream.mirror("/long")).assert_is(200, body.digest());
    server.get(upstream.mirror("/next")).assert_is(200, other.digest());
    server.get(upstream.mirror("/long")).assert_is(200, body.digest());
}

#[test]
fn a_wrong_checksum_is_never_served_nor_kept() {
    let (_dir, upstream, server) = start();
    let crates = Crates::on(&upstream);
    for (name, len, wrong_at) in [("small-one", 900, 3), ("middling", 300_000, 299_999), ("larger-one", 3 * MIB, 7)] {
        let body = Body::new(26, len);
        crates.publish(name, body);
        let path = Crates::download_path(name);
        let good = Resource::seed(26, len);
        upstream.put(&path, good.clone().always(Fault::Corrupt(wrong_at)));
        let sum = crate::support::body::sha256_hex(&body.whole());
        let target = crates.download_target(&server, name, &sum);
        // A connection that is cut before its head was sent is no answer at all.
        for reply in (0..2).filter_map(|_| Ask::get(&target).send(server.addr()).ok()) {
            assert!(reply.status != 200 || !reply.clean, "{name}: wrong bytes ended cleanly");
            assert!(reply.status == 200 || reply.status >= 500, "{name}: {}", reply.status);
        }
        if let Ok(range) = Ask::get(&target).range("0-99").send(server.addr()) {
            assert!(range.status != 206 || !range.clean, "{name}: a range of unproven bytes ended cleanly");
        }
        upstream.put(&path, good);
        heals(&server, &target, body.digest());
    }
}

/// A head alone is the whole of an empty answer: there is no last piece to withhold.
#[test]
fn nothing_in_the_place_of_a_crate_is_never_served_nor_kept() {
    let (_dir, upstream, server) = start();
    let crates = Crates::on(&upstream);
    let body = Body::new(26, 900);
    crates.publish("hollow", body);
    upstream.put(&Crates::download_path("hollow"), Resource::seed(26, 0));
    let sum = crate::support::body::sha256_hex(&body.whole());
    let target = crates.download_target(&server, "hollow", &sum);
    for _ in 0..2 {
        let reply = server.get(&target);
        assert!(reply.status >= 500, "an empty crate ended cleanly: {} {}", reply.status, reply.cache_status());
    }
    upstream.put(&Crates::download_path("hollow"), Resource::seed(26, 900));
    heals(&server, &target, body.digest());
}

#[test]
fn a_drip_is_passed_on_as_it_comes() {
    let (_dir, upstream, server) = start();
    // Longer than the last piece, which waits for proof.
    let body = Body::new(27, 640 << 10);
    upstream.put("/drip", Resource::seed(27, body.len).then(Fault::Drip(32 << 10, Duration::from_millis(200))));
    let begin = std::time::Instant::now();
    let mut open = Ask::get(upstream.mirror("/drip")).open(server.addr()).expect("a head");
    open.read_some(1).expect("a first byte");
    assert!(begin.elapsed() < Duration::from_secs(2), "the first byte waited for the others");
    open.finish().expect("the rest").assert_is(200, body.digest());
}

#[test]
fn a_drip_does_not_slow_the_others() {
    let (_dir, upstream, server) = start();
    upstream.put("/drip", Resource::seed(28, 1000).then(Fault::Drip(1, Duration::from_millis(50))));
    upstream.put("/quick", Resource::seed(29, 1000));
    let mut slow = Ask::get(upstream.mirror("/drip")).open(server.addr()).expect("a head");
    slow.read_some(1).expect("a first byte");
    server.get(upstream.mirror("/quick")).assert_is(200, Body::new(29, 1000).digest());
}

#[test]
fn an_outage_is_never_an_absence() {
    let faults = [
        Fault::Status(429, vec![("retry-after", "1".into())]),
        Fault::Status(500, vec![]),
        Fault::Status(502, vec![]),
        Fault::Status(503, vec![("retry-after", "1".into())]),
        Fault::Close,
        Fault::Garbage,
    ];
    for fault in faults {
        let (_dir, upstream, server) = start();
        let list = Resource::text("v1.0.0\n");
        upstream.put("/example.test/m/@v/list", list.clone().always(fault.clone()));
        let target = format!("{}/example.test/m/@v/list", go_mount(&upstream));
        let reply = server.get(&target);
        assert!(reply.status == 429 || reply.status >= 500, "{fault:?} became {}", reply.status);
        upstream.put("/example.test/m/@v/list", list);
        wait_until(Duration::from_secs(40), "the upstream is believed again", || {
            let reply = server.get(&target);
            assert!(reply.status == 200 || reply.status == 429 || reply.status >= 500, "{}", reply.status);
            reply.status == 200 && reply.text() == "v1.0.0\n"
        });
    }
}

#[test]
fn an_unreachable_upstream_is_an_outage() {
    let (_dir, upstream, server) = start();
    upstream.die();
    let go = server.get(format!("{}/example.test/m/@v/list", go_mount(&upstream)));
    assert!(go.status >= 500, "{}", go.status);
    let http = server.get(upstream.mirror("/x"));
    assert!(http.status >= 500, "{}", http.status);
    assert!(http.cache_status().contains("larder"), "{}", http.cache_status());
}

#[test]
fn an_absence_is_passed_on_and_remembered_for_a_while() {
    let (_dir, upstream, server) = start();
    let path = "/example.test/none/@v/list";
    let target = format!("{}{path}", go_mount(&upstream));
    for _ in 0..5 {
        assert_eq!(server.get(&target).status, 404);
    }
    assert_eq!(upstream.count(path), 1, "storms of 404s are what a module proxy's clients cause");
    upstream.put("/example.test/gone/@v/list", Resource::text("").always(Fault::Status(410, vec![])));
    assert_eq!(server.get(format!("{}/example.test/gone/@v/list", go_mount(&upstream))).status, 410);
}

#[test]
fn stale_if_error() {
    let (_dir, upstream, server) = start();
    let body = Body::new(30, 5_000);
    // `Age` makes it stale on arrival: no test waits for a clock.
    let resource =
        Resource::seed(30, body.len).header("cache-control", "max-age=5, stale-if-error=1000").header("age", "10");
    upstream.put("/old", resource.clone());
    let target = upstream.mirror("/old");
    server.get(&target).assert_is(200, body.digest());
    upstream.put("/old", resource.clone().always(Fault::Status(503, vec![])));
    server.get(&target).assert_is(200, body.digest());
    upstream.die();
    server.get(&target).assert_is(200, body.digest());
}

#[test]
fn a_dead_upstream_does_not_revive_what_must_be_revalidated() {
    let (_dir, upstream, server) = start();
    let resource = Resource::seed(31, 5_000).header("cache-control", "max-age=5, must-revalidate").header("age", "10");
    upstream.put("/strict", resource);
    let target = upstream.mirror("/strict");
    server.get(&target).assert_is(200, Body::new(31, 5_000).digest());
    upstream.die();
    let reply = server.get(&target);
    assert!(reply.status == 502 || reply.status == 504, "RFC 9111 §5.2.2.2: {} {}", reply.status, reply.cache_status());
}

#[test]
fn a_silent_upstream_does_not_hold_up_hits() {
    let (_dir, upstream, server) = start();
    let body = Body::new(32, 5_000);
    upstream.put("/known", Resource::seed(32, body.len));
    upstream.put("/silent", Resource::seed(33, 10).always(Fault::Silent));
    server.get(upstream.mirror("/known")).assert_is(200, body.digest());
    std::thread::scope(|scope| {
        let (addr, target) = (server.addr(), upstream.mirror("/silent"));
        for _ in 0..20 {
            let target = target.clone();
            // Whatever it is told in the end: it is the upstream's death that ends it here.
            scope.spawn(move || drop(Ask::get(target).send(addr)));
        }
        wait_until(Duration::from_secs(10), "the upstream is asked", || upstream.held("/silent") > 0);
        for _ in 0..20 {
            server.get(upstream.mirror("/known")).assert_is(200, body.digest());
        }
        upstream.die();
    });
}
