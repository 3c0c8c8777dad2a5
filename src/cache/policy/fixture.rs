//! Entries and headers for the tests of this folder.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::Key;
use crate::model::realm::{Realm, Scope};
use crate::model::time::Timestamp;

/// When the answers of these tests came.
pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        let name: HeaderName = name.parse().expect("a field name");
        (name, HeaderValue::from_bytes(value.as_bytes()).expect("a field value"))
    };
    fields.iter().map(field).collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut map, (name, value)| {
        map.append(name, value);
        map
    })
}

/// The date so many seconds after `NOW`.
pub(crate) fn date(after_secs: i64) -> String {
    let secs = u64::try_from(NOW.as_secs() + after_secs).expect("after the epoch");
    httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(secs))
}

/// An answer that came at `NOW`, without delay.
pub(crate) fn entry(status: u16, fields: &[(&str, &str)]) -> Entry {
    let key = Key {
        scope: Scope::shared(),
        ecosystem: "http",
        upstream: "http://origin.test".into(),
        path: "/".into(),
        variant: String::new(),
    };
    Entry {
        hash: key.hash(),
        key: Arc::new(key),
        status,
        headers: headers(fields),
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

/// A 200.
pub(crate) fn http(fields: &[(&str, &str)]) -> Entry {
    entry(200, fields)
}
