//! The record of each build: what it asked for, in order, and what it got. Notes are written in the background; when
//! the queue is full a note is dropped and counted, since a build must not wait for its record.

use serde::Serialize;
use tokio::sync::mpsc;

use super::error::CacheError;
use super::{Cache, Inner};
use crate::index::Index;
use crate::index::ledger::RecordLine;
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::outcome::Outcome;
use crate::model::time::Timestamp;
use crate::runtime::tasks::Tasks;

/// Notes that may wait to be written.
pub(super) const QUEUE: usize = 16 << 10;
/// Lines that are read at once.
const PAGE: usize = 1000;

/// One request of a build, as it is noted.
pub struct Line {
    /// As the client asked, without a fragment.
    pub url: String,
    pub key: KeyHash,
    pub digest: Option<Digest>,
    pub outcome: Outcome,
    pub bytes: u64,
    pub millis: u32,
    pub at: Timestamp,
}

/// One request of a build, as it is shown.
#[derive(Serialize)]
pub struct Shown {
    pub seq: u64,
    pub url: String,
    pub key: String,
    pub blake3: Option<String>,
    pub sums: Vec<String>,
    pub outcome: &'static str,
    pub bytes: u64,
    pub millis: u32,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A line and the build it belongs to.
pub(super) type Note = (std::sync::Arc<str>, Line);

impl Cache {
    /// Notes a request of a build.
    pub fn note(&self, label: &std::sync::Arc<str>, line: Line) {
        if self.inner.notes.try_send((label.clone(), line)).is_err() {
            self.inner.counters.note_dropped();
        }
    }

    /// A build's record, in order. Empty when none is kept.
    ///
    /// *Errors*: the index's.
    pub async fn record_of(&self, label: &str) -> Result<Vec<Shown>, CacheError> {
        let mut shown: Vec<Shown> = Vec::new();
        loop {
            let after = shown.last().map_or(0, |line| line.seq);
            let page = self.inner.index.record_lines(label, after, PAGE).await?;
            if page.is_empty() {
                return Ok(shown);
            }
            shown.extend(page.iter().map(show));
        }
    }
}

impl Inner {
    /// Writes notes until shutdown, and then those that still wait.
    pub(super) async fn keep_notes(index: Index, tasks: Tasks, mut notes: mpsc::Receiver<Note>) {
        loop {
            let note = tokio::select! {
                biased;
                note = notes.recv() => note,
                () = tasks.stopping() => notes.try_recv().ok(),
            };
            let Some((label, line)) = note else { return };
            keep(&index, &label, line).await;
        }
    }
}

async fn keep(index: &Index, label: &str, line: Line) {
    let sums = match &line.digest {
        Some(digest) => index.sums_of(digest).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let record = RecordLine {
        seq: 0,
        url: line.url,
        key: line.key,
        digest: line.digest,
        sums,
        outcome: line.outcome,
        time: line.at,
        bytes: line.bytes,
        ms: line.millis,
    };
    if let Err(error) = index.append_record(label, record).await {
        tracing::warn!(%error, "a line of a build's record was lost");
    }
}

fn show(line: &RecordLine) -> Shown {
    Shown {
        seq: line.seq,
        url: line.url.clone(),
        key: line.key.to_string(),
        blake3: line.digest.map(|digest| digest.to_string()),
        sums: line.sums.iter().map(|sum| sum.to_string()).collect(),
        outcome: line.outcome.label(),
        bytes: line.bytes,
        millis: line.ms,
        at_ms: line.time.0,
    }
}
