//! Traffic for servers that are about to be killed, and the check of what they come back with. Objects follow from a
//! seed, so that any process can tell right bytes from wrong ones.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::body::Body;
use super::client::Ask;
use super::resource::Resource;
use super::seed::Chance;
use super::server::Server;
use super::upstream::Upstream;

/// Objects on an upstream, and what is known to be safe of them.
pub struct Workload {
    pub upstream: Upstream,
    seed: u64,
    /// Objects put so far; each cycle adds some.
    objects: Mutex<u64>,
    /// Served whole by the server that runs now.
    served: Mutex<BTreeSet<u64>>,
    /// Served whole before a flush that was acknowledged.
    durable: BTreeSet<u64>,
}

/// What a check after a crash found.
#[derive(Default, Debug, Clone)]
pub struct Found {
    /// Objects that had been acknowledged and were asked for.
    pub acknowledged: u64,
    /// Of these, not served without the upstream.
    pub lost: u64,
    /// Answers that ended cleanly with other bytes than the upstream's.
    pub wrong: u64,
    /// Answers that turned an outage into an absence.
    pub absent: u64,
    /// What was asked and answered where something was lost.
    pub details: Vec<String>,
}

impl Found {
    pub fn add(&mut self, other: Found) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.absent += other.absent;
        self.details.extend(other.details);
    }

    pub fn is_clean(&self) -> bool {
        (self.lost, self.wrong, self.absent) == (0, 0, 0)
    }
}

impl Workload {
    pub fn new(seed: u64) -> Workload {
        Workload {
            upstream: Upstream::start(),
            seed,
            objects: Mutex::new(0),
            served: Mutex::default(),
            durable: BTreeSet::new(),
        }
    }

    fn body(&self, object: u64) -> Body {
        let mut chance = Chance::from_seed(self.seed ^ object);
        let len = match chance.below(10) {
            0 => 0,
            1..=4 => chance.below(4 << 10),
            5..=7 => chance.below(100 << 10),
            8 => (60 << 10) + chance.below(10 << 10),
            _ => chance.below(1 << 20),
        };
        Body::new(self.seed.wrapping_add(object), len)
    }

    fn path(object: u64) -> String {
        format!("/object/{object}")
    }

    fn add_object(&self) -> u64 {
        let mut objects = self.objects.lock().expect("no panic while locked");
        let object = *objects;
        let body = self.body(object);
        // Upstream first: who reads the number finds what it names.
        self.upstream.put(&Workload::path(object), Resource::seed(body.seed, body.len));
        *objects += 1;
        object
    }

    /// One request. None: no complete answer, which a kill excuses.
    fn ask(&self, to: SocketAddr, object: u64) -> Option<(u16, bool)> {
        let reply = Ask::get(self.upstream.mirror(&Workload::path(object))).send(to).ok()?;
        reply.clean.then(|| (reply.status, reply.digest == self.body(object).digest()))
    }

    /// What a server says of an object when it is asked once more.
    fn describe(&self, server: &Server, object: u64) -> String {
        let target = self.upstream.mirror(&Workload::path(object));
        let explained = server.get(format!("/api/v1/explain?url={}", self.upstream.url(&Workload::path(object))));
        match Ask::get(target).send(server.addr()) {
            Ok(reply) => format!(
                "object {object} of {} bytes: {} {} {}; {}",
                self.body(object).len,
                reply.status,
                reply.cache_status(),
                if reply.status == 200 { String::new() } else { reply.text() },
                explained.text()
            ),
            Err(why) => format!("object {object} of {} bytes: {why}; {}", self.body(object).len, explained.text()),
        }
    }

    /// Keeps `threads` asking for new and old objects until `stop`. Returns the number of wrong answers.
    pub fn traffic(&self, to: SocketAddr, threads: u64, cycle: u64, stop: &AtomicBool) -> u64 {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || {
                        let mut chance = Chance::from_seed(self.seed ^ (cycle << 20) ^ (thread << 10));
                        let mut wrong = 0;
                        while !stop.load(Ordering::Relaxed) {
                            let known = *self.objects.lock().expect("no panic while locked");
                            let fresh = known == 0 || chance.below(3) == 0;
                            let object = if fresh { self.add_object() } else { chance.below(known) };
                            match self.ask(to, object) {
                                Some((200, true)) => {
                                    self.served.lock().expect("no panic while locked").insert(object);
                                }
                                Some((200, false)) => wrong += 1,
                                Some(_) | None => {}
                            }
                        }
                        wrong
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no worker panicked")).sum()
        })
    }

    /// A new server runs: what its predecessor served and did not acknowledge is nobody's promise.
    pub fn begin_life(&self) {
        self.served.lock().expect("no panic while locked").clear();
    }

    /// Runs traffic for `span`.
    pub fn traffic_for(&self, to: SocketAddr, threads: u64, cycle: u64, span: Duration) -> u64 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| self.traffic(to, threads, cycle, &stop));
            std::thread::sleep(span);
            stop.store(true, Ordering::Relaxed);
            traffic.join().expect("the traffic did not panic")
        })
    }

    /// Takes the server's word that all it served so far is safe.
    pub fn acknowledge(&mut self, server: &Server) {
        let before = self.served.lock().expect("no panic while locked").clone();
        server.flush();
        self.durable.extend(before);
    }

    pub fn acknowledged(&self) -> usize {
        self.durable.len()
    }

    /// Asks a server that came back, with the upstream dead, for what was acknowledged (at most `most`, chosen by
    /// `chance`) and for some of what was not.
    pub fn check(&self, server: &Server, chance: &mut Chance, most: u64) -> Found {
        let mut found = Found::default();
        let durable: Vec<u64> = self.durable.iter().copied().collect();
        // The newest first: they had the least time.
        let newest = durable.iter().rev().take(most as usize / 2).copied();
        let others = (0..most / 2).filter(|_| !durable.is_empty()).map(|_| *chance.pick(&durable)).collect::<Vec<_>>();
        for object in newest.chain(others) {
            found.acknowledged += 1;
            match self.ask(server.addr(), object) {
                Some((200, true)) => {}
                Some((200, false)) => found.wrong += 1,
                Some((404 | 410, _)) => found.absent += 1,
                Some(_) | None => {
                    found.lost += 1;
                    found.details.push(self.describe(server, object));
                }
            }
        }
        // What was never acknowledged may be gone, but not wrong.
        let known = *self.objects.lock().expect("no panic while locked");
        for object in known.saturating_sub(20)..known {
            match self.ask(server.addr(), object) {
                Some((200, false)) => found.wrong += 1,
                Some((404 | 410, _)) => found.absent += 1,
                Some(_) | None => {}
            }
        }
        found
    }
}
