//! Whom `larder run` believes to be larder: another user of the machine may have a port that ours had, and says what it likes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::agent::{Agent, as_user};
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::resource::Resource;
use crate::support::server::{Ended, LARDER, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(60);
/// What leads tools to certificates.
const TRUSTED: &str = "/overlays/trust/";
const INTERCEPTS: &str = "[intercept]\nhosts = [\"files.example\"]\n";

/// A process of somebody else's that says it is a larder, and offers an authority.
fn impostor() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).expect("a name");
    let authority = params.self_signed(&key).expect("a certificate").pem();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut head = BufReader::new(&stream);
            let mut first = String::new();
            while head.read_line(&mut first).is_ok_and(|read| read > 2) {}
            let health =
                serde_json::json!({ "ready": true, "instance": "1", "proof": "0".repeat(64), "embedded": true });
            let offer = serde_json::json!({ "own": authority, "intercept": authority, "hosts": ["files.example"] });
            let body = if first.contains("/api/v1/ca") { offer } else { health }.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            // It may have hung up.
            let _ = (&stream).write_all((head + &body).as_bytes());
        }
    });
    url
}

fn run(home: &Path, words: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(LARDER);
    command.arg("run").args(words).args(["--", "env"]);
    as_user(&mut command, home);
    command.envs(variables.iter().copied());
    end_of(command, LIMIT)
}

#[track_caller]
fn assert_not_used(ended: &Ended, impostor: &str) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.contains(impostor), "its tools are led to a stranger: {}", ended.stdout);
    assert!(!ended.stdout.contains(TRUSTED), "its tools trust a stranger: {}", ended.stdout);
    assert!(ended.stdout.contains("LARDER_SERVER=http://127.0.0.1:"), "{ended:?}");
}

#[test]
fn a_stranger_at_an_address_that_was_left_behind_is_not_ours() {
    let (dir, impostor) = (scratch(), impostor());
    let data = dir.path().join("data");
    std::fs::create_dir_all(&data).expect("scratch can be written");
    std::fs::write(data.join("address"), format!("{impostor}\n")).expect("scratch can be written");
    let ended = run(dir.path(), &["--data", &data.display().to_string()], &[]);
    assert_not_used(&ended, &impostor);
}

#[test]
fn a_stranger_at_the_address_of_this_machines_larder_is_not_ours() {
    let (dir, impostor) = (scratch(), impostor());
    let listen = impostor.trim_start_matches("http://");
    assert_not_used(&run(dir.path(), &[], &[("LARDER_SERVER_LISTEN", listen)]), &impostor);
}

