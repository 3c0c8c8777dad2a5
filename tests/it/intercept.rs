//! Interception: the TLS of listed hosts is ended here and what goes through is cached; everybody else's is not touched.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};
use crate::support::tls::{EXPIRED, MISNAMED, UNKNOWN, World};
use crate::support::wait_until;

pub const LIMIT: Duration = Duration::from_secs(120);
/// What larder's certificates for other hosts are issued by.
const OURS: &str = "O = larder";

/// What stands at a path and is fresh for an hour.
pub fn file(text: impl Into<String>) -> Resource {
    Resource::text(text).header("cache-control", "max-age=3600")
}

/// A world, and a server that intercepts some of its hosts.
pub fn setup(dir: &Path, intercepted: &[&str]) -> (World, Setup) {
    let world = World::start(&dir.join("world"));
    world.upstream.put("/a", file("what the host has\n"));
    let setup = Setup::below(dir).default_policy().config(&world.config(intercepted));
    (world, setup)
}

/// `larder ca print`.
pub fn printed(setup: &Setup, words: &[&str]) -> Vec<u8> {
    let mut command = Command::new(LARDER);
    command.args(["ca", "print"]).args(words).arg("--config").arg(setup.dir.join("larder.toml"));
    let output = command.arg("--data").arg(&setup.data).output().expect("larder runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// larder's authorities in a file.
pub fn authority(setup: &Setup) -> PathBuf {
    let file = setup.dir.join("larder.pem");
    std::fs::write(&file, printed(setup, &[])).expect("scratch can be written");
    file
}

/// curl through the server. `words` come before the address.
fn curl(server: &Server, trusted: &Path, words: &[&str], url: &str) -> Ended {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--include", "--noproxy", "", "--proxy", &server.url()]);
    command.arg("--cacert").arg(trusted).args(words).arg(url);
    end_of(command, LIMIT)
}

#[track_caller]
fn assert_got(ended: &Ended, status: &str, body: &str) {
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let said = &ended.stdout;
    let is_status = said.lines().any(|line| line.starts_with("HTTP/") && line.contains(&format!(" {status}")));
    assert!(is_status && said.contains(body), "{said}");
}

#[track_caller]
fn assert_cached(ended: &Ended, how: &str) {
    assert_got(ended, "200", "what the host has\n");
    let said = ended.stdout.to_ascii_lowercase();
    assert!(said.contains(&format!("cache-status: larder; {how}")), "{said}");
}

/// A token that may read.
pub fn token(setup: &Setup) -> String {
    let mut command = Command::new(LARDER);
    command.args(["token", "create", "ci", "--right", "read", "--data"]).arg(&setup.data).env_clear();
    let ended = end_of(command, LIMIT);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    said.split_whitespace().find(|word| word.starts_with("lrd_")).expect("a token").to_owned()
}

/// The end of a handshake with `openssl s_client` through the server: who issued the certificate it was shown.
fn issuer(server: &Server, words: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-proxy", &server.addr().to_string()]).args(words);
    let ended = end_of(command, LIMIT);
    let line = ended.stdout.lines().find_map(|line| line.strip_prefix("issuer="));
    line.unwrap_or_else(|| panic!("{}{}", ended.stdout, ended.stderr)).to_owned()
}

#[test]
fn the_bytes_are_the_same_cold_warm_and_with_the_upstream_dead() {
    let dir = scratch();
    let (mut world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let trusted = authority(&setup);
    let url = "https://files.example/a";
    assert_cached(&curl(&server, &trusted, &["--http1.1"], url), "fwd=uri-miss");
    assert_cached(&curl(&server, &trusted, &["--http2"], url), "hit");
    assert_eq!(world.upstream.count("/a"), 1);
    world.die();
    for words in [&["--http1.1"][..], &["--http2"], &["--tlsv1.3"], &["--tls-max", "1.2"]] {
        assert_cached(&curl(&server, &trusted, words, url), "hit");
    }
    // Several requests on one connection, by either version.
    for version in ["--http1.1", "--http2"] {
        let ended = curl(&server, &trusted, &[version, url, url], url);
        assert_eq!(ended.stdout.matches("what the host has\n").count(), 3, "{}", ended.stdout);
    }
    // It is the same object that the mirror has.
    assert!(server.get("/https/files.example/a").cache_status().contains("hit"));
    server.stop();
}

#[test]
fn large_bodies_come_through_whole() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let body = Resource::seed(7, 20 << 20);
    let Resource { content: crate::support::resource::Content::Seed(seed), .. } = body.clone() else { unreachable!() };
    world.upstream.put("/large", body);
    let server = setup.start();
    let trusted = authority(&setup);
    let out = dir.path().join("out");
    for version in ["--http1.1", "--http2"] {
        let words = [version, "--no-include", "--output", out.to_str().expect("text")];
        let ended = curl(&server, &trusted, &words, "https://files.example/large");
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(std::fs::read(&out).expect("was written") == seed.whole(), "{version}");
    }
    assert_eq!(world.upstream.count("/large"), 1);
}

#[test]
fn a_bad_certificate_upstream_is_never_made_a_good_one() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &[EXPIRED, MISNAMED, UNKNOWN]);
    let server = setup.start();
    let trusted = authority(&setup);
    for host in [EXPIRED, MISNAMED, UNKNOWN] {
        let ended = curl(&server, &trusted, &[], &format!("https://{host}/a"));
        assert_got(&ended, "502", "certificate");
        assert!(!ended.stdout.contains("what the host has"), "{}", ended.stdout);
    }
    assert_eq!(world.upstream.count("/a"), 0);
}

