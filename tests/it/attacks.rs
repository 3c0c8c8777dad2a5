//! What a hostile reader, a web page or a neighbour tries: more rights than were given, another's answer in the cache,
//! a secret that slips out.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;

use crate::support::body::Body;
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::resource::{Fault, Resource};
use crate::support::server::{LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(10);

fn token(data: &Path, right: &str) -> String {
    let mut command = Command::new(LARDER);
    command.args(["token", "create", right, "--right", right, "--data"]).arg(data).env_clear();
    let ended = end_of(command, LIMIT);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let token = said.split_whitespace().find(|word| word.starts_with("lrd_"));
    token.unwrap_or_else(|| panic!("no token was made: {said}")).to_owned()
}

/// A request as from another machine: a reverse proxy on this one brought it.
fn from_afar(ask: Ask, token: &str) -> Ask {
    ask.header("x-forwarded-for", "192.0.2.1").header("proxy-authorization", format!("Bearer {token}"))
}

fn basic(pair: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn start() -> (tempfile::TempDir, Upstream, Server) {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(90, 100));
    let server = Setup::below(dir.path()).start();
    (dir, upstream, server)
}

#[test]
fn a_label_in_the_path_opens_no_door() {
    let (dir, _upstream, server) = start();
    let reader = token(&dir.path().join("data"), "read");
    for (method, path) in [
        ("POST", "/api/v1/offline"),
        ("POST", "/api/v1/upstreams/import"),
        ("POST", "/api/v1/flush"),
        ("GET", "/api/v1/upstreams"),
        ("GET", "/api/v1/builds/default"),
        ("GET", "/api/v1/explain?url=/go/x.example/@v/list"),
    ] {
        for target in [path.to_owned(), format!("/~x{path}"), format!("http://{}/~x{path}", server.addr())] {
            let reply = from_afar(Ask::get(&target).method(method), &reader).must(server.addr());
            assert_eq!(reply.status, 403, "{method} {target}: {}", reply.text());
        }
    }
    let stats = from_afar(Ask::get("/~x/api/v1/stats"), &reader).must(server.addr());
    assert_eq!(stats.status, 200, "{}", stats.text());
}

#[test]
fn who_may_read_changes_nothing_upstream() {
    let (dir, upstream, server) = start();
    let data = dir.path().join("data");
    let (reader, writer) = (token(&data, "read"), token(&data, "write"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for target in [upstream.mirror("/a"), upstream.url("/a")] {
            let refused = from_afar(Ask::get(&target).method(method), &reader).must(server.addr());
            assert_eq!(refused.status, 403, "{method} {target}: {}", refused.text());
        }
    }
    assert!(upstream.all_seen().is_empty(), "{:?}", upstream.all_seen());
    let passed = from_afar(Ask::get(upstream.mirror("/a")).method("POST"), &writer).must(server.addr());
    assert_eq!(passed.status, 200, "{}", passed.text());
}

/// The answer to TRACE is the request as it went upstream, with the operator's credential in it.
#[test]
fn no_trace_goes_upstream() {
    let (_dir, upstream, server) = start();
    for target in [upstream.mirror("/a"), upstream.url("/a")] {
        assert_eq!(Ask::get(&target).method("TRACE").must(server.addr()).status, 405);
    }
    assert!(upstream.all_seen().is_empty());
}

#[test]
fn a_web_page_commands_nothing_and_reads_nothing() {
    let (_dir, upstream, server) = start();
    let command = || {
        let mut ask = Ask::get("/api/v1/offline").method("POST").header("content-type", "text/plain");
        ask.body = b"{\"on\":true}".to_vec();
        ask
    };
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1", &server.url()] {
        let reply = command().header("origin", origin).must(server.addr());
        assert_eq!(reply.status, 403, "{origin}: {}", reply.text());
    }
    assert_eq!(server.stats()["offline"], false);
    for (name, value) in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")] {
        for target in [upstream.mirror("/a"), "/api/v1/stats".into(), "/cargo/config.json".into()] {
            let reply = Ask::get(&target).header(name, value).must(server.addr());
            assert_eq!(reply.status, 403, "{name} {target}: {}", reply.text());
        }
    }
    // A proxy's client visits pages of all kinds.
    let proxied = Ask::get(upstream.url("/a")).header("origin", "http://evil.example").must(server.addr());
    proxied.assert_is(200, Body::new(90, 100).digest());
    assert_eq!(command().must(server.addr()).status, 200);
}

#[test]
fn a_mirrored_page_does_not_run_in_our_name() {
    let (_dir, upstream, server) = start();
    let page = Resource::text("<script>fetch('/api/v1/offline', {method: 'POST'})</script>");
    upstream.put("/page", page.header("content-type", "text/html"));
    for _ in 0..2 {
        let reply = Ask::get(upstream.mirror("/page")).header("accept", "text/html,*/*").must(server.addr());
        assert_eq!((reply.status, reply.header("content-security-policy")), (200, Some("sandbox")));
    }
    assert_eq!(server.get(upstream.url("/page")).header("content-security-policy"), None, "a proxy is no host");
}

#[test]
fn what_no_key_holds_reaches_no_shared_fill() {
    let (_dir, upstream, server) = start();
    let claims = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "host=evil.example"),
        ("x-host", "evil.example"),
        ("x-original-url", "/evil"),
        ("x-rewrite-url", "/evil"),
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-real-ip", "192.0.2.1"),
    ];
    let data = _dir.path().join("data");
    let reader = token(&data, "read");
    for target in [upstream.mirror("/a"), format!("{}?proxy", upstream.url("/a"))] {
        let mut ask = Ask::get(target).header("proxy-authorization", format!("Bearer {reader}"));
        for (name, value) in claims {
            ask = ask.header(name, value);
        }
        ask.must(server.addr());
    }
    let seen = upstream.all_seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        let passed: Vec<_> = claims.iter().filter(|(name, _)| seen.header(name).is_some()).collect();
        assert!(passed.is_empty(), "{}: {passed:?}", seen.target);
    }
}

