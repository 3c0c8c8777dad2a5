//! One fill, many followers: coalescing, hang-ups, ranges while the fill runs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::body::Body;
use crate::support::client::{Ask, Reply};
use crate::support::machine::scratch;
use crate::support::resource::{Fault, Ranges, Resource};
use crate::support::server::Setup;
use crate::support::upstream::Upstream;
use crate::support::{alone, wait_until};

const MIB: u64 = 1 << 20;

/// Asks `askers` times at once, and lets `between` run when each has read its first bytes.
fn crowd(to: SocketAddr, target: &str, askers: usize, between: impl FnOnce()) -> Vec<Reply> {
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..askers)
            .map(|_| {
                let begun = &begun;
                let ask = move || {
                    let mut open = Ask::get(target).open(to).expect("an answer's head");
                    open.read_some(1000).expect("the first bytes");
                    begun.fetch_add(1, Ordering::SeqCst);
                    open.finish().expect("a head was read")
                };
                std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, ask).expect("a thread starts")
            })
            .collect();
        wait_until(Duration::from_secs(50), "all follow the fill before it ends", || {
            begun.load(Ordering::SeqCst) == askers || threads.iter().any(|thread| thread.is_finished())
        });
        between();
        threads.into_iter().map(|thread| thread.join().expect("no asker panicked")).collect()
    })
}

#[test]
fn a_thousand_askers_of_one_cold_blob_cause_one_fetch() {
    let _alone = alone();
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(1, 16 * MIB);
    upstream.put("/big", Resource::seed(1, body.len).then(Fault::Hold(body.len / 2)));
    let server = Setup::below(dir.path()).start();
    // The first bytes reach everyone while the upstream still holds back the second half.
    let replies = crowd(server.addr(), &upstream.mirror("/big"), 1000, || upstream.release("/big"));
    for reply in &replies {
        reply.assert_is(200, body.digest());
    }
    assert_eq!(upstream.count("/big"), 1);
}

#[test]
fn followers_of_a_failed_fill_see_no_clean_end() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(2, 4 * MIB);
    upstream.put("/dies", Resource::seed(2, body.len).ranges(Ranges::Ignored).always(Fault::Hold(body.len / 2)));
    let server = Setup::below(dir.path()).start();
    let replies = crowd(server.addr(), &upstream.mirror("/dies"), 50, || upstream.die());
    for reply in &replies {
        assert!(!reply.clean, "a broken fill ended as if it were whole: {} bytes", reply.len);
    }
    upstream.revive();
    upstream.put("/dies", Resource::seed(2, body.len));
    let mut last = 0;
    wait_until(Duration::from_secs(30), "the upstream is asked again", || {
        let reply = server.get(upstream.mirror("/dies"));
        last = reply.status;
        assert!(last == 200 || last >= 500, "an outage became {last}");
        last == 200 && reply.clean && reply.digest == body.digest()
    });
}

#[test]
fn a_hang_up_in_the_middle_kills_no_fill() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(3, 4 * MIB);
    upstream.put("/left", Resource::seed(3, body.len).then(Fault::Hold(body.len / 2 + MIB)));
    let server = Setup::below(dir.path()).start();
    let mut open = Ask::get(upstream.mirror("/left")).open(server.addr()).expect("a head");
    open.read_some(MIB).expect("the first half");
    drop(open);
    // Past half: the fill goes on with nobody there.
    upstream.release("/left");
    server.get(upstream.mirror("/left")).assert_is(200, body.digest());
    assert_eq!(upstream.count("/left"), 1);
    upstream.die();
    server.get(upstream.mirror("/left")).assert_is(200, body.digest());
}

#[test]
fn the_leaders_hang_up_does_not_touch_the_others() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(4, 2 * MIB);
    upstream.put("/shared", Resource::seed(4, body.len).then(Fault::Hold(MIB / 2)));
    let server = Setup::below(dir.path()).start();
    let mut first = Ask::get(upstream.mirror("/shared")).open(server.addr()).expect("a head");
    first.read_some(1000).expect("first bytes");
    let mut second = Ask::get(upstream.mirror("/shared")).open(server.addr()).expect("a head");
    second.read_some(1000).expect("first bytes");
    drop(first);
    upstream.release("/shared");
    second.finish().expect("the rest").assert_is(200, body.digest());
    assert_eq!(upstream.count("/shared"), 1);
}

