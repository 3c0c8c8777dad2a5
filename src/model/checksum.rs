//! Any sum but BLAKE3 by which the world knows a blob: `sha256:…`, a crate's `cksum`, npm's SRI.

use std::fmt;
use std::str::FromStr;

use super::digest::Prefix;
use super::hex;

/// A hash function that a protocol announces its blobs by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    Sha256,
    Sha512,
    Sha1,
    Md5,
}

impl Algorithm {
    pub const ALL: [Algorithm; 4] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Sha1, Algorithm::Md5];

    /// The name used on the wire and in the index.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Sha1 => "sha1",
            Algorithm::Md5 => "md5",
        }
    }

    /// Length of a sum, in bytes.
    pub const fn sum_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
            Algorithm::Sha1 => 20,
            Algorithm::Md5 => 16,
        }
    }

    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// A sum and the function that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Checksum {
    /// None when `sum` has not the length that `algorithm` makes.
    pub fn new(algorithm: Algorithm, sum: &[u8]) -> Option<Checksum> {
        if sum.len() != algorithm.sum_bytes() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..sum.len()].copy_from_slice(sum);
        Some(Checksum { algorithm, bytes })
    }

    pub fn from_hex(algorithm: Algorithm, text: &str) -> Option<Checksum> {
        let mut bytes = [0; 64];
        hex::decode(text, &mut bytes[..algorithm.sum_bytes()])?;
        Some(Checksum { algorithm, bytes })
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.sum_bytes()]
    }

    pub fn prefix(&self) -> Prefix {
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&self.bytes[..16]);
        prefix
    }

    /// The sum alone, as hex.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.algorithm.name())?;
        hex::write(self.as_bytes(), out)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text was not `algorithm:hex` with an algorithm we know and as many digits as it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is written algorithm:hex, for example sha256:e3b0…")]
pub struct ChecksumError;

impl FromStr for Checksum {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Checksum, ChecksumError> {
        let (name, sum) = text.split_once(':').ok_or(ChecksumError)?;
        let algorithm = Algorithm::from_name(name).ok_or(ChecksumError)?;
        Checksum::from_hex(algorithm, sum).ok_or(ChecksumError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_reads_what_it_writes() {
        for algorithm in Algorithm::ALL {
            let sum = Checksum::new(algorithm, &vec![0xab; algorithm.sum_bytes()]).expect("length fits");
            assert_eq!(sum.to_string().parse(), Ok(sum));
            assert_eq!(Checksum::new(algorithm, &[1]), None);
        }
        assert_eq!("sha256:00".parse::<Checksum>(), Err(ChecksumError));
    }
}
