//! apt's generations and Maven's sums through agent and server: cold, with the upstream dead, with the server dead, and
//! while the server is lost and comes back. What fits together stays together, byte for byte.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::generations::Connection;
use crate::support::agent::{Agent, larder_run};
use crate::support::apt::AptRoot;
use crate::support::archive::{
    BASE, ByHash, INDEX, Package, SUITE, SigningKey, State, dists, publish, publish_package,
};
use crate::support::machine::scratch;
use crate::support::maven::{self, Artifact, jar, place, pom};
use crate::support::resource::Resource;
use crate::support::server::Setup;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(20);
const LIB: &str = "test.example:lib:1.0";

struct Bed {
    dir: tempfile::TempDir,
    key: SigningKey,
    upstream: Upstream,
    setup: Setup,
    packages: [Package; 2],
}

impl Bed {
    fn new() -> Bed {
        let dir = scratch();
        let key = SigningKey::below(dir.path());
        let setup = Setup::below(&dir.path().join("server"));
        let package =
            |version: &str| Package::built(dir.path(), "thing", version, &[version.as_bytes(); 60_000].concat());
        Bed { key, upstream: Upstream::start(), setup, packages: ["1", "2"].map(package), dir }
    }

    fn package(&self, version: &str) -> Package {
        self.packages.iter().find(|package| package.version == version).expect("it was built").clone()
    }

    /// Publishes a state with one package in it.
    fn publish(&self, version: &str, by_hash: ByHash) -> State {
        let package = self.package(version);
        publish_package(&self.upstream, &package);
        let state = State::of(&[package], by_hash, &self.key);
        publish(&self.upstream, &state, by_hash);
        state
    }

    fn agent(&self, name: &str, server: &str) -> Agent {
        let mut command = larder_run(&self.dir.path().join(name), server);
        command.args(["--label", "b1"]);
        Agent::of(command)
    }

    /// `apt-get update` and `install` in an empty root by way of the agent; the lists, and the package.
    #[track_caller]
    fn installs(&self, when: &str, agent: &Agent, version: &str) -> BTreeMap<String, blake3::Hash> {
        let signed = format!("[signed-by={}]", self.key.public.display());
        let sources = format!("deb {signed} {} {SUITE} main\n", self.upstream.url(BASE));
        let root = AptRoot::below(self.dir.path(), when, &sources, Some(&format!("http://{}", agent.addr())));
        root.must(when, &["update"]);
        root.must(when, &["install", "thing"]);
        let there = std::fs::read(root.at.join("opt/thing")).expect("it is installed");
        assert!(there == [version.as_bytes(); 60_000].concat(), "{when}: another version than {version}");
        let got = root.archives();
        let package = self.package(version);
        assert!(got.values().any(|sum| *sum == blake3::hash(&package.bytes)), "{when}: {:?}", got.keys());
        root.lists()
    }

    /// Returns once the agent asks its server again.
    #[track_caller]
    fn wait_for_server(&self, agent: &Agent) {
        self.upstream.put("/probe", Resource::text("x").header("cache-control", "no-store"));
        wait_until(LIMIT, "the server is asked again", || {
            agent.get(self.upstream.url("/probe")).assert_is(200, blake3::hash(b"x"));
            let seen = self.upstream.seen("/probe");
            seen.last().is_some_and(|seen| seen.headers.iter().filter(|(name, _)| name == "via").count() == 2)
        });
    }

    /// How a path is asked for: below the mount, and in a proxy's request line.
    fn targets(&self, path: &str) -> [String; 2] {
        [format!("/apt/@http:{}{path}", self.upstream.addr()), self.upstream.url(path)]
    }
}

/// The real apt, which believes nothing that does not fit.
#[test]
fn apt_installs_whoever_is_dead() {
    let by_hash = ByHash::Yes;
    let bed = Bed::new();
    bed.publish("1", by_hash);
    let server = bed.setup.start();
    let setup = bed.setup.clone().listen(&server.addr().to_string());
    let agent = bed.agent("agent", &server.url());
    let cold = bed.installs("cold", &agent, "1");
    // Another machine's agent has nothing of its own: what it hands out is the server's.
    let other = bed.agent("other", &server.url());
    bed.upstream.die();
    assert_eq!(bed.installs("archive-dead", &other, "1"), cold);
    server.kill();
    assert_eq!(bed.installs("both-dead", &agent, "1"), cold);
    bed.upstream.revive();
    bed.publish("2", by_hash);
    // What is stored goes before the archive, and who has nothing goes there.
    assert_eq!(bed.installs("server-dead", &agent, "1"), cold);
    let third = bed.agent("third", &setup_url(&setup));
    let moved = bed.installs("server-dead-and-nothing-kept", &third, "2");
    let _server = setup.start();
    for (name, agent) in [("back", &agent), ("back-other", &other), ("back-third", &third)] {
        bed.wait_for_server(agent);
        assert_eq!(bed.installs(name, agent, "2"), moved);
    }
}

