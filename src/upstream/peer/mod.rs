//! Another larder that may have what is missing here, asked before the origins by larder's own API
//! (`proto/larder/node/v1`): what it keeps under a key, and bytes by their digest.
//!
//! It is no authority, as a parent is (`upstream/parent.rs`): of what it says only what is kept there counts, and whatever
//! fails costs at most its bound and is passed over. It asks nobody on our behalf.

pub mod link;
mod pieces;
pub mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use url::Url;

use self::link::{Link, Promise};
use self::pieces::Pieces;
use self::settings::PeerSettings;
use super::client::Client;
use super::fetch::{Fetch, FetchAsk, FetchBody, Fetched, FetchedBody, Redirects, Resume, UpstreamError};
use super::origin::Origin;
use super::secret::Secret;
use super::settings::{BreakerSettings, ProxySettings, Purpose, RetrySettings, Settings, SettingsError};
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::lookup::Trust;
use crate::model::node::{self, DescribeRequest, DescribeResponse, FindRequest, FindResponse, Frames, ReadRequest};
use crate::model::party::Party;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// What a question about a key may cost of a budget, in bytes: an entry with a usual head.
const QUESTION_BYTES: u64 = 4 << 10;
/// A body that comes slower is rather had from its origin.
const MINIMUM_RATE: u64 = 32 << 10;
/// How long one is left alone that would not have us, or that is no larder.
const REFUSED: Duration = Duration::from_secs(60);
/// After so many bodies in a row that did not come it is left alone: its answers to questions say nothing of its disk.
const BROKEN_READS: u64 = 2;
/// How long one is left alone that sent other bytes than it said.
const LIED: Duration = Duration::from_secs(600);

/// Another larder. A trait because simulation replaces it.
pub trait Peer: Send + Sync + 'static {
    fn name(&self) -> &str;

    /// What it keeps under a key. Empty: nothing, or it cannot be asked now.
    ///
    /// *Cancel*: the exchange is dropped.
    fn find(&self, key: KeyHash) -> BoxFuture<'_, Vec<node::Entry>>;

    /// The bytes of a blob, of which it said that it keeps `len`. Whether they are those bytes is for the caller to check.
    ///
    /// *Errors*: it does not lend them, or the link's budget is used up.
    fn read(&self, digest: Digest, len: u64) -> BoxFuture<'_, Result<FetchedBody, UpstreamError>>;

    /// How long a body of one piece may take.
    fn patience(&self) -> Duration;

    /// It sent other bytes than it said: it is left alone for a while.
    fn lied(&self);

    /// Says that a body did not come in time.
    fn stalled(&self);
}

/// What statistics show of a peer.
#[derive(Clone, Debug)]
pub struct PeerUse {
    pub name: String,
    pub link: String,
    pub found: u64,
    pub absent: u64,
    /// Questions without an answer, and bodies that broke or were not what was said.
    pub failed: u64,
    /// Not asked: left alone for a while, or its link's budget is used up.
    pub skipped: u64,
    pub bytes: u64,
    pub usd: f64,
    /// Of the link, and of what it may carry in a day.
    pub link_bytes_today: u64,
    pub link_budget: Option<u64>,
}

