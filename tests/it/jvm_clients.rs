//! The real Maven and Leiningen through larder: against a repository of ours, cold, then from an emptied client with the
//! repository dead. Leiningen refuses plain HTTP, so it comes to larder's TLS listener and trusts larder's own authority.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::archive::file;
use crate::support::machine::{run, scratch};
use crate::support::maven::{Artifact, BASE, coordinates, jar, place, pom, publish, put};
use crate::support::pages::Page;
use crate::support::resource::Fault;
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(180);
const LIB: &str = "test.example:lib:1.0";
const DEEP: &str = "test.example:deep:2.0";
const PARENT: &str = "test.example:parent:3";
const SNAPSHOT: &str = "test.example:moving:1.0-SNAPSHOT";

struct Bed {
    dir: tempfile::TempDir,
    upstream: Upstream,
    setup: Setup,
}

impl Bed {
    fn new() -> Bed {
        let dir = scratch();
        let setup = Setup::below(&dir.path().join("larder")).config("[server.tls]\nnames = [\"localhost\"]\n");
        let bed = Bed { upstream: Upstream::start(), setup, dir };
        publish(&bed.upstream, &Artifact { name: LIB, needs: &[DEEP], more: "" });
        publish(&bed.upstream, &Artifact { name: DEEP, needs: &[], more: "" });
        bed
    }

    fn mount(&self) -> String {
        format!("/maven/@http:{}{BASE}", self.upstream.addr())
    }

    fn jar(name: &str) -> String {
        format!("{}.jar", place(name).0)
    }

    /// A trust store with larder's authority and nothing else, and what tells a JVM of it.
    fn trust(&self) -> String {
        let (pem, store) = (self.dir.path().join("ca.pem"), self.dir.path().join("trust.p12"));
        let data = self.setup.data.display().to_string();
        fs::write(&pem, run(&[LARDER, "ca", "print", "--data", &data])).expect("scratch can be written");
        // An earlier one is for the same authority.
        if !store.exists() {
            let (pem, store) = (pem.display().to_string(), store.display().to_string());
            let words = ["keytool", "-importcert", "-noprompt", "-alias", "larder", "-storepass", "changeit"];
            run(&[&words[..], &["-storetype", "PKCS12", "-file", &pem, "-keystore", &store]].concat());
        }
        format!(
            "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStorePassword=changeit \
             -Djavax.net.ssl.trustStoreType=PKCS12",
            store.display()
        )
    }

    /// `lein deps` into an empty local repository, by way of mirrors alone.
    fn lein(&self, server: &Server, local: &Path) -> Command {
        let mirror = format!("https://localhost:{}{}", server.addr().port(), self.mount());
        let text = format!(
            "(defproject demo \"1.0\"\n  :dependencies [[test.example/lib \"1.0\"]]\n  :plugins []\n  :checksum :fail\n  \
             :local-repo \"{}\"\n  :mirrors {{#\".+\" {{:name \"larder\" :url \"{mirror}\"}}}})\n",
            local.display()
        );
        self.lein_deps(&text, "-base,-system,-user,-dev,-provided")
    }

    /// `lein deps` of a project, with some profiles.
    fn lein_deps(&self, text: &str, profiles: &str) -> Command {
        let project = self.dir.path().join("lein");
        fs::create_dir_all(&project).expect("scratch can be written");
        fs::write(project.join("project.clj"), text).expect("scratch can be written");
        let mut command = Command::new("lein");
        command.args(["with-profile", profiles, "deps"]).current_dir(&project);
        command.env("LEIN_JVM_OPTS", self.trust()).env("LEIN_HOME", self.dir.path().join("lein-home"));
        as_client(&mut command, self.dir.path());
        command
    }

