//! What keeps the store in order behind the scenes. All of it blocks: call it on a pool.

use std::sync::Arc;

use super::budget::Room;
use super::error::StoreError;
use super::files::{Mode, write_all};
use super::hashes::Sums;
use super::home::file_name;
use super::layout::record_bytes;
use super::work::SealedBlob;
use super::{Inner, Store};
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};

/// Bad blobs kept for someone to look at; more are removed.
const SET_ASIDE: usize = 64;
/// Larger bad blobs are removed at once.
const SET_ASIDE_BYTES: u64 = 16 * 1024 * 1024;

impl Store {
    /// Counts what the index knows from earlier runs; in any order, in as many calls as suits. Blobs of this run
    /// among them are left out, since they are counted already.
    pub fn adopt(&self, places: impl IntoIterator<Item = (Place, Class)>) {
        for (place, class) in places {
            match place.tier {
                TierName::Memory | TierName::S3 => {}
                TierName::Segment => self.inner.segments.adopt(&place, class),
                TierName::File if self.inner.marks.is_of_this_run(place.object) => {}
                TierName::File => self.inner.blob_files.adopt(&place),
            }
        }
    }

    /// Reads a blob whole and hashes it again. Blocks.
    ///
    /// *Errors*: `Corrupt`, `Gone`, `Io`.
    pub fn verify_blob(&self, digest: &Digest, place: &Place) -> Result<(), StoreError> {
        let found = match place.tier {
            TierName::Memory => Digest::of(&self.recall(digest).ok_or(StoreError::Gone)?),
            TierName::S3 => return Err(StoreError::Gone),
            TierName::Segment => {
                let open = self.inner.segments.opened(place)?;
                let bytes = open.read(digest, place, Some(&self.inner.buffers), Mode::Wait)?;
                Digest::of(&bytes.ok_or(StoreError::Gone)?)
            }
            TierName::File => {
                let file = self.inner.blob_files.opened(digest, place)?;
                let mut hash = blake3::Hasher::new();
                for index in 0..file.chunks() {
                    let bytes = file.chunk(index, &self.inner.buffers)?;
                    hash.update(&bytes.ok_or(StoreError::Gone)?);
                }
                Digest::from_bytes(*hash.finalize().as_bytes())
            }
        };
        if found != *digest {
            return Err(StoreError::Corrupt { digest: *digest, why: "its bytes hash to something else" });
        }
        Ok(())
    }

    /// Sets a bad blob aside in `bad/`, after the index dropped its place. Blocks.
    pub fn quarantine(&self, digest: &Digest, place: &Place) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _ours = inner.door.enter()?;
        inner.memory.forget(digest);
        let bad = inner.home.set_aside();
        inner.home.files.make_dir(&bad).map_err(StoreError::io("setting a blob aside"))?;
        let held = inner.home.files.list(&bad).map_err(StoreError::io("setting a blob aside"))?;
        if held.len() >= SET_ASIDE || place.len > SET_ASIDE_BYTES {
            inner.remove(digest, place);
            return Ok(());
        }
        match place.tier {
            TierName::Memory | TierName::S3 => Ok(()),
            TierName::File => inner.blob_files.set_aside(digest, place),
            TierName::Segment => {
                inner.set_record_aside(digest, place);
                inner.segments.remove(place);
                Ok(())
            }
        }
    }

    /// Writes a blob of a segment once more, so that its segment can be retired; may use the reserve. Blocks.
    ///
    /// *Errors*: `Corrupt` when it is not worth it; `Full`; `Gone`, also for what is in no segment.
    pub fn copy_forward(&self, digest: &Digest, place: &Place) -> Result<SealedBlob, StoreError> {
        let inner = &self.inner;
        if place.tier != TierName::Segment {
            return Err(StoreError::Gone);
        }
        let open = inner.segments.opened(place)?;
        let bytes = open.read(digest, place, None, Mode::Wait)?.ok_or(StoreError::Gone)?;
        let sums = Sums::of(&bytes, &[]);
        if sums.digest != *digest {
            return Err(StoreError::Corrupt { digest: *digest, why: "its bytes hash to something else" });
        }
        let known = inner.segments.close(place.object).ok_or(StoreError::Gone)?;
        let class = known.or(open.class_of(digest, place)?).unwrap_or(Class::Trusted);
        let mut held = inner.budget.reserve(class, record_bytes(place.len), Room::Reserve)?;
        let _ours = inner.door.enter()?;
        let (place, dirty) = inner.segments.append(&inner.marks, class, digest, &bytes)?;
        held.release();
        Ok(SealedBlob::new(sums, place, dirty, Some(bytes)))
    }

    /// Removes what a crash left among the temporary files; those of this run stay. Blocks.
    ///
    /// *Shape*: how many were removed.
    pub fn sweep_temporary(&self) -> usize {
        let home = &self.inner.home;
        let Ok(_ours) = self.inner.door.enter() else { return 0 };
        let names = home.files.list(&home.temporaries()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the temporary files cannot be listed");
            Vec::new()
        });
        let left = names.iter().filter(|name| !home.is_of_this_run(name));
        left.filter(|name| home.files.remove(&home.temporaries().join(name)).is_ok()).count()
    }

    /// Removes files that no place names: a crash between rename and commit leaves them. Reads the whole tree, so
    /// only for a background walk; `named` answers whether the index has the blob at that object. Blocks.
    ///
    /// *Shape*: how many were removed.
    pub fn sweep_files(&self, named: impl Fn(&Digest, u32) -> bool) -> Result<usize, StoreError> {
        let home = &self.inner.home;
        let failed = StoreError::io("listing the files");
        let mut removed = 0;
        for first in 0..=u8::MAX {
            let shelf = home.shelf(first);
            let names = match home.files.list(&shelf) {
                Ok(names) => names,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let _ours = self.inner.door.enter()?;
            for (digest, generation) in names.iter().filter_map(|name| file_name(name)) {
                if !self.inner.marks.is_of_this_run(generation) && !named(&digest, generation) {
                    removed += usize::from(home.files.remove(&home.file(&digest, generation)).is_ok());
                }
            }
        }
        Ok(removed)
    }
}

impl Inner {
    /// Copies the bytes at a segment's place, good or bad, to a file. What fails is told and let be.
    fn set_record_aside(self: &Arc<Inner>, digest: &Digest, place: &Place) {
        let copy = || -> Result<(), StoreError> {
            let failed = StoreError::io("setting a blob aside");
            let bytes = self.segments.opened(place)?.raw(place)?;
            let name = format!("{digest}.segment-{}-{}", place.object, place.offset);
            let file = self.home.files.create(&self.home.set_aside().join(name)).map_err(&failed)?;
            write_all(&*file, &mut [std::io::IoSlice::new(&bytes)], 0).map_err(&failed)
        };
        if let Err(error) = copy() {
            tracing::warn!(%digest, %error, "a bad blob could not be copied for a look at it");
        }
    }
}