#[test]
fn a_loop_of_ones_own_making_fails_nobody_else() {
    let (_dir, upstream, server) = start();
    server.get(upstream.mirror("/a"));
    let via = upstream.all_seen()[0].header("via").expect("larder says that it was there").to_owned();
    upstream.put("/slow", Resource::seed(91, 100).then(Fault::Drip(10, Duration::from_millis(50))));
    let target = upstream.mirror("/slow");
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| Ask::get(&target).header("via", &via).must(server.addr()));
        let honest: Vec<_> = (0..8).map(|_| scope.spawn(|| server.get(&target))).collect();
        assert_eq!(looping.join().expect("an answer").status, 508);
        for reply in honest {
            reply.join().expect("an answer").assert_is(200, Body::new(91, 100).digest());
        }
    });
}

/// Canaries in all the forms that a token of ours may come in, well or badly written.
#[test]
fn our_tokens_stay_here() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let data = dir.path().join("data");
    let token = token(&data, "read");
    let log = dir.path().join("access.log");
    let config = format!("\n[log]\naccess = {:?}\n", log.display().to_string());
    let server = Setup::below(dir.path()).config(&config).start();
    let unpadded = basic(&format!("ci:{token}"));
    let forms = [
        format!("Bearer {token}"),
        format!("bearer  {token}"),
        format!("Bearer\t{token}"),
        format!("token {token}"),
        token.clone(),
        basic(&format!("ci:{token}")),
        unpadded.trim_end_matches('=').to_owned(),
        basic(&format!("team:ci:{token}")),
        basic(&format!("{token}:")),
        basic(&format!("{token}:x")),
        basic(&format!("{}:{token}", "x".repeat(600))),
        format!("Bearer {token}x"),
    ];
    for (at, form) in forms.iter().enumerate() {
        for name in ["authorization", "proxy-authorization"] {
            let path = format!("/{name}/{at}");
            upstream.put(&path, Resource::seed(92, 10));
            for target in [upstream.mirror(&path), upstream.url(&path)] {
                Ask::get(target).header(name, form).header("cache-control", "no-cache").must(server.addr());
            }
        }
    }
    let secret = &token[4..68];
    for seen in upstream.all_seen() {
        assert_eq!(seen.header("authorization"), None, "{}", seen.target);
        assert_eq!(seen.header("proxy-authorization"), None, "{}", seen.target);
    }
    let seen_outside = [server.get("/metrics").text(), server.get("/api/v1/stats").text(), server.said()];
    assert!(seen_outside.iter().all(|text| !text.contains(secret)));
    server.flush();
    for file in files_below(dir.path()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", file.display());
    }
}

/// RFC 9111 §3.5 protects answers to `Authorization` alone, but registries take tokens in fields of their own.
#[test]
fn an_answer_to_a_token_of_any_name_is_not_for_all() {
    let (_dir, upstream, server) = start();
    for (at, name) in ["authorization", "private-token", "job-token", "x-jfrog-art-api", "x-api-key"].iter().enumerate()
    {
        let path = format!("/private/{at}");
        upstream.put(&path, Resource::seed(94, 100));
        Ask::get(upstream.mirror(&path)).header(name, "canary").must(server.addr());
        server.get(upstream.mirror(&path));
        assert_eq!(upstream.count(&path), 2, "{name}: an answer made for one client was given to another");
    }
}

#[test]
fn neighbours_do_not_read_what_is_stored() {
    let (dir, _upstream, _server) = start();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join("data")).expect("there"));
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Many registries take a secret as the user name, with no password. Through a proxy it is not ours to read.
#[test]
fn a_user_name_for_upstream_is_no_label() {
    let (_dir, upstream, server) = start();
    let sent = basic("ghp_canary:");
    Ask::get(upstream.url("/a")).header("authorization", &sent).must(server.addr());
    assert_eq!(upstream.all_seen()[0].header("authorization"), Some(sent.as_str()));
    let totals = server.get("/api/v1/stats?build=ghp_canary").text();
    assert!(totals.contains("\"requests\":0"), "{totals}");
}

#[test]
fn a_record_keeps_no_signature() {
    let (_dir, upstream, server) = start();
    let path = "/a?X-Amz-Signature=canary&token=canary&page=2";
    upstream.put(path, Resource::seed(93, 10));
    server.get(format!("/~signed{}", upstream.mirror(path)));
    let record = || server.get("/api/v1/builds/signed").text();
    wait_until(LIMIT, "the record has the request", || record().contains("page=2"));
    assert!(!record().contains("canary"), "{}", record());
}

/// The list of hosts that wait is read by an operator, and kept in memory.
#[test]
fn hosts_that_cannot_be_do_not_wait() {
    let dir = scratch();
    let server = Setup::below(dir.path()).default_policy().config("[upstreams]\nlearn = \"ask\"\n").start();
    let long = format!("{}.example", ["a"; 500].join("."));
    assert!(server.get(format!("/https/{long}/x")).status >= 400);
    assert_eq!(server.get("/https/new.example/x").status, 403);
    let pending = server.get("/api/v1/upstreams?pending=1").text();
    assert!(pending.contains("new.example") && !pending.contains("a.a.a"), "{pending}");
}
