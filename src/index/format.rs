//! The number of the data directory's format, in `DIR/format`, and what brings an older one up to date.
//!
//! A newer number is refused before anything is read. An older one is opened as it is, so every version reads what
//! the version before it wrote; the steps then run in the background, each ending with its number on disk. Quick
//! changes of a schema are migrations (`sqlite/schema.rs`) and need no new number.
//!
//! A golden store of a format, for the test that this version still opens it, is made by running that version once
//! on an empty directory, recording a few blobs with keys, sums, edges, a build record and a fact, ending with
//! `Index::close` (which moves the logs into the databases), and packing `format`, `places.sqlite` and
//! `catalog.sqlite` together with the store's own files.

use std::fs;
use std::io;
use std::path::Path;

use super::error::IndexError;
use super::lock::cannot;
use crate::runtime::aside::{Mode, replace_durably};

/// The format that this version writes.
pub(super) const FORMAT: u32 = 1;

/// One step from the format before to `to`. It may be cut short at any point and is then run again from its start.
pub(super) struct Step {
    pub(super) to: u32,
    pub(super) run: fn(&Path, &dyn Fn() -> bool) -> Result<(), IndexError>,
}

/// Every step, oldest first; only ever appended to. The function given to a step says when to stop early.
pub(super) const STEPS: &[Step] = &[Step {
    to: 1,
    // Before format 1 there was no number: nothing else differs.
    run: |_dir, _stopping| Ok(()),
}];

/// Reads the number; a new directory gets the current one, one without a number counts as 0.
///
/// *Errors*: `Newer`, naming the version to run.
pub(super) fn read(dir: &Path) -> Result<u32, IndexError> {
    if let Some(found) = written(dir)? {
        return Ok(found);
    }
    if dir.join("places.sqlite").exists() {
        return Ok(0);
    }
    write(dir, FORMAT).map_err(|error| cannot("write its format", &error))?;
    Ok(FORMAT)
}

/// The number, if there is one. Changes nothing.
///
/// *Errors*: as `read`.
pub(super) fn written(dir: &Path) -> Result<Option<u32>, IndexError> {
    let text = match fs::read_to_string(dir.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot("read its format", &error)),
    };
    let mut words = text.split_whitespace();
    let found = words.next().and_then(|number| number.parse::<u32>().ok());
    let Some(found) = found else {
        return Err(IndexError::Open { why: "the file `format` in the data directory holds no number".into() });
    };
    if found > FORMAT {
        let needed = words.next().unwrap_or("the one that wrote it").to_owned();
        return Err(IndexError::Newer { found, known: FORMAT, needed });
    }
    Ok(Some(found))
}

/// Runs the steps after `found`, writing the number after each. Stops between steps when `stopping` says so.
pub(super) fn migrate(dir: &Path, found: u32, steps: &[Step], stopping: &dyn Fn() -> bool) -> Result<u32, IndexError> {
    let mut reached = found;
    for step in steps.iter().filter(|step| step.to > found) {
        if stopping() {
            break;
        }
        (step.run)(dir, stopping)?;
        if stopping() {
            break;
        }
        write(dir, step.to).map_err(|error| cannot("write its format", &error))?;
        reached = step.to;
    }
    Ok(reached)
}

/// The number and the version that a reader needs, whole or not at all.
fn write(dir: &Path, format: u32) -> io::Result<()> {
    let line = format!("{format} {}\n", env!("CARGO_PKG_VERSION"));
    replace_durably(&dir.join("format"), line.as_bytes(), Mode::Usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_gets_the_current_format() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("reads"), FORMAT);
        assert_eq!(read(dir.path()).expect("reads again"), FORMAT);
    }

    #[test]
    fn a_newer_format_is_refused_and_names_the_version() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("format"), "9 3.1.4\n").expect("writes");
        let error = read(dir.path()).expect_err("is refused");
        assert!(matches!(&error, IndexError::Newer { found: 9, needed, .. } if needed == "3.1.4"), "{error}");
    }

    #[test]
    fn an_older_format_is_brought_up_step_by_step() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("places.sqlite"), "").expect("writes");
        assert_eq!(read(dir.path()).expect("reads"), 0);
        let steps = [
            Step { to: 1, run: |dir, _| fs::write(dir.join("one"), "").map_err(|error| cannot("write", &error)) },
            Step {
                to: 2,
                run: |dir, _| fs::rename(dir.join("one"), dir.join("two")).map_err(|error| cannot("move", &error)),
            },
        ];
        assert_eq!(migrate(dir.path(), 0, &steps[..1], &|| false).expect("runs"), 1);
        assert_eq!(read(dir.path()).expect("reads"), 1);
        assert_eq!(migrate(dir.path(), 1, &steps, &|| false).expect("runs"), 2);
        assert!(dir.path().join("two").exists());
        assert!(matches!(read(dir.path()), Err(IndexError::Newer { found: 2, .. })));
    }

    #[test]
    fn a_step_that_was_cut_short_does_not_count() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(migrate(dir.path(), 0, STEPS, &|| true).expect("stops"), 0);
        assert!(!dir.path().join("format").exists());
    }
}
