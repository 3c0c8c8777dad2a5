//! Retries within their budget, breakers that open and heal, hosts that ask for rest, offline.

use http::{Method, StatusCode};

use super::server::{Act, Server, answer, ok};
use super::*;
use crate::runtime::clock::ManualClock;
use crate::upstream::hosts::Health;
use crate::upstream::settings::BreakerSettings;

/// A breaker that stays out of the way.
fn patient() -> Settings {
    let breaker = BreakerSettings { failures: 100_000, ..BreakerSettings::default() };
    Settings { breaker, ..settings() }
}

#[tokio::test]
async fn what_cannot_harm_is_asked_again() {
    for first in [vec![Act::Close], vec![Act::Reset], answer("502 Bad Gateway", "", b"x"), answer("503 x", "", b"")] {
        let server = Server::start(move |_, nth| if nth < 2 { first.clone() } else { ok("third") }).await;
        let client = client(settings());
        assert_eq!(get_all(&client, &server.url("/")).await.expect("in the end"), b"third");
        assert_eq!((server.seen().len(), client.hosts()[0].retries), (3, 2));
    }
    for first in [vec![Act::Close], answer("502 Bad Gateway", "", b"x")] {
        let server = Server::start(move |_, _| first.clone()).await;
        let ask = FetchAsk { method: Method::POST, ..get(&server.url("/")) };
        let status = client(settings()).fetch(ask).await.ok().map(|fetched| fetched.status.as_u16());
        assert!(matches!(status, None | Some(502)));
        assert_eq!(server.seen().len(), 1, "a POST is sent once");
    }
    let put = Server::start(|_, nth| if nth == 0 { vec![Act::Close] } else { ok("kept") }).await;
    let bytes = FetchBody::Bytes("content".into());
    let ask = FetchAsk { method: Method::PUT, body: bytes, ..get(&put.url("/")) };
    client(settings()).fetch(ask).await.expect("a PUT from memory is asked again");
    assert!(put.seen()[1].ends_with("content"));
}

