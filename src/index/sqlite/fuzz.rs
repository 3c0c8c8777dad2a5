//! Entry for the fuzz targets: columns of the catalog, and key records of a bucket, as damaged or foreign ones may
//! hold them.

use crate::index::codec::{decode_digests, decode_head, decode_sums, encode_digests, encode_head, encode_sums};
use crate::index::records::{KeyRecord, Unreadable};
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

/// Key records as a bucket may hold them: what was read is written so that it reads back the same.
pub fn records(bytes: &[u8]) {
    let Ok(found) = KeyRecord::decode_all(bytes) else { return };
    let encode = |records: &[KeyRecord]| {
        let mut out = vec![bytes[0]];
        records.iter().for_each(|record| record.encode(&mut out));
        out
    };
    let written = encode(&found);
    let again = KeyRecord::decode_all(&written).expect("our own");
    assert_eq!(encode(&again), written);
    assert_eq!(again.len(), found.len());
    // What a later version says besides is passed over; what is cut off is not believed.
    let known = KeyRecord::decode_all(&[&written[..], &[200, 2, 7, 7]].concat()).expect("our own and one more");
    assert_eq!(known.len(), found.len());
    let cut = KeyRecord::decode_all(&[&written[..], &[200, 9, 7]].concat());
    assert_eq!(cut.err(), Some(Unreadable::Damaged));
}
