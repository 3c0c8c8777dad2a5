//! The seam to a bucket: what larder asks of S3, and nothing more. A trait because simulation replaces it.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;

use super::error::S3Error;
use crate::model::range::ByteRange;

/// A bucket, or the part of one below a prefix. Names are relative to it.
///
/// Each call is one request, repeated by the implementation where that is safe and may help; what still fails has been
/// tried often enough. Dropping a future leaves at worst an object or an upload that nobody knows of.
pub trait Bucket: Send + Sync + 'static {
    /// Stores an object, visible at once and whole.
    ///
    /// *Errors*: `Exists` when the condition does not hold, `Contended`.
    fn put<'a>(&'a self, name: &'a str, object: Put) -> BoxFuture<'a, Result<Tag, S3Error>>;

    /// Reads an object. Ok(None): there is none.
    fn get<'a>(&'a self, name: &'a str, span: Span) -> BoxFuture<'a, Result<Option<Got>, S3Error>>;

    /// What an object is, without it. Ok(None): there is none.
    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, S3Error>>;

    /// Names in their order, those after `after` alone.
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page, S3Error>>;

    /// Deletes at most `DELETE_MAX` objects at once; what is not there counts as deleted. Answers with those that are
    /// left, and why.
    fn delete(&self, names: Vec<String>) -> BoxFuture<'_, Result<Vec<(String, String)>, S3Error>>;

    /// Begins an upload in parts.
    fn begin<'a>(&'a self, name: &'a str, seal: Option<&'a str>) -> BoxFuture<'a, Result<UploadId, S3Error>>;

    /// Sends a part, numbered from 1; all but the last have at least 5 MiB.
    fn part<'a>(&'a self, upload: &'a Upload, number: u16, bytes: Bytes) -> BoxFuture<'a, Result<Part, S3Error>>;

    /// Makes the parts, in their order, the object.
    ///
    /// *Errors*: as `put`.
    fn complete<'a>(&'a self, upload: &'a Upload, parts: Vec<Part>, only: Only) -> BoxFuture<'a, Result<Tag, S3Error>>;

    /// Throws the parts away. One that is not there counts as thrown away.
    fn abort<'a>(&'a self, upload: &'a Upload) -> BoxFuture<'a, Result<(), S3Error>>;

    /// Uploads that were neither completed nor aborted, at most a page of them.
    fn unfinished<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<Upload>, S3Error>>;
}

/// Objects that one request deletes, at most.
pub const DELETE_MAX: usize = 1000;

/// An object to be stored.
#[derive(Clone, Debug)]
pub struct Put {
    pub bytes: Bytes,
    /// Kept beside the bytes.
    pub seal: Option<String>,
    pub only: Only,
}

/// When a put may happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Only {
    Always,
    IfAbsent,
    IfTag(Tag),
}

/// What S3 calls an ETag: another one means another object under the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag(pub String);

/// Which bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    Whole,
    /// Not empty.
    Part(ByteRange),
    /// The last so many, or all if there are fewer.
    Last(u64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Length of the whole object.
    pub len: u64,
    pub tag: Tag,
    pub seal: Option<String>,
}

/// An object's head, and the bytes that were asked for to come.
pub struct Got {
    pub stat: Stat,
    pub body: Body,
}

/// Bytes of an object as they arrive. Ends cleanly only after all of them; unchecked.
pub struct Body(Pin<Box<dyn Stream<Item = Result<Bytes, S3Error>> + Send>>);

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Names and lengths.
    pub objects: Vec<(String, u64)>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// How a bucket calls an upload under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadId(pub String);

/// An upload under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    pub name: String,
    pub id: UploadId,
}

/// A part that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub number: u16,
    pub tag: Tag,
    /// Its checksum as the bucket keeps it, where it does.
    pub checksum: Option<String>,
}

impl Body {
    pub fn new(stream: impl Stream<Item = Result<Bytes, S3Error>> + Send + 'static) -> Body {
        Body(Box::pin(stream))
    }

    /// The next bytes; None at the clean end.
    ///
    /// *Cancel*: nothing is lost.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, S3Error>> {
        std::future::poll_fn(|context| self.0.as_mut().poll_next(context)).await
    }
}

impl fmt::Debug for Got {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Got").field("stat", &self.stat).finish_non_exhaustive()
    }
}
