//! The store as a whole, over a real directory and a file system that fails on demand.

mod crash;
mod faults;
mod flips;
mod followers;
mod restart;
mod room;
mod whole;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::fault::FaultFiles;
use super::{Intent, SealedBlob, Settings, Store, StoreError};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::model::range::ByteRange;
use crate::model::time::Timestamp;
use crate::runtime::clock::ManualClock;

/// A directory for a store, and the way to break it.
pub(super) struct Bed {
    pub dir: TempDir,
    pub files: FaultFiles,
    pub clock: Arc<ManualClock>,
    pub settings: Settings,
}

impl Bed {
    pub fn new() -> Bed {
        let settings =
            Settings { max_bytes: Some(1 << 30), segment_bytes: 1 << 20, min_free_percent: 0, ..Settings::default() };
        Bed {
            dir: tempfile::tempdir().expect("a directory"),
            files: FaultFiles::default(),
            clock: ManualClock::at(Timestamp::from_secs(1_700_000_000)),
            settings,
        }
    }

    pub fn open(&self) -> Store {
        self.try_open().expect("the store opens")
    }

    pub fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(self.dir.path(), &self.settings, Arc::new(self.files.clone()), self.clock.clone())
    }

    /// Names in a directory of the store.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join(dir)) else { return Vec::new() };
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("ours")).collect()
    }

    /// What `du` says of blobs on disk.
    pub fn disk_bytes(&self) -> u64 {
        ["files", "segments", "tmp"].iter().map(|dir| file_blocks(&self.dir.path().join(dir))).sum()
    }
}

fn file_blocks(path: &Path) -> u64 {
    let Ok(about) = std::fs::metadata(path) else { return 0 };
    if about.is_file() {
        return about.blocks() * 512;
    }
    std::fs::read_dir(path).expect("listed").map(|entry| file_blocks(&entry.expect("listed").path())).sum()
}

/// Bytes that look like nothing, the same for the same seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) async fn try_put(store: &Store, bytes: &[u8], class: Class) -> Result<SealedBlob, StoreError> {
    let len = Some(bytes.len() as u64);
    let mut writer = store.writer(Intent { len, class, sums: Vec::new() })?;
    for chunk in bytes.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.seal(&[], len).await
}

pub(super) async fn put(store: &Store, bytes: &[u8]) -> SealedBlob {
    try_put(store, bytes, Class::Trusted).await.expect("there is room")
}

/// Reads a range and holds the reader to its words.
pub(super) async fn get(
    store: &Store,
    digest: &Digest,
    place: &Place,
    range: ByteRange,
) -> Result<Vec<u8>, StoreError> {
    let mut reader = store.open_blob(digest, place, range)?;
    let len = reader.len();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.chunk().await {
        let chunk = chunk?;
        assert!(!chunk.is_empty());
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes.len() as u64, len);
    Ok(bytes)
}

pub(super) async fn get_all(store: &Store, blob: &SealedBlob) -> Result<Vec<u8>, StoreError> {
    get(store, &blob.digest, &blob.place, blob.place.whole()).await
}

/// Waits for what happens on the pool.
pub(super) async fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000_000 {
        if what() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not happen");
}
