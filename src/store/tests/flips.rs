//! A flipped bit fails the read; it never lies, and harms no neighbour.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::layout::{CHUNK, record_bytes, trailer_bytes};
use super::super::{SealedBlob, Store, StoreError};
use super::{Bed, get_all, noise, put};
use crate::model::kind::ErrorKind;

const FLIPS: u64 = 3000;

/// A bit of a file, turned over until it is dropped.
struct Flipped {
    file: std::fs::File,
    at: u64,
    was: u8,
}

impl Flipped {
    fn new(path: &Path, bit: u64) -> Flipped {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("there");
        let mut byte = [0];
        file.read_exact_at(&mut byte, bit / 8).expect("inside");
        file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).expect("written");
        Flipped { file, at: bit / 8, was: byte[0] }
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        self.file.write_all_at(&[self.was], self.at).expect("written");
    }
}

fn random_bits(seed: u64, bytes: u64) -> Vec<u64> {
    let noise = noise(seed, FLIPS as usize * 8);
    noise.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8")) % (bytes * 8)).collect()
}

async fn assert_corrupt(store: &Store, blob: &SealedBlob, bit: u64) {
    let error = get_all(store, blob).await.err().unwrap_or_else(|| panic!("bit {bit} went unseen"));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}: {error}");
    assert!(matches!(store.verify_blob(&blob.digest, &blob.place), Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn no_flipped_bit_of_a_file_is_served() {
    let bed = Bed::new();
    let len = 2 * CHUNK + 12_345;
    let bytes = noise(1, len);
    let blob = put(&bed.open(), &bytes).await;
    blob.dirty.sync().expect("synced");
    let path = only_file(&bed);
    let total = len as u64 + trailer_bytes(len as u64);
    assert_eq!(std::fs::metadata(&path).expect("there").len(), total);
    let trailer = (len as u64 * 8..total * 8).step_by(3);
    for bit in random_bits(2, total).into_iter().chain(trailer) {
        let flipped = Flipped::new(&path, bit);
        assert_corrupt(&bed.open(), &blob, bit).await;
        drop(flipped);
    }
    assert_eq!(get_all(&bed.open(), &blob).await.expect("mended"), bytes);
}

#[tokio::test]
async fn no_flipped_bit_of_a_segment_is_served_and_neighbours_are_unharmed() {
    let bed = Bed::new();
    let store = bed.open();
    let mut blobs = Vec::new();
    for (at, len) in [0, 1, 700, 4096, 9000, 30_000].into_iter().enumerate() {
        let bytes = noise(at as u64, len);
        blobs.push((put(&store, &bytes).await, bytes));
    }
    let path = bed.dir.path().join("segments").join(&bed.names("segments")[0]);
    let total = std::fs::metadata(&path).expect("there").len();
    for bit in random_bits(3, total) {
        let flipped = Flipped::new(&path, bit);
        for (blob, bytes) in &blobs {
            let start = u64::from(blob.place.offset);
            let is_inside = (start..start + record_bytes(blob.len)).contains(&(bit / 8));
            if is_inside && blob.len == 0 {
                // Of no bytes none can be wrong: its header is read only where all is read on the spot.
                continue;
            }
            if is_inside {
                assert_corrupt(&store, blob, bit).await;
            } else {
                assert_eq!(get_all(&store, blob).await.expect("unharmed"), *bytes);
                // Memory would hide the next flip.
                store.inner.memory.forget(&blob.digest);
            }
        }
        drop(flipped);
    }
}

#[tokio::test]
async fn what_is_cut_off_is_corrupt() {
    let bed = Bed::new();
    let large = put(&bed.open(), &noise(4, CHUNK + 9)).await;
    large.dirty.sync().expect("synced");
    let path = only_file(&bed);
    let small = put(&bed.open(), &noise(5, 3000)).await;
    let segment = bed.dir.path().join("segments").join(&bed.names("segments")[0]);
    for (blob, path) in [(large, path), (small, segment)] {
        let mut len = std::fs::metadata(&path).expect("there").len();
        while len > 0 {
            len = len.saturating_sub(len / 10 + 1);
            std::fs::File::options().write(true).open(&path).expect("there").set_len(len).expect("cut");
            assert_corrupt(&bed.open(), &blob, len * 8).await;
        }
    }
}

/// The one file that is there.
fn only_file(bed: &Bed) -> PathBuf {
    let shelf = &bed.names("files")[0];
    let name = &bed.names(&format!("files/{shelf}"))[0];
    bed.dir.path().join("files").join(shelf).join(name)
}
