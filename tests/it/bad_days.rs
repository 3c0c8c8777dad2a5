//! What becomes of real builds under `larder run` when their server is lost.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::intercept::{setup, token};
use crate::support::agent::{as_user, larder_run};
use crate::support::build::{Build, HOST};
use crate::support::machine::{Island, root_or_say, run, scratch};
use crate::support::resource::{Fault, Resource};
use crate::support::server::{AGAIN, Ended, LARDER, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(120);
/// Longer than it takes to find out that a server is not there, on a machine that has other things to do.
const SHORT: Duration = Duration::from_secs(10);

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
    let setup = setup.listen(AGAIN);
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
    assert!(!before.0.stderr.contains("error:"), "it is no error: {}", before.0.stderr);

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

/// A server that takes connections and says nothing, ever. Nothing takes them out of the backlog.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let url = format!("http://{}", listener.local_addr().expect("a listener has an address"));
    (listener, url)
}

#[test]
fn a_server_that_says_nothing_holds_a_build_up_for_a_short_time() {
    let dir = scratch();
    let build = Build::cargo(dir.path());
    let (ended, direct) = build.run("direct", &[]);
    assert_eq!(ended.code, Some(0), "direct: {}{}", ended.stdout, ended.stderr);
    let (_listener, url) = silent();
    let begin = Instant::now();
    let words = build.larder_run("data", &url);
    let got = build.run("silent", &words.iter().map(String::as_str).collect::<Vec<_>>());
    let took = begin.elapsed();
    assert_right("silent", &got, &direct);
    assert!(got.0.stderr.contains("going on without it"), "{}", got.0.stderr);
    assert!(!got.0.stderr.contains("error"), "it is no error: {}", got.0.stderr);
    assert!(took < SHORT, "{took:?}");
}

/// It answers once, and then takes what it is sent and keeps still.
#[test]
fn a_server_that_falls_silent_before_the_build_begins_holds_it_up_for_a_short_time() {
    let dir = scratch();
    let server = Upstream::start();
    let health = Resource::text(r#"{"ready":true,"version":"1","instance":"one"}"#).then(Fault::None);
    server.put("/api/v1/health", health.always(Fault::Silent));
    server.put("/api/v1/upstreams/import", Resource::text("").always(Fault::Silent));
    let mut command = larder_run(dir.path(), &server.url(""));
    command.env("GOPROXY", "https://go.example").args(["--", "echo", "was run"]);
    let begin = Instant::now();
    let ended = end_of(command, LIMIT);
    let took = begin.elapsed();
    assert_eq!((ended.code, &*ended.stdout), (Some(0), "was run\n"), "{ended:?}");
    assert_eq!(server.count("/api/v1/upstreams/import"), 1);
    assert!(ended.stderr.contains("no answer in time; going on without it"), "{}", ended.stderr);
    assert!(took < SHORT, "{took:?}");
}

/// From where packets to the server vanish, are refused by the network, or its name is not known.
#[test]
fn a_build_without_a_route_to_its_server_goes_on_at_once() {
    if !root_or_say("a network namespace without a route") {
        return;
    }
    let (dir, island) = (scratch(), Island::new());
    let within = island.words();
    let ip = |words: &[&str]| run(&[&["ip", "-n", &island.name][..], words].concat());
    ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "nobody"]);
    ip(&["addr", "add", "192.0.2.1/24", "dev", "eth0"]);
    for end in ["eth0", "nobody"] {
        ip(&["link", "set", end, "up"]);
    }
    // Whoever is at the other end takes no packet to this one.
    ip(&["neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0"]);
    for server in ["http://192.0.2.9:7070", "http://198.51.100.9:7070", "http://cache.example:7070"] {
        let mut command = Command::new(&within[0]);
        command.args(&within[1..]).args([LARDER, "run", "--server", server, "--data"]).arg(dir.path().join("data"));
        as_user(command.args(["--", "echo", "was run"]), dir.path());
        let begin = Instant::now();
        let ended = end_of(command, LIMIT);
        let took = begin.elapsed();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "was run\n"), "{server}: {ended:?}");
        let note = format!("no larder answers at {server}: ");
        assert!(ended.stderr.contains(&note) && ended.stderr.contains("; going on without it"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("error:"), "{server}: {}", ended.stderr);
        assert!(took < SHORT, "{server}: {took:?}");
    }
}

#[test]
fn a_wrong_token_is_an_error_and_not_a_build_without_a_cache() {
    let dir = scratch();
    let setup = Setup::below(dir.path());
    let server = setup.start();
    let revoked = token(&setup);
    run(&[LARDER, "token", "revoke", "ci", "--data", &setup.data.display().to_string()]);
    for (token, words) in [("lrd_wrong", &["--strict", "--"][..]), ("lrd_wrong", &["--"]), (&revoked, &["--"])] {
        let mut command = larder_run(dir.path(), &server.url());
        command.env("LARDER_TOKEN", token).args(words).args(["echo", "was run"]);
        let ended = end_of(command, LIMIT);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.stderr.contains("token is ") || ended.stderr.contains("it was revoked"), "{}", ended.stderr);
        let remedy = "help: set LARDER_TOKEN to a token made there with `larder token create NAME --right read`";
        assert!(ended.stderr.contains(remedy), "{}", ended.stderr);
    }
}

/// The server is gone when the build begins, and is back in the middle of it. What it intercepts is trusted from before.
#[test]
fn a_server_that_comes_back_in_the_middle_is_trusted() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &[HOST]);
    let server = setup.clone().listen(AGAIN).start();
    let url = server.url();
    let setup = setup.listen(&server.addr().to_string());
    let build = |script: &str| {
        let mut command = larder_run(dir.path(), &url);
        as_user(&mut command, dir.path());
        command.env("http_proxy", world.proxy()).env("https_proxy", world.proxy());
        command.env("SSL_CERT_FILE", &world.authority).env("CURL_CA_BUNDLE", &world.authority);
        command.args(["--", "sh", "-e", "-c", script]);
        command
    };
    let ended = end_of(build("curl -sS https://files.example/a"), LIMIT);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "what the host has\n"), "{}", ended.stderr);
    server.kill();

    let script = "curl -sS https://files.example/a; touch began; while [ ! -e back ]; do sleep 0.05; done; \
                  curl -sS https://files.example/a";
    let at = |name: &str| dir.path().join(name);
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| end_of(build(script), LIMIT));
        wait_until(LIMIT, "the build has begun", || at("began").exists() || running.is_finished());
        let server = setup.start();
        let agents = || fs::read_dir(at("agent/agents")).into_iter().flatten().map_while(Result::ok);
        let logs = || agents().filter_map(|agent| fs::read_to_string(agent.path().join("shared.log")).ok());
        wait_until(LIMIT, "the agent sees it", || logs().any(|log| log.contains("the server is back")));
        fs::write(at("back"), "").expect("scratch can be written");
        let ended = running.join().expect("it ends");
        assert_eq!(server.stats()["bytes_tunnelled"], 0, "{}", ended.stderr);
        ended
    });
    assert_eq!((ended.code, &*ended.stdout), (Some(0), &*"what the host has\n".repeat(2)), "{}", ended.stderr);
}
