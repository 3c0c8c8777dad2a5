//! What an ecosystem makes of a request: a description that the engine carries out.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use super::checksum::{Algorithm, Checksum};
use super::key::Key;
use super::kind::ErrorKind;

/// A request, as an ecosystem sees it: the part below its mount, nothing decoded yet.
pub struct Request<'a> {
    pub method: &'a Method,
    /// The path below the mount, starting with `/`, as on the wire.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The upstreams that the operator configured or adopted for this ecosystem, in order of preference.
    pub upstreams: &'a [Upstream],
    /// The mount as the client reaches it, without a slash at the end: `http://127.0.0.1:7070/cargo`.
    pub public_base: &'a str,
    pub shown: Shown,
}

/// What a client shows larder of itself as it would to a registry (`Authorization`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// A token of larder's, which it has to go on showing.
    Token,
    Nothing,
}

/// A source of one ecosystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Base address; its path ends in `/`.
    pub url: Url,
    /// When the next one in the list may be asked.
    pub next: Fallback,
    /// Where the address came from; decides what the egress gate lets it reach.
    pub trust: Trust,
}

/// When a list of upstreams goes on to its next member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// On a definite absence alone (404, 410): Go's comma.
    OnAbsence,
    /// On any failure: Go's pipe.
    OnFailure,
}

/// Who named a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Trust {
    /// The operator: it may be a private address.
    Configured,
    /// A client's request: public addresses only, and by policy.
    Client,
    /// A build on this machine, which could go there without us: private addresses too. Nothing of it is kept for others.
    Build,
}

/// What to do about a request.
#[derive(Debug)]
pub enum Route {
    /// Answer from the cache, or fetch and keep.
    Cached(Box<Lookup>),
    /// An answer made on the spot.
    Generated(Answer),
    /// Pass on without keeping.
    PassThrough(Origin),
    /// A document that says what names beside it mean, to whoever was handed it.
    Generation(Box<Generation>),
    /// A name in an archive that means what such a document says.
    Member(Box<Member>),
    /// Understood, but no upstream is configured and the path names none: `About::without_upstream`.
    NoUpstream,
}

/// A document that names others by their sums; an archive replaces it together with all of them.
#[derive(Clone, Debug)]
pub struct Generation {
    pub document: Lookup,
    /// The key's path of the archive that it is of, without a slash at the end.
    pub archive: String,
    /// Whether what is kept under such a path may have been replaced together with the document. Pure.
    pub may_replace: fn(&str) -> bool,
}

/// A member of an archive by its name, whose meaning stands in the generation that the asker holds.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where it may be named, the likeliest first. Never empty.
    pub by: Vec<Named>,
    /// The name as an address, for what no generation names.
    pub plain: Lookup,
    /// Pure. Arguments: the document, the name in it, `plain`. None: it is not named there.
    pub meant: fn(&[u8], &str, &Lookup) -> Option<Lookup>,
}

/// A document, and what something is called in it.
#[derive(Clone, Debug)]
pub struct Named {
    pub document: Lookup,
    pub name: String,
}

/// What an address is that a client named as it is, in a proxy's request line.
#[derive(Debug)]
pub struct Recognised {
    pub route: Route,
    pub evidence: Evidence,
}

/// What must be known before an address is taken for what it looks like. A guess from the path is never enough: beyond
/// this, the route's own expectations judge what comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// The bytes themselves prove it.
    InItself,
    /// A generation of an archive above it was handed out.
    BelowGeneration,
}

/// Where the bytes come from, and when to try the next place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub url: Url,
    pub next: Fallback,
    pub trust: Trust,
}

/// Where a lookup's bytes come from.
#[derive(Clone, Debug)]
pub enum Origins {
    /// Tried in order. Never empty.
    Listed(Vec<Origin>),
    /// Another document names the addresses, as a Cargo index's `config.json` names the download host. It is looked up
    /// first; when it cannot be had (404, 401, an outage), that is the answer.
    InDocument { document: Box<Lookup>, derive: Derive },
    /// Made of something that is kept: the sum of its bytes in hexadecimal, as the file beside it holds that.
    SumOf {
        thing: Box<Lookup>,
        algorithm: Algorithm,
        /// Asked while the thing is not stored. Empty: the thing is looked up, so that its sum is always that of what
        /// is served here.
        otherwise: Vec<Origin>,
    },
    /// Another larder stands before the rest, as the server does behind the agent of `larder run`. Its word counts as
    /// it is; the rest is looked up only while it is lost.
    Through { parent: Box<Origin>, rest: Box<Origins> },
}

impl Origins {
    /// The larder that stands before the rest.
    pub fn parent(&self) -> Option<&Origin> {
        match self {
            Origins::Through { parent, .. } => Some(parent),
            Origins::Listed(_) | Origins::InDocument { .. } | Origins::SumOf { .. } => None,
        }
    }

    /// What stands behind another larder.
    pub fn rest(&self) -> &Origins {
        match self {
            Origins::Through { rest, .. } => rest,
            Origins::Listed(_) | Origins::InDocument { .. } | Origins::SumOf { .. } => self,
        }
    }

