//! TLS and HTTP/2: trust, ALPN, truncation, CONNECT through a proxy.

use bytes::Bytes;
use http::{Method, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

use super::server::{Act, Server, frame, raw_http2, send};
use super::*;
use crate::upstream::settings::ProxySettings;

/// A TLS listener for `upstream.test` and 127.0.0.1, and the file with its certificate.
struct Secure {
    address: SocketAddr,
    authority: tempfile::NamedTempFile,
}

impl Secure {
    async fn start<F>(protocols: &[&str], serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static) -> Secure
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let names = vec!["upstream.test".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let authority = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(authority.path(), made.cert.pem()).expect("written");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let tasks = Tasks::new();
        tasks.clone().spawn("tls server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    tasks.spawn("tls connection", serve(stream));
                }
            }
        });
        Secure { address, authority }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn settings(&self) -> Settings {
        Settings { ca_file: Some(self.authority.path().to_owned()), ..settings() }
    }
}

/// An HTTP/2 server that answers with the request's body, or else with its path.
async fn http2(stream: TlsStream<TcpStream>) {
    let service = service_fn(|request: http::Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let body = if body.is_empty() { Bytes::from(path) } else { body };
        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
    });
    let executor = hyper_util::rt::TokioExecutor::new();
    // The client decides when it ends.
    let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(TokioIo::new(stream), service).await;
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_one_connection_serves_many() {
    let server = Secure::start(&["h2", "http/1.1"], http2).await;
    let client = client(server.settings());
    let asks = (0..20).map(|at| {
        let (client, url) = (client.clone(), server.url(&format!("/{at}")));
        async move {
            let mut fetched = client.fetch(get(&url)).await.expect("an answer");
            assert_eq!(fetched.version, Version::HTTP_2);
            assert_eq!(read(&mut fetched).await.expect("whole"), format!("/{at}").into_bytes());
        }
    });
    futures_util::future::join_all(asks).await;
    let big = Bytes::from(vec![7; 3 << 20]);
    let body = FetchBody::Bytes(big.clone());
    let ask = FetchAsk { method: Method::PUT, body, ..get(&server.url("/")) };
    let mut fetched = client.fetch(ask).await.expect("an answer");
    assert!(read(&mut fetched).await.expect("whole") == big);
    let ask = FetchAsk { method: Method::HEAD, ..get(&server.url("/head")) };
    let mut fetched = client.fetch(ask).await.expect("an answer");
    assert_eq!((read(&mut fetched).await.expect("empty").len(), fetched.len), (0, Some(0)));
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_never_overlooked() {
    let server = Secure::start(&["h2"], http2).await;
    for (settings, url) in
        [(settings(), server.url("/")), (server.settings(), format!("https://other.test:{}/", server.address.port()))]
    {
        let client = client_with(settings, Fake::new(&[&[server.address]]));
        let error = client.fetch(get(&url)).await.expect_err("not trusted");
        assert!(matches!(error, UpstreamError::Untrusted { .. }), "{error}");
        assert_eq!(client.hosts()[0].requests, 1, "not asked again");
    }
}

#[tokio::test]
async fn an_http2_reset_is_never_a_clean_end() {
    // HEADERS with `:status: 200`, some DATA, RST_STREAM with NO_ERROR, CANCEL and INTERNAL_ERROR.
    for code in [0, 8, 2] {
        let mut frames = frame(1, 4, &[0x88]);
        frames.extend(frame(0, 0, b"half"));
        frames.extend(frame(3, 0, &[0, 0, 0, code]));
        let server = Secure::start(&["h2"], move |stream| {
            let frames = frames.clone();
            async move { raw_http2(stream, &frames).await }
        })
        .await;
        let mut fetched = client(server.settings()).fetch(get(&server.url("/"))).await.expect("a head");
        let (_, error) = read(&mut fetched).await.expect_err("reset");
        assert!(matches!(error, UpstreamError::Truncated { .. }), "code {code}: {error}");
    }
}

#[tokio::test]
async fn an_http2_body_that_ends_as_it_should_is_whole() {
    let mut frames = frame(1, 4, &[0x88]);
    frames.extend(frame(0, 0, b"whole"));
    frames.extend(frame(0, 1, b""));
    let server = Secure::start(&["h2"], move |stream| {
        let frames = frames.clone();
        async move { raw_http2(stream, &frames).await }
    })
    .await;
    assert_eq!(get_all(&client(server.settings()), &server.url("/")).await.expect("whole"), b"whole");
}

#[tokio::test]
async fn an_http2_body_longer_than_announced_is_an_error() {
    // content-length: 2, as a literal field with the name's static index 28.
    let mut frames = frame(1, 4, &[0x88, 0x0f, 0x0d, 0x01, b'2']);
    frames.extend(frame(0, 1, b"more"));
    let server = Secure::start(&["h2"], move |stream| {
        let frames = frames.clone();
        async move { raw_http2(stream, &frames).await }
    })
    .await;
    get_all(&client(server.settings()), &server.url("/")).await.expect_err("too long");
}

#[tokio::test]
async fn tls_closed_without_notice_is_a_broken_body() {
    let server = Secure::start(&["http/1.1"], |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of it").await;
        let _ = stream.flush().await;
        // The socket below is closed, with no farewell from TLS.
    })
    .await;
    let mut fetched = client(server.settings()).fetch(get(&server.url("/"))).await.expect("a head");
    let (_, error) = read(&mut fetched).await.expect_err("cut");
    assert!(matches!(error, UpstreamError::Truncated { .. }), "{error}");
}

#[tokio::test]
async fn https_goes_through_the_proxy_by_connect() {
    let server = Secure::start(&["h2", "http/1.1"], http2).await;
    let address = server.address;
    let proxy =
        Server::start(move |_, _| vec![send("HTTP/1.1 200 Connection established\r\n\r\n"), Act::Splice(address)])
            .await;
    let env = ProxySettings { https: Some(proxy.url("")), from_env: false, ..ProxySettings::default() };
    let client = client_with(Settings { proxy: env, ..server.settings() }, Fake::new(&[&[]]));
    let ask = with(get("https://upstream.test/by/connect"), "authorization", &format!("Bearer {CANARY}"));
    let mut fetched = client.fetch(ask).await.expect("an answer");
    assert_eq!(fetched.version, Version::HTTP_2);
    assert_eq!(read(&mut fetched).await.expect("whole"), b"/by/connect");
    let seen = proxy.seen().remove(0);
    assert!(seen.starts_with("CONNECT upstream.test:443 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("via: 1.1 larder-test\r\n") && !seen.contains(CANARY), "{seen}");
    let refused = Server::start(|_, _| super::server::answer("403 Forbidden", "", b"no")).await;
    let env = ProxySettings { https: Some(refused.url("")), from_env: false, ..ProxySettings::default() };
    let client = client_with(Settings { proxy: env, ..server.settings() }, Fake::new(&[&[]]));
    let error = client.fetch(get("https://upstream.test/")).await.expect_err("the proxy says no");
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");
}
