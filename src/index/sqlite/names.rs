//! The keys and edges as they stood when the catalog was opened: one connection that holds that state.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, Row};

use super::{pool, remote, sql};
use crate::index::catalog::{Cursors, Names, Reading};
use crate::index::error::IndexError;
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

/// A connection in a read transaction.
pub(super) struct SqliteNames(Connection);

impl SqliteNames {
    /// None when there are no keys and nothing is remote.
    pub(super) fn take(path: &Path) -> Result<Option<SqliteNames>, IndexError> {
        let connection = pool::open_reader(path)?;
        // A deferred transaction begins with its first read.
        connection.execute_batch("BEGIN")?;
        let any = connection.prepare(sql::KEYS_WITH_BODY)?.exists([])?
            || connection.prepare(sql::KEYS_WITHOUT_BODY)?.exists([])?
            || remote::any(&connection)?;
        Ok(any.then_some(SqliteNames(connection)))
    }
}

impl Names for SqliteNames {
    /// Counting them would read everything once more.
    fn keys(&self) -> Result<u64, IndexError> {
        let keys: Option<i64> = self.0.query_row(sql::ENTRY_LAST, [], |row| row.get(0))?;
        Ok(keys.and_then(|keys| u64::try_from(keys).ok()).unwrap_or(0))
    }

    /// So many were said to be remote, whatever has become of them.
    fn remote(&self) -> Result<u64, IndexError> {
        let blobs: i64 = self.0.query_row(sql::OBJECT_BLOBS, [], |row| row.get(0))?;
        Ok(u64::try_from(blobs).unwrap_or(0))
    }

    fn read(&mut self, with: Reading<'_>) -> Result<(), IndexError> {
        let realms = realms(&self.0)?;
        let mut with_body = self.0.prepare(sql::KEYS_WITH_BODY)?;
        let mut without = self.0.prepare(sql::KEYS_WITHOUT_BODY)?;
        let mut edges = self.0.prepare(sql::EDGES_ALL)?;
        // Rows that cannot be read are passed over.
        let mut bodies = with_body.query_map([], read_key)?.filter_map(|row| row.map_err(IndexError::from).transpose());
        let mut edges = edges.query_map([], read_edge)?.filter_map(|row| {
            let known = row.map(|row| row.and_then(|(digest, realm)| Some((digest, realms.get(&realm)?.clone()))));
            known.map_err(IndexError::from).transpose()
        });
        let mut bodiless = without.query_map([], |row| Ok(KeyHash(row.get(0)?)))?.map(|row| Ok(row?));
        let mut remote = self.0.prepare(sql::REMOTE_ALL)?;
        let mut remote =
            remote.query_map([], remote::read)?.filter_map(|row| row.map_err(IndexError::from).transpose());
        with(Cursors { bodies: &mut bodies, edges: &mut edges, bodiless: &mut bodiless, remote: &mut remote })
    }
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<Option<(Digest, KeyHash)>> {
    let digest = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice);
    let hash = row.get_ref(1)?.as_blob().ok().and_then(|hash| hash.try_into().ok());
    Ok(digest.zip(hash.map(KeyHash)))
}

fn read_edge(row: &Row<'_>) -> rusqlite::Result<Option<(Digest, i64)>> {
    let digest = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice);
    let realm = row.get(1)?;
    Ok(digest.map(|digest| (digest, realm)))
}

/// Realms by their number in this database.
fn realms(connection: &Connection) -> Result<HashMap<i64, Realm>, IndexError> {
    let mut statement = connection.prepare(sql::REALMS)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, Realm::named(row.get_ref(1)?.as_str()?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
