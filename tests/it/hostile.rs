//! Requests that nobody honest sends. One request in is at most one request out; ambiguous framing ends the connection.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::body::Body;
use crate::support::client::{connect, raw, status_of};
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;

const QUIET: Duration = Duration::from_millis(400);

fn start() -> (tempfile::TempDir, Upstream, Server) {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(70, 100));
    upstream.put("/smuggled", Resource::seed(71, 100));
    let server = Setup::below(dir.path()).start();
    (dir, upstream, server)
}

/// Sends each with `/smuggled` hidden in what one reading of it takes for a body.
fn smuggling_forms(host: &str, target: &str, hidden: &str) -> Vec<(&'static str, String)> {
    let inner = format!("GET {hidden} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let post = |name: &'static str, fields: String, body: String| {
        (name, format!("POST {target} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n{body}"))
    };
    let chunked = |value: &str| format!("{value}\r\n");
    let ended = format!("0\r\n\r\n{inner}");
    let length = inner.len();
    vec![
        post(
            "length and chunked",
            format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", ended.len()),
            ended.clone(),
        ),
        post(
            "chunked and length",
            format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", ended.len()),
            ended.clone(),
        ),
        post("two lengths", format!("content-length: 0\r\ncontent-length: {length}\r\n"), inner.clone()),
        post("a list of lengths", format!("content-length: 0, {length}\r\n"), inner.clone()),
        post("a signed length", format!("content-length: +{length}\r\n"), inner.clone()),
        post("a hexadecimal length", "content-length: 0x0\r\n".into(), inner.clone()),
        post("a length too large", "content-length: 18446744073709551616\r\n".into(), inner.clone()),
        post("a negative length", "content-length: -1\r\n".into(), inner.clone()),
        post("an unknown coding", chunked("transfer-encoding: xchunked"), ended.clone()),
        post("chunked not last", chunked("transfer-encoding: chunked, identity"), ended.clone()),
        post("chunked twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n".into(), ended.clone()),
        post("a vertical tab before chunked", chunked("transfer-encoding: \x0bchunked"), ended.clone()),
        post("quoted chunked", chunked("transfer-encoding: \"chunked\""), ended.clone()),
        post("a space before the colon", format!("content-length : {length}\r\n"), inner.clone()),
        post("coding with a space before the colon", "transfer-encoding : chunked\r\n".into(), ended.clone()),
        post("a folded line", "x-folded: a\r\n transfer-encoding: chunked\r\n".into(), ended.clone()),
        post("a NUL in a field", format!("x-a: b\0c\r\ncontent-length: {length}\r\n"), inner.clone()),
        post("a bare CR in a field", format!("x-a: b\rcontent-length: {length}\r\n"), inner.clone()),
        post(
            "a chunk size too large",
            "transfer-encoding: chunked\r\n".into(),
            format!("fffffffffffffffff\r\n{inner}"),
        ),
        post("a signed chunk size", "transfer-encoding: chunked\r\n".into(), format!("+0\r\n\r\n{inner}")),
        post("a chunk without its end", "transfer-encoding: chunked\r\n".into(), format!("1\r\nAB0\r\n\r\n{inner}")),
        (
            "chunked in HTTP/1.0",
            format!("POST {target} HTTP/1.0\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n{ended}"),
        ),
    ]
}

