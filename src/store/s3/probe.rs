//! What `larder doctor` asks of a bucket: to do once, in small, all that larder does with one. What it writes it takes away
//! again.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::bucket::{Bucket, Only, Put, Tag};
use super::error::S3Error;
use super::names::probe_folder;
use super::pack::Packer;
use super::read::Wanted;
use super::remote::{Blob, Remote};
use super::settings::{PART_MIN, Settings};
use crate::model::digest::Digest;
use crate::model::place::Class;
use crate::model::range::ByteRange;
use crate::runtime::clock::Clock;

/// What was found out about a bucket that stores, lists, reads and deletes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// A put on the condition that there is no such object is refused where there is one.
    pub if_absent: Holds,
    /// A put on the condition that the object is this one is refused where it is another.
    pub if_same: Holds,
    /// What was stored is in the next listing.
    pub lists_at_once: Holds,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    Yes,
    No,
}

/// *Errors*: the first thing that larder needs and the bucket does not do.
pub async fn probe(bucket: Arc<dyn Bucket>, settings: &Settings, clock: Arc<dyn Clock>) -> Result<Abilities, S3Error> {
    // Parts as small as they may be: it is the way of doing that is tried.
    let small = Settings { part_bytes: PART_MIN, multipart_from: PART_MIN, ..settings.clone() };
    let remote = Remote::new(bucket, &small, clock)?;
    let folder = probe_folder();
    let found = tried(&remote, &folder).await;
    let cleaned = cleaned(&remote, &folder).await;
    let found = found?;
    cleaned?;
    Ok(found)
}

async fn tried(remote: &Remote, folder: &str) -> Result<Abilities, S3Error> {
    let bucket = remote.bucket();
    bucket.list(folder, None).await?;
    let pack = format!("{folder}pack");
    packed(remote, &pack).await?;
    let parts = format!("{folder}parts");
    in_parts(remote, &parts).await?;
    let again = |only| Put { bytes: Bytes::from_static(b"another"), seal: None, only };
    let another = Tag("\"00000000000000000000000000000000\"".to_owned());
    let listed = bucket.list(folder, None).await?.objects;
    Ok(Abilities {
        if_absent: refused(bucket.put(&pack, again(Only::IfAbsent)).await)?,
        if_same: refused(bucket.put(&pack, again(Only::IfTag(another))).await)?,
        lists_at_once: if listed.len() == 2 { Holds::Yes } else { Holds::No },
    })
}

/// A few small blobs there and back, by the pack's own footer.
async fn packed(remote: &Remote, object: &str) -> Result<(), S3Error> {
    let mut packer = Packer::default();
    for blob in [&b"larder"[..], b"was", b"here"] {
        packer.push(Digest::of(blob), Class::Trusted, blob);
    }
    remote.put_pack(object, packer, b"", 0).await?;
    for entry in remote.footer(object).await?.entries {
        remote.packed(object, &entry.digest, entry.range).await?;
    }
    Ok(())
}

/// A large blob there in two parts, and back in two ranges.
async fn in_parts(remote: &Remote, object: &str) -> Result<(), S3Error> {
    let bytes = Bytes::from(vec![b'l'; PART_MIN as usize + 1]);
    let (digest, len) = (Digest::of(&bytes), bytes.len() as u64);
    remote.put_blob(object, &Blob { digest, class: Class::Trusted, len }, &bytes).await?;
    let wanted = Wanted { object: object.to_owned(), digest, len };
    let reader = remote.blob(wanted, ByteRange::whole(len)).await?;
    // Each chunk was checked on its way here.
    reader.try_for_each(|_| std::future::ready(Ok(()))).await
}

fn refused(put: Result<Tag, S3Error>) -> Result<Holds, S3Error> {
    match put {
        Err(S3Error::Exists { .. }) => Ok(Holds::Yes),
        Ok(_) => Ok(Holds::No),
        // A server that does not know conditions says so in many ways.
        Err(S3Error::Answered { .. }) => Ok(Holds::No),
        Err(error) => Err(error),
    }
}

async fn cleaned(remote: &Remote, folder: &str) -> Result<(), S3Error> {
    let bucket = remote.bucket();
    for upload in bucket.unfinished(folder).await? {
        bucket.abort(&upload).await?;
    }
    let left = bucket.delete(["pack", "parts"].map(|name| format!("{folder}{name}")).into()).await?;
    match left.into_iter().next() {
        Some((_, code)) => Err(S3Error::Denied { doing: "a delete", code, remedy: "allow s3:DeleteObject" }),
        None => Ok(()),
    }
}
