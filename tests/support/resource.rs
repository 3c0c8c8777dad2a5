//! What an upstream holds at a path, and what it does wrong when asked for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::body::Body;

/// What one exchange does instead of answering well. A resource takes one from its script for each request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers well: a place holder in a script.
    None,
    /// Another status, with these fields and a short text.
    Status(u16, Vec<(&'static str, String)>),
    /// Announces all, closes after this many bytes.
    Truncate(u64),
    /// Announces all, resets the connection after this many bytes.
    Reset(u64),
    /// Announces this many bytes more than it has, sends what it has, closes.
    TooShort(u64),
    /// Sends this many bytes more than it announced.
    TooLong(u64),
    /// Sends the right number of bytes, the one at this offset wrong.
    Corrupt(u64),
    /// Sends pieces of so many bytes with a pause after each.
    Drip(usize, Duration),
    /// Sends so many bytes, then waits for `Upstream::release`.
    Hold(u64),
    /// Chunked, closed after so many bytes without the last chunk.
    ChunkedCut(u64),
    /// Reads the request, never answers.
    Silent,
    /// Reads the request, closes.
    Close,
    /// Sends bytes that are no answer.
    Garbage,
}

/// What stands at a path.
#[derive(Clone, Debug)]
pub struct Resource {
    pub content: Content,
    pub headers: Vec<(&'static str, String)>,
    pub ranges: Ranges,
    pub script: VecDeque<Fault>,
    /// What is done when the script has run out.
    pub always: Fault,
}

#[derive(Clone, Debug)]
pub enum Content {
    Seed(Body),
    Bytes(Arc<[u8]>),
}

/// Whether `Range` is honoured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ranges {
    Honoured,
    Ignored,
}

impl Resource {
    /// A body from a seed with a strong ETag, fresh for an hour, ranges honoured.
    pub fn seed(seed: u64, len: u64) -> Resource {
        Resource {
            content: Content::Seed(Body::new(seed, len)),
            headers: vec![("etag", format!("\"seed-{seed}-{len}\"")), ("cache-control", "max-age=3600".into())],
            ranges: Ranges::Honoured,
            script: VecDeque::new(),
            always: Fault::None,
        }
    }

    pub fn text(text: impl Into<String>) -> Resource {
        let text = text.into();
        Resource {
            headers: vec![("etag", format!("\"{}\"", blake3::hash(text.as_bytes())))],
            content: Content::Bytes(Arc::from(text.into_bytes())),
            ..Resource::seed(0, 0)
        }
    }

    /// Replaces a field, or adds it.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Resource {
        self.headers.retain(|(at, _)| *at != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Resource {
        self.headers.retain(|(at, _)| *at != name);
        self
    }

    pub fn ranges(mut self, ranges: Ranges) -> Resource {
        self.ranges = ranges;
        self
    }

    /// The next request meets `fault`; each call adds one more.
    pub fn then(mut self, fault: Fault) -> Resource {
        self.script.push_back(fault);
        self
    }

    /// Every request past the script meets `fault`.
    pub fn always(mut self, fault: Fault) -> Resource {
        self.always = fault;
        self
    }

    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Seed(body) => body.len,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    pub fn read(&self, at: u64, out: &mut [u8]) {
        match &self.content {
            Content::Seed(body) => body.read(at, out),
            Content::Bytes(bytes) => {
                for (offset, byte) in out.iter_mut().enumerate() {
                    *byte = bytes.get(at as usize + offset).copied().unwrap_or(b'!');
                }
            }
        }
    }
}
