//! The pages of docs/use/ on tools and on builders of images: what each tells a reader to put into a tool's own files, read
//! by the tool, with a server, with the upstream dead, and with the server dead where the page says that it goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::machine::{root_or_say, run, scratch};
use crate::support::maven::{Artifact, BASE, coordinates, place, publish};
use crate::support::pages::{Page, undocumented};
use crate::support::registry::Crates;
use crate::support::resource::Resource;
use crate::support::server::{Ended, Server, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(180);
/// An address that no list of hosts to be asked directly has in it.
const ELSEWHERE: &str = "127.0.0.2:0";

struct Bed {
    dir: tempfile::TempDir,
    upstream: Upstream,
}

impl Bed {
    fn new() -> Bed {
        Bed { dir: scratch(), upstream: Upstream::start_on(ELSEWHERE) }
    }

    /// A server whose own upstreams are ours.
    fn server(&self, ecosystem: &str, base: &str) -> Server {
        let own = format!(
            "[ecosystem.{ecosystem}]\nupstreams = [\"{}\"]\n[upstreams]\nlearn = \"public\"\n\
             [upstream]\nallow_private = [\"127.0.0.0/30\"]\n",
            self.upstream.url(base)
        );
        Setup::below(&self.at("server")).default_policy().config(&own).start()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at(name).parent().expect("is below scratch")).expect("scratch can be written");
        fs::write(self.at(name), text).expect("scratch can be written");
    }

    fn empty(&self, name: &str) {
        // Nothing is there the first time.
        let _ = fs::remove_dir_all(self.at(name));
    }

    #[track_caller]
    fn assert_came_through(&self, path: &str) {
        let seen = self.upstream.seen(path);
        let last = seen.last().unwrap_or_else(|| panic!("{path} was not asked for"));
        assert!(last.header("via").is_some(), "{path} went around larder");
    }
}

fn shell(page: &Page, script: &str) -> Command {
    let mut shell = page.command("sh");
    shell.args(["-ec", script]);
    shell
}

#[track_caller]
fn assert_good(when: &str, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
}

#[test]
fn cargos_file() {
    let bed = Bed::new();
    Crates::on(&bed.upstream).index("larder-page", &"0".repeat(64));
    bed.write("Cargo.toml", "[package]\nname='a'\nedition='2021'\n[dependencies]\nlarder-page='1'\n");
    bed.write("src/lib.rs", "");
    let server = bed.server("cargo", "/index/");
    let page = Page::read("cargo", &server, bed.dir.path());
    bed.write(".cargo/config.toml", &page.block("toml"));
    let resolve = || {
        bed.empty("home");
        let mut cargo = shell(&page, "rm -f Cargo.lock; cargo generate-lockfile && cat Cargo.lock");
        cargo.env("CARGO_HOME", bed.at("home"));
        end_of(cargo, LIMIT)
    };
    let cold = resolve();
    assert_good("cold", &cold);
    assert!(!cold.stdout.contains("larder.example") && !cold.stdout.contains(&server.url()), "{}", cold.stdout);
    bed.assert_came_through("/index/la/rd/larder-page");
    bed.upstream.die();
    assert_good("upstream dead", &resolve());
}

#[test]
fn mavens_file() {
    let bed = Bed::new();
    publish(&bed.upstream, &Artifact { name: "t:p:1", needs: &[], more: "<packaging>pom</packaging>" });
    let pom = format!(
        "<project><modelVersion>4.0.0</modelVersion><parent>{}<relativePath/></parent><artifactId>c</artifactId>\
         <packaging>pom</packaging></project>",
        coordinates("t:p:1")
    );
    bed.write("pom.xml", &pom);
    let server = bed.server("maven", BASE);
    let page = Page::read("maven", &server, bed.dir.path());
    bed.write("settings.xml", &page.block("xml"));
    let validate = || {
        bed.empty("m2");
        let command = format!("mvn -B -q -C -s settings.xml -Dmaven.repo.local={} validate", bed.at("m2").display());
        end_of(shell(&page, &command), LIMIT)
    };
    assert_good("cold", &validate());
    bed.assert_came_through(&format!("{}.pom", place("t:p:1").0));
    bed.upstream.die();
    assert_good("upstream dead", &validate());
}

