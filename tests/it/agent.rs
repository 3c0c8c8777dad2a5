//! The agent of `larder run`: a build goes on whatever becomes of its server, and never around the server's own word.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::agent::{Agent, as_user, larder_run};
use crate::support::archive::file;
use crate::support::body::{Body, sha256_hex};
use crate::support::client::{Ask, Reply};
use crate::support::machine::{run, scratch};
use crate::support::registry::{Crates, go_mount};
use crate::support::resource::{Fault, Resource};
use crate::support::server::{LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::{alone, wait_until};

/// Longer than the agent waits for a server that keeps still.
const SHORT: Duration = Duration::from_secs(8);

#[test]
fn what_the_server_has_comes_from_the_server() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let body = Body::new(300, 50_000);
    crates.publish("abcd", body);
    upstream.put("/file", Resource::seed(301, 200_000));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let index = format!("/~b1{}/ab/cd/abcd", crates.mount());
    let download = format!("/~b1{}/~dl/abcd/1.0.0/download", crates.mount());
    for _ in 0..2 {
        assert_eq!(agent.get(&index).status, 200);
        agent.get(&download).assert_is(200, body.digest());
        agent.get(format!("/~b1{}", upstream.mirror("/file"))).assert_is(200, Body::new(301, 200_000).digest());
        let config = agent.get(format!("/~b1{}/config.json", crates.mount()));
        assert!(config.text().contains(&format!("http://{}/cargo/", agent.addr())), "{}", config.text());
    }
    // Upstream was asked once, by the server alone: the agent answers the second time by itself.
    for path in ["/index/ab/cd/abcd", "/index/config.json", "/dl/abcd/1.0.0/download", "/file"] {
        assert_eq!(upstream.count(path), 1, "{path}");
    }
    assert_eq!(upstream.seen("/file")[0].headers.iter().filter(|(name, _)| name == "via").count(), 2);
    assert!(agent.get(upstream.mirror("/file")).cache_status().ends_with("larder; hit; detail=file"));
    let of_server = server.get("/api/v1/stats?build=b1").text();
    assert!(of_server.contains("\"requests\":4"), "{of_server}");
    server.stop();
    let ended = agent.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_dead_server_is_gone_around() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let body = Body::new(302, 80_000);
    for name in ["abcd", "efgh"] {
        crates.publish(name, body);
    }
    upstream.put("/file", Resource::seed(303, 200_000));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let of = |name: &str| format!("{}/~dl/{name}/1.0.0/download", crates.mount());
    agent.get(of("abcd")).assert_is(200, body.digest());
    server.kill();
    let begin = Instant::now();
    agent.get(of("abcd")).assert_is(200, body.digest());
    agent.get(of("efgh")).assert_is(200, body.digest());
    agent.get(upstream.mirror("/file")).assert_is(200, Body::new(303, 200_000).digest());
    assert!(begin.elapsed() < SHORT, "{:?}", begin.elapsed());
    upstream.die();
    agent.get(of("efgh")).assert_is(200, body.digest());
    let ended = agent.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_server_that_was_never_there_is_no_reason_to_fail_but_with_strict() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/file", Resource::seed(304, 30_000));
    let nobody = Upstream::start();
    let url = nobody.url("");
    nobody.die();
    let agent = Agent::before(dir.path(), &url);
    agent.get(upstream.mirror("/file")).assert_is(200, Body::new(304, 30_000).digest());
    let ended = agent.end();
    assert!(ended.code == Some(0) && ended.stderr.contains("going on without it"), "{ended:?}");
    let mut strict = larder_run(dir.path(), &url);
    strict.args(["--strict", "--", "echo", "was run"]);
    let ended = end_of(strict, SHORT);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains("no larder answers at"), "{ended:?}");
}

#[test]
fn a_server_that_answers_nothing_any_more_costs_a_short_time_once() {
    let (dir, upstream) = (scratch(), Upstream::start());
    for at in 0..5 {
        upstream.put(&format!("/{at}"), Resource::seed(305, 30_000));
    }
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    agent.get(upstream.mirror("/0")).assert_is(200, Body::new(305, 30_000).digest());
    // It accepts, by its backlog, and answers nothing.
    server.freeze();
    let begin = Instant::now();
    agent.get(upstream.mirror("/1")).assert_is(200, Body::new(305, 30_000).digest());
    let first = begin.elapsed();
    assert!(first < SHORT, "{first:?}");
    let begin = Instant::now();
    for at in 2..5 {
        agent.get(upstream.mirror(&format!("/{at}"))).assert_is(200, Body::new(305, 30_000).digest());
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?} after {first:?}", begin.elapsed());
}

