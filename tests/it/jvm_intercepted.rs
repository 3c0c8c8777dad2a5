//! Leiningen and Maven with no mirror: `larder run` makes every JVM trust what larder intercepts, and a repository that is
//! had over TLS alone is kept by Maven's rules, whatever its headers say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::intercept::{LIMIT, setup};
use super::jvm_clients::{as_client, fetched};
use crate::support::archive::file;
use crate::support::machine::{self, scratch};
use crate::support::maven::{Artifact, BASE, coordinates, jar, place, publish};
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};
use crate::support::tls::World;

const LIB: &str = "test.example:lib:1.0";
const DEEP: &str = "test.example:deep:2.0";
const HOST: &str = "maven.example";

fn at(name: &str) -> String {
    format!("{}.jar", place(name).0)
}

/// A repository at `maven.example` that forbids to keep its jars, and a larder that intercepts it.
fn bed(dir: &Path) -> (World, Setup) {
    let (world, setup) = setup(dir, &[HOST]);
    for (name, needs) in [(LIB, &[DEEP][..]), (DEEP, &[])] {
        publish(&world.upstream, &Artifact { name, needs, more: "" });
        world.upstream.put(&at(name), file(&jar(name)).header("cache-control", "no-store"));
    }
    (world, setup)
}

/// `larder run`, in a home of its own.
fn run(dir: &Path, words: &[&str], command: &[&str]) -> Command {
    let mut run = Command::new(LARDER);
    run.args(["run", "--trust-plain-http"]).args(words).arg("--").args(command);
    as_client(&mut run, dir);
    for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "LARDER_SERVER", "LARDER_TOKEN"] {
        run.env_remove(name);
    }
    run
}

const LEIN: [&str; 4] = ["lein", "with-profile", "-base,-system,-user,-dev,-provided", "deps"];

/// `lein deps` into an empty local repository.
fn lein(dir: &Path, words: &[&str], local: &Path) -> Ended {
    end_of(lein_by(dir, words, local, &LEIN), LIMIT)
}

fn lein_by(dir: &Path, words: &[&str], local: &Path, command: &[&str]) -> Command {
    let project = dir.join("lein");
    fs::create_dir_all(&project).expect("scratch can be written");
    let text = format!(
        "(defproject demo \"1.0\"\n  :dependencies [[test.example/lib \"1.0\"]]\n  :checksum :fail\n  \
         :local-repo \"{}\"\n  :repositories ^:replace [[\"ours\" {{:url \"https://{HOST}{BASE}\"}}]])\n",
        local.display()
    );
    fs::write(project.join("project.clj"), text).expect("scratch can be written");
    let mut command = run(dir, words, command);
    command.current_dir(&project).env("LEIN_HOME", dir.join("lein-home"));
    command
}

/// A project of Maven's with an extension, where a user's own settings name the repository for all others.
pub fn project(home: &Path, host: &str, local: &Path) -> PathBuf {
    let (project, home) = (home.join("maven"), home.join(".m2"));
    fs::create_dir_all(&project).expect("scratch can be written");
    fs::create_dir_all(&home).expect("scratch can be written");
    let text = format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>test.example</groupId><artifactId>demo</artifactId>\
         <version>1</version><packaging>pom</packaging><build><extensions><extension>{}</extension></extensions></build>\
         </project>\n",
        coordinates(LIB)
    );
    fs::write(project.join("pom.xml"), text).expect("scratch can be written");
    let text = format!(
        "<settings><localRepository>{}</localRepository><mirrors><mirror><id>ours</id><mirrorOf>*</mirrorOf>\
         <url>https://{host}{BASE}</url></mirror></mirrors></settings>\n",
        local.display(),
    );
    fs::write(home.join("settings.xml"), text).expect("scratch can be written");
    project
}

/// `mvn validate` in it.
fn maven(dir: &Path, server: &Server, local: &Path) -> Ended {
    let project = project(dir, HOST, local);
    let words = ["mvn", "--batch-mode", "--strict-checksums", "validate"];
    let mut command = run(dir, &["--server", &server.url()], &words);
    // A JVM looks for its user's home elsewhere.
    command.current_dir(&project).env("MAVEN_OPTS", format!("-Duser.home={}", dir.display()));
    end_of(command, LIMIT)
}

#[track_caller]
fn assert_ended(when: &str, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{when}: {}{}", ended.stdout, ended.stderr);
}

#[track_caller]
fn assert_right(local: &Path) {
    let got = fetched(local);
    for (name, file) in [(LIB, "lib-1.0.jar"), (DEEP, "deep-2.0.jar")] {
        assert_eq!(got.get(file), Some(&blake3::hash(&jar(name))), "{file} of {:?}", got.keys());
    }
}

