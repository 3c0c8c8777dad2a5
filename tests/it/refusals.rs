//! What larder declines: hosts that are not its own, private addresses, configurations that cannot be right, an open
//! door to the world.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::client::{Ask, raw, status_of};
use crate::support::machine::scratch;
use crate::support::resource::{Fault, Resource};
use crate::support::server::Setup;
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_host_that_is_not_ours_is_421() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(80, 10));
    let server = Setup::below(dir.path()).start();
    for host in ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"] {
        for target in [upstream.mirror("/a"), "/go/x/@v/list".into(), "/api/v1/stats".into(), "/".into()] {
            let reply = Ask::get(&target).header("host", host).must(server.addr());
            assert_eq!(reply.status, 421, "{host} {target}: {}", reply.text());
        }
    }
    let port = server.addr().port();
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("LocalHost:{port}")] {
        let reply = Ask::get(upstream.mirror("/a")).header("host", &host).must(server.addr());
        assert_eq!(reply.status, 200, "{host}");
    }
}

#[test]
fn a_redirect_to_a_private_address_is_refused() {
    let dir = scratch();
    let upstream = Upstream::start();
    // 127.0.0.2 stands for any private address: policy allows 127.0.0.1 alone.
    let private = Upstream::start_on("127.0.0.2:0");
    private.put("/inside", Resource::seed(81, 100));
    let server = Setup::below(dir.path()).start();
    let port = private.addr().port();
    let spellings = [
        format!("http://127.0.0.2:{port}/inside"),
        format!("http://127.2:{port}/inside"),
        format!("http://2130706434:{port}/inside"),
        format!("http://0x7f000002:{port}/inside"),
        format!("http://0177.0.0.2:{port}/inside"),
        format!("http://[::ffff:127.0.0.2]:{port}/inside"),
        format!("http://[::ffff:7f00:2]:{port}/inside"),
        format!("//127.0.0.2:{port}/inside"),
    ];
    for (at, to) in spellings.iter().enumerate() {
        let path = format!("/go/{at}");
        upstream.put(&path, Resource::text("").always(Fault::Status(302, vec![("location", to.clone())])));
        let reply = server.get(upstream.mirror(&path));
        assert!(reply.status == 302 || reply.status >= 400, "{to}: {}", reply.status);
        // Named outright by the client it is refused as well.
        let direct = server.get(format!("/http/127.0.0.2:{port}/inside"));
        assert!((400..600).contains(&direct.status), "{}", direct.status);
    }
    assert_eq!(private.accepted(), 0, "a socket was opened to an address that policy forbids");
}

#[test]
fn a_redirect_within_policy_is_followed_or_passed_on() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let path = "/example.test/m/@v/v1.0.0.mod";
    upstream.put("/elsewhere", Resource::text("module example.test/m\n"));
    upstream.put(path, Resource::text("").always(Fault::Status(302, vec![("location", upstream.url("/elsewhere"))])));
    let server = Setup::below(dir.path()).start();
    let target = format!("{}{path}", crate::support::registry::go_mount(&upstream));
    for _ in 0..2 {
        let reply = server.get(&target);
        assert_eq!((reply.status, reply.text().as_str()), (200, "module example.test/m\n"));
    }
    assert_eq!(upstream.count(path), 1, "kept under the name that was asked for");
}

#[test]
fn private_upstreams_need_the_operators_word() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::seed(82, 10));
    let server = Setup::below(dir.path()).default_policy().start();
    for target in [upstream.mirror("/a"), format!("/cargo/@http:{}/config.json", upstream.addr())] {
        let reply = server.get(&target);
        assert!((400..500).contains(&reply.status), "{target}: {} {}", reply.status, reply.text());
    }
    let proxied = Ask::get(upstream.url("/a")).header("host", upstream.addr().to_string()).must(server.addr());
    assert!((400..500).contains(&proxied.status), "{}", proxied.status);
    let connect = format!("CONNECT {0} HTTP/1.1\r\nhost: {0}\r\n\r\n", upstream.addr());
    let (answer, _) = raw(server.addr(), connect.as_bytes(), Duration::from_millis(500));
    assert!(status_of(&answer).is_some_and(|status| (400..500).contains(&status)));
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_slow_upload_ends_though_its_http_2_connection_lives() {
    let dir = scratch();
    let server = Setup::below(dir.path()).variable("LARDER_SERVER_LIMITS_SLOW_BODY_WINDOW", "1s").start();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let len = u8::try_from(payload.len()).expect("short");
        [&[0, 0, len, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // POST http://127.0.0.1/api/v1/offline in HPACK, then the first byte of a body and no more.
    let head = [&[0x83, 0x86, 0x04, 15], b"/api/v1/offline".as_slice(), &[0x41, 9], b"127.0.0.1"].concat();
    let mut stream = TcpStream::connect(server.addr()).expect("connects");
    let wire = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, b""),
        frame(1, 4, 1, &head),
        frame(0, 0, 1, b"{"),
    ];
    stream.write_all(&wire.concat()).expect("sends");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit can be set");
    let (mut got, mut chunk) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&got).contains("the body broke off") {
        match stream.read(&mut chunk) {
            Ok(some @ 1..) => got.extend_from_slice(&chunk[..some]),
            end => panic!("{end:?} after {}", String::from_utf8_lossy(&got)),
        }
    }
}

