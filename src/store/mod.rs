//! The tiers, stacked: blobs by digest and place. Knows no keys, no HTTP and no index.
//!
//! Memory holds exact copies of small blobs. On disk, blobs up to a border are appended to segments, larger ones are
//! files with a trailer of sums. All bytes are checked when they are read; a place that names no bytes any more is
//! `Gone`, one that names wrong bytes `Corrupt`, and neither is ever served.
//!
//! What is sealed is readable at once. It is durable after its `Dirty` handle was synced, which the index does before
//! it commits the place. What must happen after a restart: the index feeds the places it knows to `Store::adopt`, so
//! that usage is right without a look at the tree; `sweep_temporary` runs in the background.

mod blob_files;
mod budget;
mod buffers;
#[cfg(test)]
mod contract;
mod door;
mod error;
#[cfg(test)]
pub(crate) mod fault;
mod files;
mod fill;
mod fresh;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hashes;
mod home;
mod layout;
mod marks;
mod memory;
mod reader;
mod record;
pub mod s3;
mod segment;
mod segments;
mod settings;
mod sum;
#[cfg(test)]
mod tests;
mod upkeep;
mod work;
mod writer;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use self::budget::{ClassUse, Usage};
pub use self::error::StoreError;
pub use self::files::{Access, Descriptor, Files, Space, SystemFiles};
pub use self::fill::Partial;
pub use self::hashes::Hashes;
pub use self::reader::BlobReader;
pub use self::segments::{SegmentPhase, SegmentUse};
pub use self::settings::Settings;
pub use self::work::SealedBlob;
pub use self::writer::{BlobWriter, Intent};

use self::blob_files::BlobFiles;
use self::budget::{Budget, Room};
use self::buffers::Buffers;
use self::door::Door;
use self::home::Home;
use self::layout::{CHUNK, file_bytes, record_bytes};
use self::marks::Marks;
use self::memory::Memory;
use self::reader::{Chunks, Keep, Opened, Whole};
use self::segments::Segments;
use self::settings::Limits;
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::model::range::ByteRange;
use crate::runtime::clock::Clock;

/// All tiers of this node. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    home: Arc<Home>,
    memory: Memory,
    segments: Segments,
    blob_files: Arc<BlobFiles>,
    budget: Arc<Budget>,
    buffers: Arc<Buffers>,
    marks: Marks,
    door: Door,
    /// Blobs up to this go to segments.
    border: u64,
}

