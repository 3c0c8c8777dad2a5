//! Writing and sealing: sums, promises, cancellation, the memory tier behind the disk.

use bytes::Bytes;

use super::super::layout::CHUNK;
use super::super::{Intent, Store, StoreError};
use super::{Bed, get_all, noise, put, until};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::place::{Class, TierName};
use sha2::Digest as _;

const LENS: [usize; 6] = [0, 1, 64 * 1024, 64 * 1024 + 1, CHUNK, 3 * CHUNK + 5];

fn intent() -> Intent {
    Intent { len: None, class: Class::Trusted, sums: vec![Algorithm::Sha1] }
}

fn sum(algorithm: Algorithm, bytes: &[u8]) -> Checksum {
    let sum = match algorithm {
        Algorithm::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
        Algorithm::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        Algorithm::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
        Algorithm::Md5 => md5::Md5::digest(bytes).to_vec(),
    };
    Checksum::new(algorithm, &sum).expect("as long as it is")
}

#[tokio::test]
async fn a_sealed_blob_knows_all_its_sums_announced_or_not() {
    let bed = Bed::new();
    let store = bed.open();
    for len in LENS {
        let bytes = noise(1, len);
        let mut writer = store.writer(intent()).expect("room");
        for chunk in bytes.chunks(33_333) {
            writer.write(Bytes::copy_from_slice(chunk)).await.expect("written");
        }
        let expect = Algorithm::ALL.map(|algorithm| sum(algorithm, &bytes));
        let blob = writer.seal(&expect, Some(len as u64)).await.expect("as promised");
        assert_eq!(blob.digest, Digest::of(&bytes));
        assert_eq!(blob.sha256, expect[0]);
        for expected in expect {
            assert_eq!(blob.sums.iter().filter(|sum| **sum == expected).count(), 1);
        }
        assert_eq!(blob.small.as_deref(), (len <= 64 * 1024).then_some(&bytes[..]));
        assert_eq!(get_all(&store, &blob).await.expect("readable before it is durable"), bytes);
    }
}

#[tokio::test]
async fn a_broken_promise_keeps_nothing() {
    let bed = Bed::new();
    let store = bed.open();
    for len in LENS {
        for algorithm in Algorithm::ALL {
            let bytes = noise(2, len);
            let mut writer = store.writer(intent()).expect("room");
            writer.write(Bytes::copy_from_slice(&bytes)).await.expect("written");
            let error = writer.seal(&[sum(algorithm, b"other bytes")], None).await.err().expect("broken");
            assert!(matches!(&error, StoreError::Mismatch { algorithm: found, .. } if *found == algorithm), "{error}");
        }
        let mut writer = store.writer(intent()).expect("room");
        writer.write(Bytes::from(noise(3, len))).await.expect("written");
        let error = writer.seal(&[], Some(len as u64 + 1)).await.err().expect("short");
        assert!(matches!(error, StoreError::Length { .. }), "{error}");
    }
    until(|| bed.names("tmp").is_empty()).await;
    assert_eq!(store.usage().classes[0].file_bytes, 0);
    assert_eq!(store.usage().classes[0].segment_bytes, 0);
}

/// Polls a future once and drops it.
async fn abandon(future: impl Future<Output = Result<(), StoreError>>) -> bool {
    tokio::select! { biased; _ = future => false, () = std::future::ready(()) => true }
}

#[tokio::test]
async fn a_write_that_was_dropped_was_taken_whole_or_not_at_all() {
    let bed = Bed::new();
    let store = bed.open();
    let bytes = noise(4, 9 * CHUNK + 3);
    let mut writer = store.writer(intent()).expect("room");
    let partial = writer.partial();
    let mut dropped = 0;
    for chunk in bytes.chunks(2 * CHUNK + 1) {
        let before = partial.written();
        while partial.written() == before {
            dropped += u32::from(abandon(writer.write(Bytes::copy_from_slice(chunk))).await);
            tokio::task::yield_now().await;
        }
        assert_eq!(partial.written(), before + chunk.len() as u64);
    }
    assert!(dropped > 0, "it never had to wait");
    let blob = writer.seal(&[], Some(bytes.len() as u64)).await.expect("sealed");
    assert_eq!(blob.digest, Digest::of(&bytes));
    assert_eq!(get_all(&store, &blob).await.expect("readable"), bytes);
}

