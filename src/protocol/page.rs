//! Web pages in a browser that can reach us: any site may have one post to a loopback port, and a page that the mirror
//! shows would share its origin with the API. Tools send none of the fields that tell a page apart.

use http::header::{self, HeaderMap, HeaderValue};
use http::{HeaderName, Request, Response};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Whether a page of another origin sent this, other than by leading its reader here.
pub(super) fn is_foreign<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    if let Some(origin) = headers.get(header::ORIGIN) {
        return !is_own(origin, request);
    }
    let is_other_site = headers.get(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none");
    is_other_site && headers.get(FETCH_MODE).is_none_or(|mode| mode != "navigate")
}

/// Whether any page sent this: none of ours commands anything.
pub(super) fn is_any(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.get(FETCH_SITE).is_some_and(|site| site != "none")
}

/// Lets a document of somebody else's run nothing in our name.
pub(super) fn sandbox<B>(response: &mut Response<B>) {
    response.headers_mut().append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
}

fn is_own<B>(origin: &HeaderValue, request: &Request<B>) -> bool {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let host = Request::builder().header("host", "localhost:7070");
        fields.iter().fold(host, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("a request")
    }

    #[test]
    fn other_origins_are_told_from_ours_and_from_tools() {
        for (fields, foreign) in [
            (&[][..], false),
            (&[("origin", "http://localhost:7070")], false),
            (&[("origin", "http://LOCALHOST:7070")], false),
            (&[("origin", "http://localhost:7071")], true),
            (&[("origin", "http://localhost:7070.evil.example")], true),
            (&[("origin", "null")], true),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")], true),
            (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false),
            // Some HTTP libraries outside of browsers say this much.
            (&[("sec-fetch-mode", "cors")], false),
        ] {
            assert_eq!(is_foreign(&request(fields)), foreign, "{fields:?}");
        }
        assert!(is_any(request(&[("origin", "http://localhost:7070")]).headers()));
        assert!(!is_any(request(&[("sec-fetch-mode", "cors")]).headers()));
    }
}
