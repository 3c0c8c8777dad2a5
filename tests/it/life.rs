//! Starting, stopping, and the commands beside `serve`.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::agent::larder_run;
use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::resource::{Fault, Resource};
use crate::support::server::{LARDER, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

fn larder(words: &[&str]) -> Command {
    let mut command = Command::new(LARDER);
    command.args(words);
    command
}

fn run_before(dir: &Path, server: &str, words: &[&str]) -> Command {
    let mut command = larder_run(dir, server);
    command.args(words);
    command
}

#[test]
fn sigterm_drains_what_is_in_flight() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(100, 4 << 20);
    upstream.put("/slow", Resource::seed(100, body.len).then(Fault::Hold(1 << 20)));
    let mut server = Setup::below(dir.path()).start();
    let mut open = Ask::get(upstream.mirror("/slow")).open(server.addr()).expect("a head");
    open.read_some(1000).expect("first bytes");
    server.terminate();
    wait_until(Duration::from_secs(10), "new connections are declined", || {
        Ask::get("/healthz").send(server.addr()).is_err()
    });
    assert_eq!(server.wait_at_most(Duration::from_millis(100)), None, "it left while a body was on its way");
    upstream.release("/slow");
    open.finish().expect("the rest").assert_is(200, body.digest());
    let status = server.wait_at_most(Duration::from_secs(20));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[test]
fn health_and_metrics_stand_from_the_start() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(101, 1000));
    let server = Setup::below(dir.path()).start();
    assert_eq!(server.get("/healthz").status, 200);
    server.wait_ready();
    server.get(upstream.mirror("/a"));
    server.get(upstream.mirror("/a"));
    let metrics = server.get("/metrics").text();
    for part in ["# HELP larder_", "# TYPE larder_", "outcome=\"hit\"", "outcome=\"miss\"", "tier=\""] {
        assert!(metrics.contains(part), "{part} is not in\n{metrics}");
    }
    assert!(server.stats().is_object());
}

#[test]
fn a_health_check_is_told_in_time_whether_requests_are_taken() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let probe = |words: &[&str]| {
        let mut command = larder(&["doctor", "--probe"]);
        command.args(words).env_clear().env("LARDER_DATA_DIR", dir.path().join("data"));
        end_of(command, Duration::from_secs(10))
    };
    let server = Setup::below(dir.path()).start();
    server.wait_ready();
    let ready = probe(&[]);
    assert_eq!((ready.code, ready.stdout), (Some(0), format!("{} is ready\n", server.url())), "{}", ready.stderr);
    server.stop();
    assert_eq!(probe(&[&format!("http://{}", upstream.addr())]).code, Some(1), "another server is no larder");
    assert_eq!(probe(&["--config", "/nowhere"]).code, Some(1));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let begin = std::time::Instant::now();
    let never = probe(&[&format!("http://{}", silent.local_addr().expect("an address"))]);
    assert_eq!(never.code, Some(1), "{}", never.stderr);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn verify_and_gc_work_on_what_is_kept() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let setup = Setup::below(dir.path());
    let server = setup.start();
    for len in [100, 5_000, 200_000, 3 << 20] {
        let path = format!("/{len}");
        upstream.put(&path, Resource::seed(102, len));
        server.get(upstream.mirror(&path)).assert_is(200, Body::new(102, len).digest());
    }
    let url = server.url();
    for words in [["verify", "--server", &url], ["gc", "--server", &url]] {
        let ended = end_of(larder(&words), LIMIT);
        assert_eq!(ended.code, Some(0), "{words:?}: {ended:?}");
    }
    server.stop();
    upstream.die();
    let server = setup.start();
    server.get(upstream.mirror("/200000")).assert_is(200, Body::new(102, 200_000).digest());
}

#[test]
fn run_passes_on_the_commands_own_code() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    let url = server.url();
    for code in [0, 1, 2, 77] {
        let script = format!("exit {code}");
        let ended = end_of(run_before(dir.path(), &url, &["--", "sh", "-c", &script]), LIMIT);
        assert_eq!(ended.code, Some(code), "{ended:?}");
    }
    let ended = end_of(run_before(dir.path(), &url, &["--", "no-such-command-anywhere"]), LIMIT);
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    assert!(ended.stderr.contains("no-such-command-anywhere"), "{}", ended.stderr);
}

