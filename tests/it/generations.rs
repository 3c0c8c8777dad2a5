//! Generations of a Debian archive: what a client asks for by name is what its own `InRelease` says, whatever became of
//! the archive meanwhile. By mount and by proxy, from keys that both share.

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;

use crate::support::archive::{
    ByHash, INDEX, Package, SigningKey, State, dists, publish, publish_index, publish_package, publish_release,
};
use crate::support::client::{Ask, Reply, connect, read_line};
use crate::support::machine::scratch;
use crate::support::resource::{Fault, Resource};
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;

struct Bed {
    dir: tempfile::TempDir,
    key: SigningKey,
    upstream: Upstream,
    server: Server,
}

impl Bed {
    fn new() -> Bed {
        let dir = scratch();
        let key = SigningKey::below(dir.path());
        let server = Setup::below(dir.path()).start();
        Bed { key, upstream: Upstream::start(), server, dir }
    }

    fn package(&self, version: &str) -> Package {
        Package::built(self.dir.path(), "thing", version, version.as_bytes())
    }

    fn state(&self, version: &str, by_hash: ByHash) -> State {
        State::of(&[self.package(version)], by_hash, &self.key)
    }

    /// How a path of the archive is asked for: below the mount, and in a proxy's request line.
    fn targets(&self, path: &str) -> [String; 2] {
        [format!("/apt/@http:{}{path}", self.upstream.addr()), self.upstream.url(path)]
    }

    fn get(&self, target: &str) -> Reply {
        Ask::get(target).must(self.server.addr())
    }
}

/// A connection that stays, as apt's do.
pub struct Connection {
    reader: BufReader<std::net::TcpStream>,
}

impl Connection {
    pub fn to(addr: SocketAddr) -> Connection {
        Connection { reader: BufReader::new(connect(addr).expect("accepts")) }
    }