#[tokio::test]
async fn a_seal_that_nobody_waits_for_keeps_nothing() {
    let bed = Bed::new();
    let store = bed.open();
    for len in [100, 2 * CHUNK] {
        let mut writer = store.writer(intent()).expect("room");
        writer.write(Bytes::from(noise(5, len))).await.expect("written");
        let seal = async { writer.seal(&[], None).await.map(drop) };
        abandon(seal).await;
    }
    until(|| {
        let trusted = store.usage().classes[0];
        bed.names("tmp").is_empty() && trusted.file_blobs + trusted.segment_blobs + trusted.reserved_bytes == 0
    })
    .await;
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let bed = Bed::new();
    let store = bed.open();
    let mut writer = store.writer(intent()).expect("room");
    writer.write(Bytes::from(noise(6, 5 * CHUNK))).await.expect("written");
    until(|| !bed.names("tmp").is_empty()).await;
    drop(writer);
    until(|| bed.names("tmp").is_empty() && store.usage().disk_bytes() == 0).await;
}

#[tokio::test]
async fn the_second_read_comes_from_memory() {
    let bed = Bed::new();
    let store = bed.open();
    for len in [10, 64 * 1024, 1 << 20] {
        let blob = put(&store, &noise(7, len)).await;
        assert!(store.recall(&blob.digest).is_none());
        get_all(&store, &blob).await.expect("readable");
        assert!(store.recall(&blob.digest).is_none(), "a scan does not fill memory");
        get_all(&store, &blob).await.expect("readable");
        assert_eq!(store.recall(&blob.digest).expect("kept"), noise(7, len));
        store.remove(&blob.digest, &blob.place);
        assert!(store.recall(&blob.digest).is_none());
    }
    let large = put(&store, &noise(8, (1 << 20) + 1)).await;
    for _ in 0..3 {
        get_all(&store, &large).await.expect("readable");
    }
    assert!(store.recall(&large.digest).is_none());
}

/// Where nobody knows what is in the page cache, there is no such thing.
#[cfg(all(target_os = "linux", not(feature = "portable")))]
#[tokio::test]
async fn a_warm_small_blob_is_there_at_once() {
    let bed = Bed::new();
    let store = bed.open();
    let bytes = noise(9, 50_000);
    let blob = put(&store, &bytes).await;
    let reader = store.open_blob(&blob.digest, &blob.place, blob.place.whole()).expect("readable");
    assert_eq!(reader.tier(), TierName::Segment);
    assert_eq!(reader.into_bytes().ok().expect("in memory"), bytes);
    bed.files.cold(true);
    let reader = store.open_blob(&blob.digest, &blob.place, blob.place.whole()).expect("readable");
    assert!(reader.into_bytes().is_err(), "it waits for the disk");
}

#[tokio::test]
async fn a_bad_blob_is_set_aside() {
    let bed = Bed::new();
    let store = bed.open();
    for len in [1000, CHUNK] {
        let blob = put(&store, &noise(10, len)).await;
        blob.dirty.sync().expect("synced");
        store.quarantine(&blob.digest, &blob.place).expect("set aside");
        if blob.place.tier == TierName::File {
            assert!(matches!(get_all(&store, &blob).await, Err(StoreError::Gone)));
        }
    }
    assert_eq!(bed.names("bad").len(), 2);
    assert_eq!(store.usage().classes[0].file_bytes, 0);
    assert_eq!(store.segments()[0].live_bytes, 0);
}

/// Puts, syncs, reads and removes in one task among many.
async fn busy(store: Store, seed: u64) {
    let mut kept = Vec::new();
    for at in 0..40 {
        let bytes = noise(seed * 1000 + at, [200, 30_000, 64 * 1024, 90_000, CHUNK + 1][(at as usize) % 5]);
        let blob = put(&store, &bytes).await;
        let dirty = blob.dirty.clone();
        tokio::task::spawn_blocking(move || dirty.sync().expect("synced")).await.expect("ran");
        assert!(get_all(&store, &blob).await.expect("readable") == bytes);
        kept.push((blob, bytes));
        if at % 3 == 0 {
            let (blob, _) = kept.swap_remove(0);
            store.remove(&blob.digest, &blob.place);
        }
    }
    for (blob, bytes) in kept {
        assert!(get_all(&store, &blob).await.expect("readable") == bytes);
        store.remove(&blob.digest, &blob.place);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_do_not_get_in_each_others_way() {
    let bed = Bed::new();
    let store = bed.open();
    #[allow(clippy::disallowed_methods, reason = "a test's own tasks")]
    let tasks: Vec<_> = (0..8).map(|seed| tokio::spawn(busy(store.clone(), seed))).collect();
    for task in tasks {
        task.await.expect("ran");
    }
    for segment in store.segments() {
        assert_eq!((segment.live_bytes, segment.reading), (0, 0));
        store.retire_segment(segment.number).expect("retired");
    }
    assert_eq!((store.usage().disk_bytes(), bed.disk_bytes()), (0, 0));
}
