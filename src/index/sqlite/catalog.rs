//! The catalog on SQLite: keys, checksums, edges, references, the feed of changes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::pool::Readers;
use super::write::{self, Changing, Keep, Writing};
use super::{codec, pool, schema, sql};
use crate::index::catalog::{Batch, Catalog, PrefixAsk};
use crate::index::error::IndexError;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

/// `catalog.sqlite`: one connection that writes, a few that read. Cheap to clone.
#[derive(Clone)]
pub struct SqliteCatalog {
    writing: Arc<Mutex<Writing>>,
    pub(in crate::index) readers: Arc<Readers>,
}

/// What one checksum led to.
pub(in crate::index) type Resolved = Vec<Option<Digest>>;

impl SqliteCatalog {
    /// Opens or makes the database at `path`.
    pub(in crate::index) fn open(path: &Path, readers: usize, keep: Keep) -> Result<SqliteCatalog, IndexError> {
        let connection = pool::open_writer(path, schema::CATALOG)?;
        let writing = Arc::new(Mutex::new(Writing::new(connection, keep)?));
        Ok(SqliteCatalog { writing, readers: Readers::new(path.to_owned(), readers) })
    }

    /// Runs `work` in one transaction. Blocks: for the writer's own thread and for blocking pools.
    pub(in crate::index) fn transact<T>(
        &self,
        work: impl FnOnce(&mut Changing<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.writing.lock().transact(work)
    }

    /// The number of the last commit.
    pub(in crate::index) fn seq(&self) -> u64 {
        self.writing.lock().seq()
    }

    /// Moves what the log holds into the database.
    pub(in crate::index) fn checkpoint(&self) -> Result<(), IndexError> {
        Ok(self.writing.lock().connection.query_row(sql::CHECKPOINT, [], |_| Ok(()))?)
    }

    /// The entries of one key, newest first.
    pub(in crate::index) async fn entries(&self, key: KeyHash) -> Result<Vec<Entry>, IndexError> {
        self.readers.read(move |connection| entries(connection, &key)).await
    }

    /// Up to `limit` keys that `whose` selects.
    pub(in crate::index) async fn keys_of(&self, whose: Whose, limit: usize) -> Result<Vec<KeyHash>, IndexError> {
        self.readers.read(move |connection| keys_of(connection, &whose, limit)).await
    }

    /// Keys whose entries refer to `digest`, at most `limit`.
    pub(in crate::index) async fn referrers(&self, digest: Digest, limit: usize) -> Result<Vec<KeyHash>, IndexError> {
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql::REF_KEYS)?;
            let rows = statement.query_map(params![digest.as_bytes(), limit as i64], |row| Ok(KeyHash(row.get(0)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.readers.read(read).await
    }

    /// Whether one of `realms` has an edge to `digest`.
    pub(in crate::index) async fn readable(&self, realms: Vec<Realm>, digest: Digest) -> Result<bool, IndexError> {
        let read = move |connection: &Connection| {
            let ids = realm_ids(connection, &realms)?;
            has_edge(connection, &digest, &ids)
        };
        self.readers.read(read).await
    }
}

/// Which keys to list.
#[derive(Clone, Debug)]
pub(in crate::index) enum Whose {
    Writer(String),
    Prefix { scope: String, ecosystem: String, upstream: String, prefix: String },
}

impl Catalog for SqliteCatalog {
    fn lookup<'a>(&'a self, keys: &'a [KeyHash]) -> BoxFuture<'a, Result<Vec<Vec<Entry>>, IndexError>> {
        let keys = keys.to_vec();
        Box::pin(self.readers.read(move |connection| lookup(connection, &keys)))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<u64, IndexError>> {
        let writing = self.writing.clone();
        Box::pin(async move {
            let commit = move || writing.lock().transact(|changing| apply(changing, &batch));
            tokio::task::spawn_blocking(commit).await.map_err(|_panicked_or_stopped| IndexError::Closed)?
        })
    }

    fn resolve<'a>(&'a self, realms: &'a [Realm], sums: &'a [Checksum]) -> BoxFuture<'a, Result<Resolved, IndexError>> {
        let (realms, sums) = (realms.to_vec(), sums.to_vec());
        Box::pin(self.readers.read(move |connection| resolve(connection, &realms, &sums)))
    }

    fn by_prefix<'a>(&'a self, ask: PrefixAsk<'a>) -> BoxFuture<'a, Result<Vec<Entry>, IndexError>> {
        let (scope, ecosystem) = (ask.scope.clone(), ask.ecosystem.to_owned());
        let (upstream, end, limit) = (ask.upstream.to_owned(), end_of(ask.prefix), ask.limit as i64);
        let begin = ask.prefix.max(ask.from).to_owned();
        Box::pin(self.readers.read(move |connection| {
            let mut statement = connection.prepare_cached(sql::ENTRIES_BY_PREFIX)?;
            let bounds = params![scope.as_str(), ecosystem, upstream, begin, end, limit];
            let rows = statement.query_map(bounds, write::read_entry)?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }))
    }

    fn changes(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, KeyHash)>, IndexError>> {
        Box::pin(self.readers.read(move |connection| changes(connection, since, limit)))
    }
}

fn apply(changing: &mut Changing<'_>, batch: &Batch) -> Result<u64, IndexError> {
    let seq = changing.next_seq();
    for key in &batch.forgets {
        changing.forget(key, seq)?;
    }
    for put in &batch.puts {
        changing.put(&put.entry, seq, put.expected)?;
    }
    for (sum, digest) in &batch.sums {
        changing.add_sum(sum, digest)?;
    }
    for (realm, digest) in &batch.edges {
        changing.add_edge(realm, digest)?;
    }
    Ok(seq)
}

fn entries(connection: &Connection, key: &KeyHash) -> Result<Vec<Entry>, IndexError> {
    let mut statement = connection.prepare_cached(sql::ENTRIES)?;
    let rows = statement.query_map([key.0], write::read_entry)?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Asked in sorted order, answered in the order asked: neighbours share pages.
fn lookup(connection: &Connection, keys: &[KeyHash]) -> Result<Vec<Vec<Entry>>, IndexError> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_unstable_by_key(|at| keys[*at]);
    let mut found = vec![Vec::new(); keys.len()];
    for at in order {
        found[at] = entries(connection, &keys[at])?;
    }
    Ok(found)
}

pub(in crate::index) fn resolve(
    connection: &Connection,
    realms: &[Realm],
    sums: &[Checksum],
) -> Result<Resolved, IndexError> {
    let ids = realm_ids(connection, realms)?;
    let mut order: Vec<usize> = (0..sums.len()).collect();
    order.sort_unstable_by_key(|at| sums[*at]);
    let mut found = vec![None; sums.len()];
    let mut statement = connection.prepare_cached(sql::SUM_DIGESTS)?;
    for at in order {
        let code = codec::algorithm_code(sums[at].algorithm());
        let mut rows = statement.query(params![code, sums[at].as_bytes()])?;
        while let Some(row) = rows.next()? {
            let Some(digest) = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice) else { continue };
            if has_edge(connection, &digest, &ids)? {
                found[at] = Some(digest);
                break;
            }
        }
    }
    Ok(found)
}

fn realm_ids(connection: &Connection, realms: &[Realm]) -> Result<Vec<i64>, IndexError> {
    let mut statement = connection.prepare_cached(sql::REALM_ID)?;
    let mut ids = Vec::with_capacity(realms.len());
    for realm in realms {
        ids.extend(statement.query_row([realm.as_str()], |row| row.get::<_, i64>(0)).optional()?);
    }
    Ok(ids)
}

fn has_edge(connection: &Connection, digest: &Digest, realms: &[i64]) -> Result<bool, IndexError> {
    let mut statement = connection.prepare_cached(sql::EDGES_OF)?;
    let mut rows = statement.query([digest.as_bytes()])?;
    while let Some(row) = rows.next()? {
        if realms.contains(&row.get(0)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn keys_of(connection: &Connection, whose: &Whose, limit: usize) -> Result<Vec<KeyHash>, IndexError> {
    let read = |row: &rusqlite::Row<'_>| Ok(KeyHash(row.get(0)?));
    let keys = match whose {
        Whose::Writer(writer) => connection
            .prepare_cached(sql::KEYS_OF_WRITER)?
            .query_map(params![writer, limit as i64], read)?
            .collect::<Result<_, _>>()?,
        Whose::Prefix { scope, ecosystem, upstream, prefix } => connection
            .prepare_cached(sql::KEYS_BY_PREFIX)?
            .query_map(params![scope, ecosystem, upstream, prefix, end_of(prefix), limit as i64], read)?
            .collect::<Result<_, _>>()?,
    };
    Ok(keys)
}

fn changes(connection: &Connection, since: u64, limit: usize) -> Result<Vec<(u64, KeyHash)>, IndexError> {
    let floor = write::meta(connection, write::FEED_FLOOR)?;
    if since < floor {
        return Err(IndexError::Behind { since, floor });
    }
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, KeyHash(row.get(1)?)));
    let mut found: Vec<(u64, KeyHash)> = connection
        .prepare_cached(sql::FEED_AFTER)?
        .query_map(params![since as i64, limit as i64], read)?
        .collect::<Result<_, _>>()?;
    // A commit is never split between two pages: who asks again from its number would miss the rest of it.
    if let Some((last, _)) = found.last().copied().filter(|_| found.len() >= limit) {
        found.retain(|(seq, _)| *seq != last);
        let whole =
            connection.prepare_cached(sql::FEED_OF)?.query_map([last as i64], read)?.collect::<Result<Vec<_>, _>>()?;
        found.extend(whole);
    }
    Ok(found)
}

/// Realms by their number in this database.
pub(in crate::index) fn realms(connection: &Connection) -> Result<HashMap<i64, Realm>, IndexError> {
    let mut statement = connection.prepare(sql::REALMS)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, Realm::named(row.get_ref(1)?.as_str()?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Greater than every text that starts with `prefix`: the highest character of all follows it.
fn end_of(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}