#[test]
fn what_larder_refuses_is_not_counted_as_fetched() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::text("private"));
    let server = Setup::below(dir.path()).default_policy().start();
    assert_eq!(server.get(format!("/~b1{}", upstream.mirror("/a"))).status, 403);
    let build: serde_json::Value = serde_json::from_str(&server.get("/api/v1/stats?build=b1").text()).expect("is JSON");
    for told in [build, server.stats()] {
        assert_eq!((&told["requests"], &told["bytes_from_upstream"]), (&1.into(), &0.into()), "{told}");
        assert!(told["bytes_served"].as_u64().is_some_and(|bytes| bytes > 0), "{told}");
    }
}

#[test]
fn bad_configurations_end_with_2_and_one_line() {
    let dir = scratch();
    let cases = [
        ("[server]\nlissten = \"127.0.0.1:0\"\n", "lissten"),
        ("[nonsense]\na = 1\n", "nonsense"),
        ("[store]\nmax_bytes = \"a lot\"\n", "max_bytes"),
        ("[store]\nmin_free_percent = \"five\"\n", "min_free_percent"),
        ("[upstreams]\nlearn = \"sometimes\"\n", "learn"),
        ("[upstream]\nallow_private = [\"127.0.0.0/99\"]\n", "allow_private"),
        ("this is not toml", "larder.toml"),
    ];
    for (config, names) in cases {
        let ended = Setup::below(dir.path()).default_policy().config(config).run_to_end(LIMIT);
        assert_eq!(ended.code, Some(2), "{config}: {ended:?}");
        assert!(ended.stderr.contains(names), "{config}: the line does not name {names}: {}", ended.stderr);
        let lines = ended.stderr.lines().filter(|line| !line.trim().is_empty()).count();
        assert_eq!(lines, 1, "{config}: one line that names the key and the remedy: {}", ended.stderr);
        assert!(!ended.stdout.contains("listening on"), "{config}");
    }
}

#[test]
fn a_bad_variable_is_named_as_it_was_set() {
    let dir = scratch();
    let ended = Setup::below(dir.path()).variable("LARDER_STORE_MAX_BYTES", "a lot").run_to_end(LIMIT);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("LARDER_STORE_MAX_BYTES"), "{}", ended.stderr);
    let ended = Setup::below(dir.path()).variable("LARDER_STORE_NONSENSE", "1").run_to_end(LIMIT);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("LARDER_STORE_NONSENSE"), "{}", ended.stderr);
}

#[test]
fn an_unreadable_configuration_is_named() {
    let dir = scratch();
    for path in [dir.path().join("missing.toml"), dir.path().to_owned()] {
        let mut command = std::process::Command::new(crate::support::server::LARDER);
        command.arg("serve").arg("--config").arg(&path).args(["--listen", "127.0.0.1:0"]).arg("--data").arg(dir.path());
        let ended = crate::support::server::end_of(command, LIMIT);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(&path.display().to_string()), "{}", ended.stderr);
    }
}

#[test]
fn usage_errors_end_with_2() {
    for words in [vec!["serv"], vec!["serve", "--listen", "nowhere"], vec!["run"], vec!["serve", "--no-such-flag"]] {
        let mut command = std::process::Command::new(crate::support::server::LARDER);
        command.args(&words);
        assert_eq!(crate::support::server::end_of(command, LIMIT).code, Some(2), "{words:?}");
    }
}

#[test]
fn an_open_door_is_refused_with_the_lines_that_mend_it() {
    let dir = scratch();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let ended = Setup::below(dir.path()).listen(listen).run_to_end(LIMIT);
        assert_eq!(ended.code, Some(2), "{listen}: {ended:?}");
        for remedy in ["larder token create", "anonymous_read"] {
            assert!(ended.stderr.contains(remedy), "{listen}: {remedy} is not offered: {}", ended.stderr);
        }
    }
}
