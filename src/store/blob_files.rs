//! The file tier: blobs above the border, a file each. Descriptors are kept open with the sums that check their chunks.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use parking_lot::Mutex;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;

use super::budget::{Budget, Kind};
use super::buffers::Buffers;
use super::error::{StoreError, out_of_descriptors};
use super::files::{Access, Descriptor, Got, Mode, read_exact};
use super::fresh::FreshFile;
use super::home::Home;
use super::layout::{CHUNK, PIECE, chunks, file_bytes, read_trailer, trailer_bytes};
use super::marks::class_of;
use super::sum::xxh3_64;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};

/// Told to the kernel when a read has to wait: the next chunks will be wanted too.
const READ_AHEAD: u64 = 4 * CHUNK as u64;

pub(super) type FileKey = (Digest, u32);

pub(super) struct BlobFiles {
    pub home: Arc<Home>,
    pub budget: Arc<Budget>,
    opened: Cache<FileKey, Arc<OpenFile>, UnitWeighter, DefaultHashBuilder>,
    /// Sealed, not yet under their final names. Held by those who will sync them.
    fresh: Mutex<HashMap<FileKey, Weak<FreshFile>>>,
    /// Directories that surely exist, by the first byte of the digest.
    shelves: Mutex<[bool; 256]>,
}

impl BlobFiles {
    pub fn new(home: Arc<Home>, budget: Arc<Budget>, descriptors: usize) -> BlobFiles {
        let hasher = DefaultHashBuilder::default();
        let opened = Cache::with(descriptors, descriptors as u64, UnitWeighter, hasher, Default::default());
        BlobFiles { home, budget, opened, fresh: Mutex::default(), shelves: Mutex::new([false; 256]) }
    }

    /// Makes a sealed file readable before it is durable.
    pub fn publish(&self, fresh: &Arc<FreshFile>) {
        let key = fresh.key();
        self.fresh.lock().insert(key, Arc::downgrade(fresh));
        self.opened.insert(key, fresh.open.clone());
        self.budget.count(fresh.class, Kind::File, signed(file_bytes(fresh.open.len)), 1);
    }

    /// The fresh file has its final name.
    pub fn settled(&self, key: &FileKey) {
        self.fresh.lock().remove(key);
    }

    /// A fresh file is no more.
    pub fn vanished(&self, key: &FileKey, class: Class, len: u64) {
        self.fresh.lock().remove(key);
        self.opened.remove(key);
        self.budget.count(class, Kind::File, -signed(file_bytes(len)), -1);
    }

    /// Where the file will lie; makes the directory.
    pub fn final_path(&self, key: &FileKey) -> io::Result<PathBuf> {
        let first = key.0.as_bytes()[0];
        let mut shelves = self.shelves.lock();
        if !shelves[usize::from(first)] {
            self.home.files.make_dir(&self.home.shelf(first))?;
            self.home.files.sync_dir(&self.home.all_files())?;
            shelves[usize::from(first)] = true;
        }
        Ok(self.home.file(&key.0, key.1))
    }

    /// The file of a place, open.
    ///
    /// *Errors*: `Gone` when there is no such file, or a failed sync condemned it.
    pub fn opened(&self, digest: &Digest, place: &Place) -> Result<Arc<OpenFile>, StoreError> {
        let key = (*digest, place.object);
        let open = match self.opened.get(&key) {
            Some(open) => open,
            None => self.open_file(key, place.len)?,
        };
        if open.condemned.load(Ordering::Acquire) {
            return Err(StoreError::Gone);
        }
        if open.len != place.len {
            return Err(StoreError::Corrupt { digest: *digest, why: "its length is not the recorded one" });
        }
        Ok(open)
    }

