//! Parts of bodies that nobody waits for any more, kept for a while: who asks next goes on where they end.
//!
//! A part holds its room on disk, so there are few, they are dropped as soon as somebody needs room, and none outlives
//! ten minutes. It is taken up only under a strong validator, and sealed as any fill: hashed from its first byte.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, Method};
use parking_lot::Mutex;

use super::coalesce::{FlightId, Resumption};
use crate::model::checksum::Checksum;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::place::Class;
use crate::store::BlobWriter;
use crate::upstream::fetch::{FetchAsk, FetchBody, Redirects, Resume};

const PARTS_MAX: usize = 8;
/// Bytes of all parts together.
const PARTS_BYTES: u64 = 1 << 30;
const KEPT_FOR: Duration = Duration::from_secs(600);

/// The beginning of a body, and how to get the rest.
pub(super) struct Part {
    pub writer: BlobWriter,
    pub resume: Resumption,
    pub expect: Vec<Checksum>,
    pub draft: Entry,
    pub class: Class,
    /// Of the whole, where it is known.
    pub len: Option<u64>,
    /// What fetching it took so far.
    pub spent: Duration,
}

/// All parts that wait.
#[derive(Default)]
pub(super) struct Parked {
    parts: Mutex<HashMap<FlightId, (Duration, Part)>>,
}

/// Parts that are given up. Dropping them unlinks files: leave it to a pool.
#[must_use]
pub(super) struct GivenUp(Vec<Part>);

impl Part {
    pub fn written(&self) -> u64 {
        self.writer.partial().written()
    }

    /// Whether it is the beginning of what is asked for now.
    pub fn fits(&self, request: &HeaderMap, expect: &[Checksum], class: Class) -> bool {
        self.resume.headers == *request && self.expect == expect && self.class == class
    }

    /// Asks for the rest, or for the whole if it has changed.
    pub fn question(&self, redirects: Redirects) -> Option<FetchAsk> {
        Some(FetchAsk {
            method: Method::GET,
            url: self.resume.url.clone(),
            headers: self.resume.plan.as_ref()?.request(&self.resume.headers, self.written())?,
            body: FetchBody::Empty,
            trust: self.resume.trust,
            resume: Resume::ByRange,
            redirects,
            party: self.resume.party.clone(),
            cause: Some(self.resume.cause.clone()),
        })
    }
}

impl Parked {
    /// Keeps a part, if it can ever be taken up again.
    pub fn park(&self, id: FlightId, part: Part, now: Duration) -> GivenUp {
        if part.resume.plan.is_none() || part.written() > PARTS_BYTES {
            return GivenUp(vec![part]);
        }
        let mut parts = self.parts.lock();
        let mut given_up = expired(&mut parts, now);
        given_up.extend(parts.insert(id, (now, part)).map(|(_, part)| part));
        while parts.len() > PARTS_MAX || parts.values().map(|(_, part)| part.written()).sum::<u64>() > PARTS_BYTES {
            let Some(eldest) = parts.iter().min_by_key(|(_, (since, _))| *since).map(|(id, _)| id.clone()) else {
                break;
            };
            given_up.extend(parts.remove(&eldest).map(|(_, part)| part));
        }
        GivenUp(given_up)
    }

    pub fn take(&self, id: &FlightId, now: Duration) -> Option<Part> {
        let (since, part) = self.parts.lock().remove(id)?;
        if now.saturating_sub(since) < KEPT_FOR {
            return Some(part);
        }
        GivenUp(vec![part]).drop_on_a_pool();
        None
    }

    /// Gives up what has waited too long.
    pub fn expire(&self, now: Duration) -> GivenUp {
        GivenUp(expired(&mut self.parts.lock(), now))
    }

    /// Gives up all of a class, since their room is needed.
    pub fn give_up(&self, class: Class) -> GivenUp {
        let mut parts = self.parts.lock();
        GivenUp(parts.extract_if(|_, (_, part)| part.class == class).map(|(_, (_, part))| part).collect())
    }

    /// Gives up what a write to the same address may have made untrue.
    pub fn doubt(&self, key: &KeyHash) -> GivenUp {
        let mut parts = self.parts.lock();
        GivenUp(parts.extract_if(|id, _| id.key == *key).map(|(_, (_, part))| part).collect())
    }

    pub fn len(&self) -> usize {
        self.parts.lock().len()
    }
}

fn expired(parts: &mut HashMap<FlightId, (Duration, Part)>, now: Duration) -> Vec<Part> {
    let old = parts.extract_if(|_, (since, _)| now.saturating_sub(*since) >= KEPT_FOR);
    old.map(|(_, (_, part))| part).collect()
}

impl GivenUp {
    pub fn of(part: Part) -> GivenUp {
        GivenUp(vec![part])
    }

    /// True when there was any.
    pub async fn drop_and_wait(self) -> bool {
        let any = !self.0.is_empty();
        if any {
            // Unlinking may fail, and then the next start sweeps it.
            let _ = tokio::task::spawn_blocking(move || drop(self.0)).await;
        }
        any
    }

    pub fn drop_on_a_pool(self) {
        if !self.0.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(self.0)));
        }
    }
}
