//! What objects are called. The hash leads, so that requests spread over a bucket's partitions; a generation ends each
//! name, so that none is ever used twice and a late delete never hits newer bytes.
//!
//! `v1/blob/ab/cd/DIGEST.GENERATION` holds one large blob, `v1/pack/ab/cd/ID` many small ones, `v1/probe/ID/...` is what
//! `larder doctor` writes and takes away again.

use std::fmt;

use crate::model::digest::Digest;
use crate::model::hex;
use crate::runtime::clock::random_bytes;

/// The layout's own number: another layout lives beside this one.
const LAYOUT: &str = "v1";

/// The name of an object, below the prefix of the settings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Name {
    Blob { digest: Digest, generation: [u8; 8] },
    Pack { id: [u8; 16] },
}

impl Name {
    /// A name for this blob that no object has had.
    pub fn of_blob(digest: Digest) -> Name {
        Name::Blob { digest, generation: random_bytes() }
    }

    /// A name for a pack that no object has had.
    pub fn of_pack() -> Name {
        Name::Pack { id: random_bytes() }
    }

    /// Reads what `Display` writes, and nothing else. None: the object is not ours.
    pub fn parse(text: &str) -> Option<Name> {
        let last = text.rsplit('/').next()?;
        let name = match last.split_once('.') {
            Some((digest, generation)) => {
                let mut bytes = [0; 8];
                hex::decode(generation, &mut bytes)?;
                Name::Blob { digest: digest.parse().ok()?, generation: bytes }
            }
            None => {
                let mut id = [0; 16];
                hex::decode(last, &mut id)?;
                Name::Pack { id }
            }
        };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shelf = |bytes: &[u8]| format!("{}/{}", hex::encode(&bytes[..1]), hex::encode(&bytes[1..2]));
        match self {
            Name::Blob { digest, generation } => {
                let shelf = shelf(digest.as_bytes());
                write!(out, "{LAYOUT}/blob/{shelf}/{digest}.{}", hex::encode(generation))
            }
            Name::Pack { id } => write!(out, "{LAYOUT}/pack/{}/{}", shelf(id), hex::encode(id)),
        }
    }
}

/// Where a probe writes: nobody else does.
pub fn probe_folder() -> String {
    format!("{LAYOUT}/probe/{}/", hex::encode(&random_bytes::<16>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_what_it_writes_and_is_never_used_twice() {
        let digest = Digest::of(b"larder");
        for (first, second) in [(Name::of_blob(digest), Name::of_blob(digest)), (Name::of_pack(), Name::of_pack())] {
            assert_eq!(Name::parse(&first.to_string()), Some(first));
            assert_ne!(first, second);
        }
        let name = Name::Blob { digest: Digest::from_bytes([0xab; 32]), generation: [1; 8] };
        assert_eq!(name.to_string(), format!("v1/blob/ab/ab/{}.{}", "ab".repeat(32), "01".repeat(8)));
    }

    #[test]
    fn what_is_not_ours_has_no_name() {
        let name = Name::of_pack().to_string();
        for text in ["", "v1/pack/", &name.to_uppercase(), &name[1..], &format!("{name}0"), &format!("/{name}")] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        let elsewhere = name.replace("pack", "blob");
        assert_eq!(Name::parse(&elsewhere), None);
    }
}
