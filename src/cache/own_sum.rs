//! The file beside a thing that holds its checksum, made here: of bytes that are kept the sum is known or quickly found,
//! and upstream need not be asked for it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::error::CacheError;
use super::served::{Ask, Framing, Part, Partiality, Served, ServedBody};
use super::terms::{hashed, head_of};
use super::{Inner, decide};
use crate::index::Presence;
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::lookup::{Lookup, Origins};
use crate::model::outcome::{Forwarded, Outcome};
use crate::model::range::ByteRange;
use crate::store::Hashes;

impl Inner {
    /// Answers a question for a sum. None: it is none, or the thing is not stored and upstream may be asked.
    pub(super) async fn own_sum(self: &Arc<Inner>, ask: &Ask<'_>) -> Result<Option<Served>, CacheError> {
        let Origins::SumOf { thing, algorithm, otherwise } = ask.lookup.origins.rest() else { return Ok(None) };
        let Some(origin) = thing.first_origin() else { return Ok(None) };
        let mut headers = HeaderMap::new();
        if let Some(credential) = ask.headers.get(header::AUTHORIZATION) {
            headers.insert(header::AUTHORIZATION, credential.clone());
        }
        let about = Ask {
            lookup: thing,
            hash: thing.key.hash(),
            method: &Method::GET,
            headers: &headers,
            url: &origin.url,
            identity: ask.identity.clone(),
            label: ask.label.clone(),
            party: ask.party,
            partial: Partiality::Whole,
            framing: Framing::Marked,
        };
        let sum = if otherwise.is_empty() {
            let served = Box::pin(self.serve(&about)).await?;
            if served.status != 200 {
                return Ok(Some(served));
            }
            Some(summed(served.body, *algorithm, thing).await?)
        } else {
            self.stored_sum(&about, *algorithm).await?
        };
        Ok(sum.map(|sum| Served { source: Some(Arc::new(ask.lookup.key.clone())), ..made(&sum, ask.method) }))
    }

    /// The sum of what is stored and may be served.
    async fn stored_sum(
        self: &Arc<Inner>,
        about: &Ask<'_>,
        algorithm: Algorithm,
    ) -> Result<Option<Checksum>, CacheError> {
        let stored = self.stored(&hashed(about)).await?;
        let Some(at) = decide::selected(&head_of(about), &stored, &about.lookup.freshness) else { return Ok(None) };
        let entry = &stored[at];
        let Some(digest) = entry.body.filter(|_| entry.status == 200 && entry.valid) else { return Ok(None) };
        if self.index.place(&digest) == Presence::Absent {
            return Ok(None);
        }
        if let Some(known) = self.known_sum(&digest, algorithm).await? {
            return Ok(Some(known));
        }
        let Some((body, _)) = self.open(&digest, ByteRange::whole(entry.len)).await? else { return Ok(None) };
        Ok(Some(summed(body, algorithm, about.lookup).await?))
    }

    async fn known_sum(&self, digest: &Digest, algorithm: Algorithm) -> Result<Option<Checksum>, CacheError> {
        let sums = self.index.sums_of(std::slice::from_ref(digest)).await?.pop().unwrap_or_default();
        Ok(sums.into_iter().find(|sum| sum.algorithm() == algorithm))
    }
}

/// Reads a body to its end for its sum.
async fn summed(mut body: ServedBody, algorithm: Algorithm, thing: &Lookup) -> Result<Checksum, CacheError> {
    let mut hashes = Hashes::new(&[algorithm]);
    let mut read = 0;
    while let Some(chunk) = std::future::poll_fn(|context| body.poll_chunk(context)).await {
        let chunk: Bytes = chunk?;
        read += chunk.len() as u64;
        if read > thing.max_bytes {
            return Err(CacheError::TooLarge { limit: thing.max_bytes });
        }
        let update = move || {
            hashes.update(&chunk);
            hashes
        };
        hashes = tokio::task::spawn_blocking(update).await.map_err(|_| CacheError::Abandoned)?;
    }
    hashes.sum(algorithm).ok_or(CacheError::Abandoned)
}

fn made(sum: &Checksum, method: &Method) -> Served {
    let body = Bytes::from(sum.hex());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Served {
        status: 200,
        headers,
        len: Some(body.len() as u64),
        part: Part::Whole,
        body: if *method == Method::HEAD { ServedBody::Empty } else { ServedBody::Bytes(body) },
        outcome: Outcome::Generated,
        forwarded: Forwarded::default(),
        age: None,
        key: None,
        source: None,
        digest: None,
        fetch_ms: 0,
    }
}