/// It holds the file's lock, as the larder that wrote it would.
#[test]
fn a_stranger_that_cannot_prove_itself_is_not_asked_for_numbers() {
    let (dir, impostor) = (scratch(), impostor());
    let data = dir.path().join("data");
    std::fs::create_dir_all(&data).expect("scratch can be written");
    let mut address = std::fs::File::create(data.join("address")).expect("scratch can be written");
    address.write_all(impostor.as_bytes()).expect("scratch can be written");
    address.lock().expect("is free");
    std::fs::write(data.join("owner.key"), "1".repeat(64)).expect("scratch can be written");
    std::fs::set_permissions(data.join("owner.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("ours");
    let mut command = Command::new(LARDER);
    command.args(["stats", "--data"]).arg(&data);
    as_user(&mut command, dir.path());
    let ended = end_of(command, LIMIT);
    assert!(ended.code == Some(1) && ended.stderr.contains("cannot prove that it is the larder of"), "{ended:?}");
}

#[test]
fn the_users_own_server_is_found_and_trusted() {
    let dir = scratch();
    let setup = Setup::below(dir.path()).config(INTERCEPTS);
    let server = setup.start();
    let data = setup.data.display().to_string();
    for words in [&["--data", &data][..], &["--data", &data, "--strict", "--server", &server.url()]] {
        let ended = run(dir.path(), words, &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains(&format!("LARDER_SERVER={}\n", server.url())), "{ended:?}");
        assert!(ended.stdout.contains(TRUSTED), "{ended:?}");
    }
}

#[test]
fn a_loopback_server_that_only_a_name_vouches_for_needs_consent_to_be_trusted() {
    let dir = scratch();
    let server = Setup::below(dir.path()).config(INTERCEPTS).start();
    let named = server.url();
    let ended = run(dir.path(), &["--server", &named], &[]);
    assert!(ended.code == Some(0) && !ended.stdout.contains(TRUSTED), "{ended:?}");
    assert!(ended.stderr.contains("--trust-plain-http"), "{ended:?}");
    let ended = run(dir.path(), &["--trust-plain-http", "--server", &named], &[]);
    assert!(ended.code == Some(0) && ended.stdout.contains(TRUSTED), "{ended:?}");
}

#[test]
fn tools_that_are_led_to_larder_by_plain_http_do_not_trust_its_own_authority() {
    let dir = scratch();
    let setup = Setup::below(dir.path()).config("[server.tls]\nnames = [\"localhost\"]\n");
    let server = setup.start();
    let data = setup.data.display().to_string();
    for words in [&["--data", &data][..], &["--trust-plain-http", "--server", &server.url()]] {
        let ended = run(dir.path(), words, &[]);
        assert!(ended.code == Some(0) && !ended.stdout.contains(TRUSTED), "{ended:?}");
    }
}

#[test]
fn our_own_authority_vouches_for_the_names_of_the_server_alone() {
    let dir = scratch();
    let named = |names: &str| Setup::below(dir.path()).config(&format!("[server.tls]\nnames = [{names}]\n"));
    let curl = |server: &str, name: &str| {
        let mut command = Command::new("curl");
        let port = server.rsplit(':').next().expect("a port");
        command.args(["-sS", "--noproxy", "*", "--resolve", &format!("{name}:{port}:127.0.0.1"), "--cacert"]);
        command.arg(dir.path().join("data/ca/ca.pem")).arg(format!("https://{name}:{port}/healthz"));
        end_of(command, LIMIT)
    };
    let setup = named("\"cache.example\", \"127.0.0.1\"");
    let server = setup.start();
    for name in ["cache.example", "127.0.0.1"] {
        let ended = curl(&server.url(), name);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "ok\n"), "{name}: {ended:?}");
    }
    server.stop();
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-text", "-in"]).arg(dir.path().join("data/ca/ca.pem"));
    let text = end_of(openssl, LIMIT).stdout;
    assert!(text.contains("X509v3 Name Constraints: critical") && text.contains("DNS:cache.example"), "{text}");
    // It cannot be widened where clients trust it already, and a name below one of its own is within.
    named("\"a.cache.example\"").start().stop();
    let why = named("\"cache.example\", \"other.example\"").try_start().err().expect("clients would refuse it");
    assert!(why.contains("other.example is not among the names") && why.contains("help: "), "{why}");
}

#[test]
fn another_user_of_the_machine_may_read_through_a_builds_larder_and_command_nothing() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/file", Resource::text("what is there\n"));
    let (data, record) = (dir.path().join("data"), dir.path().join("record.jsonl"));
    let server = Setup::below(&dir.path().join("server")).start();
    for named in [None, Some(server.url())] {
        let mut command = Command::new(LARDER);
        command.args(["run", "--label", "b1", "--data"]).arg(&data).arg("--record").arg(&record);
        command.args(named.iter().flat_map(|url| ["--server", url]));
        as_user(&mut command, dir.path());
        command.env("LARDER_UPSTREAM_ALLOW_PRIVATE", "127.0.0.1/32").env("LARDER_UPSTREAMS_LEARN", "public");
        let agent = Agent::of(command);
        let status = |ask: Ask| ask.must(agent.addr()).status;
        for path in ["stats", "builds/b1", "ca", "upstreams", "explain?url=/go/a", "blobs/x"] {
            assert_eq!(status(Ask::get(format!("/api/v1/{path}"))), 403, "{path}");
        }
        for path in ["offline", "gc", "flush", "upstreams/import", "upstreams/allow", "reload"] {
            assert_eq!(status(Ask::get(format!("/api/v1/{path}")).method("POST")), 403, "{path}");
        }
        assert_eq!(status(Ask::get("/api/v1/health")), 200);
        let label = format!("/~b1{}", upstream.mirror("/file"));
        assert_eq!(agent.get(label).text(), "what is there\n");
        // This user's own commands show what it wants.
        let mut stats = Command::new(LARDER);
        stats.args(["stats", "--build", "b1", "--server", &format!("http://{}", agent.addr()), "--data"]).arg(&data);
        as_user(&mut stats, dir.path());
        let told = end_of(stats, LIMIT);
        assert!(told.code == Some(0) && told.stdout.contains("1 request"), "{told:?}");
        let ended = agent.end();
        assert!(ended.code == Some(0) && ended.stderr.contains("build b1: "), "{ended:?}");
        assert!(std::fs::read_to_string(&record).is_ok_and(|record| record.contains("/file")), "{ended:?}");
    }
    // What is started to be served to others is an operator's.
    assert_eq!(Ask::get("/api/v1/gc").method("POST").must(server.addr()).status, 200);
}
