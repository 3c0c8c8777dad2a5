//! How a request was answered: the one word that header, metric, log, ledger and dashboard share.

use super::place::TierName;

/// How the cache answered. `Cache-Status`, the metric label, the log field and the build record all come from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Outcome {
    /// Answered from what was kept, no upstream asked.
    Hit(TierName),
    /// Followed a fill that another request had started.
    Coalesced,
    /// Fetched, served and kept.
    Miss,
    /// Upstream confirmed what was kept (304).
    Revalidated,
    /// Served past its freshness: upstream failed, or the refresh runs behind.
    Stale,
    /// Made by us: a generated document, an API answer, an error.
    Generated,
    /// Passed on without the cache.
    Bypass(Reason),
    /// Not here, but another larder had it, and lent it.
    Peer,
}

/// Why an answer went around the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reason {
    /// The method is not one that is cached.
    Method,
    /// Request or response forbids storing.
    NoStore,
    /// Nothing can be stored: disk full, all pinned, a failed sync.
    Full,
    /// A small range of a large object that is not here.
    Range,
    /// No upstream is configured or adopted.
    NoUpstream,
    /// A tunnel: the bytes are opaque.
    Tunnel,
    /// Offline and not kept.
    Offline,
    /// Policy refused the host or the caller.
    Denied,
    /// Upstream answered with an error or not at all.
    Upstream,
    /// It looks like what an ecosystem keeps, and nothing proves that it is.
    Unproven,
    /// Its host is in a private network that the build reaches as well, and others may not read what it has.
    Private,
}

/// Why a request went upstream (RFC 9211 §2.2). Says nothing of answers that came from the store alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forwarded {
    /// Nothing was stored.
    #[default]
    UriMiss,
    /// What was stored was made for other requests.
    VaryMiss,
    Stale,
    /// What was stored was fresh, but the request would not have it.
    Request,
}

impl Outcome {
    /// One label per outcome, for metrics, logs and records.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Hit(_) => "hit",
            Outcome::Coalesced => "coalesced",
            Outcome::Miss => "miss",
            Outcome::Revalidated => "revalidated",
            Outcome::Stale => "stale",
            Outcome::Generated => "generated",
            Outcome::Bypass(Reason::Method) => "bypass-method",
            Outcome::Bypass(Reason::NoStore) => "bypass-no-store",
            Outcome::Bypass(Reason::Full) => "bypass-full",
            Outcome::Bypass(Reason::Range) => "bypass-range",
            Outcome::Bypass(Reason::NoUpstream) => "bypass-no-upstream",
            Outcome::Bypass(Reason::Tunnel) => "bypass-tunnel",
            Outcome::Bypass(Reason::Offline) => "bypass-offline",
            Outcome::Bypass(Reason::Denied) => "bypass-denied",
            Outcome::Bypass(Reason::Upstream) => "bypass-upstream",
            Outcome::Bypass(Reason::Unproven) => "bypass-unproven",
            Outcome::Bypass(Reason::Private) => "bypass-private",
            Outcome::Peer => "peer",
        }
    }

    /// The tier that served, or `upstream`, or `none`.
    pub const fn tier(self) -> &'static str {
        match self {
            Outcome::Hit(tier) => tier.name(),
            Outcome::Coalesced | Outcome::Miss | Outcome::Bypass(_) => "upstream",
            Outcome::Revalidated | Outcome::Stale => "store",
            Outcome::Generated => "none",
            Outcome::Peer => "peer",
        }
    }

    /// Every outcome once, in the order of `index`.
    pub const ALL: [Outcome; Outcome::COUNT] = [
        Outcome::Hit(TierName::Memory),
        Outcome::Hit(TierName::Segment),
        Outcome::Hit(TierName::File),
        Outcome::Hit(TierName::S3),
        Outcome::Coalesced,
        Outcome::Miss,
        Outcome::Revalidated,
        Outcome::Stale,
        Outcome::Generated,
        Outcome::Bypass(Reason::Method),
        Outcome::Bypass(Reason::NoStore),
        Outcome::Bypass(Reason::Full),
        Outcome::Bypass(Reason::Range),
        Outcome::Bypass(Reason::NoUpstream),
        Outcome::Bypass(Reason::Tunnel),
        Outcome::Bypass(Reason::Offline),
        Outcome::Bypass(Reason::Denied),
        Outcome::Bypass(Reason::Upstream),
        Outcome::Bypass(Reason::Unproven),
        Outcome::Bypass(Reason::Private),
        Outcome::Peer,
    ];

    pub const COUNT: usize = 21;

    /// A dense number below `COUNT`, for tables of counters.
    pub const fn index(self) -> usize {
        match self {
            Outcome::Hit(tier) => tier as usize,
            Outcome::Coalesced => 4,
            Outcome::Miss => 5,
            Outcome::Revalidated => 6,
            Outcome::Stale => 7,
            Outcome::Generated => 8,
            Outcome::Bypass(reason) => 9 + reason as usize,
            Outcome::Peer => 20,
        }
    }

    /// Whether stored bytes answered, here or at another larder, so that a fetch was saved.
    pub const fn saved_a_fetch(self) -> bool {
        matches!(self, Outcome::Hit(_) | Outcome::Coalesced | Outcome::Revalidated | Outcome::Stale | Outcome::Peer)
    }

    /// Whether the answer's bytes were fetched for it; what larder itself refuses was not.
    pub const fn was_fetched(self) -> bool {
        match self {
            Outcome::Bypass(Reason::NoUpstream | Reason::Offline | Reason::Denied) => false,
            Outcome::Miss | Outcome::Bypass(_) => true,
            Outcome::Hit(_)
            | Outcome::Coalesced
            | Outcome::Revalidated
            | Outcome::Stale
            | Outcome::Generated
            | Outcome::Peer => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_index() {
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), at, "{outcome:?}");
        }
    }
}