#[test]
fn run_does_not_go_around_a_server_that_wants_a_token() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut head = std::io::BufReader::new(&stream);
            let mut line = String::new();
            while head.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let _ = (&stream).write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 10\r\n\r\nno token\r\n");
        }
    });
    let ended = end_of(run_before(scratch().path(), &url, &["--", "echo", "was run"]), LIMIT);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("401: no token\nhelp: set LARDER_TOKEN"), "{}", ended.stderr);
    assert!(!ended.stdout.contains("was run"), "{}", ended.stdout);
}

#[test]
fn a_record_holds_the_last_request_and_is_refused_before_the_build() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(106, 5000));
    let server = Setup::below(dir.path()).start();
    let file = dir.path().join("record.jsonl").display().to_string();
    let script = format!("curl -sSf -o /dev/null \"$LARDER_SERVER/~$LARDER_LABEL{}\"", upstream.mirror("/a"));
    let words = ["--record", &file, "--", "sh", "-c", &script];
    let ended = end_of(run_before(dir.path(), &server.url(), &words), LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines = std::fs::read_to_string(&file).expect("a record");
    assert!(lines.lines().count() == 1 && lines.contains("/a\""), "{lines}{}", ended.stderr);
    let ended = end_of(larder(&["run", "--record", "/nowhere/at/all", "--", "echo", "was run"]), LIMIT);
    assert!(ended.code == Some(1) && !ended.stdout.contains("was run"), "{ended:?}");
}

#[test]
fn asking_for_stats_is_no_request_of_a_build() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(107, 5000));
    let server = Setup::below(dir.path()).start();
    for _ in 0..2 {
        server.get(upstream.mirror("/a"));
        server.stats();
    }
    let stats = server.stats();
    assert_eq!((&stats["requests"], &stats["hits"]), (&2.into(), &1.into()), "{stats}");
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    for (address, word) in [("not a url", "no mount"), ("ftp://a.example/b", "ftp is not fetched")] {
        let ended = end_of(larder(&["explain", address, "--server", &server.url()]), LIMIT);
        assert!(ended.code == Some(2) && ended.stderr.contains(word), "{ended:?}");
        assert!(ended.stderr.contains("help: write what a tool asks"), "{ended:?}");
    }
}

#[test]
fn run_sets_the_variables_of_known_tools() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    let ended = end_of(run_before(dir.path(), &server.url(), &["--strict", "--", "env"]), LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for variable in ["GOPROXY=", "http_proxy=", "https_proxy=", "no_proxy="] {
        assert!(
            ended.stdout.lines().any(|line| line.to_lowercase().starts_with(&variable.to_lowercase())),
            "{variable} is not set:\n{}",
            ended.stdout
        );
    }
    assert!(ended.stdout.contains(&server.addr().to_string()), "{}", ended.stdout);
}

#[test]
fn run_starts_a_server_of_its_own_when_none_is_named() {
    let dir = scratch();
    let (upstream, data) = (Upstream::start(), dir.path().join("data").display().to_string());
    upstream.put("/a", Resource::text("over the embedded server\n"));
    let mut command = larder(&["run", "--", "sh", "-c", &format!("curl -sS {}", upstream.url("/a"))]);
    command.env("LARDER_DATA_DIR", &data).env("HOME", dir.path());
    command.env("LARDER_UPSTREAM_ALLOW_PRIVATE", "127.0.0.1/32").env("NO_PROXY", "").env("no_proxy", "");
    let ended = end_of(command, LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("over the embedded server"), "{ended:?}");
}

/// The build reaches it without larder; who reads the same store through a server may not.
#[test]
fn a_host_that_only_the_builds_machine_reaches_is_passed_on_and_not_kept() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(110, 300_000);
    upstream.put("/a", Resource::seed(110, body.len).header("cache-control", "max-age=1000"));
    let wanted = dir.path().join("wanted");
    std::fs::write(&wanted, body.whole()).expect("scratch can be written");
    let url = upstream.url("/a");
    let ways = [
        format!("curl -sSf -o got {url} && cmp got wanted"),
        format!("curl -sSf -o got -r 1000-1999 {url} && tail -c +1001 wanted | head -c 1000 | cmp got -"),
        format!("curl -sSf -o got --proxytunnel {url} && cmp got wanted"),
        format!("curl -sSf -o got --data-binary @wanted {url} && cmp got wanted"),
        format!("curl -sSf -o got $LARDER_SERVER/http/{} && cmp got wanted", url.trim_start_matches("http://")),
    ];
    for (at, way) in ways.iter().enumerate() {
        let mut command = larder(&["run", "--", "sh", "-c", way]);
        command.current_dir(dir.path()).env("LARDER_DATA_DIR", dir.path().join("data")).env("HOME", dir.path());
        command.env("NO_PROXY", "").env("no_proxy", "");
        let ended = end_of(command, LIMIT);
        assert_eq!(ended.code, Some(0), "{way}: {ended:?}");
        assert_eq!(upstream.count("/a"), at + 1, "{way}: it would be a hit if it were kept");
    }
}

