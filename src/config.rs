//! Every folder's own `Settings`, composed; default < file < environment < flag; unknown keys refused.
//!
//! A key is known because a settings type has it: nothing here lists keys but `config/about.rs`, which says what each
//! means, and a test holds that to the types.

pub(crate) mod about;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod load;
pub mod print;
mod reader;
pub mod sections;
mod shape;

pub use load::{ConfigError, Flags, Loaded, Variables, load, parse};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cache::usage;
use crate::protocol::{front, gate, hosts, intercept};
use crate::upstream::peer::settings::PeerSettings;
use crate::{index, server, store, upstream};

/// All settings. One line a section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub data: sections::Data,
    pub server: server::settings::Settings,
    pub public: front::Settings,
    pub store: store::Settings,
    pub index: index::Settings,
    pub ledger: usage::Settings,
    pub upstream: upstream::settings::Settings,
    pub upstreams: hosts::Settings,
    pub intercept: intercept::Settings,
    pub peers: BTreeMap<String, PeerSettings>,
    pub ecosystem: BTreeMap<String, sections::Ecosystem>,
    pub gate: gate::Settings,
    pub log: sections::Log,
}

impl Config {
    /// The directory that holds blobs, index and tokens: `[data] dir`, or the platform's data directory.
    ///
    /// *Errors*: none is set and the environment names no home.
    pub fn data_dir(&self, variables: &Variables) -> Result<PathBuf, ConfigError> {
        match &self.data.dir {
            Some(dir) => Ok(dir.clone()),
            None => variables.data_home().map(|home| home.join("larder")).ok_or_else(|| {
                ConfigError::new("no data directory: HOME is not set; name one with --data DIR or LARDER_DATA_DIR")
            }),
        }
    }

    /// The addresses that larder listens on.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.server.listen
    }

    /// What types cannot say: names of ecosystems, addresses of upstreams.
    fn check(&self) -> Result<(), ConfigError> {
        self.intercept.patterns().map_err(|why| ConfigError::new(format!("intercept.hosts: {why}")))?;
        self.store.s3.check().map_err(|why| ConfigError::new(format!("store.s3.{why}")))?;
        self.ledger.check().map_err(|why| ConfigError::new(format!("ledger.{why}")))?;
        for (name, peer) in &self.peers {
            peer.check(name).map_err(|why| ConfigError::new(format!("peers.{name}: {why}")))?;
        }
        let known: Vec<&str> = crate::ecosystem::ALL.iter().map(|ecosystem| ecosystem.about().name).collect();
        for (name, settings) in &self.ecosystem {
            if !known.contains(&name.as_str()) {
                let remedy = match load::nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean ecosystem.{near}?"),
                    None => format!("there is: {}", known.join(", ")),
                };
                return Err(ConfigError::new(format!("ecosystem.{name}: no such ecosystem; {remedy}")));
            }
            settings.upstreams().map_err(|why| ConfigError::new(format!("ecosystem.{name}.upstreams: {why}")))?;
        }
        Ok(())
    }
}
