//! What the index's tests share: entries, blobs, a disk that can lose what was written.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;

use super::catalog::Put;
use super::record::{NewBlob, Record};
use super::{Index, Settings};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::Key;
use crate::model::place::{Class, Place, TierName};
use crate::model::realm::{Realm, Scope};
use crate::model::time::Timestamp;
use crate::runtime::clock::{Clock, ManualClock};
use crate::runtime::durable::{Dirty, Unsynced};

/// Whether a sync succeeds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Lost,
}

/// Counts syncs by object.
#[derive(Clone, Default)]
pub(super) struct Disk {
    syncs: Arc<Mutex<HashMap<u64, u64>>>,
}

struct Object {
    number: u64,
    fate: Fate,
    disk: Disk,
}

impl Disk {
    pub(super) fn new() -> Disk {
        Disk::default()
    }

    pub(super) fn object(&self, number: u64, fate: Fate) -> Dirty {
        Arc::new(Object { number, fate, disk: self.clone() })
    }

    pub(super) fn syncs(&self, number: u64) -> u64 {
        self.syncs.lock().get(&number).copied().unwrap_or(0)
    }
}

impl Unsynced for Object {
    fn object(&self) -> u64 {
        self.number
    }

    fn sync(&self) -> io::Result<()> {
        *self.disk.syncs.lock().entry(self.number).or_default() += 1;
        match self.fate {
            Fate::Kept => Ok(()),
            Fate::Lost => Err(io::Error::other("the disk lost it")),
        }
    }
}

pub(super) fn clock() -> Arc<ManualClock> {
    ManualClock::at(Timestamp::from_secs(1_800_000_000))
}

pub(super) fn open(dir: &Path) -> Index {
    open_with(dir, &Settings::default(), clock())
}

pub(super) fn open_with(dir: &Path, settings: &Settings, clock: Arc<dyn Clock>) -> Index {
    Index::open(dir, settings, clock, Box::new(|_, _, _| {})).expect("the index opens")
}

pub(super) fn key(path: &str) -> Key {
    Key {
        scope: Scope::shared(),
        ecosystem: "go",
        upstream: "https://upstream.test".into(),
        path: path.into(),
        variant: String::new(),
    }
}

pub(super) fn entry(path: &str, body: Option<&[u8]>) -> Entry {
    let key = key(path);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("text/plain"));
    Entry {
        hash: key.hash(),
        key: Arc::new(key),
        status: 200,
        headers,
        vary: Vec::new(),
        body: body.map(Digest::of),
        len: body.map_or(0, |body| body.len() as u64),
        requested_at: Timestamp(1_000),
        fetched_at: Timestamp(2_000),
        fetch_ms: 30,
        seq: 0,
        refs: Vec::new(),
        writer: Arc::from("anonymous"),
        realm: Realm::public(),
        valid: true,
    }
}

pub(super) fn put(entry: Entry) -> Put {
    Put { entry: Arc::new(entry), expected: None }
}

pub(super) fn sha256(bytes: &[u8]) -> Checksum {
    use sha2::Digest as _;
    Checksum::new(Algorithm::Sha256, &sha2::Sha256::digest(bytes)).expect("has the length of SHA-256")
}

pub(super) fn place(object: u32, len: u64) -> Place {
    Place { tier: TierName::File, object, offset: 0, len }
}

pub(super) fn blob(bytes: &[u8], object: u32, fate: Fate) -> NewBlob {
    NewBlob {
        digest: Digest::of(bytes),
        sums: vec![sha256(bytes)],
        place: place(object, bytes.len() as u64),
        class: Class::Trusted,
        dirty: Disk::new().object(u64::from(object), fate),
    }
}

/// A blob under a path, readable by all.
pub(super) fn stored(path: &str, bytes: &[u8], object: u32) -> Record {
    Record {
        blob: Some(blob(bytes, object, Fate::Kept)),
        entries: vec![put(entry(path, Some(bytes)))],
        edges: vec![(Realm::public(), Digest::of(bytes))],
        ..Record::default()
    }
}
