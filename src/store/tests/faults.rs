//! Every file operation fails once, in turn: no panic, no lie, no leak; and what a failed sync condemns stays gone.

use bytes::Bytes;

use super::super::fault::{EIO, ENOSPC, Operation, Plan};
use super::super::layout::CHUNK;
use super::super::{Intent, SealedBlob, Store, StoreError};
use super::{Bed, get_all, noise, put, try_put, until};
use crate::model::place::Class;

/// Checks that what can be read is right.
async fn read_honestly(store: &Store, blob: &SealedBlob, bytes: &[u8]) -> bool {
    match get_all(store, blob).await {
        Ok(found) => {
            assert!(found == bytes, "a lie");
            true
        }
        Err(_) => false,
    }
}

/// Uses every way into the store; goes on after errors. Returns what was acknowledged as durable and not removed.
async fn workload(store: &Store) -> Vec<(SealedBlob, Vec<u8>)> {
    let mut durable = Vec::new();
    store.sweep_temporary();
    let mut moved = None;
    for (at, len) in [10, 2 * CHUNK + 5, 20_000, 70_000, 0, CHUNK, 3000].into_iter().enumerate() {
        let bytes = noise(at as u64, len);
        let Ok(blob) = try_put(store, &bytes, Class::ALL[at % 2]).await else { continue };
        read_honestly(store, &blob, &bytes).await;
        if blob.dirty.sync().is_err() {
            assert!(!read_honestly(store, &blob, &bytes).await, "a failed sync condemns");
            store.remove(&blob.digest, &blob.place);
            continue;
        }
        read_honestly(store, &blob, &bytes).await;
        match at {
            2 => moved = store.copy_forward(&blob.digest, &blob.place).ok().map(|moved| (moved, blob.place, bytes)),
            3 => store.remove(&blob.digest, &blob.place),
            5 => drop(store.quarantine(&blob.digest, &blob.place)),
            _ => durable.push((blob, bytes)),
        }
    }
    if let Some((blob, from, bytes)) = moved {
        let survivors = durable.iter().any(|(blob, _)| blob.place.object == from.object);
        if blob.dirty.sync().is_ok() && !survivors && store.retire_segment(from.object).is_ok() {
            durable.push((blob, bytes));
        }
    }
    let mut writer = match store.writer(Intent { len: None, class: Class::Trusted, sums: vec![] }) {
        Ok(writer) => writer,
        Err(_) => return durable,
    };
    drop(writer.write(Bytes::from(noise(50, 3 * CHUNK))).await);
    durable
}

async fn fail_at(after: u64, times: u64, code: i32) -> bool {
    let bed = Bed::new();
    bed.files.fail(Plan { only: None, after, times, code });
    let (mut durable, store) = (Vec::new(), bed.try_open().ok());
    if let Some(store) = &store {
        durable = workload(store).await;
        until(|| store.usage().classes.iter().all(|class| class.reserved_bytes == 0)).await;
    }
    let (failed, removals_failed) = bed.files.mend();
    if removals_failed == 0 {
        until(|| bed.names("tmp").is_empty()).await;
        let (used, disk) = (store.map_or(0, |store| store.usage().disk_bytes()), bed.disk_bytes());
        assert!(used.abs_diff(disk) <= disk / 100 + 5 * 4096, "counted {used}, on disk {disk}, failing after {after}");
    }
    let store = bed.open();
    store.sweep_temporary();
    assert!(bed.names("tmp").is_empty());
    for (blob, bytes) in &durable {
        assert!(read_honestly(&store, blob, bytes).await, "acknowledged and lost, failing after {after}");
    }
    let again = put(&store, &noise(60, CHUNK)).await;
    assert!(read_honestly(&store, &again, &noise(60, CHUNK)).await);
    failed > 0
}

async fn fail_at_each(times: u64, code: i32) {
    let mut after = 0;
    while fail_at(after, times, code).await {
        after += 1;
    }
    assert!(after > 60, "the workload has only {after} operations");
}

#[tokio::test]
async fn any_one_operation_may_fail_with_eio() {
    fail_at_each(1, EIO).await;
}

#[tokio::test]
async fn any_one_operation_may_fail_with_enospc() {
    fail_at_each(1, ENOSPC).await;
}

#[tokio::test]
async fn all_operations_may_fail_from_any_point_on() {
    fail_at_each(u64::MAX, EIO).await;
}

#[tokio::test]
async fn short_writes_are_completed() {
    let bed = Bed::new();
    bed.files.short_writes(true);
    let store = bed.open();
    for len in [0, 1, 5000, CHUNK, 2 * CHUNK + 3] {
        let blob = put(&store, &noise(1, len)).await;
        blob.dirty.sync().expect("synced");
        assert!(read_honestly(&bed.open(), &blob, &noise(1, len)).await);
    }
}

#[tokio::test]
async fn a_failed_sync_condemns_what_it_covered_and_no_more() {
    let bed = Bed::new();
    let store = bed.open();
    let safe = put(&store, &noise(1, 1000)).await;
    safe.dirty.sync().expect("synced");
    let lost = put(&store, &noise(2, 1000)).await;
    assert_eq!(safe.dirty.object(), lost.dirty.object(), "one sync is enough for one segment");
    bed.files.fail(Plan { only: Some(Operation::Sync), after: 0, times: 1, code: EIO });
    assert!(lost.dirty.sync().is_err());
    assert!(lost.dirty.sync().is_err(), "never repeated and believed");
    assert!(read_honestly(&store, &safe, &noise(1, 1000)).await);
    assert!(matches!(get_all(&store, &lost).await, Err(StoreError::Gone)));
    let next = put(&store, &noise(3, 1000)).await;
    assert_ne!(next.place.object, safe.place.object, "nothing is appended to it");
    next.dirty.sync().expect("synced");
    assert!(read_honestly(&store, &next, &noise(3, 1000)).await);
}

#[tokio::test]
async fn a_file_whose_publication_fails_is_gone() {
    for only in [Operation::Sync, Operation::Rename, Operation::SyncDir, Operation::MakeDir] {
        let bed = Bed::new();
        let store = bed.open();
        let blob = put(&store, &noise(1, CHUNK)).await;
        bed.files.fail(Plan { only: Some(only), after: 0, times: 1, code: EIO });
        assert!(blob.dirty.sync().is_err(), "{only:?}");
        bed.files.mend();
        assert!(blob.dirty.sync().is_err(), "never repeated and believed");
        assert!(matches!(get_all(&store, &blob).await, Err(StoreError::Gone)), "{only:?}");
        assert_eq!((store.usage().disk_bytes(), bed.disk_bytes()), (0, 0), "{only:?}");
    }
}

#[tokio::test]
async fn a_file_removed_before_its_sync_is_not_called_durable() {
    let bed = Bed::new();
    let store = bed.open();
    let blob = put(&store, &noise(1, CHUNK)).await;
    store.remove(&blob.digest, &blob.place);
    assert!(blob.dirty.sync().is_err());
    assert_eq!((store.usage().disk_bytes(), bed.disk_bytes()), (0, 0));
}