#[test]
fn a_tunnel_carries_bytes_both_ways() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/through", Resource::seed(103, 2000));
    let ports = format!("443,{}", upstream.addr().port());
    let server = Setup::below(dir.path()).variable("LARDER_UPSTREAM_CONNECT_PORTS", &ports).start();
    let mut command = Command::new("curl");
    command.args(["-sS", "--proxytunnel", "--proxy", &server.url(), &upstream.url("/through")]);
    let output = command.output().expect("curl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, Body::new(103, 2000).whole());
}

#[test]
fn one_port_speaks_http_1_and_2() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(104, 300_000);
    upstream.put("/a", Resource::seed(104, body.len));
    let server = Setup::below(dir.path()).start();
    let url = format!("{}{}", server.url(), upstream.mirror("/a"));
    for version in ["--http1.1", "--http2", "--http2-prior-knowledge"] {
        let output = Command::new("curl").args(["-sS", version, &url]).output().expect("curl is installed");
        assert_eq!(
            blake3::hash(&output.stdout),
            body.digest(),
            "{version}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(upstream.count("/a"), 1);
}

#[test]
fn completions_and_the_manual_are_printed() {
    for words in [vec!["completions", "bash"], vec!["man"], vec!["--help"], vec!["--version"]] {
        let ended = end_of(larder(&words), LIMIT);
        assert!(ended.code == Some(0) && !ended.stdout.is_empty(), "{words:?}: {ended:?}");
    }
}

/// Idle memory stands in the issue as a floor; the bench reports it, this only catches a gross mistake.
#[test]
fn an_idle_server_is_small() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    server.wait_ready();
    let resident = server.resident() >> 20;
    assert!(resident < 80, "{resident} MiB resident in a build without optimisation");
}

#[test]
fn a_successor_takes_over_and_no_request_fails() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let body = Body::new(105, 50_000);
    upstream.put("/a", Resource::seed(105, body.len));
    let mut server = Setup::below(dir.path()).start();
    server.get(upstream.mirror("/a")).assert_is(200, body.digest());
    let addr = server.addr();
    let setup = Setup::below(dir.path()).listen(&addr.to_string());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = || {
            let mut asked = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                Ask::get(upstream.mirror("/a")).must(addr).assert_is(200, body.digest());
                asked += 1;
            }
            asked
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(traffic)).collect();
        for _ in 0..3 {
            let mut successor = setup.start();
            assert_eq!(successor.addr(), addr);
            let status = server.wait_at_most(Duration::from_secs(20));
            assert!(status.is_some_and(|status| status.success()), "the predecessor ended with {status:?}");
            std::mem::swap(&mut server, &mut successor);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let asked: u32 = clients.into_iter().map(|client| client.join().expect("no request failed")).sum();
        assert!(asked > 0);
    });
    assert_eq!(upstream.count("/a"), 1);
}

#[test]
fn what_needs_a_larder_that_serves_says_so_and_how_to_start_one() {
    let dir = scratch();
    // Nobody else's server is given a port of this address meanwhile.
    let listener = std::net::TcpListener::bind("127.0.0.8:0").expect("a loopback port is free");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    for command in ["verify", "gc"] {
        let run = |words: &[&str]| {
            let mut larder = Command::new(LARDER);
            larder.args([command]).args(words).env_clear().env("LARDER_DATA_DIR", dir.path());
            larder.env("LARDER_SERVER_LISTEN", address.to_string());
            end_of(larder, Duration::from_secs(20))
        };
        let ended = run(&[]);
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
        let why = format!("error: no larder answers at http://{address}: ");
        assert!(ended.stderr.starts_with(&why) && ended.stderr.contains("larder serve"), "{}", ended.stderr);
        assert!(run(&["--help"]).stdout.contains("The larder that serves does it"), "{command}");
    }
}
