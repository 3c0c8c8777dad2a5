//! The blocking half of a writer: hashes pieces, spills them to a temporary file, and seals. Moves from job to job, so
//! that one piece at a time is in flight, in order; dropped, it takes its temporary file along.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Inner;
use super::blob_files::{OpenFile, file_place};
use super::budget::Reservation;
use super::error::StoreError;
use super::files::{Descriptor, Got, Mode, read_exact, write_all};
use super::fill::{Fill, Piece};
use super::fresh::FreshFile;
use super::hashes::{Hashes, Sums};
use super::home::Home;
use super::layout::{CHUNK, file_bytes, trailer};
use super::sum::xxh3_64_of_each;
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};
use crate::runtime::durable::Dirty;

pub(super) struct Work {
    inner: Arc<Inner>,
    fill: Arc<Fill>,
    class: Class,
    hashes: Hashes,
    /// Bytes hashed and spilled.
    len: u64,
    /// xxh3 of each chunk in the file.
    sums: Vec<u64>,
    temporary: Option<Temporary>,
    /// Shared with the fill, see there.
    reservation: Arc<Mutex<Reservation>>,
}

/// A blob that is complete, verified and readable, but not yet durable: `dirty` says how it becomes so.
pub struct SealedBlob {
    pub digest: Digest,
    pub sha256: Checksum,
    /// All that were computed, SHA-256 among them.
    pub sums: Vec<Checksum>,
    pub len: u64,
    pub place: Place,
    /// To be synced before the place is recorded, and held until it is: a file whose handle is dropped unsynced is
    /// removed, a segment may then be retired. Of a blob in a segment that is never recorded, `Store::remove` is told.
    pub dirty: Dirty,
    /// The bytes, when the blob is small enough for a segment. Exact: nobody's slice.
    pub small: Option<Bytes>,
}

impl Work {
    pub fn new(
        inner: Arc<Inner>,
        fill: Arc<Fill>,
        class: Class,
        sums: &[Algorithm],
        reservation: Arc<Mutex<Reservation>>,
    ) -> Work {
        let hashes = Hashes::new(sums);
        Work { inner, fill, class, hashes, len: 0, sums: Vec::new(), temporary: None, reservation }
    }

    /// Hashes a piece and appends it to the temporary file. Blocks.
    pub fn spill(&mut self, piece: &Piece) -> Result<(), StoreError> {
        let len = self.len + piece.len;
        self.reservation.lock().grow(file_bytes(len))?;
        let temporary = match &mut self.temporary {
            Some(temporary) => temporary,
            none => none.insert(Temporary::create(&self.inner.home)?),
        };
        self.hashes.update_parts(&piece.parts);
        let sums = xxh3_64_of_each(&piece.parts, CHUNK);
        let mut parts: Vec<_> = piece.parts.iter().map(|part| IoSlice::new(part)).collect();
        write_all(&*temporary.descriptor, &mut parts, self.len).map_err(StoreError::io("writing a blob"))?;
        self.fill.landed(&temporary.descriptor, piece.len, &sums);
        self.sums.extend(sums);
        self.len = len;
        Ok(())
    }

    /// Checks what came against what was promised, and makes it readable under a place. Blocks.
    pub fn seal(mut self, expect: &[Checksum]) -> Result<SealedBlob, StoreError> {
        if self.temporary.is_none() && self.fill.written() <= self.inner.border {
            return self.seal_small(expect);
        }
        if self.fill.written() > self.len {
            self.spill(&self.fill.clone().last())?;
        }
        self.seal_file(expect)
    }

    fn seal_small(self, expect: &[Checksum]) -> Result<SealedBlob, StoreError> {
        let bytes = self.fill.whole();
        let Work { inner, class, mut hashes, reservation, .. } = self;
        hashes.update(&bytes);
        let mut sums = hashes.finish();
        sums.complete(expect, |also| Ok(Sums::of(&bytes, also)))?;
        sums.check(expect)?;
        let _ours = inner.door.enter()?;
        let (place, dirty) = inner.segments.append(&inner.marks, class, &sums.digest, &bytes)?;
        reservation.lock().release();
        Ok(SealedBlob::new(sums, place, dirty, Some(bytes)))
    }

    fn seal_file(self, expect: &[Checksum]) -> Result<SealedBlob, StoreError> {
        let Work { inner, class, hashes, len, sums: chunk_sums, temporary, reservation, .. } = self;
        let Some(temporary) = temporary else { return Err(StoreError::Gone) };
        let mut sums = hashes.finish();
        sums.complete(expect, |also| hash_file(&*temporary.descriptor, len, also))?;
        sums.check(expect)?;
        let trailer = trailer(class, sums.digest, len, &chunk_sums);
        write_all(&*temporary.descriptor, &mut [IoSlice::new(&trailer)], len)
            .map_err(StoreError::io("writing a blob"))?;
        let _ours = inner.door.enter()?;
        let generation = inner.marks.next_generation(class).map_err(StoreError::io("numbering a blob"))?;
        let open = OpenFile::written(sums.digest, len, temporary.descriptor.clone(), chunk_sums);
        let path = temporary.keep();
        let fresh = FreshFile::new(Arc::new(open), class, generation, path, inner.blob_files.clone());
        let fresh = Arc::new(fresh);
        inner.blob_files.publish(&fresh);
        reservation.lock().release();
        Ok(SealedBlob::new(sums, file_place(generation, len), fresh, None))
    }
}

impl SealedBlob {
    pub(super) fn new(sums: Sums, place: Place, dirty: Dirty, small: Option<Bytes>) -> SealedBlob {
        let Sums { digest, sha256, all } = sums;
        SealedBlob { digest, sha256, sums: all, len: place.len, place, dirty, small }
    }
}

/// A file under a temporary name. Dropped, it is unlinked.
struct Temporary {
    home: Arc<Home>,
    path: Option<PathBuf>,
    descriptor: Arc<dyn Descriptor>,
}

impl Temporary {
    fn create(home: &Arc<Home>) -> Result<Temporary, StoreError> {
        let path = home.temporary();
        let descriptor = home.files.create(&path).map_err(StoreError::io("creating a blob"))?;
        Ok(Temporary { home: home.clone(), path: Some(path), descriptor })
    }

    /// Leaves the file to the caller.
    fn keep(mut self) -> PathBuf {
        self.path.take().unwrap_or_default()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if let Err(error) = self.home.files.remove(&path) {
            tracing::warn!(%error, "a temporary file stays until the next start");
        }
    }
}

/// Sums of what is in a file, for algorithms that nobody announced in time.
fn hash_file(file: &dyn Descriptor, len: u64, also: &[Algorithm]) -> Result<Sums, StoreError> {
    let mut hashes = Hashes::new(also);
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let piece = ((len - at) as usize).min(CHUNK);
        let got = read_exact(file, &mut [], &mut buffer[..piece], at, Mode::Wait);
        if got.map_err(StoreError::io("reading a blob"))? != Got::All {
            return Err(StoreError::Gone);
        }
        hashes.update(&buffer[..piece]);
        at += piece as u64;
    }
    Ok(hashes.finish())
}
