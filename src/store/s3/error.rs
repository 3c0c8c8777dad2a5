//! What can fail with a bucket, and what the operator or the caller does about it.

use crate::model::kind::ErrorKind;

/// A failure of the bucket. Cheap to clone. Its texts are for operators: they name objects and settings, no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum S3Error {
    /// Somebody deleted it: a miss above, and to be stored anew.
    #[error("{object} is gone from the bucket")]
    Gone { object: String },
    /// Not what was stored: a miss above, and to be replaced.
    #[error("{object} is not what was stored: {flaw}")]
    Damaged { object: String, flaw: Flaw },
    /// The condition of a put did not hold.
    #[error("{object} is there already, or another one than was expected")]
    Exists { object: String },
    /// Two writers met (409): whoever still wants to asks again.
    #[error("another writer was at {object} at the same moment")]
    Contended { object: String },
    #[error("the bucket {bucket} does not exist here: make it, or mend bucket, region or endpoint in [store.s3]")]
    NoBucket { bucket: String },
    #[error("S3 refuses {doing}: {code}; {remedy}")]
    Denied { doing: &'static str, code: String, remedy: &'static str },
    #[error(
        "there is no credential for S3: {why}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
    )]
    NoCredential { why: String },
    #[error("this machine's clock is not S3's: set it, with NTP")]
    Skewed,
    #[error("S3 asks to be asked more slowly ({doing})")]
    Slow { doing: &'static str },
    #[error("S3 gave no answer to {doing}: {why}")]
    Unavailable { doing: &'static str, why: String },
    #[error("S3 answered {status} {code} to {doing}: {message}")]
    Answered { doing: &'static str, status: u16, code: String, message: String },
    #[error("a blob of {len} bytes is over the limit of {limit} for S3 and stays on the disk")]
    TooLarge { len: u64, limit: u64 },
    /// What was to be sent could not be read, or is not what its digest says: nothing was stored.
    #[error("the blob to be sent is not whole: {why}")]
    Source { why: String },
    #[error("{why}")]
    Settings { why: String },
}

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("{0}")]
    Damaged(&'static str),
    #[error("it was written in format {found}, this larder reads up to {known}; run a newer larder")]
    Newer { found: u16, known: u16 },
}

impl S3Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            S3Error::Gone { .. } => ErrorKind::NotFound,
            S3Error::Damaged { flaw: Flaw::Damaged(_), .. } | S3Error::Source { .. } => ErrorKind::Corrupt,
            S3Error::Damaged { flaw: Flaw::Newer { .. }, .. } => ErrorKind::Internal,
            S3Error::Exists { .. } | S3Error::Settings { .. } => ErrorKind::Invalid,
            S3Error::Contended { .. } | S3Error::Slow { .. } => ErrorKind::Busy,
            S3Error::Denied { .. } | S3Error::NoCredential { .. } | S3Error::NoBucket { .. } => ErrorKind::Denied,
            S3Error::Skewed | S3Error::Unavailable { .. } | S3Error::Answered { .. } => ErrorKind::Unavailable,
            S3Error::TooLarge { .. } => ErrorKind::TooLarge,
        }
    }

    /// For `map_err`: what a flaw of this object is.
    pub(super) fn damaged(object: &str) -> impl Fn(Flaw) -> S3Error + use<> {
        let object = object.to_owned();
        move |flaw| S3Error::Damaged { object: object.clone(), flaw }
    }
}
