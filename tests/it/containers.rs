//! Builds in containers through larder: buildah in a network of its own, with apt and go in `RUN` steps, cold, from its
//! layers, and anew with no way out. Nothing of larder is found in the image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::intercept::{authority, file, setup};
use crate::support::alone;
use crate::support::debian::{self, Buildah};
use crate::support::machine::{Island, root_or_say, run, scratch};
use crate::support::server::{AGAIN, Ended, LARDER, Server, Setup, end_of};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(300);
const MODULE: &str = "github.com/pkg/errors@v0.9.1";

/// Where larder listens, and the build's own end of the wire.
const NEAR: &str = "198.18.7.1";
const FAR: &str = "198.18.7.2";

const SETTINGS: &str = "
[upstreams]
learn = \"public\"
[upstream]
allow_private = [\"0.0.0.0/0\"]
";

/// How a `RUN` reads the secret, with and without larder.
const SECRET: &str = "--mount=type=secret,id=cache [ ! -f /run/secrets/cache ] || . /run/secrets/cache;";

/// What two builds of the same never have in common: when they were.
const DATED: [&str; 5] = [
    "var/log/",
    "var/cache/ldconfig/aux-cache",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "root/.config/go/telemetry/",
];

/// A wire into an island from this machine's network, or from another island.
fn wire(near: Option<&Island>, far: &Island) {
    // The wire before it may still be on its way out.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("lw{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    run(&["ip", "link", "add", &name, "type", "veth", "peer", "name", "wire", "netns", &far.name]);
    let ip = |island: Option<&Island>, words: &[&str]| {
        let within = island.map_or_else(Vec::new, |island| vec!["-n", &island.name]);
        run(&[&["ip"][..], &within, words].concat());
    };
    if let Some(near) = near {
        run(&["ip", "link", "set", &name, "netns", &near.name]);
    }
    ip(near, &["address", "add", &format!("{NEAR}/30"), "dev", &name]);
    ip(near, &["link", "set", &name, "up"]);
    ip(Some(far), &["address", "add", &format!("{FAR}/30"), "dev", "wire"]);
    ip(Some(far), &["link", "set", "wire", "up"]);
}

struct Build {
    dir: PathBuf,
    buildah: Buildah,
    /// What the go in the containers is: this machine's.
    go: String,
    /// The larder that runs it.
    larder: PathBuf,
}

impl Build {
    /// Of a Dockerfile whose `GO` is where go is and whose `SECRET` reads the secret.
    fn new(dir: &Path, dockerfile: &str) -> Build {
        let buildah = Buildah::below(dir);
        buildah.import(&debian::root(), "base");
        let go = run(&["go", "env", "GOROOT"]).trim().to_owned();
        let context = dir.join("context");
        fs::create_dir(&context).expect("scratch can be written");
        fs::write(context.join("go.mod"), "module example.test/a\n").expect("scratch can be written");
        let env = "GOTOOLCHAIN=local GOSUMDB=off GOCACHE=/dev/shm/go GOPATH=/go";
        let text = dockerfile.replace("SECRET", SECRET).replace("GO ", &format!("{env} {go}/bin/go "));
        fs::write(context.join("Dockerfile"), text).expect("scratch can be written");
        Build { dir: dir.to_owned(), buildah, go, larder: LARDER.into() }
    }

    /// Builds under `larder run` with a server and its token, or without it.
    fn build(&self, within: &[String], server: Option<(&str, &str)>, more: &[&str]) -> Ended {
        end_of(self.larder_run(within, server, more), LIMIT)
    }

    fn larder_run(&self, within: &[String], server: Option<(&str, &str)>, more: &[&str]) -> Command {
        let mut words = within.to_vec();
        if let Some((server, _)) = server {
            let larder = self.larder.display().to_string();
            words.extend(
                [&larder, "run", "--label", "build-one", "--server", server, "--trust-plain-http", "--"]
                    .map(str::to_owned),
            );
        }
        let buildah = self.buildah.command();
        words.extend(
            [buildah.get_program()]
                .into_iter()
                .chain(buildah.get_args())
                .map(|word| word.to_str().expect("is text").to_owned()),
        );
        words.extend(["bud", "--layers", "-t", "built", "-v"].map(str::to_owned));
        words.push(format!("{0}:{0}:ro", self.go));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.push(self.dir.join("context").display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("BUILDAH_ISOLATION", "chroot");
        for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "GOPROXY"] {
            command.env_remove(name);
        }
        command.env("LARDER_DATA_DIR", self.client()).env("LARDER_TOKEN", server.map_or("", |(_, token)| token));
        command
    }

    fn client(&self) -> PathBuf {
        self.dir.join("client")
    }

    /// The addresses of the agents before all servers so far, as containers in their network have them.
    fn agents(&self) -> Vec<String> {
        let agents = fs::read_dir(self.client().join("agents")).into_iter().flatten().map_while(Result::ok);
        let ports = agents.filter_map(|agent| fs::read_to_string(agent.path().join("run.port")).ok());
        ports.map(|port| format!("127.0.0.1:{}", port.trim())).collect()
    }

    /// Everywhere in the image where one of these words is: its manifest, its configuration, which has the history, its
    /// layers with all names and contents in them.
    fn traces(&self, words: &[&str]) -> Vec<String> {
        let all = self.dir.join("pushed");
        self.buildah.run(&["push", "--disable-compression", "built", &format!("dir:{}", all.display())]);
        let known = |word: &str| {
            let files = Command::new("grep").args(["-rlaF", "-e", word]).arg(&all).output().expect("grep runs");
            String::from_utf8_lossy(&files.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(known("GOTOOLCHAIN").len() == 1, "the history is not where it is looked for");
        assert!(!known("etc/apt/sources.list").is_empty(), "the names are not where they are looked for");
        let found = words.iter().flat_map(|word| known(word).into_iter().map(move |file| format!("{word} in {file}")));
        let found = found.collect();
        fs::remove_dir_all(all).expect("scratch can be removed");
        found
    }

    /// BLAKE3 of each file of the image.
    fn files(&self) -> BTreeMap<String, blake3::Hash> {
        let container = self.buildah.run(&["from", "built"]).trim().to_owned();
        let root = self.buildah.run(&["mount", &container]).trim().to_owned();
        let found = run(&["find", &root, "-type", "f", "-printf", "%P\n"]);
        let names = found.lines().filter(|name| !DATED.iter().any(|dated| name.starts_with(dated)));
        let files = names.map(|name| {
            let bytes = fs::read(Path::new(&root).join(name)).expect("a file that is there");
            (name.to_owned(), blake3::hash(&bytes))
        });
        let files = files.collect();
        self.buildah.run(&["rm", &container]);
        files
    }
}

#[track_caller]
fn assert_built(when: &str, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
}

#[track_caller]
fn assert_same(one: &BTreeMap<String, blake3::Hash>, other: &BTreeMap<String, blake3::Hash>) {
    let names = one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name));
    assert_eq!(names.collect::<Vec<_>>(), [""; 0], "of {} files", one.len());
}

/// A token of the server's own, before it starts.
pub fn token(setup: &Setup, name: &str) -> String {
    let mut command = Command::new(&setup.binary);
    command.args(["token", "create", name, "--right", "read", "--data"]).arg(&setup.data).env_clear();
    let ended = end_of(command, LIMIT);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    said.split_whitespace().find(|word| word.starts_with("lrd_")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// The same larder under another version.
fn upgraded(dir: &Path) -> PathBuf {
    let mut bytes = fs::read(LARDER).expect("the binary is there");
    let (old, new) = (env!("CARGO_PKG_VERSION").as_bytes(), b"9.9.9");
    let places: Vec<usize> = (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    for at in places {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
    let at = dir.join("larder-9");
    fs::write(&at, bytes).expect("scratch can be written");
    run(&["chmod", "+x", &at.display().to_string()]);
    assert_eq!(run(&[&at.display().to_string(), "--version"]), "larder 9.9.9\n");
    at
}

fn start(setup: &Setup) -> Server {
    let server = setup.start();
    assert!(server.url().starts_with(&format!("http://{NEAR}:")));
    server
}

#[test]
fn a_build_in_a_container_goes_through_larder_and_leaves_no_trace() {
    if !root_or_say("building in a network namespace") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let dockerfile = format!(
        "FROM localhost/base\nCOPY go.mod /src/\nRUN SECRET cd /src && GO mod download -x {MODULE}\n\
         RUN apt-get update && apt-get install -y --no-install-recommends hello && hello\n"
    );
    let mut build = Build::new(dir.path(), &dockerfile);
    let mut setup = Setup::below(dir.path()).default_policy().config(SETTINGS).listen(&format!("{NEAR}:0"));
    let secrets = ["one", "two"].map(|name| token(&setup, name));

    let inside = Island::new();
    wire(None, &inside);
    let server = start(&setup);
    let first = server.url();
    assert_built("cold", &build.build(&inside.words(), Some((&first, &secrets[0])), &[]));
    let address = first.trim_start_matches("http://").to_owned();
    let agents = build.agents();
    assert_eq!(agents.len(), 1);
    let traces = ["larder", "build-one", NEAR, &address, &agents[0], &secrets[0]];
    assert_eq!(build.traces(&traces), [""; 0]);
    let cold = build.files();
    assert!(cold.contains_key("go/pkg/mod/cache/download/github.com/pkg/errors/@v/v0.9.1.zip"));
    assert!(cold.contains_key("usr/bin/hello"));
    server.stop();
    drop(inside);

    // Another version, address and token: every layer is there. Without larder too.
    let (outside, inside) = (Island::new(), Island::new());
    wire(Some(&outside), &inside);
    let words = outside.words();
    setup.binary = upgraded(dir.path());
    build.larder = setup.binary.clone();
    let setup = setup.within(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let server = start(&setup);
    assert_ne!(server.url(), first);
    for server in [Some((&*server.url(), &*secrets[1])), None] {
        let again = build.build(&inside.words(), server, &[]);
        assert_built("again", &again);
        assert_eq!(again.stdout.matches("Using cache").count(), 3, "{}", again.stdout);
    }

    // And anew, with the upstreams dead.
    let warm = build.build(&inside.words(), Some((&server.url(), &secrets[1])), &["--no-cache"]);
    assert_built("warm", &warm);
    assert!(!warm.stdout.contains("Using cache"), "{}", warm.stdout);
    assert_same(&build.files(), &cold);

    // The server too: the agent on the build's own side has it all.
    let url = server.url();
    server.stop();
    let alone = build.build(&inside.words(), Some((&url, &secrets[1])), &["--no-cache"]);
    assert_built("without the server", &alone);
    assert_same(&build.files(), &cold);
}

/// What a `RUN` gets by https from a host that is intercepted; apt and go by their own settings, of what is on the secret.
const BY_TLS: &str = "FROM localhost/base
RUN SECRET /usr/lib/apt/apt-helper download-file https://files.example/a /a
RUN SECRET cd / && GOFLAGS=-mod=mod GOPROXY=https://files.example/go GO list -m example.com/demo@v1.0.0 > /b
RUN case $no_proxy in *files.example*) ;; *) exit 1;; esac
";

#[test]
fn a_run_that_reads_the_secret_trusts_larder_and_leaves_no_trace() {
    if !root_or_say("building an image") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let (mut world, setup) = setup(dir.path(), &["files.example"]);
    let module = |path: &str, text: &str| world.upstream.put(&format!("/go/example.com/demo/@v/{path}"), file(text));
    module("v1.0.0.info", r#"{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}"#);
    module("v1.0.0.mod", "module example.com/demo\n");
    let server = setup.start();
    let build = Build::new(dir.path(), BY_TLS);
    let url = server.url();
    assert_built("cold", &build.build(&[], Some((&url, "")), &[]));
    let cold = build.files();
    assert_eq!(cold["a"], blake3::hash(b"what the host has\n"));
    assert_eq!(cold["b"], blake3::hash(b"example.com/demo v1.0.0\n"));
    // What passes as a tunnel was not cached.
    assert_eq!(server.stats()["bytes_tunnelled"], 0, "{}", server.stats());
    let pem = fs::read_to_string(authority(&setup)).expect("was written");
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let agents = build.agents();
    let traces = [&["larder", "build-one", &url[7..], &*agents[0]][..], &lines].concat();
    assert_eq!(build.traces(&traces), [""; 0]);

    world.die();
    let warm = build.build(&[], Some((&url, "")), &["--no-cache"]);
    assert_built("warm", &warm);
    assert_same(&build.files(), &cold);
    // Neither the authority nor larder is in a key.
    let again = build.build(&[], None, &[]);
    assert_built("again", &again);
    assert_eq!(again.stdout.matches("Using cache").count(), 3, "{}", again.stdout);
    server.stop();
    // With this isolation a container's memory is the machine's.
    for entry in fs::read_dir("/dev/shm").expect("is there").map_while(Result::ok) {
        if fs::read_to_string(entry.path().join("own-0.pem")).is_ok_and(|own| pem.contains(own.trim())) {
            fs::remove_dir_all(entry.path()).expect("it is ours");
        }
    }
}

/// `files.example` as it is, whose authority the image trusts: before its server is back and after that.
const BACK: &str = "FROM localhost/base
COPY authority.pem /etc/ssl/certs/ca-certificates.crt
RUN SECRET /usr/lib/apt/apt-helper download-file https://files.example/a /a; touch /sync/began; \
    timeout 120 sh -c 'while [ ! -e /sync/back ]; do sleep 0.05; done'; /usr/lib/apt/apt-helper -o Acquire::Retries=0 download-file https://files.example/b /b
RUN /usr/lib/apt/apt-helper download-file https://files.example/c /c
";

#[test]
fn containers_go_on_when_a_server_that_intercepts_is_lost_and_when_it_is_back() {
    if !root_or_say("building an image") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    for path in ["/b", "/c"] {
        world.upstream.put(path, file("what the host has\n"));
    }
    let server = setup.clone().listen(AGAIN).start();
    let (url, setup) = (server.url(), setup.listen(&server.addr().to_string()));
    let build = Build::new(dir.path(), BACK);
    let sync = dir.path().join("sync");
    fs::create_dir(&sync).expect("scratch can be written");
    fs::copy(&world.authority, dir.path().join("context/authority.pem")).expect("scratch can be written");
    let volume = format!("{}:/sync", sync.display());
    let run = || {
        let mut command = build.larder_run(&[], Some((&url, "")), &["-v", &volume, "--no-cache"]);
        for name in ["http_proxy", "https_proxy"] {
            command.env(name, world.proxy());
        }
        command.env("SSL_CERT_FILE", &world.authority);
        end_of(command, LIMIT)
    };
    fs::write(sync.join("back"), "").expect("scratch can be written");
    assert_built("alive", &run());
    server.kill();
    assert_built("lost", &run());

    for name in ["back", "began"] {
        fs::remove_file(sync.join(name)).expect("is there");
    }
    std::thread::scope(|scope| {
        let running = scope.spawn(run);
        wait_until(LIMIT, "the first file is there", || sync.join("began").exists() || running.is_finished());
        let server = setup.start();
        let agents = || fs::read_dir(build.client().join("agents")).into_iter().flatten().map_while(Result::ok);
        let logs = || agents().filter_map(|agent| fs::read_to_string(agent.path().join("shared.log")).ok());
        wait_until(LIMIT, "the agent sees it", || logs().any(|log| log.contains("the server is back")));
        fs::write(sync.join("back"), "").expect("scratch can be written");
        assert_built("back", &running.join().expect("it ends"));
        // Through it, and what reads no secret around it.
        assert_eq!(server.stats()["bytes_tunnelled"], 0, "{}", server.stats());
        assert!(server.get("/https/files.example/b").cache_status().contains("hit"));
        assert!(!server.get("/https/files.example/c").cache_status().contains("hit"));
    });
}
