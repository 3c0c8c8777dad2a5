//! What a restart finds: all that was durable, the right account of it, and no litter.

use std::collections::HashSet;

use bytes::Bytes;

use super::super::layout::CHUNK;
use super::super::{Intent, SegmentPhase, StoreError};
use super::{Bed, get_all, noise, put, try_put};
use crate::model::place::{Class, TierName};

#[tokio::test]
async fn places_are_readable_after_a_restart_and_usage_is_restored() {
    let bed = Bed::new();
    let store = bed.open();
    let mut blobs = Vec::new();
    for (at, len) in [0, 10, 5000, 64 * 1024, 70_000, CHUNK, 3 * CHUNK + 1].into_iter().cycle().take(70).enumerate() {
        let class = Class::ALL[at % 3];
        let bytes = noise(at as u64, len);
        let blob = try_put(&store, &bytes, class).await.expect("room");
        blob.dirty.sync().expect("synced");
        blobs.push((blob, class, bytes));
    }
    let before = store.usage();
    let near = |usage: u64, disk: u64| usage.abs_diff(disk) * 100 <= disk;
    assert!(near(before.disk_bytes(), bed.disk_bytes()), "{before:?} {}", bed.disk_bytes());
    drop(store);

    let store = bed.open();
    store.adopt(blobs.iter().map(|(blob, class, _)| (blob.place, *class)));
    assert_eq!(store.usage().classes, before.classes);
    assert_eq!(store.sweep_temporary(), 0);
    for (blob, class, bytes) in &blobs {
        assert!(get_all(&store, blob).await.expect("readable") == *bytes);
        assert_eq!(store.class_at(&blob.place), Some(*class));
        store.remove(&blob.digest, &blob.place);
    }
    for segment in store.segments() {
        assert_eq!((segment.live_bytes, segment.live_blobs), (0, 0));
        store.retire_segment(segment.number).expect("retired");
    }
    assert_eq!(store.usage().disk_bytes(), 0);
    assert_eq!(bed.disk_bytes(), 0);
}

#[tokio::test]
async fn what_is_written_while_the_index_tells_is_counted_once() {
    let bed = Bed::new();
    let old = [put(&bed.open(), &noise(1, 3000)).await, put(&bed.open(), &noise(2, CHUNK)).await];
    old.iter().for_each(|blob| blob.dirty.sync().expect("synced"));
    let store = bed.open();
    let new = [put(&store, &noise(3, 3000)).await, put(&store, &noise(4, CHUNK)).await];
    store.adopt(old.iter().chain(&new).map(|blob| (blob.place, Class::Trusted)));
    let trusted = store.usage().classes[0];
    assert_eq!((trusted.segment_blobs, trusted.file_blobs), (2, 2));
    assert_eq!(store.segments().iter().map(|segment| segment.live_blobs).sum::<u64>(), 2);
}

#[tokio::test]
async fn many_restarts_do_not_pile_up_segments() {
    let bed = Bed::new();
    let mut blobs = Vec::new();
    for run in 0..30 {
        let store = bed.open();
        for class in Class::ALL {
            let bytes = noise(run, 100);
            let blob = try_put(&store, &bytes, class).await.expect("room");
            blob.dirty.sync().expect("synced");
            blobs.push((blob, bytes));
        }
    }
    assert!(bed.names("segments").len() <= 3, "{:?}", bed.names("segments"));
    let store = bed.open();
    for (blob, bytes) in &blobs {
        assert_eq!(get_all(&store, blob).await.expect("readable"), *bytes);
    }
    let places: HashSet<_> = blobs.iter().map(|(blob, _)| blob.place).collect();
    assert_eq!(places.len(), blobs.len());
}

