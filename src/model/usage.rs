//! What is counted of a day's work, and by what it is told apart: the words of the ledger. What any of it costs is no
//! business of these counts, so that prices may change afterwards.

use serde::{Deserialize, Serialize};

/// Where bytes come from or go to, as the bill tells it apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Link {
    /// This machine.
    Loopback,
    /// The network that this machine is in.
    Private,
    /// Another zone of the same region.
    Zone,
    /// Another region.
    Region,
    Internet,
    /// The internet, by way of a gateway that is paid by the byte.
    Nat,
    /// Nobody knows: the other end stands behind a proxy, or was not asked since the start.
    Unknown,
}

impl Link {
    pub const COUNT: usize = 7;
    pub const ALL: [Link; Link::COUNT] =
        [Link::Loopback, Link::Private, Link::Zone, Link::Region, Link::Internet, Link::Nat, Link::Unknown];

    pub const fn name(self) -> &'static str {
        match self {
            Link::Loopback => "loopback",
            Link::Private => "private",
            Link::Zone => "zone",
            Link::Region => "region",
            Link::Internet => "internet",
            Link::Nat => "nat",
            Link::Unknown => "unknown",
        }
    }

    /// The link of this name; one that a later larder wrote is `Unknown` here.
    pub fn of_name(name: &str) -> Link {
        Link::ALL.into_iter().find(|link| link.name() == name).unwrap_or(Link::Unknown)
    }
}

/// What is counted. Each belongs to the link of its row: of bytes served to the client's, of bytes fetched to the one
/// they came over, of bytes saved to the one they would have come over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Counter {
    /// Answered requests.
    Requests,
    /// Those that were answered whole without a fetch of their own.
    Hits,
    /// Those of them whose fetch once took a known time.
    TimedHits,
    ServedBytes,
    SavedBytes,
    /// What fetching took less what serving took, of timed hits.
    SavedMillis,
    /// Exchanges with upstream, redirects and repetitions not counted.
    Fetches,
    FetchedBytes,
    S3Put,
    S3Part,
    S3List,
    S3Get,
    S3Head,
    S3Delete,
    S3SentBytes,
    S3ReceivedBytes,
    /// What was kept on disk, times how long, in KiB times seconds.
    DiskKibSeconds,
    /// The same in S3.
    S3KibSeconds,
}

impl Counter {
    pub const COUNT: usize = 18;
    pub const ALL: [Counter; Counter::COUNT] = [
        Counter::Requests,
        Counter::Hits,
        Counter::TimedHits,
        Counter::ServedBytes,
        Counter::SavedBytes,
        Counter::SavedMillis,
        Counter::Fetches,
        Counter::FetchedBytes,
        Counter::S3Put,
        Counter::S3Part,
        Counter::S3List,
        Counter::S3Get,
        Counter::S3Head,
        Counter::S3Delete,
        Counter::S3SentBytes,
        Counter::S3ReceivedBytes,
        Counter::DiskKibSeconds,
        Counter::S3KibSeconds,
    ];
}

/// The counts of one row, or of many together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts(pub [u64; Counter::COUNT]);

impl Counts {
    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub fn count(&mut self, counter: Counter, amount: u64) {
        let count = &mut self.0[counter as usize];
        *count = count.saturating_add(amount);
    }

    pub fn add(&mut self, other: &Counts) {
        for counter in Counter::ALL {
            self.count(counter, other.of(counter));
        }
    }

    /// What is left when `other` is taken away.
    pub fn less(&self, other: &Counts) -> Counts {
        Counts(std::array::from_fn(|at| self.0[at].saturating_sub(other.0[at])))
    }

    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }
}

/// What a row stands for where there is none of that kind. No label and no upstream can be called so.
pub const NONE: &str = "(none)";
/// What did not fit the table any more.
pub const OTHER: &str = "(other)";

/// By what counts are told apart. Days are those of UTC since 1970-01-01.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UsageKey {
    pub day: u32,
    /// A build's.
    pub label: String,
    pub ecosystem: String,
    pub upstream: String,
    pub scope: String,
    pub tier: String,
    pub link: Link,
}

impl UsageKey {
    /// The row that takes what has no room of its own.
    pub fn folded(&self) -> UsageKey {
        let other = || OTHER.to_owned();
        UsageKey { label: other(), upstream: other(), scope: other(), ..self.clone() }
    }
}

/// One row of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageRow {
    pub key: UsageKey,
    pub counts: Counts,
}

/// By what rows are summed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    Day,
    Label,
    Ecosystem,
    Upstream,
    Scope,
    Tier,
    Link,
}

impl Dimension {
    pub const ALL: [Dimension; 7] = [
        Dimension::Day,
        Dimension::Label,
        Dimension::Ecosystem,
        Dimension::Upstream,
        Dimension::Scope,
        Dimension::Tier,
        Dimension::Link,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Dimension::Day => "day",
            Dimension::Label => "label",
            Dimension::Ecosystem => "ecosystem",
            Dimension::Upstream => "upstream",
            Dimension::Scope => "scope",
            Dimension::Tier => "tier",
            Dimension::Link => "link",
        }
    }

    pub fn of_name(name: &str) -> Option<Dimension> {
        Dimension::ALL.into_iter().find(|dimension| dimension.name() == name)
    }
}

/// What rows alike in one way add up to, each link for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageSum {
    /// Of a day: its number.
    pub name: String,
    pub link: Link,
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_stands_at_its_place() {
        for (at, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, at, "{counter:?}");
        }
        for (at, link) in Link::ALL.into_iter().enumerate() {
            assert_eq!((link as usize, Link::of_name(link.name())), (at, link));
        }
        assert_eq!(Link::of_name("by carrier pigeon"), Link::Unknown);
        for dimension in Dimension::ALL {
            assert_eq!(Dimension::of_name(dimension.name()), Some(dimension));
        }
    }

    #[test]
    fn counts_add_up_and_stop_at_the_end() {
        let mut counts = Counts::default();
        assert!(counts.is_zero());
        counts.count(Counter::Hits, 2);
        counts.add(&Counts(std::array::from_fn(|_| 1)));
        assert_eq!((counts.of(Counter::Hits), counts.of(Counter::Requests)), (3, 1));
        counts.count(Counter::Hits, u64::MAX);
        assert_eq!(counts.of(Counter::Hits), u64::MAX);
        assert_eq!(Counts::default().less(&counts), Counts::default());
    }
}
