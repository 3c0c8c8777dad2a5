//! All sums of a body in one pass. BLAKE3 falls from 7 to 2.5 GB/s on 4 KiB pieces, so feed at least 16 KiB.

use bytes::Bytes;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::error::StoreError;
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;

/// Small enough that the second function finds the bytes in a near cache, large enough for BLAKE3's widest tree.
const STEP: usize = 64 * 1024;

/// BLAKE3 and SHA-256 always, others where the protocol announced them.
pub struct Hashes {
    blake3: blake3::Hasher,
    sha256: Sha256,
    sha512: Option<Sha512>,
    sha1: Option<Sha1>,
    md5: Option<Md5>,
}

impl Hashes {
    pub fn new(also: &[Algorithm]) -> Hashes {
        Hashes {
            blake3: blake3::Hasher::new(),
            sha256: Sha256::new(),
            sha512: also.contains(&Algorithm::Sha512).then(Sha512::new),
            sha1: also.contains(&Algorithm::Sha1).then(Sha1::new),
            md5: also.contains(&Algorithm::Md5).then(Md5::new),
        }
    }

    /// Takes parts as if they were one. What lies across two of them is brought together first: BLAKE3 is slower by a
    /// third where its steps do not begin at round offsets.
    pub(super) fn update_parts(&mut self, parts: &[Bytes]) {
        let mut across = Vec::new();
        for part in parts {
            let mut part = &part[..];
            if !across.is_empty() {
                let (missing, rest) = part.split_at(part.len().min(STEP - across.len()));
                across.extend_from_slice(missing);
                part = rest;
                if across.len() < STEP {
                    continue;
                }
                self.update(&across);
                across.clear();
            }
            let (steps, rest) = part.split_at(part.len() / STEP * STEP);
            self.update(steps);
            across.extend_from_slice(rest);
        }
        self.update(&across);
    }

    pub fn update(&mut self, bytes: &[u8]) {
        for step in bytes.chunks(STEP) {
            self.blake3.update(step);
            self.sha256.update(step);
            if let Some(hash) = &mut self.sha512 {
                hash.update(step);
            }
            if let Some(hash) = &mut self.sha1 {
                hash.update(step);
            }
            if let Some(hash) = &mut self.md5 {
                hash.update(step);
            }
        }
    }

    /// Holds what came against what was promised.
    ///
    /// *Errors*: `Mismatch`, also for a promise in an algorithm that was not announced.
    pub fn check(self, expect: &[Checksum]) -> Result<(), StoreError> {
        self.finish().check(expect)
    }

    pub(super) fn finish(self) -> Sums {
        let digest = Digest::from_bytes(*self.blake3.finalize().as_bytes());
        let sha256 = checksum(Algorithm::Sha256, &self.sha256.finalize());
        let mut all = vec![sha256];
        all.extend(self.sha512.map(|hash| checksum(Algorithm::Sha512, &hash.finalize())));
        all.extend(self.sha1.map(|hash| checksum(Algorithm::Sha1, &hash.finalize())));
        all.extend(self.md5.map(|hash| checksum(Algorithm::Md5, &hash.finalize())));
        Sums { digest, sha256, all }
    }
}

/// What a body hashes to.
pub(super) struct Sums {
    pub digest: Digest,
    pub sha256: Checksum,
    /// SHA-256 among them.
    pub all: Vec<Checksum>,
}

impl Sums {
    pub fn of(bytes: &[u8], also: &[Algorithm]) -> Sums {
        let mut hashes = Hashes::new(also);
        hashes.update(bytes);
        hashes.finish()
    }

    pub fn get(&self, algorithm: Algorithm) -> Option<&Checksum> {
        self.all.iter().find(|sum| sum.algorithm() == algorithm)
    }

    /// Adds what was promised but not announced in time; `rehash` goes over the bytes again.
    pub fn complete(
        &mut self,
        expect: &[Checksum],
        rehash: impl FnOnce(&[Algorithm]) -> Result<Sums, StoreError>,
    ) -> Result<(), StoreError> {
        let mut missing: Vec<Algorithm> = expect.iter().map(Checksum::algorithm).collect();
        missing.retain(|algorithm| self.get(*algorithm).is_none());
        if missing.is_empty() {
            return Ok(());
        }
        let again = rehash(&missing)?;
        self.all.extend(again.all.into_iter().filter(|sum| missing.contains(&sum.algorithm())));
        Ok(())
    }

    /// Holds what was promised against what came. A promise in an algorithm that was not computed counts as broken.
    pub fn check(&self, expect: &[Checksum]) -> Result<(), StoreError> {
        for expected in expect {
            let algorithm = expected.algorithm();
            let found = self.get(algorithm);
            if found != Some(expected) {
                let found = found.copied().unwrap_or_else(|| checksum(algorithm, &[0; 64]));
                let (expected, found) = (Box::new(*expected), Box::new(found));
                return Err(StoreError::Mismatch { algorithm, expected, found });
            }
        }
        Ok(())
    }
}

fn checksum(algorithm: Algorithm, sum: &[u8]) -> Checksum {
    Checksum::new(algorithm, &sum[..algorithm.sum_bytes()]).expect("cut to the length of the algorithm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_the_known_ones() {
        let sums = Sums::of(b"abc", &Algorithm::ALL);
        assert_eq!(sums.digest, Digest::of(b"abc"));
        let known = [
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "sha1:a9993e364706816aba3e25717850c26c9cd0d89d",
            "md5:900150983cd24fb0d6963f7d28e17f72",
        ];
        for text in known {
            let expected: Checksum = text.parse().expect("a checksum");
            assert!(sums.check(&[expected]).is_ok());
            assert!(Sums::of(b"abd", &Algorithm::ALL).check(&[expected]).is_err());
        }
        assert!(sums.get(Algorithm::Sha512).expect("asked").hex().starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn pieces_make_no_difference() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut hashes = Hashes::new(&[]);
        bytes.chunks(7001).for_each(|piece| hashes.update(piece));
        assert_eq!(hashes.finish().digest, Digest::of(&bytes));
        for size in [1, 999, STEP - 1, STEP, STEP + 1, 3 * STEP + 7] {
            let many: Vec<u8> = bytes.iter().copied().cycle().take(4 * STEP + 5).collect();
            let parts: Vec<Bytes> = many.chunks(size).map(Bytes::copy_from_slice).collect();
            let mut hashes = Hashes::new(&[]);
            hashes.update_parts(&parts);
            assert_eq!(hashes.finish().digest, Digest::of(&many), "{size}");
        }
    }
}
