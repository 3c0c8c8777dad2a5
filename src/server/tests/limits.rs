//! What clients may use up, and what happens beyond it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Running, connect, exchange, soon, start, statuses};
use crate::server::settings::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client on a stream in memory, whose time is the test's.
fn dial(running: &Running, buffer: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(buffer);
    let server = running.server.clone();
    running.tasks.spawn("in memory", async move { server.serve_memory(far).await });
    near
}

/// Whether the server closes within `seconds`, whatever it sends before.
async fn closes_within(stream: &mut DuplexStream, seconds: u64) -> bool {
    let closed = async {
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|len| len > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(seconds), closed).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_half_sent_header_is_cut_after_ten_seconds() {
    let running = start(Limits::default());
    let mut slow = dial(&running, 1024);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX:").await.expect("sends");
    assert!(!closes_within(&mut slow, 8).await);
    slow.write_all(b" y").await.expect("sends");
    assert!(closes_within(&mut slow, 5).await);
    assert_eq!(running.server.counters().cut_slow_header.load(Relaxed), 1);
    assert!(running.recorder.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_after_a_minute() {
    let running = start(Limits::default());
    let mut never_spoke = dial(&running, 1024);
    let mut spoke = dial(&running, 1024);
    spoke.write_all(GET).await.expect("sends");
    assert!(!closes_within(&mut spoke, 55).await);
    assert!(closes_within(&mut spoke, 10).await);
    assert!(closes_within(&mut never_spoke, 10).await);
    assert_eq!(running.server.counters().closed_idle.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_dribbles_is_cut() {
    let running = start(Limits::default());
    let mut slow = dial(&running, 1024);
    slow.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await.expect("sends");
    let mut seconds = 0;
    while slow.write_all(b"dribble").await.is_ok() && !closes_within(&mut slow, 1).await {
        seconds += 1;
        assert!(seconds < 40);
    }
    assert!(seconds >= 29, "{seconds}");
    assert_eq!(running.server.counters().cut_slow_body.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_is_cut() {
    let running = start(Limits::default());
    let mut slow = dial(&running, 1024);
    slow.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    tokio::time::sleep(Duration::from_secs(28)).await;
    assert_eq!(running.server.counters().open.load(Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(running.server.counters().cut_slow_body.load(Relaxed), 1);
    assert_eq!(running.server.counters().open.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_not_the_clients_fault() {
    let running = start(Limits::default());
    let mut client = dial(&running, 1024);
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    assert!(!closes_within(&mut client, 300).await);
    running.recorder.open_gate();
    let mut answer = [0; 15];
    soon(client.read_exact(&mut answer)).await.expect("answers");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_takes_no_further_request() {
    let limits = Limits { connection_life: Duration::from_secs(90), ..Limits::default() };
    let running = start(limits);
    let mut client = dial(&running, 1024);
    for _ in 0..4 {
        client.write_all(GET).await.expect("sends");
        assert!(!closes_within(&mut client, 20).await);
    }
    assert!(closes_within(&mut client, 15).await);
    assert_eq!(running.server.counters().closed_old.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_dozes_wakes_for_a_request_and_ends_at_once_in_a_drain() {
    let running = start(Limits::default());
    let mut client = dial(&running, 1024);
    for _ in 0..3 {
        client.write_all(GET).await.expect("sends");
        assert!(!closes_within(&mut client, 10).await);
    }
    assert_eq!(running.recorder.seen().len(), 3);
    running.server.finish();
    assert!(closes_within(&mut client, 1).await);
}

#[tokio::test]
async fn a_header_of_a_mebibyte_is_431_and_the_end() {
    let running = start(Limits::default());
    let wire = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &[b'x'; 1 << 20], b"\r\n\r\n", GET].concat();
    assert_eq!(statuses(&exchange(running.addr(), &wire).await), [431]);
    assert!(running.recorder.seen().is_empty());
}

#[tokio::test]
async fn too_many_headers_are_431_and_too_long_a_target_414() {
    let running = start(Limits::default());
    let header = |count: usize| {
        let more = "X: y\r\n".repeat(count - 2);
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n")
    };
    assert_eq!(statuses(&exchange(running.addr(), header(100).as_bytes()).await), [200]);
    assert_eq!(statuses(&exchange(running.addr(), header(101).as_bytes()).await), [431]);
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    assert_eq!(statuses(&exchange(running.addr(), target.as_bytes()).await), [414]);
    assert_eq!(running.recorder.seen(), ["GET /"]);
}

#[tokio::test]
async fn an_address_beyond_its_connections_is_closed_at_once() {
    let running = start(Limits { connections_per_address: 2, ..Limits::default() });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(running.addr()).await;
        stream.write_all(GET).await.expect("sends");
        held.push(stream);
    }
    running.recorder.seen_count(2).await;
    assert_eq!(exchange(running.addr(), GET).await, b"");
    assert_eq!(running.server.counters().refused_address.load(Relaxed), 1);
}

#[tokio::test]
async fn beyond_all_connections_one_waits_for_another_to_close() {
    let running = start(Limits { connections: 1, ..Limits::default() });
    let mut first = connect(running.addr()).await;
    first.write_all(GET).await.expect("sends");
    running.recorder.seen_count(1).await;
    let mut second = connect(running.addr()).await;
    second.write_all(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sends");
    assert_eq!(running.server.counters().accepted.load(Relaxed), 1);
    drop(first);
    soon(running.recorder.seen_count(2)).await;
}

#[tokio::test]
async fn requests_beyond_the_rate_are_429() {
    let running = start(Limits { requests_per_second: Some(3), ..Limits::default() });
    let close = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let got = exchange(running.addr(), &[GET.repeat(7), close.to_vec()].concat()).await;
    let answered = statuses(&got);
    assert_eq!(answered[..6], [200; 6]);
    assert!(answered[6..].iter().all(|status| *status == 429), "{answered:?}");
    assert_eq!(running.server.counters().shed.load(Relaxed), 2);
}