/// A peer behind a connection.
pub struct Sibling {
    name: String,
    settings: PeerSettings,
    base: Url,
    host: String,
    client: Client,
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    /// Until when it is left alone, by `Clock::elapsed`, and why.
    left_alone: Mutex<Option<(Duration, &'static str)>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    found: AtomicU64,
    absent: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    bytes: AtomicU64,
    /// Bodies in a row that did not come.
    broken_reads: AtomicU64,
}

/// What an answer that is none says of the one who gave it.
enum Why {
    /// A failure that may be over in a moment.
    Failed(String),
    /// It will say so again: what has to be changed.
    Refuses(&'static str),
    /// The thing is not there.
    Absent,
}

impl Sibling {
    /// Opens no socket. `direct`: the settings for upstreams, whose TLS and network policy hold here too.
    ///
    /// *Errors*: settings that cannot be carried out.
    pub fn new(
        name: &str,
        settings: PeerSettings,
        direct: &Settings,
        link: Arc<Link>,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
    ) -> Result<Arc<Sibling>, SettingsError> {
        let base = settings.check(name)?;
        let wrong = |why: String| SettingsError::Credential { origin: format!("peers.{name}"), why };
        let origin = Origin::of(&base).ok_or_else(|| wrong("its address names no host".to_owned()))?;
        let host = origin.target.to_string();
        let shown = match &settings.token {
            None => None,
            Some(source) => {
                let bearer = Secret::read(source).map_err(wrong)?.bearer();
                let bearer = bearer.ok_or_else(|| wrong("the token cannot stand in a field".to_owned()))?;
                Some((origin, AUTHORIZATION, bearer))
            }
        };
        let client = Client::showing(Sibling::client_settings(&settings, direct), clock.clone(), tasks, shown)?;
        let (left_alone, counts) = (Mutex::default(), Arc::default());
        let name = name.to_owned();
        Ok(Arc::new(Sibling { name, settings, base, host, client, link, clock, left_alone, counts }))
    }

    /// It is reached directly, and given up sooner than an origin: that one is still there.
    fn client_settings(peer: &PeerSettings, direct: &Settings) -> Settings {
        // Before the question as a whole is given up, so that the breaker hears of it.
        let limit = peer.timeout * 9 / 10;
        Settings {
            offline: false,
            http2: true,
            resolve_deadline: limit,
            connect_deadline: limit,
            handshake_deadline: limit,
            first_byte_deadline: limit,
            answer_deadline: limit,
            queue_deadline: limit,
            minimum_rate: direct.minimum_rate.max(MINIMUM_RATE),
            rate_window: limit,
            requests_per_host: direct.requests,
            retry: RetrySettings { attempts: 2, resumes: 0, ..direct.retry.clone() },
            breaker: BreakerSettings { failures: 2, ..direct.breaker.clone() },
            proxy: ProxySettings { from_env: false, ..ProxySettings::default() },
            credentials: Vec::new(),
            netrc: None,
            netrc_from_env: false,
            ca_file: peer.ca_file.clone().or_else(|| direct.ca_file.clone()),
            purpose: Purpose::Peer,
            ..direct.clone()
        }
    }

    /// Offline, it is not asked either.
    pub fn set_offline(&self, offline: bool) {
        self.client.set_offline(offline);
    }

    pub fn usage(&self) -> PeerUse {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerUse {
            name: self.name.clone(),
            link: self.link.name().to_owned(),
            found: read(&self.counts.found),
            absent: read(&self.counts.absent),
            failed: read(&self.counts.failed),
            skipped: read(&self.counts.skipped),
            bytes: read(&self.counts.bytes),
            usd: read(&self.counts.bytes) as f64 / 1e9 * self.settings.usd_per_gb,
            link_bytes_today: self.link.came_today().1,
            link_budget: self.settings.max_bytes_per_day,
        }
    }

    /// Asks who it is, and tells the operator what is wrong with it.
    pub async fn introduce(&self) {
        let Some(mut promise) = self.admitted(QUESTION_BYTES) else { return };
        let answer = self.asked::<DescribeResponse>(node::DESCRIBE, &DescribeRequest {}, &mut promise).await;
        let name = &self.name;
        match answer {
            Ok(DescribeResponse { version, region, key_form }) if key_form == node::KEY_FORM => {
                tracing::info!(peer = %name, version, region, "a peer is there");
            }
            Ok(DescribeResponse { version, .. }) => {
                tracing::warn!(peer = %name, version, "this peer names what it keeps in another way: it is of no use until both are one version");
            }
            Err(why) => self.note(why),
        }
    }

