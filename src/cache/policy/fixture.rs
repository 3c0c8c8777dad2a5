//! Entries and headers for the tests of this folder.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::model::entry::Entry;
use crate::model::fuzz;
use crate::model::time::Timestamp;

/// When the answers of these tests came.
pub(crate) const NOW: Timestamp = fuzz::NOW;

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
    super::date::format(Timestamp::from_secs(NOW.as_secs() + after_secs))
}

/// An answer that came at `NOW`, without delay.
pub(crate) fn entry(status: u16, fields: &[(&str, &str)]) -> Entry {
    fuzz::entry(status, headers(fields))
}

/// A 200.
pub(crate) fn http(fields: &[(&str, &str)]) -> Entry {
    entry(200, fields)
}
