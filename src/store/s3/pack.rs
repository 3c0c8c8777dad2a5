//! Packs: small blobs one after the other in one object, and a footer that says what they are. One PUT costs what a month
//! of 220 KB costs, so what is small travels together. Pure: no bucket, no clock.
//!
//! *Shape*, little-endian, never changed under one format number: the blobs' raw bytes without gaps; an entry of 64
//! bytes for each, in the same order (digest 32, offset 8, length 8, xxh3 8, class 1, zero 7); records, which only their
//! writer understands; a tail of 64 bytes (magic 4, format 2, zero 2, entries 4, zero 4, bytes of blobs 8, bytes of records
//! 8, sequence 8, xxh3 of entries and records 8, zero 8, xxh3 of the 56 bytes before 8). So the last 64 bytes tell
//! how many more to ask for, and nothing beside the object is needed to read it.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use super::super::sum::xxh3_64;
use super::error::Flaw;
use crate::model::digest::Digest;
use crate::model::place::Class;
use crate::model::range::ByteRange;

/// The newest format that is read, and the one that is written.
pub const FORMAT: u16 = 1;
/// Length of a tail in bytes.
pub const TAIL: usize = 64;
/// The largest blob that goes into a pack; larger ones are objects of their own.
pub const PACKED_MAX: u64 = 1 << 20;
/// Bytes of all blobs of a pack, at most.
pub const DATA_MAX: u64 = 64 << 20;
/// Bytes of all records of a pack, at most.
pub const RECORDS_MAX: u64 = 16 << 20;
/// Blobs of a pack, at most.
pub const ENTRIES_MAX: u32 = 1 << 18;

const ENTRY: usize = 64;
const MAGIC: [u8; 4] = *b"LPAK";

/// A blob in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub digest: Digest,
    pub class: Class,
    /// In the object.
    pub range: ByteRange,
    /// xxh3 of its bytes.
    pub sum: u64,
}

/// The last bytes of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    entries: u32,
    data_bytes: u64,
    record_bytes: u64,
    sequence: u64,
    sum: u64,
}

/// What a pack says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    pub entries: Vec<Entry>,
    /// Opaque here.
    pub records: Bytes,
    /// Which of its writer's packs it is: records of a later one win.
    pub sequence: u64,
}

/// A pack that is being filled. Bounded by `DATA_MAX` and `ENTRIES_MAX`.
#[derive(Default)]
pub struct Packer {
    data: BytesMut,
    entries: Vec<Entry>,
    packed: HashSet<Digest>,
}

/// Whether a blob is in the pack now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    Packed,
    /// It was in it before.
    Already,
    /// No room: seal this pack and begin another.
    Full,
}

impl Packer {
    /// Adds a blob of at least one byte and at most `PACKED_MAX`; others are `Full` for any pack.
    pub fn push(&mut self, digest: Digest, class: Class, bytes: &[u8]) -> Pushed {
        if self.packed.contains(&digest) {
            return Pushed::Already;
        }
        let (start, len) = (self.data.len() as u64, bytes.len() as u64);
        let room = len > 0 && len <= PACKED_MAX && start + len <= DATA_MAX;
        if !room || self.entries.len() >= ENTRIES_MAX as usize {
            return Pushed::Full;
        }
        self.data.extend_from_slice(bytes);
        self.packed.insert(digest);
        let range = ByteRange { start, end: start + len };
        self.entries.push(Entry { digest, class, range, sum: xxh3_64(bytes) });
        Pushed::Packed
    }

