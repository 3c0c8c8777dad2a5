//! What is odd around a build, and is not larder's to break: the user's own proxy, full disks, wrong clocks.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::intercept::file;
use crate::support::agent::{Agent, as_user, larder_run};
use crate::support::build::Build;
use crate::support::client::get;
use crate::support::machine::{Mounted, root_or_say, scratch};
use crate::support::server::{LARDER, Setup};
use crate::support::tls::World;

/// User and password of the proxy, and how they travel.
const USER: &str = "user:s3cret-of-the-proxy";
const AS_SENT: &str = "dXNlcjpzM2NyZXQtb2YtdGhlLXByb3h5";

/// The user's own proxy: writes down who is asked for, and hands on to another.
struct Recorder {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    fn before(world: &World) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let to = world.proxy().trim_start_matches("http://").to_owned();
        let addr = listener.local_addr().expect("a listener has an address");
        let recorder = Recorder { addr, heads: Arc::default() };
        let heads = recorder.heads.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (heads, to) = (heads.clone(), to.clone());
                std::thread::spawn(move || pass(client, &to, &heads));
            }
        });
        recorder
    }

    /// With the credential that it wants.
    fn url(&self) -> String {
        format!("http://{USER}@{}", self.addr)
    }

    /// Heads of all requests so far that name `host`.
    fn asked(&self, host: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.iter().filter(|head| head.lines().next().is_some_and(|line| line.contains(host))).cloned().collect()
    }
}

fn pass(client: TcpStream, to: &str, heads: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (mut from, mut head) = (BufReader::new(client.try_clone()?), String::new());
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let mut upstream = TcpStream::connect(to)?;
    upstream.write_all(head.as_bytes())?;
    let (mut back, mut out) = (upstream.try_clone()?, client);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut out);
        let _ = out.shutdown(Shutdown::Both);
    });
    std::io::copy(&mut from, &mut upstream)?;
    upstream.shutdown(Shutdown::Write)
}

/// By the agent without its server, by the larder that builds share, by a server.
#[test]
fn the_users_own_proxy_is_asked_and_no_proxy_is_obeyed() {
    for who in ["agent", "shared", "server"] {
        let dir = scratch();
        let world = World::start(&dir.path().join("world"));
        let recorder = Recorder::before(&world);
        world.upstream.put("/a", file("what the host has\n"));
        let variables = [
            ("http_proxy", recorder.url()),
            ("https_proxy", recorder.url()),
            ("no_proxy", "other.example,.direct.example".to_owned()),
            ("SSL_CERT_FILE", world.authority.display().to_string()),
        ];
        let policy = "[upstreams]\nlearn = \"public\"\n[upstream.retry]\nattempts = 1\n";
        let nobody = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free");
        let (mut agent, mut server) = (None, None);
        let addr = if who == "server" {
            let mut setup = Setup::below(dir.path()).default_policy().config(policy);
            setup.variables.extend(variables.map(|(name, value)| (name.to_owned(), value)));
            server.insert(setup.start()).addr()
        } else {
            let mut command = larder_run(dir.path(), &format!("http://{nobody}"));
            if who == "shared" {
                let config = dir.path().join("policy.toml");
                std::fs::write(&config, policy).expect("scratch can be written");
                command = std::process::Command::new(LARDER);
                command.args(["run", "--data"]).arg(dir.path().join("agent")).arg("--config").arg(config);
                as_user(&mut command, dir.path());
            }
            command.envs(variables);
            agent.insert(Agent::of(command)).addr()
        };
        for address in ["/http/files.example/a", "/https/files.example/a", "http://files.example/a"] {
            let reply = get(addr, address);
            assert_eq!((reply.status, reply.text()), (200, "what the host has\n".to_owned()), "{who}: {address}");
        }
        for address in ["/http/other.example/a", "/https/a.direct.example/a"] {
            let reply = get(addr, address);
            assert!(reply.status >= 500, "{who}: {address}: it has no address: {} {}", reply.status, reply.text());
        }
        for host in ["other.example", "direct.example"] {
            assert_eq!(recorder.asked(host), [""; 0], "{who}");
        }
        let asked = recorder.asked("files.example");
        assert!(asked.iter().any(|head| head.starts_with("CONNECT files.example:443 ")), "{who}: {asked:?}");
        assert!(asked.iter().any(|head| head.starts_with("GET http://files.example/a ")), "{who}: {asked:?}");
        let shown =
            |head: &String| head.to_ascii_lowercase().contains("proxy-authorization: basic ") && head.contains(AS_SENT);
        assert!(asked.iter().all(shown), "{who}: {asked:?}");
        // The World takes that for its own and hands on the rest of a plain request; within TLS nobody else's is seen.
        let told = world.upstream.all_seen();
        assert!(!format!("{told:?}").contains("s3cret"), "{who}");
        drop((agent, server));
    }
}

