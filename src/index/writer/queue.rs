//! What waits to be committed: a queue in the order in which changes became visible, bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::index::catalog::RemoteBlob;
use crate::index::error::IndexError;
use crate::index::evict::Move;
use crate::index::ledger::RecordLine;
use crate::index::record::Visible;
use crate::index::usage::AddedUsage;
use crate::model::digest::Digest;
use crate::model::place::Place;
use crate::model::time::Timestamp;

/// Room is counted in pieces of so many bytes.
const PIECE: usize = 1024;
/// What a job holds beside its texts, roughly.
const JOB_BYTES: usize = 512;
/// Jobs in one commit at most: those behind wait for the next.
const BATCH_JOBS: usize = 4096;

/// A change to commit.
pub(in crate::index) enum Work {
    Record(Box<Visible>),
    Drop {
        places: Vec<(Digest, Place)>,
        seq: u64,
    },
    /// Each with whether it is to be made: not when the blob was elsewhere already.
    Move(Vec<(bool, Move)>),
    Line {
        label: String,
        line: Box<RecordLine>,
    },
    ForgetBuild {
        label: String,
    },
    Fact {
        name: String,
        value: Option<Bytes>,
    },
    /// An object of the bucket holds these blobs; the writer adds the sums that they have here.
    Uploaded {
        name: Box<str>,
        bytes: u64,
        at: Timestamp,
        blobs: Vec<RemoteBlob>,
    },
    /// It does not; the writer finds out whether that was the whole of the blob.
    Lost {
        digest: Digest,
        place: Place,
        seq: u64,
        whole: bool,
    },
    /// Out of the outbox, unsent.
    Unqueue(Vec<Digest>),
    Usage(Box<AddedUsage>),
    /// Nothing: whoever awaits it awaits all before it.
    Barrier,
}

/// How a change went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Done {
    /// Rows that the change found to change.
    pub(in crate::index) changed: u64,
    /// For a move: which of them were still at the old place.
    pub(in crate::index) moved: Vec<bool>,
}

pub(in crate::index) type Acked = Result<Done, IndexError>;

/// A change, its share of the bound, and who awaits it.
pub(in crate::index) struct Job {
    pub(in crate::index) work: Work,
    pub(in crate::index) ack: Option<oneshot::Sender<Acked>>,
    room: Room,
}

impl Job {
    /// Gives back its room and lets go of its bytes, then tells who waits: what the asker looks at next is done.
    pub(super) fn end(self, acked: Acked) -> Option<Acked> {
        let Job { work, ack, room } = self;
        drop((work, room));
        match ack {
            // Whoever asked may have gone away: the change stands all the same.
            Some(ack) => {
                drop(ack.send(acked));
                None
            }
            None => Some(acked),
        }
    }
}

/// A share of the bound; given back when dropped.
pub(in crate::index) struct Room(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// What the writer does next.
pub(super) enum Next {
    Commit(Vec<Job>),
    /// Nothing came for a while.
    Idle,
    End,
}

/// When a commit is due.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) delay: Duration,
    pub(super) idle: Duration,
}

/// The queue.
pub(in crate::index) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    room: Arc<Semaphore>,
    pieces: usize,
    /// So many jobs are worth a commit though nobody awaits them.
    rows: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
    save_uses: bool,
    /// Someone awaits one of the jobs: commit at once.
    awaited: bool,
}

impl Queue {
    pub(in crate::index) fn new(bytes: u64, rows: usize) -> Queue {
        let pieces = usize::try_from(bytes / PIECE as u64).unwrap_or(usize::MAX);
        let pieces = pieces.clamp(64, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(pieces));
        Queue { state: Mutex::default(), changed: Condvar::new(), room, pieces, rows }
    }

    /// Waits until a job of `bytes` fits.
    ///
    /// *Errors*: `Closed` after the index has shut down.
    pub(in crate::index) async fn room(&self, bytes: usize) -> Result<Room, IndexError> {
        let pieces = ((bytes + JOB_BYTES) / PIECE + 1).min(self.pieces);
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(pieces).await;
        permit.map(Room).map_err(|_closed| IndexError::Closed)
    }

    pub(in crate::index) fn push(
        &self,
        work: Work,
        room: Room,
        ack: Option<oneshot::Sender<Acked>>,
    ) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(IndexError::Closed);
        }
        let first = state.jobs.is_empty();
        state.awaited |= ack.is_some();
        let due = ack.is_some() || first;
        state.jobs.push_back(Job { work, ack, room });
        let many = state.jobs.len() == self.rows;
        drop(state);
        if due || many {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Queues a change and waits until it is durable.
    ///
    /// *Cancel*: the change is made all the same.
    pub(in crate::index) async fn ask(&self, work: Work, room: Room) -> Acked {
        let (ack, acked) = oneshot::channel();
        self.push(work, room, Some(ack))?;
        acked.await.map_err(|_gone| IndexError::Closed)?
    }

    pub(in crate::index) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes no more jobs; those queued are still committed.
    pub(in crate::index) fn close(&self) {
        self.state.lock().closed = true;
        self.room.close();
        self.changed.notify_all();
    }

    pub(in crate::index) fn save_uses_at_end(&self) {
        self.state.lock().save_uses = true;
    }

    pub(super) fn saves_uses_at_end(&self) -> bool {
        self.state.lock().save_uses
    }

    /// Drops all that is queued and takes no more: what a crash would do.
    #[cfg(test)]
    pub(in crate::index) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.room.close();
        self.changed.notify_all();
    }

    pub(in crate::index) fn len(&self) -> u64 {
        self.state.lock().jobs.len() as u64
    }

    /// Bytes held by what is queued or being committed.
    pub(in crate::index) fn bytes(&self) -> u64 {
        (self.pieces.saturating_sub(self.room.available_permits()) * PIECE) as u64
    }

    /// Waits for what the writer has to do next.
    pub(super) fn next(&self, pace: &Pace) -> Next {
        let mut state = self.state.lock();
        let mut waited = false;
        loop {
            if state.jobs.is_empty() {
                if state.closed {
                    return Next::End;
                }
                if self.changed.wait_for(&mut state, pace.idle).timed_out() && state.jobs.is_empty() {
                    return if state.closed { Next::End } else { Next::Idle };
                }
                continue;
            }
            if state.awaited || state.closed || waited || state.jobs.len() >= self.rows {
                return Next::Commit(state.take());
            }
            waited = self.changed.wait_for(&mut state, pace.delay).timed_out();
        }
    }
}

impl State {
    fn take(&mut self) -> Vec<Job> {
        let count = self.jobs.len().min(BATCH_JOBS);
        let jobs = self.jobs.drain(..count).collect();
        self.awaited = self.jobs.iter().any(|job| job.ack.is_some());
        jobs
    }
}
