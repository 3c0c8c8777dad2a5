//! Changes to `catalog.sqlite`, inside one transaction.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::remote::Object;
use super::{remote, sql};
use crate::index::catalog::{Change, Found, Keep, Named};
use crate::index::codec;
use crate::index::error::IndexError;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

pub(super) const SEQ: &str = "seq";
pub(super) const FEED_FLOOR: &str = "feed floor";

/// The writing connection and what it remembers between transactions.
pub(super) struct Writing {
    pub(super) connection: Connection,
    realms: HashMap<Realm, i64>,
    seq: u64,
    feed_floor: u64,
    keep: Keep,
    /// Whether anything is or was remote since the start: where there is no bucket, nothing is asked about it.
    any_remote: bool,
}

impl Writing {
    pub(super) fn new(connection: Connection, keep: Keep) -> Result<Writing, IndexError> {
        let seq = meta(&connection, SEQ)?;
        let feed_floor = meta(&connection, FEED_FLOOR)?;
        let any_remote = remote::any(&connection)?;
        Ok(Writing { connection, realms: HashMap::new(), seq, feed_floor, keep, any_remote })
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Runs `work` in one transaction: all of it is durable on return, or none of it happened.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Changing<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let done = self.run(work);
        if done.is_err() {
            // Numbers of realms that this transaction made are gone with it.
            self.realms.clear();
        }
        done
    }

    fn run<T>(&mut self, work: impl FnOnce(&mut Changing<'_>) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let transaction = self.connection.transaction()?;
        let (realms, any_remote) = (&mut self.realms, &mut self.any_remote);
        let mut changing = Changing { transaction, realms, seq: self.seq, keep: self.keep, any_remote };
        // An early return drops the transaction, which rolls it back.
        let done = work(&mut changing)?;
        let Changing { transaction, seq, .. } = changing;
        finish(transaction, seq, self.seq, &mut self.feed_floor, self.keep.feed)?;
        self.seq = seq;
        Ok(done)
    }
}

fn finish(
    transaction: Transaction<'_>,
    seq: u64,
    before: u64,
    feed_floor: &mut u64,
    keep: u64,
) -> Result<(), IndexError> {
    let mut floor = *feed_floor;
    if seq > before {
        raise(&transaction, SEQ, seq)?;
        // Pruned an eighth at a time, so that not each commit pays for it.
        if seq.saturating_sub(floor) > keep.saturating_add(keep / 8) {
            floor = seq - keep;
            transaction.prepare_cached(sql::FEED_PRUNE)?.execute([floor as i64])?;
            raise(&transaction, FEED_FLOOR, floor)?;
        }
    }
    transaction.commit()?;
    *feed_floor = floor;
    Ok(())
}

pub(super) fn meta(connection: &Connection, name: &str) -> Result<u64, IndexError> {
    let value: Option<i64> = connection.prepare_cached(sql::META)?.query_row([name], |row| row.get(0)).optional()?;
    Ok(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
}

fn raise(connection: &Connection, name: &str, value: u64) -> Result<(), IndexError> {
    connection.prepare_cached(sql::META_RAISE)?.execute(params![name, value as i64])?;
    Ok(())
}

/// A transaction under way.
pub(super) struct Changing<'a> {
    pub(super) transaction: Transaction<'a>,
    realms: &'a mut HashMap<Realm, i64>,
    seq: u64,
    keep: Keep,
    pub(super) any_remote: &'a mut bool,
}

impl Changing<'_> {
    /// Makes one change.
    pub(super) fn make(&mut self, change: &Change<'_>) -> Result<Found, IndexError> {
        let mut found = Found::default();
        match change {
            Change::Named(named) => self.name(named)?,
            Change::Dropped { seq, blobs } => {
                self.seq = self.seq.max(*seq);
                for (digest, sums) in *blobs {
                    match self.standing_remote(digest)? {
                        Some(standing) => found.remote.push((*digest, standing)),
                        None => found.keys.extend(self.forget_blob(digest, sums, *seq)?),
                    }
                }
            }
            Change::Remote { name, bytes, at, blobs } => {
                found = self.put_object(&Object { name, bytes: *bytes, at: *at }, blobs)?;
            }
            Change::Lost { seq, digest, object, whole } => {
                self.seq = self.seq.max(*seq);
                if let Some(sums) = self.lose(digest, *object)?
                    && *whole
                {
                    found.keys = self.forget_blob(digest, &sums, *seq)?;
                }
            }
            Change::Line { label, line, lines_max, kept } => self.append_line(label, line, *lines_max, kept)?,
            Change::ForgetBuild { label } => found.builds = u64::from(self.forget_build(label)?),
            Change::Expire(kept) => found.builds = self.expire_builds(kept)? as u64,
            Change::Fact { name, value } => self.put_fact(name, *value)?,
            Change::Usage { rows, rows_max, oldest_day } => {
                found.folded = self.add_usage(rows, *rows_max, *oldest_day)?;
            }
        }
        Ok(found)
    }

