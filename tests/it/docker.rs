//! What `larder run` gives to a client of Docker, seen by one that stands in for it and writes down what it was given:
//! there is an engine on few machines. And what a run says of containers and daemons that it does not reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::containers::token;
use crate::intercept::setup;
use crate::support::machine::{Island, root_or_say, run, scratch};
use crate::support::server::{Ended, LARDER, Setup, end_of};

const LIMIT: Duration = Duration::from_secs(120);
/// The machine as Docker's containers call it.
const BRIDGE: &str = "172.17.0.1";

/// Keeps what it was given below the directory that it stands in.
const STAND_IN: &str = r#"#!/bin/sh
[ "$*" != "buildx version" ] || exec test ! -e "${0%/*}/no-buildx"
out=${0%/*}/given
mkdir -p "$out"
printf '%s\n' "$@" > "$out/argv"
env > "$out/env"
cat "${DOCKER_CONFIG:-$HOME/.docker}/config.json" > "$out/config.json" 2>/dev/null
[ -z "$LARDER_SECRET" ] || cat "$LARDER_SECRET" > "$out/secret"
for word in "$@"; do
    case $word in
    id=cache,src=*) cat "${word#id=cache,src=}" > "$out/secret" ;;
    */env) cat "$word" > "$out/env-file" ;;
    esac
done
exit 7
"#;

struct Bed {
    dir: PathBuf,
    within: Vec<String>,
}

/// What the stand-in was given.
struct Given {
    ended: Ended,
    argv: Vec<String>,
    env: String,
    config: Value,
    secret: String,
    env_file: String,
}

impl Bed {
    /// `within` an island or on this machine.
    fn below(dir: &Path, within: Vec<String>) -> Bed {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).expect("scratch can be written");
        for name in ["docker", "gradle"] {
            fs::write(bin.join(name), STAND_IN).expect("scratch can be written");
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let own = dir.join("home/.docker");
        fs::create_dir_all(own.join("contexts")).expect("scratch can be written");
        fs::write(own.join("config.json"), r#"{"auths":{"r.example":{"auth":"eDp5"}}}"#)
            .expect("scratch can be written");
        Bed { dir: dir.to_owned(), within }
    }

    /// `larder run` with a label, for a user without settings but Docker's.
    fn run(&self, words: &[&str], token: &str, command: &[&str]) -> Ended {
        let mut all = self.within.clone();
        all.extend([LARDER, "run", "--label", "b1"].map(str::to_owned));
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all.push("--".to_owned());
        all.extend(command.iter().map(|word| (*word).to_owned()));
        let mut started = Command::new(&all[0]);
        let path = std::env::var("PATH").expect("tests have a PATH");
        started.args(&all[1..]).current_dir(&self.dir).env_clear().env("HOME", self.dir.join("home"));
        started.env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        started.env("LARDER_DATA_DIR", self.dir.join("client")).env("LARDER_TOKEN", token);
        // The user's own way out, from which this machine is excepted.
        started.env("GOPROXY", "https://go.example,direct").env("no_proxy", "corp.example");
        end_of(started, LIMIT)
    }

    fn given(&self, words: &[&str], token: &str, command: &[&str]) -> Given {
        let out = self.dir.join("bin/given");
        // It may be the first.
        let _ = fs::remove_dir_all(&out);
        let ended = self.run(words, token, command);
        assert_eq!(ended.code, Some(7), "{}{}", ended.stdout, ended.stderr);
        let text = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
        Given {
            argv: text("argv").lines().map(str::to_owned).collect(),
            env: text("env"),
            config: serde_json::from_str(&text("config.json")).expect("is JSON"),
            secret: text("secret"),
            env_file: text("env-file"),
            ended,
        }
    }

    /// Nothing is left of what a token stood in.
    #[track_caller]
    fn assert_clean(&self) {
        let left = fs::read_dir(self.dir.join("client/overlays")).into_iter().flatten().map_while(Result::ok);
        let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("containers-"));
        assert_eq!(left.count(), 0);
    }
}

impl Given {
    /// Its containers go by way of `proxy`, its own connection to the engine does not, and log-ins are kept.
    #[track_caller]
    fn assert_through(&self, proxy: &str) {
        let proxies = &self.config["proxies"]["default"];
        assert_eq!((&proxies["httpProxy"], &proxies["httpsProxy"]), (&proxy.into(), &proxy.into()), "{}", self.config);
        assert!(proxies["noProxy"].as_str().is_some_and(|none| none.starts_with("corp.example,")), "{}", self.config);
        assert_eq!(self.config["auths"]["r.example"]["auth"], "eDp5");
        assert!(!self.env.to_ascii_lowercase().contains("http_proxy="), "{}", self.env);
    }
}

