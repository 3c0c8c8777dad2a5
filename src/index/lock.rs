//! One process owns a data directory: an advisory lock on `DIR/lock`, which the kernel frees when the owner dies.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::IndexError;

/// How often a waiting successor looks again.
const LOOK: Duration = Duration::from_millis(10);

/// The lock, held until dropped. Whatever is in the directory is opened under it: its owner may still change it.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock at once.
    ///
    /// *Errors*: `Locked` with the owner's process id.
    pub fn take(dir: &Path) -> Result<DirectoryLock, IndexError> {
        std::fs::create_dir_all(dir).map_err(|error| cannot("make the data directory", &error))?;
        let path = dir.join("lock");
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(|error| cannot("open its lock", &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(IndexError::Locked { pid: owner(&mut file) }),
            Err(error) => return Err(cannot("lock the data directory", &error.into())),
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| cannot("write its lock", &error))?;
        Ok(DirectoryLock { _file: file })
    }

    /// Waits for the owner to let go, at most `patience`: for a successor that takes over in place.
    ///
    /// *Cancel*: nothing is held.
    pub async fn wait(dir: &Path, patience: Duration) -> Result<DirectoryLock, IndexError> {
        let waited = tokio::time::timeout(patience, async {
            loop {
                match DirectoryLock::take(dir) {
                    Err(IndexError::Locked { .. }) => tokio::time::sleep(LOOK).await,
                    taken => return taken,
                }
            }
        });
        waited.await.unwrap_or_else(|_out_of_patience| DirectoryLock::take(dir))
    }
}

fn owner(file: &mut File) -> String {
    let mut pid = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(16).read_to_string(&mut pid));
    match read {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

pub(super) fn cannot(what: &str, error: &std::io::Error) -> IndexError {
    IndexError::Open { why: format!("cannot {what}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_owns_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = DirectoryLock::take(dir.path()).expect("is free");
        let error = DirectoryLock::take(dir.path()).expect_err("is held");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(held);
        DirectoryLock::take(dir.path()).expect("is free again");
    }

    #[tokio::test]
    async fn a_successor_waits_for_its_turn() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = DirectoryLock::take(dir.path()).expect("is free");
        let error = DirectoryLock::wait(dir.path(), Duration::ZERO).await.expect_err("is held");
        assert!(matches!(error, IndexError::Locked { .. }));
        let waiting = DirectoryLock::wait(dir.path(), Duration::from_secs(60));
        let (taken, ()) = tokio::join!(waiting, async { drop(held) });
        taken.expect("its turn came");
    }
}
