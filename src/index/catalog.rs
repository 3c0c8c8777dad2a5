//! The catalog contract: keys, checksums, edges, references, leases. SQLite on one node; in a fleet PostgreSQL under
//! the same contract suite.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::error::IndexError;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::realm::{Realm, Scope};

/// The durable record of what is known by which key. A trait because a fleet shares one through another engine.
pub trait Catalog: Send + Sync + 'static {
    /// The stored answers of each key, in the order asked, newest first within a key.
    fn lookup<'a>(&'a self, keys: &'a [KeyHash]) -> BoxFuture<'a, Result<Vec<Vec<Entry>>, IndexError>>;

    /// Applies a batch whole or not at all, durable on return. The returned number rises with each commit.
    ///
    /// *Errors*: `Conflict` when an entry's expected version is not the stored one.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<u64, IndexError>>;

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

/// Changes that belong together.
#[derive(Default, Debug, Clone)]
pub struct Batch {
    pub puts: Vec<Put>,
    /// Keys to forget, all their entries at once.
    pub forgets: Vec<KeyHash>,
    /// Checksums learned of blobs.
    pub sums: Vec<(Checksum, Digest)>,
    pub edges: Vec<(Realm, Digest)>,
}

/// One entry to store. Replaces the entry of the same key whose `vary` is equal.
#[derive(Debug, Clone)]
pub struct Put {
    pub entry: Arc<Entry>,
    /// The `seq` that the replaced entry must have; None: whatever stands there.
    pub expected: Option<u64>,
}
