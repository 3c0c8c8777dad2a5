//! The engine over a real store and index, with a scripted upstream and a clock that stands still.

mod coalescing;
mod evicting;
mod failing;
mod freshness;
mod full;
mod healing;
mod origins;
mod parking;
mod peers;
mod proofs;
mod ranges;
mod records;
mod remote;
mod sharing;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha2::Digest as _;
use tempfile::TempDir;
use url::Url;

pub(super) use self::upstream::{Gate, Script, Upstream};
use super::error::CacheError;
use super::served::{Ask, Framing, Part, Partiality, Served};
use super::{Cache, Parts};
use crate::index::Index;
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::key::Key;
use crate::model::lookup::{Expect, Fallback, Freshness, Lookup, Origin, Origins, Trust};
use crate::model::outcome::Outcome;
use crate::model::party::Party;
use crate::model::realm::Scope;
use crate::model::time::Timestamp;
use crate::runtime::clock::ManualClock;
use crate::runtime::tasks::Tasks;
use crate::store::fault::FaultFiles;
use crate::store::s3::tests::fake::Fake;
use crate::store::{Settings, Store};
use crate::upstream::peer::Peer;

pub(super) const MIB: usize = 1 << 20;

/// A data directory, and the engine over it.
pub(super) struct Bed {
    pub cache: Cache,
    pub store: Store,
    pub index: Index,
    pub upstream: Arc<Upstream>,
    pub clock: Arc<ManualClock>,
    pub files: FaultFiles,
    pub tasks: Tasks,
    pub settings: Settings,
    /// The bucket that is shared.
    pub fake: Option<Arc<Fake>>,
    pub dir: TempDir,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with(Settings {
            max_bytes: Some(1 << 30),
            segment_bytes: 1 << 20,
            min_free_percent: 0,
            ..Settings::default()
        })
    }

    pub fn with(settings: Settings) -> Bed {
        let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
        let dir = tempfile::tempdir().expect("a directory");
        Bed::over(dir, settings, FaultFiles::default(), Upstream::new(clock.clone()), clock, None, Vec::new())
    }

    /// With others that may be asked before upstream.
    pub fn beside(peers: Vec<Arc<dyn Peer>>) -> Bed {
        let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
        let dir = tempfile::tempdir().expect("a directory");
        let settings = Settings { max_bytes: Some(1 << 30), min_free_percent: 0, ..Settings::default() };
        Bed::over(dir, settings, FaultFiles::default(), Upstream::new(clock.clone()), clock, None, peers)
    }

    fn over(
        dir: TempDir,
        settings: Settings,
        files: FaultFiles,
        upstream: Arc<Upstream>,
        clock: Arc<ManualClock>,
        fake: Option<Arc<Fake>>,
        peers: Vec<Arc<dyn Peer>>,
    ) -> Bed {
        let store = Store::open(dir.path(), &settings, Arc::new(files.clone()), clock.clone()).expect("a store");
        let adopting = store.clone();
        let on_place = Box::new(move |_: &_, place: &_, class| adopting.adopt([(*place, class)]));
        let outbox_max_bytes = fake.as_ref().map(|_| 1 << 30);
        let about = crate::index::Settings { outbox_max_bytes, ..crate::index::Settings::default() };
        let index = Index::open(dir.path(), &about, clock.clone(), on_place);
        let index = index.expect("an index");
        let tasks = Tasks::new();
        let parts = Parts {
            store: store.clone(),
            index: index.clone(),
            fetch: upstream.clone(),
            peers,
            clock: clock.clone(),
            tasks: tasks.clone(),
            bucket: fake.as_ref().map(|fake| remote::bucket(fake, clock.clone())),
            ledger: crate::cache::usage::Settings::default(),
        };
        Bed { cache: Cache::new(parts), store, index, upstream, clock, files, tasks, settings, fake, dir }
    }

    /// Ends in order and starts anew over the same directory.
    pub async fn restart(self) -> Bed {
        let Bed { cache, store, index, upstream, clock, files, tasks, settings, fake, dir } = self;
        drop((cache, store));
        tasks.stop();
        tasks.drain(Duration::from_secs(10)).await;
        index.close().await;
        drop(index);
        let bed = Bed::over(dir, settings, files, upstream, clock, fake, Vec::new());
        bed.index.loaded().await;
        bed
    }

    pub async fn get(&self, lookup: &Lookup) -> Result<Served, CacheError> {
        Client::default().get(self, lookup).await
    }

    /// The whole answer.
    pub async fn fetch(&self, lookup: &Lookup) -> (Outcome, u16, Bytes) {
        let served = self.get(lookup).await.expect("an answer");
        let (outcome, status) = (served.outcome, served.status);
        (outcome, status, served.into_bytes(u64::MAX).await.expect("a whole body"))
    }

    /// What came, and how it ended: a fill may fail before its head is passed on.
    pub async fn attempt(&self, lookup: &Lookup) -> (Vec<u8>, Option<CacheError>) {
        Client::default().attempt(self, lookup).await
    }

    pub fn advance(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// What the index keeps of a key.
    pub async fn kept(&self, lookup: &Lookup) -> usize {
        let found = self.index.candidates(&lookup.key.hash()).await.expect("the index answers");
        found.map_or(0, |found| found.len())
    }
}

