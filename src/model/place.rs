//! Where a blob is. The store makes places and reads them, the catalog numbers the objects of the bucket; the index keeps
//! them and looks no further than whether a place is local.

use super::range::ByteRange;

/// The tier that keeps a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TierName {
    Memory = 0,
    /// Appended to a segment of many blobs.
    Segment = 1,
    /// A file of its own.
    File = 2,
    /// In an object of the bucket: alone, or in a pack of many.
    S3 = 3,
}

impl TierName {
    pub const ALL: [TierName; 4] = [TierName::Memory, TierName::Segment, TierName::File, TierName::S3];

    pub const fn name(self) -> &'static str {
        match self {
            TierName::Memory => "memory",
            TierName::Segment => "segment",
            TierName::File => "file",
            TierName::S3 => "s3",
        }
    }

    /// Whether its bytes are this node's own.
    pub const fn is_local(self) -> bool {
        !matches!(self, TierName::S3)
    }

    pub fn from_code(code: u8) -> Option<TierName> {
        TierName::ALL.into_iter().find(|tier| *tier as u8 == code)
    }
}

/// Where in a tier, with the generation in it: a place is never reused, so a late eviction cannot hit newer bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Place {
    pub tier: TierName,
    /// Segment number, the generation of a file, or the number that the catalog gave an object of the bucket.
    pub object: u32,
    /// Where the record starts in its segment, or the blob in its pack; 0 for what is alone.
    pub offset: u32,
    /// Length of the blob's raw bytes.
    pub len: u64,
}

impl Place {
    pub const fn whole(&self) -> ByteRange {
        ByteRange::whole(self.len)
    }
}

/// What share of the disk a blob counts against. A segment holds one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Class {
    /// Made or fetched for a trusted scope.
    Trusted = 0,
    /// Filled by an untrusted scope: it can only push out its like.
    Untrusted = 1,
    /// Mutable documents: small, short-lived, replaced often.
    Document = 2,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Trusted, Class::Untrusted, Class::Document];

    pub const fn name(self) -> &'static str {
        match self {
            Class::Trusted => "trusted",
            Class::Untrusted => "untrusted",
            Class::Document => "document",
        }
    }

    pub fn from_code(code: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| *class as u8 == code)
    }
}
