//! Tunnels through the agent of `larder run`: by way of the server as long as it is there, so that it may look into them, and
//! around it when it is lost.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::intercept::{LIMIT, file, setup};
use crate::jvm_intercepted;
use crate::support::agent::{Agent, larder_run};
use crate::support::body::Body;
use crate::support::build::{Build, HOST};
use crate::support::machine::scratch;
use crate::support::maven::{Artifact, place, publish};
use crate::support::resource::{Fault, Resource};
use crate::support::server::{AGAIN, LARDER, Server, Setup, end_of};
use crate::support::tls::World;
use crate::support::wait_until;

/// Longer than the agent waits for a server that keeps still.
const SHORT: Duration = Duration::from_secs(8);
const BODY: &str = "what the host has\n";

/// A build whose user reaches the world by an outbound proxy, and trusts the authority of its hosts.
fn build(dir: &Path, world: &World, server: &str) -> Agent {
    let mut command = larder_run(dir, server);
    for name in ["http_proxy", "https_proxy"] {
        command.env(name, world.proxy());
    }
    command.env("CURL_CA_BUNDLE", &world.authority).env("SSL_CERT_FILE", &world.authority).args(["--label", "b1"]);
    Agent::of(command)
}

/// What curl gets, with the head.
#[track_caller]
fn fetched(agent: &mut Agent, words: &str) -> String {
    let (code, said) = agent.step(&format!("curl -sSi --max-time 60 {words}"));
    assert_eq!(code, 0, "{words}: {said}");
    assert!(said.contains(BODY), "{words}: {said}");
    said.to_ascii_lowercase()
}

fn of_build(server: &Server) -> serde_json::Value {
    serde_json::from_slice(server.get("/api/v1/stats?build=b1").bytes()).expect("is JSON")
}

#[test]
fn what_the_server_intercepts_it_intercepts_through_the_agent_too() {
    let dir = scratch();
    let (mut world, setup) = setup(dir.path(), &["files.example"]);
    world.upstream.put("/plain", file(BODY));
    let server = setup.start();
    let mut agent = build(dir.path(), &world, &server.url());
    for words in ["https://files.example/a", "--proxytunnel http://files.example/plain"] {
        assert!(fetched(&mut agent, words).contains("cache-status: larder; fwd=uri-miss"), "{words}");
    }
    // By another host's tunnel, which nobody looks into.
    assert!(!fetched(&mut agent, "https://other.example/a").contains("cache-status"));
    world.die();
    for words in
        ["https://files.example/a", "--http1.1 https://files.example/a", "--proxytunnel http://files.example/plain"]
    {
        assert!(fetched(&mut agent, words).contains("cache-status: larder; hit"), "{words}");
    }
    // The server counts them for the build, and each once: the agent saw those in the clear.
    let told = of_build(&server);
    assert_eq!((&told["requests"], &told["for_larders"]["requests"]), (&5.into(), &1.into()), "{told}");
    wait_until(SHORT, "the tunnel is counted", || of_build(&server)["tunnelled"][0]["host"] == "other.example");
    let ended = agent.end();
    assert!(ended.stderr.contains("build b1: 3 hits of 6 requests"), "{}", ended.stderr);
    assert!(ended.stderr.contains("tunnelled, not cached: other.example ("), "{}", ended.stderr);
}

#[test]
fn a_tunnel_goes_around_a_server_that_is_lost() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let listen = server.addr().to_string();
    let mut agent = build(dir.path(), &world, &server.url());
    assert!(fetched(&mut agent, "https://files.example/a").contains("cache-status"));
    server.kill();
    for words in ["https://files.example/a", "https://other.example/a"] {
        // Under the host's own certificate, which the build trusts as ever.
        assert!(!fetched(&mut agent, words).contains("cache-status"), "{words}");
    }
    assert!(fetched(&mut agent, "--proxytunnel http://files.example/a").contains("cache-status: larder; fwd=uri-miss"));
    let server = setup.clone().listen(&listen).start();
    wait_until(SHORT, "the server is asked again", || {
        fetched(&mut agent, "https://files.example/a").contains("cache-status: larder; hit")
    });
    // It accepts, by its backlog, and answers nothing: the first waits for a moment, the others do not.
    server.freeze();
    for limit in [SHORT, Duration::from_secs(1)] {
        let begin = Instant::now();
        assert!(!fetched(&mut agent, "https://files.example/a").contains("cache-status"));
        assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    }
    let ended = agent.end();
    assert!(ended.stderr.contains("files.example ("), "{}", ended.stderr);
    assert!(ended.stderr.contains("fetched around the server; the server is lost"), "{}", ended.stderr);
}

