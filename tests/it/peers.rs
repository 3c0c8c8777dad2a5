//! Larders beside each other: what one has is not fetched by the other, crosses the link once, and never costs an answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::intercept::authority;
use crate::support::body::Body;
use crate::support::client::{Ask, Reply};
use crate::support::machine::{run, scratch};
use crate::support::resource::Resource;
use crate::support::server::{LARDER, Server, Setup};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const MIB: u64 = 1 << 20;
/// For an answer of a peer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What stands between two larders: it counts, and can turn one bit of what the far side sends.
struct Wire {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    to: OnceLock<SocketAddr>,
    came: AtomicU64,
    /// Bytes to come before the bit is turned; below zero it never is.
    turns: AtomicI64,
}

impl Wire {
    fn new() -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared { turns: AtomicI64::new(-1), ..Shared::default() });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Some(far) = theirs.to.get().and_then(|to| TcpStream::connect(to).ok()) else { continue };
                let (near_in, far_out) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
                let shared = theirs.clone();
                std::thread::spawn(move || carry(near_in, far_out, |_| {}));
                std::thread::spawn(move || carry(far, near, |bytes| shared.came(bytes)));
            }
        });
        Wire { addr, shared }
    }

    fn leads_to(&self, server: &Server) {
        self.shared.to.set(server.addr()).expect("it leads nowhere yet");
    }

    /// Bytes from the far side since the last look.
    fn came(&self) -> u64 {
        self.shared.came.swap(0, Ordering::SeqCst)
    }

    /// Turns one bit after so many further bytes.
    fn turn(&self, after: u64) {
        self.shared.turns.store(after as i64, Ordering::SeqCst);
    }
}

