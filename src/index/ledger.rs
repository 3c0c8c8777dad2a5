//! Records of builds: what each build fetched, kept for a while, and what they name kept from eviction.

use super::Index;
use super::error::IndexError;
use super::writer::queue::Work;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::outcome::Outcome;
use crate::model::time::Timestamp;

/// One answered request of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordLine {
    /// Counts from 1 within the build; given when the line is stored, whatever stands here before.
    pub seq: u64,
    pub url: String,
    pub key: KeyHash,
    pub digest: Option<Digest>,
    pub sums: Vec<Checksum>,
    pub outcome: Outcome,
    pub time: Timestamp,
    pub bytes: u64,
    pub ms: u32,
}

/// A build with a kept record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub label: String,
    pub started: Timestamp,
    pub updated: Timestamp,
    pub lines: u64,
    pub bytes: u64,
    /// Lines that did not fit the record.
    pub dropped: u64,
}

impl Index {
    /// Queues a line for a build's record; waits only while the queue is full.
    ///
    /// *Cancel*: the line is queued or not, never half of it.
    pub async fn append_record(&self, label: &str, line: RecordLine) -> Result<(), IndexError> {
        let bytes = 256 + label.len() + line.url.len() + line.sums.len() * 65;
        let room = self.core.queue.room(bytes).await?;
        self.core.queue.push(Work::Line { label: label.to_owned(), line: Box::new(line) }, room, None)
    }

    /// Builds with a kept record, the latest first, at most `limit`.
    pub async fn builds(&self, limit: usize) -> Result<Vec<Build>, IndexError> {
        self.core.catalog.builds(limit).await
    }

    /// A build's lines after the line `after` (0: from the first), in order, at most `limit`.
    pub async fn record_lines(&self, label: &str, after: u64, limit: usize) -> Result<Vec<RecordLine>, IndexError> {
        self.core.catalog.lines(label.to_owned(), after, limit).await
    }

    /// Drops a build's record: what it named may be evicted again. False when there is none.
    pub async fn forget_build(&self, label: &str) -> Result<bool, IndexError> {
        let room = self.core.queue.room(label.len()).await?;
        let done = self.core.queue.ask(Work::ForgetBuild { label: label.to_owned() }, room).await?;
        Ok(done.changed == 1)
    }

    /// Which of `digests` a kept record names: such blobs are not evicted.
    pub async fn pinned(&self, digests: &[Digest]) -> Result<Vec<bool>, IndexError> {
        self.core.catalog.pinned(digests.to_vec()).await
    }
}
