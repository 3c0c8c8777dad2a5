//! The one writer: takes what is queued, syncs the bytes, commits the places, then the catalog, and tells who waits.

pub(super) mod queue;
mod remote;
mod settle;
mod sync;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::queue::{Acked, Done, Job, Next, Pace, Work};
use self::sync::{Condemned, Failed};
use super::catalog::{Change, Found, KeptBuilds, Named, RemoteBlob};
use super::core::Core;
use super::error::IndexError;
use super::outbox::Moved;
use super::record::Visible;
use super::sqlite::places::{self, Located, Written};
use super::sqlite::{outbox, sql};
use super::table::Use;
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;

/// How often leases are counted anew and old records of builds are dropped.
const TIDY: Duration = Duration::from_secs(60);
/// How long the writer sleeps when nothing comes.
const IDLE: Duration = Duration::from_secs(1);
/// Use times saved in one commit.
const USES: usize = 10_000;

/// The writer's thread.
pub(super) struct Writer {
    core: Arc<Core>,
    condemned: Condemned,
    next_tidy: Duration,
    next_uses: Duration,
}

/// A job on its way through a commit.
struct Staged {
    job: Job,
    failure: Option<Failure>,
    /// What became of a record's place.
    written: Option<Written>,
    /// Places that a drop found, with the sums they had.
    dropped: Vec<(Digest, Vec<Checksum>)>,
    /// What the catalog found.
    found: Found,
    done: Done,
}

/// Why a job is taken back.
#[derive(Clone)]
enum Failure {
    Sync(Failed),
    Commit(String),
}

impl Failure {
    fn error(&self) -> IndexError {
        match self {
            Failure::Sync(failed) => IndexError::Sync(std::io::Error::new(failed.kind, failed.why.clone())),
            Failure::Commit(why) => IndexError::Commit { why: why.clone() },
        }
    }
}

