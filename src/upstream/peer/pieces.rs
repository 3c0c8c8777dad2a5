//! The bytes of a blob as a peer sends them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};

use super::Counts;
use super::link::Promise;
use crate::model::node::{self, Frames};
use crate::upstream::fetch::{FetchedBody, UpstreamError};

/// What may stand around the bytes of a blob.
const WIRE_MORE_BYTES: u64 = 64 << 10;

/// A blob that comes.
pub(super) struct Pieces {
    pub body: FetchedBody,
    pub frames: Frames,
    pub promise: Promise,
    pub counts: Arc<Counts>,
    pub host: String,
    pub got: u64,
    pub len: u64,
    /// All that came, with what stands around the blob's bytes.
    pub wire: u64,
}

impl Pieces {
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let piece = self.piece().await;
        match &piece {
            Some(Err(_)) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                self.counts.broken_reads.fetch_add(1, Ordering::Relaxed);
            }
            None => self.counts.broken_reads.store(0, Ordering::Relaxed),
            Some(Ok(_)) => {}
        }
        piece
    }

    async fn piece(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let protocol = |host: &str, why: String| UpstreamError::Protocol { host: host.to_owned(), why };
        loop {
            match self.frames.take::<node::ReadResponse>() {
                Ok(Some(message)) if !message.data.has_remaining() => {}
                Ok(Some(message)) => {
                    self.got += message.data.len() as u64;
                    if self.got > self.len {
                        return Some(Err(protocol(&self.host, "it sent more than it said".to_owned())));
                    }
                    return Some(Ok(message.data));
                }
                Ok(None) => match self.body.chunk().await {
                    Some(Ok(chunk)) => {
                        self.promise.came(chunk.len() as u64);
                        self.counts.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        self.wire += chunk.len() as u64;
                        if self.wire > self.len + self.len / 64 + WIRE_MORE_BYTES {
                            return Some(Err(protocol(
                                &self.host,
                                "it sends more around the bytes than bytes".to_owned(),
                            )));
                        }
                        self.frames.push(&chunk);
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None if self.got < self.len || self.frames.end().is_err() => {
                        let (got, expected) = (self.got, self.len.to_string());
                        return Some(Err(UpstreamError::Truncated { host: self.host.clone(), got, expected }));
                    }
                    None => return None,
                },
                Err(error) => return Some(Err(protocol(&self.host, error.to_string()))),
            }
        }
    }
}
