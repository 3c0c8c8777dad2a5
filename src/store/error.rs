//! What can fail in the store, and what the caller should do about it.

use std::io;
use std::sync::Arc;

use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::kind::ErrorKind;

/// A failure of the store. Cheap to clone, so that all who follow one fill can be told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Nothing (more) can be kept: pass the bytes through unstored.
    #[error("the store is full: {why}")]
    Full { why: &'static str },
    /// The place names no bytes any more: drop it and count the blob absent.
    #[error("the bytes are gone")]
    Gone,
    /// The bytes at the place are not those that were stored: quarantine the blob and fetch it anew.
    #[error("blob {digest} is corrupt: {why}")]
    Corrupt { digest: Digest, why: &'static str },
    /// What was written does not hash to what was promised. Nothing was kept.
    #[error("{} differs: {found} instead of {expected}", .algorithm.name())]
    Mismatch { algorithm: Algorithm, expected: Box<Checksum>, found: Box<Checksum> },
    /// As many bytes were promised as did not come. Nothing was kept.
    #[error("length differs: {found} instead of {expected} bytes")]
    Length { expected: u64, found: u64 },
    /// The blob could never be kept, however much were evicted.
    #[error("a blob of {len} bytes is over the limit of {limit}")]
    TooLarge { len: u64, limit: u64 },
    /// A newer larder wrote this.
    #[error("the bytes were written in format {found}, this larder reads up to {known}; run a newer larder")]
    Newer { found: u16, known: u16 },
    #[error("{doing} failed: {source}")]
    Io { doing: &'static str, source: Arc<io::Error> },
}

impl StoreError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            StoreError::Full { .. } => ErrorKind::Busy,
            StoreError::Gone => ErrorKind::NotFound,
            StoreError::Corrupt { .. } | StoreError::Mismatch { .. } | StoreError::Length { .. } => ErrorKind::Corrupt,
            StoreError::TooLarge { .. } => ErrorKind::TooLarge,
            StoreError::Newer { .. } | StoreError::Io { .. } => ErrorKind::Internal,
        }
    }

    /// For `map_err`: a full disk or an empty pool of descriptors is `Full`, all else `Io`.
    pub(super) fn io(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full { why: "no space is left on the volume" },
            io::ErrorKind::QuotaExceeded => StoreError::Full { why: "the quota of the volume is used up" },
            _ if out_of_descriptors(&error) => StoreError::Full { why: "no file descriptor is left" },
            _ => StoreError::Io { doing, source: Arc::new(error) },
        }
    }

    /// A task of ours ended without an answer.
    pub(super) fn lost(doing: &'static str, error: tokio::task::JoinError) -> StoreError {
        StoreError::Io { doing, source: Arc::new(io::Error::other(error)) }
    }
}

/// Whether `error` says that the process or the system has no descriptor left.
pub(super) fn out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(rustix::io::Errno::MFILE.raw_os_error()) || code == Some(rustix::io::Errno::NFILE.raw_os_error())
}