    /// The whole object. None: there is nothing in it, or too many records for one pack.
    pub fn seal(self, records: &[u8], sequence: u64) -> Option<Bytes> {
        if self.entries.is_empty() || records.len() as u64 > RECORDS_MAX {
            return None;
        }
        let mut object = self.data;
        let data_bytes = object.len() as u64;
        object.reserve(self.entries.len() * ENTRY + records.len() + TAIL);
        self.entries.iter().for_each(|entry| object.extend_from_slice(&entry.encode()));
        object.extend_from_slice(records);
        let tail = Tail {
            entries: self.entries.len() as u32,
            data_bytes,
            record_bytes: records.len() as u64,
            sequence,
            sum: xxh3_64(&object[data_bytes as usize..]),
        };
        object.extend_from_slice(&tail.encode());
        Some(object.freeze())
    }
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..32].copy_from_slice(self.digest.as_bytes());
        bytes[32..40].copy_from_slice(&self.range.start.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.range.len().to_le_bytes());
        bytes[48..56].copy_from_slice(&self.sum.to_le_bytes());
        bytes[56] = self.class as u8;
        bytes
    }

    /// Reads the entry of a blob that must begin at `start`.
    fn decode(bytes: &[u8; ENTRY], start: u64) -> Result<Entry, Flaw> {
        if number(&bytes[32..40]) != start {
            return Err(Flaw::Damaged("a blob does not begin where the one before ends"));
        }
        let len = number(&bytes[40..48]);
        if len == 0 || len > PACKED_MAX {
            return Err(Flaw::Damaged("a blob has a length that no packed blob has"));
        }
        if bytes[57..] != [0; 7] {
            return Err(Flaw::Damaged("an entry has bytes where none are"));
        }
        let digest = Digest::from_slice(&bytes[..32]).ok_or(Flaw::Damaged("an entry has no digest"))?;
        let class = Class::from_code(bytes[56]).ok_or(Flaw::Damaged("the class of a blob is unknown"))?;
        Ok(Entry { digest, class, range: ByteRange { start, end: start + len }, sum: number(&bytes[48..56]) })
    }

    /// Whether `bytes` are those of the blob: by their sum, then by its name.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.range.len() && xxh3_64(bytes) == self.sum && Digest::of(bytes) == self.digest
    }
}

impl Tail {
    fn encode(&self) -> [u8; TAIL] {
        let mut bytes = [0; TAIL];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.entries.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.data_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.record_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.sum.to_le_bytes());
        let own = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads the last bytes of an object of `object_bytes`. Each format keeps magic, number and the last 8 bytes where
    /// they are, so that a newer one is told from a broken one.
    pub fn decode(bytes: &[u8; TAIL], object_bytes: u64) -> Result<Tail, Flaw> {
        if xxh3_64(&bytes[..56]) != number(&bytes[56..]) {
            return Err(Flaw::Damaged("its tail does not match its own sum"));
        }
        if bytes[..4] != MAGIC {
            return Err(Flaw::Damaged("it is no pack"));
        }
        let found = u16::from_le_bytes([bytes[4], bytes[5]]);
        if found > FORMAT {
            return Err(Flaw::Newer { found, known: FORMAT });
        }
        if bytes[6..8] != [0; 2] || bytes[12..16] != [0; 4] || bytes[48..56] != [0; 8] {
            return Err(Flaw::Damaged("its tail has bytes where none are"));
        }
        let tail = Tail {
            entries: u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            data_bytes: number(&bytes[16..24]),
            record_bytes: number(&bytes[24..32]),
            sequence: number(&bytes[32..40]),
            sum: number(&bytes[40..48]),
        };
        let bounded = (1..=ENTRIES_MAX).contains(&tail.entries)
            && tail.data_bytes <= DATA_MAX
            && tail.record_bytes <= RECORDS_MAX
            && tail.data_bytes + tail.footer_bytes() == object_bytes;
        if bounded { Ok(tail) } else { Err(Flaw::Damaged("its parts do not make up its length")) }
    }

    /// Bytes behind the blobs: entries, records, and the tail itself.
    pub fn footer_bytes(&self) -> u64 {
        u64::from(self.entries) * ENTRY as u64 + self.record_bytes + TAIL as u64
    }
}

