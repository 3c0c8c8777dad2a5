//! Bodies that are short, long, broken, slow: never a clean end, and taken up again only where that is safe.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::server::{Act, Server, answer, ok, send};
use super::*;
use crate::upstream::fetch::Ends;

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

/// The head of an answer, with an announced length.
fn head(len: usize, fields: &str) -> Act {
    send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n{fields}\r\n"))
}

#[tokio::test]
async fn a_whole_body_comes_whole_and_its_connection_is_used_again() {
    let server = Server::start(|_, _| ok("hello")).await;
    let client = client(settings());
    for _ in 0..3 {
        let mut fetched = client.fetch(get(&server.url("/a?b"))).await.expect("an answer");
        assert_eq!((fetched.status, fetched.len, fetched.body.ends()), (StatusCode::OK, Some(5), Ends::Marked));
        assert_eq!(read(&mut fetched).await.expect("whole"), b"hello");
        // Lets the pool see that the exchange is over.
        tokio::task::yield_now().await;
    }
    assert_eq!(server.connections(), 1);
    let seen = server.seen();
    assert!(
        seen[0].starts_with("GET /a?b HTTP/1.1\r\n") && seen[0].contains("via: 1.1 larder-test\r\n"),
        "{}",
        seen[0]
    );
    assert!(!seen[0].to_lowercase().contains("accept-encoding"));
    let usage = client.hosts().remove(0);
    assert_eq!((usage.requests, usage.failures, usage.in_flight), (3, 0, 0));
}

#[tokio::test]
async fn a_body_cut_short_is_an_error() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases: Vec<Vec<Act>> = vec![
        vec![head(10, ""), send("12345"), Act::Close],
        vec![head(10, ""), send("12345"), Act::Reset],
        vec![head(10, ""), Act::Close],
        vec![send(chunked), send("5\r\n12345\r\n"), Act::Close],
        vec![send(chunked), send("5\r\n123"), Act::Close],
        vec![send(chunked), send("5\r\n12345\r\n0\r\n"), Act::Close],
        vec![send(chunked), send("5\r\n12345\r\n"), Act::Reset],
    ];
    for (at, case) in cases.into_iter().enumerate() {
        let server = Server::start(move |_, _| case.clone()).await;
        let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
        let (_, error) = read(&mut fetched).await.expect_err("cut short");
        assert!(matches!(error, UpstreamError::Truncated { .. }), "case {at}: {error}");
        assert!(fetched.body.chunk().await.is_none(), "nothing after the error");
    }
}

#[tokio::test]
async fn nonsense_in_the_framing_is_a_protocol_error() {
    let chunked = "HTTP/1.1 200 OK\r\netag: \"a\"\r\ntransfer-encoding: chunked\r\n\r\n";
    let server = Server::start(move |_, _| vec![send(chunked), send("zz\r\n12345\r\n"), Act::Hold]).await;
    let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
    let (_, error) = read(&mut fetched).await.expect_err("nonsense");
    assert!(matches!(error, UpstreamError::Protocol { .. }), "{error}");
    assert_eq!(server.seen().len(), 1, "not taken up again");

    for head in ["HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", "FTP 200\r\n\r\n", "\0\0\r\n\r\n"]
    {
        let server = Server::start(move |_, _| vec![send(head), Act::Close]).await;
        let error = client(settings()).fetch(get(&server.url("/"))).await.expect_err("nonsense");
        assert!(matches!(error, UpstreamError::Protocol { .. }), "{error}");
        assert_eq!(server.seen().len(), 1, "not asked again");
    }
}

#[tokio::test]
async fn more_than_was_announced_is_neither_delivered_nor_taken_for_the_next_answer() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let server = Server::start(
        move |_, nth| {
            if nth == 0 { vec![head(5, ""), send("hello"), send(poison)] } else { ok("right") }
        },
    )
    .await;
    let client = client(settings());
    assert_eq!(get_all(&client, &server.url("/1")).await.expect("as announced"), b"hello");
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(get_all(&client, &server.url("/2")).await.expect("its own answer"), b"right");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn length_and_chunks_together_go_by_the_chunks() {
    let both = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\nkeep-alive: x\r\n\r\n5\r\n12345\r\n0\r\n\r\n";
    let server = Server::start(move |_, _| vec![send(both)]).await;
    let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
    assert!(fetched.headers.is_empty(), "{:?}", fetched.headers);
    assert_eq!((read(&mut fetched).await.expect("whole"), fetched.len), (b"12345".to_vec(), None));
}

