//! What becomes of real builds under `larder run` when their server is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::support::build::{Build, HOST};
use crate::support::machine::scratch;
use crate::support::server::{Ended, Setup};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(120);

type Tree = BTreeMap<String, blake3::Hash>;

#[track_caller]
fn assert_right(when: &str, (ended, got): &(Ended, Tree), direct: &Tree) {
    assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
    assert_eq!(got, direct, "{when}: {}{}", ended.stdout, ended.stderr);
}

/// The build with its server killed before it, in the middle of its large file, and after it.
fn with_its_server_killed(build: impl FnOnce(&Path) -> Build, afterwards: impl FnOnce(&Build)) {
    let dir = scratch();
    let build = build(dir.path());
    let upstream = &build.world.upstream;
    let setup = Setup::below(&dir.path().join("server")).default_policy().config(&build.world.config(&[HOST]));
    let run = |home: &str, data: &str, url: &str| {
        let words = build.larder_run(data, url);
        build.run(home, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (ended, direct) = build.run("direct", &[]);
    assert_eq!(ended.code, Some(0), "direct: {}{}", ended.stdout, ended.stderr);
    assert!(direct.len() >= 3, "{direct:?}");

    let server = setup.start();
    let url = server.url();
    let setup = setup.listen(&server.addr().to_string());
    server.kill();
    let before = run("before", "data-before", &url);
    assert_right("before", &before, &direct);
    assert!(before.0.stderr.contains("going on without it"), "{}", before.0.stderr);

    let server = setup.start();
    build.hold();
    let during = std::thread::scope(|scope| {
        let running = scope.spawn(|| run("during", "data-during", &url));
        wait_until(LIMIT, "the build is in the middle", || upstream.held(&build.large) == 1 || running.is_finished());
        assert_eq!(upstream.held(&build.large), 1);
        server.kill();
        upstream.release(&build.large);
        running.join().expect("it ends")
    });
    assert_right("during", &during, &direct);

    let server = setup.start();
    assert_right("alive", &run("alive", "data", &url), &direct);
    server.kill();
    afterwards(&build);
    assert_right("after", &run("after", "data", &url), &direct);
}

#[test]
fn go_goes_on_when_its_server_is_killed() {
    with_its_server_killed(Build::go, |build| build.world.upstream.die());
}

#[test]
fn cargo_goes_on_when_its_server_is_killed() {
    with_its_server_killed(Build::cargo, |build| build.world.upstream.die());
}

#[test]
fn apt_goes_on_when_its_server_is_killed() {
    with_its_server_killed(Build::apt, |build| build.world.upstream.die());
}

#[test]
fn lein_goes_on_when_its_server_is_killed() {
    with_its_server_killed(Build::lein, |_| {});
}
