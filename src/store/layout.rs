//! What the bytes on disk mean. Segments are records one after the other, files are raw bytes and a trailer; each
//! checks itself by xxh3. The layout is little-endian and never changes under one format number.
//!
//! A seal (64 bytes): magic 4, format 2, class 1, zero 1, digest 32, length 8, xxh3 of what it covers 8, xxh3 of the
//! 56 bytes before 8. A segment begins with a seal of its own (length: its number), a record is a seal and the data
//! that it covers, a file ends with one xxh3 per 256 KiB chunk and a seal that covers those sums.

use super::error::StoreError;
use super::sum::xxh3_64;
use crate::model::digest::Digest;
use crate::model::place::Class;

/// The newest format that is read, and the one that is written.
pub(super) const FORMAT: u16 = 1;
/// A file is checked in chunks of so many bytes.
pub(super) const CHUNK: usize = 256 * 1024;
/// A file is read in pieces of so many bytes. With half of it a client had always drained the last piece before the
/// next was there, and both sides slept and woke for each: two thirds of the rate.
pub(super) const PIECE: usize = 2 * CHUNK;
/// What one follower of a fill may hold. Divides a chunk.
pub(super) const BLOCK: usize = 128 * 1024;
/// Length of a seal in bytes.
pub(super) const SEAL: usize = 64;
/// File systems hand out space in blocks of so many bytes.
const DISK_BLOCK: u64 = 4096;

/// What a seal stands before or behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Magic {
    Segment,
    Record,
    File,
}

impl Magic {
    const fn bytes(self) -> [u8; 4] {
        match self {
            Magic::Segment => *b"LSEG",
            Magic::Record => *b"LREC",
            Magic::File => *b"LFIL",
        }
    }
}

/// Says what the bytes beside it are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seal {
    pub class: Class,
    pub digest: Digest,
    pub len: u64,
    /// xxh3 of the covered bytes.
    pub sum: u64,
}

impl Seal {
    pub fn encode(&self, magic: Magic) -> [u8; SEAL] {
        let mut bytes = [0; SEAL];
        bytes[..4].copy_from_slice(&magic.bytes());
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[6] = self.class as u8;
        bytes[8..40].copy_from_slice(self.digest.as_bytes());
        bytes[40..48].copy_from_slice(&self.len.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.sum.to_le_bytes());
        let own = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads a seal that was written for `digest`. Each format keeps magic, number and the last 8 bytes where they
    /// are, so that a newer one is told from a broken one.
    pub fn decode(magic: Magic, bytes: &[u8; SEAL], digest: &Digest) -> Result<Seal, StoreError> {
        let corrupt = |why| StoreError::Corrupt { digest: *digest, why };
        if xxh3_64(&bytes[..56]) != number(&bytes[56..]) {
            return Err(corrupt("its header does not match its own sum"));
        }
        if bytes[..4] != magic.bytes() {
            return Err(corrupt("something else lies at its place"));
        }
        let found = u16::from_le_bytes([bytes[4], bytes[5]]);
        if found > FORMAT {
            return Err(StoreError::Newer { found, known: FORMAT });
        }
        let class = Class::from_code(bytes[6]).ok_or_else(|| corrupt("its class is unknown"))?;
        let found = Digest::from_slice(&bytes[8..40]).ok_or_else(|| corrupt("it has no digest"))?;
        if found != *digest {
            return Err(corrupt("another blob lies at its place"));
        }
        Ok(Seal { class, digest: found, len: number(&bytes[40..48]), sum: number(&bytes[48..56]) })
    }
}

/// The seal that a segment begins with.
pub(super) fn segment_seal(number: u32, class: Class) -> Seal {
    Seal { class, digest: Digest::from_bytes([0; 32]), len: u64::from(number), sum: 0 }
}

/// Bytes that a blob takes in a segment.
pub(super) const fn record_bytes(len: u64) -> u64 {
    SEAL as u64 + len
}

/// Chunks of a file of `len` raw bytes.
pub(super) const fn chunks(len: u64) -> u64 {
    len.div_ceil(CHUNK as u64)
}

/// Bytes behind the raw bytes of a file.
pub(super) const fn trailer_bytes(len: u64) -> u64 {
    chunks(len) * 8 + SEAL as u64
}

/// What a file of `len` raw bytes takes from the volume.
pub(super) const fn file_bytes(len: u64) -> u64 {
    (len + trailer_bytes(len)).div_ceil(DISK_BLOCK) * DISK_BLOCK
}

/// The trailer of a file: the sums, and the seal over them.
pub(super) fn trailer(class: Class, digest: Digest, len: u64, sums: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sums.len() * 8 + SEAL);
    for sum in sums {
        bytes.extend_from_slice(&sum.to_le_bytes());
    }
    let seal = Seal { class, digest, len, sum: xxh3_64(&bytes) };
    bytes.extend_from_slice(&seal.encode(Magic::File));
    bytes
}

