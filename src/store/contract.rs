//! What every tier must keep to, whichever keeps the blob.

use bytes::Bytes;

use super::layout::CHUNK;
use super::tests::{Bed, get, noise, put};
use super::{Store, StoreError};
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};
use crate::model::range::ByteRange;

/// Puts a blob where the suite wants it.
async fn admit(store: &Store, tier: TierName, bytes: &[u8]) -> (Digest, Place) {
    if tier == TierName::Memory {
        let digest = Digest::of(bytes);
        store.remember(&digest, Bytes::copy_from_slice(bytes));
        return (digest, Place { tier, object: 0, offset: 0, len: bytes.len() as u64 });
    }
    let blob = put(store, bytes).await;
    tokio::task::spawn_blocking(move || blob.dirty.sync().expect("synced")).await.expect("ran");
    (blob.digest, blob.place)
}

/// Ranges at and around all borders.
fn ranges(len: u64) -> Vec<ByteRange> {
    let chunk = CHUNK as u64;
    let borders = [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, len / 2, len.saturating_sub(1), len];
    let mut ranges = Vec::new();
    for start in borders {
        for end in borders {
            if start <= end && end <= len {
                ranges.push(ByteRange { start, end });
            }
        }
    }
    ranges
}

async fn gives_back_any_range(store: &Store, tier: TierName, len: usize) {
    let bytes = noise(len as u64, len);
    let (digest, place) = admit(store, tier, &bytes).await;
    assert_eq!((place.tier, place.len), (tier, len as u64));
    assert_eq!(digest, Digest::of(&bytes));
    for range in ranges(len as u64) {
        let part = get(store, &digest, &place, range).await.expect("readable");
        assert_eq!(part, bytes[range.start as usize..range.end as usize], "{tier:?} {len} {range:?}");
    }
    let reader = store.open_blob(&digest, &place, ByteRange { start: 0, end: len as u64 + 9 }).expect("readable");
    assert_eq!(reader.len(), len as u64, "a range past the end is cut");
    store.verify_blob(&digest, &place).expect("good");
}

async fn lets_go_of_what_is_removed(store: &Store, tier: TierName, len: usize) {
    let bytes = noise(7 + len as u64, len);
    let (digest, place) = admit(store, tier, &bytes).await;
    let mut reader = store.open_blob(&digest, &place, place.whole()).expect("readable");
    store.remove(&digest, &place);
    if tier == TierName::Segment {
        store.retire_segment(place.object).expect("retired");
    }
    let mut held = Vec::new();
    while let Some(chunk) = reader.chunk().await {
        held.extend_from_slice(&chunk.expect("who reads it goes on"));
    }
    assert_eq!(held, bytes);
    let error = store.open_blob(&digest, &place, place.whole()).err().expect("it is gone");
    assert!(matches!(error, StoreError::Gone), "{error}");
    assert!(matches!(store.verify_blob(&digest, &place), Err(StoreError::Gone)));
}

/// A late eviction of an old place must not hit the same bytes at a new one.
async fn never_gives_a_place_twice(store: &Store, tier: TierName, len: usize) {
    let bytes = noise(8 + len as u64, len);
    let (digest, first) = admit(store, tier, &bytes).await;
    let (_, second) = admit(store, tier, &bytes).await;
    assert_ne!(first, second);
    store.remove(&digest, &first);
    store.remove(&digest, &first);
    assert_eq!(get(store, &digest, &second, second.whole()).await.expect("kept"), bytes);
}

async fn never_gives_one_blob_for_another(store: &Store, tier: TierName, len: usize) {
    let bytes = noise(9 + len as u64, len);
    let (_, place) = admit(store, tier, &bytes).await;
    let other = Digest::of(b"another blob");
    assert!(get(store, &other, &place, place.whole()).await.is_err());
    assert!(store.verify_blob(&other, &place).is_err());
}

async fn suite(tier: TierName, lens: &[usize]) {
    for cold in [false, true] {
        let bed = Bed::new();
        bed.files.cold(cold);
        let store = bed.open();
        for len in lens.iter().copied() {
            gives_back_any_range(&store, tier, len).await;
            never_gives_one_blob_for_another(&store, tier, len).await;
            lets_go_of_what_is_removed(&store, tier, len).await;
            if tier != TierName::Memory {
                never_gives_a_place_twice(&store, tier, len).await;
            }
        }
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    suite(TierName::Memory, &[1, 4096, 1 << 20]).await;
}

#[tokio::test]
async fn segments_keep_the_contract() {
    suite(TierName::Segment, &[0, 1, 4095, 64 * 1024]).await;
}

#[tokio::test]
async fn files_keep_the_contract() {
    suite(TierName::File, &[64 * 1024 + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 17]).await;
}