#[test]
fn ambiguous_framing_smuggles_nothing() {
    let (_dir, upstream, server) = start();
    let host = server.addr().to_string();
    let forms = smuggling_forms(&host, &upstream.mirror("/a"), &upstream.mirror("/smuggled"));
    let mut wrong = Vec::new();
    for (name, bytes) in forms {
        upstream.forget_log();
        let (answer, closed) = raw(server.addr(), bytes.as_bytes(), QUIET);
        let status = status_of(&answer);
        let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count();
        if upstream.count("/smuggled") > 0 {
            wrong.push(format!("{name}: the hidden request went out ({status:?})"));
        }
        if answers > 1 || !closed {
            wrong.push(format!("{name}: {answers} answers, first {status:?}, closed: {closed}"));
        }
        if status.is_some_and(|status| !(400..=501).contains(&status)) {
            wrong.push(format!("{name}: answered {status:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.get(upstream.mirror("/a")).assert_is(200, Body::new(70, 100).digest());
}

/// Pingora CVE-2025-4366: a hit left the body unread, and it became the next request.
#[test]
fn a_body_on_a_hit_is_not_the_next_request() {
    let (_dir, upstream, server) = start();
    server.get(upstream.mirror("/a")).assert_is(200, Body::new(70, 100).digest());
    let host = server.addr().to_string();
    let inner = format!("GET {} HTTP/1.1\r\nhost: {host}\r\n\r\n", upstream.mirror("/smuggled"));
    let outer = format!(
        "GET {} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n{inner}",
        upstream.mirror("/a"),
        inner.len()
    );
    let (answer, _) = raw(server.addr(), outer.as_bytes(), QUIET);
    assert_eq!(upstream.count("/smuggled"), 0);
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count(), 1);
}

#[test]
fn heads_that_cannot_be_right_are_refused() {
    let (_dir, upstream, server) = start();
    let host = server.addr().to_string();
    let target = upstream.mirror("/a");
    let cases = [
        ("no host", format!("GET {target} HTTP/1.1\r\n\r\n")),
        ("two hosts", format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nhost: other\r\n\r\n")),
        ("a host with a path", format!("GET {target} HTTP/1.1\r\nhost: {host}/x\r\n\r\n")),
        ("a host with userinfo", format!("GET {target} HTTP/1.1\r\nhost: me@{host}\r\n\r\n")),
        ("no target", format!("GET HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("a space in the target", format!("GET {target} x HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("a control in the target", format!("GET {target}\x01 HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("an unknown version", format!("GET {target} HTTP/9.9\r\nhost: {host}\r\n\r\n")),
        ("a method with a bracket", format!("G{{T {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("an empty field name", format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n: x\r\n\r\n")),
        ("no colon", format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nnonsense\r\n\r\n")),
        ("absolute without host", "GET http:///a HTTP/1.1\r\nhost: x\r\n\r\n".into()),
        ("absolute with another scheme", format!("GET ftp://{host}/a HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("absolute with a wrong port", "GET http://127.0.0.1:99999/a HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".into()),
        ("absolute with a fragment", format!("GET {}#x HTTP/1.1\r\nhost: {host}\r\n\r\n", "http://127.0.0.1:1/a")),
        ("CONNECT without port", format!("CONNECT 127.0.0.1 HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("CONNECT with a path", format!("CONNECT {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("CONNECT to port 0", format!("CONNECT 127.0.0.1:0 HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("GET in authority form", "GET 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n".into()),
        ("GET with an asterisk", format!("GET * HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("bytes that are no text", "\x16\x04\x05\x06\x07\r\n\r\n".into()),
    ];
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        upstream.forget_log();
        let (answer, closed) = raw(server.addr(), bytes.as_bytes(), QUIET);
        let status = status_of(&answer);
        let refused = status.map_or(closed, |status| (400..=505).contains(&status));
        // A fragment may be dropped by a lenient reader, but nothing listens there.
        if !refused || !upstream.all_seen().is_empty() {
            wrong.push(format!("{name}: {status:?}, closed: {closed}, upstream saw {:?}", upstream.all_seen()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.get(upstream.mirror("/a")).assert_is(200, Body::new(70, 100).digest());
}

#[test]
fn traversal_stays_inside_the_mount() {
    let (dir, upstream, server) = start();
    std::fs::write(dir.path().join("secret.txt"), "a secret outside").expect("scratch can be written");
    let host = server.addr().to_string();
    let base = upstream.mirror("");
    let ups = ["..", "%2e%2e", ".%2e", "%2E%2E", "%252e%252e", "..%5c", "..%2f", "%c0%ae%c0%ae", "..;", "..%00"];
    for up in ups {
        let climbs = format!("{up}/").repeat(12);
        for target in [
            format!("{base}/x/{climbs}{}/secret.txt", dir.path().display()),
            format!("{base}/{up}/{up}/api/v1/stats"),
            format!("/go/{climbs}etc/passwd"),
            format!("/cargo/{climbs}etc/passwd"),
            format!("/{climbs}etc/passwd"),
            format!("/healthz/{up}/api/v1/stats"),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let (answer, _) = raw(server.addr(), request.as_bytes(), QUIET);
            let text = String::from_utf8_lossy(&answer);
            assert!(!text.contains("a secret outside") && !text.contains("root:"), "{target}: {text}");
            assert!(status_of(&answer).is_none_or(|status| status >= 400), "{target}: {text}");
        }
    }
    for seen in upstream.all_seen() {
        assert!(!seen.target.split('/').any(|part| part == ".."), "a climbing path went upstream: {}", seen.target);
    }
}

#[test]
fn heads_of_a_mebibyte_are_refused() {
    let (_dir, upstream, server) = start();
    let host = server.addr().to_string();
    let target = upstream.mirror("/a");
    let long = "x".repeat(1 << 20);
    let many: String = (0..100_000).map(|at| format!("x{at}: y\r\n")).collect();
    for (name, bytes) in [
        ("one long field", format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nx: {long}\r\n\r\n")),
        ("a long target", format!("GET {target}?{long} HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        ("many fields", format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{many}\r\n")),
        ("a long method", format!("{long} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")),
    ] {
        let (answer, closed) = raw(server.addr(), bytes.as_bytes(), Duration::from_secs(2));
        let status = status_of(&answer);
        assert!(status.map_or(closed, |status| [400, 414, 431, 501].contains(&status)), "{name}: {status:?}");
    }
    assert_eq!(upstream.all_seen().len(), 0);
    server.get(upstream.mirror("/a")).assert_is(200, Body::new(70, 100).digest());
}

/// hyper's own limit is off unless a timer is set.
#[test]
fn a_half_sent_head_is_cut_off() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).config("\nheader_read = \"1s\"\n").start();
    let mut stream = connect(server.addr()).expect("a connection");
    stream.write_all(format!("GET {} HTTP/1.1\r\nhost:", upstream.mirror("/a")).as_bytes()).expect("half a head");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    assert!(ended.is_ok(), "still open after ten seconds: {ended:?}");
    assert!(status_of(&answer).is_none_or(|status| status == 408 || status == 400), "{answer:?}");
}

#[test]
fn nonsense_after_nonsense_leaves_it_standing() {
    let (_dir, upstream, server) = start();
    let mut chance = crate::support::seed::Chance::announced("nonsense");
    let words = [
        "GET ",
        "POST ",
        "/",
        "HTTP/1.1",
        "\r\n",
        "\r\n\r\n",
        "host: x",
        "content-length: ",
        "5",
        "\0",
        "\u{fffd}",
        "%2f",
        "chunked",
        "transfer-encoding: ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for _ in 0..300 {
        let bytes: String = (0..chance.below(30)).map(|_| *chance.pick(&words)).collect();
        let mut stream = connect(server.addr()).expect("it still accepts");
        // It may have closed already.
        let _ = stream.write_all(bytes.as_bytes());
    }
    server.get(upstream.mirror("/a")).assert_is(200, Body::new(70, 100).digest());
}
