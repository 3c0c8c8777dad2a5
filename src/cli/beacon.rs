//! How one larder on this machine finds another that owns the same data directory: a file with its address, and a lock
//! that builds hold while they use a server that another build started.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const ADDRESS: &str = "address";
const USERS: &str = "users.lock";

/// Tells others where this process serves, until it is dropped.
pub(crate) struct Beacon {
    file: PathBuf,
    url: String,
    /// Locked as long as this process lives, so that nobody takes what it leaves behind for an address of larder.
    _lock: File,
}

impl Beacon {
    /// *Errors*: the directory's.
    pub fn light(data_dir: &Path, url: &str) -> io::Result<Beacon> {
        let file = data_dir.join(ADDRESS);
        let fresh = data_dir.join(format!(".{ADDRESS}.{}", std::process::id()));
        let mut lock = File::create(&fresh)?;
        lock.lock()?;
        writeln!(lock, "{url}")?;
        std::fs::rename(&fresh, &file)?;
        Ok(Beacon { file, url: url.to_owned(), _lock: lock })
    }

    /// The address that the owner of `data_dir` wrote, while it lives. What answers there has to prove that it is that one.
    pub fn seen(data_dir: &Path) -> Option<String> {
        let mut file = File::open(data_dir.join(ADDRESS)).ok()?;
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned()).filter(|url| !url.is_empty())
    }

    /// Sends away an owner that nobody uses: it sees that it is not to be found any more.
    pub fn put_out(data_dir: &Path) {
        // One that is gone already cannot be sent away.
        let _ = std::fs::remove_file(data_dir.join(ADDRESS));
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        let ours = std::fs::read_to_string(&self.file).is_ok_and(|text| text.trim() == self.url);
        if ours {
            // One that is left behind is not locked, and so not believed.
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

/// Held by a build while it uses the server of another.
pub(crate) struct Guest {
    _lock: File,
}

impl Guest {
    /// *Errors*: the directory's.
    pub fn enter(data_dir: &Path) -> io::Result<Guest> {
        let lock = users(data_dir)?;
        lock.lock_shared()?;
        Ok(Guest { _lock: lock })
    }

    /// Whether a build is using this server.
    pub fn any(data_dir: &Path) -> bool {
        users(data_dir).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

fn users(data_dir: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(data_dir.join(USERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beacon_goes_out_with_its_owner_and_spares_its_successor() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = Beacon::light(dir.path(), "http://127.0.0.1:1").expect("lights");
        assert_eq!(Beacon::seen(dir.path()).as_deref(), Some("http://127.0.0.1:1"));
        let new = Beacon::light(dir.path(), "http://127.0.0.1:2").expect("lights");
        drop(old);
        assert_eq!(Beacon::seen(dir.path()).as_deref(), Some("http://127.0.0.1:2"));
        drop(new);
        assert_eq!(Beacon::seen(dir.path()), None);
    }

    #[test]
    fn what_a_killed_owner_left_behind_is_no_address() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(ADDRESS), "http://127.0.0.1:1\n").expect("writes");
        assert_eq!(Beacon::seen(dir.path()), None);
        let lit = Beacon::light(dir.path(), "http://127.0.0.1:2").expect("lights");
        assert_eq!(Beacon::seen(dir.path()).as_deref(), Some("http://127.0.0.1:2"));
        drop(lit);
    }

    #[test]
    fn guests_are_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!Guest::any(dir.path()));
        let guest = Guest::enter(dir.path()).expect("enters");
        let other = Guest::enter(dir.path()).expect("enters");
        drop(guest);
        assert!(Guest::any(dir.path()));
        drop(other);
        assert!(!Guest::any(dir.path()));
    }
}
