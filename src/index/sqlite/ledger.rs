//! The ledger of builds in `catalog.sqlite`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::sql;
use super::write::Changing;
use crate::index::catalog::KeptBuilds;
use crate::index::codec;
use crate::index::error::IndexError;
use crate::index::ledger::{Build, RecordLine};
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::time::Timestamp;

impl Changing<'_> {
    /// Appends a line to a build's record, or counts it as dropped when the record is full. A new build's first line
    /// pushes out the oldest builds over the bound.
    pub(super) fn append_line(
        &self,
        label: &str,
        line: &RecordLine,
        lines_max: u64,
        kept: &KeptBuilds,
    ) -> Result<(), IndexError> {
        let (build, lines, new) = self.build(label, line.time)?;
        if lines >= lines_max {
            self.transaction.prepare_cached(sql::BUILD_DROPPED)?.execute([build])?;
            return Ok(());
        }
        self.transaction.prepare_cached(sql::LINE_ADD)?.execute(params![
            build,
            lines as i64 + 1,
            line.url,
            line.key.0,
            line.digest.as_ref().map(|digest| digest.as_bytes()),
            codec::encode_sums(&line.sums),
            line.outcome.label(),
            line.outcome.tier(),
            line.time.0,
            line.bytes as i64,
            line.ms
        ])?;
        let counted = params![build, line.time.0, line.bytes as i64];
        self.transaction.prepare_cached(sql::BUILD_COUNT)?.execute(counted)?;
        if new {
            self.expire_builds(kept)?;
        }
        Ok(())
    }

    /// Its number, its lines, and whether it is new.
    fn build(&self, label: &str, now: Timestamp) -> Result<(i64, u64, bool), IndexError> {
        let mut find = self.transaction.prepare_cached(sql::BUILD)?;
        let known = find.query_row([label], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, false))).optional()?;
        if let Some(known) = known {
            return Ok(known);
        }
        self.transaction.prepare_cached(sql::BUILD_ADD)?.execute(params![label, now.0])?;
        Ok((self.transaction.last_insert_rowid(), 0, true))
    }

    /// Drops the records of all builds but those `kept`. Returns how many.
    pub(super) fn expire_builds(&self, kept: &KeptBuilds) -> Result<usize, IndexError> {
        let surplus: Vec<i64> = self
            .transaction
            .prepare_cached(sql::BUILDS_SURPLUS)?
            .query_map(params![kept.oldest.0, kept.builds_max as i64], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for build in &surplus {
            self.drop_build(*build)?;
        }
        Ok(surplus.len())
    }

    /// Drops one build's record; false when there is none under this label.
    pub(super) fn forget_build(&self, label: &str) -> Result<bool, IndexError> {
        let mut find = self.transaction.prepare_cached(sql::BUILD)?;
        let Some(build) = find.query_row([label], |row| row.get(0)).optional()? else { return Ok(false) };
        self.drop_build(build)?;
        Ok(true)
    }

    fn drop_build(&self, build: i64) -> Result<(), IndexError> {
        self.transaction.prepare_cached(sql::LINES_DROP)?.execute([build])?;
        self.transaction.prepare_cached(sql::BUILD_DROP)?.execute([build])?;
        Ok(())
    }
}

/// Builds with a kept record, the latest first.
pub(super) fn builds(connection: &Connection, limit: usize) -> Result<Vec<Build>, IndexError> {
    let mut statement = connection.prepare_cached(sql::BUILDS)?;
    let rows = statement.query_map([limit as i64], |row| {
        Ok(Build {
            label: row.get(0)?,
            started: Timestamp(row.get(1)?),
            updated: Timestamp(row.get(2)?),
            lines: row.get::<_, i64>(3)? as u64,
            bytes: row.get::<_, i64>(4)? as u64,
            dropped: row.get::<_, i64>(5)? as u64,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Lines of a build's record after the line `after`, in order.
pub(super) fn lines(
    connection: &Connection,
    label: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<RecordLine>, IndexError> {
    let mut find = connection.prepare_cached(sql::BUILD)?;
    let Some(build) = find.query_row([label], |row| row.get::<_, i64>(0)).optional()? else { return Ok(Vec::new()) };
    let mut statement = connection.prepare_cached(sql::LINES)?;
    let rows = statement.query_map(params![build, after as i64, limit as i64], read_line)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_line(row: &Row<'_>) -> rusqlite::Result<RecordLine> {
    Ok(RecordLine {
        seq: row.get::<_, i64>(0)? as u64,
        url: row.get(1)?,
        key: KeyHash(row.get(2)?),
        digest: row.get_ref(3)?.as_blob_or_null()?.and_then(Digest::from_slice),
        sums: codec::decode_sums(row.get_ref(4)?.as_blob()?),
        outcome: codec::outcome(row.get_ref(5)?.as_str()?, row.get_ref(6)?.as_str()?),
        time: Timestamp(row.get(7)?),
        bytes: row.get::<_, i64>(8)? as u64,
        ms: row.get(9)?,
    })
}

/// Which of `digests` a kept record names.
pub(super) fn named(connection: &Connection, digests: &[Digest]) -> Result<Vec<bool>, IndexError> {
    let mut statement = connection.prepare_cached(sql::LINE_NAMES)?;
    let mut named = Vec::with_capacity(digests.len());
    for digest in digests {
        named.push(statement.exists([digest.as_bytes()])?);
    }
    Ok(named)
}
