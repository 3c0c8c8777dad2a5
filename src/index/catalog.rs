//! The catalog contract: keys, checksums, edges, references, leases. SQLite on one node; in a fleet PostgreSQL under
//! the same contract suite.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::error::IndexError;
use super::ledger::{Build, RecordLine};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::place::{Class, Place};
use crate::model::realm::{Realm, Scope};
use crate::model::time::Timestamp;
use crate::model::usage::{Dimension, UsageRow, UsageSum};

/// The durable record of what is known by which key. A trait because several nodes can share one through another engine.
///
/// *Errors*: of all, `Unreachable` when the engine did not answer: never an absence.
pub(super) trait Catalog: Send + Sync + 'static {
    /// The stored answers of each key, in the order asked, newest first within a key.
    fn lookup<'a>(&'a self, keys: &'a [KeyHash]) -> BoxFuture<'a, Result<Vec<Vec<Entry>>, IndexError>>;

    /// The digest behind each checksum, for those that one of `realms` has an edge to; None otherwise.
    fn resolve<'a>(
        &'a self,
        realms: &'a [Realm],
        sums: &'a [Checksum],
    ) -> BoxFuture<'a, Result<Vec<Option<Digest>>, IndexError>>;

    /// Entries of one scope and ecosystem whose path starts with `prefix`, by path, at most `limit`.
    fn by_prefix<'a>(&'a self, ask: PrefixAsk<'a>) -> BoxFuture<'a, Result<Vec<Entry>, IndexError>>;

    /// Keys changed after `since`, in commit order, at most `limit`.
    fn changes(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, KeyHash)>, IndexError>>;

    /// Makes `changes` in their order, all or none, durable on return. Blocks: for the writer's own thread.
    ///
    /// *Errors*: none was made. `Conflict` when an entry's expected version is not the stored one; `Unreachable` also
    /// when it could not be found out whether they were made.
    fn write(&self, changes: &[Change<'_>]) -> Result<Written, IndexError>;

    /// Up to `limit` keys that `whose` selects.
    fn keys_of(&self, whose: Whose, limit: usize) -> BoxFuture<'_, Result<Vec<KeyHash>, IndexError>>;

    /// Keys whose entries refer to `digest`, at most `limit`.
    fn referrers(&self, digest: Digest, limit: usize) -> BoxFuture<'_, Result<Vec<KeyHash>, IndexError>>;

    /// Whether one of `realms` has an edge to `digest`.
    fn readable(&self, realms: Vec<Realm>, digest: Digest) -> BoxFuture<'_, Result<bool, IndexError>>;

    /// Who may read each of `digests`, in their order.
    fn readers(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<Vec<Realm>>, IndexError>>;

    /// Builds with a kept record, the latest first.
    fn builds(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Build>, IndexError>>;

    /// Lines of a build's record after the line `after`, in order.
    fn lines(&self, label: String, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<RecordLine>, IndexError>>;

    /// What was used since a day, summed by one dimension and link, the greatest first by bytes served and fetched.
    fn usage(&self, ask: UsageAsk) -> BoxFuture<'_, Result<Vec<UsageSum>, IndexError>>;

    /// Which of `digests` a kept record names.
    fn pinned(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<bool>, IndexError>>;

    /// Where the bucket has each of `digests`, in their order.
    fn remote(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<Option<Remote>>, IndexError>>;

    /// The name of an object of the bucket, by its number.
    fn object(&self, number: u32) -> BoxFuture<'_, Result<Option<String>, IndexError>>;

    /// After the last `write`, when the index ends in order. Blocks.
    fn seal(&self) -> Result<(), IndexError>;

    /// Lets go of what is open; what is asked later is `Closed`.
    fn close(&self);
}

/// An engine that has just been opened, with what the index reads of it once.
pub(super) struct Opened {
    pub(super) catalog: Arc<dyn Catalog>,
    /// The number of the last commit.
    pub(super) seq: u64,
    pub(super) facts: Vec<(String, Vec<u8>)>,
    /// None when there is nothing to load.
    pub(super) names: Option<Box<dyn Names>>,
}

/// The keys and edges as they stood when the catalog was opened, for the table in memory.
pub(super) trait Names: Send {
    /// At most so many keys, nearly.
    fn keys(&self) -> Result<u64, IndexError>;

    /// At least so many remote blobs, nearly.
    fn remote(&self) -> Result<u64, IndexError>;

    /// Calls `with` once. Blocks.
    fn read(&mut self, with: Reading<'_>) -> Result<(), IndexError>;
}

pub(super) type Reading<'a> = &'a mut dyn FnMut(Cursors<'_>) -> Result<(), IndexError>;

pub(super) type Rows<'a, T> = &'a mut dyn Iterator<Item = Result<T, IndexError>>;

/// To be read side by side.
pub(super) struct Cursors<'a> {
    /// Bodies with the keys that name them, in the order of the digests.
    pub(super) bodies: Rows<'a, (Digest, KeyHash)>,
    /// Who may read, in the order of the digests.
    pub(super) edges: Rows<'a, (Digest, Realm)>,
    pub(super) bodiless: Rows<'a, KeyHash>,
    /// What the bucket holds, in the order of the digests.
    pub(super) remote: Rows<'a, (Digest, Remote)>,
}

/// What the bucket holds of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its object is the number that the catalog gave it.
    pub(super) place: Place,
    pub(super) class: Class,
    /// Those told with it and those learned since.
    pub(super) sums: Vec<Checksum>,
}

/// A blob in an object.
#[derive(Clone, Debug)]
pub(super) struct RemoteBlob {
    pub(super) digest: Digest,
    pub(super) class: Class,
    pub(super) offset: u32,
    pub(super) len: u64,
    pub(super) sums: Vec<Checksum>,
}

/// Which usage to sum.
#[derive(Clone, Copy, Debug)]
pub struct UsageAsk {
    /// Both of them too.
    pub first_day: u32,
    pub last_day: u32,
    pub by: Dimension,
    /// Of the sums.
    pub limit: usize,
}

/// Which keys to list.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    Writer(String),
    Prefix { scope: String, ecosystem: String, upstream: String, prefix: String },
}

/// One change to the catalog.
pub(super) enum Change<'a> {
    Named(Named<'a>),
    /// Blobs whose places were dropped, with the sums they had: their sums, edges and the entries whose body they were go,
    /// but not those of a blob that is remote.
    Dropped {
        seq: u64,
        blobs: &'a [(Digest, Vec<Checksum>)],
    },
    /// An object of the bucket and the blobs in it, each of which had another object before, or none. A name keeps the
    /// number it was given first, and no number is ever given to another.
    Remote {
        name: &'a str,
        bytes: u64,
        at: Timestamp,
        blobs: &'a [RemoteBlob],
    },
    /// An object has not what it should: if the blob is still said to be there, it is not any more. Where that was the
    /// whole of it, its sums, edges and entries go too.
    Lost {
        seq: u64,
        digest: Digest,
        object: u32,
        whole: bool,
    },
    /// A line of a build's record, or one more that did not fit.
    Line {
        label: &'a str,
        line: &'a RecordLine,
        lines_max: u64,
        kept: KeptBuilds,
    },
    /// Drops a build's record.
    ForgetBuild {
        label: &'a str,
    },
    /// Drops the records of all builds but those kept.
    Expire(KeptBuilds),
    /// None drops the fact.
    Fact {
        name: &'a str,
        value: Option<&'a [u8]>,
    },
    /// Adds to the rows of usage, and drops those of days before `oldest_day`. A day has at most `rows_max` rows of its
    /// own: what would be one more is added to the row that `UsageKey::folded` names.
    Usage {
        rows: &'a [UsageRow],
        rows_max: u64,
        oldest_day: u32,
    },
}

/// Forgotten keys, then entries, sums and edges.
#[derive(Default)]
pub(super) struct Named<'a> {
    /// None: the next one.
    pub(super) seq: Option<u64>,
    pub(super) forgets: &'a [KeyHash],
    /// Each with the version that it must replace, if that matters.
    pub(super) puts: Vec<(&'a Entry, Option<u64>)>,
    pub(super) sums: Vec<(Checksum, Digest)>,
    pub(super) edges: &'a [(Realm, Digest)],
}

/// What came of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The number of the last commit: rises with each that changes a key, in the order in which they are seen.
    pub(super) seq: u64,
    /// Of each change.
    pub(super) found: Vec<Found>,
}

/// What a change found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Keys that lost an answer, and whether any is left.
    pub(super) keys: Vec<(KeyHash, bool)>,
    /// Builds that went.
    pub(super) builds: u64,
    /// The number of the object.
    pub(super) object: Option<u32>,
    /// Of the dropped blobs, those that are remote.
    pub(super) remote: Vec<(Digest, Remote)>,
    /// Rows of usage that had no room of their own.
    pub(super) folded: u64,
}

/// Which builds keep their record.
#[derive(Clone, Copy)]
pub(super) struct KeptBuilds {
    /// Those heard of since.
    pub(super) oldest: Timestamp,
    /// The latest of them.
    pub(super) builds_max: u64,
}

/// How much of what is repeated is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Entries of one key that `Vary` tells apart.
    pub(super) variants: usize,
    /// Commits that the feed of changes reaches back.
    pub(super) feed: u64,
}

/// Greater than every text that starts with `prefix`: the highest character of all follows it.
pub(super) fn end_of(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// What a listing asks for.
#[derive(Clone, Copy, Debug)]
pub struct PrefixAsk<'a> {
    pub scope: &'a Scope,
    pub ecosystem: &'a str,
    pub upstream: &'a str,
    pub prefix: &'a str,
    /// Path at which the listing begins, as the last of another one; empty: the first.
    pub from: &'a str,
    pub limit: usize,
}

/// One entry to store. Replaces the entry of the same key whose `vary` is equal.
#[derive(Debug, Clone)]
pub struct Put {
    pub entry: Arc<Entry>,
    /// The `seq` that the replaced entry must have; None: whatever stands there.
    pub expected: Option<u64>,
}
