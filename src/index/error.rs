//! What can fail in the index.

use crate::model::kind::ErrorKind;

/// A failure of the index. Absence is never one.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// The commit that should have made a record durable failed, for this and the others in it.
    #[error("the index could not commit: {why}")]
    Commit { why: String },
    #[error("the index could not be opened: {why}")]
    Open { why: String },
    /// Another process owns the data directory.
    #[error("the data directory is in use by process {pid}; stop it, or give this one a directory of its own")]
    Locked { pid: String },
    /// The data directory was written by a newer larder.
    #[error(
        "the data directory has format {found}, this larder reads up to {known}; larder that can: {needed}, or newer"
    )]
    Newer { found: u32, known: u32, needed: String },
    #[error("bytes could not be made durable: {0}")]
    Sync(std::io::Error),
    /// Another writer changed the entry first.
    #[error("the entry changed meanwhile")]
    Conflict,
    /// The feed no longer reaches back so far: read everything anew, then follow from `floor`.
    #[error("the feed of changes begins after {floor}, asked from {since}")]
    Behind { since: u64, floor: u64 },
    #[error("the fact {name} has {bytes} bytes, at most {max} are kept")]
    TooLarge { name: String, bytes: usize, max: usize },
    #[error("the index has shut down")]
    Closed,
}

impl IndexError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            IndexError::Conflict | IndexError::Locked { .. } => ErrorKind::Busy,
            IndexError::Newer { .. } => ErrorKind::Invalid,
            IndexError::TooLarge { .. } => ErrorKind::TooLarge,
            IndexError::Behind { .. } => ErrorKind::Unavailable,
            IndexError::Database(_)
            | IndexError::Commit { .. }
            | IndexError::Open { .. }
            | IndexError::Sync(_)
            | IndexError::Closed => ErrorKind::Internal,
        }
    }
}
