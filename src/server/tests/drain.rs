//! A stop that loses nothing.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http2::{client, request};
use super::{BIG, connect, soon, start, statuses};
use crate::server::settings::Limits;

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn transfers_under_way_are_finished_and_new_connections_refused() {
    let running = start(Limits::default());
    let mut stream = connect(running.addr()).await;
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    running.recorder.seen_count(1).await;
    let server = running.server.clone();
    let drained = tokio::task::LocalSet::new();
    let (left, got) = drained
        .run_until(async {
            let drain = tokio::task::spawn_local(async move { server.drain(LONG).await });
            tokio::task::yield_now().await;
            assert!(TcpStream::connect(running.addr()).await.is_err());
            let mut got = Vec::new();
            soon(stream.read_to_end(&mut got)).await.expect("reads to the end");
            (soon(drain).await.expect("drains"), got)
        })
        .await;
    assert_eq!(left, 0);
    let head = got.windows(4).position(|at| at == b"\r\n\r\n").expect("a head") + 4;
    assert_eq!(got.len() - head, BIG);
}

#[tokio::test]
async fn an_answer_that_was_waited_for_says_close() {
    let running = start(Limits::default());
    let mut stream = connect(running.addr()).await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    running.recorder.seen_count(1).await;
    running.server.stop_accepting();
    running.server.finish();
    running.recorder.open_gate();
    let mut got = Vec::new();
    soon(stream.read_to_end(&mut got)).await.expect("reads to the end");
    let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
    assert!(text.contains("connection: close") && text.ends_with("slow"), "{text}");
    assert_eq!(soon(running.server.drain(LONG)).await, 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_request_already_sent_is_answered() {
    let running = start(Limits::default());
    let mut idle = connect(running.addr()).await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    let mut first = [0; 15];
    soon(idle.read_exact(&mut first)).await.expect("answers");
    // This one is accepted, but the server has had no turn to read its request yet.
    let mut late = connect(running.addr()).await;
    late.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    running.server.finish();
    let mut got = Vec::new();
    soon(late.read_to_end(&mut got)).await.expect("reads to the end");
    assert_eq!(statuses(&got), [200]);
    soon(idle.read_to_end(&mut Vec::new())).await.expect("is closed");
    assert_eq!(soon(running.server.drain(LONG)).await, 0);
}

#[tokio::test]
async fn http2_streams_under_way_are_finished() {
    let running = start(Limits::default());
    let mut send = client(&running).await;
    let slow = send.send_request(request("/slow", b""));
    let (answer, left) = soon(async {
        tokio::join!(slow, async {
            running.recorder.seen_count(1).await;
            running.server.finish();
            running.recorder.open_gate();
            running.server.drain(LONG).await
        })
    })
    .await;
    let body = answer.expect("answers").into_body().collect().await.expect("whole").to_bytes();
    assert_eq!((body.as_ref(), left), (b"slow".as_slice(), 0));
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let running = start(Limits::default());
    let mut stream = connect(running.addr()).await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    running.recorder.seen_count(1).await;
    assert_eq!(running.server.in_flight(), 1);
    assert_eq!(running.server.drain(Duration::from_millis(10)).await, 1);
    let mut got = Vec::new();
    let _ = soon(stream.read_to_end(&mut got)).await;
    assert!(got.is_empty());
}

#[tokio::test]
async fn a_tunnel_is_cut_at_the_end_of_the_grace() {
    let running = start(Limits::default());
    let mut stream = connect(running.addr()).await;
    stream.write_all(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nping").await.expect("sends");
    let mut got = Vec::new();
    while !got.ends_with(b"ping") {
        assert_ne!(soon(stream.read_buf(&mut got)).await.expect("reads"), 0);
    }
    assert_eq!(running.server.drain(Duration::from_millis(10)).await, 1);
    let _ = soon(stream.read_to_end(&mut got)).await;
    assert!(got.ends_with(b"ping"));
}
