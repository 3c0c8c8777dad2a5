//! After a commit: what is durable is no longer pinned, what failed is taken back, and the table agrees with the rows.

use super::queue::Work;
use super::{Failure, Staged, remote};
use crate::index::core::Core;
use crate::index::record::{NewBlob, Visible, seat_of};
use crate::index::sqlite::places::Written;
use crate::index::table::{Seated, Use};
use crate::model::digest::Digest;
use crate::model::place::Place;

pub(super) fn settle(core: &Core, staged: &mut Staged) {
    match &staged.job.work {
        Work::Record(record) => match (&staged.failure, staged.written) {
            (None, written) => settle_record(core, record, written),
            (Some(failure), written) => take_back_record(core, record, written, failure),
        },
        Work::Drop { .. } => settle_drop(core, staged),
        Work::Move(moves) => {
            for (at, (stands, one)) in moves.iter().enumerate() {
                let moved = staged.failure.is_none() && staged.done.moved.get(at) == Some(&true);
                if *stands && !moved {
                    core.table.move_if(&one.digest.prefix(), &one.to, &one.from);
                }
            }
        }
        Work::Fact { name, value } if staged.failure.is_none() => {
            let mut facts = core.facts.write();
            match value {
                Some(value) => facts.insert(name.clone(), value.clone()),
                None => facts.remove(name),
            };
        }
        Work::Uploaded { blobs, .. } => {
            if let Some(number) = staged.found.object {
                remote::settle_uploaded(core, blobs, number);
            }
        }
        Work::Lost { digest, place, .. } => {
            core.table.remove_if(&digest.prefix(), place);
            settle_drop(core, staged);
        }
        Work::Fact { .. }
        | Work::Line { .. }
        | Work::ForgetBuild { .. }
        | Work::Unqueue(_)
        | Work::Usage(_)
        | Work::Barrier => {}
    }
}

fn settle_record(core: &Core, record: &Visible, written: Option<Written>) {
    if let (Some(blob), Some(written)) = (&record.blob, written) {
        settle_blob(core, blob, record.seated, written);
    }
    for entry in &record.entries {
        core.recent.settle(&entry.hash, record.seq);
    }
    for key in &record.forgets {
        core.recent.settle(key, record.seq);
    }
}

/// The rows are the truth: where the table thought otherwise, it learns.
fn settle_blob(core: &Core, blob: &NewBlob, seated: Seated, written: Written) {
    let prefix = blob.digest.prefix();
    match written {
        Written::New | Written::Here => {
            if let Seated::Kept(standing) = seated {
                // The place that stood when this was recorded has gone meanwhile: dropped, or never made durable.
                if !core.table.move_if(&prefix, &standing, &blob.place) {
                    let used = Use { last: core.minutes(), hits: 0 };
                    core.table.put(&seat_of(&blob.digest, &blob.sums, blob.place, blob.class, used));
                }
            }
        }
        Written::Replaced(old) => {
            // A better copy that failed has left its class to the place that stood before it.
            core.table.move_if(&prefix, &old, &blob.place);
            supersede(core, blob.digest, old);
        }
        Written::Kept(standing) => {
            core.table.move_if(&prefix, &blob.place, &standing);
            supersede(core, blob.digest, blob.place);
        }
    }
    core.unseated.remove_if(&blob.digest, &blob.place);
}

fn supersede(core: &Core, digest: Digest, place: Place) {
    if !core.superseded.push((digest, place)) {
        tracing::warn!("too many superseded places wait to be removed: one was left to the scrub");
    }
}

fn take_back_record(core: &Core, record: &Visible, written: Option<Written>, failure: &Failure) {
    let _order = core.order.lock();
    if let Some(blob) = &record.blob {
        match failure {
            // The row stands, its bytes are good: only the keys are lost.
            Failure::Commit(_) if written.is_some() => {
                settle_blob(core, blob, record.seated, written.unwrap_or(Written::Here));
            }
            Failure::Commit(_) | Failure::Sync(_) => take_back_blob(core, blob, record.seated),
        }
    }
    for (entry, known) in record.entries.iter().zip(&record.known) {
        let last = core.recent.fail(&entry.hash, record.seq);
        if last && !known {
            core.table.unname(&entry.hash.0);
        }
    }
    for key in &record.forgets {
        if core.recent.fail(key, record.seq) {
            // The database still has it: known again, as far as the table can say.
            core.table.name(&key.0, None);
        }
    }
}

fn take_back_blob(core: &Core, blob: &NewBlob, seated: Seated) {
    let prefix = blob.digest.prefix();
    match seated {
        Seated::Here | Seated::Refused => {
            core.table.remove_if(&prefix, &blob.place);
        }
        Seated::Replaced(old) => {
            core.table.move_if(&prefix, &blob.place, &old);
        }
        Seated::Kept(_) => {}
    }
    core.unseated.remove_if(&blob.digest, &blob.place);
}

fn settle_drop(core: &Core, staged: &Staged) {
    if let Some(failure) = &staged.failure {
        tracing::error!(error = %failure.error(), "a drop was not committed whole: what is left of it is a miss, and the place may come back at a start");
        return;
    }
    let mut order = core.order.lock();
    let dropped: Vec<Digest> = staged.dropped.iter().map(|(digest, _)| *digest).collect();
    remote::settle_dropped(core, &mut order, &dropped, &staged.found.remote);
    for (key, any_left) in &staged.found.keys {
        if core.recent.drop_settled(key) && !any_left {
            core.table.unname(&key.0);
        }
    }
}
