//! Entry for the fuzz targets: columns of the catalog as a damaged or foreign database may hold them.

use crate::index::codec::{decode_digests, decode_head, decode_sums, encode_digests, encode_head, encode_sums};
use crate::model::entry::Entry;
use crate::model::fuzz::entry;

/// What was read is written so that it reads back the same.
pub fn row(bytes: &[u8]) {
    if let Some(head) = decode_head(bytes) {
        let entry = Entry {
            vary: head.vary,
            len: head.len,
            requested_at: head.requested_at,
            fetched_at: head.fetched_at,
            fetch_ms: head.fetch_ms,
            realm: head.realm,
            valid: head.valid,
            ..entry(head.status, head.headers)
        };
        let again = decode_head(&encode_head(&entry)).expect("our own");
        assert_eq!((again.status, &again.headers, &again.vary), (entry.status, &entry.headers, &entry.vary));
        assert_eq!((again.len, again.fetch_ms, again.valid), (entry.len, entry.fetch_ms, entry.valid));
        assert_eq!((again.requested_at, again.fetched_at), (entry.requested_at, entry.fetched_at));
        assert_eq!(again.realm, entry.realm);
    }
    let sums = decode_sums(bytes);
    let mut sorted = sums.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(decode_sums(&encode_sums(&sums)), sorted);
    let digests = decode_digests(bytes);
    assert_eq!(decode_digests(&encode_digests(&digests)), digests);
}
