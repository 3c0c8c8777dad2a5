//! The files of the repository: what git tracks or would track.

use std::path::{Path, PathBuf};
use std::process::Command;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file by its path below the root, with `/` between folders.
pub struct File {
    pub path: String,
    pub bytes: Vec<u8>,
}

impl File {
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }
}

/// Every file, those not yet added included, ignored ones not.
pub fn files() -> Vec<File> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "this is a git work tree");
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let mut paths: Vec<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    paths.sort_unstable();
    paths.dedup();
    let read = |path: &&str| {
        let at: PathBuf = root().join(path);
        // Deleted but not yet committed: not in the tree any more.
        at.is_file().then(|| File { path: (*path).to_owned(), bytes: std::fs::read(&at).expect("a tracked file") })
    };
    paths.iter().filter_map(read).collect()
}

/// The Rust files below one of `folders`.
pub fn rust_files(folders: &[&str]) -> Vec<File> {
    let below = |path: &str| folders.iter().any(|folder| path.starts_with(folder));
    files().into_iter().filter(|file| file.path.ends_with(".rs") && below(&file.path)).collect()
}