#[test]
fn hosts_that_are_not_listed_are_not_touched() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let url = "https://other.example/a";
    let ours = authority(&setup);
    assert_got(&curl(&server, &world.authority, &[], url), "200", "what the host has\n");
    assert_eq!(curl(&server, &ours, &[], url).code, Some(60), "it is shown the host's own certificate");
    assert!(!issuer(&server, &["-connect", "other.example:443", "-servername", "other.example"]).contains(OURS));
    // Another port of a listed host is another host.
    assert!(curl(&server, &ours, &[], "https://files.example:8443/a").code.is_some_and(|code| code != 0));
}

#[test]
fn only_where_both_names_agree_is_a_tunnel_entered() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &["files.example", "other.example"]);
    let server = setup.start();
    let shown = |words: &[&str]| issuer(&server, words);
    assert!(shown(&["-connect", "files.example:443", "-servername", "files.example"]).contains(OURS));
    assert!(shown(&["-connect", "files.example:443", "-servername", "FILES.example"]).contains(OURS));
    for name in [&["-noservername"][..], &["-servername", "other.example"], &["-servername", "elsewhere.example"]] {
        let issuer = shown(&[&["-connect", "files.example:443"], name].concat());
        assert!(!issuer.contains(OURS), "{name:?}: {issuer}");
    }
    // Nor where the client would speak something else than HTTP.
    let odd = ["-connect", "files.example:443", "-servername", "files.example", "-alpn", "acme-tls/1"];
    assert!(!shown(&odd).contains(OURS));
}

#[test]
fn within_a_tunnel_nobody_else_is_asked() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example", "other.example"]);
    let server = setup.start();
    let trusted = authority(&setup);
    let url = "https://files.example/a";
    for version in ["--http1.1", "--http2"] {
        for host in ["Host: other.example", "Host: 127.0.0.1", "Host: files.example:8443"] {
            let ended = curl(&server, &trusted, &[version, "-H", host], url);
            assert_got(&ended, "421", "this tunnel leads to another host");
        }
        // larder's own paths are the host's there.
        let ended = curl(&server, &trusted, &[version], "https://files.example/api/v1/upstreams");
        assert_got(&ended, "404", "nothing here");
    }
    let ended = curl(&server, &trusted, &["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"], url);
    assert_got(&ended, "501", "WebSocket");
    assert_eq!(world.upstream.count("/a"), 0);
}

#[test]
fn a_post_goes_through() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let ended = curl(&server, &authority(&setup), &["-d", "x=y"], "https://files.example/a");
    assert_got(&ended, "200", "what the host has\n");
    assert_eq!(world.upstream.seen("/a")[0].method, "POST");
}

