//! Exchanges that pass by the cache: other methods, answers that may not be kept, small ranges of large cold objects.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method};
use url::Url;

use super::error::CacheError;
use super::policy::invalidate;
use super::served::{Ask, Part, Served, ServedBody};
use super::source::Addresses;
use super::{Cache, Inner, redirects};
use crate::index::catalog::{PrefixAsk, Put};
use crate::index::record::Record;
use crate::model::entry::Entry;
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::{Freshness, Origin, Trust};
use crate::model::outcome::{Forwarded, Outcome, Reason};
use crate::model::party::Party;
use crate::upstream::fetch::{FetchAsk, FetchBody, Fetched, FetchedBody, Resume, Tunnel, UpstreamError};

/// Entries below a path that are looked at.
const DOUBTED_MAX: usize = 20_000;

/// A request that is passed on with its body.
pub struct Exchange {
    pub method: Method,
    pub origin: Origin,
    pub headers: HeaderMap,
    pub body: Option<Sent>,
    pub reason: Reason,
    pub freshness: Freshness,
    pub party: Party,
}

/// A body that a client sends.
pub struct Sent {
    pub len: Option<u64>,
    /// An error is what broke the client's body off.
    pub stream: Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>,
}

impl Cache {
    /// Passes a request on as it is; nothing is stored.
    ///
    /// *Errors*: upstream's.
    pub async fn exchange(&self, exchange: Exchange) -> Result<Served, CacheError> {
        let body = match exchange.body {
            None => FetchBody::Empty,
            Some(Sent { len, stream }) => {
                let broken = |why| UpstreamError::SourceBroke { why };
                FetchBody::Stream { len, body: stream.map(move |chunk| chunk.map_err(broken)).boxed() }
            }
        };
        let ask = FetchAsk {
            method: exchange.method.clone(),
            url: exchange.origin.url,
            headers: exchange.headers,
            body,
            trust: exchange.origin.trust,
            resume: Resume::Never,
            redirects: redirects(&exchange.freshness),
            party: exchange.party,
        };
        let fetched = self.inner.fetch.fetch(ask).await?;
        Ok(served(fetched, &exchange.method, exchange.reason))
    }

    /// Opens a way to a host for CONNECT, through the egress gate.
    ///
    /// *Errors*: upstream's.
    pub async fn tunnel(&self, host: &str, port: u16, trust: Trust) -> Result<Tunnel, CacheError> {
        Ok(self.inner.fetch.tunnel(host, port, trust).await?)
    }

    /// Marks the stored answers of keys as out of date after an unsafe request went through (RFC 9111 §4.4).
    pub async fn invalidate(&self, keys: &[KeyHash]) -> Result<(), CacheError> {
        for key in keys {
            self.inner.flights.doubt(key);
            self.inner.parked.doubt(key).drop_on_a_pool();
            let stored = self.inner.stored(key).await?;
            // The last that is put comes first.
            let entries: Vec<Put> = stored.iter().rev().filter(|entry| entry.valid).map(doubtful).collect();
            if !entries.is_empty() {
                let record = Record { entries, ..Record::default() };
                self.inner.index.record(record, crate::index::Ack::Visible).await?;
            }
        }
        Ok(())
    }
}

impl Cache {
    /// Marks what is kept below a path as out of date, where `may_change` says so of its own path.
    pub async fn doubt_below(&self, like: &Key, path: &str, may_change: fn(&str) -> bool) -> Result<(), CacheError> {
        let (scope, ecosystem, upstream) = (&like.scope, like.ecosystem, like.upstream.as_str());
        let ask = PrefixAsk { scope, ecosystem, upstream, prefix: path, limit: DOUBTED_MAX };
        let entries = self.inner.index.by_prefix(ask).await?;
        let doubted = entries.into_iter().filter(|entry| entry.valid && may_change(&entry.key.path));
        let keys: Vec<KeyHash> = doubted.map(|entry| entry.hash).collect();
        self.invalidate(&keys).await
    }
}

/// The entry as one that is validated before its next use.
fn doubtful(entry: &Arc<Entry>) -> Put {
    Put { entry: Arc::new(Entry { valid: false, ..(**entry).clone() }), expected: None }
}

/// What an unsafe request with this answer makes out of date.
pub fn invalidated(method: &Method, status: u16, url: &Url, headers: &HeaderMap) -> Vec<Url> {
    invalidate::invalidated(method, status, url, headers)
}

impl Inner {
    /// Fetches for this asker alone, its own fields and range included.
    pub(super) async fn relay(self: &Arc<Inner>, ask: &Ask<'_>, reason: Reason) -> Result<Served, CacheError> {
        let origins = match self.addresses(ask).await? {
            Addresses::Origins(origins) => origins,
            Addresses::Answer(answer) => return Ok(*answer),
        };
        let mut headers = match ask.lookup.freshness {
            Freshness::Http => ask.headers.clone(),
            Freshness::Immutable | Freshness::Revalidate { .. } => super::upstream_fields(ask),
        };
        if let Some(range) = ask.headers.get(http::header::RANGE).filter(|_| reason == Reason::Range) {
            headers.insert(http::header::RANGE, range.clone());
        }
        let question = |origin: &Origin| FetchAsk {
            method: ask.method.clone(),
            url: origin.url.clone(),
            headers: headers.clone(),
            body: FetchBody::Empty,
            trust: origin.trust,
            resume: Resume::ByRange,
            redirects: redirects(&ask.lookup.freshness),
            party: ask.party.clone(),
        };
        let (fetched, _) = self.ask_in_turn(&origins, question).await?;
        Ok(served(fetched, ask.method, reason))
    }
}

/// An upstream's answer as it came.
pub(super) fn served(fetched: Fetched, method: &Method, reason: Reason) -> Served {
    let Fetched { status, headers, len, body, .. } = fetched;
    Served {
        status: status.as_u16(),
        headers,
        // That of the empty body behind a HEAD says nothing about the representation: its own field does.
        len: len.filter(|_| *method != Method::HEAD),
        part: Part::Whole,
        body: ServedBody::Stream(stream(body)),
        outcome: Outcome::Bypass(reason),
        forwarded: Forwarded::default(),
        age: None,
        key: None,
        digest: None,
        fetch_ms: 0,
    }
}

fn stream(mut body: FetchedBody) -> super::served::ServedStream {
    futures_util::stream::poll_fn(move |context| {
        body.poll_chunk(context).map(|chunk| chunk.map(|chunk| chunk.map_err(CacheError::from)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use http::{StatusCode, Version};

    use super::super::policy::fixture::{NOW, headers, http};
    use super::*;

    #[test]
    fn the_empty_body_behind_a_head_is_not_the_length_of_the_answer() {
        let fetched = || Fetched {
            status: StatusCode::OK,
            version: Version::HTTP_11,
            headers: headers(&[("content-length", "9000")]),
            len: Some(0),
            body: FetchedBody::empty(),
            url: Url::parse("http://origin.test/a").expect("an address"),
            requested_at: NOW,
            received_at: NOW,
        };
        assert_eq!(served(fetched(), &Method::HEAD, Reason::Method).len, None);
        assert_eq!(served(fetched(), &Method::POST, Reason::Method).len, Some(0));
    }

    #[test]
    fn a_write_leaves_the_validators_to_ask_with() {
        let put = doubtful(&Arc::new(http(&[("etag", "\"a\"")])));
        assert!(!put.entry.valid && put.entry.headers.contains_key("etag") && put.expected.is_none());
    }
}
