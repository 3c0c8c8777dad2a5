//! What `larder env` prints, evaluated by sh and read by the tools: with a server, and when it is gone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::machine::scratch;
use crate::support::maven::{Artifact, BASE, coordinates, place, publish};
use crate::support::resource::Resource;
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(120);
/// An address that no list of hosts to be asked directly has in it.
const ELSEWHERE: &str = "127.0.0.2:0";

fn setup(dir: &Path) -> Setup {
    let config = "[upstreams]\nlearn = \"public\"\n[upstream]\nallow_private = [\"127.0.0.0/30\"]\n";
    Setup::below(dir).default_policy().config(config)
}

/// A command in a shell that evaluated the lines for some tools.
fn within(server: &str, tools: &str, command: &str, home: &Path, env: &[(&str, &str)]) -> Ended {
    let script = format!("eval \"$({LARDER} env --server {server} {tools})\"\n{command}");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(home).env("HOME", home).env("LARDER_DATA_DIR", home.join("client"));
    for name in ["http_proxy", "https_proxy", "no_proxy", "MAVEN_OPTS", "GOPROXY", "GOFLAGS"] {
        shell.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    end_of(
        {
            shell.envs(env.iter().copied());
            shell
        },
        LIMIT,
    )
}

/// Whether the last request for a path came by way of larder.
fn came_through(upstream: &Upstream, path: &str) -> bool {
    let seen = upstream.seen(path);
    seen.last().unwrap_or_else(|| panic!("{path} was not asked for")).header("via").is_some()
}

/// Runs with a server, then with the same lines and no server.
fn alive_then_dead(server: Server, run: &dyn Fn(&str) -> Ended, then: &dyn Fn(&str, Ended)) {
    let url = server.url();
    then("alive", run(&url));
    server.kill();
    then("dead", run(&url));
}

#[test]
fn go_goes_on_when_larder_is_gone() {
    let dir = scratch();
    let upstream = Upstream::start_on(ELSEWHERE);
    upstream.put(
        "/example.test/m/@v/v1.1.0.info",
        Resource::text("{\"Version\":\"v1.1.0\",\"Time\":\"2026-01-02T03:04:05Z\"}"),
    );
    upstream.put("/example.test/m/@v/v1.1.0.mod", Resource::text("module example.test/m\n"));
    upstream.put("/example.test/m/@v/list", Resource::text("v1.0.0\nv1.1.0\n").header("cache-control", "no-cache"));
    let proxy = upstream.url("/");
    let env = [("GOPROXY", proxy.as_str()), ("GONOSUMDB", "*"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-modcacherw")];
    let run = |url: &str| within(url, "go proxy", "go list -m -versions example.test/m", dir.path(), &env);
    alive_then_dead(setup(dir.path()).start(), &run, &|when, ended| {
        assert_eq!(
            (ended.code, ended.stdout.trim()),
            (Some(0), "example.test/m v1.0.0 v1.1.0"),
            "{when}: {}",
            ended.stderr
        );
        assert_eq!(came_through(&upstream, "/example.test/m/@v/list"), when == "alive", "{when}");
    });
}

#[test]
fn apt_goes_on_when_larder_is_gone() {
    let dir = scratch();
    let upstream = Upstream::start_on(ELSEWHERE);
    // apt asks for `./Packages`; larder asks for what that means.
    for path in ["/debian/Packages", "/debian/./Packages"] {
        upstream.put(path, Resource::text("").header("cache-control", "no-cache"));
    }
    let root = dir.path().join("root");
    for below in
        ["etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/apt/archives/partial"]
    {
        fs::create_dir_all(root.join(below)).expect("scratch can be written");
    }
    let sources = format!("deb [trusted=yes] {} ./\n", upstream.url("/debian"));
    fs::write(root.join("etc/apt/sources.list"), sources).expect("scratch can be written");
    fs::write(root.join("var/lib/dpkg/status"), "").expect("scratch can be written");
    let command = format!(
        "rm -rf {0}/var/lib/apt/lists/*_*; apt-get -o Dir={0} -o Dir::State::status={0}/var/lib/dpkg/status \
         -o APT::Sandbox::User= -o Acquire::Retries=0 -o Acquire::Languages=none update",
        root.display()
    );
    let run = |url: &str| within(url, "apt proxy", &command, dir.path(), &[]);
    alive_then_dead(setup(dir.path()).start(), &run, &|when, ended| {
        assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
        let asked = if when == "alive" { "/debian/Packages" } else { "/debian/./Packages" };
        assert_eq!(came_through(&upstream, asked), when == "alive", "{when}: {}", ended.stdout);
    });
    // What is marked does not: the proxy variables alone.
    let before = upstream.all_seen().len();
    within("http://127.0.0.1:9", "proxy", &command, dir.path(), &[]);
    assert_eq!(upstream.all_seen().len(), before, "went on by the proxy variables alone: the mark is wrong");
}

#[test]
fn maven_fetches_by_way_of_larder() {
    let dir = scratch();
    let upstream = Upstream::start_on(ELSEWHERE);
    let parent = "<project><modelVersion>4.0.0</modelVersion><groupId>t</groupId><artifactId>p</artifactId>\
                  <version>1</version><packaging>pom</packaging></project>";
    upstream.put("/m2/t/p/1/p-1.pom", Resource::text(parent));
    let settings = format!(
        "<settings><localRepository>{}/m2</localRepository><mirrors><mirror><id>m</id><url>{}</url>\
         <mirrorOf>central</mirrorOf></mirror></mirrors></settings>",
        dir.path().display(),
        upstream.url("/m2")
    );
    let pom = "<project><modelVersion>4.0.0</modelVersion><parent><groupId>t</groupId><artifactId>p</artifactId>\
               <version>1</version><relativePath/></parent><artifactId>c</artifactId><packaging>pom</packaging></project>";
    fs::create_dir_all(dir.path().join(".m2")).expect("scratch can be written");
    fs::write(dir.path().join(".m2/settings.xml"), &settings).expect("scratch can be written");
    fs::write(dir.path().join("pom.xml"), pom).expect("scratch can be written");
    let server = setup(dir.path()).start();
    let command = "mvn -B -q -s .m2/settings.xml validate";
    let ended = within(&server.url(), "maven", command, dir.path(), &[("MAVEN_OPTS", "-Xmx256m")]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(came_through(&upstream, "/m2/t/p/1/p-1.pom"));
}

/// A project without mirrors: each of its repositories is given one, whose files are kept whatever upstream says of them.
#[test]
fn mavens_repositories_are_mirrored_and_warm_when_they_are_dead() {
    let dir = scratch();
    let upstream = Upstream::start_on(ELSEWHERE);
    publish(&upstream, &Artifact { name: "t:p:1", needs: &[], more: "<packaging>pom</packaging>" });
    let pom = format!(
        "<project><modelVersion>4.0.0</modelVersion><parent>{}<relativePath/></parent><artifactId>c</artifactId>\
         <packaging>pom</packaging><repositories><repository><id>ours</id><url>{}</url></repository></repositories></project>",
        coordinates("t:p:1"),
        upstream.url(BASE)
    );
    fs::write(dir.path().join("pom.xml"), pom).expect("scratch can be written");
    let (local, at) = (dir.path().join("m2"), format!("{}.pom", place("t:p:1").0));
    let server = setup(dir.path()).start();
    let url = server.url();
    let build = |what: &str| {
        // From nothing each time; the settings themselves are the user's none.
        let _ = fs::remove_dir_all(&local);
        let command = format!("{what}mvn -B -q -C -Dmaven.repo.local={} validate", local.display());
        within(&url, "maven", &command, dir.path(), &[])
    };
    let cold = build("cat \"${MAVEN_OPTS##*=}/settings.xml\"; ");
    assert_eq!(cold.code, Some(0), "{}{}", cold.stdout, cold.stderr);
    let row = format!(
        "<mirror><id>larder-ours</id><mirrorOf>ours</mirrorOf><url>${{env.LARDER_MAVEN_SERVER}}/maven/@http:{}{BASE}</url></mirror>",
        upstream.addr()
    );
    assert!(cold.stdout.contains(&row), "{}", cold.stdout);
    assert!(came_through(&upstream, &at));
    upstream.die();
    let warm = build("");
    assert_eq!(warm.code, Some(0), "{}{}", warm.stdout, warm.stderr);
    server.kill();
    let lost = build("");
    assert!(lost.code.is_some_and(|code| code != 0), "the line says `no fallback`, and there was one");
}

#[test]
fn each_line_that_is_lost_with_larder_says_so() {
    let dir = scratch();
    let env = [("GOPROXY", "https://go.example,direct")];
    let ended = end_of(
        {
            let mut command = Command::new(LARDER);
            command.args(["env", "--server", "http://larder.example:7070"]).current_dir(dir.path());
            command.env("HOME", dir.path()).env("LARDER_DATA_DIR", dir.path()).envs(env);
            command
        },
        LIMIT,
    );
    let line = |start: &str| {
        let found = ended.stdout.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start}: {}", ended.stdout)).to_owned()
    };
    let go = "export GOPROXY='http://larder.example:7070/go/@go.example|https://go.example,direct'";
    assert_eq!(line("export GOPROXY"), go);
    assert!(!line("export no_proxy").contains('#'));
    for lost in ["export http_proxy", "export HTTPS_PROXY", "export CARGO_HOME"] {
        assert!(line(lost).ends_with("  # no fallback"), "{}", line(lost));
    }
}
