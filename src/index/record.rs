//! Making a change visible: the table and the cache of entries first, in the order in which the writer will commit.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::catalog::{Put, Whose};
use super::codec::vary_print;
use super::core::{Core, Order};
use super::error::IndexError;
use super::recent::entry_bytes;
use super::sqlite::places::Located;
use super::table::{Blob, Seated, Use};
use super::writer::queue::{Acked, Room, Work};
use super::{Ack, Index, Presence};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::entry::{Candidates, Entry};
use crate::model::key::KeyHash;
use crate::model::place::{Class, Place};
use crate::model::realm::{Realm, Scope};
use crate::runtime::durable::Dirty;

/// Keys forgotten in one step of a listing.
const STEP: usize = 1000;

/// A blob that has just been written.
pub struct NewBlob {
    pub digest: Digest,
    pub sums: Vec<Checksum>,
    pub place: Place,
    pub class: Class,
    /// What must be synced before the place may be committed.
    pub dirty: Dirty,
}

/// Changes that belong together: all of them become visible at once, and durable at once.
#[derive(Default)]
pub struct Record {
    pub blob: Option<NewBlob>,
    pub entries: Vec<Put>,
    pub edges: Vec<(Realm, Digest)>,
    /// Keys to forget, before the entries are put.
    pub forgets: Vec<KeyHash>,
    /// Checksums learned of blobs that are here already.
    pub sums: Vec<(Checksum, Digest)>,
}

/// A record that is in the table and waits to be committed.
pub(super) struct Visible {
    pub(super) seq: u64,
    pub(super) blob: Option<NewBlob>,
    /// What the table said to the blob.
    pub(super) seated: Seated,
    /// Whether the bucket has the blob already.
    pub(super) remote: bool,
    pub(super) entries: Vec<Arc<Entry>>,
    /// For each entry, whether its key was known before.
    pub(super) known: Vec<bool>,
    pub(super) edges: Vec<(Realm, Digest)>,
    pub(super) forgets: Vec<KeyHash>,
    pub(super) sums: Vec<(Checksum, Digest)>,
}

/// Whose entries to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forget {
    /// All that one writer caused: the recall of what it wrote.
    Writer(String),
    /// Paths of one upstream that start with `prefix`.
    Prefix { scope: Scope, ecosystem: String, upstream: String, prefix: String },
}

/// What stood before, read without the order lock.
#[derive(Default)]
struct Before {
    keys: Vec<(KeyHash, u64, Option<Candidates>)>,
    located: Option<Located>,
}

/// New entries, whether their keys were known, and what each key answers from now on.
struct Merged {
    entries: Vec<Arc<Entry>>,
    known: Vec<bool>,
    answers: HashMap<KeyHash, Vec<Arc<Entry>>>,
    /// Bodies that their key names no more.
    left: Vec<Digest>,
}

enum Step {
    Done(u64, Option<oneshot::Receiver<Acked>>),
    /// Another change came between; nothing was made.
    Again(Record, Room),
}

impl Index {
    /// Records a change and returns its number, which its entries then carry as `seq`.
    ///
    /// *Shape*: where the digest already has a place of an equal or better class, that one stays and the new place is
    /// handed out by `superseded` once the change is durable; ask `place` afterwards for the one that stands.
    /// *Errors*: `Conflict` when an entry's expected version is not the one that stands (nothing was made); with
    /// `Ack::Durable` also `Sync` or `Commit`, when the change has been taken back.
    /// *Cancel*: before the change is visible nothing is made, after that it is committed all the same.
    pub async fn record(&self, mut record: Record, ack: Ack) -> Result<u64, IndexError> {
        let mut room = self.core.queue.room(record.bytes()).await?;
        loop {
            let before = self.before(&record).await?;
            match self.core.make_visible(record, before, room, ack)? {
                Step::Done(seq, None) => return Ok(seq),
                Step::Done(seq, Some(acked)) => {
                    acked.await.map_err(|_gone| IndexError::Closed)??;
                    return Ok(seq);
                }
                Step::Again(record_back, room_back) => (record, room) = (record_back, room_back),
            }
        }
    }

    /// Forgets every entry of a key; durable on return.
    pub async fn forget(&self, key: &KeyHash) -> Result<(), IndexError> {
        let record = Record { forgets: vec![*key], ..Record::default() };
        self.record(record, Ack::Durable).await.map(drop)
    }

    /// Forgets many keys, by writer or by prefix; returns how many.
    ///
    /// *Cancel*: those forgotten so far stay forgotten.
    pub async fn forget_all(&self, whose: Forget) -> Result<u64, IndexError> {
        self.flush().await?;
        let whose = match whose {
            Forget::Writer(writer) => Whose::Writer(writer),
            Forget::Prefix { scope, ecosystem, upstream, prefix } => {
                Whose::Prefix { scope: scope.as_str().to_owned(), ecosystem, upstream, prefix }
            }
        };
        let mut forgotten = 0;
        loop {
            let keys = self.core.catalog.keys_of(whose.clone(), STEP).await?;
            if keys.is_empty() {
                return Ok(forgotten);
            }
            forgotten += keys.len() as u64;
            self.record(Record { forgets: keys, ..Record::default() }, Ack::Durable).await?;
        }
    }

    async fn before(&self, record: &Record) -> Result<Before, IndexError> {
        let mut before = Before::default();
        for put in &record.entries {
            let key = put.entry.hash;
            if before.keys.iter().all(|(known, _, _)| *known != key) {
                let epoch = self.core.recent.epoch(&key);
                before.keys.push((key, epoch, self.candidates(&key).await?));
            }
        }
        if let Some(blob) = &record.blob
            && self.place(&blob.digest) == Presence::Unknown
        {
            before.located = self.locate(&[blob.digest]).await?.pop().flatten();
        }
        Ok(before)
    }
}

