//! Requests that come again on one connection are answered beside hyper: with the same bytes, in their order, and only
//! while nothing speaks against it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::body::Body;
use crate::support::client::{Ask, connect};
use crate::support::machine::scratch;
use crate::support::resource::{Fault, Resource};
use crate::support::server::{LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(10);

/// A connection that stays.
struct Line {
    stream: BufReader<TcpStream>,
    to: SocketAddr,
}

#[derive(Debug)]
struct Answer {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Line {
    fn open(server: &Server) -> Line {
        let stream = connect(server.addr()).expect("the server accepts connections");
        Line { stream: BufReader::new(stream), to: server.addr() }
    }

    fn request(&self, target: &str, more: &str) -> String {
        format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", self.to)
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("the server reads");
    }

    #[track_caller]
    fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            let len = self.stream.read_line(&mut line).expect("an answer comes");
            assert!(len > 0, "the connection ended after {head:?}");
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let len =
            head.iter().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).expect("the body comes whole");
        Answer { head, body }
    }

    #[track_caller]
    fn get(&mut self, target: &str) -> Answer {
        let request = self.request(target, "");
        self.send(request);
        self.answer()
    }
}

impl Answer {
    fn status(&self) -> &str {
        &self.head[0][9..12]
    }

    /// The head without what changes from second to second, sorted.
    fn lasting(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.head.iter().map(String::as_str).collect();
        lines.retain(|line| !line.starts_with("age: ") && !line.starts_with("date: "));
        lines.sort_unstable();
        lines
    }
}

/// How many requests were answered beside hyper.
fn repeated(server: &Server) -> u64 {
    let page = server.get("/metrics").text();
    let line = page.lines().find_map(|line| line.strip_prefix("larder_requests_repeated_total "));
    line.expect("the metric is there").parse().expect("a number")
}

fn start(more: &str) -> (tempfile::TempDir, Upstream, Server) {
    let (dir, upstream) = (scratch(), Upstream::start());
    let server = Setup::below(dir.path()).config(more).start();
    (dir, upstream, server)
}

/// Fetches until the answer is the one that a hit gives.
fn warm(server: &Server, target: &str) {
    for _ in 0..3 {
        assert_eq!(server.get(target).status, 200, "{target}");
    }
}

#[test]
fn the_second_answer_is_the_first_one_again() {
    for more in ["", "\n[store]\nmemory_bytes = 0\n"] {
        let (_dir, upstream, server) = start(more);
        for len in [1, 1024, 65_536] {
            let path = format!("/of/{len}");
            upstream.put(&path, Resource::seed(len, len));
            let target = upstream.mirror(&path);
            warm(&server, &target);
            let by_hyper = server.get(&target);
            let mut line = Line::open(&server);
            let before = repeated(&server);
            let answers = [line.get(&target), line.get(&target), line.get(&target)];
            assert_eq!(repeated(&server), before + 3, "{len} bytes{more}");
            for answer in &answers {
                assert_eq!(answer.status(), "200");
                assert_eq!(blake3::hash(&answer.body), Body::new(len, len).digest(), "{len} bytes{more}");
                assert_eq!(answer.lasting(), answers[0].lasting());
                for name in ["age", "date", "via", "cache-status", "etag"] {
                    let prefix = format!("{name}: ");
                    let mut lines = answer.head.iter().filter_map(|line| line.strip_prefix(&prefix));
                    let (value, again) = (lines.next().expect(name), lines.next());
                    assert_eq!(again, None, "{name} stands there once");
                    assert!(name == "age" || Some(value) == by_hyper.header(name), "{name}: {value}");
                }
            }
        }
    }
}

