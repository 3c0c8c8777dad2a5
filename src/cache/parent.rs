//! Another larder that stands before the origins: the server, behind the agent of `larder run`. Its word counts as it is,
//! a refusal too; only while it is lost do others speak. Which answer is its word, and when it is lost, `Fetch` knows.
//!
//! A body that it leaves in the middle goes on from the origins, by Range, under the strong validator that it began with
//! or against a checksum that is known. A body that it ended itself, as one that it found corrupt, stays ended.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};

use super::Inner;
use super::origins::Question;
use super::source::{Addresses, Reader};
use crate::model::checksum::Checksum;
use crate::model::lookup::{Lookup, Origin, Origins};
use crate::upstream::fetch::{Ends, Fetched, FetchedBody, UpstreamError};
use crate::upstream::resume;

/// A body that came from the larder before the origins, as long as that one is there.
struct Spliced {
    cache: Arc<Inner>,
    body: FetchedBody,
    /// Bytes that came.
    got: u64,
    elsewhere: Option<Elsewhere>,
}

/// Where the rest can be had.
pub(super) struct Elsewhere {
    pub origins: Origins,
    pub reader: Reader,
    pub question: Question,
    pub plan: resume::Plan,
}

impl Inner {
    /// Asks the larder before the origins. None: there is none, or it is lost.
    pub(super) async fn ask_parent(
        self: &Arc<Inner>,
        lookup: &Lookup,
        reader: &Reader,
        question: &Question,
        expect: &[Checksum],
    ) -> Option<(Fetched, Origin)> {
        let parent = lookup.origins.parent()?;
        let fetched = match self.fetch.fetch(question.to(parent)).await {
            Ok(fetched) => fetched,
            Err(error) => {
                tracing::debug!(key = %lookup.key, %error, "going on without the larder before the origins");
                return None;
            }
        };
        let is_body = question.method == Method::GET && fetched.body.ends() == Ends::Marked && fetched.len != Some(0);
        let plan = plan(question, &fetched, expect).filter(|_| is_body);
        let Some(plan) = plan else { return Some((fetched, parent.clone())) };
        let (reader, question) = (reader.clone(), question.clone());
        let elsewhere = Some(Elsewhere { origins: lookup.origins.rest().clone(), reader, question, plan });
        let spliced = Spliced { cache: self.clone(), body: fetched.body, got: 0, elsewhere };
        let body = FetchedBody::new(futures_util::stream::unfold(spliced, |mut spliced| async move {
            let chunk = spliced.next().await?;
            Some((chunk, spliced))
        }));
        Some((Fetched { body, ..fetched }, parent.clone()))
    }
}

fn plan(question: &Question, fetched: &Fetched, expect: &[Checksum]) -> Option<resume::Plan> {
    let Fetched { status, headers, len, .. } = fetched;
    let strong = resume::Plan::of(&question.method, &question.headers, *status, headers, *len);
    let is_known = !expect.is_empty() && *status == StatusCode::OK;
    strong.or_else(|| if is_known { resume::Plan::under_a_sum(*status, headers, *len) } else { None })
}

impl Spliced {
    async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let error = match self.body.chunk().await? {
            Ok(chunk) => {
                self.got += chunk.len() as u64;
                return Some(Ok(chunk));
            }
            Err(error) => error,
        };
        let is_lost = matches!(
            error,
            UpstreamError::Unreachable { .. } | UpstreamError::Silent { .. } | UpstreamError::Resting { .. }
        );
        let elsewhere = self.elsewhere.take().filter(|_| is_lost);
        let Some(elsewhere) = elsewhere else { return Some(Err(error)) };
        let Some(body) = elsewhere.rest(self.cache.clone(), self.got).await else { return Some(Err(error)) };
        tracing::info!(at = self.got, %error, "a body goes on from its origin");
        self.body = body;
        self.body.chunk().await
    }
}

impl Elsewhere {
    /// Boxed, since what it asks for may stand behind the same larder again.
    pub(super) fn rest(self, cache: Arc<Inner>, got: u64) -> BoxFuture<'static, Option<FetchedBody>> {
        let Elsewhere { origins, reader, question, plan } = self;
        Box::pin(async move {
            let Ok(Addresses::Origins(origins)) = cache.resolve(&reader, &origins).await else { return None };
            let question = Question { headers: plan.request(&question.headers, got)?, ..question };
            for origin in origins {
                let Ok(fetched) = cache.fetch.fetch(question.to(&origin)).await else { continue };
                match plan.accept(fetched.status, &fetched.headers, fetched.len, got) {
                    Ok(_) => return Some(fetched.body),
                    Err(why) => tracing::debug!(%why, "an origin cannot go on with a body"),
                }
            }
            None
        })
    }
}
