//! The gate: odd spellings, names that change their mind, our own listeners, CONNECT.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::{Server, ok};
use super::*;
use crate::upstream::settings::ProxySettings;

/// Spellings of addresses that a client may not reach.
const FORBIDDEN: [&str; 46] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7f000001",
    "0x7F.0x0.0x0.0x1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "127.0.0.1.",
    "127.000.000.001",
    "%31%32%37.0.0.1",
    "127。0。0。1",
    "127.0.0.1",
    "①②⑦.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[::]",
    "0.0.0.0",
    "0",
    "0x0",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "169.254.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "4294967295",
    "10.1",
    "192.168.257",
    "100.64.0.1",
    "172.16.1",
];

#[tokio::test]
async fn odd_spellings_of_forbidden_addresses_are_refused() {
    let server = Server::start(|_, _| ok("private")).await;
    let port = server.address.port();
    let client = client(Settings { connect_ports: vec![port], ..settings() });
    for host in FORBIDDEN {
        let url = Url::parse(&format!("http://{host}:{port}/")).expect(host);
        let ask = FetchAsk { url, trust: Trust::Client, ..get("http://x.test/") };
        let error = client.fetch(ask).await.expect_err(host);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{host}: {error}");
        let error = client.tunnel(host, port, Trust::Client).await.err().expect(host);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{host}: {error}");
    }
    for host in
        ["", ".", "a b", "a/b", "a@b", "127.0.0.1:80", "1.2.3.4.5", "256.256.256.256", "0x7g.1", "a\r\nb", "[::1%1]"]
    {
        let error = client.tunnel(host, port, Trust::Configured).await.err().expect(host);
        assert!(matches!(error, UpstreamError::Refused { .. } | UpstreamError::Unreachable { .. }), "{host}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn metadata_and_the_like_are_refused_even_to_configured_upstreams() {
    let everything = vec!["0.0.0.0/0".parse().expect("net"), "::/0".parse().expect("net")];
    let client = client(Settings { allow_private: everything, ..settings() });
    for host in
        ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "0.0.0.0", "[::]", "224.0.0.1", "[fe80::1]"]
    {
        let error = client.fetch(get(&format!("http://{host}/"))).await.expect_err(host);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{host}: {error}");
    }
    for host in ["metadata.google.internal", "Metadata.Google.Internal.", "metadata"] {
        let error = client.fetch(get(&format!("http://{host}/"))).await.expect_err(host);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{host}: {error}");
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_judged_by_what_is_connected_to() {
    let server = Server::start(|_, _| ok("private")).await;
    let port = server.address.port();
    let metadata: SocketAddr = "169.254.169.254:80".parse().expect("an address");
    let private = SocketAddr::from(([127, 0, 0, 1], 1));
    let fake = Fake::new(&[&[private], &[metadata], &[private, metadata], &[]]);
    let client = client_with(settings(), fake.clone());
    for _ in 0..4 {
        let ask = FetchAsk { trust: Trust::Client, ..get(&format!("http://flips.test:{port}/")) };
        let error = client.fetch(ask).await.expect_err("refused");
        assert!(matches!(error, UpstreamError::Refused { .. }), "{error}");
    }
    assert_eq!((fake.asked.load(Ordering::SeqCst), server.connections()), (4, 0), "resolved once for each ask");
}

#[tokio::test]
async fn of_many_addresses_those_that_pass_are_tried_in_order() {
    let server = Server::start(|_, _| ok("found")).await;
    let port = server.address.port();
    let dead = TcpListener::bind("127.0.0.2:0").await.expect("a free port").local_addr().expect("bound");
    let answers =
        ["169.254.169.254:1", "127.0.0.2:1", "127.0.0.1:1"].map(|text| text.parse::<SocketAddr>().expect("an address"));
    let client = client_with(settings(), Fake::new(&[&answers]));
    assert_eq!(get_all(&client, &format!("http://many.test:{port}/")).await.expect("found"), b"found");
    let client = client_with(settings(), Fake::new(&[&[dead]]));
    let error = client.fetch(get(&format!("http://dead.test:{}/", dead.port()))).await.expect_err("nobody there");
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_for_a_configured_upstream_is_not_lent_to_a_client() {
    let server = Server::start(|_, _| ok("private")).await;
    let client = client_with(settings(), Fake::new(&[&[server.address]]));
    let url = format!("http://inner.test:{}/", server.address.port());
    get_all(&client, &url).await.expect("configured");
    tokio::task::yield_now().await;
    let error = client.fetch(FetchAsk { trust: Trust::Client, ..get(&url) }).await.expect_err("refused");
    assert!(matches!(error, UpstreamError::Refused { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn our_own_listeners_are_refused_whoever_asks() {
    let server = Server::start(|_, _| ok("ourselves")).await;
    let port = server.address.port();
    for own in [server.address, SocketAddr::from(([0, 0, 0, 0], port)), format!("[::]:{port}").parse().expect("one")] {
        let client = client(Settings { own_addresses: vec![own], ..settings() });
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let error = client.fetch(get(&format!("http://{host}:{port}/"))).await.expect_err("ourselves");
            // The name may also have an address that is not ours, where nobody listens.
            let refused = matches!(error, UpstreamError::Refused { .. });
            assert!(refused || (host == "localhost" && matches!(error, UpstreamError::Unreachable { .. })), "{error}");
        }
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn a_tunnel_carries_bytes_and_counts_against_its_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let settings = Settings { connect_ports: vec![port], tunnels: 1, ..settings() };
    let client = client(settings);
    let (tunnel, accepted) = tokio::join!(client.tunnel("127.0.0.1", port, Trust::Configured), listener.accept());
    let (opened, (mut peer, _)) = (tunnel.expect("open"), accepted.expect("came"));
    assert_eq!(opened.reached, Some(std::net::Ipv4Addr::LOCALHOST.into()));
    let mut tunnel = opened.io;
    tunnel.write_all(b"ping").await.expect("written");
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).await.expect("read");
    peer.write_all(&bytes).await.expect("written");
    tunnel.read_exact(&mut bytes).await.expect("read");
    assert_eq!(&bytes, b"ping");
    let error = client.tunnel("127.0.0.1", port, Trust::Configured).await.err().expect("full");
    assert!(matches!(error, UpstreamError::Crowded { .. }), "{error}");
    drop(tunnel);
    client.tunnel("127.0.0.1", port, Trust::Configured).await.map(drop).expect("free again");
    let error = client.tunnel("127.0.0.1", 22, Trust::Configured).await.err().expect("closed port");
    assert!(matches!(error, UpstreamError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn plain_http_goes_to_the_proxy_in_absolute_form() {
    let proxy = Server::start(|_, _| ok("by proxy")).await;
    let password = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(password.path(), CANARY).expect("written");
    let set = ProxySettings {
        http: Some(proxy.url("")),
        user: Some("me".into()),
        password: Some(crate::upstream::settings::SecretSource::File(password.path().to_owned())),
        none: Some("direct.test".into()),
        from_env: false,
        https: None,
    };
    let client = client_with(Settings { proxy: set, ..settings() }, Fake::new(&[&[]]));
    assert_eq!(get_all(&client, "http://outside.test/x?y").await.expect("by proxy"), b"by proxy");
    let seen = proxy.seen().remove(0);
    assert!(seen.starts_with("GET http://outside.test/x?y HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: outside.test\r\n") && seen.contains("proxy-authorization: Basic "), "{seen}");
    client.fetch(get("http://direct.test/")).await.expect_err("not by the proxy");
    assert_eq!(proxy.seen().len(), 1);
}

#[tokio::test]
async fn through_a_proxy_the_name_is_judged_too() {
    let proxy = Server::start(|_, _| ok("by proxy")).await;
    let set =
        ProxySettings { http: Some(proxy.url("")), https: Some(proxy.url("")), from_env: false, ..Default::default() };
    let public: SocketAddr = "8.8.8.8:1".parse().expect("an address");
    let private: SocketAddr = "10.0.0.1:1".parse().expect("an address");
    let inner = client_with(Settings { proxy: set.clone(), ..settings() }, Fake::new(&[&[private]]));
    let outer = client_with(Settings { proxy: set, ..settings() }, Fake::new(&[&[public]]));
    for host in
        ["10.0.0.1", "0xa.1", "169.254.169.254", "intranet", "db.internal", "a.localhost", "router.lan.", "host.local"]
    {
        let ask = FetchAsk { trust: Trust::Client, ..get(&format!("http://{host}/")) };
        let error = outer.fetch(ask).await.expect_err(host);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{host}: {error}");
        let error = outer.tunnel(host, 443, Trust::Client).await.err().expect(host);
        assert!(matches!(error, UpstreamError::Refused { .. }), "{host}: {error}");
    }
    let ask = || FetchAsk { trust: Trust::Client, ..get("http://public.test/") };
    assert!(matches!(inner.fetch(ask()).await, Err(UpstreamError::Refused { .. })), "our resolver knows it as private");
    assert_eq!(proxy.connections(), 0);
    outer.fetch(ask()).await.expect("public");
}

#[tokio::test]
async fn a_proxys_challenge_is_not_passed_on() {
    let proxy = Server::start(|_, _| super::server::answer("407 x", "proxy-authenticate: Basic\r\n", b"")).await;
    let set =
        ProxySettings { http: Some(proxy.url("")), https: Some(proxy.url("")), from_env: false, ..Default::default() };
    let client = client_with(Settings { proxy: set, ..settings() }, Fake::new(&[&[]]));
    for url in ["http://outside.test/", "https://outside.test/"] {
        let error = client.fetch(get(url)).await.expect_err("challenged");
        assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");
    }
}