#[tokio::test]
async fn a_body_that_only_closing_ends_is_marked_as_such() {
    let server = Server::start(|_, _| vec![send("HTTP/1.0 200 OK\r\n\r\nabc"), Act::Close]).await;
    let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
    assert_eq!((fetched.body.ends(), fetched.len), (Ends::OnClose, None));
    assert_eq!(read(&mut fetched).await.expect("whole"), b"abc");
}

#[tokio::test]
async fn answers_without_a_body_are_empty_whatever_length_they_name() {
    for (method, head) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n"),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let server = Server::start(move |_, _| vec![send(head)]).await;
        let ask = FetchAsk { method, ..get(&server.url("/")) };
        let mut fetched = client(settings()).fetch(ask).await.expect("a head");
        assert_eq!((read(&mut fetched).await.expect("empty").len(), fetched.len), (0, Some(0)));
    }
}

/// Serves `content` with `fields`, but breaks off every answer after `most` bytes.
fn breaking(content: Vec<u8>, most: usize, fields: &'static str) -> impl Fn(&str, usize) -> Vec<Act> {
    move |request, _| {
        let first =
            request.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split('-').next()?.parse().ok());
        let start: usize = first.unwrap_or(0);
        let end = (start + most).min(content.len());
        let left = content.len() - start;
        let head = match first {
            None => format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n{fields}\r\n"),
            Some(_) => {
                let range = format!("content-range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len());
                format!("HTTP/1.1 206 Partial Content\r\ncontent-length: {left}\r\n{range}{fields}\r\n")
            }
        };
        vec![send(&head), Act::Send(content[start..end].to_vec()), Act::Close]
    }
}

#[tokio::test]
async fn a_broken_body_is_taken_up_where_it_ended() {
    let content = body(250_000);
    let server = Server::start(breaking(content.clone(), 60_000, "etag: \"v1\"\r\n")).await;
    let client = client(settings());
    assert!(get_all(&client, &server.url("/")).await.expect("whole in the end") == content);
    let seen = server.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen[1].contains("range: bytes=60000-\r\n") && seen[1].contains("if-range: \"v1\"\r\n"), "{}", seen[1]);
    assert_eq!(client.hosts()[0].resumes, 4);
}

#[tokio::test]
async fn a_range_that_breaks_is_taken_up_within_itself() {
    let server = Server::start(|request, _| {
        let (range, body, close) = if request.contains("range: bytes=2-7\r\n") {
            ("2-7", "234", Act::Close)
        } else {
            assert!(request.contains("range: bytes=5-7\r\n"), "{request}");
            ("5-7", "567", Act::Hold)
        };
        let len = if range == "2-7" { 6 } else { 3 };
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {len}\r\netag: \"a\"\r\ncontent-range: bytes {range}/10\r\n\r\n"
        );
        vec![send(&head), send(body), close]
    })
    .await;
    let mut fetched =
        client(settings()).fetch(with(get(&server.url("/")), "range", "bytes=2-7")).await.expect("a head");
    assert_eq!(read(&mut fetched).await.expect("whole"), b"234567");
}

#[tokio::test]
async fn what_changed_meanwhile_is_never_spliced() {
    let second = [
        answer("206 Partial Content", "etag: \"v2\"\r\ncontent-range: bytes 5-9/10\r\n", b"56789"),
        answer("206 Partial Content", "etag: \"v1\"\r\ncontent-range: bytes 5-10/11\r\n", b"56789a"),
        answer("206 Partial Content", "etag: \"v1\"\r\ncontent-range: bytes 4-9/10\r\n", b"456789"),
        answer("206 Partial Content", "etag: \"v1\"\r\n", b"56789"),
        answer("200 OK", "etag: \"v2\"\r\n", b"abcdefghij"),
        answer("404 Not Found", "", b"gone"),
        answer("416 Range Not Satisfiable", "content-range: bytes */5\r\n", b""),
    ];
    for (at, second) in second.into_iter().enumerate() {
        let server = Server::start(move |_, nth| match nth {
            0 => vec![head(10, "etag: \"v1\"\r\n"), send("01234"), Act::Close],
            _ => second.clone(),
        })
        .await;
        let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
        let (came, error) = read(&mut fetched).await.expect_err("changed");
        assert_eq!(came, b"01234", "case {at}");
        assert!(matches!(&error, UpstreamError::Truncated { got: 5, expected, .. } if expected == "10"), "{error}");
        assert_eq!(server.seen().len(), 2, "case {at}");
    }
}

