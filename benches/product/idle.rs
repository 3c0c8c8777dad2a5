//! Memory of a server that has nothing to do, alone and with five thousand connections that stand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use crate::Options;
use crate::peers;
use crate::process::resident;
use crate::report::{Report, Table};
use crate::secret::trusting_anybody;

const CONNECTIONS: usize = 5000;

pub fn run(_: &Options, report: &mut Report) {
    let dir = tempfile::tempdir().expect("room for scratch files");
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let mut table = Table::new("Memory at rest, MiB".into(), &["what", "measured", "floor"]);

    let plain = peers::larder(dir.path(), "plain", "", |_| String::new());
    std::thread::sleep(Duration::from_secs(2));
    let alone = resident(plain.pid());
    table.row(vec!["idle".into(), mib(alone), "under 40".into()]);
    eprintln!("idle: {CONNECTIONS} plain connections");
    let open: Vec<_> = (0..CONNECTIONS).map(|_| ask(connect(plain.addr), plain.addr)).collect();
    std::thread::sleep(Duration::from_secs(1));
    table.row(vec!["5,000 connections more".into(), mib(resident(plain.pid()) - alone), "under 128".into()]);
    drop(open);
    drop(plain);

    let more = "\n[server.tls]\nnames = [\"localhost\", \"127.0.0.1\"]\n";
    let secure = peers::larder(dir.path(), "tls", more, |_| String::new());
    std::thread::sleep(Duration::from_secs(2));
    let alone = resident(secure.pid());
    eprintln!("idle: {CONNECTIONS} TLS connections");
    let config = Arc::new(trusting_anybody());
    let open: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let name = ServerName::try_from("localhost").expect("a name");
            let session = ClientConnection::new(config.clone(), name).expect("a session");
            ask(StreamOwned::new(session, connect(secure.addr)), secure.addr)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    table.row(vec!["5,000 TLS connections more".into(), mib(resident(secure.pid()) - alone), "under 192".into()]);
    drop(open);
    report.add(table);
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("larder accepts");
    stream.set_nodelay(true).expect("TCP has the option");
    stream
}

/// One request, so that the connection has lived; then it stands.
fn ask<S: Read + Write>(mut stream: S, to: SocketAddr) -> S {
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes()).expect("a request goes out");
    let mut answer = [0; 4096];
    let some = stream.read(&mut answer).expect("an answer comes");
    assert!(answer[..some].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..some]));
    stream
}