#[tokio::test]
async fn a_torn_end_of_a_segment_harms_nobody() {
    let bed = Bed::new();
    let store = bed.open();
    let whole = put(&store, &noise(1, 2000)).await;
    let torn = put(&store, &noise(2, 2000)).await;
    let path = bed.dir.path().join("segments").join(&bed.names("segments")[0]);
    drop(store);
    let len = std::fs::metadata(&path).expect("there").len();
    std::fs::File::options().write(true).open(&path).expect("there").set_len(len - 700).expect("cut");
    let store = bed.open();
    let next = put(&store, &noise(3, 2000)).await;
    assert_eq!(next.place.object, whole.place.object);
    assert_eq!(get_all(&store, &whole).await.expect("readable"), noise(1, 2000));
    assert_eq!(get_all(&store, &next).await.expect("readable"), noise(3, 2000));
    assert!(matches!(get_all(&store, &torn).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn unsynced_files_go_when_nobody_will_sync_them() {
    let bed = Bed::new();
    let store = bed.open();
    let blob = put(&store, &noise(1, CHUNK)).await;
    let (digest, place) = (blob.digest, blob.place);
    drop(blob);
    assert!(matches!(store.open_blob(&digest, &place, place.whole()), Err(StoreError::Gone)));
    assert!(bed.names("tmp").is_empty());
    assert_eq!(store.usage().disk_bytes(), 0);
}

#[tokio::test]
async fn sweeps_take_litter_and_nothing_else() {
    let bed = Bed::new();
    let kept = put(&bed.open(), &noise(1, CHUNK)).await;
    kept.dirty.sync().expect("synced");
    let orphan = put(&bed.open(), &noise(2, CHUNK)).await;
    orphan.dirty.sync().expect("synced");
    std::fs::write(bed.dir.path().join("tmp/0123456789abcdef-7"), b"a crash left it").expect("written");

    let store = bed.open();
    let mut writer = store.writer(Intent { len: None, class: Class::Trusted, sums: vec![] }).expect("room");
    writer.write(Bytes::from(noise(3, 3 * CHUNK))).await.expect("written");
    let fresh = put(&store, &noise(4, CHUNK)).await;
    fresh.dirty.sync().expect("synced");
    assert_eq!(store.sweep_temporary(), 1);
    let swept = store.sweep_files(|digest, object| (*digest, object) == (kept.digest, kept.place.object));
    assert_eq!(swept.expect("swept"), 1);
    let filled = writer.seal(&[], None).await.expect("its temporary file was left alone");
    for blob in [&kept, &fresh, &filled] {
        get_all(&store, blob).await.expect("readable");
    }
    assert!(matches!(get_all(&store, &orphan).await, Err(StoreError::Gone)));
}

#[tokio::test]
async fn survivors_move_and_their_segment_goes() {
    let bed = Bed::new();
    let store = bed.open();
    let kept = try_put(&store, &noise(1, 4000), Class::Untrusted).await.expect("room");
    let dead = try_put(&store, &noise(2, 4000), Class::Untrusted).await.expect("room");
    let store = bed.open();
    let moved = store.copy_forward(&kept.digest, &kept.place).expect("moved");
    assert_ne!(moved.place.object, kept.place.object, "it leaves the segment, though that was the open one");
    assert_eq!((moved.digest, moved.sha256), (kept.digest, kept.sha256));
    store.retire_segment(kept.place.object).expect("retired");
    assert!(matches!(get_all(&store, &kept).await, Err(StoreError::Gone)));
    assert!(matches!(store.copy_forward(&dead.digest, &dead.place), Err(StoreError::Gone)));
    assert!(matches!(store.retire_segment(kept.place.object), Err(StoreError::Gone)));
    assert_eq!(get_all(&store, &moved).await.expect("readable"), noise(1, 4000));
    let left = store.segments();
    assert_eq!((left.len(), left[0].class, left[0].phase), (1, Some(Class::Untrusted), SegmentPhase::Open));
    moved.dirty.sync().expect("synced");
}

#[tokio::test]
async fn a_segment_is_closed_when_it_is_full() {
    let bed = Bed::new();
    let store = bed.open();
    let mut numbers = HashSet::new();
    for at in 0..40 {
        let blob = put(&store, &noise(at, 60_000)).await;
        assert_eq!(blob.place.tier, TierName::Segment);
        numbers.insert(blob.place.object);
    }
    assert_eq!(numbers.len(), 3);
    let segments = store.segments();
    assert_eq!(segments.iter().filter(|segment| segment.phase == SegmentPhase::Open).count(), 1);
    assert!(segments.iter().all(|segment| segment.bytes <= 1 << 20 && segment.reading == 0));
}

/// A predecessor still sends what it was sending when its successor opens the directory.
#[tokio::test]
async fn who_let_go_of_the_directory_harms_nothing_of_its_successor() {
    let bed = Bed::new();
    let store = bed.open();
    let first = put(&store, &noise(1, 3000)).await;
    first.dirty.sync().expect("synced");
    let mut writer = store.writer(Intent { len: Some(3000), class: Class::Trusted, sums: Vec::new() }).expect("room");
    writer.write(Bytes::from(noise(2, 3000))).await.expect("taken");
    store.close();

    let successor = bed.open();
    let second = put(&successor, &noise(3, 3000)).await;
    assert_eq!(second.place.object, first.place.object, "it goes on with the segment");
    let late = writer.seal(&[], Some(3000)).await;
    assert!(matches!(late, Err(StoreError::Full { .. })), "sealed in a directory that is another's");
    store.remove(&first.digest, &first.place);
    assert!(store.retire_segment(first.place.object).is_err());
    assert_eq!(store.sweep_files(|_, _| false).unwrap_or(0), 0);
    for (blob, seed) in [(&first, 1), (&second, 3)] {
        assert!(get_all(&successor, blob).await.expect("readable") == noise(seed, 3000));
    }
}