    /// `mvn validate` of a project with a parent, an imported list, a snapshot and an extension: all that Maven resolves
    /// with no plugin of its own.
    fn maven(&self, server: &Server, local: &Path) -> Command {
        let project = self.dir.path().join("maven");
        fs::create_dir_all(&project).expect("scratch can be written");
        let import =
            |name: &str| format!("<dependency>{}<type>pom</type><scope>import</scope></dependency>", coordinates(name));
        let text = format!(
            "<project><modelVersion>4.0.0</modelVersion><parent>{}<relativePath/></parent><artifactId>demo</artifactId>\
             <packaging>pom</packaging><dependencyManagement><dependencies>{}</dependencies></dependencyManagement>\
             <build><extensions><extension>{}</extension></extensions></build></project>\n",
            coordinates(PARENT),
            import(SNAPSHOT),
            coordinates(LIB)
        );
        fs::write(project.join("pom.xml"), text).expect("scratch can be written");
        let settings = format!(
            "<settings><localRepository>{}</localRepository><mirrors><mirror><id>larder</id><mirrorOf>*</mirrorOf>\
             <url>{}{}</url></mirror></mirrors><profiles><profile><id>all</id><repositories><repository><id>ours</id>\
             <url>http://localhost/</url><snapshots><enabled>true</enabled></snapshots></repository></repositories>\
             </profile></profiles><activeProfiles><activeProfile>all</activeProfile></activeProfiles></settings>\n",
            local.display(),
            server.url(),
            self.mount()
        );
        fs::write(project.join("settings.xml"), settings).expect("scratch can be written");
        let mut command = Command::new("mvn");
        command.args(["--batch-mode", "--strict-checksums", "--settings", "settings.xml", "validate"]);
        as_client(command.current_dir(&project), self.dir.path());
        command
    }
}

pub(crate) fn as_client(command: &mut Command, home: &Path) {
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "JAVA_TOOL_OPTIONS", "MAVEN_OPTS"] {
        command.env_remove(name);
    }
    command.env("HOME", home);
}

/// Every jar and POM below a local repository, by name.
pub(crate) fn fetched(local: &Path) -> BTreeMap<String, blake3::Hash> {
    let (mut found, mut open) = (BTreeMap::new(), vec![local.to_owned()]);
    while let Some(at) = open.pop() {
        for path in fs::read_dir(&at).into_iter().flatten().map_while(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if name.ends_with(".jar") || name.ends_with(".pom") {
                found.insert(name, blake3::hash(&fs::read(&path).expect("a file that is there")));
            }
        }
    }
    found
}

#[track_caller]
fn assert_ended(when: &str, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
}

#[track_caller]
fn assert_right(when: &str, local: &Path) {
    let got = fetched(local);
    for name in [LIB, DEEP] {
        let path = Bed::jar(name);
        let file = path.rsplit('/').next().unwrap_or_default();
        assert_eq!(got.get(file), Some(&blake3::hash(&jar(name))), "{when}: {file} of {:?}", got.keys());
    }
}

fn local(bed: &Bed, name: &str) -> PathBuf {
    bed.dir.path().join(name)
}

#[test]
fn lein_deps_cold_and_again_with_the_repository_dead() {
    let bed = Bed::new();
    let server = bed.setup.start();
    let cold = local(&bed, "cold");
    assert_ended("cold", &end_of(bed.lein(&server, &cold), LIMIT));
    assert_right("cold", &cold);
    assert_eq!(bed.upstream.count(&Bed::jar(LIB)), 1);
    assert_eq!(bed.upstream.count(&format!("{}.sha1", Bed::jar(LIB))), 1, "its sum is asked for once");
    server.stop();

    bed.upstream.die();
    let server = bed.setup.start();
    let again = local(&bed, "again");
    assert_ended("repository dead", &end_of(bed.lein(&server, &again), LIMIT));
    assert_eq!(fetched(&again), fetched(&cold));
}

/// larder is killed while Leiningen downloads: it fails, and goes on with the one that is started then.
#[test]
fn larder_is_killed_while_lein_downloads() {
    let bed = Bed::new();
    let path = Bed::jar(DEEP);
    bed.upstream.put(&path, file(&jar(DEEP)).then(Fault::Hold(9_000)));
    let server = bed.setup.start();
    let listen = server.addr().to_string();
    let at = local(&bed, "killed");
    let command = bed.lein(&server, &at);
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| end_of(command, LIMIT));
        wait_until(LIMIT, "lein downloads", || bed.upstream.held(&path) == 1);
        server.kill();
        bed.upstream.release(&path);
        running.join().expect("lein ends")
    });
    assert!(ended.code.is_some_and(|code| code != 0), "{}{}", ended.stdout, ended.stderr);
    let server = bed.setup.clone().listen(&listen).start();
    assert_ended("started again", &end_of(bed.lein(&server, &at), LIMIT));
    assert_right("started again", &at);
}