/// Who asks, and how.
#[derive(Clone)]
pub(super) struct Client {
    pub from: std::net::IpAddr,
    pub headers: HeaderMap,
    pub identity: Option<&'static str>,
    pub closing: bool,
}

impl Default for Client {
    fn default() -> Client {
        let from = std::net::Ipv4Addr::LOCALHOST.into();
        Client { from, headers: HeaderMap::new(), identity: None, closing: false }
    }
}

impl Client {
    pub fn with(mut self, name: HeaderName, value: &'static str) -> Client {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    pub fn known_as(mut self, identity: &'static str) -> Client {
        self.identity = Some(identity);
        self.with(http::header::AUTHORIZATION, identity)
    }

    pub async fn get(&self, bed: &Bed, lookup: &Lookup) -> Result<Served, CacheError> {
        self.ask(&bed.cache, lookup).await
    }

    pub async fn attempt(&self, bed: &Bed, lookup: &Lookup) -> (Vec<u8>, Option<CacheError>) {
        match self.get(bed, lookup).await {
            Ok(served) => drain(served).await,
            Err(error) => (Vec::new(), Some(error)),
        }
    }

    pub async fn ask(&self, cache: &Cache, lookup: &Lookup) -> Result<Served, CacheError> {
        let url = url("/asked");
        let ask = Ask {
            lookup,
            hash: lookup.key.hash(),
            method: &Method::GET,
            headers: &self.headers,
            url: &url,
            identity: self.identity.map(Into::into),
            label: Arc::from("test"),
            party: &Party::of(self.from, None),
            partial: Partiality::Allowed,
            framing: if self.closing { Framing::Closing } else { Framing::Marked },
        };
        cache.serve(&ask).await
    }
}

pub(super) fn url(path: &str) -> Url {
    Url::parse("https://upstream.test").and_then(|base| base.join(path)).expect("an address")
}

pub(super) fn origin(path: &str, next: Fallback) -> Origin {
    Origin { url: url(path), next, trust: Trust::Configured }
}

fn lookup(path: &str, ecosystem: &'static str, freshness: Freshness) -> Lookup {
    Lookup {
        key: Key {
            scope: Scope::shared(),
            ecosystem,
            upstream: "https://upstream.test".into(),
            path: path.into(),
            variant: String::new(),
        },
        origins: Origins::Listed(vec![origin(path, Fallback::OnAbsence)]),
        freshness,
        expect: Expect::Nothing,
        rewrite: None,
        max_bytes: 1 << 30,
        forward: Vec::new(),
        stand_in: None,
        alias: None,
    }
}

/// A thing that never changes.
pub(super) fn immutable(path: &str) -> Lookup {
    lookup(path, "cargo", Freshness::Immutable)
}

/// A document that is fresh for a minute and of use in an outage for an hour.
pub(super) fn document(path: &str) -> Lookup {
    let minute = Duration::from_secs(60);
    lookup(path, "cargo", Freshness::Revalidate { fresh_for: minute, stale_if_error: 60 * minute })
}

/// As its own headers say.
pub(super) fn http(path: &str) -> Lookup {
    lookup(path, "http", Freshness::Http)
}

pub(super) fn expecting(mut lookup: Lookup, bytes: &[u8]) -> Lookup {
    lookup.expect = Expect::Sum(sha256(bytes));
    lookup
}

pub(super) fn sha256(bytes: &[u8]) -> Checksum {
    Checksum::new(Algorithm::Sha256, &sha2::Sha256::digest(bytes)).expect("a sum")
}

/// Bytes that look like nothing, the same for the same seed.
pub(super) fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

/// Reads on until `upto` bytes are there, or the body has ended.
pub(super) async fn read_some(served: &mut Served, into: &mut Vec<u8>, upto: usize) {
    while into.len() < upto {
        match chunk(served).await {
            Some(Ok(chunk)) => into.extend_from_slice(&chunk),
            Some(Err(error)) => panic!("the body broke: {error}"),
            None => return,
        }
    }
}

pub(super) async fn chunk(served: &mut Served) -> Option<Result<Bytes, CacheError>> {
    std::future::poll_fn(|context| served.body.poll_chunk(context)).await
}

/// Reads to the end, clean or not.
pub(super) async fn drain(mut served: Served) -> (Vec<u8>, Option<CacheError>) {
    let mut bytes = Vec::new();
    loop {
        match chunk(&mut served).await {
            Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
            Some(Err(error)) => return (bytes, Some(error)),
            None => return (bytes, None),
        }
    }
}

/// Waits for what happens on other threads.
pub(super) async fn until(what: impl Fn() -> bool) {
    for _ in 0..50_000_000 {
        if what() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not happen");
}

pub(super) fn is_part(served: &Served, start: u64, end: u64) -> bool {
    matches!(served.part, Part::Range(range) if (range.start, range.end) == (start, end))
}
