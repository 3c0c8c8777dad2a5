//! Exchanges that pass by the cache: other methods, answers that may not be kept, small ranges of large cold objects.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method};
use parking_lot::Mutex;

use super::error::CacheError;
use super::origins::Question;
use super::served::{Ask, Part, Served, ServedBody};
use super::source::{Addresses, Reader};
use super::terms::{keyed, redirects, upstream_fields};
use super::{Cache, Inner};
use crate::model::key::Key;
use crate::model::lookup::{Freshness, Origin};
use crate::model::outcome::{Forwarded, Outcome, Reason};
use crate::model::party::Party;
pub use crate::upstream::fetch::{Carrier, Look, Opened, TunnelAsk};
use crate::upstream::fetch::{FetchAsk, FetchBody, Fetched, FetchedBody, Resume, UpstreamError};

/// A request that is passed on with its body.
pub struct Exchange {
    pub method: Method,
    /// Another larder that is asked first.
    pub parent: Option<Origin>,
    pub origin: Origin,
    pub headers: HeaderMap,
    pub body: Option<Sent>,
    pub reason: Reason,
    pub freshness: Freshness,
    pub party: Party,
    /// What is asked for.
    pub cause: Key,
}

/// A body that a client sends.
pub struct Sent {
    pub len: Option<u64>,
    /// An error is what broke the client's body off.
    pub stream: SentStream,
}

pub type SentStream = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

impl Cache {
    /// Passes a request on as it is; nothing is stored.
    ///
    /// *Errors*: upstream's.
    pub async fn exchange(&self, exchange: Exchange) -> Result<Served, CacheError> {
        let Exchange { method, parent, origin, headers, body, reason, freshness, party, cause } = exchange;
        let cause = Arc::new(cause);
        let body = body.map(|Sent { len, stream }| (len, Arc::new(Mutex::new(Some(stream)))));
        let ask = |origin: &Origin| FetchAsk {
            method: method.clone(),
            url: origin.url.clone(),
            headers: headers.clone(),
            body: body.as_ref().map_or(FetchBody::Empty, |(len, stream)| sent(*len, stream.clone())),
            trust: origin.trust,
            resume: Resume::Never,
            redirects: redirects(&freshness),
            party: party.clone(),
            cause: Some(cause.clone()),
        };
        if let Some(parent) = parent {
            match self.inner.fetch.fetch(ask(&parent)).await {
                Ok(fetched) => return Ok(served(fetched, &method, reason, cause)),
                // It was not asked.
                Err(UpstreamError::Resting { .. }) => {}
                Err(_) if method.is_safe() && body.is_none() => {}
                // It may have done what it was asked for.
                Err(error) => return Err(error.into()),
            }
        }
        let fetched = self.inner.fetch.fetch(ask(&origin)).await?;
        Ok(served(fetched, &method, reason, cause))
    }

    /// Opens a way to a host for CONNECT, through the egress gate.
    ///
    /// *Errors*: upstream's.
    pub async fn tunnel(&self, ask: TunnelAsk<'_>) -> Result<Opened, CacheError> {
        Ok(self.inner.fetch.tunnel(ask).await?)
    }

    /// Bytes that were fetched for a build around the larder before the origins.
    pub fn bytes_around_parent(&self, build: &str) -> u64 {
        self.inner.fetch.bytes_around_parent(build)
    }
}

impl Inner {
    /// Fetches for this asker alone, its own fields and range included.
    pub(super) async fn relay(self: &Arc<Inner>, ask: &Ask<'_>, reason: Reason) -> Result<Served, CacheError> {
        let mut headers = match ask.lookup.freshness {
            Freshness::Http => ask.headers.clone(),
            Freshness::Immutable | Freshness::Revalidate { .. } => upstream_fields(ask),
        };
        if let Some(range) = ask.headers.get(http::header::RANGE).filter(|_| reason == Reason::Range) {
            headers.insert(http::header::RANGE, range.clone());
        }
        let redirects = redirects(&ask.lookup.freshness);
        let (method, party, cause) = (ask.method.clone(), ask.party.clone(), Arc::new(keyed(ask)));
        let question = Question { method, headers, redirects, party, cause };
        let reader = Reader::of(ask);
        if let Some((fetched, _)) = self.ask_parent(ask.lookup, &reader, &question, &[]).await {
            return Ok(served(fetched, ask.method, reason, question.cause));
        }
        let origins = match self.resolve(&reader, &ask.lookup.origins).await? {
            Addresses::Origins(origins) => origins,
            Addresses::Answer(answer) => return Ok(*answer),
        };
        let (fetched, _) = self.ask_in_turn(&origins, &question).await?;
        Ok(served(fetched, ask.method, reason, question.cause))
    }
}

/// A client's body, taken by who first asks for a piece of it.
fn sent(len: Option<u64>, stream: Arc<Mutex<Option<SentStream>>>) -> FetchBody {
    let mut taken: Option<SentStream> = None;
    let body = futures_util::stream::poll_fn(move |context| {
        if taken.is_none() {
            taken = stream.lock().take();
        }
        let Some(body) = &mut taken else { return Poll::Ready(None) };
        let broken = |why| UpstreamError::SourceBroke { why };
        body.as_mut().poll_next(context).map(|chunk| chunk.map(|chunk| chunk.map_err(broken)))
    });
    FetchBody::Stream { len, body: body.boxed() }
}

/// An upstream's answer as it came.
pub(super) fn served(fetched: Fetched, method: &Method, reason: Reason, cause: Arc<Key>) -> Served {
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
        source: Some(cause),
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
    use url::Url;

    use super::super::policy::fixture::{NOW, headers};
    use super::*;
    use crate::model::realm::Scope;

    #[test]
    fn the_empty_body_behind_a_head_is_not_the_length_of_the_answer() {
        let cause = Arc::new(Key {
            scope: Scope::shared(),
            ecosystem: "http",
            upstream: "http://origin.test".to_owned(),
            path: "/a".to_owned(),
            variant: String::new(),
        });
        let fetched = || Fetched {
            status: StatusCode::OK,
            version: Version::HTTP_11,
            headers: headers(&[("content-length", "9000")]),
            len: Some(0),
            body: FetchedBody::empty(),
            url: Url::parse("http://origin.test/a").expect("an address"),
            reached: None,
            requested_at: NOW,
            received_at: NOW,
        };
        let served = |method| served(fetched(), &method, Reason::Method, cause.clone());
        assert_eq!(served(Method::HEAD).len, None);
        assert_eq!(served(Method::POST).len, Some(0));
    }
}
