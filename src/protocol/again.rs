//! Requests that come again byte for byte, answered without being taken apart: builds repeat themselves. What a head says
//! beside its target is judged once a connection, by the same rules as any request's; what a target was answered
//! with is kept as it was written, and given again while the decision behind it stands (`cache::standing`).
//!
//! Whoever asks is admitted anew each time: tokens end, and so does leave to ask a host.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};
use quick_cache::Weighter;
use quick_cache::sync::Cache as Kept;

use super::Peer;
use super::form::Form;
use super::front::{self, Answered, Front};
use super::gate::{Door, Right, heeded};
use super::hop::Asker;
use super::hosts::Nearness;
use super::label;
use super::observe::Ended;
use super::package::Upstreams;
use super::page;
use crate::cache::error::CacheError;
use crate::cache::policy::date;
use crate::cache::served::ServedBody;
use crate::cache::standing::{Standing, is_plain};
use crate::model::digest::Digest;
use crate::model::hop;
use crate::model::key::{Key, KeyHash};
use crate::model::outcome::Outcome;
use crate::model::time::Timestamp;

/// Fields that a head is allowed here; one with more is hyper's.
const FIELDS_MAX: usize = 64;
/// Memory for what is kept of packages' answers, roughly, in bytes; and what one takes beside its text.
const KEPT_BYTES: u64 = 8 << 20;
const OVERHEAD: u64 = 1536;
const COPIES: u64 = 2;
/// Answers to longer targets are not kept.
const LONGEST: usize = 2 << 10;

/// Fields that ask for more than an answer on a connection that stays.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    header::VIA,
    header::TE,
    header::UPGRADE,
    header::EXPECT,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    hop::ASKS,
];

/// All of a head but its request line, judged to ask for no more than its target.
pub struct Fields {
    bytes: Box<[u8]>,
    /// Those that tell who asks.
    heeded: HeaderMap,
    /// The build that the User-Agent names.
    agent: Option<Arc<str>>,
    /// The build that the last path named.
    path: Option<Arc<str>>,
    door: Door,
    /// What stands before a target within a tunnel.
    base: Option<Box<str>>,
}

/// An answer that can be given again as long as its decision stands.
pub(super) struct Ready {
    pub standing: Standing,
    pub outcome: Outcome,
    pub status: StatusCode,
    /// As they were sent.
    pub headers: HeaderMap,
    /// Index of the metric label.
    pub ecosystem: usize,
    pub key: Option<KeyHash>,
    pub source: Option<Arc<Key>>,
    pub digest: Option<Digest>,
    pub fetch_ms: u32,
    /// Status line and fields as they go over the wire, but for those of `Tail`.
    head: Bytes,
    /// Whether `Date` is among them.
    is_dated: bool,
    uri: Uri,
}

/// A whole answer to a request that came again.
pub struct Repeated {
    ready: Arc<Ready>,
    tail: Tail,
    body: Bytes,
    started: Duration,
    label: Option<Arc<str>>,
    /// Where it is not the one that is kept.
    uri: Option<Uri>,
}

/// The end of a head: `Age`, a `Date` where upstream gave none, the empty line.
struct Tail {
    bytes: [u8; 80],
    len: usize,
}

/// Answers below ecosystems' mounts that can be given again, by target. Bounded.
pub struct Packages {
    kept: Kept<Box<str>, Arc<Package>, Weigh>,
}

struct Package {
    ready: Arc<Ready>,
    /// What the route was made from.
    upstreams: Weak<Upstreams>,
    policy: u64,
    /// Hosts that the client named.
    hosts: Vec<String>,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Box<str>, Arc<Package>> for Weigh {
    fn weight(&self, target: &Box<str>, package: &Arc<Package>) -> u64 {
        OVERHEAD + COPIES * target.len() as u64 + package.ready.head.len() as u64
    }
}

impl Default for Packages {
    fn default() -> Packages {
        let items = usize::try_from(KEPT_BYTES / OVERHEAD).unwrap_or(usize::MAX);
        Packages { kept: Kept::with_weighter(items, KEPT_BYTES, Weigh) }
    }
}

impl Fields {
    /// Whether a head with this target, and with these bytes after its request line, is one of those that were judged.
    pub fn are(&self, target: &str, bytes: &[u8]) -> bool {
        *self.bytes == *bytes && target.starts_with('/') == (self.door != Door::Proxy)
    }
}

impl Ready {
    pub(super) fn new(standing: Standing, answered: &Answered, uri: &Uri) -> Ready {
        let (status, headers) = (answered.response.status(), answered.response.headers().clone());
        Ready {
            standing,
            outcome: answered.outcome,
            ecosystem: answered.ecosystem,
            key: answered.key,
            source: answered.source.clone(),
            digest: answered.digest,
            fetch_ms: answered.fetch_ms,
            head: written(status, &headers),
            is_dated: headers.contains_key(header::DATE),
            uri: uri.clone(),
            status,
            headers,
        }
    }
}

impl Repeated {
    /// What is still to be sent after `sent` bytes, in three pieces.
    pub fn rest(&self, sent: usize) -> [&[u8]; 3] {
        let mut left = sent;
        [&*self.ready.head, &self.tail.bytes[..self.tail.len], &*self.body].map(|piece| {
            let taken = left.min(piece.len());
            left -= taken;
            &piece[taken..]
        })
    }