/// Such a build was not told of the server's authority, and a tool that is shown its certificate fails.
#[test]
fn a_build_that_began_without_its_server_is_not_shown_certificates_that_it_does_not_trust() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let (url, setup) = (server.url(), setup.clone().listen(&server.addr().to_string()));
    server.kill();
    let mut agent = build(dir.path(), &world, &url);
    assert!(!fetched(&mut agent, "https://files.example/a").contains("cache-status"));
    let server = setup.start();
    wait_until(SHORT, "the server carries its tunnels", || {
        assert!(!fetched(&mut agent, "https://files.example/a").contains("cache-status"));
        of_build(&server)["tunnelled"].as_array().is_some_and(|hosts| !hosts.is_empty())
    });
    // One that begins now is, at the same agent.
    let mut command = larder_run(dir.path(), &url);
    command.env("https_proxy", world.proxy()).args(["--label", "b2"]);
    let mut other = Agent::of(command);
    assert!(fetched(&mut other, "https://files.example/a").contains("cache-status"));
    assert_eq!(other.addr(), agent.addr());
}

#[test]
fn a_tunnel_through_a_server_that_falls_silent_is_cut_and_not_left_to_wait() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &[]);
    let held = Resource::seed(1, 1 << 20).then(Fault::Hold(1 << 19));
    world.upstream.put("/held", held);
    let server = setup.start();
    let mut agent = build(dir.path(), &world, &server.url());
    std::thread::scope(|scope| {
        let step = scope.spawn(|| agent.step("curl -sS --max-time 60 -o /dev/null https://other.example/held"));
        wait_until(SHORT, "half of it is there", || world.upstream.held("/held") == 1);
        server.freeze();
        let begin = Instant::now();
        let (code, said) = step.join().expect("curl ends");
        assert!(code != 0 && code != 28, "{code}: {said}");
        assert!(begin.elapsed() < SHORT, "{:?}", begin.elapsed());
    });
    world.upstream.release("/held");
}

#[test]
fn what_the_server_refuses_to_tunnel_is_refused_and_what_it_cannot_reach_is_not() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &[]);
    // No way out of its own: it finds no such host, whose name no resolver knows.
    let config = setup.config.replace("[upstream.proxy]", "[upstream.proxy]\nnone = \"*\"");
    let config = config.replace("\"other.example\", ", "").replace("learn = \"public\"", "learn = \"listed\"");
    let server = Setup { config, ..setup }.start();
    let mut agent = build(dir.path(), &world, &server.url());
    let (code, said) = agent.step("curl -sS https://other.example/a");
    assert!(code != 0 && said.contains("403"), "{code}: {said}");
    assert_eq!(world.upstream.count("/a"), 0, "somebody went around the server");
    assert!(!fetched(&mut agent, "https://files.example/a").contains("cache-status"));
    let ended = agent.end();
    assert!(ended.stderr.contains("tunnelled, not cached: files.example ("), "{}", ended.stderr);
}

