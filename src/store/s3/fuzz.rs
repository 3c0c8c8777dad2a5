//! Entries for the fuzz targets: what lies in a bucket in the place of a pack or of an object's seal. The sums are made
//! right first, or else nothing behind them would ever be reached.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;

use super::super::sum::xxh3_64;
use super::pack::{DATA_MAX, Footer, PACKED_MAX, TAIL};
use super::seal::{ObjectSeal, chunk_bytes};

/// A pack that is believed has blobs that make up its bytes, each there once.
pub fn pack(bytes: &[u8]) {
    one_pack(bytes);
    let Some((before, tail)) = bytes.split_last_chunk::<TAIL>() else { return };
    let word = |at: usize| u64::from_le_bytes(*tail[at..].first_chunk().expect("8 bytes"));
    let entries = u64::from(u32::from_le_bytes(*tail[8..].first_chunk().expect("4 bytes")));
    let footer = (entries * 64).saturating_add(word(24));
    let Some(data) = (before.len() as u64).checked_sub(footer) else { return };
    // With the length of the blobs that it tells, and with the one that is true.
    for told in [word(16), data] {
        let mut right = bytes.to_vec();
        let at = before.len();
        right[at + 16..at + 24].copy_from_slice(&told.to_le_bytes());
        let sum = xxh3_64(&right[data as usize..at]);
        right[at + 40..at + 48].copy_from_slice(&sum.to_le_bytes());
        let own = xxh3_64(&right[at..at + 56]);
        right[at + 56..].copy_from_slice(&own.to_le_bytes());
        one_pack(&right);
    }
}

fn one_pack(bytes: &[u8]) {
    let Ok(footer) = Footer::of_object(&Bytes::copy_from_slice(bytes)) else { return };
    let mut end = 0;
    for entry in &footer.entries {
        assert_eq!(entry.range.start, end, "a gap or an overlap");
        assert!((1..=PACKED_MAX).contains(&entry.range.len()));
        end = entry.range.end;
        let part = &bytes[entry.range.start as usize..entry.range.end as usize];
        assert!(!entry.is_of(&part[1..]));
    }
    let mut digests: Vec<_> = footer.entries.iter().map(|entry| entry.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), footer.entries.len(), "a blob is in it twice");
    let all = end + digests.len() as u64 * 64 + footer.records.len() as u64 + TAIL as u64;
    assert!(end <= DATA_MAX && all == bytes.len() as u64, "{end} of {} bytes", bytes.len());
}

/// A seal that is believed is one that we would write.
pub fn seal(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        one_seal(text);
    }
    one_seal(&STANDARD_NO_PAD.encode(bytes));
    let Some((sealed, _)) = bytes.split_last_chunk::<8>() else { return };
    let right = [sealed, &xxh3_64(sealed).to_le_bytes()].concat();
    one_seal(&STANDARD_NO_PAD.encode(right));
}

fn one_seal(text: &str) {
    let Ok(seal) = ObjectSeal::decode(text) else { return };
    assert_eq!(seal.encode(), text);
    let chunk = chunk_bytes(seal.len).expect("its length has chunks");
    for at in [0, 1, chunk, seal.len - 1, seal.len, u64::MAX, u64::MAX / chunk * chunk] {
        assert!(!seal.holds(at, b""), "{at}");
    }
}