#[test]
fn plain_http_in_a_tunnel_is_answered_from_the_cache() {
    let dir = scratch();
    let (mut world, setup) = setup(dir.path(), &[]);
    let server = setup.start();
    let ask = || curl(&server, &world.authority, &["--proxytunnel"], "http://files.example/a");
    assert_cached(&ask(), "fwd=uri-miss");
    assert_cached(&ask(), "hit");
    let at = world.authority.clone();
    world.die();
    assert_cached(&curl(&server, &at, &["--proxytunnel"], "http://files.example/a"), "hit");
    // Interception is off: there is no authority, and nobody is told to trust one.
    assert!(!setup.data.join("ca/intercept/1").exists());
    let offer: serde_json::Value = serde_json::from_slice(server.get("/api/v1/ca").bytes()).expect("JSON");
    assert_eq!(offer["intercept"], "");
}

#[test]
fn a_client_that_does_not_trust_us_is_told_of_and_left_alone() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let url = "https://files.example/a";
    // It trusts the host's own authority alone, as one does that was not told.
    let refused = curl(&server, &world.authority, &[], url);
    assert_eq!(refused.code, Some(60), "{}{}", refused.stdout, refused.stderr);
    wait_until(LIMIT, "the log tells", || server.said().contains("does not trust larder's authority"));
    assert!(server.said().contains("files.example") && server.said().contains("larder ca print"), "{}", server.said());
    // From then on it is tunnelled: a build that tries again comes through.
    assert_got(&curl(&server, &world.authority, &[], url), "200", "what the host has\n");
}

#[test]
fn an_authority_outlives_a_restart_and_a_list_that_grows() {
    let dir = scratch();
    let (mut world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let first = authority(&setup);
    let kept = dir.path().join("first.pem");
    std::fs::copy(&first, &kept).expect("scratch can be written");
    assert_cached(&curl(&server, &kept, &[], "https://files.example/a"), "fwd=uri-miss");
    server.stop();

    let grown = Setup { config: world.config(&["files.example", "other.example"]), ..setup.clone() };
    let server = grown.start();
    // Who trusts the first authority goes on with the first host, and lacks the new one until it takes the second.
    assert_cached(&curl(&server, &kept, &[], "https://files.example/a"), "hit");
    let both = authority(&grown);
    assert_got(&curl(&server, &both, &[], "https://other.example/a"), "200", "what the host has\n");
    assert_eq!(curl(&server, &kept, &[], "https://other.example/a").code, Some(60));
    assert!(std::fs::read(&both).expect("PEM").starts_with(&std::fs::read(&kept).expect("PEM")));
    world.die();
    assert_cached(&curl(&server, &both, &[], "https://files.example/a"), "hit");
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(setup.data.join(path)).expect("is there").permissions().mode() & 0o777
    };
    assert_eq!((mode("ca/intercept/1/key.pem"), mode("ca/intercept/2/key.pem")), (0o600, 0o600));
}

#[test]
fn the_credential_of_the_tunnel_is_the_one_of_all_that_goes_through() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let trusted = authority(&setup);
    let token = token(&setup);
    let url = "https://files.example/a";
    // As from another machine.
    let afar = ["--proxy-header", "X-Forwarded-For: 192.0.2.1"];
    let refused = curl(&server, &trusted, &afar, url);
    assert!(refused.stdout.contains(" 407 "), "{}{}", refused.stdout, refused.stderr);
    let credential = format!("build-7:{token}");
    let named = [&afar[..], &["--proxy-user", &credential]].concat();
    assert_cached(&curl(&server, &trusted, &named, url), "fwd=uri-miss");
    // A token of ours within is nobody's business but ours.
    let within = format!("Authorization: Bearer {token}");
    let ended = curl(&server, &trusted, &[&named[..], &["-H", &within, "-H", "Cache-Control: no-cache"]].concat(), url);
    assert_got(&ended, "200", "what the host has\n");
    // A reader may do what it could through an unread tunnel.
    assert_got(&curl(&server, &trusted, &[&named[..], &["-d", "x"]].concat(), url), "200", "what the host has\n");
    for seen in world.upstream.all_seen() {
        assert_eq!((seen.header("authorization"), seen.header("proxy-authorization")), (None, None));
    }
    let stats = server.get("/api/v1/stats?build=build-7").text();
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["requests"], 3, "{stats}");
    let reply = Ask::get("/api/v1/ca").header("x-forwarded-for", "192.0.2.1").must(server.addr());
    assert_eq!(reply.status, 401);
}

