//! Why larder does not start, and what mends it.

use crate::protocol::gate::GateError;

/// It could not start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    pub kind: StartErrorKind,
    pub message: String,
    pub help: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartErrorKind {
    /// The configuration must change.
    Config,
    /// Another larder owns the data directory.
    InUse,
    Failed,
}

impl StartError {
    pub(crate) fn new(kind: StartErrorKind, message: impl Into<String>, help: impl Into<String>) -> StartError {
        StartError { kind, message: message.into(), help: help.into() }
    }

    pub(crate) fn failed(message: impl std::fmt::Display) -> StartError {
        StartError::new(StartErrorKind::Failed, message.to_string(), "see the message; larder doctor checks the rest")
    }
}

impl From<GateError> for StartError {
    fn from(error: GateError) -> StartError {
        StartError::new(StartErrorKind::Config, error.to_string(), error.help())
    }
}
