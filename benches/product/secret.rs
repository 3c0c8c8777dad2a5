//! TLS for benches: an identity for the origin, and a client that costs next to nothing. It decrypts the first answer;
//! of those after it it only counts the records.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme,
};

/// What a record has around its payload in TLS 1.3: five bytes before, one for the kind and sixteen for the tag within.
const RECORD_HEAD: usize = 5;
const RECORD_TAIL: u64 = 17;
const DATA: u8 = 23;
/// What is read at once.
pub const BUFFER: usize = 256 << 10;
/// The answers' heads may differ in the digits of `Age`.
const DIGITS: u64 = 8;

/// How a server shows itself as `name`, and the authority that vouches for it, as PEM.
pub fn identity(name: &str) -> (Arc<ServerConfig>, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ours = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new([name.to_owned()]).expect("a name").signed_by(&key, &ours).expect("signs");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("they fit");
    (Arc::new(config), ours.pem())
}

/// A certificate for `name` and its key, as files.
pub fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new([name.to_owned()]).expect("a name").self_signed(&key).expect("signs");
    let (certificate, private) = (dir.join("nginx.crt"), dir.join("nginx.key"));
    std::fs::write(&certificate, leaf.pem()).expect("scratch can be written");
    std::fs::write(&private, key.serialize_pem()).expect("scratch can be written");
    (certificate, private)
}

/// A client of TLS 1.3 to which it does not matter who the server is.
pub fn trusting_anybody() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth()
}

/// A connection on which the same thing is asked for again and again.
pub struct Secret {
    stream: TcpStream,
    session: ClientConnection,
    request: Vec<u8>,
    /// Of the first answer, head and all; 0: there was none.
    answer_bytes: u64,
    body_bytes: u64,
    buffer: Vec<u8>,
}

impl Secret {
    /// `through`: what the proxy is to connect to first.
    pub fn open(to: SocketAddr, through: Option<&str>, name: &str, path: &str) -> io::Result<Secret> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let host = through.map_or_else(|| to.to_string(), str::to_owned);
        if let Some(authority) = through {
            write!(stream, "CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n")?;
            let mut said = Vec::new();
            while !said.ends_with(b"\r\n\r\n") {
                let mut one = [0];
                stream.read_exact(&mut one)?;
                said.push(one[0]);
            }
            assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
        }
        let mut config = trusting_anybody();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
        Ok(Secret { stream, session, request, answer_bytes: 0, body_bytes: 0, buffer: vec![0; BUFFER] })
    }

    /// The body's length.
    pub fn get(&mut self) -> io::Result<u64> {
        if self.answer_bytes == 0 {
            self.first()?;
        } else {
            self.session.writer().write_all(&self.request)?;
            while self.session.wants_write() {
                self.session.write_tls(&mut self.stream)?;
            }
            self.count()?;
        }
        Ok(self.body_bytes)
    }

    fn first(&mut self) -> io::Result<()> {
        let mut tls = rustls::Stream::new(&mut self.session, &mut self.stream);
        tls.write_all(&self.request)?;
        let mut answer = Vec::new();
        let end = loop {
            let some = tls.read(&mut self.buffer)?;
            answer.extend_from_slice(&self.buffer[..some]);
            if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        self.body_bytes = length.trim().parse().expect("a number");
        self.answer_bytes = end as u64 + self.body_bytes;
        let mut have = answer.len() as u64;
        while have < self.answer_bytes {
            have += tls.read(&mut self.buffer)? as u64;
        }
        Ok(())
    }

    /// Reads as many records as an answer has. One that ends an answer has nothing of the next, which is not asked for yet.
    fn count(&mut self) -> io::Result<()> {
        let (mut have, mut payload) = (0, 0);
        loop {
            let mut at = 0;
            while have - at >= RECORD_HEAD {
                let len = usize::from(u16::from_be_bytes([self.buffer[at + 3], self.buffer[at + 4]]));
                if have - at < RECORD_HEAD + len {
                    break;
                }
                assert_eq!(self.buffer[at], DATA, "nothing but data");
                payload += len as u64 - RECORD_TAIL;
                at += RECORD_HEAD + len;
            }
            self.buffer.copy_within(at..have, 0);
            have -= at;
            if payload + DIGITS >= self.answer_bytes {
                assert_eq!(have, 0, "an answer ends with a record");
                return Ok(());
            }
            let some = self.stream.read(&mut self.buffer[have..])?;
            if some == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            have += some;
        }
    }
}

/// The bench is not about who is who.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("no TLS 1.2 here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