    /// Room for a question. None: it is not asked now.
    fn admitted(&self, bytes: u64) -> Option<Promise> {
        let now = self.clock.elapsed();
        if self.counts.broken_reads.load(Ordering::Relaxed) >= BROKEN_READS {
            self.counts.broken_reads.store(0, Ordering::Relaxed);
            self.leave_alone("the peer says what it keeps and does not lend it: see its log", REFUSED);
        }
        let rests = self.left_alone.lock().is_some_and(|(until, _)| now < until);
        let promise = if rests { None } else { self.link.promise(bytes, self.settings.max_bytes_per_day) };
        if promise.is_none() {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
        }
        promise
    }

    /// Whether it was left alone until now. Told once.
    fn has_rested(&self) -> bool {
        let now = self.clock.elapsed();
        self.left_alone.lock().take_if(|(until, _)| *until <= now).is_some()
    }

    fn leave_alone(&self, why: &'static str, rest: Duration) {
        let until = self.clock.elapsed() + rest;
        let mut left = self.left_alone.lock();
        let before = *left;
        // What is asked at the same moment makes no rest shorter.
        *left = Some(before.filter(|(known, _)| *known > until).unwrap_or((until, why)));
        drop(left);
        // Told once, not each minute.
        if before.is_none_or(|(_, known)| known != why) {
            tracing::warn!(peer = %self.name, url = %self.base, "{why}");
        }
    }

    fn note(&self, why: Why) {
        let counter = match why {
            Why::Absent => &self.counts.absent,
            Why::Failed(why) => {
                tracing::debug!(peer = %self.name, why, "going on without a peer");
                &self.counts.failed
            }
            Why::Refuses(why) => {
                self.leave_alone(why, REFUSED);
                &self.counts.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// One message asked, one answered, within the peer's time.
    async fn asked<M: prost::Message + Default>(
        &self,
        method: &str,
        question: &impl prost::Message,
        promise: &mut Promise,
    ) -> Result<M, Why> {
        let answer = async {
            let mut body = self.called(method, question).await?.body;
            let mut frames = Frames::up_to(node::FOUND_MAX_BYTES);
            let mut got = 0;
            while let Some(chunk) = body.chunk().await {
                let chunk = chunk.map_err(|error| Why::Failed(error.to_string()))?;
                got += chunk.len();
                if got > node::FOUND_MAX_BYTES {
                    return Err(Why::Failed("its answer is too large".to_owned()));
                }
                self.count(promise, &chunk);
                frames.push(&chunk);
            }
            let message = frames.take().map_err(|error| Why::Failed(error.to_string()))?;
            frames.end().map_err(|error| Why::Failed(error.to_string()))?;
            message.ok_or_else(|| Why::Failed("it ended without an answer".to_owned()))
        };
        let late = |_| Err(Why::Failed(format!("no answer within {:?}", self.settings.timeout)));
        let answer = tokio::time::timeout(self.settings.timeout, answer).await.unwrap_or_else(late);
        if answer.is_ok() && self.has_rested() {
            tracing::warn!(peer = %self.name, "the peer answers again");
        }
        answer
    }

    fn count(&self, promise: &mut Promise, chunk: &Bytes) {
        promise.came(chunk.len() as u64);
        self.counts.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }

    /// The head of a call that is answered with messages.
    async fn called(&self, method: &str, question: &impl prost::Message) -> Result<Fetched, Why> {
        let url = self.base.join(&format!("{}/{method}", node::SERVICE));
        let url = url.map_err(|error| Why::Failed(error.to_string()))?;
        let ask = FetchAsk {
            method: Method::POST,
            url,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(node::CONTENT_TYPE))]),
            body: FetchBody::Bytes(node::framed(question)),
            trust: Trust::Configured,
            resume: Resume::Never,
            redirects: Redirects::PassOn,
            party: Party::of(std::net::Ipv4Addr::LOCALHOST.into(), None),
            cause: None,
        };
        let fetched = self.client.fetch(ask).await.map_err(|error| Why::of_error(&error))?;
        match why_not(fetched.status, &fetched.headers) {
            None => Ok(fetched),
            Some(why) => Err(why),
        }
    }
}

impl Why {
    fn of_error(error: &UpstreamError) -> Why {
        match error {
            UpstreamError::Untrusted { .. } => Why::Refuses(
                "the peer's certificate is not trusted: put its authority, as `larder ca print` there prints it, into a \
                 file and name that by ca_file in [peers]",
            ),
            UpstreamError::Refused { .. } => Why::Refuses(
                "the peer's address is not allowed: see [upstream] deny, and whether it is this larder's own",
            ),
            error => Why::Failed(error.to_string()),
        }
    }
}

/// Why an answer is none. None: messages follow.
fn why_not(status: StatusCode, headers: &HeaderMap) -> Option<Why> {
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Some(Why::Refuses(
                "the peer does not take our token: make one there with `larder token create NAME --right read`, put it \
                 into a file, and name that by token in [peers]",
            ));
        }
        StatusCode::LOOP_DETECTED => {
            return Some(Why::Refuses("this peer is this very larder: take it out of [peers]"));
        }
        StatusCode::MISDIRECTED_REQUEST => {
            return Some(Why::Refuses("the peer does not know itself by this name: add it to public.names there"));
        }
        StatusCode::NOT_FOUND => {
            return Some(Why::Refuses("the peer does not know this API: it is older than this larder"));
        }
        other => return Some(Why::Failed(format!("it answered {other}"))),
    }
    let is_grpc =
        headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(node::CONTENT_TYPE.as_bytes()));
    if !is_grpc {
        return Some(Why::Refuses("what answers at the peer's address is no larder, or an old one"));
    }
    let code = headers.get(node::STATUS)?.to_str().unwrap_or_default();
    match code {
        "0" => None,
        "5" => Some(Why::Absent),
        code => Some(Why::Failed(format!("it answered with code {code}"))),
    }
}

