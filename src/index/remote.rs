//! What the bucket holds, as the index knows it: places in objects that the catalog numbers. Asks no bucket.
//!
//! A blob's local place comes before its remote one, which stands in for it once the local one is dropped. So local
//! eviction of what is remote loses neither keys nor sums nor edges.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Index;
use super::catalog::{Remote, RemoteBlob};
use super::error::IndexError;
use super::writer::queue::Work;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place};

/// Names of objects remembered.
pub(super) const OBJECTS: usize = 16_384;

/// A blob that an object of the bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploaded {
    pub digest: Digest,
    pub class: Class,
    /// Where it starts in its pack; 0 in an object of its own.
    pub offset: u32,
    pub len: u64,
}

impl Index {
    /// Records that an object of the bucket holds these blobs, wherever else they are. They leave the outbox. Durable on
    /// return; may be said twice.
    ///
    /// *Errors*: what the outbox held is still in it.
    pub async fn uploaded(&self, object: &str, bytes: u64, blobs: Vec<Uploaded>) -> Result<(), IndexError> {
        let room = self.core.queue.room(object.len() + blobs.len() * 160).await?;
        let blob = |one: Uploaded| RemoteBlob {
            digest: one.digest,
            class: one.class,
            offset: one.offset,
            len: one.len,
            sums: Vec::new(),
        };
        let blobs = blobs.into_iter().map(blob).collect();
        let work = Work::Uploaded { name: object.into(), bytes, at: self.core.clock.now(), blobs };
        self.core.queue.ask(work, room).await.map(drop)
    }

    /// The name of an object; None when there is none of that number.
    pub async fn object_name(&self, number: u32) -> Result<Option<Arc<str>>, IndexError> {
        if let Some(name) = self.core.objects.get(&number) {
            return Ok(Some(name));
        }
        self.count_read();
        let name: Option<Arc<str>> = self.core.catalog.object(number).await?.map(Arc::from);
        if let Some(name) = &name {
            self.core.objects.insert(number, name.clone());
        }
        Ok(name)
    }

    /// Where the bucket holds each blob, whether or not it is here too.
    pub async fn remote_places(&self, digests: &[Digest]) -> Result<Vec<Option<Place>>, IndexError> {
        let found = self.remote_of(digests).await?;
        Ok(found.into_iter().map(|found| found.map(|found| found.place)).collect())
    }

    /// What the bucket's copy of a blob counts against when it comes here. None: the bucket has none.
    pub async fn remote_class(&self, digest: &Digest) -> Result<Option<Class>, IndexError> {
        Ok(self.remote_of(&[*digest]).await?.pop().flatten().map(|found| found.class))
    }

    /// Forgets a remote copy that is not there or wrong, if it is still this one. If the blob has no other place it
    /// becomes absent, as by `drop_place`; if it has, it is queued again. Durable on return.
    pub async fn remote_lost(&self, digest: &Digest, place: &Place) -> Result<(), IndexError> {
        if place.tier.is_local() {
            return Ok(());
        }
        let room = self.core.queue.room(64).await?;
        let (ack, acked) = oneshot::channel();
        {
            let mut order = self.core.order.lock();
            if self.core.queue.is_closed() {
                return Err(IndexError::Closed);
            }
            order.seq += 1;
            let seq = order.seq;
            self.core.table.remove_if(&digest.prefix(), place);
            order.note_dropped(&self.core.table, digest, place);
            order.note_bereft(&self.core.table, digest);
            let work = Work::Lost { digest: *digest, place: *place, seq, whole: false };
            self.core.queue.push(work, room, Some(ack))?;
        }
        acked.await.map_err(|_gone| IndexError::Closed)?.map(drop)
    }

    /// What the catalog says of the bucket; nothing where there is none.
    pub(super) async fn remote_of(&self, digests: &[Digest]) -> Result<Vec<Option<Remote>>, IndexError> {
        if digests.is_empty() || !self.core.outbox.is_open() {
            return Ok(vec![None; digests.len()]);
        }
        self.count_read();
        self.core.catalog.remote(digests.to_vec()).await
    }
}
