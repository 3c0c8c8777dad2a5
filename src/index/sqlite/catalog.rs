//! The catalog on SQLite: keys, checksums, edges, references, the feed of changes.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::names::SqliteNames;
use super::pool::Readers;
use super::write::{self, Writing};
use super::{ledger, pool, remote, schema, sql, usage};
use crate::index::catalog::{
    Catalog, Change, Keep, Names, Opened, PrefixAsk, Remote, UsageAsk, Whose, Written, end_of,
};
use crate::index::codec;
use crate::index::error::IndexError;
use crate::index::ledger::{Build, RecordLine};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::realm::Realm;
use crate::model::usage::UsageSum;

/// `catalog.sqlite`: one connection that writes, a few that read. Cheap to clone.
#[derive(Clone)]
pub(in crate::index) struct SqliteCatalog {
    writing: Arc<Mutex<Writing>>,
    readers: Arc<Readers>,
}

/// What one checksum led to.
type Resolved = Vec<Option<Digest>>;

impl SqliteCatalog {
    /// Opens or makes the database at `path`.
    pub(in crate::index) fn open(path: &Path, readers: usize, keep: Keep) -> Result<SqliteCatalog, IndexError> {
        let connection = pool::open_writer(path, schema::CATALOG)?;
        let writing = Arc::new(Mutex::new(Writing::new(connection, keep)?));
        Ok(SqliteCatalog { writing, readers: Readers::new(path.to_owned(), readers) })
    }

    /// With all that the index reads of it once.
    pub(in crate::index) fn open_whole(path: &Path, readers: usize, keep: Keep) -> Result<Opened, IndexError> {
        let catalog = SqliteCatalog::open(path, readers, keep)?;
        let (seq, facts) = (catalog.writing.lock().seq(), catalog.readers.read_now(write::facts)?);
        let names = SqliteNames::take(path)?.map(|names| Box::new(names) as Box<dyn Names>);
        Ok(Opened { catalog: Arc::new(catalog), seq, facts, names })
    }
}

impl Catalog for SqliteCatalog {
    fn lookup<'a>(&'a self, keys: &'a [KeyHash]) -> BoxFuture<'a, Result<Vec<Vec<Entry>>, IndexError>> {
        let keys = keys.to_vec();
        Box::pin(self.readers.read(move |connection| lookup(connection, &keys)))
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

    fn write(&self, changes: &[Change<'_>]) -> Result<Written, IndexError> {
        let mut writing = self.writing.lock();
        let found = writing.transact(|changing| changes.iter().map(|change| changing.make(change)).collect())?;
        Ok(Written { seq: writing.seq(), found })
    }

    fn keys_of(&self, whose: Whose, limit: usize) -> BoxFuture<'_, Result<Vec<KeyHash>, IndexError>> {
        Box::pin(self.readers.read(move |connection| keys_of(connection, &whose, limit)))
    }

    fn referrers(&self, digest: Digest, limit: usize) -> BoxFuture<'_, Result<Vec<KeyHash>, IndexError>> {
        Box::pin(self.readers.read(move |connection| {
            let mut statement = connection.prepare_cached(sql::REF_KEYS)?;
            let rows = statement.query_map(params![digest.as_bytes(), limit as i64], |row| Ok(KeyHash(row.get(0)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        }))
    }

    fn readable(&self, realms: Vec<Realm>, digest: Digest) -> BoxFuture<'_, Result<bool, IndexError>> {
        Box::pin(self.readers.read(move |connection| {
            let ids = realm_ids(connection, &realms)?;
            has_edge(connection, &digest, &ids)
        }))
    }

    fn readers(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<Vec<Realm>>, IndexError>> {
        Box::pin(self.readers.read(move |connection| {
            let mut statement = connection.prepare_cached(sql::READERS)?;
            let mut readers = |digest: &Digest| {
                let rows =
                    statement.query_map([digest.as_bytes()], |row| Ok(Realm::named(row.get_ref(0)?.as_str()?)))?;
                Ok(rows.collect::<Result<Vec<_>, _>>()?)
            };
            digests.iter().map(&mut readers).collect()
        }))
    }

    fn builds(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Build>, IndexError>> {
        Box::pin(self.readers.read(move |connection| ledger::builds(connection, limit)))
    }

    fn lines(&self, label: String, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<RecordLine>, IndexError>> {
        Box::pin(self.readers.read(move |connection| ledger::lines(connection, &label, after, limit)))
    }

    fn usage(&self, ask: UsageAsk) -> BoxFuture<'_, Result<Vec<UsageSum>, IndexError>> {
        Box::pin(self.readers.read(move |connection| usage::usage(connection, &ask)))
    }

    fn pinned(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<bool>, IndexError>> {
        Box::pin(self.readers.read(move |connection| ledger::named(connection, &digests)))
    }

    fn remote(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<Option<Remote>>, IndexError>> {
        Box::pin(self.readers.read(move |connection| remote::find_all(connection, &digests)))
    }

    fn object(&self, number: u32) -> BoxFuture<'_, Result<Option<String>, IndexError>> {
        Box::pin(self.readers.read(move |connection| remote::object(connection, number)))
    }

    /// Moves what the log holds into the database.
    fn seal(&self) -> Result<(), IndexError> {
        Ok(self.writing.lock().connection.query_row(sql::CHECKPOINT, [], |_| Ok(()))?)
    }

    fn close(&self) {
        self.readers.close();
    }
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

fn resolve(connection: &Connection, realms: &[Realm], sums: &[Checksum]) -> Result<Resolved, IndexError> {
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
