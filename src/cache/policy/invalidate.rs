//! What a write makes doubtful (RFC 9111 §4.4).

use http::Method;
use http::header::{self, HeaderMap};
use url::Url;

use super::fields::text;

/// The addresses whose stored answers must be validated before their next use: the target, and `Location` and
/// `Content-Location` on the same origin.
///
/// *Shape*: empty for a safe method and for a failed write. A method that nobody here knows counts as a write.
/// `url` is the address upstream, without a fragment; so are the addresses that come back.
pub fn invalidated(method: &Method, status: u16, url: &Url, headers: &HeaderMap) -> Vec<Url> {
    if is_safe(method) || !(200..400).contains(&status) {
        return Vec::new();
    }
    let mut target = url.clone();
    target.set_fragment(None);
    let mut doubtful = vec![target];
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let Some(mut other) = headers.get(name).and_then(|value| url.join(&text(value)).ok()) else { continue };
        other.set_fragment(None);
        if other.origin() == url.origin() && !doubtful.contains(&other) {
            doubtful.push(other);
        }
    }
    doubtful
}

/// Whether the method only reads (RFC 9110 §9.2.1 and the registry of methods).
pub fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "REPORT" | "SEARCH" | "QUERY")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::headers;
    use super::*;

    fn doubtful(method: &str, status: u16, fields: &[(&str, &str)]) -> Vec<String> {
        let method = method.parse().expect("a method");
        let url = Url::parse("http://origin.test/a/b?c#d").expect("an address");
        invalidated(&method, status, &url, &headers(fields)).into_iter().map(String::from).collect()
    }

    #[test]
    fn writes_that_went_well_make_their_target_doubtful() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "get"] {
            assert_eq!(doubtful(method, 200, &[]), ["http://origin.test/a/b?c"], "{method}");
            assert_eq!(doubtful(method, 303, &[]).len(), 1);
            assert!(doubtful(method, 404, &[]).is_empty() && doubtful(method, 500, &[]).is_empty());
        }
        for method in ["GET", "HEAD", "OPTIONS", "PROPFIND"] {
            assert!(doubtful(method, 200, &[]).is_empty(), "{method}");
        }
    }

    #[test]
    fn addresses_in_the_answer_count_on_the_same_origin() {
        let fields = [("location", "x"), ("content-location", "http://origin.test:80/y#z")];
        assert_eq!(
            doubtful("POST", 201, &fields),
            ["http://origin.test/a/b?c", "http://origin.test/a/x", "http://origin.test/y"]
        );
        for other in ["http://other.test/x", "https://origin.test/x", "http://origin.test:81/x", "http://["] {
            assert_eq!(doubtful("POST", 201, &[("location", other)]).len(), 1, "{other}");
        }
    }
}
