//! Fields that belong to one hop, and do not go on to the next.
//!
//! *Source*: RFC 9110 §7.6.1; RFC 9111 §3.1.

use http::header::{self, HeaderMap, HeaderName};

/// Fields that belong to one connection, whatever `Connection` lists.
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"];

/// Fields of the conversation with a proxy: neither stored nor passed on.
const OF_THE_PROXY: [&str; 3] = ["proxy-authenticate", "proxy-authentication-info", "proxy-authorization"];

/// Fields that a decision rests on. No other field may ask for their removal: `Connection: cache-control` would
/// otherwise turn a private answer into a public one.
const GUARDED: [&str; 14] = [
    "age",
    "authorization",
    "cache-control",
    "cdn-cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "host",
    "last-modified",
    "vary",
];

/// Fields by which a request claims another host, address, path or method than its own, beside all of `x-forwarded-*`.
const CLAIMS: [&str; 14] = [
    "client-ip",
    "forwarded",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// Between two larders: says that a larder asks, whose answers are to come as they are kept.
pub const ASKS: HeaderName = HeaderName::from_static("larder-agent");
/// Beside a CONNECT: who asks trusts no authority of ours, so that its TLS is to be carried unread.
pub const UNREAD: HeaderName = HeaderName::from_static("larder-unread");
/// Names the process that answers another larder.
pub const ANSWERS: HeaderName = HeaderName::from_static("larder-server");
/// Tells another larder that what was fetched did not match its checksum.
pub const CORRUPT: HeaderName = HeaderName::from_static("larder-corrupt");

/// Whether a caching decision rests on the field.
pub fn is_guarded(name: &HeaderName) -> bool {
    GUARDED.contains(&name.as_str())
}

/// Removes what belongs to one hop: the known fields and those that `Connection` lists.
pub fn strip(headers: &mut HeaderMap) {
    let stays = |name: &HeaderName| {
        let name = name.as_str();
        HOP_BY_HOP.contains(&name) || OF_THE_PROXY.contains(&name)
    };
    if !headers.keys().any(stays) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !is_guarded(name))
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in HOP_BY_HOP.into_iter().chain(OF_THE_PROXY) {
        headers.remove(name);
    }
}

/// Removes what would let one client choose the answer that others are given: no key holds these fields, and origins
/// that heed them seldom name them in `Vary`.
pub fn strip_claims(headers: &mut HeaderMap) {
    let is_claim = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || CLAIMS.contains(&name.as_str());
    if !headers.keys().any(is_claim) {
        return;
    }
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), header::HeaderValue::from_static(value));
        }
        strip(&mut headers);
        headers.keys().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn connection_removes_what_it_lists() {
        let fields = [
            ("connection", "a, B"),
            ("connection", "keep-alive"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("keep-alive", "x"),
            ("transfer-encoding", "x"),
            ("proxy-authenticate", "x"),
        ];
        assert_eq!(stripped(&fields), ["c"]);
    }

    #[test]
    fn connection_cannot_remove_what_decisions_rest_on() {
        let fields = [("connection", "cache-control, vary, x"), ("cache-control", "private"), ("x", "1")];
        assert_eq!(stripped(&fields), ["cache-control"]);
    }
}
