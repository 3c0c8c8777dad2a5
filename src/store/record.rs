//! Reads one blob out of a segment: header and bytes in one system call, both checked.

use std::sync::Arc;

use bytes::Bytes;

use super::buffers::Buffers;
use super::error::StoreError;
use super::files::{Descriptor, Got, Mode, read_exact};
use super::layout::{CHUNK, Magic, SEAL, Seal, record_bytes};
use super::segment::Segment;
use super::sum::xxh3_64;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};

/// A segment that can be read.
pub(super) struct OpenSegment {
    pub segment: Arc<Segment>,
    pub descriptor: Arc<dyn Descriptor>,
}

impl OpenSegment {
    /// The class that the record itself names.
    pub fn class_of(&self, digest: &Digest, place: &Place) -> Result<Option<Class>, StoreError> {
        let mut seal = [0; SEAL];
        let got = read_exact(&*self.descriptor, &mut seal, &mut [], u64::from(place.offset), Mode::Wait);
        match got.map_err(StoreError::io("reading a segment"))? {
            Got::All => Ok(Some(Seal::decode(Magic::Record, &seal, digest)?.class)),
            Got::NotNow | Got::Short => Ok(None),
        }
    }

    /// What lies at a place, good or bad.
    pub fn raw(&self, place: &Place) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; record_bytes(place.len.min(CHUNK as u64)) as usize];
        let got = read_exact(&*self.descriptor, &mut [], &mut bytes, u64::from(place.offset), Mode::Wait);
        got.map_err(StoreError::io("reading a segment"))?;
        Ok(bytes)
    }

    /// Reads and checks a whole blob. None: not all of it is in the page cache.
    ///
    /// *Shape*: without `buffers` the bytes are nobody's slice, so that the memory tier may keep them as they are.
    pub fn read(
        &self,
        digest: &Digest,
        place: &Place,
        buffers: Option<&Arc<Buffers>>,
        mode: Mode,
    ) -> Result<Option<Bytes>, StoreError> {
        let corrupt = |why| StoreError::Corrupt { digest: *digest, why };
        // Never more, whatever a damaged index says.
        if place.len > CHUNK as u64 {
            return Err(corrupt("its place is no segment's"));
        }
        let len = place.len as usize;
        let mut seal = [0; SEAL];
        let mut fill = |data: &mut [u8]| -> Result<bool, StoreError> {
            let got = read_exact(&*self.descriptor, &mut seal, data, u64::from(place.offset), mode);
            match got.map_err(StoreError::io("reading a segment"))? {
                Got::All => {}
                Got::NotNow => return Ok(false),
                Got::Short => return Err(corrupt("its segment ends before it")),
            }
            let seal = Seal::decode(Magic::Record, &seal, digest)?;
            if seal.len != place.len {
                return Err(corrupt("its length is not the recorded one"));
            }
            if xxh3_64(data) != seal.sum {
                return Err(corrupt("its bytes do not match their sum"));
            }
            Ok(true)
        };
        match buffers {
            Some(buffers) => {
                let mut buffer = buffers.take(len);
                Ok(fill(buffer.as_mut())?.then(|| buffer.freeze()))
            }
            None => {
                let mut bytes = vec![0; len];
                Ok(fill(&mut bytes)?.then(|| Bytes::from(bytes)))
            }
        }
    }
}