#[test]
fn a_slow_origin_is_no_dead_server() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/slow", Resource::seed(306, 30_000).then(Fault::Hold(0)));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let addr = agent.addr();
    let asking = std::thread::spawn({
        let target = upstream.mirror("/slow");
        move || crate::support::client::get(addr, target)
    });
    wait_until(SHORT, "the origin is asked", || upstream.held("/slow") == 1);
    // Longer than the agent lets a server keep still without asking whether it is there.
    assert!(!asking.is_finished());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(2500) {
        server.get("/healthz");
    }
    upstream.release("/slow");
    asking.join().expect("an answer").assert_is(200, Body::new(306, 30_000).digest());
    assert_eq!(upstream.count("/slow"), 1, "nobody went around the server");
}

#[test]
fn the_servers_no_is_a_no() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/file", Resource::seed(307, 30_000));
    let server = Setup::below(dir.path()).default_policy().config("[upstreams]\nlearn = \"listed\"\n").start();
    let agent = Agent::before(dir.path(), &server.url());
    let refused = agent.get(upstream.mirror("/file"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("is not allowed as an upstream"), "{}", refused.text());
    assert_eq!(agent.get("/http/127.0.0.1:1/absent").status, 403);
    let begin = Instant::now();
    assert!(
        crate::support::client::raw(agent.addr(), connect(&upstream).as_bytes(), SHORT).0.starts_with(b"HTTP/1.1 403")
    );
    assert!(begin.elapsed() < 2 * SHORT);
    assert_eq!(upstream.all_seen().len(), 0, "somebody went around the server");
}

fn connect(upstream: &Upstream) -> String {
    format!("CONNECT {0} HTTP/1.1\r\nhost: {0}\r\nconnection: close\r\n\r\n", upstream.addr())
}

#[test]
fn an_absence_is_an_absence_and_a_failure_of_the_server_is_gone_around() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    assert_eq!(agent.get(upstream.mirror("/absent")).status, 404);
    assert_eq!(upstream.count("/absent"), 1);
    let flaky = Resource::seed(309, 30_000).then(Fault::Close).then(Fault::Close).then(Fault::Close);
    upstream.put("/flaky", flaky);
    agent.get(upstream.mirror("/flaky")).assert_is(200, Body::new(309, 30_000).digest());
    let last = upstream.seen("/flaky").pop().expect("it was asked for");
    let ways = last.headers.iter().filter(|(name, _)| name == "via").count();
    assert_eq!(ways, 1, "the agent alone had it: {last:?}");
}

/// A body of which the server has sent a part, and how the agent ends it.
fn cut_in_the_middle(len: u64, resource: Resource, cut: impl FnOnce(Server)) -> Reply {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/big", resource.then(Fault::Hold(len / 2)));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let mut open = Ask::get(upstream.mirror("/big")).open(agent.addr()).expect("a head");
    open.read_some(len / 4).expect("a part");
    cut(server);
    upstream.release("/big");
    let reply = open.finish().expect("an end");
    assert!(upstream.count("/big") >= 2, "somebody went on");
    reply
}

#[test]
fn a_body_goes_on_when_its_server_dies() {
    let body = Body::new(310, 8 << 20);
    let reply = cut_in_the_middle(body.len, Resource::seed(310, body.len), Server::kill);
    reply.assert_is(200, body.digest());
}

#[test]
fn a_body_goes_on_when_its_server_falls_silent() {
    let body = Body::new(311, 8 << 20);
    let mut frozen = None;
    let reply = cut_in_the_middle(body.len, Resource::seed(311, body.len), |server| {
        server.freeze();
        frozen = Some(server);
    });
    reply.assert_is(200, body.digest());
}

#[test]
fn a_body_without_proof_that_it_is_the_same_does_not_go_on() {
    let body = Body::new(312, 8 << 20);
    let resource = Resource::seed(312, body.len).without("etag");
    let reply = cut_in_the_middle_unfinished(body.len, resource);
    assert!(!reply.clean && reply.len < body.len, "{} bytes", reply.len);
}

fn cut_in_the_middle_unfinished(len: u64, resource: Resource) -> Reply {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/big", resource.then(Fault::Hold(len / 2)));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let mut open = Ask::get(upstream.mirror("/big")).open(agent.addr()).expect("a head");
    open.read_some(len / 4).expect("a part");
    server.kill();
    open.finish().expect("an end")
}