impl Store {
    /// Opens the store in `dir`, which is made if it is not there. Reads the names of segments, no tree; writes
    /// nothing, so that a full disk can be read.
    ///
    /// *Errors*: `Io`.
    pub fn open(
        dir: &Path,
        settings: &Settings,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
    ) -> Result<Store, StoreError> {
        let failed = StoreError::io("opening the store");
        let home = Arc::new(Home::new(dir, files));
        for path in [home.segments(), home.all_files(), home.temporaries()] {
            home.files.make_dir(&path).map_err(&failed)?;
        }
        let space = home.files.space(dir).map_err(&failed)?;
        let limits = Limits::of(settings, space);
        let budget = Arc::new(Budget::new(&limits, space, home.clone(), clock));
        let kept_open = limits.descriptors / 4;
        let segments = Segments::open(home.clone(), budget.clone(), limits.segment_bytes, kept_open);
        let segments = segments.map_err(&failed)?;
        let marks = Marks::open(home.clone(), segments.next_number()).map_err(&failed)?;
        let blob_files = BlobFiles::new(home.clone(), budget.clone(), limits.descriptors - kept_open);
        let inner = Inner {
            home,
            memory: Memory::new(settings.memory_bytes, settings.memory_max_blob),
            segments,
            blob_files: Arc::new(blob_files),
            budget,
            buffers: Arc::new(Buffers::default()),
            marks,
            door: Door::default(),
            border: limits.border,
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// What a place takes of the volume, with all that stands around the blob's bytes.
    pub fn disk_bytes(&self, place: &Place) -> u64 {
        match place.tier {
            TierName::Memory | TierName::S3 => 0,
            TierName::Segment => record_bytes(place.len),
            TierName::File => file_bytes(place.len),
        }
    }

    /// Begins a blob.
    ///
    /// *Errors*: `Full` when there is no room now, `TooLarge` when there never is.
    /// *Cancel*: a dropped writer leaves nothing.
    pub fn writer(&self, about: Intent) -> Result<BlobWriter, StoreError> {
        let bytes = match about.len {
            None => CHUNK as u64,
            Some(len) if len <= self.inner.border => record_bytes(len),
            Some(len) => file_bytes(len),
        };
        let limit = self.inner.budget.limit(about.class);
        if let Some(len) = about.len.filter(|_| bytes > limit) {
            return Err(StoreError::TooLarge { len, limit });
        }
        let reservation = self.inner.budget.reserve(about.class, bytes, Room::Budget)?;
        Ok(BlobWriter::new(self.inner.clone(), &about, reservation))
    }

    /// Looks in the memory tier alone.
    pub fn recall(&self, digest: &Digest) -> Option<Bytes> {
        self.inner.memory.get(digest)
    }

    /// Copies bytes into the memory tier, if they are not too many. The caller vouches for them.
    pub fn remember(&self, digest: &Digest, bytes: Bytes) {
        self.inner.memory.remember(digest, &bytes);
    }

    /// Opens a range of the blob at `place`. Small blobs that the page cache has are read before this returns, and
    /// move to memory when they are read a second time.
    ///
    /// *Errors*: `Gone` when the place names nothing (any more), `Corrupt`, `Io`, `Full` (no descriptor left).
    pub fn open_blob(&self, digest: &Digest, place: &Place, range: ByteRange) -> Result<BlobReader, StoreError> {
        let inner = &self.inner;
        let end = range.end.min(place.len);
        let range = ByteRange { start: range.start.min(end), end };
        let whole = range == place.whole();
        if place.len == 0 && *digest != Digest::of(b"") {
            return Err(StoreError::Corrupt { digest: *digest, why: "its place has no bytes" });
        }
        let keep = || if inner.memory.deserves(digest, place.len) { Keep::InMemory } else { Keep::No };
        let (from, keep) = match place.tier {
            TierName::Memory => {
                let bytes = inner.memory.get(digest).filter(|bytes| bytes.len() as u64 == place.len);
                let part = bytes.ok_or(StoreError::Gone)?.slice(range.start as usize..range.end as usize);
                return Ok(BlobReader::of_memory(part, range, TierName::Memory));
            }
            TierName::S3 => return Err(StoreError::Gone),
            TierName::Segment => (Opened::Segment(inner.segments.opened(place)?), keep()),
            TierName::File => {
                let file = inner.blob_files.opened(digest, place)?;
                if !whole || keep() == Keep::No {
                    return Ok(BlobReader::of_chunks(Chunks::new(inner.clone(), file), range));
                }
                (Opened::File(file), Keep::InMemory)
            }
        };
        let blob = Whole { inner: inner.clone(), digest: *digest, place: *place, from, keep };
        BlobReader::of_whole(blob, range)
    }

    /// Drops bytes after the index dropped their place. A file is unlinked, who reads it goes on; bytes in a segment
    /// go with their segment. Blocks for the time of an unlink.
    pub fn remove(&self, digest: &Digest, place: &Place) {
        self.inner.remove(digest, place);
    }

    /// Lets go of the directory, before its lock is: a successor appends to the same segments. What was sealed may still
    /// be synced, readers read on; nothing more is sealed or removed, a fill under way counts as `Full`. May block.
    pub fn close(&self) {
        self.inner.door.close();
    }

    /// What is used, by tier and class, and what may be.
    pub fn usage(&self) -> Usage {
        let (memory_bytes, memory_blobs) = self.inner.memory.usage();
        let memory_budget_bytes = self.inner.memory.budget();
        Usage { memory_bytes, memory_blobs, memory_budget_bytes, ..self.inner.budget.usage() }
    }

    /// All segments, by number.
    pub fn segments(&self) -> Vec<SegmentUse> {
        self.inner.segments.list()
    }

    /// Lets a segment take no more blobs, before its survivors are copied forward.
    pub fn close_segment(&self, segment: u32) {
        self.inner.segments.close(segment);
    }

    /// Whether nobody holds the handle of an append to a segment any more: all that is in it has been recorded, or is
    /// nobody's. Of a closed one this stays so.
    pub fn is_told(&self, segment: u32) -> bool {
        self.inner.segments.is_told(segment)
    }

    /// Unlinks a whole segment, after the index dropped or moved all its places. Who reads it goes on. Blocks.
    ///
    /// *Errors*: `Gone` when there is none; after `Io` and `Full` it is still there.
    pub fn retire_segment(&self, segment: u32) -> Result<(), StoreError> {
        let _ours = self.inner.door.enter()?;
        self.inner.segments.retire(segment)
    }

    /// The class that the bytes at a place count against, where it is known.
    pub fn class_at(&self, place: &Place) -> Option<Class> {
        match place.tier {
            TierName::Memory | TierName::S3 => None,
            TierName::Segment => self.inner.segments.class(place.object),
            TierName::File => marks::class_of(place.object),
        }
    }
}

impl Hashes {
    /// The sum of all that came. None: it was not announced.
    pub fn sum(self, algorithm: Algorithm) -> Option<Checksum> {
        self.finish().get(algorithm).copied()
    }

    /// The digest of all that came.
    pub fn digest(self) -> Digest {
        self.finish().digest
    }
}

impl Inner {
    fn remove(&self, digest: &Digest, place: &Place) {
        // Left to the successor's scrub.
        let Ok(_ours) = self.door.enter() else { return };
        self.memory.forget(digest);
        match place.tier {
            TierName::Memory | TierName::S3 => {}
            TierName::Segment => self.segments.remove(place),
            TierName::File => self.blob_files.remove(digest, place),
        }
    }
}