impl Footer {
    /// Reads the entries and records that `tail` stands behind: the last `footer_bytes` of the object but for the tail.
    pub fn decode(tail: &Tail, bytes: &Bytes) -> Result<Footer, Flaw> {
        if bytes.len() as u64 + TAIL as u64 != tail.footer_bytes() {
            return Err(Flaw::Damaged("its footer is cut off"));
        }
        if xxh3_64(bytes) != tail.sum {
            return Err(Flaw::Damaged("its footer does not match its sum"));
        }
        let (listed, _) = bytes[..tail.entries as usize * ENTRY].as_chunks::<ENTRY>();
        let (mut entries, mut seen) = (Vec::with_capacity(listed.len()), HashSet::with_capacity(listed.len()));
        let mut start = 0;
        for entry in listed {
            let entry = Entry::decode(entry, start)?;
            if !seen.insert(entry.digest) {
                return Err(Flaw::Damaged("a blob is in it twice"));
            }
            start = entry.range.end;
            entries.push(entry);
        }
        if start != tail.data_bytes {
            return Err(Flaw::Damaged("its blobs do not make up its bytes"));
        }
        Ok(Footer { entries, records: bytes.slice(listed.len() * ENTRY..), sequence: tail.sequence })
    }

    /// Length of the pack's object.
    pub fn object_bytes(&self) -> u64 {
        let blobs = self.entries.last().map_or(0, |last| last.range.end);
        blobs + (self.entries.len() * ENTRY + self.records.len() + TAIL) as u64
    }