impl Writer {
    pub(super) fn new(core: Arc<Core>) -> Writer {
        let now = core.clock.elapsed();
        let next_uses = now + core.settings.use_flush;
        Writer { core, condemned: Condemned::default(), next_tidy: now + TIDY, next_uses }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        // Should this thread ever fail, callers get `Closed` instead of waiting for ever.
        let _closes = Closes(self.core.clone());
        let settings = &self.core.settings;
        let pace = Pace { delay: settings.commit_delay, idle: IDLE };
        loop {
            match self.core.queue.next(&pace) {
                Next::Commit(jobs) => self.commit(jobs),
                Next::Idle => {}
                Next::End => break,
            }
            self.tidy_when_due();
        }
        if self.core.queue.saves_uses_at_end() {
            self.save_uses();
            self.checkpoint();
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let staged = |job| Staged {
            job,
            failure: None,
            written: None,
            dropped: Vec::new(),
            found: Found::default(),
            done: Done::default(),
        };
        let mut batch: Vec<Staged> = jobs.into_iter().map(staged).collect();
        self.sync(&mut batch);
        self.commit_places(&mut batch);
        self.commit_catalog(&mut batch);
        self.leave_outbox(&mut batch);
        self.core.gauges.commits.fetch_add(1, Ordering::Relaxed);
        self.core.gauges.jobs.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for mut staged in batch {
            if staged.failure.is_some() {
                self.core.gauges.condemned.fetch_add(1, Ordering::Relaxed);
            }
            let is_record = matches!(staged.job.work, Work::Record(_));
            settle::settle(&self.core, &mut staged);
            let acked: Acked = match &staged.failure {
                None => Ok(staged.done),
                Some(failure) => Err(failure.error()),
            };
            if let Some(Err(error)) = staged.job.end(acked) {
                self.core.gauges.taken_back.fetch_add(u64::from(is_record), Ordering::Relaxed);
                tracing::error!(%error, "a change that nobody awaited was taken back");
            }
        }
    }

    /// Bytes before places.
    fn sync(&mut self, batch: &mut [Staged]) {
        let dirty: Vec<_> = batch.iter().flat_map(|staged| staged.job.work.dirty()).collect();
        if dirty.is_empty() {
            return;
        }
        let failed = self.condemned.sync(&dirty);
        if failed.is_empty() {
            return;
        }
        for staged in batch {
            let lost = staged.job.work.dirty().into_iter().find_map(|dirty| failed.get(&dirty.object()));
            staged.failure = lost.cloned().map(Failure::Sync);
        }
    }

    /// Places before keys.
    fn commit_places(&self, batch: &mut [Staged]) {
        let mut due: Vec<&mut Staged> =
            batch.iter_mut().filter(|staged| staged.failure.is_none() && staged.job.work.has_places()).collect();
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.write_places(&mut due) {
            tracing::error!(%error, jobs = due.len(), "places could not be committed");
            for staged in due {
                // What was noted on the way was rolled back.
                (staged.written, staged.dropped, staged.done) = (None, Vec::new(), Done::default());
                staged.failure = Some(Failure::Commit(error.to_string()));
            }
        }
    }

    fn write_places(&self, due: &mut [&mut Staged]) -> Result<(), IndexError> {
        let used = Use { last: self.core.minutes(), hits: 0 };
        let mut moved = Moved::default();
        let mut connection = self.core.places.writing.lock();
        let transaction = connection.transaction()?;
        for staged in due {
            match &mut staged.job.work {
                Work::Record(record) => {
                    for (sum, digest) in &record.sums {
                        places::add_sum(&transaction, digest, sum)?;
                    }
                    let Some(blob) = &record.blob else { continue };
                    let (digest, place, class, sums) = (blob.digest, blob.place, blob.class, blob.sums.clone());
                    let row = Located { digest, place, class, used, sums };
                    let written = places::put(&transaction, &row)?;
                    if written == Written::New && !record.remote {
                        self.enqueue(&transaction, &digest, place.len, &mut moved)?;
                    }
                    staged.written = Some(written);
                }
                Work::Drop { places, .. } => {
                    for (digest, place) in places {
                        if let Some(sums) = places::drop_if(&transaction, digest, place)? {
                            self.unqueue(&transaction, digest, &mut moved)?;
                            staged.dropped.push((*digest, sums));
                        }
                    }
                    staged.done.changed = staged.dropped.len() as u64;
                }
                Work::Move(moves) => {
                    for (stands, one) in moves {
                        let moved = *stands && places::move_if(&transaction, &one.digest, &one.from, &one.to)?;
                        staged.done.moved.push(moved);
                    }
                }
                Work::Uploaded { blobs, .. } => {
                    for blob in blobs {
                        let here = places::find(&transaction, &blob.digest)?;
                        blob.sums = here.map_or_else(Vec::new, |here| here.sums);
                    }
                }
                Work::Lost { digest, whole, .. } => {
                    let here = places::find(&transaction, digest)?;
                    *whole = here.is_none();
                    if let Some(here) = here {
                        self.enqueue(&transaction, digest, here.place.len, &mut moved)?;
                    }
                }
                Work::Unqueue(digests) => {
                    for digest in digests {
                        self.unqueue(&transaction, digest, &mut moved)?;
                    }
                }
                Work::Line { .. } | Work::ForgetBuild { .. } | Work::Fact { .. } | Work::Usage(_) | Work::Barrier => {}
            }
        }
        if moved != Moved::default() {
            moved.oldest = Some(outbox::oldest(&transaction)?);
        }
        transaction.commit()?;
        self.core.outbox.count(&moved);
        Ok(())
    }

    fn commit_catalog(&self, batch: &mut [Staged]) {
        let mut due: Vec<&mut Staged> =
            batch.iter_mut().filter(|staged| staged.failure.is_none() && self.change(staged).is_some()).collect();
        if due.is_empty() {
            return;
        }
        let all = due.len();
        let Err(error) = self.transact_keys(&mut due) else { return };
        if all > 1 && !is_the_disk(&error) {
            // One that cannot be committed must not take the others with it.
            due.into_iter().for_each(|staged| self.transact_alone(staged));
            return;
        }
        tracing::error!(%error, jobs = all, "keys could not be committed");
        due.into_iter().for_each(|staged| staged.failure = Some(Failure::Commit(error.to_string())));
    }

    fn transact_alone(&self, staged: &mut Staged) {
        if let Err(error) = self.transact_keys(&mut [&mut *staged]) {
            tracing::error!(%error, "keys could not be committed");
            staged.failure = Some(Failure::Commit(error.to_string()));
        }
    }

    fn transact_keys(&self, due: &mut [&mut Staged]) -> Result<(), IndexError> {
        let changes: Vec<Change<'_>> = due.iter().filter_map(|staged| self.change(staged)).collect();
        let written = self.core.catalog.write(&changes)?;
        for (staged, found) in due.iter_mut().zip(written.found) {
            staged.done.changed += found.builds + found.folded;
            staged.found = found;
        }
        Ok(())
    }

    /// What a job changes in the catalog.
    fn change<'a>(&self, staged: &'a Staged) -> Option<Change<'a>> {
        let lines_max = self.core.settings.lines_max;
        Some(match &staged.job.work {
            Work::Record(record) => Change::Named(named(record)),
            Work::Drop { seq, .. } if !staged.dropped.is_empty() => {
                Change::Dropped { seq: *seq, blobs: &staged.dropped }
            }
            Work::Line { label, line } => Change::Line { label, line, lines_max, kept: self.kept_builds() },
            Work::ForgetBuild { label } => Change::ForgetBuild { label },
            Work::Fact { name, value } => Change::Fact { name, value: value.as_deref() },
            Work::Usage(added) => {
                Change::Usage { rows: &added.rows, rows_max: added.rows_max, oldest_day: added.oldest_day }
            }
            Work::Uploaded { name, bytes, at, blobs } => Change::Remote { name, bytes: *bytes, at: *at, blobs },
            Work::Lost { digest, place, seq, whole } => {
                Change::Lost { seq: *seq, digest: *digest, object: place.object, whole: *whole }
            }
            Work::Drop { .. } | Work::Move(_) | Work::Unqueue(_) | Work::Barrier => return None,
        })
    }

    fn tidy_when_due(&mut self) {
        let now = self.core.clock.elapsed();
        if now >= self.next_tidy {
            self.next_tidy = now + TIDY;
            self.core.table.end_leases(self.core.minutes(), self.core.settings.lease_period);
            let kept = self.kept_builds();
            if let Err(error) = self.core.catalog.write(&[Change::Expire(kept)]) {
                tracing::warn!(%error, "old records of builds could not be dropped");
            }
        }
        if now >= self.next_uses {
            self.next_uses = now + self.core.settings.use_flush;
            self.save_uses();
        }
    }

    fn kept_builds(&self) -> KeptBuilds {
        let settings = &self.core.settings;
        let oldest = self.core.clock.now().minus(settings.keep_records);
        KeptBuilds { oldest, builds_max: settings.builds_max }
    }

    fn save_uses(&self) {
        let uses = self.core.table.take_uses();
        for some in uses.chunks(USES) {
            if let Err(error) = self.write_uses(some) {
                tracing::warn!(%error, "use times could not be saved: eviction will think these blobs colder");
                return;
            }
        }
    }

    fn write_uses(&self, uses: &[(crate::model::digest::Prefix, Use)]) -> Result<(), IndexError> {
        let mut connection = self.core.places.writing.lock();
        let transaction = connection.transaction()?;
        places::save_uses(&transaction, uses)?;
        Ok(transaction.commit()?)
    }

    fn checkpoint(&self) {
        let places = self.core.places.writing.lock().query_row(sql::CHECKPOINT, [], |_| Ok(()));
        if let Err(error) = places.map_err(IndexError::from).and_then(|()| self.core.catalog.seal()) {
            tracing::debug!(%error, "the log was not moved into the database; the next start does it");
        }
    }
}