#[test]
fn answers_leave_in_the_order_of_their_requests() {
    let (_dir, upstream, server) = start("");
    upstream.put("/warm", Resource::seed(1, 1000));
    upstream.put("/slow", Resource::seed(2, 70_000).always(Fault::Hold(10_000)));
    let (quick, slow) = (upstream.mirror("/warm"), upstream.mirror("/slow"));
    warm(&server, &quick);
    let mut line = Line::open(&server);
    line.get(&quick);
    // One after the other, while the first is still on its way.
    let request = line.request(&slow, "");
    line.send(request);
    wait_until(LIMIT, "the slow one is under way", || upstream.held("/slow") == 1);
    let request = line.request(&quick, "");
    line.send(&request);
    line.send(&request);
    upstream.release("/slow");
    assert_eq!(blake3::hash(&line.answer().body), Body::new(2, 70_000).digest());
    for _ in 0..2 {
        assert_eq!(blake3::hash(&line.answer().body), Body::new(1, 1000).digest());
    }
    // All at once.
    let all = [&quick, &slow, &quick, &quick].map(|target| line.request(target, "")).concat();
    line.send(all);
    for seed in [1, 2, 1, 1] {
        let len = if seed == 1 { 1000 } else { 70_000 };
        assert_eq!(blake3::hash(&line.answer().body), Body::new(seed, len).digest());
    }
    let before = repeated(&server);
    line.get(&quick);
    assert_eq!(repeated(&server), before + 1, "the connection has settled");
}

#[test]
fn a_head_in_pieces_and_a_body_before_it_are_hypers() {
    let (_dir, upstream, server) = start("");
    upstream.put("/warm", Resource::seed(1, 1000));
    let target = upstream.mirror("/warm");
    warm(&server, &target);
    let mut line = Line::open(&server);
    let request = line.request(&target, "");
    for cut in [1, 4, 20, request.len() - 1] {
        line.send(&request[..cut]);
        line.send(&request[cut..]);
        assert_eq!(blake3::hash(&line.answer().body), Body::new(1, 1000).digest(), "cut at {cut}");
    }
    let with_body = line.request("/healthz", "Content-Length: 3\r\n");
    line.send(format!("{with_body}abc{request}"));
    assert_eq!(line.answer().status(), "200");
    assert_eq!(blake3::hash(&line.answer().body), Body::new(1, 1000).digest());
    let before = repeated(&server);
    assert_eq!(blake3::hash(&line.get(&target).body), Body::new(1, 1000).digest());
    assert_eq!(repeated(&server), before, "a connection that sent a body stays with hyper");
}

/// What asks for more than an address must not be answered as if it did not.
#[test]
fn fields_that_ask_for_more_are_heard() {
    let (_dir, upstream, server) = start("");
    upstream.put("/warm", Resource::seed(1, 1000));
    let target = upstream.mirror("/warm");
    warm(&server, &target);
    let etag = server.get(&target).header("etag").expect("an ETag").to_owned();
    let before = repeated(&server);
    for (more, status) in [
        (format!("If-None-Match: {etag}\r\n"), "304"),
        ("Range: bytes=0-9\r\n".to_owned(), "206"),
        ("Cache-Control: no-cache\r\n".to_owned(), "200"),
        ("Origin: http://evil.example\r\n".to_owned(), "403"),
        ("Sec-Fetch-Site: cross-site\r\n".to_owned(), "403"),
        ("Authorization: Bearer lrd_wrong\r\n".to_owned(), "401"),
        ("Accept: text/html\r\n".to_owned(), "200"),
        ("Via: 1.1 somebody\r\n".to_owned(), "200"),
    ] {
        let mut line = Line::open(&server);
        for _ in 0..2 {
            let request = line.request(&target, &more);
            line.send(request);
            assert_eq!(line.answer().status(), status, "{more}");
        }
    }
    let mut line = Line::open(&server);
    line.send(format!("GET {target} HTTP/1.1\r\nHost: rebound.example\r\n\r\n"));
    assert_eq!(line.answer().status(), "421");
    let mut line = Line::open(&server);
    let request = line.request(&target, "Connection: close\r\n");
    line.send(request);
    assert_eq!(line.answer().status(), "200");
    assert_eq!(line.stream.read(&mut [0]).expect("the connection ends"), 0);
    assert_eq!(repeated(&server), before);
}

#[test]
fn what_changed_is_not_answered_again() {
    let (_dir, upstream, server) = start("");
    let brief = |seed| Resource::seed(seed, 1000).header("cache-control", "max-age=2");
    upstream.put("/brief", brief(1));
    let target = upstream.mirror("/brief");
    warm(&server, &target);
    let mut line = Line::open(&server);
    line.get(&target);
    upstream.put("/brief", brief(2));
    wait_until(LIMIT, "the new version", || {
        let answer = line.get(&target);
        let age: u64 =
            answer.head.iter().find_map(|line| line.strip_prefix("age: ")).map_or(0, |age| age.parse().unwrap());
        assert!(age < 3, "{:?}", answer.head);
        blake3::hash(&answer.body) == Body::new(2, 1000).digest()
    });
    // A write through larder puts an end to what was stored.
    upstream.put("/brief", Resource::seed(3, 1000));
    assert!(Ask::get(&target).method("DELETE").must(server.addr()).status < 500);
    assert_eq!(blake3::hash(&line.get(&target).body), Body::new(3, 1000).digest());
}

