//! What an object of one large blob says of itself, in one field of its metadata: the object's bytes are the blob's and
//! nothing else, so that a client may be sent to it, and the sums come with the head of every answer, so that no
//! byte is handed on unchecked and no request is spent on them.
//!
//! *Shape*, little-endian, base64: magic 4, format 2, class 1, log2 of the chunk 1, digest 32, length 8, one xxh3 for each
//! chunk, xxh3 of all that before 8. At most 128 sums: with names and base64 that stays below the 2 KB that S3 has for
//! metadata.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::super::sum::xxh3_64;
use super::error::Flaw;
use crate::model::digest::Digest;
use crate::model::place::Class;
use crate::model::range::ByteRange;

const FORMAT: u16 = 1;
const MAGIC: [u8; 4] = *b"LOBJ";
const HEAD: usize = 48;
const SUMS_MAX: u64 = 128;
const CHUNK_MIN: u64 = 1 << 20;
const CHUNK_MAX: u64 = 64 << 20;
/// The largest blob that is sent to S3; a larger one stays on the disk.
pub const OBJECT_MAX: u64 = SUMS_MAX * CHUNK_MAX;

/// What one blob is, chunk by chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectSeal {
    pub digest: Digest,
    pub class: Class,
    pub len: u64,
    sums: Vec<u64>,
}

/// The size of the chunks by which a blob of `len` bytes is checked. None: it is too large, or nothing.
pub const fn chunk_bytes(len: u64) -> Option<u64> {
    let mut chunk = CHUNK_MIN;
    while len.div_ceil(chunk) > SUMS_MAX {
        chunk *= 2;
    }
    if len == 0 || chunk > CHUNK_MAX { None } else { Some(chunk) }
}

impl ObjectSeal {
    /// None: the number of sums is not that of the chunks.
    pub fn new(digest: Digest, class: Class, len: u64, sums: Vec<u64>) -> Option<ObjectSeal> {
        let chunks = len.div_ceil(chunk_bytes(len)?);
        (sums.len() as u64 == chunks).then_some(ObjectSeal { digest, class, len, sums })
    }

    /// Whether `bytes` are those of the chunk that begins at `at`.
    pub fn holds(&self, at: u64, bytes: &[u8]) -> bool {
        let Some(chunk) = chunk_bytes(self.len).filter(|chunk| at.is_multiple_of(*chunk)) else { return false };
        let range = ByteRange { start: at, end: at.saturating_add(chunk).min(self.len) };
        let sum = usize::try_from(at / chunk).ok().and_then(|index| self.sums.get(index));
        range.start < range.end && range.len() == bytes.len() as u64 && sum == Some(&xxh3_64(bytes))
    }

    /// As one field of metadata.
    pub fn encode(&self) -> String {
        let chunk = chunk_bytes(self.len).unwrap_or(CHUNK_MIN);
        let mut bytes = Vec::with_capacity(HEAD + self.sums.len() * 8 + 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[self.class as u8, chunk.trailing_zeros() as u8]);
        bytes.extend_from_slice(self.digest.as_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        self.sums.iter().for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
        let own = xxh3_64(&bytes);
        bytes.extend_from_slice(&own.to_le_bytes());
        STANDARD_NO_PAD.encode(bytes)
    }

    pub fn decode(text: &str) -> Result<ObjectSeal, Flaw> {
        let damaged = Flaw::Damaged;
        if text.len() > 2048 {
            return Err(damaged("its seal is too long"));
        }
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| damaged("its seal cannot be read"))?;
        let (sealed, own) = bytes.split_last_chunk::<8>().ok_or(damaged("its seal is cut off"))?;
        let (head, sums) = sealed.split_first_chunk::<HEAD>().ok_or(damaged("its seal is cut off"))?;
        if xxh3_64(sealed) != u64::from_le_bytes(*own) {
            return Err(damaged("its seal does not match its own sum"));
        }
        if head[..4] != MAGIC {
            return Err(damaged("its seal is no seal"));
        }
        let found = u16::from_le_bytes([head[4], head[5]]);
        if found > FORMAT {
            return Err(Flaw::Newer { found, known: FORMAT });
        }
        let class = Class::from_code(head[6]).ok_or(damaged("its class is unknown"))?;
        let digest = Digest::from_slice(&head[8..40]).ok_or(damaged("it has no digest"))?;
        let len = head[40..].first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
        let (sums, rest) = sums.as_chunks::<8>();
        let chunked = chunk_bytes(len).is_some_and(|chunk| chunk.trailing_zeros() == u32::from(head[7]));
        let sums = sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        ObjectSeal::new(digest, class, len, sums)
            .filter(|_| chunked && rest.is_empty())
            .ok_or(damaged("it has another number of sums than chunks"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(bytes: &[u8]) -> ObjectSeal {
        let len = bytes.len() as u64;
        let chunk = chunk_bytes(len).expect("not too large") as usize;
        let sums = bytes.chunks(chunk).map(xxh3_64).collect();
        ObjectSeal::new(Digest::of(bytes), Class::Untrusted, len, sums).expect("a sum each")
    }

    #[test]
    fn chunks_grow_with_the_blob_and_end_somewhere() {
        assert_eq!(chunk_bytes(0), None);
        assert_eq!(chunk_bytes(1), Some(1 << 20));
        assert_eq!(chunk_bytes(128 << 20), Some(1 << 20));
        assert_eq!(chunk_bytes((128 << 20) + 1), Some(2 << 20));
        assert_eq!(chunk_bytes(OBJECT_MAX), Some(CHUNK_MAX));
        assert_eq!(chunk_bytes(OBJECT_MAX + 1), None);
        assert_eq!(chunk_bytes(u64::MAX), None);
    }

    #[test]
    fn the_largest_seal_fits_into_metadata() {
        let seal = ObjectSeal::new(Digest::of(b""), Class::Trusted, OBJECT_MAX, vec![u64::MAX; 128]).expect("a seal");
        assert!(seal.encode().len() < 1600, "{}", seal.encode().len());
        assert_eq!(ObjectSeal::decode(&seal.encode()), Ok(seal));
    }

    #[test]
    fn a_chunk_is_checked_by_its_own_sum() {
        let bytes: Vec<u8> = (0..=255).cycle().take((2 << 20) + 5).collect();
        let seal = ObjectSeal::decode(&sealed(&bytes).encode()).expect("reads");
        let chunk = 1 << 20;
        assert!(seal.holds(0, &bytes[..chunk]) && seal.holds(2 << 20, &bytes[2 * chunk..]));
        assert!(!seal.holds(0, &bytes[1..=chunk]) && !seal.holds(5, &bytes[5..5 + chunk]));
        assert!(!seal.holds(3 << 20, b"") && !seal.holds(1 << 60, b"x"));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_of_a_seal_is_believed(bytes in prop::collection::vec(any::<u8>(), 1..100), at: prop::sample::Index, bit in 0..8_u8) {
            let text = sealed(&bytes).encode();
            let mut raw = STANDARD_NO_PAD.decode(&text).expect("base64");
            let at = at.index(raw.len());
            raw[at] ^= 1 << bit;
            prop_assert!(ObjectSeal::decode(&STANDARD_NO_PAD.encode(raw)).is_err());
        }
    }
}
