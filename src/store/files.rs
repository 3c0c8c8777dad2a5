//! The door to the file system: a trait, so that tests can fail the Nth operation. Blocking, but for `read_now`.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use rustix::io::retry_on_intr;

use crate::runtime::os;

/// A file system.
pub trait Files: Send + Sync + 'static {
    /// Creates a file that must not exist yet, to read and write.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Descriptor>>;
    /// Opens a file that exists.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn Descriptor>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and those above it; it may exist.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order. Names that are no UTF-8 are not ours and left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Length of a file, in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    ReadWrite,
}

/// Size of a volume, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    pub total: u64,
    /// What an ordinary user may still write.
    pub free: u64,
}

/// An open file. Stays readable after the file's name is gone.
pub trait Descriptor: Send + Sync + 'static {
    /// Reads what is in the page cache; never waits for a disk.
    ///
    /// *Shape*: may be short. *Errors*: `WouldBlock` when nothing is there, or the file system cannot tell.
    fn read_now(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize>;
    /// Reads; may wait. 0 at the end of the file.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes; may be short.
    fn write(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Says that this part will be read soon. A hint: errors are not told.
    fn prefetch(&self, at: u64, len: u64);
}

/// The machine's own file system.
pub struct SystemFiles;

impl SystemFiles {
    pub fn shared() -> Arc<dyn Files> {
        Arc::new(SystemFiles)
    }
}

impl Files for SystemFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Descriptor>> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(SystemDescriptor(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn Descriptor>> {
        let file = File::options().read(true).write(access == Access::ReadWrite).open(path)?;
        Ok(Arc::new(SystemDescriptor(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if cfg!(feature = "no-fsync") {
            return Ok(());
        }
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let volume = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Ok(Space { total: bytes(volume.f_blocks), free: bytes(volume.f_bavail) })
    }
}

struct SystemDescriptor(File);

impl Descriptor for SystemDescriptor {
    fn read_now(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        os::read_cached(&self.0, parts, at)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::pread(&self.0, &mut *bytes, at))?)
    }

    fn write(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::pwritev(&self.0, parts, at))?)
    }

    fn sync(&self) -> io::Result<()> {
        // For the test that must notice when nothing is synced.
        if cfg!(feature = "no-fsync") {
            return Ok(());
        }
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn prefetch(&self, at: u64, len: u64) {
        os::prefetch(&self.0, at, len);
    }
}

/// Whether a read may wait for a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Only what the page cache has.
    Now,
    Wait,
}

/// How a read of an exact length ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Got {
    All,
    /// Not all of it is in the page cache (or the file is short): ask again with `Mode::Wait`.
    NotNow,
    /// The file ends before.
    Short,
}

/// Fills both parts from `at` on. One system call where the page cache has them.
pub(super) fn read_exact(
    file: &dyn Descriptor,
    head: &mut [u8],
    body: &mut [u8],
    at: u64,
    mode: Mode,
) -> io::Result<Got> {
    let wanted = head.len() + body.len();
    if mode == Mode::Now {
        return match file.read_now(&mut [IoSliceMut::new(head), IoSliceMut::new(body)], at) {
            Ok(read) if read == wanted => Ok(Got::All),
            Ok(_) => Ok(Got::NotNow),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::NotNow),
            Err(error) => Err(error),
        };
    }
    let mut at = at;
    for part in [head, body] {
        let mut filled = 0;
        while filled < part.len() {
            match file.read(&mut part[filled..], at)? {
                0 => return Ok(Got::Short),
                read => {
                    filled += read;
                    at += read as u64;
                }
            }
        }
    }
    Ok(Got::All)
}

/// Writes all parts from `at` on.
pub(super) fn write_all(file: &dyn Descriptor, mut parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write(parts, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                at += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
        }
    }
    Ok(())
}
