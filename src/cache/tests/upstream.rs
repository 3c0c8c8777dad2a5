//! A scripted upstream: what it answers stands in the test, chunk by chunk; gates hold chunks back until the test
//! opens them. No sockets, no clock of its own.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::runtime::clock::{Clock, ManualClock};
use crate::upstream::fetch::{Fetch, FetchAsk, Fetched, FetchedBody, Opened, TunnelAsk, UpstreamError};

/// Holds back what comes after it.
#[derive(Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    reached: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub fn new() -> Gate {
        Gate { open: Arc::new(watch::Sender::new(false)), reached: Arc::new(watch::Sender::new(false)) }
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until someone stands before it.
    pub async fn reached(&self) {
        self.reached.subscribe().wait_for(|reached| *reached).await.expect("the gate stands");
    }

    async fn pass(&self) {
        self.reached.send_replace(true);
        self.open.subscribe().wait_for(|open| *open).await.expect("the gate stands");
    }
}

/// One answer.
#[derive(Clone)]
pub struct Script {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    chunk: usize,
    /// Before the head.
    held: Option<Gate>,
    /// Before the byte at an offset.
    gates: Vec<(usize, Gate)>,
    breaks_at: Option<usize>,
    framing: Framed,
    ranges: bool,
    unreachable: bool,
    panics: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framed {
    Length,
    Chunked,
    Closing,
    /// A length that is not the body's.
    Lie(u64),
}

impl Script {
    pub fn new(status: u16, body: impl Into<Bytes>) -> Script {
        Script {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
            chunk: 16 << 10,
            held: None,
            gates: Vec::new(),
            breaks_at: None,
            framing: Framed::Length,
            ranges: false,
            unreachable: false,
            panics: false,
        }
    }

    pub fn ok(body: impl Into<Bytes>) -> Script {
        Script::new(200, body)
    }

    pub fn unreachable() -> Script {
        Script { unreachable: true, ..Script::new(500, "") }
    }

    pub fn panicking() -> Script {
        Script { panics: true, ..Script::new(500, "") }
    }

    pub fn with(mut self, name: HeaderName, value: &'static str) -> Script {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// A strong ETag, and parts of the body for who asks for them.
    pub fn tagged(mut self, etag: &'static str) -> Script {
        self.ranges = true;
        self.with(header::ETAG, etag)
    }

    pub fn held(mut self, gate: &Gate) -> Script {
        self.held = Some(gate.clone());
        self
    }

    pub fn gate(mut self, at: usize, gate: &Gate) -> Script {
        self.gates.push((at, gate.clone()));
        self
    }

    pub fn breaks_at(mut self, at: usize) -> Script {
        self.breaks_at = Some(at);
        self
    }

    pub fn chunked(mut self) -> Script {
        self.framing = Framed::Chunked;
        self
    }

    pub fn closing(mut self) -> Script {
        self.framing = Framed::Closing;
        self
    }

    pub fn says_len(mut self, len: u64) -> Script {
        self.framing = Framed::Lie(len);
        self
    }

    fn answer(&self, ask: &FetchAsk) -> (StatusCode, HeaderMap, usize) {
        let mut headers = self.headers.clone();
        let etag = headers.get(header::ETAG).cloned();
        if etag.is_some() && ask.headers.get(header::IF_NONE_MATCH) == etag.as_ref() {
            return (StatusCode::NOT_MODIFIED, headers, self.body.len());
        }
        let status = StatusCode::from_u16(self.status).expect("a status");
        let range = ask.headers.get(header::RANGE).filter(|_| self.ranges).and_then(|range| range.to_str().ok());
        let holds = ask.headers.get(header::IF_RANGE).is_none_or(|tag| Some(tag) == etag.as_ref());
        let Some(range) = range.filter(|_| holds) else { return (status, headers, 0) };
        let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
        assert!(last.is_empty(), "the engine asks for rests");
        let first: usize = first.parse().expect("a number");
        let value = format!("bytes {first}-{}/{}", self.body.len() - 1, self.body.len());
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&value).expect("a value"));
        (StatusCode::PARTIAL_CONTENT, headers, first)
    }

    fn stream(self, from: usize) -> impl futures_util::Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static {
        futures_util::stream::unfold((self, Some(from)), |(script, at)| async move {
            let at = at?;
            for (_, gate) in script.gates.iter().filter(|(before, _)| *before == at) {
                gate.pass().await;
            }
            if script.breaks_at == Some(at) {
                let host = "upstream.test".to_owned();
                let broken = UpstreamError::Truncated { host, got: at as u64, expected: "more".into() };
                return Some((Err(broken), (script, None)));
            }
            let stops = script.gates.iter().map(|(at, _)| *at).chain(script.breaks_at).filter(|stop| *stop > at);
            let end = stops.chain([at + script.chunk, script.body.len()]).min().unwrap_or(at);
            (at < end).then(|| (Ok(script.body.slice(at..end)), (script, Some(end))))
        })
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
}

impl Asked {
    pub fn field(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Answers by path: each script once and in order, the last one from then on.
pub struct Upstream {
    scripts: Mutex<HashMap<String, Vec<Script>>>,
    asked: Mutex<Vec<Asked>>,
    clock: Arc<ManualClock>,
}

impl Upstream {
    pub fn new(clock: Arc<ManualClock>) -> Arc<Upstream> {
        Arc::new(Upstream { scripts: Mutex::default(), asked: Mutex::default(), clock })
    }

    /// What is answered from now on, in this order.
    pub fn answers(&self, path: &str, scripts: impl IntoIterator<Item = Script>) {
        self.scripts.lock().insert(path.to_owned(), scripts.into_iter().collect());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    pub fn asks(&self, path: &str) -> usize {
        self.asked.lock().iter().filter(|asked| asked.path == path).count()
    }
}

impl Fetch for Upstream {
    fn fetch(&self, ask: FetchAsk) -> BoxFuture<'_, Result<Fetched, UpstreamError>> {
        Box::pin(async move {
            let path = ask.url.path().to_owned();
            self.asked.lock().push(Asked { path: path.clone(), headers: ask.headers.clone() });
            let script = {
                let mut scripts = self.scripts.lock();
                let queue = scripts.get_mut(&path).unwrap_or_else(|| panic!("nothing stands for {path}"));
                if queue.len() > 1 { queue.remove(0) } else { queue[0].clone() }
            };
            assert!(!script.panics, "as the script says");
            let requested_at = self.clock.now();
            if let Some(gate) = &script.held {
                gate.pass().await;
            }
            if script.unreachable {
                return Err(UpstreamError::Unreachable { host: "upstream.test".into(), why: "it is down".into() });
            }
            let (status, headers, from) = script.answer(&ask);
            let whole = script.body.len() as u64;
            let len = match script.framing {
                Framed::Length => Some(whole - from as u64),
                Framed::Lie(len) => Some(len),
                Framed::Chunked | Framed::Closing => None,
            };
            let closing = script.framing == Framed::Closing;
            let stream = script.stream(from).boxed();
            let body = if closing { FetchedBody::until_close(stream) } else { FetchedBody::new(stream) };
            let received_at = self.clock.now();
            let url = ask.url;
            let reached = Some(std::net::Ipv4Addr::LOCALHOST.into());
            let version = Version::HTTP_11;
            Ok(Fetched { status, version, headers, len, body, url, reached, requested_at, received_at })
        })
    }

    fn judge<'a>(
        &'a self,
        _: &'a url::Url,
        _: crate::model::lookup::Trust,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn tunnel<'a>(&'a self, _: TunnelAsk<'a>) -> BoxFuture<'a, Result<Opened, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::Offline) })
    }
}