/// Reads the trailer of a file of `len` raw bytes.
pub(super) fn read_trailer(bytes: &[u8], digest: &Digest, len: u64) -> Result<Box<[u64]>, StoreError> {
    let corrupt = |why| StoreError::Corrupt { digest: *digest, why };
    let (sums, seal) = bytes.split_last_chunk::<SEAL>().ok_or_else(|| corrupt("its trailer is cut off"))?;
    let seal = Seal::decode(Magic::File, seal, digest)?;
    if seal.len != len {
        return Err(corrupt("its length is not the recorded one"));
    }
    if sums.len() as u64 != chunks(len).saturating_mul(8) {
        return Err(corrupt("it has another number of sums than chunks"));
    }
    if xxh3_64(sums) != seal.sum {
        return Err(corrupt("its sums do not match their own sum"));
    }
    Ok(sums.chunks_exact(8).map(number).collect())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal { class: Class::Untrusted, digest: Digest::of(b"x"), len: 77, sum: 0xdead_beef }
    }

    #[test]
    fn a_seal_reads_what_it_writes_and_no_flipped_bit() {
        let bytes = seal().encode(Magic::Record);
        assert_eq!(Seal::decode(Magic::Record, &bytes, &seal().digest).expect("whole"), seal());
        assert!(Seal::decode(Magic::File, &bytes, &seal().digest).is_err());
        assert!(Seal::decode(Magic::Record, &bytes, &Digest::of(b"y")).is_err());
        for bit in 0..SEAL * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Seal::decode(Magic::Record, &flipped, &seal().digest).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_corrupt() {
        let mut bytes = seal().encode(Magic::Record);
        bytes[4..6].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        let own = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&own.to_le_bytes());
        let error = Seal::decode(Magic::Record, &bytes, &seal().digest).expect_err("newer");
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1 }), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn strange_bytes_are_refused_and_harm_nobody(bytes: Vec<u8>, seal: [u8; 32], len: u64) {
            let digest = Digest::from_bytes(seal);
            let mut whole = [0; SEAL];
            whole[..32].copy_from_slice(&seal);
            proptest::prop_assert!(Seal::decode(Magic::Record, &whole, &digest).is_err());
            proptest::prop_assert!(read_trailer(&bytes, &digest, len).is_err());
        }
    }

    #[test]
    fn a_trailer_reads_what_it_writes() {
        let digest = Digest::of(b"x");
        let sums = [1, 2, 3];
        let len = 3 * CHUNK as u64 - 5;
        let bytes = trailer(Class::Trusted, digest, len, &sums);
        assert_eq!(bytes.len() as u64, trailer_bytes(len));
        assert_eq!(&*read_trailer(&bytes, &digest, len).expect("whole"), &sums);
        assert!(read_trailer(&bytes, &digest, len - 1).is_err());
        assert!(read_trailer(&bytes[1..], &digest, len).is_err());
        assert!(read_trailer(&[], &digest, len).is_err());
        let one_less = trailer(Class::Trusted, digest, len, &sums[1..]);
        assert!(read_trailer(&one_less, &digest, len).is_err(), "a chunk without a sum");
    }
}