    /// *Units*: bytes of the body among the first `sent` bytes.
    pub fn body_among(&self, sent: usize) -> u64 {
        sent.saturating_sub(self.wire_bytes() - self.body.len()) as u64
    }

    /// *Units*: bytes, of head and body.
    pub fn wire_bytes(&self) -> usize {
        self.ready.head.len() + self.tail.len + self.body.len()
    }
}

impl Tail {
    fn new(age: u64, date: Option<Timestamp>) -> Tail {
        let mut tail = Tail { bytes: [0; 80], len: 0 };
        tail.add(b"age: ");
        tail.add(itoa::Buffer::new().format(age).as_bytes());
        if let Some(now) = date {
            tail.add(b"\r\ndate: ");
            tail.add(date::format(now).as_bytes());
        }
        tail.add(b"\r\n\r\n");
        tail
    }

    fn add(&mut self, piece: &[u8]) {
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
    }
}

impl Front {
    /// Judges what a head says beside its target. None: such requests are not answered by `again`.
    pub(super) fn judged(&self, head: &[u8], peer: &Peer) -> Option<Fields> {
        let request = parsed(head)?;
        let form = self.form(&request, peer);
        if let Form::Connect | Form::Misdirected = form {
            return None;
        }
        let door = form.door();
        let caller = self.admitted(request.headers(), peer, Right::Read, door).ok()?;
        let inside = peer.inside.as_deref();
        let heeded = inside.map_or_else(|| heeded(request.headers()), |inside| inside.heeded().clone());
        let base = inside.map(|inside| Box::from(inside.base()));
        let mut headers = request.into_parts().0.headers;
        let agent = label::of_agent(&headers);
        let stays = headers
            .get_all(header::CONNECTION)
            .iter()
            .all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
        if !stays || page::is_any(&headers) || front::wants_html(&headers) {
            return None;
        }
        if OF_THE_CONNECTION.iter().any(|name| headers.contains_key(name)) {
            return None;
        }
        caller.strip.apply(&mut headers);
        let line = memchr::memchr(b'\n', head)?;
        let fields = Fields { bytes: head[line + 1..].into(), heeded, agent, path: None, door, base };
        is_plain(&Method::GET, &headers).then_some(fields)
    }

    /// What was answered before, if it may be answered again. None: `serve` has to see to it.
    pub(super) fn repeated(&self, target: &str, fields: &mut Fields, peer: &Peer) -> Option<Repeated> {
        let started = self.observers.clock.elapsed();
        let whole = fields.base.as_ref().map(|base| format!("{base}{target}"));
        let target = whole.as_deref().unwrap_or(target);
        let labelled = target.starts_with("/~");
        let path = if labelled { without_label(target, fields)? } else { target };
        let nearness = Nearness::of(peer.addr.ip());
        let ready = if fields.door != Door::Origin || path.starts_with("/http/") || path.starts_with("/https/") {
            let target = self.targets.known(path, &self.hosts)?;
            if !self.hosts.may_ask(&target.host, nearness) {
                return None;
            }
            target.ready().clone()?
        } else {
            self.package_again(path, nearness)?
        };
        let named = self.gate.admit_reader(&fields.heeded, &peer.addr, fields.door).ok()?;
        let again = self.cache.again(&ready.standing)?;
        let ServedBody::Bytes(body) = again.body else { return None };
        if Outcome::Hit(again.tier) != ready.outcome || body.len() as u64 != again.len || ready.head.is_empty() {
            return None;
        }
        let by_path = || if labelled { fields.path.clone() } else { None };
        let label = named.or_else(by_path).or_else(|| fields.agent.clone());
        let uri = if labelled { Some(Uri::try_from(target).ok()?) } else { None };
        let date = (!ready.is_dated).then(|| self.observers.clock.now());
        Some(Repeated { tail: Tail::new(again.age, date), ready, body, started, label, uri })
    }

