//! What is laid over a tool's own files: as files and links on this machine, as shell commands for one that is not it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::aside::{Mode, replace};

/// Files laid over a tool's own, and the variables that lead the tool to them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overlay {
    pub env: Vec<(String, String)>,
    /// Made when missing, before the files and links.
    pub directories: Vec<PathBuf>,
    /// Path and text; written over.
    pub files: Vec<(PathBuf, String)>,
    /// Files that are run.
    pub programs: Vec<PathBuf>,
    /// Where the link is, and what it leads to.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Shell commands that make an overlay, and the variables that lead to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    /// POSIX shell; ends with a line feed unless empty.
    pub lines: String,
    /// To be exported after the lines; values stand between double quotes and may name the lines' variables.
    pub env: Vec<(String, String)>,
    /// What the lines make, to be taken away where nothing may stay.
    pub directories: Vec<&'static str>,
}

impl Overlay {
    /// Lays the files and links; variables are the caller's.
    ///
    /// *Errors*: the first thing that could not be made whole, of which nothing stays; what was made before does.
    pub fn lay(&self) -> io::Result<()> {
        for dir in &self.directories {
            fs::create_dir_all(dir)?;
        }
        for (at, text) in &self.files {
            let mode = if self.programs.contains(at) { Mode::Exactly(0o755) } else { Mode::Usual };
            replace(at, text.as_bytes(), mode)?;
        }
        for (at, target) in &self.links {
            if fs::read_link(at).is_ok_and(|known| known == *target) {
                continue;
            }
            link(at, target)?;
        }
        Ok(())
    }
}

/// Makes a link under another name, then puts it in its place. Nothing stays of one that found no room.
fn link(at: &Path, target: &Path) -> io::Result<()> {
    let fresh = at.with_extension(format!("new-{}", std::process::id()));
    if fresh.is_symlink() {
        fs::remove_file(&fresh)?;
    }
    let made = std::os::unix::fs::symlink(target, &fresh).and_then(|()| fs::rename(&fresh, at));
    made.inspect_err(|_| {
        // It may never have been there.
        let _ = fs::remove_file(&fresh);
    })
}

/// Shell that makes a directory of a known name, for a shell's variable that names it. Where the name is another user's
/// already, who could put there what he likes, it is a new one, which no name can tell beforehand.
pub(crate) fn own_directory(variable: &str, dir: &str) -> String {
    let beside = dir.rsplit_once('-').map_or(dir, |(beside, _)| beside);
    format!(
        "{variable}={dir}\n\
         if ! {{ mkdir -p -m 755 {dir} && [ -O {dir} ] && [ ! -L {dir} ]; }} 2>/dev/null; then\n\
         {variable}=$(mktemp -d {beside}-XXXXXX) && chmod 755 \"${variable}\" || {variable}=/dev/null\nfi\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_another_made_first_is_not_used() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let known = dir.path().join("larder-x");
        let lines = own_directory("larder_x", &known.display().to_string());
        let made = || {
            let script = format!("umask 077; {lines}printf %s \"$larder_x\"");
            let output = std::process::Command::new("sh").args(["-euc", &script]).output().expect("sh runs");
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            let made = PathBuf::from(String::from_utf8(output.stdout).expect("is a path"));
            assert_eq!(fs::metadata(&made).expect("is there").permissions().mode() & 0o777, 0o755);
            made
        };
        assert_eq!([made(), made()], [known.clone(), known.clone()], "what was built there stays built");
        fs::remove_dir(&known).expect("is empty");
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).expect("a directory");
        std::os::unix::fs::symlink(&theirs, &known).expect("a link");
        let fresh = made();
        assert!(fresh != known && fresh.parent() == known.parent() && !fresh.is_symlink(), "{fresh:?}");
        if rustix::process::getuid().is_root() {
            fs::remove_file(&known).expect("is there");
            fs::create_dir(&known).expect("a directory");
            std::os::unix::fs::chown(&known, Some(12345), None).expect("root may");
            assert_ne!(made(), known);
        }
    }

    #[test]
    fn laying_twice_is_laying_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let set = Overlay {
            directories: vec![at("a/b")],
            files: vec![(at("a/config.toml"), "text".into())],
            links: vec![(at("a/.link"), at("a/b")), (at("a/dangling"), at("none"))],
            ..Overlay::default()
        };
        set.lay().expect("can be made");
        set.lay().expect("can be made again");
        assert_eq!(fs::read_to_string(at("a/config.toml")).expect("is there"), "text");
        assert_eq!(fs::read_link(at("a/.link")).expect("is a link"), at("a/b"));
        assert_eq!(fs::read_dir(at("a")).expect("is there").count(), 4);
    }
}
