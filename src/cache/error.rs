//! What can fail in the engine. Absence upstream is an answer, not an error.

use std::sync::Arc;
use std::time::Duration;

use crate::index::error::IndexError;
use crate::model::kind::ErrorKind;
use crate::store::StoreError;
use crate::store::s3::error::S3Error;
use crate::upstream::fetch::UpstreamError;

/// When to ask again for what S3 alone has.
const REMOTE_PAUSE: Duration = Duration::from_secs(5);

/// A failure of the engine. Clones, since every follower of a fill is told of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("storage failed: {0}")]
    Store(Arc<StoreError>),
    #[error("the index failed: {0}")]
    Index(Arc<IndexError>),
    /// The bytes are in the bucket alone, and it cannot be read: that says nothing about them.
    #[error("the bytes are kept in S3 alone, which cannot be read: {0}; see larder doctor")]
    Remote(Arc<S3Error>),
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    /// What upstream sent does not hash to what was promised. Nothing of it is kept.
    #[error("upstream's bytes do not match their checksum: {why}")]
    Mismatch { why: String },
    /// The document that names the checksum or the source does not list what was asked for.
    #[error("{0}")]
    Unlisted(String),
    /// The stored document does not list it, and whether a newer one does cannot be asked now.
    #[error("the stored index does not list {what}, and upstream could not be asked for a newer one")]
    Unconfirmed { what: String },
    /// The request allows stored answers alone, and none is usable.
    #[error("nothing usable is stored, and the request forbids asking upstream")]
    OnlyIfCached,
    #[error("the fill ended without a result")]
    Abandoned,
}

impl CacheError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            CacheError::Upstream(error) => error.kind(),
            CacheError::Store(error) => error.kind(),
            CacheError::Index(error) => error.kind(),
            CacheError::TooLarge { .. } => ErrorKind::TooLarge,
            CacheError::Mismatch { .. } => ErrorKind::Corrupt,
            CacheError::Unlisted(_) => ErrorKind::NotFound,
            CacheError::OnlyIfCached | CacheError::Unconfirmed { .. } | CacheError::Remote(_) => ErrorKind::Unavailable,
            CacheError::Abandoned => ErrorKind::Internal,
        }
    }

    /// Whose failure it is, as far as a client is told.
    pub fn blame(&self) -> Blame {
        match self {
            CacheError::Unlisted(_) | CacheError::Upstream(UpstreamError::SourceBroke { .. }) => Blame::Request,
            CacheError::Upstream(UpstreamError::Silent { .. }) => Blame::UpstreamSilent,
            CacheError::Upstream(UpstreamError::Offline) | CacheError::OnlyIfCached => Blame::Offline,
            CacheError::Upstream(UpstreamError::Refused { .. }) => Blame::Policy,
            CacheError::Upstream(UpstreamError::Crowded { .. } | UpstreamError::Resting { .. }) => Blame::Load,
            CacheError::Upstream(_)
            | CacheError::TooLarge { .. }
            | CacheError::Mismatch { .. }
            | CacheError::Unconfirmed { .. } => Blame::Upstream,
            CacheError::Remote(_) => Blame::Remote,
            CacheError::Store(_) | CacheError::Index(_) | CacheError::Abandoned => Blame::Ours,
        }
    }

    /// How long to wait before asking again, where it is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            CacheError::Upstream(error) => error.retry_after(),
            CacheError::Remote(_) => Some(REMOTE_PAUSE),
            _ => None,
        }
    }
}

/// Whose failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    Upstream,
    UpstreamSilent,
    /// Too much for upstream right now, or it rests after failures.
    Load,
    /// Nothing may be asked upstream, and nothing usable is stored.
    Offline,
    /// The egress gate refused the host.
    Policy,
    /// What was asked for is not listed where it should be.
    Request,
    /// The bucket that machines share cannot be read.
    Remote,
    Ours,
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> CacheError {
        match error {
            StoreError::Mismatch { .. } | StoreError::Length { .. } => CacheError::Mismatch { why: error.to_string() },
            other => CacheError::Store(Arc::new(other)),
        }
    }
}

impl From<IndexError> for CacheError {
    fn from(error: IndexError) -> CacheError {
        CacheError::Index(Arc::new(error))
    }
}
