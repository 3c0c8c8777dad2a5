//! Key records: what a pack of the bucket says beside its blobs, so that a node that lost its disk gets its keys again.
//!
//! A pack says who reads its blobs, and all that changed of keys since the pack before: entries as they stand, and which keys
//! were forgotten. Taken back in the order of the packs, nothing is missed and nothing forgotten is revived.
//!
//! *Shape*: the version; then records, each a tag, a length and its bytes. Who reads passes over tags it does not know.

use std::collections::HashSet;
use std::sync::Arc;

use super::catalog::Put;
use super::codec::{self, Input, Row, put_bytes, put_number};
use super::error::IndexError;
use super::record::Record;
use super::{Ack, Index};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

const VERSION: u8 = 1;
const BLOB: u8 = 1;
const ENTRY: u8 = 2;
const FORGOTTEN: u8 = 3;
/// Changes looked up at once.
const PAGE: usize = 512;
/// Records taken back in one commit.
const STEP: usize = 500;

/// One thing that a pack says.
#[derive(Clone, Debug)]
pub enum KeyRecord {
    /// By which sums the world knows a blob, and who may read it.
    Blob {
        digest: Digest,
        sums: Vec<Checksum>,
        realms: Vec<Realm>,
    },
    Entry(Box<Entry>),
    /// A key that has no entry, since the commit of this number.
    Forgotten {
        hash: KeyHash,
        seq: u64,
    },
}

/// Records for one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecords {
    pub bytes: Vec<u8>,
    /// All changes up to this commit are in it, or in the packs before: where the next pack goes on.
    pub upto: u64,
}

/// Why records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the key records are damaged")]
    Damaged,
    #[error("the key records have version {found}, this larder reads {VERSION}: run a newer one")]
    Newer { found: u8 },
}

impl Index {
    /// What the pack of these blobs says: who reads them, and what changed of keys after `since`, as much as fits.
    ///
    /// *Shape*: where not all fits, `upto` is where the next pack goes on; what is said of the blobs is always whole.
    /// *Errors*: `Behind` when the feed no longer reaches back to `since`.
    pub async fn key_records(&self, since: u64, blobs: &[Digest], max_bytes: usize) -> Result<KeyRecords, IndexError> {
        self.flush().await?;
        let mut told: HashSet<Digest> = HashSet::new();
        let mut records = KeyRecords { bytes: vec![VERSION], upto: since };
        self.tell_blobs(blobs, &mut told, &mut records.bytes).await?;
        loop {
            let page = self.core.catalog.changes(records.upto, PAGE).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(records) };
            let mut part = Vec::new();
            let bodies = self.tell_keys(&page, &mut part).await?;
            let mut bodies_told = told.clone();
            self.tell_blobs(&bodies, &mut bodies_told, &mut part).await?;
            if records.bytes.len() + part.len() > max_bytes && records.upto > since {
                return Ok(records);
            }
            told = bodies_told;
            records.bytes.extend(part);
            records.upto = last;
            if records.bytes.len() > max_bytes {
                return Ok(records);
            }
        }
    }

    /// Returns the bodies of the entries.
    async fn tell_keys(&self, page: &[(u64, KeyHash)], out: &mut Vec<u8>) -> Result<Vec<Digest>, IndexError> {
        let mut last: Vec<(u64, KeyHash)> = Vec::with_capacity(page.len());
        let mut seen = HashSet::with_capacity(page.len());
        last.extend(page.iter().rev().filter(|(_, hash)| seen.insert(*hash)));
        let hashes: Vec<KeyHash> = last.iter().map(|(_, hash)| *hash).collect();
        self.count_read();
        let found = self.core.catalog.lookup(&hashes).await?;
        let mut bodies = Vec::new();
        for ((seq, hash), entries) in last.into_iter().zip(found).rev() {
            // Also before entries: none that stood there before, of whatever `Vary`, is left.
            KeyRecord::Forgotten { hash, seq }.encode(out);
            for entry in entries.into_iter().rev() {
                bodies.extend(entry.body);
                KeyRecord::Entry(Box::new(entry)).encode(out);
            }
        }
        Ok(bodies)
    }

    async fn tell_blobs(
        &self,
        blobs: &[Digest],
        told: &mut HashSet<Digest>,
        out: &mut Vec<u8>,
    ) -> Result<(), IndexError> {
        let blobs: Vec<Digest> = blobs.iter().filter(|digest| told.insert(**digest)).copied().collect();
        let located = self.locate(&blobs).await?;
        self.count_read();
        let readers = self.core.catalog.readers(blobs.clone()).await?;
        for ((digest, located), realms) in blobs.into_iter().zip(located).zip(readers) {
            let sums = located.map(|located| located.sums).unwrap_or_default();
            KeyRecord::Blob { digest, sums, realms }.encode(out);
        }
        Ok(())
    }

    /// Takes back what a pack said, after its blobs were told by `uploaded`. Durable on return.
    ///
    /// *Shape*: packs in the order of their sequence, none left out; from the first one again after a failure.
    pub async fn take_back(&self, records: Vec<KeyRecord>) -> Result<(), IndexError> {
        let mut step = Record::default();
        let (mut held, mut put) = (0, HashSet::new());
        for record in records {
            // In one step keys are forgotten before others are put.
            let follows = matches!(&record, KeyRecord::Forgotten { hash, .. } if put.contains(hash));
            if follows || held >= STEP {
                self.record(std::mem::take(&mut step), Ack::Durable).await?;
                put.clear();
                held = 0;
            }
            held += 1;
            match record {
                KeyRecord::Blob { digest, sums, realms } => {
                    step.sums.extend(sums.into_iter().map(|sum| (sum, digest)));
                    step.edges.extend(realms.into_iter().map(|realm| (realm, digest)));
                }
                KeyRecord::Entry(entry) => {
                    put.insert(entry.hash);
                    step.entries.push(Put { entry: Arc::from(entry), expected: None });
                }
                KeyRecord::Forgotten { hash, seq: _ } => step.forgets.push(hash),
            }
        }
        self.record(step, Ack::Durable).await.map(drop)
    }
}