impl Peer for Sibling {
    fn name(&self) -> &str {
        &self.name
    }

    fn find(&self, key: KeyHash) -> BoxFuture<'_, Vec<node::Entry>> {
        Box::pin(async move {
            let Some(mut promise) = self.admitted(QUESTION_BYTES) else { return Vec::new() };
            let question = FindRequest { keys: vec![Bytes::copy_from_slice(&key.0)] };
            match self.asked::<FindResponse>(node::FIND, &question, &mut promise).await {
                Ok(mut answer) => {
                    let entries = answer.found.pop().unwrap_or_default().entries;
                    let counter = if entries.is_empty() { &self.counts.absent } else { &self.counts.found };
                    counter.fetch_add(1, Ordering::Relaxed);
                    entries
                }
                Err(why) => {
                    self.note(why);
                    Vec::new()
                }
            }
        })
    }

    fn read(&self, digest: Digest, len: u64) -> BoxFuture<'_, Result<FetchedBody, UpstreamError>> {
        Box::pin(async move {
            let failed = |why: &str| UpstreamError::Unreachable { host: self.host.clone(), why: why.to_owned() };
            let Some(promise) = self.admitted(len) else { return Err(failed("the link's budget is used up")) };
            let question = ReadRequest { digest: Bytes::copy_from_slice(digest.as_bytes()), offset: 0, limit: 0 };
            let fetched = self.called(node::READ, &question).await.map_err(|why| {
                self.note(why);
                self.stalled();
                failed("it does not lend the bytes")
            })?;
            let pieces = Pieces {
                body: fetched.body,
                frames: Frames::up_to(node::PIECE + 16),
                promise,
                counts: self.counts.clone(),
                host: self.host.clone(),
                got: 0,
                len,
                wire: 0,
            };
            Ok(FetchedBody::new(futures_util::stream::unfold(Some(pieces), |pieces| async move {
                let mut pieces = pieces?;
                let piece = pieces.next().await?;
                let rest = piece.is_ok().then_some(pieces);
                Some((piece, rest))
            })))
        })
    }

    fn patience(&self) -> Duration {
        2 * self.settings.timeout
    }

    fn stalled(&self) {
        self.counts.broken_reads.fetch_add(1, Ordering::Relaxed);
    }

    fn lied(&self) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        self.leave_alone(
            "the peer sent other bytes than it said and is left alone for ten minutes: run `larder verify` there",
            LIED,
        );
    }
}
