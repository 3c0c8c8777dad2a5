//! Full: the word of the store for no room, and what goes on then.

use bytes::Bytes;

use super::super::fault::{EMFILE, ENOSPC, Operation, Plan};
use super::super::layout::CHUNK;
use super::super::{Intent, StoreError};
use super::{Bed, get_all, noise, put, try_put, until};
use crate::model::place::Class;

fn small_bed() -> Bed {
    let mut bed = Bed::new();
    bed.settings.max_bytes = Some(16 << 20);
    bed
}

#[tokio::test]
async fn a_full_class_is_full_and_the_others_are_not() {
    let bed = small_bed();
    let store = bed.open();
    let mut held = Vec::new();
    let error = loop {
        match try_put(&store, &noise(held.len() as u64, 3 * CHUNK), Class::Untrusted).await {
            Ok(blob) => held.push(blob),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let used = store.usage().classes[Class::Untrusted as usize];
    assert!(used.bytes() <= used.budget_bytes && used.reserved_bytes == 0, "{used:?}");
    assert!(!held.is_empty());
    put(&store, &noise(99, 3 * CHUNK)).await;
    assert_eq!(get_all(&store, &held[0]).await.expect("readable"), noise(0, 3 * CHUNK));
    let first = held.swap_remove(0);
    store.remove(&first.digest, &first.place);
    try_put(&store, &noise(100, 3 * CHUNK), Class::Untrusted).await.expect("room again");
}

#[tokio::test]
async fn a_body_without_a_length_is_stopped_at_the_budget() {
    let bed = small_bed();
    let store = bed.open();
    let mut writer = store.writer(Intent { len: None, class: Class::Document, sums: vec![] }).expect("room");
    let partial = writer.partial();
    let piece = Bytes::from(noise(1, CHUNK));
    let mut taken = 0;
    while taken < 100 && writer.write(piece.clone()).await.is_ok() {
        taken += 1;
    }
    assert!(taken < 100, "the budget is 1.5 MiB");
    assert_eq!(partial.read(partial.written() - 1, 10).await.expect("readable").len(), 1);
    drop((writer, partial));
    until(|| store.usage().disk_bytes() == 0 && bed.names("tmp").is_empty()).await;
}

#[tokio::test]
async fn what_can_never_fit_is_too_large() {
    let store = small_bed().open();
    let about = |len| Intent { len: Some(len), class: Class::Document, sums: vec![] };
    assert!(matches!(store.writer(about(1 << 30)), Err(StoreError::TooLarge { .. })));
    let held = store.writer(about(1 << 20)).expect("room");
    assert!(matches!(store.writer(about(1 << 20)), Err(StoreError::Full { .. })));
    drop(held);
    assert!(store.writer(about(1 << 20)).is_ok());
}

#[tokio::test]
async fn a_full_disk_is_read_and_written_again_when_space_returns() {
    let bed = Bed::new();
    let old = [put(&bed.open(), &noise(1, 3000)).await, put(&bed.open(), &noise(2, CHUNK)).await];
    old.iter().for_each(|blob| blob.dirty.sync().expect("synced"));
    for only in [Operation::Write, Operation::Create] {
        bed.files.fail(Plan { only: Some(only), after: 0, times: u64::MAX, code: ENOSPC });
        let store = bed.open();
        for (blob, seed, len) in [(&old[0], 1, 3000), (&old[1], 2, CHUNK)] {
            assert_eq!(get_all(&store, blob).await.expect("reads go on"), noise(seed, len));
        }
        for len in [3000, CHUNK] {
            let error = try_put(&store, &noise(3, len), Class::Document).await.err().expect("full");
            assert!(matches!(error, StoreError::Full { .. }), "{error}");
        }
        bed.files.mend();
        for len in [3000, CHUNK] {
            let blob = put(&store, &noise(4, len)).await;
            assert_eq!(get_all(&store, &blob).await.expect("readable"), noise(4, len));
        }
    }
}

#[tokio::test]
async fn without_a_descriptor_left_the_kept_ones_are_given_up() {
    let bed = Bed::new();
    let blobs = [put(&bed.open(), &noise(1, 3000)).await, put(&bed.open(), &noise(2, CHUNK)).await];
    blobs.iter().for_each(|blob| blob.dirty.sync().expect("synced"));
    let store = bed.open();
    for blob in &blobs {
        bed.files.fail(Plan { only: Some(Operation::Open), after: 0, times: 1, code: EMFILE });
        get_all(&store, blob).await.expect("readable at the second try");
        bed.files.mend();
    }
    let store = bed.open();
    bed.files.fail(Plan { only: Some(Operation::Open), after: 0, times: u64::MAX, code: EMFILE });
    for blob in &blobs {
        assert!(matches!(get_all(&store, blob).await, Err(StoreError::Full { .. })), "not Gone: that would be a miss");
    }
}
