//! Redirects: followed and counted, and no credential leaves its origin.

use http::Method;

use super::server::{Act, Server, answer, ok, send};
use super::*;
use crate::upstream::settings::{CredentialSettings, SecretSource};

fn to(location: &str) -> Vec<Act> {
    answer("302 Found", &format!("location: {location}\r\n"), b"")
}

fn open() -> Settings {
    Settings { allow_private: vec!["127.0.0.0/8".parse().expect("net")], ..settings() }
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_limit_or_passed_on() {
    let server = Server::start(|request, _| {
        let at: usize = request.split(['/', ' ']).nth(2).and_then(|at| at.parse().ok()).unwrap_or(0);
        if at == 0 { ok("there") } else { to(&format!("/{}", at - 1)) }
    })
    .await;
    let client = client(settings());
    let mut fetched = client.fetch(get(&server.url("/10"))).await.expect("ten are followed");
    assert_eq!(fetched.url.as_str(), server.url("/0"));
    assert_eq!(read(&mut fetched).await.expect("whole"), b"there");
    assert_eq!(server.connections(), 1, "small bodies are read, so that the connection is used again");
    let error = client.fetch(get(&server.url("/11"))).await.expect_err("eleven are not");
    assert!(matches!(error, UpstreamError::Redirects { limit: 10 }), "{error}");
    let ask = FetchAsk { redirects: Redirects::PassOn, ..get(&server.url("/1")) };
    assert_eq!(client.fetch(ask).await.expect("passed on").status, 302);
}

#[tokio::test]
async fn a_post_becomes_a_get_without_its_body() {
    let server =
        Server::start(|_, nth| if nth == 0 { answer("303 See Other", "location: /b\r\n", b"") } else { ok("") }).await;
    let ask = FetchAsk { method: Method::POST, body: FetchBody::Bytes("secret".into()), ..get(&server.url("/a")) };
    client(settings()).fetch(ask).await.expect("an answer");
    let seen = server.seen();
    assert!(
        seen[0].ends_with("secret") && seen[1].starts_with("GET /b ") && !seen[1].contains("secret"),
        "{}",
        seen[1]
    );
}

#[tokio::test]
async fn no_credential_leaves_its_origin() {
    let target = Server::start(|_, _| ok("public")).await;
    let location = target.url("/stolen");
    let server = Server::start(move |_, _| to(&location)).await;
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), CANARY).expect("written");
    let credential = |origin: String| CredentialSettings {
        origin,
        bearer: Some(SecretSource::File(secret.path().to_owned())),
        user: None,
        password: None,
        header: None,
        value: None,
    };
    // A credential for the target is configured too: a redirect does not earn it, a configured upstream does.
    let credentials = vec![credential(server.url("")), credential(target.url(""))];
    let client = client(Settings { credentials, ..open() });
    client.fetch(get(&server.url("/a"))).await.expect("an answer");
    assert!(server.seen()[0].contains(&format!("authorization: Bearer {CANARY}\r\n")));
    assert!(!target.seen()[0].contains(CANARY), "{}", target.seen()[0]);

    let mut ask = get(&format!("http://user:{CANARY}@{}/a", server.address));
    for (name, value) in [("cookie", CANARY), ("private-token", CANARY), ("accept", "x/y")] {
        ask = with(ask, name, value);
    }
    let fetched = client.fetch(ask).await.expect("an answer");
    assert!(!fetched.url.as_str().contains(CANARY));
    assert!(server.seen()[1].contains(&format!("private-token: {CANARY}")));
    assert!(server.seen()[1].contains("authorization: Basic "));
    let arrived = target.seen()[1].to_lowercase();
    assert!(!arrived.contains(CANARY) && !arrived.contains("basic") && arrived.contains("accept: x/y"), "{arrived}");

    client.fetch(FetchAsk { trust: Trust::Client, ..get(&target.url("/direct")) }).await.expect("an answer");
    assert!(!target.seen()[2].contains(CANARY), "a client that names the origin gets no credential");
    client.fetch(get(&target.url("/direct"))).await.expect("an answer");
    assert!(target.seen()[3].contains(CANARY));
}

#[tokio::test]
async fn a_redirect_is_judged_like_a_host_that_a_client_named() {
    let inner = Server::start(|_, _| ok("private")).await;
    for location in [
        inner.url("/x"),
        format!("http://localhost:{}/x", inner.address.port()),
        format!("http://2130706433:{}/x", inner.address.port()),
        format!("http://[::ffff:127.0.0.1]:{}/x", inner.address.port()),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://0x7f.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let shown = location.clone();
        let server = Server::start(move |_, _| to(&location)).await;
        let error = client(settings()).fetch(get(&server.url("/"))).await.expect_err("refused");
        assert!(matches!(error, UpstreamError::Refused { .. }), "{shown}: {error}");
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn our_own_requests_and_bound_authentication_are_refused() {
    let server = Server::start(|_, _| ok("")).await;
    let client = client(settings());
    for (name, value) in [("via", "1.1 larder-test"), ("authorization", "NTLM TlRM"), ("authorization", "Negotiate x")]
    {
        let error = client.fetch(with(get(&server.url("/")), name, value)).await.expect_err("refused");
        assert!(matches!(error, UpstreamError::Refused { .. }), "{error}");
    }
    assert_eq!(server.connections(), 0);
    let via = client.via();
    assert!(client.is_looping(&HeaderMap::from_iter([(http::header::VIA, via)])));
}

#[tokio::test]
async fn no_error_and_no_statistic_shows_a_secret() {
    let server = Server::start(|request, _| {
        let location = format!("http://user:{CANARY}@10.0.0.1/");
        match request.split([' ', '?']).nth(1) {
            Some("/closes") => vec![Act::Close],
            Some("/short") => vec![send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"), Act::Close],
            Some("/away") => to(&location),
            Some("/proxy") => answer("407 Proxy Authentication Required", "", b""),
            _ => vec![send("nonsense\r\n\r\n"), Act::Close],
        }
    })
    .await;
    let client = client(settings());
    let mut shown = String::new();
    for path in ["/closes", "/short", "/away", "/proxy", "/nonsense"] {
        let url = format!("http://user:{CANARY}@{}{path}?token={CANARY}", server.address);
        match client.fetch(with(get(&url), "x-token", CANARY)).await {
            Ok(mut fetched) => {
                shown.push_str(&format!("{:?}", fetched.body));
                let (_, error) = read(&mut fetched).await.expect_err("short");
                shown.push_str(&format!("{error} {error:?}"));
            }
            Err(error) => shown.push_str(&format!("{error} {error:?}")),
        }
    }
    shown.push_str(&format!("{:?}", client.hosts()));
    assert!(!shown.contains(CANARY), "{shown}");
}
