//! Requests that two readers could take apart differently. Each case is followed by a probe on the same connection:
//! whatever is ambiguous must be refused, and then the probe must not be seen.

use super::{Running, connect, exchange, soon, start, statuses};
use crate::server::settings::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What is sent; how many requests the mount may see of it (the probe not counted); the statuses of the answers.
struct Case {
    wire: &'static str,
    seen: usize,
    statuses: &'static [u16],
}

/// Refused before the mount sees anything.
const fn refused(wire: &'static str) -> Case {
    Case { wire, seen: 0, statuses: &[400] }
}

/// The first request is right, what follows is refused.
const fn second_refused(wire: &'static str) -> Case {
    Case { wire, seen: 1, statuses: &[200, 400] }
}

/// The head is right, the body turns out not to be: the mount is told, and the connection ends.
const fn body_refused(wire: &'static str) -> Case {
    Case { wire, seen: 1, statuses: &[400] }
}

/// Answered, and the connection ends before the probe.
const fn last(wire: &'static str) -> Case {
    Case { wire, seen: 1, statuses: &[200] }
}

/// Answered, and the probe too.
const fn served(wire: &'static str) -> Case {
    Case { wire, seen: 1, statuses: &[200, 200] }
}

#[rustfmt::skip]
const CORPUS: &[Case] = &[
    // Lengths that contradict or repeat each other.
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nX: aaaaaaa\r\n\r\n"),
    // Lengths that are no numbers.
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: five\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{ff15}\r\n\r\nhello"),
    // Transfer codings that are not exactly one `chunked`.
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunk\0ed\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    // Names and lines that some readers mend.
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\n\tX: y\r\n\r\n"),
    refused("POST / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\nHost: a\n\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\nhello"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX\0Y: z\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nX(Y): z\r\n\r\n"),
    // Whose request it is.
    refused("GET / HTTP/1.1\r\n\r\n"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
    refused("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    refused("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n"),
    refused("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    // Request lines.
    refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    refused("GET / http/1.1\r\nHost: a\r\n\r\n"),
    refused("GET /\r\nHost: a\r\n\r\n"),
    refused("G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET http://user:pw@a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("GET http://a b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT a:99999 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT user@a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT http://a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\nhello"),
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    // Chunks.
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n"),
    body_refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n T: folded\r\n\r\n"),
    last("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    last("POST / HTTP/1.1\r\nHost: a\r\ntRANSFER-eNCODING:\tCHUNKED \r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nT: u\r\n\r\n"),
    // A second request that hides behind a first.
    second_refused("GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\n\r\n"),
    second_refused("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcX\r\n\r\n"),
    second_refused("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n"),
    second_refused("GET /one HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n\0\0\0\r\n\r\n"),
    last("GET /one HTTP/1.0\r\nHost: a\r\n\r\n"),
    last("GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    last("GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n"),
    // What is plain.
    served("GET /one?q=1 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    served("\r\nGET /one HTTP/1.1\r\nHost: a\r\n\r\n"),
    served("GET http://a/one HTTP/1.1\r\nHost: a\r\n\r\n"),
    served("GET https://[::1]:8443/one HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n"),
    served("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    served("GET /one HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    served("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
    served("GET /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
    served("POST /one HTTP/1.1\r\nhost:a\r\nCONTENT-LENGTH:  7  \r\n\r\nGET /x \r\n"),
    served("GET /one HTTP/1.1\r\nHost: a\r\nContent_Length: 50\r\nX-Transfer-Encoding: chunked\r\n\r\n"),
];

/// Sends `wire` in pieces of `size` bytes, then the probe, and reads to the end.
async fn in_pieces(running: &Running, wire: &str, size: usize) -> Vec<u8> {
    let (mut read, mut write) = connect(running.addr()).await.into_split();
    let send = async {
        let bytes = [wire.as_bytes(), PROBE.as_bytes()].concat();
        for piece in bytes.chunks(size) {
            if write.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut got = Vec::new();
    let receive = async {
        let _ = read.read_to_end(&mut got).await;
    };
    soon(async { tokio::join!(send, receive) }).await;
    got
}

async fn check(case: &Case, piece: usize) {
    let running = start(Limits::default());
    let got = in_pieces(&running, case.wire, piece).await;
    let seen = running.recorder.seen();
    let about = format!("{:?} in pieces of {piece}: saw {seen:?}, answered {:?}", case.wire, statuses(&got));
    let probe = usize::from(case.statuses == [200, 200]);
    assert_eq!(seen.len(), case.seen + probe, "{about}");
    assert_eq!(seen.last().is_some_and(|last| last == "GET /probe"), probe == 1, "{about}");
    assert!(!seen.iter().any(|line| line.contains("smuggled") || line.contains("/two")), "{about}");
    assert_eq!(statuses(&got), case.statuses, "{about}");
    running.server.drain(std::time::Duration::ZERO).await;
}

#[tokio::test]
async fn nobody_smuggles() {
    const { assert!(CORPUS.len() >= 60) };
    for case in CORPUS {
        check(case, usize::MAX).await;
    }
}

#[tokio::test]
async fn nobody_smuggles_byte_by_byte() {
    for case in CORPUS {
        check(case, 1).await;
    }
}

#[tokio::test]
async fn nobody_smuggles_in_odd_pieces() {
    for case in CORPUS {
        check(case, 7).await;
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let running = start(Limits::default());
    let wire: String = (0..40).map(|at| format!("GET /{at} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let got = exchange(running.addr(), format!("{wire}{PROBE}").as_bytes()).await;
    assert_eq!(statuses(&got), [200; 41]);
    let wanted: Vec<_> = (0..40).map(|at| format!("GET /{at}")).chain(["GET /probe".to_owned()]).collect();
    assert_eq!(running.recorder.seen(), wanted);
}

#[tokio::test]
async fn a_tunnel_carries_any_bytes_and_a_refused_one_ends() {
    let running = start(Limits::default());
    let mut stream = connect(running.addr()).await;
    // The client does not wait for the answer before it speaks.
    let hello = b"\x16\x03\x01 GET /not HTTP/1.1\nX\r\n\r\n";
    stream.write_all(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").await.expect("sends");
    stream.write_all(hello).await.expect("sends");
    let mut got = Vec::new();
    while !got.ends_with(hello) {
        assert_ne!(soon(stream.read_buf(&mut got)).await.expect("reads"), 0, "{}", String::from_utf8_lossy(&got));
    }
    drop(stream);
    let refused = format!("CONNECT refused:443 HTTP/1.1\r\nHost: refused\r\n\r\n{PROBE}");
    assert_eq!(statuses(&exchange(running.addr(), refused.as_bytes()).await), [403]);
    assert_eq!(running.recorder.seen(), ["CONNECT a:443", "CONNECT refused:443"]);
}

#[tokio::test]
async fn an_early_answer_arrives_though_the_body_was_not_read() {
    let running = start(Limits::default());
    let head = "PUT /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n";
    let wire = [head.as_bytes(), &[b'x'; 1 << 20], PROBE.as_bytes()].concat();
    let got = exchange(running.addr(), &wire).await;
    assert_eq!(statuses(&got), [403]);
    assert!(got.ends_with(b"no"));
    assert_eq!(running.recorder.seen(), ["PUT /early"]);
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_before_the_body() {
    let running = start(Limits::default());
    let mut stream = connect(running.addr()).await;
    let head = "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sends");
    let mut go_on = [0; 25];
    soon(stream.read_exact(&mut go_on)).await.expect("reads");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").await.expect("sends");
    let mut got = Vec::new();
    soon(stream.read_to_end(&mut got)).await.expect("reads to the end");
    assert_eq!(statuses(&got), [200]);
}
