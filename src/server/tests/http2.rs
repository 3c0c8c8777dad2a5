//! HTTP/2 on the same port, and what its peers may not do.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BIG, Running, connect, soon, start};
use crate::runtime::tasks::Tasks;
use crate::server::guarded::PREFACE;
use crate::server::settings::Limits;

#[derive(Clone)]
pub struct Spawn(pub Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, future: F) {
        self.0.spawn("client", future);
    }
}

pub async fn client(running: &Running) -> SendRequest<Full<Bytes>> {
    let io = TokioIo::new(connect(running.addr()).await);
    let (send, connection) = Builder::new(Spawn(running.tasks.clone())).handshake(io).await.expect("shakes hands");
    running.tasks.spawn("client connection", async move {
        let _ = connection.await;
    });
    send
}

pub fn request(path: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder().uri(format!("http://a{path}")).body(Full::new(Bytes::from_static(body))).expect("a request")
}

/// A frame as it stands on the wire (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// `GET http://a/` by the static table of HPACK, but for the authority.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

fn greeting() -> Vec<u8> {
    [PREFACE.as_slice(), &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Sends raw frames and reads until the server closes; the reasons of the GOAWAYs on the way.
async fn reasons(running: &Running, wire: Vec<u8>) -> Vec<u32> {
    let (mut read, mut write) = connect(running.addr()).await.into_split();
    running.tasks.spawn("raw client", async move {
        let _ = write.write_all(&wire).await;
        // Keeps the half open, so that the server is the one who ends.
        std::future::pending::<()>().await;
    });
    let mut got = Vec::new();
    let _ = soon(read.read_to_end(&mut got)).await;
    let mut reasons = Vec::new();
    let mut rest = got.as_slice();
    while rest.len() >= 9 {
        let len = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let (kind, payload) = (rest[3], &rest[9..(9 + len).min(rest.len())]);
        if kind == GOAWAY && payload.len() >= 8 {
            reasons.push(u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]));
        }
        rest = &rest[(9 + len).min(rest.len())..];
    }
    reasons
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|at| 2 * at + 1)
}

#[tokio::test]
async fn prior_knowledge_is_understood() {
    let running = start(Limits::default());
    let mut send = client(&running).await;
    let response = soon(send.send_request(request("/big", b""))).await.expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    let body = soon(response.into_body().collect()).await.expect("whole").to_bytes();
    assert_eq!(body.len(), BIG);
    let uploaded = soon(send.send_request(request("/put", &[b'x'; 3 << 20]))).await.expect("answers");
    assert_eq!(uploaded.status(), StatusCode::OK);
    assert_eq!(running.server.counters().open_http2.load(Relaxed), 1);
}

#[tokio::test]
async fn a_tunnel_is_under_way_as_long_as_it_is_open() {
    let running = start(Limits::default());
    let mut send = client(&running).await;
    let connect = Request::connect("a:443").body(Full::default()).expect("a request");
    let mut response = soon(send.send_request(connect)).await.expect("answers");
    let mut tunnel = TokioIo::new(soon(hyper::upgrade::on(&mut response)).await.expect("a tunnel"));
    soon(tunnel.write_all(b"ping")).await.expect("sends");
    let mut got = [0; 4];
    soon(tunnel.read_exact(&mut got)).await.expect("comes back");
    assert_eq!((&got, running.server.in_flight()), (b"ping", 1));
    drop((tunnel, response));
    while running.server.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_host_beside_another_authority_is_400() {
    let running = start(Limits::default());
    let mut send = client(&running).await;
    let mut two_hosts = request("/", b"");
    two_hosts.headers_mut().insert("host", "b".parse().expect("a value"));
    assert_eq!(soon(send.send_request(two_hosts)).await.expect("answers").status(), StatusCode::BAD_REQUEST);
    assert!(running.recorder.seen().is_empty());
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let running = start(Limits::default());
    let mut wire = greeting();
    for stream in streams(2000) {
        wire.extend(frame(HEADERS, 0x5, stream, GET));
        wire.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    assert!(reasons(&running, wire).await.contains(&0xb), "enhance your calm");
    let seen = running.recorder.seen().len();
    assert!(seen < 300, "{seen} of 2000 reached the mount");
}

#[tokio::test]
async fn resets_that_we_are_made_to_send_end_the_connection() {
    let running = start(Limits::default());
    let mut wire = greeting();
    for stream in streams(4000) {
        wire.extend(frame(HEADERS, 0x5, stream, GET));
        wire.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
    }
    assert!(!reasons(&running, wire).await.is_empty());
    let seen = running.recorder.seen().len();
    assert!(seen < 1000, "{seen} of 4000 reached the mount");
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let running = start(Limits::default());
    let mut wire = greeting();
    wire.extend(frame(HEADERS, 0x1, 1, GET));
    for _ in 0..20_000 {
        // A literal header, never indexed: `x: y`.
        wire.extend(frame(CONTINUATION, 0, 1, &[0x10, 0x01, b'x', 0x01, b'y']));
    }
    assert!(!reasons(&running, wire).await.is_empty());
    assert!(running.recorder.seen().is_empty());
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_not_queued() {
    let running = start(Limits::default());
    let mut wire = greeting();
    let slow = [&[0x82, 0x86, 0x04, 0x05], b"/slow".as_slice(), &[0x41, 0x01, b'a']].concat();
    for stream in streams(200) {
        wire.extend(frame(HEADERS, 0x5, stream, &slow));
    }
    let mut stream = connect(running.addr()).await;
    stream.write_all(&wire).await.expect("sends");
    soon(running.recorder.seen_count(128)).await;
    // The refusals of the 72 others come back as RST_STREAM: 13 bytes each, after our settings.
    let mut got = Vec::new();
    while got.len() < 72 * 13 {
        assert_ne!(soon(stream.read_buf(&mut got)).await.expect("reads"), 0);
    }
    assert_eq!(running.recorder.seen().len(), 128);
    running.server.drain(Duration::ZERO).await;
}