#[test]
fn a_token_that_is_taken_back_ends_within_open_tunnels_too() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let token = token(&setup);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-proxy", &server.addr().to_string(), "-connect", "files.example:443"]);
    command.args(["-servername", "files.example", "-proxy_user", "ci", "-proxy_pass", &format!("pass:{token}")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = command.spawn().expect("openssl runs");
    let (mut to, from) = (client.stdin.take().expect("is piped"), client.stdout.take().expect("is piped"));
    let mut from = BufReader::new(from);
    let mut status = || {
        to.write_all(b"GET /a HTTP/1.1\r\nHost: files.example\r\n\r\n").expect("sends");
        let (mut line, mut rest) = (String::new(), String::new());
        from.read_line(&mut line).expect("an answer");
        while !(rest.ends_with("what the host has\n")
            || rest.ends_with("not known here: it is wrong, or it was revoked\n"))
        {
            assert!(from.read_line(&mut rest).expect("an answer") > 0, "{line}{rest}");
        }
        line
    };
    assert!(status().contains(" 200 "));
    assert!(status().contains(" 200 "), "by the lane");
    let mut command = Command::new(LARDER);
    command.args(["token", "revoke", "ci", "--data"]).arg(&setup.data).env_clear();
    assert_eq!(end_of(command, LIMIT).code, Some(0));
    wait_until(LIMIT, "the token is no longer honoured", || status().contains(" 403 "));
    let _ = client.kill();
    client.wait().expect("openssl ends");
}

#[test]
fn a_drain_ends_what_goes_through_tunnels_in_good_order() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    assert_cached(&curl(&server, &authority(&setup), &[], "https://files.example/a"), "fwd=uri-miss");
    // An idle connection within a tunnel does not hold the end up.
    let mut idle = Command::new("openssl");
    idle.args(["s_client", "-quiet", "-proxy", &server.addr().to_string(), "-connect", "files.example:443"]);
    idle.args(["-servername", "files.example"]);
    idle.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut idle = idle.spawn().expect("openssl runs");
    let open = || {
        let text = server.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with("larder_intercepted_connections_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    wait_until(LIMIT, "the second tunnel is entered", || open() >= 2.0);
    server.stop();
    idle.wait().expect("openssl ends");
}

#[test]
fn javas_and_openssls_tools_read_each_form() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &["files.example"]);
    setup.start().stop();
    let at = |name: &str| dir.path().join(name).display().to_string();
    for (form, password) in [("jks", "changeit"), ("pkcs12", "changeit"), ("pkcs12", "another"), ("jks", "another")] {
        let store = at(&format!("{form}-{password}"));
        std::fs::write(&store, printed(&setup, &["--format", form, "--password", password])).expect("writes");
        let mut command = Command::new("keytool");
        command.args(["-J-Duser.language=en", "-list", "-keystore", &store, "-storepass", password]);
        let ended = end_of(command, LIMIT);
        assert_eq!(ended.code, Some(0), "{form}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("trustedCertEntry"), "{}", ended.stdout);
        if form == "pkcs12" {
            let mut command = Command::new("openssl");
            command.args(["pkcs12", "-in", &store, "-nokeys", "-passin", &format!("pass:{password}")]);
            let ended = end_of(command, LIMIT);
            assert!(ended.stdout.contains("BEGIN CERTIFICATE"), "{}{}", ended.stdout, ended.stderr);
        }
    }
    for form in ["pem", "der"] {
        std::fs::write(at(form), printed(&setup, &["--format", form])).expect("writes");
        let mut command = Command::new("openssl");
        command.args(["x509", "-inform", form, "-in", &at(form), "-noout", "-text"]);
        let ended = end_of(command, LIMIT);
        for said in ["Name Constraints: critical", "DNS:files.example", "IP:0.0.0.0/0.0.0.0", "TLS Web Server"] {
            assert!(ended.stdout.contains(said), "{said}: {}", ended.stdout);
        }
    }
}
