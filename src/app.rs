//! Composition root: settings to parts, start and stop order.

use std::net::SocketAddr;

use crate::config::Config;
use crate::model::lookup::Fallback;

/// What the command line decides about a start, beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// Answer from the cache alone.
    pub offline: bool,
    /// Inside `larder run`: for one build, gone with it.
    pub embedded: bool,
    /// Sources that the machine's own tools name.
    pub found: Vec<Found>,
    /// The label of callers on loopback that give none.
    pub label: Option<String>,
}

/// A source that a tool's files name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// An ecosystem's word; perhaps one that has no mount as yet.
    pub ecosystem: String,
    /// Which of the tool's sources. Empty: the default one, which the mount without a host serves.
    pub name: String,
    /// Base address without a credential.
    pub url: String,
    pub next: Fallback,
    /// For people: the file or command that named it.
    pub found_in: String,
}

/// A larder that serves.
pub struct Running {
    pub addr: SocketAddr,
    /// What to print after the address: data directory and budget, upstreams with where each was found.
    pub banner: Vec<String>,
}

impl Running {
    /// Takes tokens, certificates and policy anew.
    ///
    /// *Errors*: what was in force stays so.
    pub async fn reload(&self, _config: Config) -> Result<(), StartError> {
        Ok(())
    }

    /// Drains and closes.
    pub async fn stop(self) {}
}

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

/// Starts all parts and listens.
///
/// *Errors*: nothing runs then.
pub async fn start(_config: Config, _options: StartOptions) -> Result<Running, StartError> {
    let message = "this build has no server".to_owned();
    Err(StartError { kind: StartErrorKind::Failed, message, help: "build the whole of larder".to_owned() })
}

/// Makes the certificate authority in `data_dir`; one that is there is kept.
///
/// *Errors*: files that cannot be made or used.
pub fn certificate_authority(_data_dir: &std::path::Path) -> Result<(), StartError> {
    let message = "this build has no server".to_owned();
    Err(StartError { kind: StartErrorKind::Failed, message, help: "build the whole of larder".to_owned() })
}
