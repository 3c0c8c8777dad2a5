//! Connections: one that writes, and a few that read on blocking threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::sql;
use crate::index::error::IndexError;

/// Statements kept prepared on each connection: all that one database has.
const STATEMENTS: usize = 64;

/// Opens the writing connection, making or migrating the database as `migrations` say.
///
/// *Errors*: `Newer` when the database has seen migrations that are not in the list.
pub(in crate::index) fn open_writer(path: &Path, migrations: &[&str]) -> Result<Connection, IndexError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(sql::PRAGMAS_WRITE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    migrate(&mut connection, migrations)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(in crate::index) fn open_reader(path: &Path) -> Result<Connection, IndexError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(sql::PRAGMAS_READ)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Whether a database has seen no migrations but those of the list. One that cannot be looked at is not judged.
///
/// *Errors*: `Newer`.
pub(in crate::index) fn check(path: &Path, migrations: &[&str]) -> Result<(), IndexError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(connection) = Connection::open_with_flags(path, flags) else { return Ok(()) };
    match seen(&connection, migrations) {
        Err(newer @ IndexError::Newer { .. }) => Err(newer),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// How many migrations it has seen.
fn seen(connection: &Connection, migrations: &[&str]) -> Result<u32, IndexError> {
    let seen: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if seen > known {
        return Err(IndexError::Newer { found: seen, known, needed: "the one that wrote it".into() });
    }
    Ok(seen)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), IndexError> {
    let seen = seen(connection, migrations)?;
    for (migration, version) in migrations.iter().zip(1..).skip(seen as usize) {
        let step = connection.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "user_version", version as u32)?;
        step.commit()?;
    }
    Ok(())
}

/// Reading connections to one database, at most a few at a time.
pub(in crate::index) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Readers {
    pub(in crate::index) fn new(path: PathBuf, connections: usize) -> Arc<Readers> {
        Arc::new(Readers { path, idle: Mutex::new(Vec::new()), turns: Semaphore::new(connections.max(1)) })
    }

    /// Runs `work` in one read transaction on a blocking thread.
    ///
    /// *Cancel*: the work ends by itself, its result is dropped.
    pub(in crate::index) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let _turn = self.turns.acquire().await.map_err(|_closed| IndexError::Closed)?;
        let readers = self.clone();
        let done = tokio::task::spawn_blocking(move || readers.read_now(work)).await;
        done.map_err(|_panicked_or_stopped| IndexError::Closed)?
    }

    /// Like `read`, on this thread.
    pub(in crate::index) fn read_now<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        let transaction = connection.unchecked_transaction()?;
        let result = work(&connection);
        transaction.finish()?;
        if !self.turns.is_closed() {
            self.idle.lock().push(connection);
        }
        result
    }

    /// Closes the connections that nobody uses, and answers `Closed` from now on.
    pub(in crate::index) fn close(&self) {
        self.turns.close();
        self.idle.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::sqlite::schema;

    #[test]
    fn a_database_from_the_future_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("places.sqlite");
        let future: Vec<&str> = schema::PLACES.iter().copied().chain(["CREATE TABLE hover (car)"]).collect();
        drop(open_writer(&path, &future).expect("opens"));
        let error = open_writer(&path, schema::PLACES).expect_err("is refused");
        let IndexError::Newer { found, known, .. } = error else { panic!("{error}") };
        assert_eq!((found as usize, known as usize), (future.len(), schema::PLACES.len()));
    }

    #[test]
    fn migrations_run_once_each() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("any.sqlite");
        drop(open_writer(&path, &["CREATE TABLE a (b)"]).expect("opens"));
        let steps = ["CREATE TABLE a (b)", "ALTER TABLE a ADD COLUMN c"];
        drop(open_writer(&path, &steps).expect("migrates"));
        let connection = open_writer(&path, &steps).expect("opens again");
        connection.execute("INSERT INTO a (b, c) VALUES (1, 2)", []).expect("has both columns");
    }

    #[test]
    fn what_is_awaited_is_synced() {
        let dir = tempfile::tempdir().expect("a directory");
        let connection = open_writer(&dir.path().join("places.sqlite"), schema::PLACES).expect("opens");
        let level: u32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("answers");
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("answers");
        let mmap: u64 = connection
            .pragma_query_value(None, "mmap_size", |row| row.get::<_, i64>(0))
            .map_or(0, |size| u64::try_from(size).unwrap_or(0));
        assert_eq!((level, mode.as_str(), mmap), (2, "wal", 0));
    }
}
