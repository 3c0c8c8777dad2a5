//! The writer's part in what is remote: the outbox goes with the places, and is left once the catalog has said where.

use std::collections::HashSet;

use super::{Failure, Staged, Writer};
use crate::index::catalog::{Remote, RemoteBlob};
use crate::index::core::{Core, Order};
use crate::index::error::IndexError;
use crate::index::outbox::Moved;
use crate::index::record::seat_of;
use crate::index::sqlite::outbox;
use crate::index::table::Use;
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};

impl Writer {
    /// Queues a blob whose row has just come.
    pub(super) fn enqueue(
        &self,
        connection: &rusqlite::Connection,
        digest: &Digest,
        len: u64,
        moved: &mut Moved,
    ) -> Result<(), IndexError> {
        if !self.core.outbox.is_open() {
            return Ok(());
        }
        if !self.core.outbox.has_room(moved, len) {
            moved.shed += 1;
            return Ok(());
        }
        outbox::add(connection, digest, len, self.core.clock.now(), moved)
    }

    pub(super) fn unqueue(
        &self,
        connection: &rusqlite::Connection,
        digest: &Digest,
        moved: &mut Moved,
    ) -> Result<(), IndexError> {
        if self.core.outbox.is_in_use() { outbox::remove(connection, digest, moved) } else { Ok(()) }
    }

    /// What is remote by now waits no more.
    pub(super) fn leave_outbox(&self, batch: &mut [Staged]) {
        let is_due = |staged: &&mut Staged| staged.failure.is_none() && !staged.job.work.sent().is_empty();
        let due: Vec<&mut Staged> = batch.iter_mut().filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        let left = self.remove_sent(&due);
        if let Err(error) = left {
            tracing::error!(%error, "what is remote could not leave the outbox: it will be sent once more");
            due.into_iter().for_each(|staged| staged.failure = Some(Failure::Commit(error.to_string())));
        }
    }

    fn remove_sent(&self, due: &[&mut Staged]) -> Result<(), IndexError> {
        let mut moved = Moved::default();
        let mut connection = self.core.places.writing.lock();
        let transaction = connection.transaction()?;
        for blob in due.iter().flat_map(|staged| staged.job.work.sent()) {
            outbox::remove(&transaction, &blob.digest, &mut moved)?;
        }
        moved.oldest = Some(outbox::oldest(&transaction)?);
        transaction.commit()?;
        self.core.outbox.count(&moved);
        Ok(())
    }
}

/// The table learns where the bucket has these blobs, as far as they are not here.
pub(super) fn settle_uploaded(core: &Core, blobs: &[RemoteBlob], number: u32) {
    let mut order = core.order.lock();
    for blob in blobs {
        let place = Place { tier: TierName::S3, object: number, offset: blob.offset, len: blob.len };
        stand_in(core, &mut order, &blob.digest, &Remote { place, class: blob.class, sums: blob.sums.clone() });
    }
}

/// The rows are the truth: what was dropped here stands in the bucket, or nowhere.
pub(super) fn settle_dropped(core: &Core, order: &mut Order, dropped: &[Digest], remote: &[(Digest, Remote)]) {
    if !core.outbox.is_open() {
        return;
    }
    for (digest, remote) in remote {
        stand_in(core, order, digest, remote);
    }
    let stays: HashSet<&Digest> = remote.iter().map(|(digest, _)| digest).collect();
    for digest in dropped.iter().filter(|digest| !stays.contains(digest)) {
        // Gone from the bucket since it was looked up.
        if let Some(stale) = core.table.get(&digest.prefix()).map(|seat| seat.place)
            && !stale.tier.is_local()
        {
            core.table.remove_if(&digest.prefix(), &stale);
            order.note_dropped(&core.table, digest, &stale);
            order.note_bereft(&core.table, digest);
        }
    }
}

fn stand_in(core: &Core, order: &mut Order, digest: &Digest, remote: &Remote) {
    if !core.outbox.is_open() {
        return;
    }
    let prefix = digest.prefix();
    match core.table.get(&prefix).map(|seat| seat.place) {
        Some(standing) if standing.tier.is_local() || standing == remote.place => {}
        Some(standing) => {
            core.table.move_if(&prefix, &standing, &remote.place);
            order.note_dropped(&core.table, digest, &standing);
        }
        None => {
            let used = Use { last: core.minutes(), hits: 0 };
            let blob = seat_of(digest, &remote.sums, remote.place, remote.class, used);
            if !order.note_remote(&core.table, &blob) {
                // Who may read it was forgotten with its seat.
                core.table.put_unsure(&blob);
            }
        }
    }
}