/// A jar that comes broken is never whole: Leiningen fails rather than have it, and the next try is right.
#[test]
fn a_broken_jar_is_never_had() {
    let bed = Bed::new();
    bed.upstream.put(&Bed::jar(DEEP), file(&jar(DEEP)).always(Fault::Corrupt(30_000)).without("etag"));
    let server = bed.setup.start();
    let at = local(&bed, "broken");
    let ended = end_of(bed.lein(&server, &at), LIMIT);
    assert!(ended.code.is_some_and(|code| code != 0), "{}{}", ended.stdout, ended.stderr);
    bed.upstream.put(&Bed::jar(DEEP), file(&jar(DEEP)));
    assert_ended("mended", &end_of(bed.lein(&server, &at), LIMIT));
    assert_right("mended", &at);
}

/// The page on Leiningen, as it is pasted; the repository is larder's own upstream, which the line does not name.
#[test]
fn leiningens_page() {
    let mut bed = Bed::new();
    bed.setup = bed.setup.clone().config(&format!("[ecosystem.maven]\nupstreams = [\"{}\"]\n", bed.upstream.url(BASE)));
    let server = bed.setup.start();
    let home = bed.dir.path().join("lein-home");
    fs::create_dir_all(&home).expect("scratch can be written");
    let block = Page::read("lein", &server, bed.dir.path()).block("clojure");
    fs::write(home.join("profiles.clj"), block.replace("127.0.0.1", "localhost")).expect("scratch can be written");
    let deps = |name: &str| {
        let at = local(&bed, name);
        let text = format!(
            "(defproject demo \"1.0\" :dependencies [[test.example/lib \"1.0\"]] :checksum :fail :local-repo \"{}\")\n",
            at.display()
        );
        let lein = bed.lein_deps(&text, "-base,-system,-dev,-provided");
        assert_ended(name, &end_of(lein, LIMIT));
        assert_right(name, &at);
    };
    deps("pasted");
    bed.upstream.die();
    deps("pasted, repository dead");
}

/// Publishes the snapshot as of `number`, with the metadata that says so.
fn publish_snapshot(upstream: &Upstream, number: u32) {
    let time = format!("20260102.03040{number}-{number}");
    let (_, folder) = place(SNAPSHOT);
    let text = pom(&Artifact { name: SNAPSHOT, needs: &[], more: "<packaging>pom</packaging>" });
    put(
        upstream,
        &format!("{folder}/moving-1.0-{time}.pom"),
        &format!("{text}<!-- {number} -->\n").into_bytes().into(),
    );
    let (day, rest) = time.split_once('-').expect("a number");
    let updated = format!("2026010203040{number}");
    let metadata = format!(
        "<metadata modelVersion=\"1.1.0\">{}<versioning><snapshot><timestamp>{day}</timestamp><buildNumber>{rest}\
         </buildNumber></snapshot><lastUpdated>{updated}</lastUpdated><snapshotVersions><snapshotVersion>\
         <extension>pom</extension><value>1.0-{time}</value><updated>{updated}</updated></snapshotVersion>\
         </snapshotVersions></versioning></metadata>\n",
        coordinates(SNAPSHOT)
    );
    put(upstream, &format!("{folder}/maven-metadata.xml"), &metadata.into_bytes().into());
}

#[test]
fn maven_cold_and_again_with_the_repository_dead() {
    let bed = Bed::new();
    publish(&bed.upstream, &Artifact { name: PARENT, needs: &[], more: "<packaging>pom</packaging>" });
    // Maven gives it to every extension.
    publish(&bed.upstream, &Artifact { name: "org.codehaus.plexus:plexus-utils:1.1", needs: &[], more: "" });
    publish_snapshot(&bed.upstream, 1);
    let server = bed.setup.start();
    let cold = local(&bed, "cold");
    assert_ended("cold", &end_of(bed.maven(&server, &cold), LIMIT));
    assert_right("cold", &cold);
    // The repository moves on, and Maven asks for metadata with `no-cache`: the sum that is here must move along.
    publish_snapshot(&bed.upstream, 2);
    let moved = local(&bed, "moved");
    assert_ended("moved on", &end_of(bed.maven(&server, &moved), LIMIT));
    assert!(fetched(&moved).contains_key("moving-1.0-20260102.030402-2.pom"), "{:?}", fetched(&moved).keys());
    server.stop();

    bed.upstream.die();
    let server = bed.setup.start();
    let again = local(&bed, "again");
    assert_ended("repository dead", &end_of(bed.maven(&server, &again), LIMIT));
    assert_eq!(fetched(&again), fetched(&moved));
}