impl Shared {
    fn came(&self, bytes: &mut [u8]) {
        self.came.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let left = self.turns.load(Ordering::SeqCst);
        if left < 0 {
            return;
        }
        if let Some(byte) = bytes.get_mut(left as usize) {
            *byte ^= 1;
        }
        let left = left - bytes.len() as i64;
        self.turns.store(left.max(-1), Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&mut [u8])) {
    let mut room = vec![0; 64 << 10];
    while let Ok(1..) = from.read(&mut room).map(|got| {
        look(&mut room[..got]);
        if to.write_all(&room[..got]).is_ok() { got } else { 0 }
    }) {}
    // The other direction may have ended it.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A server at an address of its own, that has `peers` beside it.
fn at(dir: &Path, name: &str, listen: &str, peers: &str) -> Setup {
    let setup = Setup::below(&dir.join(name)).listen(&format!("{listen}:0"));
    setup.config(&format!("[public]\nregion = \"{name}\"\n{peers}"))
}

fn peer(name: &str, url: &str, more: &str) -> String {
    format!("[peers.{name}]\nurl = \"{url}\"\n{more}\n")
}

fn is_lent(reply: &Reply) -> bool {
    reply.cache_status() == "larder; fwd=uri-miss; stored; detail=peer"
}

fn stats_of(server: &Server) -> serde_json::Value {
    server.stats()["peers"][0].clone()
}

#[test]
fn what_a_sibling_has_crosses_the_link_once_and_its_death_costs_no_answer() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let bodies = [(1, 4 * MIB), (2, 100_000), (3, 900)].map(|(seed, len)| Body::new(seed, len));
    for (at, body) in bodies.iter().enumerate() {
        upstream.put(&format!("/{at}"), Resource::seed(at as u64 + 1, body.len));
    }
    for (path, len) in [("/same", 4 * MIB), ("/more", 4 * MIB), ("/late", 3 * MIB), ("/last", 50_000)] {
        let seed = if path == "/same" { 1 } else { len + path.len() as u64 };
        upstream.put(path, Resource::seed(seed, len));
    }
    let digest = |path: &str, len: u64| Body::new(len + path.len() as u64, len).digest();
    // They have each other, and neither asks on the other's behalf.
    let (to_a, to_b) = (Wire::new(), Wire::new());
    let patient = format!("timeout = \"{}s\"", PATIENCE.as_secs());
    let a = at(dir.path(), "a", "127.0.0.21", &peer("b", &format!("http://{}", to_b.addr), &patient)).start();
    to_a.leads_to(&a);
    let limits = format!("link = \"strait\"\nmax_bytes_per_day = \"6MiB\"\n{patient}");
    let setup = at(dir.path(), "b", "127.0.0.22", &peer("a", &format!("http://{}", to_a.addr), &limits));
    let b = setup.start();
    to_b.leads_to(&b);
    wait_until(Duration::from_secs(10), "b has met a", || b.said().contains("a peer is there"));
    for path in ["/0", "/1", "/2", "/same", "/more", "/late"] {
        assert!(!is_lent(&a.get(upstream.mirror(path))), "nobody had it");
        assert_eq!(upstream.count(path), 1);
    }

    to_a.came();
    for (at, body) in bodies.iter().enumerate() {
        let path = format!("/{at}");
        let got = b.get(upstream.mirror(&path));
        got.assert_is(200, body.digest());
        assert!(is_lent(&got), "{}", got.cache_status());
        assert_eq!(got.header("etag"), Some(format!("\"seed-{}-{}\"", at + 1, body.len).as_str()));
        assert_eq!(upstream.count(&path), 1);
        let crossed = to_a.came();
        assert!((body.len..body.len + body.len * 3 / 100 + 1500).contains(&crossed), "{crossed} for {}", body.len);
        assert!(b.get(upstream.mirror(&path)).cache_status().starts_with("larder; hit"));
        assert_eq!(to_a.came(), 0);
    }
    // The same bytes at another address.
    let got = b.get(upstream.mirror("/same"));
    got.assert_is(200, bodies[0].digest());
    assert!(is_lent(&got) && upstream.count("/same") == 1);
    assert!(to_a.came() < 1500);
    // Neither has it.
    b.get(upstream.mirror("/last")).assert_is(200, digest("/last", 50_000));
    assert_eq!(upstream.count("/last"), 1);
    // The budget is used up, after a restart too.
    b.get(upstream.mirror("/more")).assert_is(200, digest("/more", 4 * MIB));
    assert_eq!((upstream.count("/more"), to_a.came() < 1500), (2, true));
    let before = stats_of(&b);
    assert!(before["link"] == "strait" && before["failed"] == 0, "{before}");
    b.stop();
    let b = setup.start();
    b.get(upstream.mirror("/late")).assert_is(200, digest("/late", 3 * MIB));
    assert_eq!(upstream.count("/late"), 2);
    let after = stats_of(&b);
    assert!(
        after["link_bytes_today"].as_u64() >= before["link_bytes_today"].as_u64() && after["skipped"] == 1,
        "{after}"
    );
    let metrics = b.get("/metrics").text();
    assert!(metrics.contains("larder_link_bytes_today{link=\"strait\"} 4"), "{metrics}");

    its_end_costs_no_answer(a, &b, &upstream);
}

fn its_end_costs_no_answer(a: Server, b: &Server, upstream: &Upstream) {
    // It keeps still: that costs its bound, and soon nothing.
    a.freeze();
    let mut took = Vec::new();
    for at in 0..3 {
        let path = format!("/new/{at}");
        upstream.put(&path, Resource::seed(50 + at, 10_000));
        let begin = Instant::now();
        b.get(upstream.mirror(&path)).assert_is(200, Body::new(50 + at, 10_000).digest());
        took.push(begin.elapsed());
    }
    assert!(took[0] < PATIENCE * 2 && took[2] < PATIENCE, "{took:?}");
    // It is gone.
    a.kill();
    upstream.put("/gone", Resource::seed(60, 10_000));
    b.get(upstream.mirror("/gone")).assert_is(200, Body::new(60, 10_000).digest());
}

#[test]
fn a_peer_is_known_by_its_certificate_and_knows_us_by_a_token() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let tls = "[server.tls]\nnames = [\"127.0.0.23\"]\n";
    let lender = at(dir.path(), "a", "127.0.0.23", tls);
    let a = lender.start();
    let authority = authority(&lender);
    let token = |data: &Path| {
        let made = run(&[LARDER, "token", "create", "b", "--right", "read", "--data", &data.display().to_string()]);
        made.split_whitespace().find(|word| word.starts_with("lrd_")).expect("prints the token").to_owned()
    };
    let tokens = [token(&lender.data), token(&dir.path().join("elsewhere"))];
    let url = format!("https://{}", a.addr());
    let trusting = format!("ca_file = {authority:?}\ntimeout = \"5s\"\ntoken = {{ env = \"TOKEN\" }}");
    let cases = [
        ("right", trusting.as_str(), &tokens[0], "a peer is there"),
        ("wrong", trusting.as_str(), &tokens[1], "does not take our token: make one there with `larder token create"),
        ("distrust", "timeout = \"5s\"", &tokens[0], "the peer's certificate is not trusted: put its authority"),
    ];
    for (at_, (name, more, token, said)) in cases.into_iter().enumerate() {
        let path = format!("/{name}");
        let body = Body::new(at_ as u64 + 1, MIB);
        upstream.put(&path, Resource::seed(at_ as u64 + 1, MIB));
        a.get(upstream.mirror(&path));
        let b = at(dir.path(), name, "127.0.0.24", &peer("a", &url, more)).variable("TOKEN", token).start();
        wait_until(Duration::from_secs(10), said, || b.said().contains(said));
        let got = b.get(upstream.mirror(&path));
        got.assert_is(200, body.digest());
        assert_eq!(
            (is_lent(&got), upstream.count(&path)),
            if name == "right" { (true, 1) } else { (false, 2) },
            "{name}"
        );
        assert_eq!(b.said().matches(said).count(), 1, "{}", b.said());
        assert!(!b.said().contains(token.as_str()) && !b.get("/api/v1/stats").text().contains(token.as_str()));
    }
    assert!(!a.said().contains(&tokens[0]));
}