impl KeyRecord {
    /// Reads what `key_records` writes, passing over what a newer version says besides.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<KeyRecord>, Unreadable> {
        let mut input = Input(bytes);
        match input.byte() {
            Some(VERSION) => {}
            Some(found) if found > VERSION => return Err(Unreadable::Newer { found }),
            Some(_) | None => return Err(Unreadable::Damaged),
        }
        let mut records = Vec::new();
        while let Some(tag) = input.byte() {
            let bytes = input.bytes().ok_or(Unreadable::Damaged)?;
            records.extend(KeyRecord::decode(tag, bytes)?);
        }
        Ok(records)
    }

    /// None: this version knows no such record.
    fn decode(tag: u8, bytes: &[u8]) -> Result<Option<KeyRecord>, Unreadable> {
        let mut input = Input(bytes);
        let record = match tag {
            BLOB => input.blob(),
            ENTRY => input.entry(),
            FORGOTTEN => input.forgotten(),
            _ => return Ok(None),
        };
        // More may follow what is known of it.
        record.map(Some).ok_or(Unreadable::Damaged)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        let tag = match self {
            KeyRecord::Blob { digest, sums, realms } => {
                bytes.extend_from_slice(digest.as_bytes());
                put_bytes(&mut bytes, &codec::encode_sums(sums));
                put_number(&mut bytes, realms.len() as u64);
                realms.iter().for_each(|realm| put_bytes(&mut bytes, realm.as_str().as_bytes()));
                BLOB
            }
            KeyRecord::Entry(entry) => {
                put_entry(&mut bytes, entry);
                ENTRY
            }
            KeyRecord::Forgotten { hash, seq } => {
                bytes.extend_from_slice(&hash.0);
                put_number(&mut bytes, *seq);
                FORGOTTEN
            }
        };
        out.push(tag);
        put_bytes(out, &bytes);
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let key = &entry.key;
    put_number(out, entry.seq);
    for text in [key.scope.as_str(), key.ecosystem, &key.upstream, &key.path, &key.variant, &entry.writer] {
        put_bytes(out, text.as_bytes());
    }
    put_bytes(out, entry.body.as_ref().map_or(&[][..], |body| body.as_bytes()));
    put_bytes(out, &codec::encode_digests(&entry.refs));
    put_bytes(out, &codec::encode_head(entry));
}

impl Input<'_> {
    fn digest(&mut self) -> Option<Digest> {
        let (digest, rest) = self.0.split_at_checked(Digest::LEN)?;
        self.0 = rest;
        Digest::from_slice(digest)
    }

    fn blob(&mut self) -> Option<KeyRecord> {
        let digest = self.digest()?;
        let sums = codec::decode_sums(self.bytes()?);
        let mut realms = Vec::new();
        for _ in 0..self.number()? {
            realms.push(Realm::named(self.text()?));
        }
        Some(KeyRecord::Blob { digest, sums, realms })
    }

    fn entry(&mut self) -> Option<KeyRecord> {
        let seq = self.number()? as i64;
        let (scope, ecosystem) = (self.text()?, self.text()?);
        let (upstream, path) = (self.text()?.to_owned(), self.text()?.to_owned());
        let (variant, writer) = (self.text()?.to_owned(), self.text()?);
        let body = Some(self.bytes()?).filter(|body| !body.is_empty());
        let (refs, head) = (self.bytes()?, self.bytes()?);
        let hash = KeyHash([0; 16]);
        let row = Row { hash, seq, body, scope, ecosystem, upstream, path, variant, writer, refs, head };
        let mut entry = codec::decode_entry(row)?;
        entry.hash = entry.key.hash();
        Some(KeyRecord::Entry(Box::new(entry)))
    }

    fn forgotten(&mut self) -> Option<KeyRecord> {
        let (hash, rest) = self.0.split_first_chunk::<16>()?;
        self.0 = rest;
        Some(KeyRecord::Forgotten { hash: KeyHash(*hash), seq: self.number()? })
    }
}
