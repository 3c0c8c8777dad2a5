//! TLS on the same port, with our own authority.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::http2::{Spawn, request};
use super::{Running, connect, exchange, soon, start_with, statuses};
use crate::runtime::clock::{ManualClock, SystemClock};
use crate::server::authorities::own;
use crate::server::ca::{Ca, LEAF_LIFE};
use crate::server::front::Doors;
use crate::server::settings::Limits;
use crate::server::tls::Certificates;

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "larder.test"];

fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

fn connector(ca: &Ca, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).expect("a certificate");
    roots.add(certificate).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

type Stream = TlsStream<tokio::net::TcpStream>;

async fn shake_hands(running: &Running, connector: &TlsConnector, name: &str) -> std::io::Result<Stream> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    soon(connector.connect(name, connect(running.addr()).await)).await
}

fn start_tls(certificates: Arc<Certificates>) -> Running {
    start_with(Limits::default(), Doors { certificates: Some(certificates), ..Doors::default() })
}

#[tokio::test]
async fn one_port_speaks_tls_and_cleartext_of_both_versions() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Arc::new(own(dir.path(), &names(), SystemClock::new()).expect("an authority"));
    let certificates = Certificates::from_ca(ca.clone(), names(), SystemClock::new()).expect("a certificate");
    let running = start_tls(Arc::new(certificates));
    let ca = own(dir.path(), &names(), SystemClock::new()).expect("the same authority");

    for (name, alpn) in [("localhost", &[][..]), ("127.0.0.1", &[b"http/1.1".as_slice()][..])] {
        let mut stream = shake_hands(&running, &connector(&ca, alpn), name).await.expect("shakes hands");
        stream.write_all(b"GET /tls HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sends");
        let mut got = Vec::new();
        soon(stream.read_to_end(&mut got)).await.expect("ends with a close_notify");
        assert_eq!(statuses(&got), [200], "{name}");
    }
    let stream = shake_hands(&running, &connector(&ca, &[b"h2"]), "larder.test").await.expect("shakes hands");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let builder = hyper::client::conn::http2::Builder::new(Spawn(running.tasks.clone()));
    let (mut send, connection) = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await.expect("connects");
    running.tasks.spawn("client connection", async move {
        let _ = connection.await;
    });
    assert!(soon(send.send_request(request("/h2", b""))).await.expect("answers").status().is_success());
    assert_eq!(running.server.counters().open_tls.load(Relaxed), 1);
    let plain = exchange(running.addr(), b"GET /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&plain), [200]);
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    let write = |ca: &Ca| {
        let leaf = ca.issue(&names()).expect("issues");
        let pem = |label: &str, der: &[u8]| {
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let chain: String = leaf.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        std::fs::write(&certificate, chain).expect("writes");
        std::fs::write(&key, pem("PRIVATE KEY", leaf.key.secret_der())).expect("writes");
    };
    let authority = |name: &str| own(&dir.path().join(name), &names(), SystemClock::new()).expect("an authority");
    let (old, new) = (authority("old"), authority("new"));
    write(&old);
    let certificates = Arc::new(Certificates::from_files(&certificate, &key).expect("loads"));
    let running = start_tls(certificates.clone());
    assert!(shake_hands(&running, &connector(&new, &[]), "localhost").await.is_err());
    write(&new);
    certificates.reload().expect("reloads");
    assert!(shake_hands(&running, &connector(&new, &[]), "localhost").await.is_ok());

    std::fs::write(&key, "nonsense").expect("writes");
    assert!(certificates.reload().is_err());
    assert!(shake_hands(&running, &connector(&new, &[]), "localhost").await.is_ok());
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_not_vouched_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Arc::new(own(dir.path(), &names(), SystemClock::new()).expect("an authority"));
    let certificates = Certificates::from_ca(ca.clone(), names(), SystemClock::new()).expect("a certificate");
    let running = start_tls(Arc::new(certificates));
    assert!(shake_hands(&running, &connector(&ca, &[]), "other.test").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn our_own_certificate_is_renewed_before_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::at(SystemClock::new().now());
    let ca = Arc::new(own(dir.path(), &names(), clock.clone()).expect("an authority"));
    let certificates = Arc::new(Certificates::from_ca(ca, names(), clock.clone()).expect("a certificate"));
    let first = certificates.current_chain();
    let renewing = certificates.clone();
    let tasks = crate::runtime::tasks::Tasks::new();
    tasks.spawn("renewal", async move { renewing.keep_renewed().await });
    let hour = std::time::Duration::from_secs(3600);
    tokio::time::sleep(hour).await;
    assert_eq!(certificates.current_chain(), first);
    clock.advance(LEAF_LIFE / 2);
    tokio::time::sleep(hour).await;
    assert_ne!(certificates.current_chain(), first);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Arc::new(own(dir.path(), &names(), SystemClock::new()).expect("an authority"));
    let certificates = Certificates::from_ca(ca, names(), SystemClock::new()).expect("a certificate");
    let running = start_tls(Arc::new(certificates));
    let mut stream = connect(running.addr()).await;
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.expect("sends");
    let mut got = Vec::new();
    let _ = soon(stream.read_to_end(&mut got)).await;
    assert!(got.is_empty());
    assert_eq!(running.server.counters().cut_handshake.load(Relaxed), 1);
}

#[tokio::test]
async fn tls_where_none_is_spoken_is_refused() {
    let running = super::start(Limits::default());
    let got = exchange(running.addr(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert_eq!(statuses(&got), [400]);
}
