//! Builds with real tools, each of which fetches from one host of a `World`: its files, the script that gets them, and what
//! it then has. The tools are pointed there as a user would, through the user's own proxy, and know nothing of larder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::apt::AptRoot;
use super::archive::{BASE as ARCHIVE, ByHash, Package, SUITE, SigningKey, State, file, publish, publish_package};
use super::body::{Body, sha256_hex};
use super::machine::run;
use super::maven::{self, Artifact};
use super::resource::{Fault, Resource};
use super::server::{Ended, LARDER, end_of};
use super::tls::World;

pub const HOST: &str = "files.example";
const LIMIT: Duration = Duration::from_secs(180);
/// What makes the large file of each large: well above what is withheld of an answer.
const LARGE: u64 = 400_000;
/// How much of it there is when it stops.
const CUT: u64 = 30_000;
const LIB: &str = "test.example:lib:1.0";
const DEEP: &str = "test.example:deep:2.0";

/// A build, and the host that it fetches from.
pub struct Build {
    pub world: World,
    /// The path there of a file that is large enough to be cut.
    pub large: String,
    dir: PathBuf,
    /// What is in the project that is built, by path.
    project: Vec<(&'static str, String)>,
    script: &'static str,
    /// What the user has set beside what `variables` has.
    set: Vec<(&'static str, String)>,
    /// Endings of the files that count.
    counts: &'static [&'static str],
    key: Option<SigningKey>,
}

impl Build {
    fn new(dir: &Path, large: &str, script: &'static str, counts: &'static [&'static str]) -> Build {
        let world = World::start(&dir.join("world"));
        let (project, set) = (Vec::new(), Vec::new());
        Build { world, large: large.to_owned(), dir: dir.to_owned(), project, script, set, counts, key: None }
    }

    fn put(&self, path: &str, resource: Resource) {
        self.world.upstream.put(path, resource);
    }

    /// `go mod download` of a module that needs another.
    pub fn go(dir: &Path) -> Build {
        let large = "/go/example.com/demo/@v/v1.0.0.zip";
        let mut build = Build::new(dir, large, "go mod download all", &["zip", "mod", "info", "sum"]);
        let module = "module example.com/p\n\ngo 1.20\n\nrequire example.com/demo v1.0.0\n";
        build.project = vec![("go.mod", module.to_owned())];
        build.set = [
            ("GOPROXY", &*format!("https://{HOST}/go")),
            ("GONOSUMDB", "*"),
            ("GOFLAGS", "-mod=mod -modcacherw"),
            ("GOTOOLCHAIN", "local"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec();
        for (name, needs) in [("demo", "\nrequire example.com/deep v1.0.0\n"), ("deep", "")] {
            let (path, module) =
                (format!("/go/example.com/{name}/@v/v1.0.0"), format!("module example.com/{name}\n{needs}"));
            build.put(&format!("{path}.info"), Resource::text(r#"{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}"#));
            build.put(&format!("{path}.mod"), Resource::text(module.clone()));
            let top = format!("example.com/{name}@v1.0.0");
            let zip =
                "import sys,zipfile\nz=zipfile.ZipFile('archive','w')\nfor n in sys.argv[1:]: z.write(n)\nz.close()";
            let files =
                [(format!("{top}/go.mod"), module.into_bytes()), (format!("{top}/data"), Body::new(1, LARGE).whole())];
            let words = ["python3", "-c", zip, &files[0].0, &files[1].0].map(str::to_owned);
            build.put(&format!("{path}.zip"), file(&packed(dir, &files, &words)));
        }
        build
    }

    /// `cargo fetch` without a lockfile, by way of a mirror that the project names.
    pub fn cargo(dir: &Path) -> Build {
        let mut build = Build::new(dir, "/crates/demo-1.0.0.crate", "cargo fetch -q", &["crate", "lock"]);
        let manifest =
            "[package]\nname = \"p\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\ndemo = \"1\"\n";
        let mirror = format!(
            "[source.crates-io]\nreplace-with = \"ours\"\n[source.ours]\nregistry = \"sparse+https://{HOST}/index/\"\n"
        );
        build.project =
            vec![("Cargo.toml", manifest.to_owned()), ("src/lib.rs", String::new()), (".cargo/config.toml", mirror)];
        build.put(
            "/index/config.json",
            Resource::text(format!(r#"{{"dl":"https://{HOST}/crates/{{crate}}-{{version}}.crate"}}"#)),
        );
        for (name, needs) in [
            (
                "demo",
                r#"{"name":"deep","req":"^1","features":[],"optional":false,"default_features":true,"target":null,"kind":"normal"}"#,
            ),
            ("deep", ""),
        ] {
            let top = format!("{name}-1.0.0");
            let manifest = format!("[package]\nname = {name:?}\nversion = \"1.0.0\"\nedition = \"2021\"\n");
            let files = [
                (format!("{top}/Cargo.toml"), manifest.into_bytes()),
                (format!("{top}/src/lib.rs"), Vec::new()),
                (format!("{top}/data"), Body::new(2, LARGE).whole()),
            ];
            let archive = packed(dir, &files, &["tar", "-czf", "archive", &top].map(str::to_owned));
            let sum = sha256_hex(&archive);
            let line = format!(
                r#"{{"name":"{name}","vers":"1.0.0","deps":[{needs}],"cksum":"{sum}","features":{{}},"yanked":false}}"#
            );
            build.put(&format!("/index/de/{}/{name}", &name[2..4]), Resource::text(line + "\n"));
            build.put(&format!("/crates/{top}.crate"), file(&archive));
        }
        build
    }

    /// `apt-get update` and `install`, into a root of its own.
    pub fn apt(dir: &Path) -> Build {
        let package = Package::built(dir, "thing", "1", &Body::new(3, LARGE).whole());
        let large = format!("{ARCHIVE}/{}", package.path());
        let script = "export APT_CONFIG=$HOME/root/apt.conf LC_ALL=C DEBIAN_FRONTEND=noninteractive; \
                      apt-get --yes update; apt-get --yes install thing";
        let mut build = Build::new(dir, &large, script, &["deb", "thing", "Packages", "InRelease"]);
        let key = SigningKey::below(dir);
        publish_package(&build.world.upstream, &package);
        publish(&build.world.upstream, &State::of(&[package], ByHash::Yes, &key), ByHash::Yes);
        build.key = Some(key);
        build
    }

    /// `lein deps` of an artifact that needs another, from https.
    pub fn lein(dir: &Path) -> Build {
        let script = "LEIN_HOME=$HOME/lein lein with-profile -base,-system,-user,-dev,-provided deps";
        let mut build = Build::new(dir, &format!("{}.jar", maven::place(DEEP).0), script, &["jar", "pom"]);
        let project = format!(
            "(defproject demo \"1.0\" :dependencies [[test.example/lib \"1.0\"]] :plugins [] :checksum :fail \
             :local-repo \"local\" :mirrors {{#\".+\" {{:name \"ours\" :url \"https://{HOST}/repository\"}}}})\n"
        );
        build.project = vec![("project.clj", project)];
        maven::publish(&build.world.upstream, &Artifact { name: LIB, needs: &[DEEP], more: "" });
        maven::publish(&build.world.upstream, &Artifact { name: DEEP, needs: &[], more: "" });
        build
    }

    /// What the user of a build has set: a proxy, and trust in the host's authority.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let (authority, store) = (self.world.authority.display().to_string(), self.dir.join("trust.p12"));
        if !store.exists() {
            let words = ["keytool", "-importcert", "-noprompt", "-alias", "world", "-storepass", "changeit"];
            let rest = ["-storetype", "PKCS12", "-file", &authority, "-keystore", &store.display().to_string()];
            run(&[&words[..], &rest].concat());
        }
        let trust = format!(
            "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStorePassword=changeit -Djavax.net.ssl.trustStoreType=PKCS12",
            store.display()
        );
        let proxy = self.world.proxy();
        vec![
            ("http_proxy", proxy.clone()),
            ("https_proxy", proxy),
            ("SSL_CERT_FILE", authority.clone()),
            ("CARGO_HTTP_CAINFO", authority),
            ("JAVA_TOOL_OPTIONS", trust),
        ]
    }

    /// The large file's next body stops after a part, until it is released.
    pub fn hold(&self) {
        self.world.upstream.change(&self.large, |whole| whole.then(Fault::Hold(CUT)));
    }

    /// The build in a new home of that name, after `words`. Returns what it got.
    pub fn run(&self, home: &str, words: &[&str]) -> (Ended, BTreeMap<String, blake3::Hash>) {
        let home = self.dir.join(home);
        fs::create_dir_all(home.join("p")).expect("scratch can be written");
        if let Some(key) = &self.key {
            let sources = format!("deb [signed-by={}] http://{HOST}{ARCHIVE} {SUITE} main\n", key.public.display());
            // An empty one: the variables count.
            AptRoot::below(&home, "root", &sources, Some(""));
        }
        for (path, text) in &self.project {
            let at = home.join("p").join(path);
            fs::create_dir_all(at.parent().expect("a folder")).expect("scratch can be written");
            fs::write(at, text).expect("scratch can be written");
        }
        let words = [words, &["sh", "-e", "-c", self.script]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(home.join("p")).env_clear();
        // Tools that a manager of versions stands in for find themselves by these.
        for name in ["PATH", "JAVA_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let rustup = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".rustup");
        if std::env::var_os("RUSTUP_HOME").is_none() && rustup().is_dir() {
            command.env("RUSTUP_HOME", rustup());
        }
        command.env("HOME", &home).envs(self.variables()).envs(self.set.iter().cloned());
        let ended = end_of(command, LIMIT);
        (ended, self.got(&home))
    }

    /// Every file below that counts, by name.
    fn got(&self, home: &Path) -> BTreeMap<String, blake3::Hash> {
        let (mut found, mut open) = (BTreeMap::new(), vec![home.to_owned()]);
        while let Some(at) = open.pop() {
            for path in fs::read_dir(&at).into_iter().flatten().map_while(Result::ok).map(|entry| entry.path()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                } else if self.counts.iter().any(|end| name.ends_with(end)) {
                    found.insert(name, blake3::hash(&fs::read(&path).expect("a file that is there")));
                }
            }
        }
        found
    }

    /// The words of `larder run` before a server, with its own data in the folder of that name.
    pub fn larder_run(&self, data: &str, server: &str) -> Vec<String> {
        let data = self.dir.join(data).display().to_string();
        [LARDER, "run", "--server", server, "--data", &data, "--trust-plain-http", "--"].map(str::to_owned).to_vec()
    }
}

/// An archive of these files that `words` leave as `archive`.
fn packed(dir: &Path, files: &[(String, Vec<u8>)], words: &[String]) -> Arc<[u8]> {
    let tree = tempfile::tempdir_in(dir).expect("scratch can be written");
    for (name, bytes) in files {
        let at = tree.path().join(name);
        fs::create_dir_all(at.parent().expect("a folder")).expect("scratch can be written");
        fs::write(at, bytes).expect("scratch can be written");
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(tree.path());
    let ended = end_of(command, LIMIT);
    assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
    fs::read(tree.path().join("archive")).expect("was packed").into()
}