/// `direct` is the module's own repository: git's `insteadOf` has one here.
#[test]
fn gos_line() {
    let bed = Bed::new();
    let module = "example.test/m.git";
    bed.upstream.put(&format!("/{module}/@v/list"), Resource::text("v1.0.0\nv1.1.0\n"));
    let info = "{\"Version\":\"v1.1.0\",\"Time\":\"2026-01-02T03:04:05Z\"}";
    bed.upstream.put(&format!("/{module}/@v/v1.1.0.info"), Resource::text(info));
    bed.upstream.put(&format!("/{module}/@v/v1.1.0.mod"), Resource::text(format!("module {module}\n")));
    bed.write("repository/go.mod", &format!("module {module}\n"));
    let repository = bed.at("repository").display().to_string();
    let git = |words: &[&str]| {
        run(&[&["git", "-C", &repository, "-c", "user.name=a", "-c", "user.email=a@example.test"], words].concat())
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "a"]);
    git(&["tag", "v1.2.0"]);
    // go asks for it with the ending and without.
    std::os::unix::fs::symlink(&repository, format!("{repository}.git")).expect("scratch can be written");
    let server = bed.server("go", "/");
    let page = Page::read("go", &server, bed.dir.path());
    let list = || {
        bed.empty("go");
        let mut go = shell(&page, &format!("{}go list -m -versions {module}", page.shell("GOPROXY=")));
        let own = [("GONOSUMDB", "*"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-modcacherw")];
        let instead = [
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            ("GIT_CONFIG_KEY_0", format!("url.file://{repository}.insteadOf")),
            ("GIT_CONFIG_VALUE_0", "https://example.test/m".to_owned()),
        ];
        go.envs(own).envs(instead).env("GOPATH", bed.at("go"));
        end_of(go, LIMIT)
    };
    let cold = list();
    assert_good("cold", &cold);
    assert_eq!(cold.stdout.trim(), format!("{module} v1.0.0 v1.1.0"));
    bed.upstream.die();
    assert_eq!(list().stdout, cold.stdout, "upstream dead");
    server.kill();
    let direct = list();
    assert_good("larder dead", &direct);
    assert_eq!(direct.stdout.trim(), format!("{module} v1.2.0"), "{}", direct.stderr);
}

#[test]
fn apts_files() {
    let bed = Bed::new();
    // apt asks for `./Packages`; larder asks for what that means.
    for path in ["/debian/Packages", "/debian/./Packages"] {
        bed.upstream.put(path, Resource::text("").header("cache-control", "max-age=600"));
    }
    for below in ["preferences.d", "apt.conf.d"] {
        fs::create_dir_all(bed.at("root/etc/apt").join(below)).expect("scratch can be written");
    }
    for below in ["var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/apt/archives/partial", "usr/local/bin"] {
        fs::create_dir_all(bed.at("root").join(below)).expect("scratch can be written");
    }
    bed.write("root/etc/apt/sources.list", &format!("deb [trusted=yes] {} ./\n", bed.upstream.url("/debian")));
    bed.write("root/var/lib/dpkg/status", "");
    let server = bed.server("apt", "/debian/");
    let page = Page::read("apt", &server, bed.dir.path());
    let root = bed.at("root").display().to_string();
    let paste = page.shell("30larder").replace("/usr/local/bin", &format!("{root}/usr/local/bin"));
    assert_good("paste", &end_of(shell(&page, &paste.replace("/etc/apt", &format!("{root}/etc/apt"))), LIMIT));
    let update = || {
        // Its own lists are gone each time. The root's own configuration is the only one read.
        let command = format!(
            "rm -rf {root}/var/lib/apt/lists/*_*; APT_CONFIG={root}/etc/apt/apt.conf.d/30larder apt-get -o Dir={root} \
             -o Dir::State::status={root}/var/lib/dpkg/status -o APT::Sandbox::User= -o Acquire::Retries=0 \
             -o Acquire::Languages=none update"
        );
        end_of(shell(&page, &command), LIMIT)
    };
    assert_good("cold", &update());
    bed.assert_came_through("/debian/Packages");
    server.kill();
    assert_good("larder dead", &update());
    let seen = bed.upstream.seen("/debian/./Packages");
    assert!(seen.last().is_some_and(|asked| asked.header("via").is_none()), "apt did not go on by itself");
}

#[test]
fn the_proxy_variables() {
    let bed = Bed::new();
    bed.upstream.put("/file", Resource::text("bytes").header("cache-control", "max-age=600"));
    let server = bed.server("go", "/");
    let page = Page::read("proxy", &server, bed.dir.path());
    for lines in [page.shell("export http_proxy"), page.shell("eval")] {
        for client in ["curl -fsS", "wget -qO-"] {
            let command = format!("{lines}{client} {}", bed.upstream.url("/file"));
            let ended = end_of(shell(&page, &command), LIMIT);
            assert_eq!((ended.code, &*ended.stdout), (Some(0), "bytes"), "{client}: {}", ended.stderr);
        }
    }
    assert_eq!(bed.upstream.seen("/file").len(), 1, "four clients, one fetch");
    server.kill();
    let command = |lines: &str| format!("{lines}curl -fsS {}", bed.upstream.url("/file"));
    let lost = end_of(shell(&page, &command(&page.shell("export http_proxy"))), LIMIT);
    assert!(lost.code != Some(0), "the line says `no fallback`, and there was one");
    assert_good("--if-up", &end_of(shell(&page, &command(&page.shell("eval"))), LIMIT));
}

/// A buildah that a reader would find on the path: with a store of its own, and this machine's programs in its containers,
/// so that an image is made in no time.
fn install_buildah(bed: &Bed) {
    let real = run(&["sh", "-c", "command -v buildah"]);
    let store = bed.at("store").display().to_string();
    let text = format!(
        "#!/bin/sh\ntest \"$1\" = bud && shift && set -- bud --layers -v /usr:/usr:ro \"$@\"\n\
         exec {} --storage-driver vfs --root {store}/root --runroot {store}/run \"$@\"\n",
        real.trim()
    );
    bed.write("bin/buildah", &text);
    fs::set_permissions(bed.at("bin/buildah"), fs::Permissions::from_mode(0o755)).expect("our own file");
    let roots = ["usr", "etc", "tmp", "dev/shm", "proc", "sys"];
    roots.iter().for_each(|dir| fs::create_dir_all(bed.at("base").join(dir)).expect("scratch can be written"));
    for dir in ["bin", "sbin", "lib", "lib64"] {
        let _ = std::os::unix::fs::symlink(format!("usr/{dir}"), bed.at("base").join(dir));
    }
    bed.write("base/Dockerfile", "FROM scratch\nCOPY . /\n");
}

#[test]
fn an_image_by_buildah() {
    if !root_or_say("building an image") {
        return;
    }
    let bed = Bed::new();
    let list = "/example.test/m/@v/list";
    bed.upstream.put(list, Resource::text("v1.0.0\n").header("cache-control", "no-cache"));
    let info = "{\"Version\":\"v1.0.0\",\"Time\":\"2026-01-02T03:04:05Z\"}";
    bed.upstream.put("/example.test/m/@v/v1.0.0.info", Resource::text(info));
    bed.upstream.put("/example.test/m/@v/v1.0.0.mod", Resource::text("module example.test/m\n"));
    bed.upstream.put("/file", Resource::text("bytes").header("cache-control", "no-cache"));
    install_buildah(&bed);
    let server = bed.server("go", "/");
    let page = Page::read("buildah", &server, bed.dir.path());
    let go = run(&["sh", "-c", "readlink -f \"$(command -v go)\""]);
    let list_modules = format!("cd /tmp && HOME=/tmp {} list -m -versions example.test/m", go.trim());
    bed.write(
        "Dockerfile",
        &format!(
            "FROM localhost/base\nENV GOPROXY={} GONOSUMDB=* GOTOOLCHAIN=local GOFLAGS=-modcacherw\nRUN curl -fsS {}\n{}",
            bed.upstream.url("/"),
            bed.upstream.url("/file"),
            page.block("dockerfile").replace("your-command", &list_modules)
        ),
    );
    bed.write(".dockerignore", "*\n");
    let path = format!("{}:{}", bed.at("bin").display(), std::env::var("PATH").unwrap_or_default());
    let build = |line: &str, more: &str| {
        let line = line.replace("buildah bud", &format!("buildah bud {more}"));
        let tools = Path::new(crate::support::server::LARDER).parent().expect("is in a folder").display();
        let mut command = shell(&page, &line);
        command.env("PATH", format!("{tools}:{path}")).env("BUILDAH_ISOLATION", "chroot");
        command.env("LARDER_DATA_DIR", bed.at("client")).env("GOPROXY", bed.upstream.url("/"));
        end_of(command, LIMIT)
    };
    assert_good("base", &build("buildah bud -t localhost/base base", ""));
    let (wrapped, by_hand) = (page.shell("larder run"), page.shell("env --if-up"));
    let options = page.shell("--build-arg");
    for (name, line) in [("larder run", &wrapped), ("by hand", &by_hand), ("options", &options)] {
        if name == "options" {
            fs::copy(bed.at("client/overlays/build.env"), bed.at("build.env")).expect("larder env wrote it");
        }
        bed.upstream.forget_log();
        let ended = build(line, "--no-cache -t built");
        assert_good(name, &ended);
        assert!(ended.stdout.contains("example.test/m v1.0.0"), "{name}: {}{}", ended.stdout, ended.stderr);
        bed.assert_came_through("/file");
        // The list is kept for a minute: later builds have no need to ask.
        assert!(
            bed.upstream.seen(list).iter().all(|asked| asked.header("via").is_some()),
            "{name}: go went around larder"
        );
    }
    let image = build("buildah inspect --type image built", "").stdout;
    assert!(!image.contains(&server.url()) && !image.contains("larder"), "{image}");
    server.kill();
    bed.upstream.forget_log();
    let ended = build(&by_hand, "--no-cache -t built");
    assert_good("larder dead", &ended);
    assert!(bed.upstream.seen("/file").last().is_some_and(|asked| asked.header("via").is_none()));
}

/// Docker's client and daemon are not at hand: its options are those that buildah took above, its file has documented keys.
/// Source: the Docker CLI's reference, "Configure the Docker client to use a proxy server".
#[test]
fn an_image_by_docker_is_the_same_but_for_the_command() {
    let bed = Bed::new();
    let server = bed.server("go", "/");
    let (docker, buildah) =
        (Page::read("buildkit", &server, bed.dir.path()), Page::read("buildah", &server, bed.dir.path()));
    let same = |line: String| line.replace("docker build", "buildah bud").replace(" docker)", " buildah)");
    let lines: Vec<String> = docker.blocks("sh").into_iter().map(same).collect();
    assert_eq!(lines, buildah.blocks("sh"));
    assert_eq!(docker.block("dockerfile"), buildah.block("dockerfile"));
    let config: serde_json::Value = serde_json::from_str(&docker.block("json")).expect("is JSON");
    let documented = ["proxies", "proxies.default", "proxies.default.httpProxy", "proxies.default.httpsProxy"];
    assert_eq!(undocumented(&config, &[&documented[..], &["proxies.default.noProxy"]].concat()), [""; 0]);
}