#[test]
fn a_token_that_was_taken_back_ends_a_connection_that_came_again() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/warm", Resource::seed(1, 1000));
    let target = upstream.mirror("/warm");
    let run = |words: &[&str]| {
        let mut command = Command::new(LARDER);
        command.args(["token"]).args(words).arg("--data").arg(dir.path().join("data")).env_clear();
        let ended = end_of(command, LIMIT);
        format!("{}{}", ended.stdout, ended.stderr)
    };
    let said = run(&["create", "ci", "--right", "read"]);
    let token = said.split_whitespace().find(|word| word.starts_with("lrd_")).expect("a token").to_owned();
    let server = Setup::below(dir.path()).start();
    warm(&server, &target);
    let more = format!("X-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer {token}\r\n");
    let mut line = Line::open(&server);
    let request = line.request(&target, &more);
    let before = repeated(&server);
    for _ in 0..3 {
        line.send(&request);
        assert_eq!(line.answer().status(), "200");
    }
    assert_eq!(repeated(&server), before + 3);
    run(&["revoke", "ci"]);
    wait_until(LIMIT, "the token is gone", || {
        line.send(&request);
        line.answer().status() == "401"
    });
}

#[test]
fn a_reader_that_stalls_gets_every_byte_in_the_end() {
    let (_dir, upstream, server) = start("");
    let len = 60_000;
    upstream.put("/large", Resource::seed(4, len));
    upstream.put("/small", Resource::seed(5, 10));
    let (large, small) = (upstream.mirror("/large"), upstream.mirror("/small"));
    warm(&server, &large);
    warm(&server, &small);
    let mut line = Line::open(&server);
    line.get(&large);
    let (before, request) = (repeated(&server), line.request(&large, ""));
    // One at a time, until the sockets are full and the next one is not taken on.
    let mut times = 0;
    loop {
        line.send(&request);
        times += 1;
        let begin = Instant::now();
        while repeated(&server) < before + times && begin.elapsed() < Duration::from_millis(500) {}
        if repeated(&server) < before + times {
            break;
        }
        assert!(times < 1000, "sockets hold no 60 MB");
    }
    assert!(times > 1, "the lane was open");
    let request = line.request(&small, "");
    line.send(request);
    for _ in 0..times {
        assert_eq!(blake3::hash(&line.answer().body), Body::new(4, len).digest());
    }
    assert_eq!(blake3::hash(&line.answer().body), Body::new(5, 10).digest());
    // And one that leaves in the middle costs nobody anything.
    let mut leaves = Line::open(&server);
    let request = leaves.request(&large, "");
    leaves.send(request);
    leaves.stream.read_exact(&mut [0; 1000]).expect("the answer begins");
    drop(leaves);
    assert_eq!(blake3::hash(&line.get(&large).body), Body::new(4, len).digest());
}

#[test]
fn a_proxys_clients_and_a_builds_label_are_kept_apart() {
    let (_dir, upstream, server) = start("");
    upstream.put("/warm", Resource::seed(1, 1000));
    let (target, absolute) = (upstream.mirror("/warm"), upstream.url("/warm"));
    warm(&server, &target);
    let mut line = Line::open(&server);
    let before = repeated(&server);
    for target in [&absolute, &target, &absolute, &format!("/~one{target}"), &format!("/~two{target}")] {
        for _ in 0..2 {
            let answer = line.get(target);
            assert_eq!((answer.status(), blake3::hash(&answer.body)), ("200", Body::new(1, 1000).digest()), "{target}");
        }
    }
    assert!(repeated(&server) > before + 4);
    for build in ["one", "two"] {
        let record = server.get(format!("/api/v1/builds/{build}")).text();
        let own = record.lines().filter(|line| line.contains(&format!("/~{build}/"))).count();
        assert_eq!((own, record.lines().count()), (2, 2), "{build}: {record}");
    }
}