/// A shell that holds what `larder env` printed, in which `larder run` is called: without its server, the agent's way to
/// the origins is not by the server.
#[test]
fn a_proxy_that_is_the_lost_server_itself_is_left_out() {
    let dir = scratch();
    let world = World::start(&dir.path().join("world"));
    let recorder = Recorder::before(&world);
    world.upstream.put("/a", file("what the host has\n"));
    let server = Setup::below(dir.path()).start();
    let url = server.url();
    let mut command = larder_run(dir.path(), &url);
    command.env("http_proxy", format!("http://build-1:@{}", server.addr())).env("HTTPS_PROXY", recorder.url());
    command.env("SSL_CERT_FILE", &world.authority);
    server.kill();
    let upstream = &world.upstream;
    let agent = Agent::of(command);
    assert_eq!(agent.get(upstream.mirror("/a")).text(), "what the host has\n");
    let plain = agent.get(upstream.url("/a"));
    assert_eq!((plain.status, plain.text()), (200, "what the host has\n".to_owned()));
    // The other one is the user's.
    assert_eq!(agent.get("/https/files.example/a").text(), "what the host has\n");
    // Without a proxy a name that nobody knows is not found; by the lost server it would not be connected to.
    let gone = agent.get("/http/files.example/a");
    assert!(gone.status >= 500 && !gone.text().contains("refused"), "{} {}", gone.status, gone.text());
}

/// Fills a disk until no byte more fits.
fn fill(disk: &Mounted) {
    let mut ballast = std::fs::File::create(disk.at.join("ballast")).expect("a file can be made");
    for piece in [1 << 16, 512, 1] {
        while ballast.write_all(&vec![1; piece]).is_ok() {}
    }
}

/// The disk of the agent is full from the start, in the middle, and that of the server is.
#[test]
fn a_full_disk_on_either_side_stops_no_build() {
    if !root_or_say("filling a disk") {
        return;
    }
    let dir = scratch();
    let build = Build::cargo(dir.path());
    let (ended, direct) = build.run("direct", &[]);
    assert_eq!(ended.code, Some(0), "direct: {}{}", ended.stdout, ended.stderr);
    let run = |home: &str, data: &Path, url: &str| {
        let words = [LARDER, "run", "--server", url, "--data", &data.display().to_string(), "--"];
        let (ended, got) = build.run(home, &words);
        assert_eq!(ended.code, Some(0), "{home}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(got, direct, "{home}: {}", ended.stderr);
        ended
    };
    let config = build.world.config(&[]);
    let own = |name: &str| Setup::below(&dir.path().join(name)).default_policy().config(&config);
    let server = own("server").start();
    // Nothing can be made, little can be kept, nothing more can be kept.
    let full = Mounted::tmpfs(dir.path(), 1 << 20);
    fill(&full);
    let ended = run("full", &full.at.join("data"), &server.url());
    assert!(ended.stderr.contains("without a"), "{}", ended.stderr);
    let small = Mounted::tmpfs(dir.path(), 3 << 20);
    for home in ["small", "small again"] {
        run(home, &small.at.join("data"), &server.url());
    }
    fill(&small);
    run("filled", &small.at.join("data"), &server.url());
    server.stop();

    let disk = Mounted::tmpfs(dir.path(), 3 << 20);
    let server = own("other").data(&disk.at.join("data")).start();
    fill(&disk);
    for home in ["server full", "server full again"] {
        run(home, &dir.path().join(format!("data of {home}")), &server.url());
    }
    assert_eq!(server.get("/healthz").status, 200);
}
