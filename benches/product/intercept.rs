//! Interception beside the plain forward proxy: warm hits of 1 MiB on connections that stay. All clients read what they
//! get, and none of them decrypts it: what is compared is the server. nginx, plain and by TLS, says what that costs others.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::Options;
use crate::load::{self, Connection, Measured};
use crate::origin::Origin;
use crate::peers::{self, Peer};
use crate::report::{Report, Spread, Table};
use crate::secret::{self, Secret};

const LEN: u64 = 1 << 20;
const CONNECTIONS: usize = 8;
/// By this name both larder's own listener and the origin are known.
const HOST: &str = "localhost";

/// A way to the same bytes.
struct Way {
    name: &'static str,
    /// Which of the ways is the plain one of the same server.
    plain: usize,
    open: Box<dyn Fn() -> Box<dyn FnMut() -> u64 + Send>>,
}

/// Which way is the one that has a floor, and which is TLS without a tunnel.
const INTERCEPTED: usize = 2;
const TLS: usize = 1;
const NGINX: usize = 3;

pub fn run(options: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let (config, authority) = secret::identity(HOST);
    let origin = Origin::start().with_tls(config);
    let file = dir.path().join("authority.pem");
    std::fs::write(&file, authority).expect("scratch can be written");
    let port = origin.addr.port();
    let more = format!(
        "\n[server.tls]\nnames = [\"{HOST}\"]\n\n[intercept]\nhosts = [\"{HOST}:{port}\"]\n\
         [upstreams]\nlearn = \"public\"\n[upstream]\nallow_private = [\"127.0.0.0/8\", \"::1/128\"]\nca_file = {file:?}\n"
    );
    let larder = peers::larder_with(dir.path(), "larder", &more, |_| String::new());
    let (nginx, nginx_tls) = nginx(dir.path());
    let ways: Vec<Way> = ways(&larder, port).into_iter().chain(ways_of_nginx(nginx.addr, nginx_tls)).collect();
    for way in &ways {
        let mut get = (way.open)();
        assert_eq!([get(), get(), get()], [LEN; 3]);
    }
    assert_eq!(origin.requests(), 2, "the same address is one object, by whichever way");
    let mut rounds: Vec<Vec<Measured>> = Vec::new();
    for round in 0..options.rounds {
        eprintln!("interception: round {} of {}", round + 1, options.rounds);
        let once = |way: &Way| {
            let server = if way.plain == NGINX { &nginx } else { &larder };
            let all = (0..CONNECTIONS).map(|_| (way.open)()).collect();
            let before = server.cpu();
            let mut measured = load::over_and_over(all, Duration::from_secs_f64(options.seconds));
            measured.cpu = server.cpu() - before;
            measured
        };
        rounds.push(ways.iter().map(once).collect());
    }
    report.add(table(&ways, &rounds));
}

fn ways(larder: &Peer, port: u16) -> [Way; 3] {
    let addr = larder.addr;
    let (object, absolute) = (format!("/{LEN}/hit"), format!("http://127.0.0.1:{port}/{LEN}/hit"));
    let mirror = format!("/https/{HOST}:{port}/{LEN}/hit");
    [
        Way {
            name: "plain, forward proxy",
            plain: 0,
            open: Box::new(move || {
                let (mut connection, absolute) = (Connection::open(addr).expect("larder accepts"), absolute.clone());
                let mut buffer = vec![0; secret::BUFFER];
                Box::new(move || connection.get_read(&absolute, &mut buffer).expect("a whole answer"))
            }),
        },
        Way {
            name: "TLS to larder itself, mirror",
            plain: 0,
            open: Box::new(move || {
                let mut secret = Secret::open(addr, None, HOST, &mirror).expect("a handshake");
                Box::new(move || secret.get().expect("a whole answer"))
            }),
        },
        Way {
            name: "TLS in CONNECT, intercepted",
            plain: 0,
            open: Box::new(move || {
                let authority = format!("{HOST}:{port}");
                let mut secret = Secret::open(addr, Some(&authority), HOST, &object).expect("a handshake");
                Box::new(move || secret.get().expect("a whole answer"))
            }),
        },
    ]
}

/// nginx with both, and where it speaks TLS.
fn nginx(dir: &Path) -> (Peer, SocketAddr) {
    let ((certificate, key), tls) = (secret::files(dir, HOST), peers::free());
    let more = format!(
        "listen {tls} ssl; ssl_protocols TLSv1.3; ssl_buffer_size 16k; output_buffers 2 256k;\n\
         ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    (peers::nginx_with(dir, &[LEN], &more), tls)
}

fn ways_of_nginx(plain: SocketAddr, tls: SocketAddr) -> [Way; 2] {
    [
        Way {
            name: "nginx, plain",
            plain: NGINX,
            open: Box::new(move || {
                let mut connection = Connection::open(plain).expect("nginx accepts");
                let mut buffer = vec![0; secret::BUFFER];
                Box::new(move || connection.get_read(&format!("/{LEN}"), &mut buffer).expect("a whole answer"))
            }),
        },
        Way {
            name: "nginx, TLS",
            plain: NGINX,
            open: Box::new(move || {
                let mut secret = Secret::open(tls, None, HOST, &format!("/{LEN}")).expect("a handshake");
                Box::new(move || secret.get().expect("a whole answer"))
            }),
        },
    ]
}

fn table(ways: &[Way], rounds: &[Vec<Measured>]) -> Table {
    let head = ["way", "rate", "CPU", "p99", "rate / plain", "floor", "rate / TLS to larder itself"];
    let mut table = Table::new("Interception, warm hits of 1 MiB".into(), &head);
    for (at, way) in ways.iter().enumerate() {
        let of = |what: &dyn Fn(&[Measured]) -> f64| Spread::of(rounds.iter().map(|round| what(round)));
        let rate = |round: &[Measured], at: usize| round[at].requests_per_second();
        table.row(vec![
            way.name.into(),
            format!("{:.2} GB/s", of(&|round| rate(round, at)).median * LEN as f64 / 1e9),
            format!("{:.3} s/GB", of(&|round| round[at].cpu_per_gb()).median),
            format!("{:.2} ms", of(&|round| round[at].p99.as_secs_f64() * 1e3).median),
            of(&|round| rate(round, at) / rate(round, way.plain)).text(),
            if at == INTERCEPTED { "0.8".into() } else { String::new() },
            of(&|round| rate(round, at) / rate(round, TLS)).text(),
        ]);
    }
    table
}
