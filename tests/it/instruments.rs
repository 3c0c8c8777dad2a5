//! The upstream that misbehaves, without larder: a fault that does not happen would make tests pass for nothing.

use std::time::Duration;

use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::resource::{Fault, Ranges, Resource};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

#[test]
fn a_healthy_resource_is_served_whole_by_range_and_by_validator() {
    let upstream = Upstream::start();
    let body = Body::new(1, 1_000_000);
    upstream.put("/a", Resource::seed(1, body.len));
    let ask = Ask::get("/a");
    ask.must(upstream.addr()).assert_is(200, body.digest());
    ask.clone().range("10-99").must(upstream.addr()).assert_is(206, body.digest_of(10, 100));
    assert_eq!(ask.clone().range("1000000-").must(upstream.addr()).status, 416);
    let etag = ask.must(upstream.addr()).header("etag").expect("an ETag").to_owned();
    assert_eq!(ask.clone().header("if-none-match", &etag).must(upstream.addr()).status, 304);
    ask.clone().range("0-9").header("if-range", "\"x\"").must(upstream.addr()).assert_is(200, body.digest());
    assert_eq!(ask.clone().method("HEAD").must(upstream.addr()).len, 0);
    assert_eq!(Ask::get("/b").must(upstream.addr()).status, 404);
    assert_eq!((upstream.count("/a"), upstream.count("/b")), (7, 1));
}

#[test]
fn every_fault_shows() {
    let upstream = Upstream::start();
    let body = Body::new(2, 1_000_000);
    let meet = |fault: Fault| {
        upstream.put("/a", Resource::seed(2, body.len).ranges(Ranges::Ignored).then(fault));
        let met = Ask::get("/a").send(upstream.addr());
        Ask::get("/a").must(upstream.addr()).assert_is(200, body.digest());
        met
    };
    for fault in [Fault::Truncate(500), Fault::Reset(500), Fault::TooShort(1), Fault::ChunkedCut(500)] {
        let reply = meet(fault.clone()).expect("a head");
        assert!(!reply.clean && reply.status == 200, "{fault:?}");
    }
    let wrong = meet(Fault::Corrupt(999_999)).expect("an answer");
    assert!(wrong.clean && wrong.digest != body.digest());
    assert_eq!(meet(Fault::Status(503, vec![])).expect("an answer").status, 503);
    for fault in [Fault::Close, Fault::Garbage] {
        assert!(meet(fault.clone()).is_err(), "{fault:?}");
    }
    meet(Fault::TooLong(10)).expect("an answer").assert_is(200, body.digest());
}

#[test]
fn held_bodies_wait_and_dead_upstreams_refuse() {
    let upstream = Upstream::start();
    let body = Body::new(3, 1_000_000);
    upstream.put("/a", Resource::seed(3, body.len).then(Fault::Hold(5000)));
    let mut open = Ask::get("/a").open(upstream.addr()).expect("a head");
    open.read_some(5000).expect("what comes before the hold");
    wait_until(Duration::from_secs(5), "it is held", || upstream.held("/a") == 1);
    upstream.release("/a");
    open.finish().expect("the rest").assert_is(200, body.digest());
    for _ in 0..3 {
        upstream.die();
        assert!(Ask::get("/a").send(upstream.addr()).is_err());
        upstream.revive();
        Ask::get("/a").must(upstream.addr()).assert_is(200, body.digest());
    }
}
