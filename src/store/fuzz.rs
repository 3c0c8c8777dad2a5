//! Entry for the fuzz targets: what lies on disk in the place of a record or a trailer. The sums are made right first,
//! or else nothing behind them would ever be reached.

use super::layout::{CHUNK, Magic, SEAL, Seal, chunks, read_trailer, trailer};
use super::sum::xxh3_64;
use crate::model::digest::Digest;

/// A seal that is believed is one that we would write; a trailer that is believed has a sum for each chunk.
pub fn record(bytes: &[u8]) {
    for magic in [Magic::Segment, Magic::Record, Magic::File] {
        if let Some(seal) = bytes.first_chunk::<SEAL>() {
            let mut right = *seal;
            right[56..].copy_from_slice(&xxh3_64(&seal[..56]).to_le_bytes());
            one_seal(magic, seal);
            one_seal(magic, &right);
        }
    }
    let Some((sums, seal)) = bytes.split_last_chunk::<SEAL>() else { return };
    let digest = Digest::from_slice(&seal[8..40]).expect("32 bytes");
    let len = u64::from_le_bytes(*seal[40..].first_chunk().expect("8 bytes"));
    // By its own length, and by any that a damaged index may tell.
    for told in [len, 0, 1, sums.len() as u64 / 8 * CHUNK as u64] {
        let mut right = bytes.to_vec();
        let at = sums.len();
        right[at + 40..at + 48].copy_from_slice(&told.to_le_bytes());
        right[at + 48..at + 56].copy_from_slice(&xxh3_64(sums).to_le_bytes());
        let own = xxh3_64(&right[at..at + 56]);
        right[at + 56..].copy_from_slice(&own.to_le_bytes());
        if let Ok(read) = read_trailer(&right, &digest, told) {
            assert_eq!(read.len() as u64, chunks(told), "{told} bytes have another number of chunks");
            let class =
                Seal::decode(Magic::File, right.last_chunk().expect("a seal"), &digest).expect("read once").class;
            assert_eq!(trailer(class, digest, told, &read).len(), right.len());
        }
    }
}

fn one_seal(magic: Magic, bytes: &[u8; SEAL]) {
    let digest = Digest::from_slice(&bytes[8..40]).expect("32 bytes");
    if let Ok(seal) = Seal::decode(magic, bytes, &digest) {
        assert_eq!(Seal::decode(magic, &seal.encode(magic), &digest).expect("ours"), seal);
        assert!(Seal::decode(magic, bytes, &Digest::of(b"another")).is_err());
    }
}
