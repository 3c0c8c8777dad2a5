//! A clock that is a year off: larder's own, or upstream's. Nothing is served for longer than it is good, and nothing is
//! refused.

use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;

/// A server that sees a time so many days off.
fn started(setup: &Setup, days: i32) -> Server {
    let folders = std::fs::read_dir("/usr/lib").expect("is there").filter_map(Result::ok);
    let library = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let library = library.expect("tests/setup installs faketime").display().to_string();
    let setup = setup.clone().variable("LD_PRELOAD", &library).variable("FAKETIME", &format!("{days:+}d"));
    setup.variable("FAKETIME_DONT_FAKE_MONOTONIC", "1").start()
}

/// Fresh for a minute, by larder's own times.
const LIST: &str = "/example.com/m/@v/list";

fn changed(upstream: &Upstream, text: &str) {
    upstream.put(LIST, Resource::text(text).header("etag", format!("\"{text}\"")));
}

#[test]
fn what_was_kept_under_a_wrong_clock_is_asked_again_under_the_right_one() {
    for days in [365, -365] {
        let (dir, upstream) = (scratch(), Upstream::start());
        let setup = Setup::below(dir.path());
        let list = format!("/go/@http:{}{LIST}", upstream.addr());
        let get = |server: &Server| Ask::get(&list).must(server.addr()).text();
        changed(&upstream, "old");
        let server = started(&setup, days);
        for _ in 0..2 {
            assert_eq!(get(&server), "old");
        }
        assert_eq!(upstream.count(LIST), 1, "{days}: by its own clock it is fresh");
        server.stop();
        changed(&upstream, "new");
        let server = setup.start();
        assert_eq!(get(&server), "new", "{days}");
        upstream.die();
        assert_eq!(get(&server), "new", "{days}: fresh by the right clock");
    }
}

#[test]
fn an_upstream_whose_clock_is_off_is_never_served_for_longer_than_it_says() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    let get = || Ask::get(upstream.url("/a")).must(server.addr()).text();
    // Behind: as old as it looks (RFC 9111 §4.2.3). Ahead: from when it came here.
    for (date, asked) in [("Sun, 01 Nov 2020 00:00:00 GMT", 2), ("Fri, 01 Nov 2090 00:00:00 GMT", 1)] {
        let before = upstream.count("/a");
        let headers = [("cache-control", "max-age=600"), ("date", date), ("expires", "Sat, 02 Nov 2090 00:00:00 GMT")];
        let answer = headers.into_iter().fold(Resource::text(date), |answer, (name, value)| answer.header(name, value));
        upstream.put("/a", answer);
        for _ in 0..2 {
            assert_eq!(get(), date);
        }
        assert_eq!(upstream.count("/a") - before, asked, "{date}");
    }
}