    /// Reads a whole pack.
    pub fn of_object(object: &Bytes) -> Result<Footer, Flaw> {
        let tail = object.last_chunk::<TAIL>().ok_or(Flaw::Damaged("it is too short for a pack"))?;
        let tail = Tail::decode(tail, object.len() as u64)?;
        let from = object.len() - tail.footer_bytes() as usize;
        Footer::decode(&tail, &object.slice(from..object.len() - TAIL))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blobs() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..20)
    }

    fn packed(blobs: &[Vec<u8>], records: &[u8], sequence: u64) -> Bytes {
        let mut packer = Packer::default();
        for blob in blobs {
            packer.push(Digest::of(blob), Class::Trusted, blob);
        }
        packer.seal(records, sequence).expect("something is in it")
    }

    /// Entries and records as the caller says, under sums that are right.
    fn forged(entries: &[Entry], records: &[u8], change: impl FnOnce(&mut Tail)) -> Result<Footer, Flaw> {
        let footer: Vec<u8> = entries.iter().flat_map(Entry::encode).chain(records.iter().copied()).collect();
        let data_bytes = entries.last().map_or(0, |last| last.range.end);
        let (entries, record_bytes) = (entries.len() as u32, records.len() as u64);
        let mut tail = Tail { entries, data_bytes, record_bytes, sequence: 1, sum: xxh3_64(&footer) };
        let object_bytes = data_bytes.saturating_add(tail.footer_bytes());
        change(&mut tail);
        let tail = Tail::decode(&tail.encode(), object_bytes)?;
        Footer::decode(&tail, &Bytes::from(footer))
    }

    fn entry(name: u8, start: u64, end: u64) -> Entry {
        Entry { digest: Digest::of(&[name]), class: Class::Trusted, range: ByteRange { start, end }, sum: 0 }
    }

    proptest! {
        #[test]
        fn a_pack_reads_what_it_writes(blobs in blobs(), records: Vec<u8>, sequence: u64) {
            let object = packed(&blobs, &records, sequence);
            let footer = Footer::of_object(&object).expect("whole");
            prop_assert_eq!(&footer.records[..], &records[..]);
            prop_assert_eq!((footer.sequence, footer.object_bytes()), (sequence, object.len() as u64));
            let distinct: HashSet<&Vec<u8>> = blobs.iter().collect();
            prop_assert_eq!(footer.entries.len(), distinct.len());
            for entry in &footer.entries {
                let bytes = &object[entry.range.start as usize..entry.range.end as usize];
                prop_assert!(entry.is_of(bytes) && distinct.contains(&bytes.to_vec()));
            }
        }

        #[test]
        fn no_flipped_bit_of_a_footer_is_believed(blobs in blobs(), records: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8) {
            let object = packed(&blobs, &records, 7);
            let footer = Footer::of_object(&object).expect("whole");
            let from = footer.entries.last().expect("one").range.end as usize;
            let mut flipped = object.to_vec();
            let at = from + at.index(object.len() - from);
            flipped[at] ^= 1 << bit;
            prop_assert!(Footer::of_object(&Bytes::from(flipped)).is_err());
        }

        #[test]
        fn a_pack_that_is_cut_is_none(blobs in blobs(), cut: prop::sample::Index) {
            let object = packed(&blobs, b"records", 7);
            let cut = cut.index(object.len());
            prop_assert!(Footer::of_object(&object.slice(..cut)).is_err());
            prop_assert!(Footer::of_object(&object.slice(object.len() - cut..)).is_err());
        }

        #[test]
        fn what_tiles_its_bytes_is_read_and_all_else_is_refused(ranges in prop::collection::vec((0..40_u64, 0..40_u64), 1..5)) {
            let entries: Vec<Entry> = ranges
                .iter()
                .enumerate()
                .map(|(at, (start, len))| entry(at as u8, *start, start + len))
                .collect();
            let ends = std::iter::once(0).chain(ranges.iter().map(|(start, len)| start + len));
            let tiles = ranges.iter().zip(ends).all(|((start, len), end)| *start == end && *len > 0);
            prop_assert_eq!(forged(&entries, b"", |_| {}).is_ok(), tiles);
        }
    }

    #[test]
    fn hostile_footers_with_right_sums_are_refused() {
        let good = [entry(1, 0, 10), entry(2, 10, 30)];
        assert!(forged(&good, b"r", |_| {}).is_ok());
        for entries in [
            vec![entry(1, 0, 10), entry(2, 5, 30)],
            vec![entry(1, 0, 10), entry(2, 11, 30)],
            vec![entry(1, 0, 10), entry(1, 10, 30)],
            vec![entry(1, 0, PACKED_MAX + 1)],
            vec![entry(1, u64::MAX - 5, u64::MAX)],
            vec![],
        ] {
            assert!(forged(&entries, b"", |_| {}).is_err(), "{entries:?}");
        }
        let changes: [fn(&mut Tail); 6] = [
            |tail| tail.entries = u32::MAX,
            |tail| tail.entries = 1,
            |tail| tail.data_bytes = u64::MAX,
            |tail| tail.data_bytes -= 1,
            |tail| tail.record_bytes = u64::MAX,
            |tail| {
                tail.entries -= 1;
                tail.record_bytes += ENTRY as u64;
            },
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert!(forged(&good, b"r", change).is_err(), "change {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_damaged() {
        let object = packed(&[b"a".to_vec()], b"", 1);
        let mut tail = *object.last_chunk::<TAIL>().expect("a tail");
        tail[4..6].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        let own = xxh3_64(&tail[..56]);
        tail[56..].copy_from_slice(&own.to_le_bytes());
        assert_eq!(Tail::decode(&tail, object.len() as u64), Err(Flaw::Newer { found: 2, known: 1 }));
    }

    #[test]
    fn a_packer_is_bounded_and_takes_each_blob_once() {
        let mut packer = Packer::default();
        let large = vec![7; PACKED_MAX as usize + 1];
        assert_eq!(packer.push(Digest::of(&large), Class::Trusted, &large), Pushed::Full);
        assert_eq!(packer.push(Digest::of(b""), Class::Trusted, b""), Pushed::Full);
        assert_eq!(packer.push(Digest::of(b"a"), Class::Trusted, b"a"), Pushed::Packed);
        assert_eq!(packer.push(Digest::of(b"a"), Class::Trusted, b"a"), Pushed::Already);
        let mut pushed = 0;
        while packer.push(Digest::of(&[pushed, 1]), Class::Trusted, &large[1..]) == Pushed::Packed {
            pushed += 1;
        }
        assert_eq!(u64::from(pushed), DATA_MAX / PACKED_MAX - 1);
        assert!(Packer::default().seal(b"", 1).is_none());
    }
}