    /// Writes down what became of an answer of which so many bytes of body were sent.
    pub(super) fn conclude(&self, answer: &Repeated, peer: &Peer, sent: u64) {
        let ready = &*answer.ready;
        let ended = Ended {
            started: answer.started,
            peer: peer.addr,
            label: answer.label.as_ref(),
            method: &Method::GET,
            uri: answer.uri.as_ref().unwrap_or(&ready.uri),
            asker: Asker::Client,
            status: ready.status.as_u16(),
            outcome: ready.outcome,
            ecosystem: ready.ecosystem,
            key: ready.key,
            source: ready.source.as_deref(),
            digest: ready.digest.as_ref(),
            fetch_ms: ready.fetch_ms,
        };
        let is_whole = sent == answer.body.len() as u64;
        self.observers.conclude(&ended, sent, if is_whole { None } else { Some(&CacheError::Abandoned) });
    }

    fn package_again(&self, path: &str, nearness: Nearness) -> Option<Arc<Ready>> {
        let package = self.packages.kept.get(path)?;
        let same = std::ptr::addr_eq(Arc::as_ptr(&self.upstreams.load()), package.upstreams.as_ptr());
        let may_ask = package.hosts.iter().all(|host| self.hosts.may_ask(host, nearness));
        (same && may_ask && package.policy == self.hosts.version()).then(|| package.ready.clone())
    }

    /// Keeps what a request below an ecosystem's mount was answered with. `hosts` are those that the client named.
    pub(super) fn keep_package(&self, upstreams: &Arc<Upstreams>, policy: u64, hosts: Vec<String>, ready: Ready) {
        let Some(target) = ready.uri.path_and_query().map(|target| target.as_str()) else { return };
        if target.len() > LONGEST || ready.head.is_empty() {
            return;
        }
        let target = Box::from(target);
        let package = Package { ready: Arc::new(ready), upstreams: Arc::downgrade(upstreams), policy, hosts };
        self.packages.kept.insert(target, Arc::new(package));
    }
}

/// The target without the build label in front, which `fields` remember: a connection belongs to one build.
fn without_label<'a>(target: &'a str, fields: &mut Fields) -> Option<&'a str> {
    let (label, path) = label::split(target)?;
    if fields.path.as_deref() != Some(label) {
        fields.path = Some(Arc::from(super::label::label_of(label)?));
    }
    // A label that is written otherwise than it is meant would be looked up each time.
    (fields.path.as_deref() == Some(label)).then_some(path)
}

/// *Shape*: None for what is no whole head of a GET by HTTP/1.1, and for one with very many fields.
fn parsed(head: &[u8]) -> Option<Request<()>> {
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut room);
    if parsed.parse(head).ok()? != httparse::Status::Complete(head.len()) {
        return None;
    }
    if parsed.method != Some("GET") || parsed.version != Some(1) {
        return None;
    }
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(request)
}

/// *Shape*: empty when the answer could not be given again as it is.
fn written(status: StatusCode, headers: &HeaderMap) -> Bytes {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        return Bytes::new();
    }
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        if name != header::AGE {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    Bytes::from(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_the_age_and_a_date_where_there_was_none() {
        let text = |tail: &Tail| String::from_utf8_lossy(&tail.bytes[..tail.len]).into_owned();
        assert_eq!(text(&Tail::new(0, None)), "age: 0\r\n\r\n");
        let longest = Tail::new(u64::MAX, Some(Timestamp::from_secs(1_793_620_800)));
        assert_eq!(text(&longest), "age: 18446744073709551615\r\ndate: Mon, 02 Nov 2026 12:00:00 GMT\r\n\r\n");
    }

    #[test]
    fn only_whole_heads_of_plain_requests_are_parsed() {
        let head = "GET /a HTTP/1.1\r\nHost: b\r\nX: y\r\nX: z\r\n\r\n";
        let request = parsed(head.as_bytes()).expect("a head");
        assert_eq!((request.uri().path(), request.headers().get_all("x").iter().count()), ("/a", 2));
        for odd in
            [&head[..head.len() - 2], &head.replace("GET", "HEAD"), &head.replace("1.1", "1.0"), &format!("{head}G")]
        {
            assert!(parsed(odd.as_bytes()).is_none(), "{odd:?}");
        }
    }

    #[test]
    fn a_head_is_written_as_it_was_sent() {
        let headers: HeaderMap = [(header::CONTENT_LENGTH, "3"), (header::AGE, "7"), (header::ETAG, "\"x\"")]
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        let head = written(StatusCode::OK, &headers);
        assert_eq!(head, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\netag: \"x\"\r\n".as_bytes());
        assert!(written(StatusCode::OK, &HeaderMap::new()).is_empty(), "a length that is not known cannot be kept to");
    }
}
