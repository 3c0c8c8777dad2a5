//! What can fail in the index.

use crate::model::kind::ErrorKind;

/// A failure of the index. Absence is never one.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index database failed: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the index could not be opened: {why}")]
    Open { why: String },
    /// The data directory was written by a newer larder.
    #[error("the data directory has format {found}, this larder reads up to {known}; run larder {needed} or newer")]
    Newer { found: u32, known: u32, needed: String },
    #[error("bytes could not be made durable: {0}")]
    Sync(std::io::Error),
    /// Another writer changed the entry first.
    #[error("the entry changed meanwhile")]
    Conflict,
    #[error("the index has shut down")]
    Closed,
}

impl IndexError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            IndexError::Conflict => ErrorKind::Busy,
            IndexError::Newer { .. } => ErrorKind::Invalid,
            IndexError::Database(_) | IndexError::Open { .. } | IndexError::Sync(_) | IndexError::Closed => {
                ErrorKind::Internal
            }
        }
    }
}