/// Whether another try with fewer rows would fail the same way.
fn is_the_disk(error: &IndexError) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure};
    let IndexError::Database(error) = error else { return false };
    let code = error.sqlite_error_code();
    matches!(code, Some(CannotOpen | DatabaseCorrupt | DiskFull | NotADatabase | ReadOnly | SystemIoFailure))
}

fn named(record: &Visible) -> Named<'_> {
    let of_blob = record.blob.iter().flat_map(|blob| blob.sums.iter().map(|sum| (*sum, blob.digest)));
    Named {
        seq: Some(record.seq),
        forgets: &record.forgets,
        puts: record.entries.iter().map(|entry| (&**entry, None)).collect(),
        sums: of_blob.chain(record.sums.iter().copied()).collect(),
        edges: &record.edges,
    }
}

impl Work {
    fn has_places(&self) -> bool {
        match self {
            Work::Record(record) => record.blob.is_some() || !record.sums.is_empty(),
            Work::Drop { .. } | Work::Move(_) | Work::Uploaded { .. } | Work::Lost { .. } | Work::Unqueue(_) => true,
            Work::Line { .. } | Work::ForgetBuild { .. } | Work::Fact { .. } | Work::Usage(_) | Work::Barrier => false,
        }
    }

    fn dirty(&self) -> Vec<&crate::runtime::durable::Dirty> {
        match self {
            Work::Record(record) => record.blob.iter().map(|blob| &blob.dirty).collect(),
            Work::Move(moves) => moves.iter().filter(|(stands, _)| *stands).map(|(_, one)| &one.dirty).collect(),
            Work::Drop { .. }
            | Work::Line { .. }
            | Work::ForgetBuild { .. }
            | Work::Fact { .. }
            | Work::Uploaded { .. }
            | Work::Lost { .. }
            | Work::Unqueue(_)
            | Work::Usage(_)
            | Work::Barrier => Vec::new(),
        }
    }

    /// What an object of the bucket holds from now on.
    fn sent(&self) -> &[RemoteBlob] {
        if let Work::Uploaded { blobs, .. } = self { blobs } else { &[] }
    }
}

struct Closes(Arc<Core>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_keeps_its_kind() {
        let failed = Failed { kind: std::io::ErrorKind::StorageFull, why: "disk full".into() };
        let IndexError::Sync(error) = Failure::Sync(failed).error() else { panic!("is a sync error") };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
}