    fn open_file(&self, key: FileKey, len: u64) -> Result<Arc<OpenFile>, StoreError> {
        // A fresh file leaves this table only after it has its final name.
        if let Some(fresh) = self.fresh.lock().get(&key).and_then(Weak::upgrade) {
            self.opened.insert(key, fresh.open.clone());
            return Ok(fresh.open.clone());
        }
        let path = self.home.file(&key.0, key.1);
        let mut opened = self.home.files.open(&path, Access::Read);
        if opened.as_ref().is_err_and(out_of_descriptors) {
            self.opened.clear();
            opened = self.home.files.open(&path, Access::Read);
        }
        let descriptor = match opened {
            Ok(descriptor) => descriptor,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Gone),
            Err(error) => return Err(StoreError::io("opening a blob")(error)),
        };
        let open = Arc::new(OpenFile::new(key.0, len, descriptor));
        self.opened.insert(key, open.clone());
        // It may have been removed meanwhile: then a kept descriptor would hold its room for long.
        if self.home.files.len(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.opened.remove(&key);
            return Err(StoreError::Gone);
        }
        Ok(open)
    }

    /// Unlinks a file. Who reads it goes on. Blocks.
    pub fn remove(&self, digest: &Digest, place: &Place) {
        let key = (*digest, place.object);
        let fresh = self.fresh.lock().get(&key).and_then(Weak::upgrade);
        if fresh.is_some_and(|fresh| fresh.cancel()) {
            return;
        }
        match self.home.files.remove(&self.home.file(digest, place.object)) {
            Ok(()) => self.uncount(place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%digest, %error, "a blob's file could not be removed"),
        }
        // After the name, see `open_file`.
        self.opened.remove(&key);
    }

    /// Moves a bad file out of the way, for someone to look at. Blocks.
    pub fn set_aside(&self, digest: &Digest, place: &Place) -> Result<(), StoreError> {
        let failed = StoreError::io("setting a blob aside");
        let from = self.home.file(digest, place.object);
        let to = self.home.set_aside().join(format!("{digest}.{}", place.object));
        match self.home.files.rename(&from, &to) {
            Ok(()) => self.uncount(place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.remove(digest, place),
            Err(error) => return Err(failed(error)),
        }
        self.opened.remove(&(*digest, place.object));
        Ok(())
    }

    fn uncount(&self, place: &Place) {
        let class = class_of(place.object).unwrap_or(Class::Trusted);
        self.budget.count(class, Kind::File, -signed(file_bytes(place.len)), -1);
    }

    /// Counts a file that the index knows from an earlier run.
    pub fn adopt(&self, place: &Place) {
        let class = class_of(place.object).unwrap_or(Class::Trusted);
        self.budget.count(class, Kind::File, signed(file_bytes(place.len)), 1);
    }
}

/// A file and what checks its chunks.
pub(super) struct OpenFile {
    pub digest: Digest,
    /// Raw bytes.
    pub len: u64,
    pub descriptor: Arc<dyn Descriptor>,
    sums: OnceLock<Box<[u64]>>,
    pub condemned: AtomicBool,
    pub reading: Arc<AtomicUsize>,
}

impl OpenFile {
    pub fn new(digest: Digest, len: u64, descriptor: Arc<dyn Descriptor>) -> OpenFile {
        let sums = OnceLock::new();
        OpenFile { digest, len, descriptor, sums, condemned: AtomicBool::new(false), reading: Arc::default() }
    }

    /// One that was just written.
    pub fn written(digest: Digest, len: u64, descriptor: Arc<dyn Descriptor>, sums: Vec<u64>) -> OpenFile {
        OpenFile { sums: OnceLock::from(sums.into_boxed_slice()), ..OpenFile::new(digest, len, descriptor) }
    }

    /// Reads and checks one chunk. Blocks.
    pub fn chunk(&self, index: u64, buffers: &Arc<Buffers>) -> Result<Option<Bytes>, StoreError> {
        let start = index * CHUNK as u64;
        let len = (self.len.saturating_sub(start) as usize).min(CHUNK);
        let mut buffer = buffers.take(len);
        Ok(self.read(start, buffer.as_mut(), Mode::Wait)?.then(|| buffer.freeze()))
    }

