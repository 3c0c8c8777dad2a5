//! The coarse kinds of failure. Each says what the caller should do; `protocol/status.rs` alone turns one into a status.

/// What went wrong, as far as a caller would act differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// A definite absence: go on to the next source.
    NotFound,
    /// The request cannot be right: mend it, do not repeat it.
    Invalid,
    /// Not allowed by policy or for want of a right: repeat with a credential or not at all.
    Denied,
    /// Over a limit that the operator set.
    TooLarge,
    /// Full for now: repeat after a pause.
    Busy,
    /// Something we depend on failed: repeat later; never an absence.
    Unavailable,
    /// Bytes did not hash to what was promised: never served; fetch anew.
    Corrupt,
    /// A fault of ours.
    Internal,
}
