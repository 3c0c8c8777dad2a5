//! Objects of the bucket and what is in them, in `catalog.sqlite`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::sql;
use super::write::Changing;
use crate::index::catalog::{Found, Remote, RemoteBlob};
use crate::index::codec;
use crate::index::error::IndexError;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::model::time::Timestamp;

/// Whether the catalog knows of anything remote.
pub(super) fn any(connection: &Connection) -> Result<bool, IndexError> {
    Ok(connection.prepare(sql::REMOTE_ALL)?.exists([])?)
}

pub(super) fn find(connection: &Connection, digest: &Digest) -> Result<Option<Remote>, IndexError> {
    let mut statement = connection.prepare_cached(sql::REMOTE)?;
    let row = statement.query_row([digest.as_bytes()], |row| Ok(read(row)?.map(|(_, remote)| remote))).optional()?;
    Ok(row.flatten())
}

/// Asked in sorted order, answered in the order asked.
pub(super) fn find_all(connection: &Connection, digests: &[Digest]) -> Result<Vec<Option<Remote>>, IndexError> {
    let mut order: Vec<usize> = (0..digests.len()).collect();
    order.sort_unstable_by_key(|at| digests[*at]);
    let mut found = vec![None; digests.len()];
    for at in order {
        found[at] = find(connection, &digests[at])?;
    }
    Ok(found)
}

pub(super) fn object(connection: &Connection, number: u32) -> Result<Option<String>, IndexError> {
    let mut statement = connection.prepare_cached(sql::OBJECT_NAME)?;
    Ok(statement.query_row([number], |row| row.get(0)).optional()?)
}

/// A row as the statements select it; None when it holds what this version does not know.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Option<(Digest, Remote)>> {
    let digest = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice);
    let (Some(digest), Some(class)) = (digest, Class::from_code(row.get(4)?)) else { return Ok(None) };
    let len = u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0);
    let place = Place { tier: TierName::S3, object: row.get(1)?, offset: row.get(2)?, len };
    let sums = codec::decode_sums(row.get_ref(5)?.as_blob().unwrap_or_default());
    Ok(Some((digest, Remote { place, class, sums })))
}

/// An object with what is in it.
pub(super) struct Object<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: u64,
    pub(super) at: Timestamp,
}

impl Changing<'_> {
    /// Names the object of these blobs, whatever object was named before.
    pub(super) fn put_object(&mut self, object: &Object<'_>, blobs: &[RemoteBlob]) -> Result<Found, IndexError> {
        *self.any_remote = true;
        let row = params![object.name, object.bytes as i64, blobs.len() as i64, object.at.0];
        let number: i64 = self.transaction.prepare_cached(sql::OBJECT_PUT)?.query_row(row, |row| row.get(0))?;
        let number = u32::try_from(number).map_err(|_many| IndexError::Commit {
            why: "the bucket has had all the objects that have a number".into(),
        })?;
        for blob in blobs {
            let known = find(&self.transaction, &blob.digest)?.map_or_else(Vec::new, |known| known.sums);
            let sums = codec::encode_sums(known.iter().chain(&blob.sums));
            self.transaction.prepare_cached(sql::REMOTE_PUT)?.execute(params![
                blob.digest.as_bytes(),
                number,
                blob.offset,
                blob.len as i64,
                blob.class as u8,
                sums
            ])?;
        }
        Ok(Found { object: Some(number), ..Found::default() })
    }

    /// The remote copy of a blob, where anything is remote.
    pub(super) fn standing_remote(&self, digest: &Digest) -> Result<Option<Remote>, IndexError> {
        if *self.any_remote { find(&self.transaction, digest) } else { Ok(None) }
    }

    /// Forgets that `object` holds a blob; returns the sums it was known by there.
    pub(super) fn lose(&self, digest: &Digest, object: u32) -> Result<Option<Vec<Checksum>>, IndexError> {
        let mut statement = self.transaction.prepare_cached(sql::REMOTE_DROP)?;
        let row = params![digest.as_bytes(), object];
        let sums: Option<Vec<u8>> = statement.query_row(row, |row| row.get(0)).optional()?;
        Ok(sums.map(|sums| codec::decode_sums(&sums)))
    }

    /// Keeps a sum with the remote copy too, so that it is loaded with it and goes with it.
    pub(super) fn add_remote_sum(&self, sum: &Checksum, digest: &Digest) -> Result<(), IndexError> {
        let Some(standing) = self.standing_remote(digest)? else { return Ok(()) };
        if !standing.sums.contains(sum) {
            let sums = codec::encode_sums(standing.sums.iter().chain([sum]));
            self.transaction.prepare_cached(sql::REMOTE_SUMS)?.execute(params![digest.as_bytes(), sums])?;
        }
        Ok(())
    }
}
