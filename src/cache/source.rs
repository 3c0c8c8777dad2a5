//! Where bytes come from and what they must hash to, when other documents say so. The documents are read through the
//! cache, under the asker's own credential.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};

use super::error::CacheError;
use super::plan::FillPlan;
use super::served::{Ask, Framing, Partiality, Served};
use super::{Inner, decide};
use crate::model::checksum::Checksum;
use crate::model::lookup::{Expect, Extract, Lookup, Origin, Origins, Unproven};
use crate::model::outcome::Outcome;
use crate::model::party::Party;

/// The largest document that is read for an address or a sum, in bytes.
const DOCUMENT_MAX_BYTES: u64 = 32 << 20;

/// What the bytes must hash to, or the answer to a document that could not be had: it is ours too.
pub(super) enum Sums {
    Known { expect: Vec<Checksum>, keeping: Keeping },
    Answer(Box<Served>),
}

/// Whether what comes may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keeping {
    Allowed,
    /// Nothing proves it: it is kept as its own headers allow, and upstream confirms it before each use.
    Doubted,
    /// That it is what it looks like is a guess which nothing proves.
    Unproven,
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

impl Document {
    fn sum(&self, extract: &Extract) -> Option<Checksum> {
        match self {
            Document::Body { bytes, .. } => (extract.find)(bytes, &extract.what),
            Document::Answer(_) => None,
        }
    }
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
        let mut keeping = Keeping::Allowed;
        let expect = match expect {
            Expect::Nothing | Expect::Sniff(_) => Vec::new(),
            Expect::Sum(sum) | Expect::Exactly { sum, .. } => vec![*sum],
            Expect::Beside { document, extract, unproven } => {
                match self.document(reader, document, Reading::Stored).await? {
                    // What would be kept for ever is not taken without its sum because that cannot be had just now.
                    Document::Answer(answer) if decide::is_outage(answer.status) => return Ok(Sums::Answer(answer)),
                    told => {
                        let sum = told.sum(extract);
                        if sum.is_none() {
                            keeping = match unproven {
                                Unproven::Kept => Keeping::Doubted,
                                Unproven::PassedOn => Keeping::Unproven,
                            };
                        }
                        sum.into_iter().collect()
                    }
                }
            }
            Expect::InDocument { document, extract } => match self.listed(reader, document, extract).await? {
                Listed::Sum(sum) => vec![sum],
                Listed::Answer(answer) => return Ok(Sums::Answer(answer)),
            },
        };
        Ok(Sums::Known { expect, keeping })
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
                    // A peer's may be as old as one that is stored here.
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
            Origins::SumOf { otherwise, .. } => return Ok(Addresses::Origins(otherwise.clone())),
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
        let url = document.first_origin().ok_or(CacheError::Abandoned)?.url.clone();
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
