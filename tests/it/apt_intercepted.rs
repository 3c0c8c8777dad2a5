//! The real apt-get, over https, through interception: by apt's own settings, and under `larder run`, which tells apt whom
//! to trust. Its user `_apt` fetches, as on every Debian, where the tests have root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::intercept::{LIMIT, authority, setup};
use super::jvm_clients::as_client;
use crate::support::apt::{AptRoot, assert_no_mismatch};
use crate::support::archive::{
    BASE, ByHash, INDEX, Package, SUITE, SigningKey, State, dists, publish, publish_index, publish_package,
    publish_release,
};
use crate::support::machine::{self, root_or_say, scratch};
use crate::support::resource::Fault;
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};
use crate::support::tls::World;
use crate::support::wait_until;

const HOST: &str = "apt.example";

/// An archive at `apt.example` without files by hash, and a larder that intercepts it.
struct Bed {
    dir: tempfile::TempDir,
    key: SigningKey,
    world: World,
    setup: Setup,
}

impl Bed {
    fn new() -> Bed {
        let dir = scratch();
        // For `_apt`, which sees nothing of a folder that is ours alone.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("is ours");
        let (world, setup) = setup(dir.path(), &[HOST]);
        Bed { key: SigningKey::below(dir.path()), world, setup, dir }
    }

    /// A state with one package in it, which is in the pool at once.
    fn state(&self, version: &str) -> State {
        let package = Package::built(self.dir.path(), "thing", version, &payload(version));
        publish_package(&self.world.upstream, &package);
        State::of(&[package], ByHash::No, &self.key)
    }

    fn root(&self, name: &str) -> AptRoot {
        let sources = format!("deb [signed-by={}] https://{HOST}{BASE} {SUITE} main\n", self.key.public.display());
        let root = AptRoot::below(self.dir.path(), name, &sources, None);
        if root_or_say("apt's own user") {
            for folder in ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial"] {
                machine::run(&["chown", "_apt", &root.at.join(folder).display().to_string()]);
            }
            configure(&root, "APT::Sandbox::User \"_apt\";\n");
        }
        // What is empty is not set: the variables count.
        configure(&root, "Acquire::http::Proxy \"\";\n");
        root
    }

    /// `apt-get` under `larder run`, with a configuration of the user's.
    fn run(&self, server: &Server, root: &AptRoot, words: &[&str]) -> Ended {
        let inside = root.command(words);
        let mut command = Command::new(LARDER);
        command
            .args(["run", "--server", &server.url(), "--trust-plain-http", "--"])
            .arg(inside.get_program())
            .args(inside.get_args());
        as_client(&mut command, self.dir.path());
        for (name, value) in inside.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env_remove("XDG_DATA_HOME").env("TMPDIR", for_all(self.dir.path()));
        end_of(command, LIMIT)
    }

    #[track_caller]
    fn must(&self, when: &str, server: &Server, root: &AptRoot, words: &[&str]) {
        let ended = self.run(server, root, words);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(0), "{when}: apt-get {words:?}: {said}");
        assert!(!said.contains("W:") && !said.contains("E:"), "{when}: apt-get {words:?}: {said}");
    }
}

/// A directory for temporary files, as every user has it.
pub(crate) fn for_all(dir: &Path) -> PathBuf {
    let at = dir.join("tmp");
    fs::create_dir_all(&at).expect("scratch can be written");
    fs::set_permissions(&at, fs::Permissions::from_mode(0o1777)).expect("is ours");
    at
}

fn payload(version: &str) -> Vec<u8> {
    [version.as_bytes(); 60_000].concat()
}

/// More of what a machine says to apt.
fn configure(root: &AptRoot, more: &str) {
    let at = root.at.join("apt.conf");
    let text = fs::read_to_string(&at).expect("is there") + more;
    fs::write(at, text).expect("scratch can be written");
}

fn by_itself(root: &AptRoot, server: &Server, trusted: &Path) {
    configure(
        root,
        &format!("Acquire::https::Proxy \"{}\";\nAcquire::https::CaInfo \"{}\";\n", server.url(), trusted.display()),
    );
}

#[track_caller]
fn assert_installed(root: &AptRoot, version: &str) {
    let there = fs::read(root.at.join("opt/thing")).expect("it is installed");
    assert!(there == payload(version), "another version than {version} is installed");
}

/// Cold, through a change of generations and its middle, and again with the archive dead.
#[test]
fn apt_over_https_cold_moved_on_and_again_with_the_archive_dead() {
    let mut bed = Bed::new();
    let (old, new) = (bed.state("1"), bed.state("2"));
    publish(&bed.world.upstream, &old, ByHash::No);
    let server = bed.setup.start();
    // By its own settings, as the docs have them.
    let cold = bed.root("cold");
    by_itself(&cold, &server, &authority(&bed.setup));
    cold.must("cold", &["update"]);
    cold.must("cold", &["install", "thing"]);
    assert_installed(&cold, "1");

    // The archive moves on while apt has the release and not yet the index that it names.
    let asked = bed.world.upstream.count(&dists(INDEX));
    bed.world.upstream.put(&dists("InRelease"), old.sent(&old.release).then(Fault::Hold(10)).without("etag"));
    let slow = bed.root("slow");
    let ended = std::thread::scope(|scope| {
        let updating = scope.spawn(|| bed.run(&server, &slow, &["update"]));
        wait_until(LIMIT, "apt waits", || bed.world.upstream.held(&dists("InRelease")) == 1);
        publish_release(&bed.world.upstream, &new);
        publish_index(&bed.world.upstream, &new, ByHash::No);
        bed.world.upstream.release(&dists("InRelease"));
        updating.join().expect("apt ends")
    });
    assert_no_mismatch("in the middle", &ended);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(bed.world.upstream.count(&dists(INDEX)), asked, "the old index is here");
    bed.must("by the old lists", &server, &slow, &["install", "thing"]);
    assert_installed(&slow, "1");
    bed.must("moved on", &server, &slow, &["update"]);
    bed.must("moved on", &server, &slow, &["install", "thing"]);
    assert_installed(&slow, "2");
    let stats = server.stats();
    assert_eq!(stats["bytes_tunnelled"], 0, "{stats}");
    server.stop();

    bed.world.die();
    let server = bed.setup.start();
    let again = bed.root("again");
    bed.must("archive dead", &server, &again, &["update"]);
    bed.must("archive dead", &server, &again, &["install", "thing"]);
    assert_installed(&again, "2");
    assert_eq!(again.lists(), slow.lists());
    let (again, mut slow) = (again.archives(), slow.archives());
    slow.retain(|name, _| name.contains("_2_"));
    assert_eq!((again.len(), again), (1, slow));
}

/// GnuTLS leaves without a word. It is noticed, and from then on apt has the archive without the cache.
#[test]
fn apt_that_does_not_trust_larder_comes_through_without_it() {
    let bed = Bed::new();
    publish(&bed.world.upstream, &bed.state("1"), ByHash::No);
    let server = bed.setup.start();
    let root = bed.root("wary");
    by_itself(&root, &server, &bed.world.authority);
    let refused = root.run(&["update"]);
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("Certificate verification failed"), "{said}");
    wait_until(LIMIT, "the log tells", || server.said().contains("does not trust larder's authority"));
    assert!(server.said().contains(HOST), "{}", server.said());
    root.must("left alone", &["update"]);
    root.must("left alone", &["install", "thing"]);
    assert_installed(&root, "1");
}
