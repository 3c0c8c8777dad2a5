//! Where bytes come from and what they must hash to, when other documents say so. The documents are read through the
//! cache, under the asker's own credential.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};

use super::Inner;
use super::error::CacheError;
use super::fill::FillPlan;
use super::served::{Ask, Framing, Partiality, Served};
use crate::model::checksum::Checksum;
use crate::model::lookup::{Expect, Extract, Lookup, Origin, Origins};
use crate::model::outcome::Outcome;
use crate::model::party::Party;

/// The largest document that is read for an address or a sum, in bytes.
const DOCUMENT_MAX_BYTES: u64 = 32 << 20;

/// What the bytes must hash to, or the answer to a document that could not be had: it is ours too.
pub(super) enum Sums {
    Known(Vec<Checksum>),
    Answer(Box<Served>),
}

/// Resolved origins, or the answer to the document that should have named them.
pub(super) enum Addresses {
    Origins(Vec<Origin>),
    Answer(Box<Served>),
}

/// For whom documents are read.
#[derive(Clone)]
pub(super) struct Reader {
    pub headers: HeaderMap,
    pub identity: Option<Box<str>>,
    pub label: Arc<str>,
    pub party: Party,
}

impl Reader {
    pub fn of(ask: &Ask<'_>) -> Reader {
        Reader {
            headers: ask.headers.clone(),
            identity: ask.identity.clone(),
            label: ask.label.clone(),
            party: ask.party.clone(),
        }
    }

    pub fn of_plan(plan: &FillPlan) -> Reader {
        Reader {
            headers: plan.client_headers.clone(),
            identity: plan.id.identity.clone(),
            label: plan.writer.clone(),
            party: plan.party.clone(),
        }
    }
}

enum Document {
    Body { bytes: bytes::Bytes, outcome: Outcome },
    Answer(Box<Served>),
}

enum Listed {
    Sum(Checksum),
    Answer(Box<Served>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Whatever is fresh.
    Stored,
    /// Confirmed upstream now.
    Confirmed,
}

impl Inner {
    pub(super) async fn sums(self: &Arc<Inner>, reader: &Reader, expect: &Expect) -> Result<Sums, CacheError> {
        Ok(match expect {
            Expect::Nothing => Sums::Known(Vec::new()),
            Expect::Sum(sum) => Sums::Known(vec![*sum]),
            Expect::InDocument { document, extract } => match self.listed(reader, document, extract).await? {
                Listed::Sum(sum) => Sums::Known(vec![sum]),
                Listed::Answer(answer) => Sums::Answer(answer),
            },
        })
    }

    /// The sum that a document names.
    async fn listed(
        self: &Arc<Inner>,
        reader: &Reader,
        document: &Lookup,
        extract: &Extract,
    ) -> Result<Listed, CacheError> {
        // The thing may be newer than the document that is stored: ask once more before saying no.
        for reading in [Reading::Stored, Reading::Confirmed] {
            match self.document(reader, document, reading).await? {
                Document::Answer(answer) => return Ok(Listed::Answer(answer)),
                Document::Body { bytes, outcome } => {
                    if let Some(sum) = (extract.find)(&bytes, &extract.what) {
                        return Ok(Listed::Sum(sum));
                    }
                    // An outage is never an absence.
                    if reading == Reading::Confirmed && outcome == Outcome::Stale {
                        return Err(CacheError::Unconfirmed { what: extract.what.clone() });
                    }
                    if matches!(outcome, Outcome::Miss | Outcome::Coalesced | Outcome::Revalidated) {
                        break;
                    }
                }
            }
        }
        Err(CacheError::Unlisted(format!("the index does not list {}", extract.what)))
    }

    /// The origins themselves, without another larder that stands before them.
    pub(super) async fn resolve(
        self: &Arc<Inner>,
        reader: &Reader,
        origins: &Origins,
    ) -> Result<Addresses, CacheError> {
        let (document, derive) = match origins {
            Origins::Listed(origins) => return Ok(Addresses::Origins(origins.clone())),
            Origins::InDocument { document, derive } => (document, derive),
            Origins::Through { rest, .. } => return Box::pin(self.resolve(reader, rest)).await,
        };
        let body = match self.document(reader, document, Reading::Stored).await? {
            Document::Body { bytes, .. } => bytes,
            Document::Answer(answer) => return Ok(Addresses::Answer(answer)),
        };
        let unusable = || CacheError::Unlisted(format!("no usable address for {}", derive.what));
        let urls = (derive.urls)(&body, &derive.what).ok_or_else(unusable)?;
        let origin = |url| Origin { url, next: derive.next, trust: derive.trust };
        Ok(Addresses::Origins(urls.into_iter().map(origin).collect()))
    }

    async fn document(
        self: &Arc<Inner>,
        reader: &Reader,
        document: &Lookup,
        reading: Reading,
    ) -> Result<Document, CacheError> {
        let url = match document.origins.rest() {
            Origins::Listed(origins) => origins.first().ok_or(CacheError::Abandoned)?.url.clone(),
            Origins::InDocument { .. } | Origins::Through { .. } => {
                return Err(CacheError::Unlisted("a document's own address must be listed".into()));
            }
        };
        let mut headers = HeaderMap::new();
        for name in document.forward.iter().chain([&header::AUTHORIZATION]) {
            if let Some(value) = reader.headers.get(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        if reading == Reading::Confirmed {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let ask = Ask {
            lookup: document,
            hash: document.key.hash(),
            method: &Method::GET,
            headers: &headers,
            url: &url,
            identity: reader.identity.clone(),
            label: reader.label.clone(),
            party: &reader.party,
            partial: Partiality::Whole,
            framing: Framing::Marked,
        };
        let served = Box::pin(self.serve(&ask)).await?;
        if served.status == 200 {
            let outcome = served.outcome;
            let bytes = served.into_bytes(DOCUMENT_MAX_BYTES).await?;
            Ok(Document::Body { bytes, outcome })
        } else {
            Ok(Document::Answer(Box::new(served)))
        }
    }
}
