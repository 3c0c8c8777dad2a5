//! How an entry's headers, a list of sums and a list of digests stand in a column of either engine: length-prefixed bytes,
//! with a version in front.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::Digest;
use crate::model::entry::{ADDED_FIELDS, Entry};
use crate::model::key::{Key, KeyHash};
use crate::model::outcome::Outcome;
use crate::model::realm::{Realm, Scope};
use crate::model::time::Timestamp;

const HEAD_VERSION: u8 = 1;
/// Grammars ever named in one catalog: far more than there are.
const ECOSYSTEMS_MAX: usize = 256;

/// The part of an entry that no query looks into.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) vary: Vec<(String, Option<String>)>,
    pub(super) len: u64,
    pub(super) requested_at: Timestamp,
    pub(super) fetched_at: Timestamp,
    pub(super) fetch_ms: u32,
    pub(super) realm: Realm,
    pub(super) valid: bool,
}

/// Writes what `decode_head` reads.
pub(super) fn encode_head(entry: &Entry) -> Vec<u8> {
    let mut out = vec![HEAD_VERSION, u8::from(entry.valid)];
    put_number(&mut out, u64::from(entry.status));
    put_number(&mut out, entry.len);
    put_number(&mut out, entry.requested_at.0 as u64);
    put_number(&mut out, entry.fetched_at.0 as u64);
    put_number(&mut out, u64::from(entry.fetch_ms));
    put_bytes(&mut out, entry.realm.as_str().as_bytes());
    put_vary(&mut out, &entry.vary);
    put_number(&mut out, entry.headers.len() as u64);
    for (name, value) in &entry.headers {
        put_bytes(&mut out, name.as_str().as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    out
}

/// None when the bytes are not what `encode_head` writes.
pub(super) fn decode_head(bytes: &[u8]) -> Option<Head> {
    let mut input = Input(bytes);
    if input.byte()? != HEAD_VERSION {
        return None;
    }
    let valid = input.byte()? != 0;
    let status = u16::try_from(input.number()?).ok()?;
    let len = input.number()?;
    let requested_at = Timestamp(input.number()? as i64);
    let fetched_at = Timestamp(input.number()? as i64);
    let fetch_ms = u32::try_from(input.number()?).ok()?;
    let realm = Realm::named(input.text()?);
    let vary = input.vary()?;
    let mut headers = HeaderMap::new();
    for _ in 0..input.number()? {
        let name = HeaderName::from_bytes(input.bytes()?).ok()?;
        headers.append(name, HeaderValue::from_bytes(input.bytes()?).ok()?);
    }
    headers.reserve(ADDED_FIELDS);
    Some(Head { status, headers, vary, len, requested_at, fetched_at, fetch_ms, realm, valid })
}

/// Tells the variants of a key apart: empty without `Vary`, else a hash over the names and values.
pub(super) fn vary_print(vary: &[(String, Option<String>)]) -> Vec<u8> {
    if vary.is_empty() {
        return Vec::new();
    }
    let mut sorted = vary.to_vec();
    sorted.sort();
    let mut bytes = Vec::new();
    put_vary(&mut bytes, &sorted);
    blake3::hash(&bytes).as_bytes()[..16].to_vec()
}

/// SHA-256 first where it is known: the loader reads no further.
pub(super) fn encode_sums<'a>(sums: impl IntoIterator<Item = &'a Checksum>) -> Vec<u8> {
    let mut sums: Vec<&Checksum> = sums.into_iter().collect();
    sums.sort_unstable();
    sums.dedup();
    let mut out = Vec::new();
    for sum in sums {
        out.push(algorithm_code(sum.algorithm()));
        out.extend_from_slice(sum.as_bytes());
    }
    out
}

/// As many sums as can be read.
pub(super) fn decode_sums(mut bytes: &[u8]) -> Vec<Checksum> {
    let mut sums = Vec::new();
    while let Some((code, rest)) = bytes.split_first() {
        let Some(algorithm) = algorithm_of(*code) else { break };
        let Some((sum, rest)) = rest.split_at_checked(algorithm.sum_bytes()) else { break };
        sums.extend(Checksum::new(algorithm, sum));
        bytes = rest;
    }
    sums
}

pub(super) fn encode_digests(digests: &[Digest]) -> Vec<u8> {
    digests.iter().flat_map(|digest| *digest.as_bytes()).collect()
}

pub(super) fn decode_digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks_exact(Digest::LEN).filter_map(Digest::from_slice).collect()
}

/// Codes on disk, whatever order the enum has.
pub(super) const fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
        Algorithm::Sha1 => 3,
        Algorithm::Md5 => 4,
    }
}

fn algorithm_of(code: u8) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| algorithm_code(*algorithm) == code)
}