#[test]
fn a_tunnel_shows_the_server_the_token_of_the_build() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server =
        Setup { config: format!("{}[server.tls]\nnames = [\"localhost\"]\n", setup.config), ..setup.clone() }.start();
    let data = setup.data.display().to_string();
    let mut command = Command::new(LARDER);
    command.args(["token", "create", "ci", "--right", "read", "--data", &data]).env_clear();
    let ended = end_of(command, LIMIT);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let token = said.split_whitespace().find(|word| word.starts_with("lrd_")).expect("a token").to_owned();
    // By TLS, of whose authority the build's user took a copy.
    let trusted = dir.path().join("trusted.pem");
    let own = crate::support::machine::run(&[LARDER, "ca", "print", "--data", &data]);
    let both = format!("{own}{}", std::fs::read_to_string(&world.authority).expect("PEM"));
    std::fs::write(&trusted, both).expect("scratch can be written");
    let mut command = larder_run(dir.path(), &format!("https://localhost:{}", server.addr().port()));
    command.env("LARDER_TOKEN", &token).env("https_proxy", world.proxy()).args(["--label", "b1"]);
    command.env("CURL_CA_BUNDLE", &trusted).env("SSL_CERT_FILE", &trusted);
    let mut agent = Agent::of(command);
    assert!(fetched(&mut agent, "https://files.example/a").contains("cache-status"));
    assert_eq!(of_build(&server)["requests"], 1);
    // One that is taken back is refused, and not got around.
    let mut command = Command::new(LARDER);
    command.args(["token", "revoke", "ci", "--data", &data]).env_clear();
    assert_eq!(end_of(command, LIMIT).code, Some(0));
    wait_until(LIMIT, "the token is no longer honoured", || agent.step("curl -sS https://files.example/a").0 != 0);
    assert_eq!(world.upstream.count("/a"), 1);
}

/// Within TLS that the server ends no agent can go on where it stopped. A client's next try goes around it.
#[test]
fn what_a_lost_server_cut_within_what_it_intercepts_is_had_by_another_try() {
    let dir = scratch();
    let build = Build::go(dir.path());
    let world = &build.world;
    let setup = Setup::below(dir.path()).default_policy().config(&world.config(&[HOST]));
    world.upstream.put("/a", file(BODY));
    let curl = "curl -sS --max-time 60 -o large";
    let large = |at: u64| Resource::seed(at, 1 << 20).then(Fault::Hold(1 << 19));
    for at in 1..3 {
        world.upstream.put(&format!("/{at}"), large(at));
    }
    let home = dir.path().join("home");
    publish(&world.upstream, &Artifact { name: "test.example:lib:1.0", needs: &[], more: "" });
    publish(&world.upstream, &Artifact { name: "org.codehaus.plexus:plexus-utils:1.1", needs: &[], more: "" });
    let jar = format!("{}.jar", place("test.example:lib:1.0").0);
    world.upstream.change(&jar, |whole| whole.then(Fault::Hold(10)));
    let maven = jvm_intercepted::project(&home, HOST, &dir.path().join("local"));
    build.hold();

    let server = setup.clone().listen(AGAIN).start();
    let setup = setup.listen(&server.addr().to_string());
    let mut command = larder_run(dir.path(), &server.url());
    let own = [("MAVEN_OPTS", format!("-Duser.home={}", home.display())), ("MAVEN_CONFIG", String::new())];
    command.envs(build.variables()).env("CURL_CA_BUNDLE", &world.authority).envs(own).args(["--label", "b1"]);
    let mut agent = Agent::of(command);
    server.kill();
    let module = "module example.com/p\\n\\ngo 1.20\\n\\nrequire example.com/demo v1.0.0\\n";
    let go = "GOPROXY=https://files.example/go GONOSUMDB=* GOFLAGS='-mod=mod -modcacherw' GOTOOLCHAIN=local go mod download all";
    let mvn = "mvn --batch-mode --strict-checksums validate";
    for (path, script) in [
        ("/1", format!("! {curl} https://files.example/1 && {curl} https://files.example/1")),
        ("/2", format!("{curl} --retry 2 --retry-all-errors https://files.example/2")),
        (&build.large, format!("mkdir p && cd p && printf '{module}' > go.mod && ! {go} && {go}")),
        (&jar, format!("cd {} && {{ ! {mvn} && {mvn}; }}", maven.display())),
    ] {
        let server = setup.start();
        wait_until(SHORT, "the server is asked", || {
            fetched(&mut agent, "https://files.example/a").contains("cache-status")
        });
        std::thread::scope(|scope| {
            let step = scope.spawn(|| agent.step(&script));
            wait_until(LIMIT, "some of it is there", || world.upstream.held(path) == 1 || step.is_finished());
            server.kill();
            let (code, said) = step.join().expect("it ends");
            assert_eq!(code, 0, "{script}: {said}");
        });
        world.upstream.release(path);
        assert_eq!(world.upstream.count(path), 2, "{script}");
    }
    let whole = Body::new(2, 1 << 20).whole();
    assert!(std::fs::read(dir.path().join("large")).expect("was fetched") == whole);
}