#[test]
fn containers_are_given_the_server_behind_the_agent_by_the_bridges_address() {
    if !root_or_say("a bridge in a network namespace") {
        return;
    }
    let dir = scratch();
    let island = Island::new();
    run(&["ip", "-n", &island.name, "link", "add", "docker0", "type", "bridge"]);
    run(&["ip", "-n", &island.name, "address", "add", &format!("{BRIDGE}/16"), "dev", "docker0"]);
    run(&["ip", "-n", &island.name, "link", "set", "docker0", "up"]);
    let bed = Bed::below(dir.path(), island.words());
    let words = island.words();
    let setup = Setup::below(dir.path()).within(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let setup = setup.listen("0.0.0.0:0");
    let token = token(&setup, "ci");
    let server = setup.start();
    let port = server.addr().port();
    let (here, there) = (format!("http://127.0.0.1:{port}"), format!("{BRIDGE}:{port}"));
    let words = ["--server", &*here];
    let proxy = format!("http://b1:{token}@{there}");

    let built = bed.given(&words, &token, &["docker", "build", "-t", "a", "."]);
    built.assert_through(&proxy);
    assert_eq!(built.argv[..2], ["build", "--secret"]);
    assert_eq!(built.argv[3..], ["-t", "a", "."]);
    assert!(
        built.secret.contains(&format!("export GOPROXY='http://{there}/~b1/go/@go.example,direct'\n")),
        "{}",
        built.secret
    );
    assert!(built.secret.contains(&format!("export http_proxy={proxy} ")), "{}", built.secret);

    // The client's older builder stops at the option.
    fs::write(dir.path().join("bin/no-buildx"), "").expect("scratch can be written");
    let older = bed.given(&words, &token, &["docker", "build", "."]);
    older.assert_through(&proxy);
    assert_eq!(older.argv, ["build", "."]);
    assert!(older.ended.stderr.contains("knows --secret"), "{}", older.ended.stderr);

    let ran = bed.given(&words, &token, &["docker", "run", "--rm", "a", "make"]);
    ran.assert_through(&proxy);
    assert_eq!(
        (&*ran.argv[0], &*ran.argv[1], &ran.argv[3..]),
        ("run", "--env-file", &["--rm", "a", "make"].map(str::to_owned)[..])
    );
    assert!(ran.env_file.contains(&format!("GOPROXY=http://{there}/~b1/go/@go.example,direct\n")), "{}", ran.env_file);

    let composed = bed.given(&words, &token, &["docker", "compose", "up", "--build"]);
    composed.assert_through(&proxy);
    assert_eq!(composed.argv, ["compose", "up", "--build"]);
    assert_eq!(composed.secret, built.secret);

    // The real Compose puts the secret's file where the project's own file names it.
    let file = "version: '3.8'\nservices:\n  a:\n    image: a\n    secrets: [cache]\n\
                secrets:\n  cache:\n    file: ${LARDER_SECRET:-/dev/null}\n";
    fs::write(dir.path().join("compose.yaml"), file).expect("scratch can be written");
    let shown = bed.run(&words, &token, &["docker-compose", "-f", "compose.yaml", "config"]);
    let overlays = dir.path().join("client/overlays/containers-").display().to_string();
    assert!(shown.stdout.contains(&format!("file: {overlays}")), "{}{}", shown.stdout, shown.stderr);
    bed.assert_clean();

    // One that does not admit containers is no way for them: each of their requests would be refused.
    let refused = bed.given(&words, "", &["docker", "build", "."]);
    assert_eq!(refused.argv, ["build", "."]);
    assert!(refused.ended.stderr.contains("does not admit them"), "{}", refused.ended.stderr);
    server.stop();
}

#[test]
fn containers_that_do_not_reach_loopback_go_without() {
    let dir = scratch();
    let bed = Bed::below(dir.path(), Vec::new());
    // No server is named: builds share one on loopback.
    let given = bed.given(&["--data", &dir.path().join("own").display().to_string()], "", &["docker", "build", "."]);
    assert_eq!(given.argv, ["build", "."]);
    assert!(given.config["proxies"].is_null() && given.secret.is_empty(), "{}", given.config);
    let said = &given.ended.stderr;
    assert!(said.contains("the containers of this build go without larder: it listens on 127.0.0.1:"), "{said}");
    assert!(said.contains("larder serve --listen 0.0.0.0:7070"), "{said}");
    assert!(said.contains("no request seen: your build runs in a daemon: docker build $(larder env docker)"), "{said}");
}

#[test]
fn a_run_tells_what_was_tunnelled_and_of_what_no_request_came() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &[]);
    world.upstream.put("/large", crate::support::resource::Resource::seed(3, 3 << 20));
    let server = setup.start();
    let bed = Bed::below(dir.path(), Vec::new());
    let url = server.url();
    let authority = world.authority.display().to_string();
    let curl = format!("curl -sS -o out --cacert {authority} https://files.example/large");
    // The second leaves its tunnel open, as a daemon does that outlives its build.
    let slow = format!("{curl} --limit-rate 100k </dev/null >/dev/null 2>&1 & while ! [ -s out ]; do :; done");
    for (script, said) in
        [(&curl, "3.0 MiB tunnelled, not cached: files.example (3.0 MiB);"), (&slow, "files.example (")]
    {
        let ended = bed.run(&["--server", &url], "", &["sh", "-c", script]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let line = ended.stderr.lines().find(|line| line.contains("tunnelled, not cached"));
        let line = line.unwrap_or_else(|| panic!("{}", ended.stderr));
        assert!(line.contains(said) && line.contains("intercept.hosts"), "{line}");
        fs::remove_file(dir.path().join("out")).expect("was fetched");
    }

    let given = bed.given(&["--server", &url], "", &["gradle", "build"]);
    let said = &given.ended.stderr;
    assert!(said.contains("no request seen: your build runs in a daemon: stop the one that runs"), "{said}");
    let ended = bed.run(&["--server", &url], "", &["true"]);
    assert!(ended.stderr.contains("no request seen: it fetched nothing"), "{}", ended.stderr);
}