    /// Status and body of an answer of known length.
    pub fn get(&mut self, target: &str) -> (u16, String) {
        let host = self.reader.get_ref().peer_addr().expect("is connected");
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\ncache-control: max-age=0\r\n\r\n");
        self.reader.get_mut().write_all(head.as_bytes()).expect("the server reads");
        let line = read_line(&mut self.reader).expect("an answer");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        let mut len = 0;
        loop {
            let line = read_line(&mut self.reader).expect("a field");
            if line.is_empty() {
                break;
            }
            if let Some((_, value)) = line.split_once(':').filter(|(name, _)| *name == "content-length") {
                len = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; len];
        self.reader.read_exact(&mut body).expect("a body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// The archive moves on between an `InRelease` and the index that it names. Neither an index by hash nor one that was
/// fetched before is lost by that.
#[test]
fn an_index_is_that_of_the_generation_that_the_client_holds() {
    let bed = Bed::new();
    let (old, new) = (bed.state("1", ByHash::Yes), bed.state("2", ByHash::Yes));
    for (at, way) in ["mount", "proxy"].into_iter().enumerate() {
        publish(&bed.upstream, &old, ByHash::Yes);
        let target = |path: &str| bed.targets(&dists(path))[at].clone();
        let mut slow = Connection::to(bed.server.addr());
        assert_eq!(slow.get(&target("InRelease")).1, old.release, "{way}");
        publish(&bed.upstream, &new, ByHash::Yes);
        let mut quick = Connection::to(bed.server.addr());
        assert_eq!(quick.get(&target("InRelease")).1, new.release, "{way}");
        assert_eq!(quick.get(&target(INDEX)).1, new.index, "{way}");
        assert_eq!(slow.get(&target(INDEX)).1, old.index, "{way}: not the index of its own generation");
        // On the same connection it may begin anew.
        assert_eq!(slow.get(&target("InRelease")).1, new.release, "{way}");
        assert_eq!(slow.get(&target(INDEX)).1, new.index, "{way}");
    }
}

/// Without files by hash an older index is to be had from larder alone, once it was here.
#[test]
fn an_index_that_was_here_outlives_its_generation() {
    let bed = Bed::new();
    let (old, new) = (bed.state("1", ByHash::No), bed.state("2", ByHash::No));
    let [release, _] = bed.targets(&dists("InRelease"));
    let [index, _] = bed.targets(&dists(INDEX));
    publish(&bed.upstream, &old, ByHash::No);
    assert_eq!(bed.get(&index).text(), old.index, "no generation was asked for, and yet there is one");
    let mut slow = Connection::to(bed.server.addr());
    slow.get(&release);
    publish(&bed.upstream, &new, ByHash::No);
    assert_eq!(bed.get(&release).text(), new.release);
    assert_eq!(slow.get(&index).1, old.index);
    let mut other = Connection::to(bed.server.addr());
    assert_eq!(other.get(&release).1, new.release);
    assert_eq!(other.get(&index).1, new.index);
    assert_eq!(slow.get(&index).1, old.index);
}

/// An archive in the middle of its update: `InRelease` is new, an index old, or the other way about. What does not fit is
/// never whole, and is right as soon as the archive is.
#[test]
fn an_index_of_another_generation_is_never_whole() {
    let bed = Bed::new();
    let (old, new) = (bed.state("1", ByHash::No), bed.state("2", ByHash::No));
    let [release, _] = bed.targets(&dists("InRelease"));
    let [index, _] = bed.targets(&dists(INDEX));
    publish_release(&bed.upstream, &new);
    publish_index(&bed.upstream, &old, ByHash::No);
    assert_eq!(bed.get(&release).text(), new.release);
    for _ in 0..2 {
        if let Ok(reply) = Ask::get(&index).send(bed.server.addr()) {
            assert!(reply.status >= 500 || !reply.clean, "{} {}", reply.status, reply.text());
        }
    }
    publish_index(&bed.upstream, &new, ByHash::No);
    assert_eq!(bed.get(&index).text(), new.index);
}

#[test]
fn an_index_that_is_cut_or_wrong_is_never_whole() {
    let bed = Bed::new();
    let state = bed.state("1", ByHash::No);
    publish(&bed.upstream, &state, ByHash::No);
    let [release, _] = bed.targets(&dists("InRelease"));
    let [index, _] = bed.targets(&dists(INDEX));
    bed.get(&release);
    let cut = state.index[..state.index.len() / 2].to_owned();
    for wrong in [Resource::text(cut), Resource::text(&state.index).always(Fault::Corrupt(3))] {
        bed.upstream.put(&dists(INDEX), wrong);
        if let Ok(reply) = Ask::get(&index).send(bed.server.addr()) {
            assert!(reply.status >= 500 || !reply.clean, "{} {}", reply.status, reply.text());
        }
    }
    publish(&bed.upstream, &state, ByHash::No);
    assert_eq!(bed.get(&index).text(), state.index);
}

/// The format forbids it, and yet small archives build a version anew: the next generation's package must be had.
#[test]
fn a_package_that_was_replaced_under_its_name_is_had_with_the_next_generation() {
    let bed = Bed::new();
    let (first, mut second) = (bed.package("1"), bed.package("1"));
    second.bytes = [&first.bytes, &b"built anew"[..]].concat().into();
    let pool = format!("{}/{}", crate::support::archive::BASE, first.path());
    let targets = bed.targets(&pool);
    let [release, _] = bed.targets(&dists("InRelease"));
    for (package, asks) in [(&first, 1), (&second, 2)] {
        let state = State::of(std::slice::from_ref(package), ByHash::No, &bed.key);
        publish(&bed.upstream, &state, ByHash::No);
        publish_package(&bed.upstream, package);
        for _ in 0..2 {
            bed.get(&release);
            for target in &targets {
                bed.get(target).assert_is(200, blake3::hash(&package.bytes));
            }
        }
        assert_eq!(bed.upstream.count(&pool), asks, "it is asked about once a generation");
    }
    // A generation that leaves it as it is: it is confirmed and not fetched.
    publish(&bed.upstream, &bed.state("2", ByHash::No), ByHash::No);
    bed.get(&release);
    bed.get(&targets[0]).assert_is(200, blake3::hash(&second.bytes));
    assert!(bed.upstream.seen(&pool)[2].header("if-none-match").is_some());
    // One that could not be confirmed is still the best there is.
    publish(&bed.upstream, &bed.state("3", ByHash::No), ByHash::No);
    bed.get(&release);
    bed.upstream.die();
    bed.get(&targets[0]).assert_is(200, blake3::hash(&second.bytes));
}

/// The mount and the proxy fill the same keys: what came by one is here for the other, and the archive hears nothing.
#[test]
fn mount_and_proxy_share_what_is_kept() {
    let bed = Bed::new();
    let (state, package) = (bed.state("1", ByHash::Yes), bed.package("1"));
    publish(&bed.upstream, &state, ByHash::Yes);
    publish_package(&bed.upstream, &package);
    let pool = format!("{}/{}", crate::support::archive::BASE, package.path());
    for path in [dists("InRelease"), dists(INDEX), state.by_hash_path(), pool.clone()] {
        let [mount, proxy] = bed.targets(&path);
        let (first, second) = (bed.get(&proxy), bed.get(&mount));
        assert_eq!((first.status, second.status), (200, 200), "{path}: {} {}", first.text(), second.text());
        assert_eq!(first.digest, second.digest, "{path}");
    }
    assert_eq!(bed.upstream.count(&pool), 1);
    assert_eq!(bed.upstream.count(&state.by_hash_path()), 1);
    assert_eq!(bed.upstream.count(&dists(INDEX)), 0, "it is had by its hash");
    bed.upstream.die();
    for path in [dists("InRelease"), dists(INDEX), pool] {
        for target in bed.targets(&path) {
            assert_eq!(bed.get(&target).status, 200, "{target}");
        }
    }
}

/// What only looks like an archive's by its path stays under RFC 9111.
#[test]
fn a_look_alike_is_not_kept_for_ever() {
    let bed = Bed::new();
    let page = |text: &str| Resource::text(text).header("cache-control", "no-store");
    let paths = [
        "/debian/pool/main/t/thing_1_all.deb",
        "/g/a/1.0/a-1.0.jar",
        "/site/dists/x/InRelease",
        "/g/a/maven-metadata.xml",
    ];
    for path in paths {
        for text in ["<html>first</html>", "<html>second</html>"] {
            bed.upstream.put(path, page(text));
            assert_eq!(bed.get(&bed.upstream.url(path)).text(), text, "{path}");
        }
    }
    // A package that is one, below no archive that is known: its own headers decide.
    let package = bed.package("1");
    let at = "/downloads/thing_1_all.deb";
    bed.upstream.put(at, crate::support::archive::file(&package.bytes).header("cache-control", "no-store"));
    bed.get(&bed.upstream.url(at));
    bed.get(&bed.upstream.url(at));
    assert_eq!(bed.upstream.count(at), 2);
}

/// Mirrors copy an `InRelease` that speaks of files by hash and keep none: apt then asks by name.
#[test]
fn an_archive_that_keeps_no_files_by_hash_is_read_by_name() {
    for at in 0..2 {
        let bed = Bed::new();
        let state = bed.state("1", ByHash::Yes);
        publish_release(&bed.upstream, &state);
        publish_index(&bed.upstream, &state, ByHash::No);
        let sum = crate::support::body::sha256_hex(state.index.as_bytes());
        let (folder, name) = INDEX.rsplit_once('/').expect("has a folder");
        let by_hash = dists(&format!("{folder}/by-hash/SHA256/{sum}"));
        let target = |path: &str| bed.targets(path)[at].clone();
        let mut apt = Connection::to(bed.server.addr());
        assert_eq!(apt.get(&target(&dists("InRelease"))).1, state.release);
        assert_eq!(apt.get(&target(&by_hash)).0, 404);
        // Another larder says both, so that it is understood whatever generation this one holds.
        let named = format!("{}?of={name}", bed.targets(&by_hash)[0]);
        match at {
            0 => assert_eq!(apt.get(&target(&dists(INDEX))), (200, state.index.clone())),
            _ => assert_eq!(bed.get(&named).text(), state.index),
        }
        assert_eq!(apt.get(&target(&by_hash)), (200, state.index.clone()), "here it is kept by hash now");
    }
}

/// What `larder explain` tells of an index is what the client would be answered from.
#[test]
fn an_index_is_explained_by_the_generation_that_is_held() {
    let bed = Bed::new();
    let state = bed.state("1", ByHash::Yes);
    publish(&bed.upstream, &state, ByHash::Yes);
    let sum = crate::support::body::sha256_hex(state.index.as_bytes());
    for (release, index) in bed.targets(&dists("InRelease")).iter().zip(bed.targets(&dists(INDEX))) {
        bed.get(release);
        assert_eq!(bed.get(&index).text(), state.index);
        let said = bed.get(&format!("/api/v1/explain?url={index}")).text();
        assert!(said.contains(&format!("by-hash/SHA256/{sum}")), "{index}: {said}");
    }
}