#[test]
fn a_known_sum_is_proof_enough() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let body = Body::new(313, 8 << 20);
    crates.publish("abcd", body);
    let path = Crates::download_path("abcd");
    upstream.put(&path, Resource::seed(313, body.len).without("etag").then(Fault::Hold(body.len / 2)));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let target = format!("{}/~dl/abcd/1.0.0/download", crates.mount());
    let mut open = Ask::get(target).open(agent.addr()).expect("a head");
    open.read_some(body.len / 4).expect("a part");
    server.kill();
    upstream.release(&path);
    open.finish().expect("an end").assert_is(200, body.digest());
}

#[test]
fn what_the_server_found_corrupt_is_not_finished_elsewhere() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let body = Body::new(314, 4 << 20);
    crates.publish("abcd", body);
    let path = Crates::download_path("abcd");
    // Whoever asked upstream again would get it whole.
    upstream.put(&path, Resource::seed(314, body.len).then(Fault::Corrupt(1 << 20)));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let reply = Ask::get(format!("{}/~dl/abcd/1.0.0/download", crates.mount())).must(agent.addr());
    assert!(!reply.clean || reply.status >= 500, "{} {} bytes", reply.status, reply.len);
    let ended = agent.end();
    assert!(!ended.stderr.contains("around the server"), "{}", ended.stderr);
}

