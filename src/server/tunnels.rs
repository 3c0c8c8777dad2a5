//! Connections within tunnels: what a client begins with is looked at, and TLS is ended in the name of another host where
//! the mount says so. From then on it is a connection like any other: framing, limits, lane and idle times are the
//! same. Its place among the connections is the one that the tunnel has.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::{Acceptor, ClientHello};
use tokio_rustls::rustls::{self, AlertDescription, SignatureScheme};

use super::connection::{obeying, opened, serve, serve_stream};
use super::counters::Counters;
use super::guarded::PREFACE;
use super::pulse::{Order, Stage};
use super::seal::shaking;
use super::sealed::Sealed;
use super::session::{Ends, Place, Session, Tally};
use crate::protocol::{BoxFuture, Inside, Opening, Reception, Replayed, TunnelServer};

/// What a client may begin with before it is taken for something else, in bytes.
const LOOK_BYTES: usize = 32 << 10;
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// The server, for what goes through one tunnel of a connection.
pub(crate) struct Tunnels {
    session: Arc<Session>,
}

impl Tunnels {
    pub fn of(session: &Arc<Session>) -> Arc<dyn TunnelServer> {
        Arc::new(Tunnels { session: session.clone() })
    }
}

impl TunnelServer for Tunnels {
    fn look(&self, io: Upgraded) -> BoxFuture<'_, (Opening, Replayed)> {
        Box::pin(async move {
            let (mut io, mut first) = (TokioIo::new(io), BytesMut::new());
            let looking = look(&mut io, &mut first);
            let opening = match tokio::time::timeout(self.session.shared.limits.tls_handshake, looking).await {
                Ok(opening) => opening.unwrap_or(Opening::Nothing),
                // Perhaps it is the other side that speaks first.
                Err(_) => Opening::Other,
            };
            (opening, Replayed::new(first.freeze(), io))
        })
    }

    fn serve(&self, io: Replayed, inside: Arc<Inside>) -> BoxFuture<'_, Reception> {
        Box::pin(self.serve_inside(io, inside))
    }
}

impl Tunnels {
    async fn serve_inside(&self, io: Replayed, inside: Arc<Inside>) -> Reception {
        let shared = self.session.shared.clone();
        let mut place = Place {
            _admitted: None,
            bucket: self.session.bucket.clone(),
            registered: shared.watch.register(),
            tls: None,
            http2: None,
            inside: Some(inside.clone()),
        };
        let pulse = place.registered.pulse.clone();
        let ends = Ends { addr: self.session.peer.addr, local: self.session.peer.local };
        let Some(host) = inside.vouched() else {
            serve_stream(shared, io, ends, place).await;
            return Reception::Whole;
        };
        let config = shared.guises.as_ref().map(|guises| guises.config(host));
        let config = match config {
            Some(Ok(config)) => config,
            Some(Err(error)) => return Reception::Failed { why: error.to_string() },
            None => return Reception::Failed { why: "there is no authority".to_owned() },
        };
        pulse.set_stage(Stage::Opening);
        let shaken = obeying(&pulse, Box::pin(shaking(TlsAcceptor::from(config).accept(io)))).await;
        let io = match shaken {
            Some((Ok(io), sealer)) => Box::new(Sealed::new(io, sealer)),
            Some((Err(error), _)) => {
                Counters::up(&shared.counters.refused_tls);
                return refusal(&error);
            }
            None => return Reception::Failed { why: "the handshake took too long".to_owned() },
        };
        let opened = match obeying(&pulse, Box::pin(opened(io, &pulse))).await {
            Some(Ok(Some(opened))) => opened,
            Some(Ok(None) | Err(_)) => return Reception::Left,
            None => return Reception::Whole,
        };
        place.tls = Some(Tally::new(&shared.counters, open_tls));
        serve(shared, opened, ends, place).await;
        let is_left = pulse.beat().requests == 0 && pulse.order() == Order::Live;
        if is_left { Reception::Left } else { Reception::Whole }
    }
}

fn open_tls(counters: &Counters) -> &AtomicU64 {
    &counters.open_tls
}

