//! A file that is written beside its place and then put there at once: whoever reads it finds the one before or all of
//! this one, and a crash leaves either.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::clock::random_bytes;

/// Who may read and write a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// What the umask leaves of it to all.
    Usual,
    /// These bits, whatever the umask is.
    Exactly(u32),
}

/// A file on its way to its place.
///
/// *Cancel*: dropped before `put`, it vanishes.
pub struct Aside {
    file: File,
    place: PathBuf,
    beside: Option<PathBuf>,
}

impl Aside {
    /// *Errors*: the directory's, which has to be there.
    pub fn new(place: &Path, mode: Mode) -> io::Result<Aside> {
        let mut name = OsString::from(".");
        name.push(place.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?);
        name.push(format!(".{:016x}", u64::from_le_bytes(random_bytes::<8>())));
        let beside = place.with_file_name(name);
        let mut options = File::options();
        options.write(true).create_new(true);
        if let Mode::Exactly(bits) = mode {
            options.mode(bits);
        }
        let file = options.open(&beside)?;
        let aside = Aside { file, place: place.to_owned(), beside: Some(beside) };
        if let Mode::Exactly(bits) = mode {
            aside.file.set_permissions(fs::Permissions::from_mode(bits))?;
        }
        Ok(aside)
    }

    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts it in its place. It may be lost by a power cut, and then be empty.
    pub fn put(mut self) -> io::Result<()> {
        self.rename()
    }

    /// Puts it in its place for good. Blocks for two syncs.
    pub fn put_durably(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.rename()?;
        let dir = self.place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }

    fn rename(&mut self) -> io::Result<()> {
        let Some(beside) = &self.beside else { return Ok(()) };
        fs::rename(beside, &self.place)?;
        self.beside = None;
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // What was written of it is of no use to anyone.
            let _ = fs::remove_file(beside);
        }
    }
}

/// Puts `bytes` in place of a file, as `Aside::put` does.
pub fn replace(place: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let mut aside = Aside::new(place, mode)?;
    aside.file().write_all(bytes)?;
    aside.put()
}

/// Puts `bytes` in place of a file for good.
pub fn replace_durably(place: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let mut aside = Aside::new(place, mode)?;
    aside.file().write_all(bytes)?;
    aside.put_durably()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        fs::read_dir(dir).expect("is there").map(|one| one.expect("is read").file_name()).collect()
    }

    #[test]
    fn a_file_is_replaced_at_once_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("file");
        replace(&place, b"one", Mode::Usual).expect("writes");
        let mut unfinished = Aside::new(&place, Mode::Usual).expect("opens");
        unfinished.file().write_all(b"half").expect("writes");
        assert_eq!(fs::read(&place).expect("is there"), b"one");
        drop(unfinished);
        assert_eq!(names(dir.path()), ["file"], "nothing is left beside it");
        replace_durably(&place, b"two", Mode::Exactly(0o604)).expect("writes");
        assert_eq!(fs::read(&place).expect("is there"), b"two");
        assert_eq!(fs::metadata(&place).expect("is there").permissions().mode() & 0o777, 0o604);
        assert_eq!(names(dir.path()), ["file"]);
        assert!(replace(&dir.path().join("none/file"), b"", Mode::Usual).is_err());
    }
}
