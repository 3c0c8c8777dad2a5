//! Where an answer sends us next (RFC 9110 §15.4), and what may go along. Pure.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use super::fetch::UpstreamError;
use super::headers::strip_for_other_origin;
use super::origin::{Origin, Scheme};
use crate::model::lookup::Trust;

/// The next request of a chain.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) url: Url,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) trust: Trust,
    /// Whether the body goes along.
    pub(crate) body: Keep,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    Yes,
    No,
}

/// What was asked, and what came.
pub(crate) struct Hop<'a> {
    pub(crate) url: &'a Url,
    pub(crate) method: &'a Method,
    /// As the asker gave them: without what we add for an origin.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) trust: Trust,
    pub(crate) status: StatusCode,
    pub(crate) answer: &'a HeaderMap,
    /// Whether the body can be sent again.
    pub(crate) whole: bool,
    pub(crate) allow_downgrade: bool,
}

/// The next step; None when the answer is to be returned as it is.
///
/// *Errors*: `Refused` for a redirect to another scheme than http and https, or from https to http.
pub(crate) fn next(hop: &Hop<'_>) -> Result<Option<Step>, UpstreamError> {
    let Some((method, body)) = rewrite(hop) else { return Ok(None) };
    let mut values = hop.answer.get_all(LOCATION).iter();
    let location = match (values.next(), values.next()) {
        (Some(value), None) => value,
        _ => return Ok(None),
    };
    let Some(mut url) = location.to_str().ok().and_then(|text| hop.url.join(text).ok()) else { return Ok(None) };
    let refused = |host: String, why: &str| UpstreamError::Refused { host, why: why.to_owned() };
    let Some(from) = Origin::of(hop.url) else { return Ok(None) };
    let Some(to) = Origin::of(&url) else {
        return Err(refused(from.host(), "it redirects to something that is not http or https"));
    };
    if from.scheme == Scheme::Https && to.scheme == Scheme::Http && !hop.allow_downgrade {
        return Err(refused(to.host(), "a redirect led from https to http"));
    }
    url.set_fragment(None);
    // Who redirects may not choose our credential. Neither call fails on an http address.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut headers = hop.headers.clone();
    if body == Keep::No {
        headers.remove(CONTENT_TYPE);
        headers.remove(CONTENT_ENCODING);
    }
    let trust = match hop.trust {
        Trust::Configured if from != to && !is_upgrade(&from, &to) => Trust::Client,
        kept => kept,
    };
    if from != to {
        strip_for_other_origin(&mut headers);
    }
    Ok(Some(Step { url, method, headers, trust, body }))
}

/// The method of the next request and whether the body goes along; None when the status is no redirect to follow.
fn rewrite(hop: &Hop<'_>) -> Option<(Method, Keep)> {
    let safe = matches!(*hop.method, Method::GET | Method::HEAD);
    match hop.status.as_u16() {
        301..=303 if safe && hop.whole => Some((hop.method.clone(), Keep::Yes)),
        303 => Some((Method::GET, Keep::No)),
        301 | 302 if *hop.method == Method::POST => Some((Method::GET, Keep::No)),
        301 | 302 | 307 | 308 if hop.whole => Some((hop.method.clone(), Keep::Yes)),
        _ => None,
    }
}

/// The same host by https on the usual port: what the operator configured, made safer.
fn is_upgrade(from: &Origin, to: &Origin) -> bool {
    let usual = from.target.port == 80 && to.target.port == 443;
    from.scheme == Scheme::Http && to.scheme == Scheme::Https && from.target.host == to.target.host && usual
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(method: Method, status: u16, from: &str, location: &str) -> Result<Option<Step>, UpstreamError> {
        let url = Url::parse(from).expect("a url");
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "canary".parse().expect("a value"));
        headers.insert("content-type", "text/plain".parse().expect("a value"));
        let mut answer = HeaderMap::new();
        answer.insert(LOCATION, location.parse().expect("a value"));
        next(&Hop {
            url: &url,
            method: &method,
            headers: &headers,
            trust: Trust::Configured,
            status: StatusCode::from_u16(status).expect("a status"),
            answer: &answer,
            whole: true,
            allow_downgrade: false,
        })
    }

    #[test]
    fn methods_change_as_rfc_9110_says() {
        for (method, status, becomes) in [
            (Method::GET, 301, Some(Method::GET)),
            (Method::HEAD, 303, Some(Method::HEAD)),
            (Method::POST, 302, Some(Method::GET)),
            (Method::POST, 303, Some(Method::GET)),
            (Method::PUT, 303, Some(Method::GET)),
            (Method::POST, 307, Some(Method::POST)),
            (Method::PUT, 308, Some(Method::PUT)),
            (Method::GET, 300, None),
            (Method::GET, 304, None),
            (Method::GET, 200, None),
        ] {
            let step = step(method.clone(), status, "http://a.test/x", "/y").expect("no refusal");
            assert_eq!(step.map(|step| step.method), becomes, "{method} {status}");
        }
    }

    #[test]
    fn another_origin_gets_no_credential_and_no_trust() {
        for location in ["http://b.test/", "http://a.test:81/", "//b.test", "http://a.test.:80/", "http://x@b.test/"] {
            let step = step(Method::GET, 302, "http://a.test/x", location).expect("passes").expect("a redirect");
            assert!(!step.headers.contains_key("authorization"), "{location}");
            assert_eq!(step.trust, Trust::Client, "{location}");
            assert_eq!(step.url.username(), "");
        }
        let same = step(Method::GET, 302, "http://a.test/x", "y?z#f").expect("passes").expect("a redirect");
        assert_eq!(same.url.as_str(), "http://a.test/y?z");
        assert!(same.headers.contains_key("authorization") && same.trust == Trust::Configured);
        let safer = step(Method::GET, 302, "http://a.test/x", "https://a.test/x").expect("passes").expect("a redirect");
        assert!(!safer.headers.contains_key("authorization") && safer.trust == Trust::Configured);
    }

    #[test]
    fn strange_schemes_and_downgrades_are_refused() {
        assert!(step(Method::GET, 302, "https://a.test/", "http://a.test/").is_err());
        for location in ["file:///etc/passwd", "ftp://a.test/", "gopher://a.test", "javascript:1"] {
            assert!(step(Method::GET, 302, "http://a.test/", location).is_err(), "{location}");
        }
    }
}
