//! Bad days of a bucket in the path of requests: its outage holds nobody up, what somebody deleted is had again, and one
//! that will never do is told at the start.

use std::time::Duration;

use blake3::Hash;

use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::line::Line;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::s3::{READER, S3, SECRET, WRITER};
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const MIB: u64 = 1 << 20;
/// By when all must be in the bucket once nothing is in the way.
const RECOVERY: Duration = Duration::from_secs(30);

/// A server of S3, the line to it, and a larder that shares its bucket.
struct Scene {
    dir: tempfile::TempDir,
    line: Line,
    upstream: Upstream,
    _s3: S3,
}

/// Small ones of many lengths, one at the border of packs, two that are objects of their own, one of them sent in parts.
fn lengths() -> Vec<u64> {
    (0..120_u64).map(|number| 1 + number * number * 7).chain([MIB, MIB + 1, 3 * MIB, 21 * MIB + 5]).collect()
}

impl Scene {
    fn new() -> Scene {
        let dir = scratch();
        let s3 = S3::below(dir.path());
        let line = Line::to(s3.endpoint.trim_start_matches("http://"));
        let upstream = Upstream::start();
        for len in lengths() {
            let resource = Resource::seed(len, len).header("cache-control", "max-age=31536000");
            upstream.put(&path(len), resource);
        }
        Scene { dir, line, upstream, _s3: s3 }
    }

    fn setup(&self, key: &str, more: &str) -> Setup {
        let endpoint = format!("http://{}", self.line.addr());
        let config = format!(
            "[store.s3]\nbucket = \"larder\"\nendpoint = \"{endpoint}\"\npath_style = true\npack_delay = \"300ms\"\n{more}"
        );
        let setup = Setup::below(&self.dir.path().join("larder")).config(&config);
        setup.variable("AWS_ACCESS_KEY_ID", key).variable("AWS_SECRET_ACCESS_KEY", SECRET)
    }

    fn start(&self) -> Server {
        self.setup(WRITER, "").start()
    }

    /// Asks for all, and compares all bytes.
    #[track_caller]
    fn fetch_all(&self, server: &Server) {
        for len in lengths() {
            server.get(self.upstream.mirror(&path(len))).assert_is(200, digest(len));
        }
    }

    /// The bytes on the disk go; what is known of them stays.
    fn wipe(&self) {
        for folder in ["files", "segments"] {
            std::fs::remove_dir_all(self.dir.path().join("larder/data").join(folder)).expect("it was there");
        }
    }
}

fn path(len: u64) -> String {
    format!("/blob/{len}")
}

fn digest(len: u64) -> Hash {
    Body::new(len, len).digest()
}

fn waiting(server: &Server) -> u64 {
    server.stats()["s3"]["waiting_blobs"].as_u64().expect("a number")
}

#[track_caller]
fn all_sent(server: &Server) {
    server.flush();
    wait_until(RECOVERY, "all that waited is in the bucket", || waiting(server) == 0);
}

#[test]
fn an_outage_of_s3_holds_up_nothing_and_loses_nothing() {
    let scene = Scene::new();
    let server = scene.start();
    scene.line.cut();
    scene.fetch_all(&server);
    server.flush();
    assert_eq!(waiting(&server), lengths().len() as u64);
    server.kill();
    let server = scene.start();
    assert_eq!(waiting(&server), lengths().len() as u64, "what waits outlives a kill: {}", server.said());
    scene.fetch_all(&server);
    scene.line.mend();
    all_sent(&server);
    server.kill();
    scene.wipe();
    let server = scene.start();
    // A small part of a large one takes no whole copy.
    let (len, from, to) = (21 * MIB + 5, 9 * MIB + 3, 9 * MIB + 70_003);
    let part = Ask::get(scene.upstream.mirror(&path(len))).range(&format!("{from}-{}", to - 1)).must(server.addr());
    part.assert_is(206, Body::new(len, len).digest_of(from, to));
    let done = server.stats()["s3"]["done"].clone();
    assert_eq!((&done["relayed"], &done["copied_blobs"]), (&1.into(), &0.into()), "{done}");
    scene.line.cut();
    // Upstream still has what S3 cannot give now.
    let (small, large) = (path(lengths()[7]), path(3 * MIB));
    server.get(scene.upstream.mirror(&small)).assert_is(200, digest(lengths()[7]));
    scene.upstream.die();
    let reply = server.get(scene.upstream.mirror(&large));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("S3") && reply.header("retry-after").is_some(), "{}", reply.text());
    server.get(scene.upstream.mirror(&small)).assert_is(200, digest(lengths()[7]));
    scene.line.mend();
    wait_until(RECOVERY, "S3 is read again", || server.get(scene.upstream.mirror(&large)).status == 200);
    scene.fetch_all(&server);
    assert!(!server.said().contains(SECRET));
}

#[test]
fn what_somebody_deleted_from_the_bucket_is_fetched_and_sent_again() {
    let scene = Scene::new();
    let server = scene.start();
    scene.fetch_all(&server);
    all_sent(&server);
    let sent = server.stats()["s3"]["sent_bytes"].as_u64().expect("a number");
    server.kill();
    scene.wipe();
    delete_all(&scene);
    scene.upstream.forget_log();
    let server = scene.start();
    scene.fetch_all(&server);
    assert_eq!(scene.upstream.all_seen().len(), lengths().len(), "each was fetched once");
    all_sent(&server);
    let again = server.stats()["s3"]["sent_bytes"].as_u64().expect("a number");
    assert!(again * 10 > sent * 9, "{again} bytes sent of {sent}");
    server.kill();
    scene.wipe();
    scene.upstream.die();
    scene.fetch_all(&scene.start());
}

/// By somebody who does not know larder.
fn delete_all(scene: &Scene) {
    let signed = |method: &str, target: &str| {
        let url = format!("http://{}/larder{target}", scene.line.addr());
        let user = format!("{WRITER}:{SECRET}");
        crate::support::machine::run(&[
            "curl",
            "-sf",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--user",
            &user,
            "-X",
            method,
            &url,
        ])
    };
    let listing = signed("GET", "?list-type=2");
    let names: Vec<&str> = listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
    assert!(names.len() > 3, "{listing}");
    for name in names {
        signed("DELETE", &format!("/{name}"));
    }
}

#[test]
fn a_bucket_that_will_never_do_is_told_at_the_start() {
    let scene = Scene::new();
    let fails = |setup: Setup, words: &str| {
        let said = setup.try_start().map(|_| ()).expect_err("it must not serve");
        assert!(said.contains(words) && !said.contains(SECRET), "{said}");
    };
    fails(scene.setup(READER, ""), "S3 refuses a put: AccessDenied");
    fails(scene.setup("nobody", ""), "the access key is not known there");
    let mut other = scene.setup(WRITER, "");
    other.config = other.config.replace("\"larder\"", "\"another\"");
    fails(other, "the bucket another does not exist here: make it");
    fails(scene.setup(WRITER, "pack_bytes = \"1GiB\"\n"), "store.s3.pack_bytes");
    // One that is away may come back.
    scene.line.cut();
    let server = scene.start();
    server.get(scene.upstream.mirror(&path(MIB))).assert_is(200, digest(MIB));
    server.stop();
    // Another one would be taken for one that lost everything.
    scene.line.mend();
    fails(scene.setup(WRITER, "prefix = \"elsewhere\"\n"), "what this data directory knows to be in S3 is in larder/");
}
