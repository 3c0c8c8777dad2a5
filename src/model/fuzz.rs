//! Entry for the fuzz targets: the small texts of `model`. Also what the other entries make of bytes: headers, entries.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::checksum::Checksum;
use super::digest::Digest;
use super::entry::Entry;
use super::key::Key;
use super::node::{self, Frames};
use super::range::{Asked, Resolved};
use super::realm::{Realm, Scope};
use super::time::Timestamp;
use super::units;

/// When entries came.
pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// Lines of `name: value`; what is no field is left out.
pub(crate) fn headers(text: &str) -> HeaderMap {
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines().filter_map(field) {
        headers.append(name, value);
    }
    headers
}

/// An answer that came at `NOW`.
pub(crate) fn entry(status: u16, headers: HeaderMap) -> Entry {
    let key = Key {
        scope: Scope::shared(),
        ecosystem: "http",
        upstream: "http://origin.test".to_owned(),
        path: "/".to_owned(),
        variant: String::new(),
    };
    Entry {
        hash: key.hash(),
        key: Arc::new(key),
        status,
        headers,
        vary: Vec::new(),
        body: Some(Digest::of(b"body")),
        len: 4,
        requested_at: NOW,
        fetched_at: NOW,
        fetch_ms: 1,
        seq: 1,
        refs: Vec::new(),
        writer: Arc::from("anonymous"),
        realm: Realm::public(),
        valid: true,
    }
}

/// Checksums, digests, sizes, durations and ranges: what was read is written so that it reads back the same.
pub fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(sum) = text.parse::<Checksum>() {
        assert_eq!(sum.to_string().parse(), Ok(sum));
        assert!(text.eq_ignore_ascii_case(&sum.to_string()));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert!(text.eq_ignore_ascii_case(&digest.to_string()));
    }
    if let Ok(size) = units::parse_bytes(text) {
        assert_eq!(units::parse_bytes(&units::format_bytes(size)), Ok(size));
        assert!(!units::rounded_bytes(size).is_empty());
    }
    if let Ok(duration) = units::parse_duration(text) {
        assert_eq!(units::parse_duration(&units::format_duration(duration)), Ok(duration));
    }
    for len in [0, 1, 1000, u64::MAX] {
        if let Resolved::Part(range) = Asked::parse(Some(text)).resolve(len) {
            assert!(range.start < range.end && range.end <= len);
        }
    }
}

/// Messages between nodes: what was read is written so that it reads back the same. The first byte says which kind.
pub fn node(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => messages::<node::FindRequest>(bytes),
        1 => messages::<node::FindResponse>(bytes),
        2 => messages::<node::ReadRequest>(bytes),
        _ => messages::<node::ReadResponse>(bytes),
    }
}

fn messages<M: prost::Message + Default + PartialEq>(bytes: &[u8]) {
    let mut frames = Frames::up_to(1 << 16);
    // In pieces, as a network has them.
    for piece in bytes.chunks(7) {
        frames.push(piece);
        loop {
            match frames.take::<M>() {
                Ok(None) => break,
                Err(_) => return,
                Ok(Some(message)) => {
                    let mut again = Frames::up_to(1 << 17);
                    again.push(&node::framed(&message));
                    assert!(again.take::<M>() == Ok(Some(message)) && again.end().is_ok());
                }
            }
        }
    }
}