#[tokio::test]
async fn the_last_bad_answer_is_returned_as_it_is() {
    let server = Server::start(|_, _| answer("503 Busy", "x-why: tired\r\n", b"later")).await;
    let mut fetched = client(settings()).fetch(get(&server.url("/"))).await.expect("an answer");
    assert_eq!(fetched.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fetched.headers["x-why"], "tired");
    assert_eq!(read(&mut fetched).await.expect("whole"), b"later");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn retries_add_at_most_a_tenth_beyond_the_reserve() {
    let server = Server::start(|_, _| answer("500 x", "", b"")).await;
    let client = Client::new(patient(), ManualClock::at(Timestamp(0)), Tasks::new()).expect("good settings");
    for _ in 0..200 {
        client.fetch(get(&server.url("/"))).await.expect("an answer");
    }
    let attempts = server.seen().len();
    assert!((200..=200 + 20 + 10).contains(&attempts), "{attempts}");
}

#[tokio::test]
async fn a_breaker_opens_and_heals() {
    let well = Arc::new(AtomicUsize::new(0));
    let healthy = well.clone();
    let server =
        Server::start(move |_, _| if healthy.load(Ordering::SeqCst) == 1 { ok("well") } else { vec![Act::Close] })
            .await;
    let clock = ManualClock::at(Timestamp(0));
    let client = Client::new(settings(), clock.clone(), Tasks::new()).expect("good settings");
    for _ in 0..5 {
        let _ = client.fetch(get(&server.url("/"))).await;
    }
    let attempts = server.seen().len();
    assert_eq!(attempts, 5, "failures count, retries included");
    let error = client.fetch(get(&server.url("/"))).await.expect_err("open");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
    assert!(matches!(client.hosts()[0].health, Health::Resting(_)));
    assert_eq!(server.seen().len(), attempts, "it is left alone");
    clock.advance(Duration::from_secs(5));
    client.fetch(get(&server.url("/"))).await.expect_err("the probe fails");
    assert_eq!(server.seen().len(), attempts + 1, "one probe, no retry");
    well.store(1, Ordering::SeqCst);
    clock.advance(Duration::from_secs(10));
    assert_eq!(get_all(&client, &server.url("/")).await.expect("well again"), b"well");
    assert_eq!(client.hosts()[0].health, Health::Well);
}

#[tokio::test]
async fn bodies_that_break_open_it_too() {
    let server =
        Server::start(|_, _| vec![super::server::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"), Act::Close])
            .await;
    let client = client(settings());
    let mut opened = false;
    for _ in 0..20 {
        match client.fetch(get(&server.url("/"))).await {
            Ok(mut fetched) => assert!(read(&mut fetched).await.is_err()),
            Err(error) => {
                assert!(matches!(error, UpstreamError::Resting { .. }), "{error}");
                opened = true;
            }
        }
    }
    assert!(opened);
}

#[tokio::test]
async fn a_host_that_asks_for_rest_is_left_alone() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let server = Server::start(move |_, nth| match nth {
            0 => answer(status, "retry-after: 30\r\n", b""),
            _ => ok("rested"),
        })
        .await;
        let clock = ManualClock::at(Timestamp(0));
        let client = Client::new(settings(), clock.clone(), Tasks::new()).expect("good settings");
        let fetched = client.fetch(get(&server.url("/"))).await.expect("the answer itself");
        assert_eq!(fetched.headers["retry-after"], "30");
        let error = client.fetch(get(&server.url("/"))).await.expect_err("resting");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
        assert_eq!(server.seen().len(), 1);
        clock.advance(Duration::from_secs(30));
        assert_eq!(get_all(&client, &server.url("/")).await.expect("rested"), b"rested");
    }
}

#[tokio::test]
async fn a_place_is_held_to_the_end_of_the_body() {
    let server = Server::start(|_, _| ok("hello")).await;
    let client = client(Settings { requests_per_host: 1, queue_per_host: 0, ..settings() });
    let mut first = client.fetch(get(&server.url("/"))).await.expect("a head");
    let error = client.fetch(get(&server.url("/"))).await.expect_err("full");
    assert!(matches!(error, UpstreamError::Crowded { .. }), "{error}");
    assert_eq!(client.hosts()[0].in_flight, 1);
    read(&mut first).await.expect("whole");
    client.fetch(get(&server.url("/"))).await.expect("free again");
}

#[tokio::test]
async fn offline_nothing_is_asked() {
    let server = Server::start(|_, _| ok("hello")).await;
    let client = client(settings());
    client.set_offline(true);
    assert!(matches!(client.fetch(get(&server.url("/"))).await, Err(UpstreamError::Offline)));
    assert!(matches!(client.tunnel("a.test", 443, Trust::Configured).await, Err(UpstreamError::Offline)));
    assert_eq!(server.connections(), 0);
    client.set_offline(false);
    assert_eq!(get_all(&client, &server.url("/")).await.expect("online"), b"hello");
    client.reload(Settings { offline: true, ..settings() }).expect("good settings");
    assert!(matches!(client.fetch(get(&server.url("/"))).await, Err(UpstreamError::Offline)));
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_drains() {
    let server = Server::start(|_, _| ok("hello")).await;
    let tasks = Tasks::new();
    let client = Client::new(settings(), TokioClock::start(), tasks.clone()).expect("good settings");
    get_all(&client, &server.url("/")).await.expect("whole");
    assert!(tasks.running() > 0);
    tasks.stop();
    assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
    get_all(&client, &server.url("/")).await.expect("still asked, nothing kept");
    assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_connection_that_went_stale_is_nobodys_fault() {
    // Each connection answers once and is cut when it is asked again.
    let server = Server::start(|_, nth| if nth % 2 == 0 { ok("well") } else { vec![Act::Close] }).await;
    let client = client(settings());
    for _ in 0..12 {
        assert_eq!(get_all(&client, &server.url("/")).await.expect("an answer"), b"well");
        tokio::task::yield_now().await;
    }
    let usage = client.hosts().remove(0);
    assert_eq!((usage.health, usage.failures, usage.retries), (Health::Well, 0, 0));
    let post = || FetchAsk { method: Method::POST, ..get(&server.url("/")) };
    assert!(client.fetch(post()).await.is_err(), "what may harm is not repeated");
}