#[tokio::test]
async fn without_a_strong_validator_or_leave_nothing_is_taken_up() {
    for (fields, resume) in
        [("etag: W/\"v1\"\r\n", Resume::ByRange), ("", Resume::ByRange), ("etag: \"v1\"\r\n", Resume::Never)]
    {
        let server = Server::start(breaking(body(100), 60, fields)).await;
        let ask = FetchAsk { resume, ..get(&server.url("/")) };
        let mut fetched = client(settings()).fetch(ask).await.expect("a head");
        assert!(matches!(read(&mut fetched).await, Err((_, UpstreamError::Truncated { .. }))));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_body_that_keeps_breaking_is_given_up() {
    let server = Server::start(breaking(body(100_000), 10, "etag: \"v1\"\r\n")).await;
    let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
    assert!(matches!(read(&mut fetched).await, Err((_, UpstreamError::Truncated { .. }))));
    assert!(server.seen().len() <= 11, "{}", server.seen().len());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_given_up() {
    let server = Server::start(|_, _| {
        let mut acts = vec![head(100_000, "")];
        for _ in 0..1000 {
            acts.extend([send("x"), Act::Sleep(Duration::from_secs(1))]);
        }
        acts
    })
    .await;
    let clock = TokioClock::start();
    let client = Client::new(settings(), clock.clone(), Tasks::new()).expect("good settings");
    let mut fetched = client.fetch(get(&server.url("/"))).await.expect("a head");
    let (_, error) = read(&mut fetched).await.expect_err("too slow");
    assert!(matches!(error, UpstreamError::Slow { .. }), "{error}");
    assert!((29..40).contains(&clock.elapsed().as_secs()), "{:?}", clock.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_the_upstreams_fault() {
    let content = body(3_000_000);
    let whole = content.clone();
    let server = Server::start(move |_, _| answer("200 OK", "", &whole)).await;
    let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("a head");
    let mut all = Vec::new();
    while let Some(chunk) = fetched.body.chunk().await {
        all.extend_from_slice(&chunk.expect("no blame"));
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!(all == content);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_says_nothing_is_silent() {
    let server = Server::start(|_, _| vec![Act::Hold]).await;
    let retry = RetrySettings { attempts: 2, ..settings().retry };
    let client = client(Settings { retry, ..settings() });
    let error = client.fetch(get(&server.url("/"))).await.expect_err("no answer");
    assert!(matches!(error, UpstreamError::Silent { .. }), "{error}");
    assert_eq!(server.seen().len(), 2);
    let head = Server::start(|_, _| {
        (0..1000).flat_map(|_| [send("HTTP/1.1 200 OK\r\nx: y"), Act::Sleep(Duration::from_secs(1))]).collect()
    })
    .await;
    let error = client.fetch(get(&head.url("/"))).await.expect_err("a head that drips");
    assert!(matches!(error, UpstreamError::Silent { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_not_taken_for_silence() {
    let server = Server::start(|_, _| ok("stored")).await;
    let chunks = futures_util::stream::unfold(0, |at| async move {
        tokio::time::sleep(Duration::from_secs(25)).await;
        (at < 10).then(|| (Ok(Bytes::from_static(b"0123456789")), at + 1))
    });
    let stream = FetchBody::Stream { len: Some(100), body: Box::pin(chunks) };
    let ask = FetchAsk { method: Method::PUT, body: stream, ..get(&server.url("/")) };
    let mut fetched = client(settings()).fetch(ask).await.expect("stored");
    assert_eq!(read(&mut fetched).await.expect("whole"), b"stored");
    assert!(server.seen()[0].contains("content-length: 100\r\n") && server.seen()[0].ends_with("9"));
}

#[tokio::test]
async fn a_broken_source_is_not_the_upstreams_failure() {
    let server = Server::start(|_, _| ok("stored")).await;
    let source = || UpstreamError::Offline;
    let chunks = futures_util::stream::iter([Ok(Bytes::from_static(b"01")), Err(source())]);
    let stream = FetchBody::Stream { len: None, body: Box::pin(chunks) };
    let ask = FetchAsk { method: Method::PUT, body: stream, ..get(&server.url("/")) };
    let client = client(settings());
    let error = client.fetch(ask).await.expect_err("the source broke");
    assert!(matches!(error, UpstreamError::Offline), "{error}");
    assert_eq!(client.hosts()[0].failures, 0);
}
