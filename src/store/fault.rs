//! A file system that fails on demand: the Nth operation, each of a kind, short writes, a cold page cache.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{Access, Descriptor, Files, Space, SystemFiles};

/// What can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Create,
    Open,
    Rename,
    Remove,
    MakeDir,
    SyncDir,
    List,
    Stat,
    Read,
    Write,
    Sync,
}

pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;
pub(crate) const EMFILE: i32 = 24;

/// When to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Only these; None: all.
    pub only: Option<Operation>,
    /// The first so many succeed.
    pub after: u64,
    /// So many fail then.
    pub times: u64,
    pub code: i32,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    failed: u64,
    seen: u64,
    removals_failed: u64,
    cold: bool,
    short: bool,
}

#[derive(Clone, Default)]
pub(crate) struct FaultFiles {
    state: Arc<Mutex<State>>,
}

impl FaultFiles {
    /// Counts operations from now on, and fails those of the plan.
    pub fn fail(&self, plan: Plan) {
        let mut state = self.state.lock();
        state.plan = Some(plan);
        state.seen = 0;
        state.failed = 0;
        state.removals_failed = 0;
    }

    /// Ends the plan. Returns how many operations failed, and how many removals among them.
    pub fn mend(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        state.plan = None;
        (state.failed, state.removals_failed)
    }

    /// Whether the page cache has nothing.
    pub fn cold(&self, cold: bool) {
        self.state.lock().cold = cold;
    }

    /// Whether writes take only half of what they are given.
    pub fn short_writes(&self, short: bool) {
        self.state.lock().short = short;
    }

    fn step(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(plan) = state.plan.filter(|plan| plan.only.is_none_or(|only| only == operation)) else {
            return Ok(());
        };
        state.seen += 1;
        if state.seen <= plan.after || state.failed >= plan.times {
            return Ok(());
        }
        state.failed += 1;
        state.removals_failed += u64::from(operation == Operation::Remove);
        Err(io::Error::from_raw_os_error(plan.code))
    }

    fn wrap(&self, file: Arc<dyn Descriptor>) -> Arc<dyn Descriptor> {
        Arc::new(FaultDescriptor { file, files: self.clone() })
    }
}

impl Files for FaultFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Descriptor>> {
        self.step(Operation::Create)?;
        Ok(self.wrap(SystemFiles.create(path)?))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn Descriptor>> {
        self.step(Operation::Open)?;
        Ok(self.wrap(SystemFiles.open(path, access)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Operation::Rename)?;
        SystemFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::Remove)?;
        SystemFiles.remove(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::MakeDir)?;
        SystemFiles.make_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::SyncDir)?;
        SystemFiles.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.step(Operation::List)?;
        SystemFiles.list(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.step(Operation::Stat)?;
        SystemFiles.len(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.step(Operation::Stat)?;
        SystemFiles.space(path)
    }
}

struct FaultDescriptor {
    file: Arc<dyn Descriptor>,
    files: FaultFiles,
}

impl Descriptor for FaultDescriptor {
    fn read_now(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        self.files.step(Operation::Read)?;
        if self.files.state.lock().cold {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.file.read_now(parts, at)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.files.step(Operation::Read)?;
        self.file.read(bytes, at)
    }

    fn write(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.files.step(Operation::Write)?;
        if !self.files.state.lock().short {
            return self.file.write(parts, at);
        }
        let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
        self.file.write(&[IoSlice::new(&first[..first.len().div_ceil(2)])], at)
    }

    fn sync(&self) -> io::Result<()> {
        self.files.step(Operation::Sync)?;
        self.file.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.files.step(Operation::Stat)?;
        self.file.size()
    }

    fn prefetch(&self, at: u64, len: u64) {
        self.file.prefetch(at, len);
    }
}
