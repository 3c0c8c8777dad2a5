//! What two larders tell each other beside request and answer: who asks, who answers, what not to get elsewhere, and
//! whether a build's tools trust the one that carries its tunnels. The fields are `model::hop`'s.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use quick_cache::sync::Cache as Kept;

use super::front::{Answered, Front};
use super::reply::ReplyBody;
use super::status::Verdict;
use crate::cache::relay::Look;
use crate::model::hop;
use crate::model::kind::ErrorKind;
use crate::model::party::Party;

/// Builds of which it is remembered whom they trust.
const BUILDS_KEPT: usize = 1000;

/// Who is to make use of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Client,
    /// Another larder: it keeps what upstream sent, and rewrites at its own door.
    Larder,
}

/// Which builds' tools trust the authority of the larder before this one.
pub struct Trusting {
    builds: Kept<String, bool>,
    /// There was a build whose tools do not.
    is_doubted: AtomicBool,
}

impl Default for Trusting {
    fn default() -> Trusting {
        Trusting { builds: Kept::new(BUILDS_KEPT), is_doubted: AtomicBool::new(false) }
    }
}

impl Trusting {
    fn note(&self, build: &str, trusts: bool) {
        self.builds.insert(build.to_owned(), trusts);
        self.is_doubted.fetch_or(!trusts, Ordering::Relaxed);
    }

    fn trusts(&self, party: &Party) -> bool {
        match party.build() {
            Some(build) => self.builds.get(build) == Some(true),
            // Python sends no user name without a password: it may be any of them.
            None => !self.builds.is_empty() && !self.is_doubted.load(Ordering::Relaxed),
        }
    }
}

impl Front {
    /// Notes whether a build's tools trust the authority of the larder before this one.
    pub(super) fn trusts(&self, build: &str, trusts: bool) {
        self.trusting.note(build, trusts);
    }

    /// Whether a larder that carries a tunnel may look into it: not where a tool would be shown what it does not trust.
    pub(super) fn look(&self, party: &Party) -> Look {
        let trusts = self.parent.is_some() && self.trusting.trusts(party);
        if trusts { Look::Allowed } else { Look::Declined }
    }

    /// Tells another larder who answers.
    pub(super) fn signed(&self, mut answered: Answered, asker: Asker) -> Answered {
        if asker == Asker::Larder {
            answered.response.headers_mut().insert(hop::ANSWERS, self.instance.clone());
        }
        answered
    }
}

/// Tells the asker of a failure when to come again, and another larder what not to get elsewhere.
pub(super) fn add_advice(response: &mut Response<ReplyBody>, verdict: &Verdict) {
    let busy = (response.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5));
    let headers = response.headers_mut();
    if let Some(pause) = verdict.retry_after.or(busy) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
    }
    if verdict.kind == ErrorKind::Corrupt {
        headers.insert(hop::CORRUPT, HeaderValue::from_static("1"));
    }
}
