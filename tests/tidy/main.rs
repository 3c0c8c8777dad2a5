//! Keeps the house as `docs/ARCHITECTURE.md` says it is: floors, lengths, first lines, generated docs, and words that
//! must not stand in the repository. Each check is tried on bad samples beside it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod docs;
mod floors;
mod invariants;
mod lengths;
mod source;
mod tree;
mod words;

/// Fails with all complaints at once.
#[track_caller]
fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