#[test]
fn lein_and_maven_through_interception_cold_and_again_with_the_repository_dead() {
    let dir = scratch();
    let (mut world, setup) = bed(dir.path());
    // Maven gives it to every extension.
    publish(&world.upstream, &Artifact { name: "org.codehaus.plexus:plexus-utils:1.1", needs: &[], more: "" });
    let local = |name: &str| -> PathBuf { dir.path().join(name) };
    let server = setup.start();
    let through = |server: &Server, name: &str| lein(dir.path(), &["--server", &server.url()], &local(name));
    assert_ended("lein, cold", &through(&server, "cold"));
    assert_right(&local("cold"));
    // The second client gets the same files, and asks upstream for none of them.
    assert_ended("mvn", &maven(dir.path(), &server, &local("mvn-cold")));
    assert_right(&local("mvn-cold"));
    for name in [LIB, DEEP] {
        assert_eq!((world.upstream.count(&at(name)), world.upstream.count(&format!("{}.sha1", at(name)))), (1, 1));
    }
    server.stop();

    world.die();
    let server = setup.start();
    assert_ended("lein, repository dead", &through(&server, "again"));
    assert_eq!(fetched(&local("again")), fetched(&local("cold")));
    assert_ended("mvn, repository dead", &maven(dir.path(), &server, &local("mvn-again")));
    assert_eq!(fetched(&local("mvn-again")), fetched(&local("mvn-cold")));
    let rows = server.stats()["rows"].clone();
    assert!(rows.as_array().expect("rows").iter().any(|row| row["ecosystem"] == "maven"), "{rows}");
    assert_eq!(server.stats()["bytes_tunnelled"], 0);
    // It is what the mount keeps.
    let reply = server.get(format!("/maven/@{HOST}{}", at(LIB)));
    assert!(reply.cache_status().contains("hit"), "{}", reply.cache_status());
    reply.assert_is(200, blake3::hash(&jar(LIB)));
}

/// A larder that builds share, with no server beside it.
fn by_itself(dir: &Path, setup: &Setup) -> [String; 4] {
    let (config, data) = (dir.join("run.toml"), dir.join("run"));
    fs::write(&config, &setup.config).expect("scratch can be written");
    ["--config".into(), config.display().to_string(), "--data".into(), data.display().to_string()]
}

#[test]
fn lein_through_a_larder_of_its_own_cold_and_again_with_the_repository_dead() {
    let dir = scratch();
    let (mut world, setup) = bed(dir.path());
    let words = by_itself(dir.path(), &setup);
    let words = words.each_ref().map(String::as_str);
    let (cold, again) = (dir.path().join("cold"), dir.path().join("again"));
    assert_ended("cold", &lein(dir.path(), &words, &cold));
    assert_right(&cold);
    world.die();
    let ended = lein(dir.path(), &words, &again);
    assert_ended("repository dead", &ended);
    assert_eq!(fetched(&again), fetched(&cold));
    assert!(!ended.stderr.contains("tunnelled"), "{}", ended.stderr);
}

/// A JVM that was told to trust the repository's own authority alone: it fails once, is told of, and comes through after
/// that without the cache.
#[test]
fn a_jvm_that_does_not_trust_larder_is_told_of_and_comes_through() {
    let dir = scratch();
    let (world, setup) = bed(dir.path());
    let words = by_itself(dir.path(), &setup);
    let words = words.each_ref().map(String::as_str);
    let (pem, store) = (world.authority.display().to_string(), dir.path().join("theirs.p12").display().to_string());
    let import = ["keytool", "-importcert", "-noprompt", "-alias", "theirs", "-storepass", "changeit"];
    machine::run(&[&import[..], &["-storetype", "PKCS12", "-file", &pem, "-keystore", &store]].concat());
    let java = format!(
        "-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit \
         -Djavax.net.ssl.trustStoreType=PKCS12"
    );
    let script = "! lein $0 && lein $0";
    let local = dir.path().join("local");
    let mut command = lein_by(dir.path(), &words, &local, &["sh", "-c", script, &LEIN[1..].join(" ")]);
    command.env("LEIN_JVM_OPTS", java);
    let ended = end_of(command, LIMIT);
    assert_ended("the second time", &ended);
    assert_right(&local);
    let said = fs::read_to_string(dir.path().join("run/shared.log")).expect("a log");
    assert!(said.contains("does not trust larder's authority") && said.contains(HOST), "{said}");
}
