//! A sealed file on its way to its final name: readable at once, durable after `sync`. The order is write, fsync,
//! rename, fsync of the directory: a rename before the fsync left empty files under final names on ext4 and XFS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::blob_files::{BlobFiles, FileKey, OpenFile};
use crate::model::place::Class;
use crate::runtime::durable::Unsynced;

/// Numbers of files among unsynced objects start above those of segments.
static OBJECTS: AtomicU64 = AtomicU64::new(1 << 32);

pub(super) struct FreshFile {
    pub open: Arc<OpenFile>,
    pub class: Class,
    generation: u32,
    object: u64,
    tier: Arc<BlobFiles>,
    stage: Mutex<Stage>,
    syncing: Mutex<()>,
}

#[derive(Debug)]
enum Stage {
    Temporary(PathBuf),
    Published,
    /// Removed or condemned.
    Ended,
}

impl FreshFile {
    pub fn new(open: Arc<OpenFile>, class: Class, generation: u32, path: PathBuf, tier: Arc<BlobFiles>) -> FreshFile {
        FreshFile {
            open,
            class,
            generation,
            object: OBJECTS.fetch_add(1, Ordering::Relaxed),
            tier,
            stage: Mutex::new(Stage::Temporary(path)),
            syncing: Mutex::new(()),
        }
    }

    pub fn key(&self) -> FileKey {
        (self.open.digest, self.generation)
    }

    /// Removes the file if it has not its final name yet. True when there is nothing more to remove.
    pub fn cancel(&self) -> bool {
        self.end(&mut self.stage.lock())
    }

    fn end(&self, stage: &mut Stage) -> bool {
        match std::mem::replace(stage, Stage::Ended) {
            Stage::Temporary(path) => {
                self.discard(&path);
                true
            }
            Stage::Published => {
                *stage = Stage::Published;
                false
            }
            Stage::Ended => true,
        }
    }

    fn discard(&self, path: &std::path::Path) {
        if let Err(error) = self.tier.home.files.remove(path) {
            tracing::warn!(%error, "a temporary file stays until the next start");
        }
        self.tier.vanished(&self.key(), self.class, self.open.len);
    }

    /// Renames the synced file. False: it was removed meanwhile.
    fn publish(&self) -> io::Result<bool> {
        let path = self.tier.final_path(&self.key())?;
        let mut stage = self.stage.lock();
        let Stage::Temporary(from) = &*stage else { return Ok(false) };
        self.tier.home.files.rename(from, &path)?;
        *stage = Stage::Published;
        drop(stage);
        self.tier.settled(&self.key());
        Ok(true)
    }

    fn condemn(&self, error: &io::Error) {
        tracing::error!(digest = %self.open.digest, %error, "a sync failed");
        self.open.condemned.store(true, Ordering::Release);
        let mut stage = self.stage.lock();
        if !self.end(&mut stage) {
            *stage = Stage::Ended;
            self.discard(&self.tier.home.file(&self.open.digest, self.generation));
        }
    }
}

impl Unsynced for FreshFile {
    fn object(&self) -> u64 {
        self.object
    }

    fn sync(&self) -> io::Result<()> {
        let _one_at_a_time = self.syncing.lock();
        match &*self.stage.lock() {
            Stage::Published => return Ok(()),
            Stage::Ended => return Err(io::ErrorKind::NotFound.into()),
            Stage::Temporary(_) => {}
        }
        let shelf = self.tier.home.shelf(self.open.digest.as_bytes()[0]);
        let synced = self.open.descriptor.sync().and_then(|()| match self.publish()? {
            true => self.tier.home.files.sync_dir(&shelf),
            false => Err(io::ErrorKind::NotFound.into()),
        });
        synced.inspect_err(|error| self.condemn(error))
    }
}

impl Drop for FreshFile {
    fn drop(&mut self) {
        // Nobody will sync it any more, so nobody may name it.
        self.cancel();
    }
}
