//! The record of each build: what it asked for, in order, and what it got.

use serde::Serialize;

use super::Cache;
use super::error::CacheError;
use crate::index::RecordLine;
use crate::model::digest::Digest;
use crate::model::time::Timestamp;

/// One request of a build, as it is noted.
pub struct Line {
    /// Without a fragment; as the client asked.
    pub url: String,
    pub digest: Option<Digest>,
    pub outcome: &'static str,
    pub status: u16,
    pub bytes: u64,
    pub millis: u64,
    pub at: Timestamp,
}

/// One request of a build, as it is shown.
#[derive(Serialize)]
pub struct Shown {
    pub seq: u64,
    pub url: String,
    pub blake3: Option<String>,
    pub sums: Vec<String>,
    pub outcome: String,
    pub status: u16,
    pub bytes: u64,
    pub millis: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl Cache {
    /// Notes a request; written in the background. When the queue is full the line is dropped and counted.
    pub fn note(&self, label: &str, line: Line) {
        self.inner.index.note(label, RecordLine::from(line));
    }
}