    fn name(&mut self, named: &Named<'_>) -> Result<(), IndexError> {
        let seq = named.seq.unwrap_or(self.seq + 1);
        self.seq = self.seq.max(seq);
        for key in named.forgets {
            self.forget(key, seq)?;
        }
        for (entry, expected) in &named.puts {
            self.put(entry, seq, *expected)?;
        }
        for (sum, digest) in &named.sums {
            self.add_sum(sum, digest)?;
        }
        for (realm, digest) in named.edges {
            self.add_edge(realm, digest)?;
        }
        Ok(())
    }

    /// Stores an entry in place of the one with the same key and an equal `Vary`.
    ///
    /// *Errors*: `Conflict` when `expected` is not the stored one's number.
    fn put(&mut self, entry: &Entry, seq: u64, expected: Option<u64>) -> Result<(), IndexError> {
        let vary = codec::vary_print(&entry.vary);
        let standing = self
            .transaction
            .prepare_cached(sql::ENTRY_OF_VARY)?
            .query_row(params![entry.hash.0, vary], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
            })
            .optional()?;
        let version = standing.as_ref().map_or(0, |(_, seq, _)| *seq as u64);
        if expected.is_some_and(|expected| expected != version) {
            return Err(IndexError::Conflict);
        }
        let refs = codec::encode_digests(&entry.refs);
        match standing {
            Some((id, _, old_refs)) => {
                self.update(id, entry, seq, &refs)?;
                if old_refs != refs {
                    self.drop_refs(id, &old_refs)?;
                    self.add_refs(id, &entry.refs)?;
                }
            }
            None => {
                let id = self.insert(entry, seq, &vary, &refs)?;
                self.add_refs(id, &entry.refs)?;
                self.trim(&entry.hash, id)?;
            }
        }
        self.changed(&entry.hash, seq)
    }

    fn insert(&self, entry: &Entry, seq: u64, vary: &[u8], refs: &[u8]) -> Result<i64, IndexError> {
        let key = &entry.key;
        self.transaction.prepare_cached(sql::ENTRY_INSERT)?.execute(params![
            entry.hash.0,
            vary,
            seq as i64,
            entry.body.as_ref().map(|body| body.as_bytes()),
            key.scope.as_str(),
            key.ecosystem,
            key.upstream,
            key.path,
            key.variant,
            &*entry.writer,
            refs,
            codec::encode_head(entry)
        ])?;
        Ok(self.transaction.last_insert_rowid())
    }

    fn update(&self, id: i64, entry: &Entry, seq: u64, refs: &[u8]) -> Result<(), IndexError> {
        let body = entry.body.as_ref().map(|body| body.as_bytes());
        self.transaction.prepare_cached(sql::ENTRY_UPDATE)?.execute(params![
            id,
            seq as i64,
            body,
            &*entry.writer,
            refs,
            codec::encode_head(entry)
        ])?;
        Ok(())
    }

    /// Drops the oldest variants over the bound.
    fn trim(&self, key: &KeyHash, newest: i64) -> Result<(), IndexError> {
        let surplus: Vec<(i64, Vec<u8>)> = self
            .transaction
            .prepare_cached(sql::ENTRIES_SURPLUS)?
            .query_map(params![key.0, self.keep.variants as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (id, refs) in surplus.iter().filter(|(id, _)| *id != newest) {
            self.transaction.prepare_cached(sql::ENTRY_DELETE)?.execute([id])?;
            self.drop_refs(*id, refs)?;
        }
        Ok(())
    }

    /// Forgets every entry of a key.
    fn forget(&mut self, key: &KeyHash, seq: u64) -> Result<(), IndexError> {
        let dropped: Vec<(i64, Vec<u8>)> = self
            .transaction
            .prepare_cached(sql::ENTRIES_FORGET)?
            .query_map([key.0], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (id, refs) in &dropped {
            self.drop_refs(*id, refs)?;
        }
        if dropped.is_empty() { Ok(()) } else { self.changed(key, seq) }
    }

    /// Forgets what hangs on a blob whose place was dropped; returns the keys it answered and whether any answer is left.
    fn forget_blob(
        &mut self,
        digest: &Digest,
        sums: &[Checksum],
        seq: u64,
    ) -> Result<Vec<(KeyHash, bool)>, IndexError> {
        let dropped: Vec<(i64, Vec<u8>, [u8; 16])> = self
            .transaction
            .prepare_cached(sql::ENTRIES_OF_BODY)?
            .query_map([digest.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let mut keys = Vec::with_capacity(dropped.len());
        for (id, refs, hash) in dropped {
            self.drop_refs(id, &refs)?;
            self.changed(&KeyHash(hash), seq)?;
            keys.push(KeyHash(hash));
        }
        for sum in sums {
            let code = codec::algorithm_code(sum.algorithm());
            let asked = params![code, sum.as_bytes(), digest.as_bytes()];
            self.transaction.prepare_cached(sql::SUM_DROP)?.execute(asked)?;
        }
        self.transaction.prepare_cached(sql::EDGES_DROP)?.execute([digest.as_bytes()])?;
        let mut left = Vec::with_capacity(keys.len());
        for key in keys {
            let any = self.transaction.prepare_cached(sql::ENTRY_ANY)?.exists([key.0])?;
            left.push((key, any));
        }
        Ok(left)
    }

    fn add_sum(&self, sum: &Checksum, digest: &Digest) -> Result<(), IndexError> {
        let code = codec::algorithm_code(sum.algorithm());
        let row = params![code, sum.as_bytes(), digest.as_bytes()];
        self.transaction.prepare_cached(sql::SUM_ADD)?.execute(row)?;
        self.add_remote_sum(sum, digest)
    }

    fn add_edge(&mut self, realm: &Realm, digest: &Digest) -> Result<(), IndexError> {
        let id = self.realm(realm)?;
        self.transaction.prepare_cached(sql::EDGE_ADD)?.execute(params![digest.as_bytes(), id])?;
        Ok(())
    }

    fn realm(&mut self, realm: &Realm) -> Result<i64, IndexError> {
        if let Some(id) = self.realms.get(realm) {
            return Ok(*id);
        }
        let mut find = self.transaction.prepare_cached(sql::REALM_ID)?;
        let known = find.query_row([realm.as_str()], |row| row.get(0)).optional()?;
        let id = match known {
            Some(id) => id,
            None => {
                self.transaction.prepare_cached(sql::REALM_ADD)?.execute([realm.as_str()])?;
                self.transaction.last_insert_rowid()
            }
        };
        self.realms.insert(realm.clone(), id);
        Ok(id)
    }

    /// None drops the fact.
    fn put_fact(&self, name: &str, value: Option<&[u8]>) -> Result<(), IndexError> {
        match value {
            Some(value) => self.transaction.prepare_cached(sql::FACT_PUT)?.execute(params![name, value])?,
            None => self.transaction.prepare_cached(sql::FACT_DROP)?.execute([name])?,
        };
        Ok(())
    }

    fn changed(&self, key: &KeyHash, seq: u64) -> Result<(), IndexError> {
        self.transaction.prepare_cached(sql::FEED_ADD)?.execute(params![seq as i64, key.0])?;
        Ok(())
    }

    fn add_refs(&self, id: i64, refs: &[Digest]) -> Result<(), IndexError> {
        let mut add = self.transaction.prepare_cached(sql::REF_ADD)?;
        for digest in refs {
            add.execute(params![digest.as_bytes(), id])?;
        }
        Ok(())
    }

    fn drop_refs(&self, id: i64, refs: &[u8]) -> Result<(), IndexError> {
        let mut drop = self.transaction.prepare_cached(sql::REF_DROP)?;
        for digest in codec::decode_digests(refs) {
            drop.execute(params![digest.as_bytes(), id])?;
        }
        Ok(())
    }
}

/// All facts, for the index to keep in memory.
pub(in crate::index) fn facts(connection: &Connection) -> Result<Vec<(String, Vec<u8>)>, IndexError> {
    let mut statement = connection.prepare(sql::FACTS)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Entries as the statements select them.
pub(in crate::index) fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Entry>> {
    Ok(codec::decode_entry(codec::Row {
        hash: KeyHash(row.get(0)?),
        seq: row.get(1)?,
        body: row.get_ref(2)?.as_blob_or_null().ok().flatten(),
        scope: row.get_ref(3)?.as_str()?,
        ecosystem: row.get_ref(4)?.as_str()?,
        upstream: row.get(5)?,
        path: row.get(6)?,
        variant: row.get(7)?,
        writer: row.get_ref(8)?.as_str()?,
        refs: row.get_ref(9)?.as_blob().unwrap_or_default(),
        head: row.get_ref(10)?.as_blob().unwrap_or_default(),
    }))
}
