//! Few keys, put again and again, each answer followed by a flush: what a server promised, version by version, and what
//! it still has of that after it was killed. Every second key is a document that is asked for anew each time, many
//! keys hold the same bytes, and some of those are none.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::body::Body;
use super::client::{Ask, Reply};
use super::resource::{Content, Resource};
use super::seed::Chance;
use super::server::Server;
use super::upstream::Upstream;

/// Lengths at the borders of what is stored how: nothing, segments, files.
const LENS: [u64; 8] = [0, 0, 1, 700, 5_000, 65_536, 65_537, 90_000];
/// Bodies of each length: few, so that keys share them.
const BODIES: u64 = 3;
/// Documents of each worker.
const DOCUMENTS: u64 = 4;

/// What an upstream has, and what a server promised to have.
pub struct Promises {
    pub upstream: Upstream,
    seed: u64,
    /// The version that stands upstream, by path. A path has one worker, so that versions rise.
    put: Mutex<BTreeMap<String, u64>>,
    /// The version that a server answered with before it answered a flush.
    promised: Mutex<BTreeMap<String, u64>>,
    /// Promises made by the server that runs now.
    made: AtomicU64,
    wrong: AtomicU64,
}

impl Promises {
    pub fn new(seed: u64) -> Promises {
        Promises {
            upstream: Upstream::start(),
            seed,
            put: Mutex::default(),
            promised: Mutex::default(),
            made: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        }
    }

    pub fn len(&self) -> usize {
        self.promised.lock().expect("no panic while locked").len()
    }

    /// Answers that ended cleanly with other bytes than the upstream's.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }

    pub fn begin_life(&self) {
        self.made.store(0, Ordering::Relaxed);
    }

    /// Promises of this life so far: whoever kills the server waits for one more.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    fn body(&self, path: &str, version: u64) -> Body {
        let mut chance = Chance::from_seed(self.seed ^ version);
        let path = path.bytes().fold(chance.next(), |all, byte| all.rotate_left(7) ^ u64::from(byte));
        let mut chance = Chance::from_seed(path);
        let len = *chance.pick(&LENS);
        Body::new(self.seed.wrapping_add(chance.below(BODIES)), len)
    }

    /// Puts the next version of a path.
    fn put(&self, path: &str) {
        let mut put = self.put.lock().expect("no panic while locked");
        let version = put.get(path).map_or(1, |version| version + 1);
        let body = self.body(path, version);
        let lifetime = if path.starts_with("/document/") { "max-age=0" } else { "max-age=86400" };
        let resource = Resource { content: Content::Seed(body), ..Resource::seed(body.seed, body.len) }
            .header("etag", format!("\"{version}\""))
            .header("cache-control", lifetime);
        // Upstream first: who reads the number finds what it names.
        self.upstream.put(path, resource);
        put.insert(path.to_owned(), version);
    }

    /// The version in an answer. None: no complete answer.
    fn version(&self, path: &str, reply: &Reply) -> Option<u64> {
        if reply.status != 200 || !reply.clean {
            return None;
        }
        let version = reply.header("etag").and_then(|etag| etag.trim_matches('"').parse().ok());
        let right = version.is_some_and(|version| reply.digest == self.body(path, version).digest());
        if !right {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
        version.filter(|_| right)
    }

    /// Keeps `workers` asking and flushing until `stop`.
    pub fn traffic(&self, to: SocketAddr, workers: u64, cycle: u64, stop: &AtomicBool) {
        std::thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || {
                    let mut chance = Chance::from_seed(self.seed ^ (cycle << 20) ^ (worker << 10));
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        let path = match chance.below(2) {
                            0 => format!("/document/{worker}/{}", chance.below(DOCUMENTS)),
                            _ => format!("/object/{worker}/{cycle}/{number}"),
                        };
                        self.exchange(to, &path, &mut chance);
                    }
                });
            }
        });
    }

    /// One answer and one flush; what both ended cleanly is promised.
    fn exchange(&self, to: SocketAddr, path: &str, chance: &mut Chance) {
        let known = self.put.lock().expect("no panic while locked").contains_key(path);
        if !known || chance.below(3) > 0 {
            self.put(path);
        }
        let Ok(reply) = Ask::get(self.upstream.mirror(path)).send(to) else { return };
        let Some(version) = self.version(path, &reply) else { return };
        let Ok(flushed) = Ask::get("/api/v1/flush").method("POST").send(to) else { return };
        if (200..300).contains(&flushed.status) && flushed.clean {
            let mut promised = self.promised.lock().expect("no panic while locked");
            let least = promised.entry(path.to_owned()).or_default();
            *least = version.max(*least);
            drop(promised);
            self.made.fetch_add(1, Ordering::Release);
        }
    }

    /// Asks a server that may not ask upstream for the documents, the newest objects, and some of the others. Returns
    /// what was not kept.
    pub fn check(&self, server: &Server, chance: &mut Chance) -> Vec<String> {
        let promised = self.promised.lock().expect("no panic while locked").clone();
        let (documents, objects): (Vec<_>, Vec<_>) =
            promised.into_iter().partition(|(path, _)| path.starts_with("/document/"));
        let cycle_of = |path: &str| path.split('/').nth(3).and_then(|cycle| cycle.parse::<u64>().ok());
        let newest = objects.iter().filter_map(|(path, _)| cycle_of(path)).max();
        let few = |path: &str, chance: &mut Chance| cycle_of(path) == newest || chance.below(objects.len() as u64) < 30;
        let asked: Vec<_> = objects.iter().filter(|(path, _)| few(path, chance)).chain(&documents).collect();
        let mut lost = Vec::new();
        for (path, least) in asked {
            let reply = Ask::get(self.upstream.mirror(path)).send(server.addr());
            let found = reply.as_ref().ok().and_then(|reply| self.version(path, reply));
            if found.is_none_or(|version| version < *least) {
                let (body, url) = (self.body(path, *least), self.upstream.url(path));
                let said = reply.map_or_else(
                    |why| why.to_string(),
                    |reply| format!("{} {} clean={}", reply.status, reply.cache_status(), reply.clean),
                );
                let explained = server.get(format!("/api/v1/explain?url={url}")).text();
                let again = Ask::get(self.upstream.mirror(path)).send(server.addr()).map(|reply| reply.status);
                lost.push(format!(
                    "{path} of {} bytes: promised {least}, found {found:?}: {said}; then {again:?}; {explained}",
                    body.len
                ));
            }
        }
        lost
    }
}