/// An entry as both engines select it.
pub(super) struct Row<'a> {
    pub(super) hash: KeyHash,
    pub(super) seq: i64,
    pub(super) body: Option<&'a [u8]>,
    pub(super) scope: &'a str,
    pub(super) ecosystem: &'a str,
    pub(super) upstream: String,
    pub(super) path: String,
    pub(super) variant: String,
    pub(super) writer: &'a str,
    pub(super) refs: &'a [u8],
    pub(super) head: &'a [u8],
}

/// A row that cannot be read counts as absent and is logged.
pub(super) fn decode_entry(row: Row<'_>) -> Option<Entry> {
    let (Some(head), Some(ecosystem)) = (decode_head(row.head), ecosystem(row.ecosystem)) else {
        tracing::warn!(key = %row.hash, "an entry of the catalog cannot be read and counts as absent");
        return None;
    };
    let Row { upstream, path, variant, .. } = row;
    let key = Key { scope: Scope::named(row.scope), ecosystem, upstream, path, variant };
    Some(Entry {
        key: Arc::new(key),
        hash: row.hash,
        status: head.status,
        headers: head.headers,
        vary: head.vary,
        body: row.body.and_then(Digest::from_slice),
        len: head.len,
        requested_at: head.requested_at,
        fetched_at: head.fetched_at,
        fetch_ms: head.fetch_ms,
        seq: row.seq as u64,
        refs: decode_digests(row.refs),
        writer: Arc::from(row.writer),
        realm: head.realm,
        valid: head.valid,
    })
}

/// The outcome of a label and a tier; a word of another version reads as a miss.
pub(super) fn outcome(label: &str, tier: &str) -> Outcome {
    let mut known = Outcome::ALL.into_iter();
    known.find(|outcome| outcome.label() == label && outcome.tier() == tier).unwrap_or(Outcome::Miss)
}

/// A grammar's name as the static text that keys carry. Names come from our own catalog: there are few, and None
/// after too many means that the catalog is not ours.
fn ecosystem(name: &str) -> Option<&'static str> {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock();
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(name) {
        return Some(known);
    }
    if names.len() >= ECOSYSTEMS_MAX {
        return None;
    }
    let leaked: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(leaked);
    Some(leaked)
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_vary(out: &mut Vec<u8>, vary: &[(String, Option<String>)]) {
    put_number(out, vary.len() as u64);
    for (name, value) in vary {
        put_bytes(out, name.as_bytes());
        out.push(u8::from(value.is_some()));
        put_bytes(out, value.as_deref().unwrap_or_default().as_bytes());
    }
}

pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn vary(&mut self) -> Option<Vec<(String, Option<String>)>> {
        let mut vary = Vec::new();
        for _ in 0..self.number()? {
            let name = self.text()?.to_owned();
            let present = self.byte()? != 0;
            let value = self.text()?.to_owned();
            vary.push((name, present.then_some(value)));
        }
        Some(vary)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::index::testing;

    #[test]
    fn a_head_reads_what_it_writes() {
        let mut entry = testing::entry("a/b", Some(b"body"));
        entry.headers.append("etag", HeaderValue::from_static("\"x\""));
        entry.headers.append("link", HeaderValue::from_bytes(b"\xff one").expect("opaque bytes are allowed"));
        entry.headers.append("link", HeaderValue::from_static("two"));
        entry.vary = vec![("accept".into(), Some("a".into())), ("accept-language".into(), None)];
        entry.requested_at = Timestamp(-5);
        let head = decode_head(&encode_head(&entry)).expect("decodes");
        assert_eq!((head.status, &head.headers, &head.vary), (entry.status, &entry.headers, &entry.vary));
        assert_eq!((head.len, head.requested_at, head.fetched_at), (entry.len, entry.requested_at, entry.fetched_at));
        assert_eq!((head.fetch_ms, &head.realm, head.valid), (entry.fetch_ms, &entry.realm, entry.valid));
    }

    #[test]
    fn order_of_vary_does_not_matter_absence_does() {
        let (a, b) = (("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None));
        assert_eq!(vary_print(&[a.clone(), b.clone()]), vary_print(&[b, a.clone()]));
        assert_ne!(vary_print(&[("a".into(), None)]), vary_print(&[("a".into(), Some(String::new()))]));
        assert_eq!(vary_print(&[]), Vec::<u8>::new());
        assert_ne!(vary_print(&[a]), Vec::<u8>::new());
    }

    #[test]
    fn sums_read_what_they_write_sha256_first() {
        let sums: Vec<Checksum> =
            Algorithm::ALL.into_iter().rev().filter_map(|a| Checksum::new(a, &vec![7; a.sum_bytes()])).collect();
        let bytes = encode_sums(&sums);
        assert_eq!(bytes[0], 1);
        let mut read = decode_sums(&bytes);
        read.reverse();
        assert_eq!(read, sums);
        assert_eq!(decode_sums(&bytes[..bytes.len() - 1]).len(), 3);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode_head(&bytes);
            let _ = decode_sums(&bytes);
            let _ = decode_digests(&bytes);
        }
    }
}
