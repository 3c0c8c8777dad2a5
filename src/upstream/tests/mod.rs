//! The client against servers that misbehave. Loopback alone, no fixed port, no sleep that is not tokio's paused one.

mod bodies;
mod egress;
mod health;
mod redirects;
mod server;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, Method};
use parking_lot::Mutex;
use url::Url;

use super::client::Client;
use super::fetch::{Fetch, FetchAsk, FetchBody, Fetched, Redirects, Resume, UpstreamError};
use super::resolve::Resolve;
use super::settings::{RetrySettings, Settings};
use crate::model::lookup::Trust;
use crate::model::party::Party;
use crate::model::time::Timestamp;
use crate::runtime::clock::{Clock, TokioClock};
use crate::runtime::tasks::Tasks;

/// A word that must never be seen where it was not sent on purpose.
const CANARY: &str = "canary-7f3a";

/// Settings for tests: nothing from the environment or the system, short pauses.
fn settings() -> Settings {
    let retry = RetrySettings { pause: Duration::ZERO, longest_pause: Duration::ZERO, ..RetrySettings::default() };
    let mut settings = Settings { retry, system_roots: false, node_id: Some("test".into()), ..Settings::default() };
    settings.proxy.from_env = false;
    settings
}

fn client(settings: Settings) -> Client {
    Client::new(settings, TokioClock::start(), Tasks::new()).expect("good settings")
}

/// A resolver that gives each question the next answer of a list, the last one for ever.
struct Fake {
    answers: Mutex<Vec<Vec<SocketAddr>>>,
    asked: AtomicUsize,
}

impl Fake {
    fn new(answers: &[&[SocketAddr]]) -> Arc<Fake> {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        Arc::new(Fake { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Fake {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Box::pin(async move { Ok(answer) })
    }
}

fn client_with(settings: Settings, resolver: Arc<dyn Resolve>) -> Client {
    Client::with_resolver(settings, TokioClock::start(), Tasks::new(), resolver).expect("good settings")
}

fn get(url: &str) -> FetchAsk {
    FetchAsk {
        method: Method::GET,
        url: Url::parse(url).expect("a url"),
        headers: HeaderMap::new(),
        body: FetchBody::Empty,
        trust: Trust::Configured,
        resume: Resume::ByRange,
        redirects: Redirects::Follow,
        party: Party::of(std::net::Ipv4Addr::LOCALHOST.into(), None),
        cause: None,
    }
}

fn with(mut ask: FetchAsk, name: &'static str, value: &str) -> FetchAsk {
    ask.headers.append(HeaderName::from_static(name), value.parse().expect("a value"));
    ask
}

/// The whole body, or what came of it and the error that ended it.
async fn read(fetched: &mut Fetched) -> Result<Vec<u8>, (Vec<u8>, UpstreamError)> {
    let mut all = Vec::new();
    while let Some(chunk) = fetched.body.chunk().await {
        match chunk {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return Err((all, error)),
        }
        assert!(all.len() < 64 << 20, "an endless body");
    }
    Ok(all)
}

async fn get_all(client: &Client, url: &str) -> Result<Vec<u8>, UpstreamError> {
    let mut fetched = client.fetch(get(url)).await?;
    read(&mut fetched).await.map_err(|(_, error)| error)
}
