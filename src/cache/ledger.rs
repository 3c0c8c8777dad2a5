//! The record of each build: what it asked for, in order, and what it got. Notes are written in the background; when
//! the queue is full a note is dropped and counted, since a build must not wait for its record.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

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
/// Notes that are written together.
const SOME: usize = 256;
/// Times are noted in whole milliseconds, by two clocks.
const CLOCKS_DIFFER: Duration = Duration::from_millis(5);

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
pub struct ShownLine {
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

/// What waits to be written.
pub(super) enum Note {
    /// A line and the build it belongs to.
    Line(std::sync::Arc<str>, Line),
    /// Somebody who wants to hear when all lines before this are on their way to the index.
    Until(oneshot::Sender<()>),
}

impl Cache {
    /// Notes a request of a build.
    pub fn note(&self, label: &std::sync::Arc<str>, line: Line) {
        if self.inner.notes.try_send(Note::Line(label.clone(), line)).is_err() {
            self.inner.counters.note_dropped();
        }
    }

    /// A build's record, in order, with all that was noted before this was asked. Empty when none is kept.
    ///
    /// *Errors*: the index's.
    pub async fn record_of(&self, label: &str) -> Result<Vec<ShownLine>, CacheError> {
        let (written, told) = oneshot::channel();
        // After shutdown nobody writes, and nothing waits either.
        if self.inner.notes.send(Note::Until(written)).await.is_ok() {
            let _ = told.await;
        }
        self.inner.index.flush().await?;
        let mut shown: Vec<ShownLine> = Vec::new();
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
        let mut some = Vec::with_capacity(SOME);
        loop {
            tokio::select! {
                biased;
                count = notes.recv_many(&mut some, SOME) => if count == 0 { return },
                () = tasks.stopping() => {
                    while some.len() < SOME && let Ok(note) = notes.try_recv() {
                        some.push(note);
                    }
                    if some.is_empty() {
                        return;
                    }
                }
            }
            keep(&index, std::mem::take(&mut some)).await;
        }
    }
}

/// Writes what came before each that waits, and tells it.
async fn keep(index: &Index, notes: Vec<Note>) {
    let mut lines = Vec::with_capacity(notes.len());
    for note in notes {
        match note {
            Note::Line(label, line) => lines.push((label, line)),
            Note::Until(told) => {
                keep_lines(index, std::mem::take(&mut lines)).await;
                // Who asked may have gone.
                let _ = told.send(());
            }
        }
    }
    keep_lines(index, lines).await;
}

async fn keep_lines(index: &Index, mut notes: Vec<(std::sync::Arc<str>, Line)>) {
    for (_, line) in &mut notes {
        if line.digest.is_none() && brings_a_body(line.outcome) {
            line.digest = filled(index, line).await;
        }
    }
    let digests: Vec<Digest> = notes.iter().filter_map(|(_, line)| line.digest).collect();
    let sums = if digests.is_empty() { Ok(Vec::new()) } else { index.sums_of(&digests).await };
    let mut sums = sums.unwrap_or_else(|error| {
        tracing::warn!(%error, "lines of a build's record are kept without their sums");
        Vec::new()
    });
    sums.resize(digests.len(), Vec::new());
    let mut sums = sums.into_iter();
    for (label, line) in notes {
        let sums = line.digest.and_then(|_| sums.next()).unwrap_or_default();
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
        if let Err(error) = index.append_record(&label, record).await {
            tracing::warn!(%error, "a line of a build's record was lost");
        }
    }
}

/// Whether the answer came from a fill, whose digest nobody knew while it was sent. What a peer lends has one.
fn brings_a_body(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Miss | Outcome::Coalesced => true,
        Outcome::Hit(_) | Outcome::Revalidated | Outcome::Stale | Outcome::Generated | Outcome::Bypass(_) => false,
        Outcome::Peer => false,
    }
}

/// What the fill behind a line came to: the newest answer of its key, unless that one was whole before this request
/// began, as it is when the fill failed or the client hung up before its end.
async fn filled(index: &Index, line: &Line) -> Option<Digest> {
    let found = match index.candidates(&line.key).await {
        Ok(found) => found?,
        Err(error) => {
            tracing::warn!(%error, "a line of a build's record is kept without its digest");
            return None;
        }
    };
    let entry = found.iter().max_by_key(|entry| entry.seq)?;
    let whole_at = entry.requested_at.plus(Duration::from_millis(u64::from(entry.fetch_ms)));
    let began_at = line.at.minus(Duration::from_millis(u64::from(line.millis)) + CLOCKS_DIFFER);
    if whole_at < began_at { None } else { entry.body }
}

fn show(line: &RecordLine) -> ShownLine {
    ShownLine {
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
