//! Stores one large blob: read once to see that it is what its digest says, and for its sums; then sent, whole or in parts
//! side by side.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::super::sum::xxh3_64;
use super::bucket::{Only, Part, Put, Upload};
use super::error::S3Error;
use super::remote::{Blob, Shared};
use super::seal::{OBJECT_MAX, ObjectSeal, chunk_bytes};
use crate::model::digest::Digest;
use crate::model::range::ByteRange;

/// Where the bytes to be sent come from. Asked for a range more than once.
pub trait Source: Send + Sync {
    /// Exactly the bytes of a range.
    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes, S3Error>>;
}

impl Source for Bytes {
    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes, S3Error>> {
        let at = |edge: u64| usize::try_from(edge).ok().filter(|edge| *edge <= self.len());
        let part = at(range.start).zip(at(range.end)).filter(|(start, end)| start <= end);
        let part = part.map(|(start, end)| self.slice(start..end));
        let short = || S3Error::Source { why: format!("it has {} bytes", self.len()) };
        Box::pin(std::future::ready(part.ok_or_else(short)))
    }
}

/// *Errors*: `Exists` when another blob has the name. The same one is as good as stored: an answer may be lost, and the
/// request that is repeated then finds its own object.
pub(super) async fn put(shared: &Shared, object: &str, blob: &Blob, source: &dyn Source) -> Result<(), S3Error> {
    let seal = sealed(shared, blob, source).await?.encode();
    let Err(error) = send(shared, object, blob.len, &seal, source).await else { return Ok(()) };
    let there = shared.bucket.head(object).await.ok().flatten();
    if there.is_some_and(|there| there.len == blob.len && there.seal.as_deref() == Some(&*seal)) {
        return Ok(());
    }
    Err(error)
}

async fn send(shared: &Shared, object: &str, len: u64, seal: &str, source: &dyn Source) -> Result<(), S3Error> {
    if len < shared.settings.multipart_from {
        let _room = shared.room(len).await;
        let bytes = read(source, ByteRange::whole(len)).await?;
        shared.bucket.put(object, Put { bytes, seal: Some(seal.to_owned()), only: Only::IfAbsent }).await?;
        return Ok(());
    }
    let id = shared.bucket.begin(object, Some(seal)).await?;
    let upload = Upload { name: object.to_owned(), id };
    let sent = match parts(shared, &upload, len, source).await {
        Ok(parts) => shared.bucket.complete(&upload, parts, Only::IfAbsent).await,
        Err(error) => Err(error),
    };
    if sent.is_err() {
        // What stays behind is found among the unfinished ones.
        let _ = shared.bucket.abort(&upload).await;
    }
    sent.map(drop)
}

async fn parts(shared: &Shared, upload: &Upload, len: u64, source: &dyn Source) -> Result<Vec<Part>, S3Error> {
    let size = shared.settings.part_bytes;
    let send = |number: u16| async move {
        let start = u64::from(number - 1) * size;
        let range = ByteRange { start, end: (start + size).min(len) };
        let _room = shared.room(range.len()).await;
        let bytes = read(source, range).await?;
        shared.bucket.part(upload, number, bytes).await
    };
    // S3 takes 10,000 parts; the largest blob has 1,639 of the smallest size.
    let last = u16::try_from(len.div_ceil(size)).map_err(|_| S3Error::TooLarge { len, limit: OBJECT_MAX })?;
    stream::iter(1..=last).map(send).buffered(shared.settings.parallel).try_collect().await
}

/// Reads all of a blob once.
///
/// *Errors*: `Source` when it is not what its digest says, `TooLarge`.
async fn sealed(shared: &Shared, blob: &Blob, source: &dyn Source) -> Result<ObjectSeal, S3Error> {
    let too_large = || S3Error::TooLarge { len: blob.len, limit: OBJECT_MAX };
    let chunk = chunk_bytes(blob.len).ok_or_else(too_large)?;
    let (mut hasher, mut sums, mut at) = (blake3::Hasher::new(), Vec::new(), 0);
    while at < blob.len {
        let range = ByteRange { start: at, end: (at + chunk).min(blob.len) };
        let _room = shared.room(range.len()).await;
        let bytes = read(source, range).await?;
        let hashed = tokio::task::spawn_blocking(move || {
            hasher.update(&bytes);
            (hasher, xxh3_64(&bytes))
        });
        let (next, sum) = hashed.await.map_err(|error| S3Error::Source { why: error.to_string() })?;
        hasher = next;
        sums.push(sum);
        at = range.end;
    }
    let found = Digest::from_bytes(*hasher.finalize().as_bytes());
    let wrong = || S3Error::Source { why: format!("it is {found}, not {}", blob.digest) };
    if found != blob.digest {
        return Err(wrong());
    }
    ObjectSeal::new(blob.digest, blob.class, blob.len, sums).ok_or_else(wrong)
}

async fn read(source: &dyn Source, range: ByteRange) -> Result<Bytes, S3Error> {
    let bytes = source.read(range).await?;
    let found = bytes.len() as u64;
    let short = || S3Error::Source { why: format!("{found} of {} bytes came", range.len()) };
    if found == range.len() { Ok(bytes) } else { Err(short()) }
}
