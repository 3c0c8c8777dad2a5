//! A larder before a real server of S3: down while builds fetch, killed while everything waits, and at last the only place
//! that has the bytes.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::support::body::Body;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::s3::{S3, SECRET, WRITER};
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

fn started(dir: &Path, config: &str) -> Server {
    let server = Setup::below(dir)
        .config(&format!("{config}pack_delay = \"500ms\"\nattempts = 1\n"))
        .variable("AWS_ACCESS_KEY_ID", WRITER)
        .variable("AWS_SECRET_ACCESS_KEY", SECRET)
        .variable("AWS_REGION", "us-east-1")
        .variable("AWS_EC2_METADATA_DISABLED", "true")
        .start();
    server.wait_ready();
    server
}

fn number(server: &Server, name: &str) -> u64 {
    server.stats().pointer(&format!("/s3/{name}")).and_then(serde_json::Value::as_u64).expect("it is told")
}

fn requests(server: &Server) -> u64 {
    let kinds = ["put", "part", "list", "get", "head", "delete"];
    kinds.iter().map(|kind| number(server, &format!("requests/{kind}"))).sum()
}

#[test]
fn what_waited_through_an_outage_and_a_kill_is_served_from_s3_when_disk_and_upstream_are_gone() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let lens = (0..40).map(|at| 1 + at * 997).chain([1 << 20, (2 << 20) + 1, (20 << 20) + 5]);
    let bodies: Vec<Body> = lens.zip(700..).map(|(len, seed)| Body::new(seed, len)).collect();
    let path = |at: usize| format!("/{at}");
    for (at, body) in bodies.iter().enumerate() {
        upstream.put(&path(at), Resource::seed(700 + at as u64, body.len));
    }
    let s3 = S3::below(dir.path());
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);

    // S3 is down: builds do not notice, and nothing is lost by a kill.
    let server = started(dir.path(), &s3.config().replace(&s3.endpoint, &nobody));
    for (at, body) in bodies.iter().enumerate() {
        server.get(upstream.mirror(&path(at))).assert_is(200, body.digest());
    }
    server.flush();
    assert_eq!(number(&server, "waiting_blobs"), bodies.len() as u64);
    wait_until(Duration::from_secs(20), "an upload fails", || number(&server, "done/failed_uploads") > 0);
    server.kill();

    let server = started(dir.path(), &s3.config());
    wait_until(Duration::from_secs(30), "all is sent", || {
        number(&server, "waiting_blobs") == 0 && number(&server, "done/uploaded_blobs") > 0
    });
    assert_eq!(number(&server, "done/uploaded_blobs"), bodies.len() as u64);
    println!("{} requests for {} blobs, {}", requests(&server), bodies.len(), server.stats()["s3"]);
    server.kill();

    // The disk's blobs are lost, and upstream with them.
    for part in ["segments", "files"] {
        for entry in std::fs::read_dir(dir.path().join("data").join(part)).expect("it has been used").flatten() {
            let path = entry.path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removed");
        }
    }
    upstream.die();
    let server = started(dir.path(), &s3.config());
    for (at, body) in bodies.iter().enumerate() {
        let reply = server.get(upstream.mirror(&path(at)));
        let status = reply.header("cache-status").unwrap_or_default().to_owned();
        reply.assert_is(200, body.digest());
        assert!(status.contains("detail=s3"), "{at}: {status}");
    }
    server.flush();
    wait_until(Duration::from_secs(20), "all is here", || number(&server, "done/copied_blobs") == bodies.len() as u64);
    let before = requests(&server);
    for round in 0..10_000 {
        let at = round % 40;
        server.get(upstream.mirror(&path(at))).assert_is(200, bodies[at].digest());
    }
    assert_eq!(requests(&server), before, "warm hits asked S3");
}
