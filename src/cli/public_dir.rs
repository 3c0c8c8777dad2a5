//! A directory for files that another user reads: what root starts of apt fetches as `_apt`, which gets to nothing that
//! lies in root's home. It fails there, larder or not: on a program that it cannot run, on certificates that it cannot read.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Of root's, below the directory for what is temporary.
const NAME: &str = "larder-root";

/// `ours`; where it is root's and shut to others, one of the same name that all can read and nobody else can write, made
/// when missing. None: there is none.
///
/// *Errors*: it cannot be made or looked at.
pub(crate) fn for_all(ours: &Path) -> io::Result<Option<PathBuf>> {
    if !rustix::process::getuid().is_root() || is_open(ours) {
        return Ok(Some(ours.to_owned()));
    }
    let Some(public) = public(&std::env::temp_dir().join(NAME))? else { return Ok(None) };
    let dir = public.join(ours.file_name().unwrap_or_default());
    fs::create_dir_all(&dir)?;
    // Whatever the umask is.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(Some(dir))
}

fn public(dir: &Path) -> io::Result<Option<PathBuf>> {
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        // Whatever the umask is.
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Another user may have been there first.
    let about = fs::symlink_metadata(dir)?;
    let is_ours = about.is_dir() && about.uid() == rustix::process::getuid().as_raw() && about.mode() & 0o022 == 0;
    Ok((is_ours && is_open(dir)).then(|| dir.to_owned()))
}

/// Whether everybody gets to it, as far as it is there.
fn is_open(dir: &Path) -> bool {
    dir.ancestors().all(|at| at.metadata().map_or(true, |about| about.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_ours_alone_or_not_open_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("is ours");
        let at = dir.path().join("public");
        mode(dir.path(), 0o700);
        assert_eq!(public(&at).expect("looks"), None, "nobody gets there");
        mode(dir.path(), 0o755);
        assert_eq!(public(&at).expect("looks"), Some(at.clone()));
        mode(&at, 0o777);
        assert_eq!(public(&at).expect("looks"), None, "others may write");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("links");
        assert_eq!(public(&link).expect("looks"), None, "it leads elsewhere");
    }
}