#[test]
fn a_range_is_served_from_a_running_fill() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(5, 8 * MIB);
    upstream.put("/part", Resource::seed(5, body.len).then(Fault::Hold(body.len / 2)));
    let server = Setup::below(dir.path()).start();
    let target = upstream.mirror("/part");
    let mut whole = Ask::get(&target).open(server.addr()).expect("a head");
    whole.read_some(1000).expect("first bytes");
    let (near, far) = ((MIB, 3 * MIB), (6 * MIB, 7 * MIB));
    let mut early = Ask::get(&target).range(&format!("{}-{}", near.0, near.1 - 1)).open(server.addr()).expect("a head");
    assert_eq!(early.status, 206);
    // Stored already: comes while the upstream holds back the rest, but for the last piece, which waits for proof.
    early.read_some(MIB).expect("stored bytes come at once");
    let late = std::thread::spawn({
        let (target, to) = (target.clone(), server.addr());
        move || Ask::get(target).range(&format!("{}-{}", far.0, far.1 - 1)).must(to)
    });
    std::thread::sleep(Duration::from_millis(50));
    upstream.release("/part");
    whole.finish().expect("the rest").assert_is(200, body.digest());
    early.finish().expect("the rest").assert_is(206, body.digest_of(near.0, near.1));
    late.join().expect("no panic").assert_is(206, body.digest_of(far.0, far.1));
    let whole_fetches = upstream.seen("/part").iter().filter(|seen| seen.header("range").is_none()).count();
    assert_eq!(whole_fetches, 1, "{:?}", upstream.seen("/part"));
}

#[test]
fn a_cold_range_is_right_whether_relayed_or_filled() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(6, 32 * MIB);
    upstream.put("/cold", Resource::seed(6, body.len));
    let server = Setup::below(dir.path()).start();
    let reply = Ask::get(upstream.mirror("/cold")).range("1000-1999").must(server.addr());
    reply.assert_is(206, body.digest_of(1000, 2000));
    assert_eq!(reply.header("content-range"), Some(format!("bytes 1000-1999/{}", body.len).as_str()));
    server.get(upstream.mirror("/cold")).assert_is(200, body.digest());
}

#[test]
fn ranges_of_what_is_kept() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(7, 3 * MIB + 17);
    upstream.put("/kept", Resource::seed(7, body.len));
    let server = Setup::below(dir.path()).start();
    let target = upstream.mirror("/kept");
    server.get(&target).assert_is(200, body.digest());
    upstream.die();
    let ask = |range: &str| Ask::get(&target).range(range).must(server.addr());
    let last = body.len - 1;
    for (range, from, to) in [
        ("0-0".to_owned(), 0, 1),
        ("0-".to_owned(), 0, body.len),
        ("262143-262144".to_owned(), 262_143, 262_145),
        (format!("{last}-"), last, body.len),
        (format!("{last}-99999999999"), last, body.len),
        ("-5".to_owned(), body.len - 5, body.len),
        ("-99999999999".to_owned(), 0, body.len),
    ] {
        let reply = ask(&range);
        assert_eq!(reply.status, 206, "{range}");
        reply.assert_is(206, body.digest_of(from, to));
        assert_eq!(reply.header("content-range"), Some(format!("bytes {from}-{}/{}", to - 1, body.len).as_str()));
    }
    for nonsense in ["5-2", "abc", "--5", "1-2-3", "", "18446744073709551616-"] {
        let reply = Ask::get(&target).header("range", format!("bytes={nonsense}")).must(server.addr());
        assert!(reply.status == 200 || reply.status == 416, "{nonsense}: {}", reply.status);
        assert!(reply.status == 416 || reply.digest == body.digest(), "{nonsense}");
    }
    let other_unit = Ask::get(&target).header("range", "lines=1-2").must(server.addr());
    other_unit.assert_is(200, body.digest());
}

#[test]
fn range_past_the_end_is_416() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/short", Resource::seed(8, 1000));
    let server = Setup::below(dir.path()).start();
    let target = upstream.mirror("/short");
    for round in ["cold", "warm"] {
        let reply = Ask::get(&target).range("1000-").must(server.addr());
        assert_eq!(reply.status, 416, "{round}: {}", reply.text());
        assert_eq!(reply.header("content-range"), Some("bytes */1000"), "{round}");
        server.get(&target).assert_is(200, Body::new(8, 1000).digest());
    }
}

#[test]
fn if_range_with_another_validator_gets_the_whole() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(9, 100_000);
    upstream.put("/ir", Resource::seed(9, body.len));
    let server = Setup::below(dir.path()).start();
    let target = upstream.mirror("/ir");
    let etag = server.get(&target).header("etag").expect("upstream's ETag is passed on").to_owned();
    let ask = |validator: &str| Ask::get(&target).range("0-9").header("if-range", validator).must(server.addr());
    ask(&etag).assert_is(206, body.digest_of(0, 10));
    ask("\"another\"").assert_is(200, body.digest());
}