impl Record {
    fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(|put| entry_bytes(&put.entry)).sum();
        entries + self.edges.len() * 64 + self.forgets.len() * 16 + self.sums.len() * 97
    }
}

impl Core {
    fn make_visible(&self, mut record: Record, before: Before, room: Room, ack: Ack) -> Result<Step, IndexError> {
        let mut order = self.order.lock();
        if self.queue.is_closed() {
            return Err(IndexError::Closed);
        }
        if before.keys.iter().any(|(key, epoch, _)| self.recent.epoch(key) != *epoch) {
            drop(order);
            return Ok(Step::Again(record, room));
        }
        let seq = order.seq + 1;
        let puts = std::mem::take(&mut record.entries);
        let Merged { entries, known, answers, left } = self.merge(puts, &record.forgets, before.keys, seq)?;
        order.seq = seq;
        let remote_row = before.located.as_ref().is_some_and(|found| !found.place.tier.is_local());
        let seated = record.blob.as_ref().map_or(Seated::Here, |blob| self.seat(&order, blob, before.located));
        let remote = remote_row || matches!(seated, Seated::Replaced(old) if !old.tier.is_local());
        for (realm, digest) in &record.edges {
            self.table.add_realm(&digest.prefix(), realm);
            order.note_edge(&self.table, digest, realm);
        }
        for (sum, digest) in record.sums.iter().filter(|(sum, _)| sum.algorithm() == Algorithm::Sha256) {
            self.table.add_sum(&digest.prefix(), sum.prefix());
            order.note_sum(&self.table, digest, sum);
        }
        for key in &record.forgets {
            self.table.unname(&key.0);
            self.recent.set(key, Arc::from([]), seq);
            order.note_key(&self.table, key);
        }
        for (key, answers) in answers {
            let body = answers.first().and_then(|entry| entry.body).map(|body| body.prefix());
            // First the answer: a key that changes homes in the table is in neither for a moment.
            self.recent.set(&key, answers.into(), seq);
            self.table.name(&key.0, body.as_ref());
            order.note_key(&self.table, &key);
        }
        // Old versions of documents go first, unless another key asks for them again.
        for digest in left {
            self.table.chill(&digest.prefix());
        }
        let Record { blob, edges, forgets, sums, .. } = record;
        let visible = Visible { seq, blob, seated, remote, entries, known, edges, forgets, sums };
        let (acker, acked) = match ack {
            Ack::Visible => (None, None),
            Ack::Durable => {
                let (acker, acked) = oneshot::channel();
                (Some(acker), Some(acked))
            }
        };
        self.queue.push(Work::Record(Box::new(visible)), room, acker)?;
        Ok(Step::Done(seq, acked))
    }

    fn seat(&self, order: &Order, blob: &NewBlob, located: Option<Located>) -> Seated {
        let standing = located.filter(|found| !order.has_dropped(&found.digest, &found.place));
        if let Some(found) = standing {
            self.table.put(&seat_of(&found.digest, &found.sums, found.place, found.class, found.used));
        }
        let used = Use { last: self.minutes(), hits: 0 };
        let seated = self.table.put(&seat_of(&blob.digest, &blob.sums, blob.place, blob.class, used));
        if seated == Seated::Refused {
            self.unseated.insert(blob.digest, blob.place);
        }
        for sum in &blob.sums {
            self.remember_name(sum, &blob.digest);
        }
        seated
    }

    /// The answers of each key with the new entries in them, newest first.
    fn merge(
        &self,
        puts: Vec<Put>,
        forgets: &[KeyHash],
        before: Vec<(KeyHash, u64, Option<Candidates>)>,
        seq: u64,
    ) -> Result<Merged, IndexError> {
        let mut answers: HashMap<KeyHash, Vec<Arc<Entry>>> = HashMap::with_capacity(before.len());
        for (key, _, standing) in before {
            let standing = standing.filter(|_| !forgets.contains(&key));
            answers.insert(key, standing.map_or_else(Vec::new, |entries| entries.to_vec()));
        }
        let mut entries = Vec::with_capacity(puts.len());
        let mut known = Vec::with_capacity(puts.len());
        let mut left = Vec::new();
        for Put { mut entry, expected } in puts {
            let list = answers.entry(entry.hash).or_default();
            let print = vary_print(&entry.vary);
            let at = list.iter().position(|standing| vary_print(&standing.vary) == print);
            let version = at.map_or(0, |at| list[at].seq);
            if expected.is_some_and(|expected| expected != version) {
                return Err(IndexError::Conflict);
            }
            Arc::make_mut(&mut entry).seq = seq;
            known.push(!list.is_empty());
            if let Some(at) = at {
                let body = list.remove(at).body;
                left.extend(body.filter(|_| body != entry.body));
            }
            list.insert(0, entry.clone());
            list.truncate(self.settings.variants_max.max(1));
            entries.push(entry);
        }
        answers.retain(|_, list| !list.is_empty());
        Ok(Merged { entries, known, answers, left })
    }
}

/// A row of the places as the table takes it.
pub(super) fn seat_of(digest: &Digest, sums: &[Checksum], place: Place, class: Class, used: Use) -> Blob {
    let sha256 = sums.iter().find(|sum| sum.algorithm() == Algorithm::Sha256);
    Blob { digest: digest.prefix(), sha256: sha256.map(Checksum::prefix), place, class, used }
}
