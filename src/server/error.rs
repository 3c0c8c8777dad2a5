//! What can go wrong at the front door before a request is there.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::kind::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{what}")]
    Settings { what: String },
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("an inherited socket cannot be used: {source}")]
    Inherited { source: io::Error },
    #[error("{what} {path}: {why}", path = .path.display())]
    Certificate { what: &'static str, path: PathBuf, why: String },
    #[error("cannot issue a certificate for {names}: {why}")]
    Issue { names: String, why: String },
    #[error("tls cannot be set up: {why}")]
    Tls { why: String },
    #[error("handing over through {path}: {source}", path = .path.display())]
    Handover { path: PathBuf, source: io::Error },
}

impl ServerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            ServerError::Settings { .. } | ServerError::Certificate { .. } => ErrorKind::Invalid,
            ServerError::Issue { .. } | ServerError::Tls { .. } => ErrorKind::Internal,
            ServerError::Listen { .. } | ServerError::Inherited { .. } | ServerError::Handover { .. } => {
                ErrorKind::Unavailable
            }
        }
    }
}
