//! What the index holds for a key: a stored response without its body.

use std::sync::Arc;

use http::HeaderMap;

use super::digest::Digest;
use super::key::{Key, KeyHash};
use super::realm::Realm;
use super::time::Timestamp;

/// Fields that each copy of a stored answer gets on its way out: Age, Cache-Status, Content-Length, Via. Stored headers
/// have room for them, or else each copy would be laid out anew.
pub const ADDED_FIELDS: usize = 4;

/// A stored response. Bodies are named by digest; headers are kept as upstream sent them, hop-by-hop fields removed.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Arc<Key>,
    pub hash: KeyHash,
    pub status: u16,
    pub headers: HeaderMap,
    /// The request fields that `Vary` named, with the values they had; empty when the answer does not vary.
    pub vary: Vec<(String, Option<String>)>,
    /// None for an answer that has no body (204, or a remembered absence).
    pub body: Option<Digest>,
    /// Length of the body in bytes.
    pub len: u64,
    /// When we asked upstream: RFC 9111's request_time.
    pub requested_at: Timestamp,
    /// When the answer's head came: RFC 9111's response_time. A 304 renews both.
    pub fetched_at: Timestamp,
    /// Time from asking upstream to the last byte, in milliseconds: what a hit saves.
    pub fetch_ms: u32,
    /// Rises with each commit to the catalog; 0 until committed.
    pub seq: u64,
    /// Blobs that must live as long as this entry (an action's outputs, a manifest's layers).
    pub refs: Vec<Digest>,
    /// Who caused it: a build label, a token's name, `anonymous`.
    pub writer: Arc<str>,
    /// Who may read the body.
    pub realm: Realm,
    /// False once something told us the entry may be out of date (a write to its URL, an operator): revalidate before use.
    pub valid: bool,
}

/// Every stored answer of one key; more than one where `Vary` tells them apart. Newest first.
pub type Candidates = Arc<[Arc<Entry>]>;