/// Why a client did not shake hands.
fn refusal(error: &io::Error) -> Reception {
    use AlertDescription as Alert;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::AccessDenied
            // What GnuTLS sends, where it sends anything.
            | Alert::CloseNotify),
        )) => Reception::Distrusted { alert: format!("{alert:?}") },
        Some(why) => Reception::Failed { why: why.to_string() },
        // So GnuTLS says it. The certificate went out with our first answer.
        None => Reception::Distrusted { alert: "none: it left in the middle of the handshake".to_owned() },
    }
}

async fn look(io: &mut TokioIo<Upgraded>, first: &mut BytesMut) -> io::Result<Opening> {
    loop {
        if let Some(opening) = opening(first) {
            return Ok(opening);
        }
        if io.read_buf(first).await? == 0 {
            return Ok(if first.is_empty() { Opening::Nothing } else { Opening::Other });
        }
    }
}

/// What these bytes begin. None: more are needed.
fn opening(first: &[u8]) -> Option<Opening> {
    if first.len() > LOOK_BYTES {
        return Some(Opening::Other);
    }
    match first.first()? {
        &HANDSHAKE => tls(first),
        _ if PREFACE.starts_with(first) && first.len() < PREFACE.len() => None,
        _ if first.starts_with(PREFACE) => Some(Opening::Http { upgrades: false }),
        _ => http1(first),
    }
}

fn tls(mut first: &[u8]) -> Option<Opening> {
    let mut acceptor = Acceptor::default();
    loop {
        // It reads a piece at a time.
        if acceptor.read_tls(&mut first).is_err() {
            return Some(Opening::Other);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_owned);
                return Some(Opening::Tls { name, speaks_http: speaks_http(&hello) });
            }
            Ok(None) if first.is_empty() => return None,
            Ok(None) => {}
            Err(_) => return Some(Opening::Other),
        }
    }
}

/// Whether a client is content with a protocol and a kind of certificate that we have.
fn speaks_http(hello: &ClientHello<'_>) -> bool {
    let is_http = |name: &[u8]| matches!(name, b"h2" | b"http/1.1" | b"http/1.0");
    let protocol = hello.alpn().is_none_or(|mut names| names.any(is_http));
    protocol && hello.signature_schemes().contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
}

fn http1(first: &[u8]) -> Option<Opening> {
    let mut room = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut room);
    match request.parse(first) {
        Ok(httparse::Status::Partial) => None,
        // CONNECT is for whoever is at the other end.
        Ok(httparse::Status::Complete(_)) if request.method == Some("CONNECT") => Some(Opening::Other),
        Ok(httparse::Status::Complete(_)) => {
            let names = |field: &httparse::Header<'_>| {
                field.name.eq_ignore_ascii_case("upgrade") && !field.value.eq_ignore_ascii_case(b"h2c")
            };
            Some(Opening::Http { upgrades: request.headers.iter().any(names) })
        }
        // The server has words for it.
        Err(httparse::Error::TooManyHeaders) => Some(Opening::Http { upgrades: false }),
        Err(_) => Some(Opening::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_begins_with_is_told_apart() {
        let plain = Some(Opening::Http { upgrades: false });
        for (first, said) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", plain.clone()),
            (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", plain.clone()),
            (b"GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", Some(Opening::Http { upgrades: true })),
            (b"CONNECT a:443 HTTP/1.1\r\n\r\n", Some(Opening::Other)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", plain),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Opening::Other)),
            (b"\x16\x03\x01", None),
            (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Some(Opening::Other)),
            (b"\x00\x01", Some(Opening::Other)),
        ] {
            assert_eq!(opening(first), said, "{:?}", String::from_utf8_lossy(first));
        }
        assert_eq!(opening(&vec![b'a'; LOOK_BYTES + 1]), Some(Opening::Other));
    }

    #[test]
    fn a_handshake_is_read_however_it_is_cut() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let hello = |name: &str, alpn: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
            let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
            let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("a hello");
            bytes
        };
        let whole = hello("a.example", &[b"h2", b"http/1.1"]);
        for cut in 1..whole.len() {
            assert_eq!(opening(&whole[..cut]), None, "{cut}");
        }
        let tls = |name: Option<&str>, speaks_http| Opening::Tls { name: name.map(str::to_owned), speaks_http };
        assert_eq!(opening(&whole), Some(tls(Some("a.example"), true)));
        assert_eq!(opening(&hello("127.0.0.1", &[])), Some(tls(None, true)));
        assert_eq!(opening(&hello("a.example", &[b"acme-tls/1"])), Some(tls(Some("a.example"), false)));
    }
}