fn setup_url(setup: &Setup) -> String {
    format!("http://{}", setup.listen)
}

/// What a client holds was handed out by the archive itself, while the server was lost and knew nothing of it.
#[test]
fn a_server_that_comes_back_is_asked_for_the_generation_that_the_client_holds() {
    for by_hash in [ByHash::Yes, ByHash::No] {
        let bed = Bed::new();
        let old = bed.publish("1", by_hash);
        let server = bed.setup.start();
        let setup = bed.setup.clone().listen(&server.addr().to_string());
        let first = bed.agent("first", &server.url());
        let mut early = Connection::to(first.addr());
        for (at, way) in ["mount", "proxy"].into_iter().enumerate() {
            let target = |path: &str| bed.targets(&dists(path))[at].clone();
            assert_eq!(early.get(&target("InRelease")).1, old.release, "{by_hash:?} {way}");
            assert_eq!(early.get(&target(INDEX)).1, old.index, "{by_hash:?} {way}");
        }
        server.kill();
        let new = bed.publish("2", by_hash);
        let second = bed.agent("second", &setup_url(&setup));
        let clients = [0, 1].map(|at| {
            let mut client = Connection::to(second.addr());
            assert_eq!(client.get(&bed.targets(&dists("InRelease"))[at]).1, new.release, "{by_hash:?} {at}");
            client
        });
        let server = setup.start();
        bed.wait_for_server(&second);
        for (at, mut client) in clients.into_iter().enumerate() {
            assert_eq!(client.get(&bed.targets(&dists(INDEX))[at]).1, new.index, "{by_hash:?} {at}");
        }
        // The server has the older one too, and a client that holds it is given that, by an agent that has neither.
        bed.wait_for_server(&first);
        let third = bed.agent("third", &server.url());
        let mut late = Connection::to(third.addr());
        assert_eq!(late.get(&bed.targets(&dists("InRelease"))[0]).1, new.release);
        assert_eq!(late.get(&bed.targets(&dists(INDEX))[0]).1, new.index);
        assert_eq!(early.get(&bed.targets(&dists(INDEX))[0]).1, old.index, "{by_hash:?}: the generation that it holds");
    }
}

#[test]
fn mavens_files_and_sums_fit_whoever_is_dead() {
    let bed = Bed::new();
    maven::publish(&bed.upstream, &Artifact { name: LIB, needs: &[], more: "" });
    let (path, _) = place(LIB);
    let want = [
        (format!("{path}.jar"), jar(LIB)),
        (format!("{path}.pom"), pom(&Artifact { name: LIB, needs: &[], more: "" }).into_bytes().into()),
    ];
    let fits = |when: &str, agent: &Agent| {
        for (path, bytes) in &want {
            for target in [format!("/maven/@http:{}{path}", bed.upstream.addr()), bed.upstream.url(path)] {
                agent.get(&target).assert_is(200, blake3::hash(bytes));
                let sum = agent.get(format!("{target}.sha1"));
                assert_eq!((sum.status, sum.text().trim()), (200, &*maven::sha1_hex(bytes)), "{when}: {target}");
            }
        }
    };
    let server = bed.setup.start();
    let setup = bed.setup.clone().listen(&server.addr().to_string());
    let (agent, other) = (bed.agent("agent", &server.url()), bed.agent("other", &server.url()));
    fits("cold", &agent);
    assert_eq!(bed.upstream.count(&format!("{path}.jar")), 1);
    bed.upstream.die();
    fits("upstream dead", &other);
    fits("upstream dead", &agent);
    server.kill();
    fits("both dead", &agent);
    bed.upstream.revive();
    let third = bed.agent("third", &setup_url(&setup));
    fits("server dead", &third);
    let _server = setup.start();
    bed.wait_for_server(&third);
    fits("server back", &third);
}