    /// Reads and checks what the page cache has of a piece: whole chunks from `index` on, none that starts behind
    /// `end`. None: not even one chunk.
    pub fn piece(&self, index: u64, end: u64, buffers: &Arc<Buffers>) -> Result<Option<Bytes>, StoreError> {
        let Some(sums) = self.sums(Mode::Now)? else { return Ok(None) };
        let start = index * CHUNK as u64;
        let end = end.next_multiple_of(CHUNK as u64).min(self.len).min(start + PIECE as u64);
        let mut buffer = buffers.take_up_to(end.saturating_sub(start) as usize);
        let bytes = buffer.as_mut();
        let got = match self.descriptor.read_now(&mut [IoSliceMut::new(bytes)], start) {
            Ok(got) if got == bytes.len() => got,
            Ok(got) => got / CHUNK * CHUNK,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(StoreError::io("reading a blob")(error)),
        };
        if got == 0 {
            return Ok(None);
        }
        self.check(sums, start, &bytes[..got])?;
        Ok(Some(buffer.freeze().slice(..got)))
    }

    /// Reads and checks the whole blob into memory of its own. None: not all of it is in the page cache.
    pub fn whole(&self, mode: Mode) -> Result<Option<Bytes>, StoreError> {
        let len = usize::try_from(self.len).map_err(|_| self.corrupt("it is larger than memory"))?;
        let mut bytes = vec![0; len];
        Ok(self.read(0, &mut bytes, mode)?.then(|| Bytes::from(bytes)))
    }

    /// Fills `bytes` from `start`, the start of a chunk, and checks each chunk of it.
    fn read(&self, start: u64, bytes: &mut [u8], mode: Mode) -> Result<bool, StoreError> {
        let Some(sums) = self.sums(mode)? else { return Ok(false) };
        if mode == Mode::Wait {
            self.descriptor.prefetch(start, bytes.len() as u64 + READ_AHEAD);
        }
        let got = read_exact(&*self.descriptor, &mut [], bytes, start, mode);
        match got.map_err(StoreError::io("reading a blob"))? {
            Got::All => {}
            Got::NotNow => return Ok(false),
            Got::Short => return Err(self.corrupt("its file is cut off")),
        }
        self.check(sums, start, bytes)?;
        Ok(true)
    }

    /// Holds whole chunks from `start` on against their sums.
    fn check(&self, sums: &[u64], start: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let first = (start / CHUNK as u64) as usize;
        for (at, chunk) in bytes.chunks(CHUNK).enumerate() {
            if sums.get(first + at) != Some(&xxh3_64(chunk)) {
                return Err(self.corrupt("its bytes do not match their sum"));
            }
        }
        Ok(())
    }

    /// The sums of the chunks; read once.
    fn sums(&self, mode: Mode) -> Result<Option<&[u64]>, StoreError> {
        if let Some(sums) = self.sums.get() {
            return Ok(Some(sums));
        }
        let len = trailer_bytes(self.len) as usize;
        // Whatever a damaged index says, no more is allocated than the file could have.
        if len > CHUNK {
            let file = self.descriptor.size().map_err(StoreError::io("reading a blob"))?;
            if file != self.len + len as u64 {
                return Err(self.corrupt("its file is cut off"));
            }
        }
        let mut trailer = vec![0; len];
        let got = read_exact(&*self.descriptor, &mut [], &mut trailer, self.len, mode);
        match got.map_err(StoreError::io("reading a blob"))? {
            Got::All => {}
            Got::NotNow => return Ok(None),
            Got::Short => return Err(self.corrupt("its file is cut off")),
        }
        let sums = read_trailer(&trailer, &self.digest, self.len)?;
        Ok(Some(self.sums.get_or_init(|| sums)))
    }

    /// How many chunks there are.
    pub const fn chunks(&self) -> u64 {
        chunks(self.len)
    }

    fn corrupt(&self, why: &'static str) -> StoreError {
        StoreError::Corrupt { digest: self.digest, why }
    }
}

/// The place of a file.
pub(super) const fn file_place(generation: u32, len: u64) -> Place {
    Place { tier: TierName::File, object: generation, offset: 0, len }
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
