//! Takes a body as it comes, and has whole chunks of it hashed and written on the blocking pool meanwhile: whoever does
//! that takes all that is there each time, so that neither side sleeps and wakes for each chunk.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::Inner;
use super::budget::Reservation;
use super::error::StoreError;
use super::fill::{Fill, Partial};
use super::layout::CHUNK;
use super::work::{SealedBlob, Work};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::place::Class;

/// Bytes that may wait for the disk; who brings more then waits too.
const LINE: u64 = 3 * CHUNK as u64;

/// What is about to be written.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Where it is known; more or fewer bytes may come, `seal` judges.
    pub len: Option<u64>,
    pub class: Class,
    /// To compute beside BLAKE3 and SHA-256.
    pub sums: Vec<Algorithm>,
}

/// Writes one blob. Dropped unsealed, the blob vanishes; partials go on reading what came.
pub struct BlobWriter {
    inner: Arc<Inner>,
    fill: Arc<Fill>,
    stage: Stage,
}

type Job = JoinHandle<(Box<Work>, Result<(), StoreError>)>;

enum Stage {
    Collecting(Box<Work>),
    /// Pieces are being hashed and written.
    Spilling(Job),
    Failed(StoreError),
}

impl BlobWriter {
    pub(super) fn new(inner: Arc<Inner>, about: &Intent, reservation: Reservation) -> BlobWriter {
        let reservation = Arc::new(Mutex::new(reservation));
        let fill = Arc::new(Fill::new(about.len, inner.buffers.clone(), reservation.clone()));
        let work = Work::new(inner.clone(), fill.clone(), about.class, &about.sums, reservation);
        BlobWriter { inner, fill, stage: Stage::Collecting(Box::new(work)) }
    }

    /// Takes the next bytes, which followers can read then; first waits while too many are behind.
    ///
    /// *Errors*: `Full` or `Io`, from then on always: nothing will be stored. `written()` of the partial tells how
    /// much was taken, and all of that stays readable.
    /// *Cancel*: the chunk was taken, or not; `written()` tells.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        if let Stage::Failed(error) = &self.stage {
            return Err(error.clone());
        }
        if !self.fill.keeps_up(LINE).await {
            self.rest().await?;
        }
        if self.fill.append(chunk) {
            let (work, fill) = (self.settle().await?, self.fill.clone());
            fill.begin();
            self.stage = Stage::Spilling(tokio::task::spawn_blocking(move || spill(work, &fill)));
        }
        Ok(())
    }

    /// Waits until nobody writes: nothing is in flight to the disk then.
    ///
    /// *Errors*: as of `write`.
    pub async fn rest(&mut self) -> Result<(), StoreError> {
        self.stage = Stage::Collecting(self.settle().await?);
        Ok(())
    }

    /// A view for followers.
    pub fn partial(&self) -> Partial {
        Partial::new(self.fill.clone())
    }

    /// Verifies the whole body and publishes it: readable at its place, not yet durable.
    ///
    /// *Errors*: `Mismatch` or `Length` when a promise was broken, `Full` or `Io`; nothing is kept then.
    /// *Cancel*: nothing is kept.
    pub async fn seal(mut self, expect: &[Checksum], len: Option<u64>) -> Result<SealedBlob, StoreError> {
        let work = self.settle().await?;
        let found = self.fill.written();
        if let Some(expected) = len.filter(|expected| *expected != found) {
            // Unlinked on the pool.
            drop(tokio::task::spawn_blocking(move || drop(work)));
            return Err(StoreError::Length { expected, found });
        }
        let expect: Vec<Checksum> = expect.to_vec();
        let inner = self.inner.clone();
        let job = tokio::task::spawn_blocking(move || work.seal(&expect).map(|blob| Unclaimed::new(inner, blob)));
        let unclaimed = job.await.map_err(|error| StoreError::lost("sealing a blob", error))??;
        Ok(unclaimed.claim())
    }

    /// Waits for the pieces in flight and takes the work; the caller puts it back or ends the writer.
    async fn settle(&mut self) -> Result<Box<Work>, StoreError> {
        if let Stage::Spilling(job) = &mut self.stage {
            self.stage = match job.await {
                Ok((work, Ok(()))) => Stage::Collecting(work),
                Ok((work, Err(error))) => {
                    drop(tokio::task::spawn_blocking(move || drop(work)));
                    Stage::Failed(error)
                }
                Err(error) => Stage::Failed(StoreError::lost("writing a blob", error)),
            };
        }
        let taken = Stage::Failed(StoreError::Gone);
        match std::mem::replace(&mut self.stage, taken) {
            Stage::Collecting(work) => Ok(work),
            Stage::Failed(error) => {
                self.stage = Stage::Failed(error.clone());
                Err(error)
            }
            Stage::Spilling(job) => {
                self.stage = Stage::Spilling(job);
                Err(StoreError::Gone)
            }
        }
    }
}

/// Writes pieces until there is no other. Blocks.
fn spill(mut work: Box<Work>, fill: &Arc<Fill>) -> (Box<Work>, Result<(), StoreError>) {
    let _stops = Stops(fill);
    while let Some(piece) = fill.next() {
        if let Err(error) = work.spill(&piece) {
            return (work, Err(error));
        }
    }
    (work, Ok(()))
}

/// Says that nobody writes any more, also after a panic.
struct Stops<'a>(&'a Fill);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A sealed blob that nobody has taken yet: when the asker is gone, so is the blob.
struct Unclaimed {
    inner: Arc<Inner>,
    blob: Option<SealedBlob>,
}

impl Unclaimed {
    const fn new(inner: Arc<Inner>, blob: SealedBlob) -> Unclaimed {
        Unclaimed { inner, blob: Some(blob) }
    }

    fn claim(mut self) -> SealedBlob {
        self.blob.take().expect("claimed once, by value")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(blob) = self.blob.take() {
            self.inner.remove(&blob.digest, &blob.place);
        }
    }
}
