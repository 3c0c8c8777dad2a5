//! Where things lie in the data directory: the only file that spells a path.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::files::Files;
use crate::model::digest::Digest;
use crate::model::hex;
use crate::runtime::clock::random_bytes;

/// The data directory and the way to it.
pub(super) struct Home {
    pub files: Arc<dyn Files>,
    dir: PathBuf,
    /// Marks the temporary files of this run, so that a sweep leaves them alone.
    run: String,
    temporary: AtomicU64,
}

impl Home {
    pub fn new(dir: &Path, files: Arc<dyn Files>) -> Home {
        Home { files, dir: dir.to_owned(), run: hex::encode(&random_bytes::<8>()), temporary: AtomicU64::new(0) }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn segments(&self) -> PathBuf {
        self.dir.join("segments")
    }

    pub fn segment(&self, number: u32) -> PathBuf {
        self.segments().join(format!("{number:08}.seg"))
    }

    pub fn all_files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// The directory of all files whose digest begins with `first`.
    pub fn shelf(&self, first: u8) -> PathBuf {
        self.all_files().join(hex::encode(&[first]))
    }

    pub fn file(&self, digest: &Digest, generation: u32) -> PathBuf {
        self.shelf(digest.as_bytes()[0]).join(format!("{digest}.{generation}"))
    }

    pub fn temporaries(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// A name that was never used before.
    pub fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.temporaries().join(format!("{}-{number}", self.run))
    }

    pub fn is_of_this_run(&self, name: &str) -> bool {
        name.starts_with(&self.run)
    }

    pub fn set_aside(&self) -> PathBuf {
        self.dir.join("bad")
    }

    pub fn marks(&self) -> PathBuf {
        self.dir.join("store.marks")
    }
}

/// The number in a segment's file name.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    name.strip_suffix(".seg")?.parse().ok()
}

/// Digest and generation in a file's name.
pub(super) fn file_name(name: &str) -> Option<(Digest, u32)> {
    let (digest, generation) = name.split_once('.')?;
    Some((digest.parse().ok()?, generation.parse().ok()?))
}