#[test]
fn a_peer_that_lies_serves_nothing_wrong_and_none_leads_to_networks_that_are_forbidden() {
    let (dir, upstream, to_a) = (scratch(), Upstream::start(), Wire::new());
    let private = "[upstreams]\nlearn = \"public\"\n[upstream]\nallow_private = [\"127.0.0.0/8\"]\n";
    let a = at(dir.path(), "a", "127.0.0.25", "").default_policy().config(private).start();
    to_a.leads_to(&a);
    let peers = peer("a", &format!("http://{}", to_a.addr), "timeout = \"5s\"");
    let b = at(dir.path(), "b", "127.0.0.26", &peers).start();
    wait_until(Duration::from_secs(10), "b has met a", || b.said().contains("a peer is there"));
    // What may not be fetched from here does not come from there either.
    let forbidden = Upstream::start_on("127.0.0.27:0");
    forbidden.put("/a", Resource::seed(2, 5000));
    a.get(forbidden.mirror("/a")).assert_is(200, Body::new(2, 5000).digest());
    let refused = b.get(forbidden.mirror("/a"));
    assert!(refused.status == 403 && !is_lent(&refused), "{} {}", refused.status, refused.text());

    let body = Body::new(1, 8 * MIB);
    upstream.put("/a", Resource::seed(1, 8 * MIB));
    a.get(upstream.mirror("/a")).assert_is(200, body.digest());
    to_a.turn(4 * MIB);
    // The answer breaks off before its end, and the next one is the origin's.
    let lied = Ask::get(upstream.mirror("/a")).must(b.addr());
    assert!(is_lent(&lied) && !lied.clean && lied.len < 8 * MIB, "{} bytes", lied.len);
    let got = b.get(upstream.mirror("/a"));
    got.assert_is(200, body.digest());
    assert!(!is_lent(&got));
    assert_eq!(upstream.count("/a"), 2);
    wait_until(Duration::from_secs(10), "it is told", || b.said().contains("the peer sent other bytes than it said"));
}
