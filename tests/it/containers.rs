//! Builds in containers through larder: buildah in a network of its own, with apt and go in `RUN` steps, cold, from its
//! layers, and the modules anew with no way out. Nothing of larder is found in the image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::alone;
use crate::support::debian::{self, Buildah};
use crate::support::machine::{Island, root_or_say, run, scratch};
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};

const LIMIT: Duration = Duration::from_secs(300);
const MODULE: &str = "github.com/pkg/errors@v0.9.1";

/// Where larder listens, and the build's own end of the wire.
const NEAR: &str = "198.18.7.1";
const FAR: &str = "198.18.7.2";

const SETTINGS: &str = "
[gate]
anonymous_read = [\"198.18.7.0/30\"]
[upstreams]
learn = \"public\"
[upstream]
allow_private = [\"0.0.0.0/0\"]
";

/// A wire into an island from this machine's network, or from another island.
fn wire(near: Option<&Island>, far: &Island) {
    // One of its own each time: a namespace that goes takes its end of a wire along, but later.
    let name = far.name.replace("larder-", "lw");
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
}

impl Build {
    fn new(dir: &Path) -> Build {
        let buildah = Buildah::below(dir);
        buildah.import(&debian::root(), "base");
        let go = run(&["go", "env", "GOROOT"]).trim().to_owned();
        let context = dir.join("context");
        fs::create_dir(&context).expect("scratch can be written");
        fs::write(context.join("go.mod"), "module example.test/a\n").expect("scratch can be written");
        let text = format!(
            "FROM localhost/base AS modules\n\
             COPY go.mod /src/\n\
             RUN --mount=type=secret,id=cache [ ! -f /run/secrets/cache ] || . /run/secrets/cache; cd /src && \
             GOTOOLCHAIN=local GOSUMDB=off GOCACHE=/dev/shm/go GOPATH=/go {go}/bin/go mod download -x {MODULE}\n\
             FROM modules\n\
             RUN apt-get update && apt-get install -y --no-install-recommends hello && hello\n"
        );
        fs::write(context.join("Dockerfile"), text).expect("scratch can be written");
        Build { dir: dir.to_owned(), buildah, go }
    }

    /// Builds under `larder run`, or without it.
    fn build(&self, within: &Island, server: Option<&str>, more: &[&str]) -> Ended {
        let mut words = within.words();
        if let Some(server) = server {
            words.extend([LARDER, "run", "--server", server, "--"].map(str::to_owned));
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
        command.env("LARDER_DATA_DIR", self.dir.join("client"));
        end_of(command, LIMIT)
    }

    /// Everywhere in the image where one of these words is: its configuration, its history, its files.
    fn traces(&self, words: &[&str]) -> Vec<String> {
        let image = self.buildah.run(&["inspect", "--type", "image", "built"]);
        let mut found: Vec<String> = words
            .iter()
            .filter(|word| image.contains(**word))
            .map(|word| format!("{word} in its configuration"))
            .collect();
        let container = self.buildah.run(&["from", "built"]).trim().to_owned();
        let root = self.buildah.run(&["mount", &container]).trim().to_owned();
        assert!(Path::new(&root).join("go/pkg/mod/cache/download/github.com/pkg/errors/@v/v0.9.1.zip").is_file());
        for word in words {
            let files = Command::new("grep").args(["-rlF", word, &root]).output().expect("grep runs");
            found.extend(String::from_utf8_lossy(&files.stdout).lines().map(|file| format!("{word} in {file}")));
        }
        found
    }
}

fn start(setup: &Setup) -> Server {
    let server = setup.start();
    assert!(server.url().starts_with(&format!("http://{NEAR}:")));
    server
}

#[track_caller]
fn assert_built(when: &str, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
}

#[test]
fn a_build_in_a_container_goes_through_larder_and_leaves_no_trace() {
    if !root_or_say("building in a network namespace") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let build = Build::new(dir.path());
    let setup = Setup::below(dir.path()).default_policy().config(SETTINGS).listen(&format!("{NEAR}:0"));

    let inside = Island::new();
    wire(None, &inside);
    let server = start(&setup);
    let first = server.url();
    assert_built("cold", &build.build(&inside, Some(&first), &[]));
    assert!(server.stats()["requests"].as_u64().is_some_and(|requests| requests > 5), "{}", server.stats());
    let address = first.trim_start_matches("http://").to_owned();
    assert_eq!(build.traces(&["larder", NEAR, &address]), [""; 0]);
    server.stop();
    drop(inside);

    // Another address, another label, another process: every layer is there. Without larder too.
    let (outside, inside) = (Island::new(), Island::new());
    wire(Some(&outside), &inside);
    let words = outside.words();
    let setup = setup.within(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let server = start(&setup);
    assert_ne!(server.url(), first);
    for server in [Some(server.url()), None] {
        let again = build.build(&inside, server.as_deref(), &[]);
        assert_built("again", &again);
        assert_eq!(again.stdout.matches("Using cache").count(), 3, "{}", again.stdout);
    }

    // And anew, with the upstreams dead. Not the archive's files: where their answers say nothing of how long they hold,
    // RFC 9111 keeps none.
    let warm = build.build(&inside, Some(&server.url()), &["--no-cache", "--target", "modules"]);
    assert_built("warm", &warm);
    assert!(!warm.stdout.contains("Using cache"), "{}", warm.stdout);
    server.stop();
}