    /// The first address that is listed: of the thing itself, or of what its own is found through.
    pub fn first(&self) -> Option<&Origin> {
        match self {
            Origins::Listed(origins) => origins.first(),
            Origins::InDocument { document, .. } => document.first_origin(),
            Origins::SumOf { thing, otherwise, .. } => otherwise.first().or_else(|| thing.first_origin()),
            Origins::Through { rest, .. } => rest.first(),
        }
    }
}

/// Finds addresses in a document. Pure. The document is read as it is stored, its own `rewrite` not applied.
#[derive(Clone, Debug)]
pub struct Derive {
    /// Arguments: the document, `what`. None: the document names no address that could be used. Never empty.
    pub urls: fn(&[u8], &str) -> Option<Vec<Url>>,
    /// What to look for, in the ecosystem's own form.
    pub what: String,
    /// For all of the addresses. The trust is that of the document's own origins: whoever may name the document may
    /// name what it names.
    pub next: Fallback,
    pub trust: Trust,
}

/// One thing to look up, and how to get it when it is not here.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub key: Key,
    pub origins: Origins,
    pub freshness: Freshness,
    pub expect: Expect,
    /// Applied at the door; what is stored stays as upstream sent it.
    pub rewrite: Option<Rewrite>,
    /// The largest body that is accepted, in bytes.
    pub max_bytes: u64,
    /// Request headers that go upstream with a shared fill; each must be part of the key or of `Vary`.
    pub forward: Vec<http::HeaderName>,
    /// What may be served while upstream cannot be asked, though it was stored under other keys.
    pub stand_in: Option<StandIn>,
    /// What another larder is asked for, as an address: where one of the origins does not say all of this.
    pub alias: Option<Url>,
}

impl Lookup {
    /// Where it begins: its first origin, or that of what its own are found through.
    pub fn first_origin(&self) -> Option<&Origin> {
        self.origins.first()
    }
}

/// Documents that only ever grow: the beginning of any later one is an earlier one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandIn {
    /// Paths of the keys under which this document and its later forms are stored begin so.
    pub prefix: String,
    /// How many bytes of a later form are this one.
    pub bytes: u64,
}

/// How long an answer may be used without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// The same bytes for ever.
    Immutable,
    /// Fresh for a while, then revalidated; kept for outages. The times are the ecosystem's own: upstream's headers are not asked.
    Revalidate { fresh_for: Duration, stale_if_error: Duration },
    /// As the response's own headers say (RFC 9111).
    Http,
}

/// What the bytes must hash to.
#[derive(Clone, Debug)]
pub enum Expect {
    Nothing,
    Sum(Checksum),
    /// The length is known too, so that what cannot be right is refused before any of it was sent.
    Exactly {
        sum: Checksum,
        bytes: u64,
    },
    /// The sum stands in another document, which is looked up first.
    InDocument {
        document: Box<Lookup>,
        extract: Extract,
    },
    /// The sum is published in a document of its own, which may be missing.
    Beside {
        document: Box<Lookup>,
        extract: Extract,
        unproven: Unproven,
    },
    /// The beginning must look like what the path says.
    Sniff(Sniff),
}

/// What becomes of a thing that nothing proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unproven {
    /// Kept, but confirmed upstream before each use.
    Kept,
    /// Passed on: that it is what it looks like was a guess.
    PassedOn,
}

/// Judges an answer by how it begins; one that is not sound is passed on and not kept. Pure.
#[derive(Clone, Copy, Debug)]
pub struct Sniff {
    /// Argument: the first `BYTES` of a body, or all of a shorter one.
    pub is_sound: fn(&[u8]) -> bool,
}

impl Sniff {
    /// How much of a body is looked at.
    pub const BYTES: usize = 4096;
}

/// Finds a sum in a document. Pure.
#[derive(Clone, Debug)]
pub struct Extract {
    /// Arguments: the document, `what`. None: the document does not name it.
    pub find: fn(&[u8], &str) -> Option<Checksum>,
    /// What to look for, in the ecosystem's own form.
    pub what: String,
}

/// Rewrites a small document on its way out. Pure; at most `max_bytes` in.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// Arguments: the document, `with`. Err: the document is not what it should be, with the reason.
    pub apply: fn(&[u8], &str) -> Result<Vec<u8>, String>,
    pub with: String,
    pub max_bytes: u64,
}

/// An answer made by us.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(http::HeaderName, String)>,
    pub body: Bytes,
}

/// A request that a grammar refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Rejection {
    pub kind: ErrorKind,
    /// Shown to the client: what was wrong and what would be right.
    pub why: Cow<'static, str>,
}

impl Rejection {
    pub fn invalid(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { kind: ErrorKind::Invalid, why: why.into() }
    }

    pub fn not_found(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { kind: ErrorKind::NotFound, why: why.into() }
    }
}

/// What an ecosystem says of itself: the row that mounts, docs, config, hints and metrics are made from.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The word in config keys, metric labels and the mount: `/NAME/`.
    pub name: &'static str,
    pub title: &'static str,
    /// The specification it follows.
    pub spec: &'static str,
    /// What is immutable, and what is short-lived, in a line each.
    pub immutable: &'static str,
    pub mutable: &'static str,
    /// What a client is answered when no upstream is known.
    pub without_upstream: ErrorKind,
    /// The path of something small and mutable that most upstreams have, for `larder doctor`. None: it hangs on the upstream.
    pub probe: Option<&'static str>,
}
