//! Upstreams that speak TLS, under any name: a proxy that answers CONNECT itself, with a certificate for whatever host it
//! was asked for, and hands what it decrypts to a plain upstream. larder reaches it as its outbound proxy, so that names
//! and ports are those of the world and no packet leaves the machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::upstream::Upstream;

/// A host whose certificate has ended.
pub const EXPIRED: &str = "expired.example";
/// A host that shows another's certificate.
pub const MISNAMED: &str = "misnamed.example";
/// A host whose certificate is from an authority that nobody trusts.
pub const UNKNOWN: &str = "unknown.example";

/// All hosts there are, behind one proxy. They end with this value.
pub struct World {
    /// What all hosts hold.
    pub upstream: Upstream,
    addr: SocketAddr,
    /// The authority of these hosts, as PEM.
    pub authority: PathBuf,
    runtime: Option<Runtime>,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a name, valid until the first of January of a year.
    fn issued(&self, name: &str, until_year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        params.use_authority_key_identifier_extension = true;
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    fn acceptor(&self, name: &str, until_year: i32) -> TlsAcceptor {
        let (certificate, key) = self.issued(name, until_year);
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("they fit");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A certificate that has ended, its key, and the authority that made it: PEM files.
pub struct EndedCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

pub fn ended_certificate(dir: &Path, name: &str) -> EndedCertificate {
    let made = Authority::new();
    let (certificate, key) = made.issued(name, 2021);
    std::fs::create_dir_all(dir).expect("scratch can be written");
    let put = |name: &str, text: &str| {
        let file = dir.join(name);
        std::fs::write(&file, text).expect("scratch can be written");
        file
    };
    EndedCertificate {
        certificate: put("ended.pem", &certificate.pem()),
        key: put("key.pem", &key.serialize_pem()),
        authority: put("authority.pem", &made.pem),
    }
}

impl World {
    /// `dir` gets the authority's certificate.
    pub fn start(dir: &Path) -> World {
        let upstream = Upstream::start();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a loopback port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let (good, bad) = (Authority::new(), Authority::new());
        std::fs::create_dir_all(dir).expect("scratch can be written");
        let authority = dir.join("authority.pem");
        std::fs::write(&authority, &good.pem).expect("scratch can be written");
        let to = upstream.addr();
        runtime.spawn(async move {
            let hosts = Arc::new((good, bad));
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, hosts.clone(), to));
            }
        });
        World { upstream, addr, authority, runtime: Some(runtime) }
    }

    /// The proxy by which they are reached.
    pub fn proxy(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How larder reaches these hosts, and which of them it intercepts.
    pub fn config(&self, intercepted: &[&str]) -> String {
        let known = ["files.example", "other.example", "maven.example", "apt.example", EXPIRED, MISNAMED, UNKNOWN];
        format!(
            "[upstreams]\nlearn = \"public\"\nallow = {known:?}\n\
             [upstream]\nca_file = {:?}\nsystem_roots = false\nallow_private = [\"127.0.0.1/32\"]\n\
             [upstream.retry]\nattempts = 1\n\
             [upstream.proxy]\nhttps = \"{proxy}\"\nhttp = \"{proxy}\"\n\
             [intercept]\nhosts = {intercepted:?}\n",
            self.authority,
            proxy = self.proxy(),
        )
    }

    /// Cuts everything and listens no more.
    pub fn die(&mut self) {
        self.upstream.die();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.die();
    }
}

async fn carry(mut client: TcpStream, hosts: Arc<(Authority, Authority)>, to: SocketAddr) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut upstream = TcpStream::connect(to).await.ok()?;
    let Some(rest) = head.strip_prefix("CONNECT ") else {
        // Absolute form: the path is what the upstream knows.
        let (line, fields) = head.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let path = target.strip_prefix("http://")?.split_once('/').map_or("", |(_, path)| path);
        upstream.write_all(format!("{method} /{path} HTTP/1.1\r\n{fields}").as_bytes()).await.ok()?;
        tokio::io::copy_bidirectional(&mut client, &mut upstream).await.ok()?;
        return Some(());
    };
    let name = rest.split(':').next()?;
    let (good, bad) = &*hosts;
    let acceptor = match name {
        EXPIRED => good.acceptor(name, 2021),
        MISNAMED => good.acceptor("files.example", 2090),
        UNKNOWN => bad.acceptor(name, 2090),
        name => good.acceptor(name, 2090),
    };
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    let mut client = acceptor.accept(client).await.ok()?;
    // Whoever cuts is not our matter.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
    Some(())
}
