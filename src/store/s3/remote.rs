//! Blobs in a bucket: packs and objects, stored whole and read checked. The budget of bytes in memory is one for all.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bucket::{Bucket, Only, Put, Span};
use super::error::{Flaw, S3Error};
use super::hedge::Hedge;
use super::pack::{Footer, PACKED_MAX, Packer, TAIL, Tail};
use super::read::{self, ObjectReader, Wanted};
use super::settings::Settings;
use super::upload::{self, Source};
use crate::model::digest::Digest;
use crate::model::place::Class;
use crate::model::range::ByteRange;
use crate::runtime::clock::Clock;

/// A bucket as a tier sees it. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub bucket: Arc<dyn Bucket>,
    pub hedge: Hedge,
    pub settings: Settings,
    /// Bytes that may be in memory, in KiB.
    room: Arc<Semaphore>,
    kib: u32,
}

/// A blob to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    pub digest: Digest,
    pub class: Class,
    pub len: u64,
}

/// The first look at a pack's end: the footer of a thousand blobs is in it.
const END: u64 = 64 << 10;

impl Remote {
    /// *Errors*: `Settings`.
    pub fn new(bucket: Arc<dyn Bucket>, settings: &Settings, clock: Arc<dyn Clock>) -> Result<Remote, S3Error> {
        settings.check()?;
        let kib = u32::try_from(settings.in_flight_bytes >> 10).unwrap_or(u32::MAX);
        let shared = Shared {
            hedge: Hedge::new(bucket.clone(), clock, settings),
            bucket,
            settings: settings.clone(),
            room: Arc::new(Semaphore::new((kib as usize).min(Semaphore::MAX_PERMITS))),
            kib,
        };
        Ok(Remote { shared: Arc::new(shared) })
    }

    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.shared.bucket
    }

    /// Stores a blob as an object of its own, after its source was read once and found to be what its digest says.
    ///
    /// *Errors*: `Source` when it is not, `TooLarge`, `Exists` when another blob has the name.
    /// *Cancel*: an upload may be left behind, which `Bucket::unfinished` finds.
    pub async fn put_blob(&self, object: &str, blob: &Blob, source: &dyn Source) -> Result<(), S3Error> {
        upload::put(&self.shared, object, blob, source).await
    }

    /// Stores a pack. None: nothing was in it.
    ///
    /// *Errors*: `Exists` when another pack has the name.
    pub async fn put_pack(
        &self,
        object: &str,
        packer: Packer,
        records: &[u8],
        sequence: u64,
    ) -> Result<Option<Footer>, S3Error> {
        let Some(bytes) = packer.seal(records, sequence) else { return Ok(None) };
        let footer = Footer::of_object(&bytes).map_err(S3Error::damaged(object))?;
        let room = self.shared.room(bytes.len() as u64).await;
        let put = self.shared.bucket.put(object, Put { bytes, seal: None, only: Only::IfAbsent }).await;
        drop(room);
        match put {
            Ok(_) => Ok(Some(footer)),
            // An answer may be lost, and the request that is repeated then finds its own object.
            Err(S3Error::Exists { .. }) if self.footer(object).await.as_ref() == Ok(&footer) => Ok(Some(footer)),
            Err(error) => Err(error),
        }
    }

    /// Reads a range of a blob that is an object of its own.
    ///
    /// *Shape*: chunks in order, each checked before it comes; nothing follows an error.
    /// *Errors*: `Gone`, `Damaged`: a miss above; others: S3 does not answer.
    /// *Cancel*: requests under way are dropped, what they hold in memory is given back.
    pub async fn blob(&self, wanted: Wanted, range: ByteRange) -> Result<ObjectReader, S3Error> {
        read::open(self.shared.clone(), wanted, range).await
    }

    /// Reads a blob out of a pack, and checks it whole.
    ///
    /// *Errors*: as `blob`.
    pub async fn packed(&self, object: &str, digest: &Digest, range: ByteRange) -> Result<Bytes, S3Error> {
        let damaged = |why| S3Error::Damaged { object: object.to_owned(), flaw: Flaw::Damaged(why) };
        if range.is_empty() || range.len() > PACKED_MAX {
            return Err(damaged("no packed blob has this length"));
        }
        let _room = self.shared.room(range.len()).await;
        // Wrong on the way, or wrong in the bucket: the second time tells.
        for _ in 0..2 {
            let bytes = self.shared.whole(object, Span::Part(range), range.len()).await?.0;
            if Digest::of(&bytes) == *digest {
                return Ok(bytes);
            }
        }
        Err(damaged("another blob is at its place, or a damaged one"))
    }

    /// Reads what a pack says of itself, in one request or two.
    ///
    /// *Errors*: as `blob`.
    pub async fn footer(&self, object: &str) -> Result<Footer, S3Error> {
        let damaged = S3Error::damaged(object);
        let (end, len) = self.shared.whole(object, Span::Last(END), END).await?;
        let tail = end.last_chunk::<TAIL>().ok_or_else(|| damaged(Flaw::Damaged("it is too short for a pack")))?;
        let tail = Tail::decode(tail, len).map_err(&damaged)?;
        let bytes = tail.footer_bytes();
        let footer = match end.len().checked_sub(usize::try_from(bytes).unwrap_or(usize::MAX)) {
            Some(from) => end.slice(from..end.len() - TAIL),
            None => {
                let _room = self.shared.room(bytes).await;
                let footer = ByteRange { start: len - bytes, end: len - TAIL as u64 };
                self.shared.whole(object, Span::Part(footer), footer.len()).await?.0
            }
        };
        Footer::decode(&tail, &footer).map_err(&damaged)
    }
}

impl Shared {
    /// Waits for room for so many bytes. More than there is at all takes all.
    pub async fn room(&self, bytes: u64) -> OwnedSemaphorePermit {
        let room = self.room.clone().acquire_many_owned(self.kib_of(bytes)).await;
        room.expect("nobody closes the semaphore")
    }

    pub fn room_now(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(self.kib_of(bytes)).ok()
    }

    fn kib_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.kib)
    }

    /// Reads at most `most` bytes into memory, and the length of the whole object. A body that breaks is asked for
    /// again, once.
    async fn whole(&self, object: &str, span: Span, most: u64) -> Result<(Bytes, u64), S3Error> {
        let mut tries = 2;
        loop {
            tries -= 1;
            match self.once(object, span, most).await {
                Err(S3Error::Unavailable { .. }) if tries > 0 => {}
                read => return read,
            }
        }
    }

    async fn once(&self, object: &str, span: Span, most: u64) -> Result<(Bytes, u64), S3Error> {
        let got = self.hedge.get(object, span).await?;
        let mut got = got.ok_or_else(|| S3Error::Gone { object: object.to_owned() })?;
        let mut bytes = bytes::BytesMut::new();
        while let Some(chunk) = got.body.chunk().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > most {
                return Err(S3Error::Unavailable { doing: "reading an object", why: "it sent too much".to_owned() });
            }
        }
        Ok((bytes.freeze(), got.stat.len))
    }
}