/// A module with one version for go to download, and the sum of its archive.
fn publish_module(upstream: &Upstream, dir: &Path) -> String {
    let archive = dir.join("module.zip");
    let pack = "import sys,zipfile\nz=zipfile.ZipFile(sys.argv[1],'w')\nm='example.com/demo@v1.0.0/'\n\
                z.writestr(m+'go.mod','module example.com/demo\\n')\nz.writestr(m+'a.go','package a\\n//'+'x'*300000)";
    run(&["python3", "-c", pack, &archive.display().to_string()]);
    let bytes: std::sync::Arc<[u8]> = std::fs::read(archive).expect("was packed").into();
    let at = "/example.com/demo/@v/v1.0.0";
    upstream.put(&format!("{at}.info"), Resource::text(r#"{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}"#));
    upstream.put(&format!("{at}.mod"), Resource::text("module example.com/demo\n"));
    upstream.put(&format!("{at}.zip"), file(&bytes));
    sha256_hex(&bytes)
}

/// `larder run` with a build that downloads by `fetch`, again and again until it is told to stop. It prints the name and
/// the sum of what came.
fn downloading(dir: &Path, server: &str, number: usize, fetch: &str) -> Child {
    let own = dir.join(format!("build-{number}"));
    std::fs::create_dir_all(&own).expect("scratch can be written");
    let script = format!(
        "cd {own} && n={number}; while [ ! -e ../stop ]; do n=$((n+7)); name=$((n%{FILES})); {fetch} || exit 9; \
         echo $name $(sha256sum < out); sleep 0.1; done",
        own = own.display()
    );
    let mut command = larder_run(dir, server);
    command.args(["--", "sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("GOFLAGS", "-modcacherw -mod=mod").env("GOTOOLCHAIN", "local").env("GOSUMDB", "off");
    command.spawn().expect("larder starts")
}

/// What a build said: its code, names and sums, and what it complained of.
fn sums(child: Child) -> (Option<i32>, Vec<(String, String)>, String) {
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    let named = said.lines().filter_map(|line| line.strip_suffix(" -")?.split_once(' '));
    let named = named.map(|(name, sum)| (name.to_owned(), sum.to_owned())).collect();
    (output.status.code(), named, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// How many files there are, and how often the server is started again.
const FILES: usize = 60;
const RESTARTS: usize = 5;

/// Killed, and ended in good order, in turn; some files are kept, some are asked about and some fetched each time, some
/// come slowly, so that each restart is in the middle of bodies.
#[test]
fn twenty_builds_share_one_larder_while_their_server_restarts_every_five_seconds() {
    let _alone = alone();
    let (dir, upstream) = (scratch(), Upstream::start());
    let bodies: Vec<Body> = (0..FILES).map(|at| Body::new(400 + at as u64, 1000 << (at % 12))).collect();
    for (at, body) in bodies.iter().enumerate() {
        let said = ["max-age=60", "no-cache", "no-store", "no-store"][at % 4];
        let slow = if at % 12 > 8 { Fault::Drip(64 << 10, Duration::from_millis(50)) } else { Fault::None };
        let resource = Resource::seed(body.seed, body.len).header("cache-control", said).always(slow);
        upstream.put(&format!("/{at}"), resource);
    }
    let module = publish_module(&upstream, dir.path());
    let expected: Vec<String> = bodies.iter().map(|body| sha256_hex(&body.whole())).collect();
    let setup = Setup::below(dir.path());
    let mut server = setup.start();
    // Where it is the next time too.
    let setup = setup.listen(&server.addr().to_string());
    let fetch = [
        format!("curl -sSf -o out $LARDER_SERVER{}", upstream.mirror("/$name")),
        format!("curl -sSf -o out --noproxy '' --proxy $http_proxy {}", upstream.url("/$name")),
        format!(
            "{{ name=go; rm -rf mod; GOPROXY=$LARDER_SERVER{} GOPATH=$PWD GOMODCACHE=$PWD/mod go mod download \
             example.com/demo@v1.0.0 && cp mod/cache/download/example.com/demo/@v/v1.0.0.zip out; }}",
            go_mount(&upstream)
        ),
    ];
    // Two of them by go.
    let way = |number: usize| if number >= 18 { 2 } else { number % 2 };
    let url = server.url();
    let builds: Vec<Child> = (0..20).map(|at| downloading(dir.path(), &url, at, &fetch[way(at)])).collect();
    let waiting = std::thread::spawn(move || builds.into_iter().map(sums).collect::<Vec<_>>());
    // On a busy machine twenty of them take a while to look at its tools.
    let has_begun = |number: usize| dir.path().join(format!("build-{number}/out")).exists();
    wait_until(Duration::from_secs(120), "all have begun", || waiting.is_finished() || (0..20).all(has_begun));
    for restart in 0..RESTARTS {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if restart % 2 == 0 {
            server.kill()
        } else {
            server.stop()
        }
        server = setup.start();
    }
    std::fs::write(dir.path().join("stop"), "").expect("scratch can be written");
    for (at, (code, got, said)) in waiting.join().expect("they end").into_iter().enumerate() {
        assert_eq!(code, Some(0), "{at} after {} files: {said}", got.len());
        assert!(got.len() > RESTARTS, "{at} had {} files", got.len());
        for (name, sum) in got {
            let right = name.parse().map_or(&module, |name: usize| &expected[name]);
            assert_eq!(&sum, right, "{at}: {name}");
        }
    }
    drop(server);
    let agents = std::fs::read_dir(dir.path().join("agent/agents")).expect("agents").count();
    assert_eq!(agents, 1);
}

#[test]
fn the_larder_that_builds_share_outlives_the_first_and_ends_after_the_last() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/file", Resource::seed(440, 30_000));
    let server = Setup::below(dir.path()).start();
    let first = Agent::before(dir.path(), &server.url());
    let second = Agent::before(dir.path(), &server.url());
    let addr = second.addr();
    assert_eq!(first.addr(), addr);
    assert_eq!(first.end().code, Some(0));
    second.get(upstream.mirror("/file")).assert_is(200, Body::new(440, 30_000).digest());
    assert_eq!(second.end().code, Some(0));
    wait_until(Duration::from_secs(20), "it ends", || Ask::get("/healthz").send(addr).is_err());
    // The same address again, since tools file what they fetched under it.
    let third = Agent::before(dir.path(), &server.url());
    assert_eq!(third.addr(), addr);
    server.kill();
    third.get(upstream.mirror("/file")).assert_is(200, Body::new(440, 30_000).digest());
}

#[test]
fn a_larder_that_is_killed_beside_a_build_is_started_again() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/file", Resource::seed(441, 30_000));
    let server = Setup::below(dir.path()).start();
    let agent = Agent::before(dir.path(), &server.url());
    let data = std::fs::read_dir(dir.path().join("agent/agents")).expect("agents").next().expect("one").expect("one");
    let pid = std::fs::read_to_string(data.path().join("lock")).expect("its owner");
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid is not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    wait_until(SHORT, "it is there again", || Ask::get("/healthz").send(agent.addr()).is_ok());
    agent.get(upstream.mirror("/file")).assert_is(200, Body::new(441, 30_000).digest());
    assert_eq!(agent.end().code, Some(0));
}

#[test]
fn a_server_that_is_not_up_is_not_printed() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    let env = || {
        let mut command = Command::new(LARDER);
        command.args(["env", "--if-up", "--server", &server.url(), "--data"]).arg(dir.path().join("data"));
        as_user(&mut command, dir.path());
        end_of(command, SHORT)
    };
    let up = env();
    assert!(up.code == Some(0) && up.stdout.contains(&server.url()["http://".len()..]), "{up:?}");
    server.freeze();
    let silent = env();
    assert_eq!((silent.code, silent.stdout.as_str()), (Some(0), ""), "{silent:?}");
}
