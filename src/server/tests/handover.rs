//! A successor takes the sockets over and no request is lost.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Running, connect, soon, start, start_with, statuses};
use crate::server::front::Doors;
use crate::server::handover::{Control, Takeover};
use crate::server::settings::Limits;

const PATIENCE: Duration = Duration::from_secs(10);

async fn ask(running: &Running, path: &str) -> TcpStream {
    let mut stream = connect(running.addr()).await;
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sends");
    stream
}

async fn answered(mut stream: TcpStream) -> Vec<u16> {
    let mut got = Vec::new();
    soon(stream.read_to_end(&mut got)).await.expect("reads to the end");
    statuses(&got)
}

#[tokio::test]
async fn twenty_requests_under_way_and_those_in_between_are_all_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = start(Limits::default());
    let control = Control::listen(dir.path()).expect("listens");
    let mut under_way = Vec::new();
    for _ in 0..20 {
        under_way.push(ask(&old, "/slow").await);
    }
    old.recorder.seen_count(20).await;

    let (released, is_released) = tokio::sync::oneshot::channel();
    let server = old.server.clone();
    old.tasks.spawn("control", async move {
        control.hand_over(&server, || async { released.send(()).expect("is waited for") }).await;
    });
    let takeover = soon(Takeover::ask(dir.path())).await.expect("is answered").expect("one runs");
    // Until the successor says go, the predecessor serves.
    assert_eq!(answered(ask(&old, "/before").await).await, [200]);
    let sockets = soon(takeover.release(PATIENCE)).await.expect("is released");
    is_released.await.expect("the directory was let go of");

    // Nobody accepts now; the connection is not refused.
    let between = ask(&old, "/between").await;
    let new = start_with(Limits::default(), Doors { inherited: sockets, ..Doors::default() });
    assert_eq!(new.addr(), old.addr());
    assert_eq!(answered(between).await, [200]);
    assert_eq!(answered(ask(&old, "/after").await).await, [200]);
    assert_eq!(new.recorder.seen(), ["GET /between", "GET /after"]);

    old.recorder.open_gate();
    for stream in under_way {
        assert_eq!(answered(stream).await, [200]);
    }
    assert_eq!(soon(old.server.drain(PATIENCE)).await, 0);
    let second = Control::listen(dir.path()).expect("the successor listens in turn");
    drop(second);
    assert!(soon(Takeover::ask(dir.path())).await.expect("asks").is_none());
}

#[tokio::test]
async fn a_successor_that_gives_up_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("a directory with a long path");
    let running = start(Limits::default());
    let control = Control::listen(&deep).expect("listens");
    let server = running.server.clone();
    running.tasks.spawn("control", async move { control.hand_over(&server, || async {}).await });
    let gives_up = soon(Takeover::ask(&deep)).await.expect("is answered").expect("one runs");
    drop(gives_up);
    assert_eq!(answered(ask(&running, "/").await).await, [200]);
    let takeover = soon(Takeover::ask(&deep)).await.expect("is answered").expect("one runs");
    assert_eq!(soon(takeover.release(PATIENCE)).await.expect("is released").len(), 1);
}

#[tokio::test]
async fn nobody_to_take_over_from_is_no_error() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(Takeover::ask(dir.path()).await.expect("asks").is_none());
    std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).expect("a stale file");
    assert!(Takeover::ask(dir.path()).await.expect("asks").is_none());
}
