//! The outbox, beside the places in `places.sqlite`: which blobs wait to be remote, and since when.

use rusqlite::{Connection, OptionalExtension, params};

use super::{places, sql};
use crate::index::error::IndexError;
use crate::index::outbox::{Moved, Waiting};
use crate::model::digest::Digest;
use crate::model::time::Timestamp;

/// All rows, counted.
pub(in crate::index) fn measure(connection: &Connection) -> Result<Moved, IndexError> {
    let (blobs, bytes) = connection.query_row(sql::OUTBOX_COUNT, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Moved { blobs, bytes, ..Moved::default() })
}

/// Since when the longest waiting waits.
pub(in crate::index) fn oldest(connection: &Connection) -> Result<Option<Timestamp>, IndexError> {
    let mut statement = connection.prepare_cached(sql::OUTBOX_OLDEST)?;
    Ok(statement.query_row([], |row| Ok(Timestamp(row.get(0)?))).optional()?)
}

/// Queues a blob that is not queued yet.
pub(in crate::index) fn add(
    connection: &Connection,
    digest: &Digest,
    len: u64,
    since: Timestamp,
    moved: &mut Moved,
) -> Result<(), IndexError> {
    let row = params![digest.as_bytes(), since.0, len as i64];
    if connection.prepare_cached(sql::OUTBOX_ADD)?.execute(row)? > 0 {
        moved.blobs += 1;
        moved.bytes += len as i64;
        moved.queued += 1;
    }
    Ok(())
}

/// Takes a blob out, if it is in.
pub(in crate::index) fn remove(connection: &Connection, digest: &Digest, moved: &mut Moved) -> Result<(), IndexError> {
    let mut statement = connection.prepare_cached(sql::OUTBOX_DROP)?;
    let len: Option<i64> = statement.query_row([digest.as_bytes()], |row| row.get(0)).optional()?;
    if let Some(len) = len {
        moved.blobs -= 1;
        moved.bytes -= len;
    }
    Ok(())
}

/// The longest waiting first.
pub(in crate::index) fn waiting(connection: &Connection, limit: usize) -> Result<Vec<Waiting>, IndexError> {
    let mut statement = connection.prepare_cached(sql::OUTBOX)?;
    let rows = statement.query_map([limit as i64], |row| {
        let since = Timestamp(row.get(9)?);
        Ok(places::read_light(row)?.map(|(digest, place, class, _)| Waiting { digest, place, class, since }))
    })?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Which of `digests` are in it.
pub(in crate::index) fn holds(connection: &Connection, digests: &[Digest]) -> Result<Vec<bool>, IndexError> {
    let mut statement = connection.prepare_cached(sql::OUTBOX_HAS)?;
    digests.iter().map(|digest| Ok(statement.exists([digest.as_bytes()])?)).collect()
}
