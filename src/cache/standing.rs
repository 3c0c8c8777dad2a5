//! A decision that stands: what was made of a plain request holds for the next one, as long as the same answers are
//! stored and the one that was chosen is fresh. Nothing is decided anew for it, and nothing is read out of headers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use http::header::{self, HeaderMap, HeaderName};

use super::policy::fields::has_any;
use super::policy::freshness;
use super::served::{Ask, ServedBody};
use super::{Cache, Inner};
use crate::index::Presence;
use crate::model::digest::Digest;
use crate::model::entry::{Candidates, Entry};
use crate::model::key::KeyHash;
use crate::model::place::TierName;
use crate::model::range::ByteRange;
use crate::model::time::Timestamp;

/// Fields of a request that decisions look at, but for those that `Vary` names.
const HEEDED: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Whether a request asks for no more than an address.
pub fn is_plain(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET && !has_any(headers, &HEEDED)
}

/// What was decided for plain requests of one key.
pub struct Standing {
    hash: KeyHash,
    /// What was chosen from. Weak: the index decides how long it is kept.
    stored: Weak<[Arc<Entry>]>,
    digest: Digest,
    len: u64,
    /// When it was decided, and how old the answer was then.
    since: Timestamp,
    age: Duration,
    /// When the answer is no longer fresh.
    until: Timestamp,
}

/// The body of an answer that stands, and its age in seconds.
pub struct Again {
    pub body: ServedBody,
    pub tier: TierName,
    /// Of the body, in bytes.
    pub len: u64,
    pub age: u64,
}

impl Cache {
    /// The answer that stands. None: it does not any more, or its bytes cannot be had at once.
    pub fn again(&self, standing: &Standing) -> Option<Again> {
        self.inner.again(standing)
    }
}

impl Standing {
    /// *Shape*: `at` in `stored` was decided to be served for `ask` at `now`. None: the decision rests on more than
    /// the address.
    pub(super) fn of(ask: &Ask<'_>, stored: &Candidates, at: usize, now: Timestamp) -> Option<Standing> {
        let varies = stored.iter().any(|entry| !entry.vary.is_empty());
        if varies || !is_plain(ask.method, ask.headers) {
            return None;
        }
        let entry = &stored[at];
        let freshness = &ask.lookup.freshness;
        let left = freshness::lifetime(entry, freshness).saturating_sub(freshness::spent(entry, freshness, now));
        Some(Standing {
            hash: ask.hash,
            stored: Arc::downgrade(stored),
            digest: entry.body?,
            len: entry.len,
            since: now,
            age: Duration::from_secs(freshness::age(entry, now)),
            until: now.plus(left),
        })
    }
}

impl Inner {
    fn again(self: &Arc<Inner>, standing: &Standing) -> Option<Again> {
        let Presence::Present(stored) = self.index.recall(&standing.hash) else { return None };
        let now = self.clock.now();
        let same = std::ptr::addr_eq(Arc::as_ptr(&stored), standing.stored.as_ptr());
        if !same || now < standing.since || now >= standing.until {
            return None;
        }
        let (body, tier) = self.open_now(&standing.digest, ByteRange::whole(standing.len))?;
        Some(Again { body, tier, len: standing.len, age: (standing.age + now.since(standing.since)).as_secs() })
    }
}
