//! Header fields on their way out: `Via` and loops (RFC 9110 §7.6.3), and what a request may take along to another
//! origin.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::fetch::UpstreamError;
use crate::model::hop;

/// This node's name in `Via`.
#[derive(Clone)]
pub(crate) struct Node {
    id: String,
    via: HeaderValue,
}

impl Node {
    /// None when `id` is not a token (RFC 9110 §5.6.2) of at most 64 characters.
    pub(crate) fn new(id: &str) -> Option<Node> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if id.is_empty() || id.len() > 64 || !id.bytes().all(token) {
            return None;
        }
        let via = HeaderValue::from_str(&format!("1.1 larder-{id}")).ok()?;
        Some(Node { id: format!("larder-{id}"), via })
    }

    pub(crate) fn via(&self) -> &HeaderValue {
        &self.via
    }

    /// Whether a request already came through this node.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
        let mut hops = values.flat_map(|value| value.split(','));
        hops.any(|hop| hop.split_ascii_whitespace().nth(1).is_some_and(|by| by.eq_ignore_ascii_case(&self.id)))
    }
}

/// Makes the fields of an ask fit to send: no framing, no hop-by-hop fields, our `Via`, secrets marked as such.
///
/// *Errors*: `Refused` for a request that already came through this node, and for authentication that is bound to a
/// connection (NTLM, Negotiate), which cannot pass a pool.
pub(crate) fn outgoing(mut headers: HeaderMap, node: &Node, host: &str) -> Result<HeaderMap, UpstreamError> {
    let refused = |why: &str| UpstreamError::Refused { host: host.to_owned(), why: why.to_owned() };
    if node.is_in(&headers) {
        return Err(refused("the request comes from ourselves"));
    }
    let scheme =
        |value: &HeaderValue| value.to_str().ok()?.split_ascii_whitespace().next().map(str::to_ascii_lowercase);
    let bound = |value: &HeaderValue| matches!(scheme(value).as_deref(), Some("ntlm" | "negotiate"));
    if headers.get_all(header::AUTHORIZATION).iter().any(bound) {
        return Err(refused("NTLM and Negotiate are bound to a connection and cannot pass"));
    }
    hop::strip(&mut headers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    headers.append(header::VIA, node.via().clone());
    headers
        .entry(header::USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in headers.iter_mut() {
        if !crosses_origins(name) {
            value.set_sensitive(true);
        }
    }
    Ok(headers)
}

/// Whether a field may follow a redirect to another origin. A list of what is known to be harmless, since tokens
/// travel in fields of many names.
pub(crate) fn crosses_origins(name: &HeaderName) -> bool {
    const HARMLESS: [HeaderName; 16] = [
        header::ACCEPT,
        header::ACCEPT_CHARSET,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::PRAGMA,
        header::RANGE,
        header::USER_AGENT,
        header::VIA,
    ];
    HARMLESS.contains(name)
}

pub(crate) fn strip_for_other_origin(headers: &mut HeaderMap) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| !crosses_origins(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Bytes of a head that are accepted; HTTP/2 is held to it by its settings, HTTP/1.1 here.
pub(crate) const HEAD_BYTES: usize = 64 << 10;

pub(crate) fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn our_own_requests_are_refused() {
        let node = Node::new("abc").expect("a token");
        for via in ["1.1 larder-abc", "1.0 x, HTTP/2 LARDER-abc (comment)", "1.1 a, 1.1 larder-abc"] {
            assert!(outgoing(map(&[("via", via)]), &node, "a.test").is_err(), "{via}");
        }
        for via in ["1.1 larder-abcd", "1.1 other (larder-abc)"] {
            let sent = outgoing(map(&[("via", via)]), &node, "a.test").expect("passes");
            assert_eq!(sent.get_all("via").iter().count(), 2);
        }
        assert!(Node::new("a b").is_none() && Node::new("").is_none() && Node::new("a\r\nb").is_none());
    }

    #[test]
    fn authentication_bound_to_a_connection_is_refused() {
        let node = Node::new("abc").expect("a token");
        for value in ["NTLM TlRMTVNTUAAB", "negotiate YII", "Negotiate"] {
            assert!(outgoing(map(&[("authorization", value)]), &node, "a.test").is_err(), "{value}");
        }
        let sent = outgoing(map(&[("authorization", "Bearer canary"), ("x-token", "canary")]), &node, "a.test");
        assert!(!format!("{:?}", sent.expect("passes")).contains("canary"));
    }

    #[test]
    fn nothing_that_may_be_a_secret_crosses_origins() {
        let mut headers = map(&[
            ("authorization", "x"),
            ("cookie", "x"),
            ("private-token", "x"),
            ("x-api-key", "x"),
            ("accept", "*/*"),
            ("range", "bytes=0-1"),
        ]);
        strip_for_other_origin(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*"), ("range", "bytes=0-1")]));
    }
}
