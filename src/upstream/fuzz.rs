//! Entries for the fuzz targets: netrc files, and the fields of an upstream's answer that decide what is asked next.

use http::{HeaderMap, Method, StatusCode, header};
use url::Url;

use super::credentials::parse_netrc;
use super::headers::Node;
use super::redirect::{Hop, next};
use super::resume::Plan;
use super::retry::rest_asked;
use crate::model::fuzz::{NOW, headers};
use crate::model::lookup::Trust;

pub fn netrc(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for machine in parse_netrc(text) {
        assert!(text.contains(machine.login.as_str()) || text.contains(['\\', '"']), "{}", machine.login);
    }
}

/// *Shape*: the first answer's fields, an empty line, those of the answer that is to continue it.
pub fn answer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, second) = text.split_once("\n\n").unwrap_or((text, ""));
    let (first, second) = (headers(first), headers(second));
    resumed(&first, &second);
    redirected(&first);
    rest_asked(StatusCode::SERVICE_UNAVAILABLE, &first, NOW);
    Node::new("fuzz").expect("a name").is_in(&first);
}

/// A continuation is exactly what was left.
fn resumed(first: &HeaderMap, second: &HeaderMap) {
    let asked = headers("range: bytes=10-");
    for (asked, status) in [(&HeaderMap::new(), StatusCode::OK), (&asked, StatusCode::PARTIAL_CONTENT)] {
        for len in [None, Some(100)] {
            let Some(plan) = Plan::of(&Method::GET, asked, status, first, len) else { continue };
            for got in [0, 40, u64::MAX] {
                let accepted = plan.accept(StatusCode::PARTIAL_CONTENT, second, None, got);
                if let (Ok(left), Some(len)) = (accepted, len) {
                    assert_eq!(left.checked_add(got), Some(len));
                }
                plan.request(asked, got);
            }
        }
    }
}

/// A redirect leads to a web server, without a name and password of its choosing, and takes no secret elsewhere.
fn redirected(answer: &HeaderMap) {
    let url = Url::parse("https://from.example/a/b?c").expect("a URL");
    let asked = headers("authorization: Bearer secret\naccept: */*");
    for status in [StatusCode::FOUND, StatusCode::SEE_OTHER, StatusCode::PERMANENT_REDIRECT] {
        let hop = Hop {
            url: &url,
            method: &Method::GET,
            headers: &asked,
            trust: Trust::Configured,
            status,
            answer,
            whole: true,
            allow_downgrade: false,
        };
        let Ok(Some(step)) = next(&hop) else { continue };
        let to = &step.url;
        assert_eq!(to.scheme(), "https", "{to}");
        assert!(to.username().is_empty() && to.password().is_none() && to.fragment().is_none(), "{to}");
        let same = to.host_str() == url.host_str() && to.port().is_none();
        assert_eq!(step.headers.contains_key(header::AUTHORIZATION), same, "{to}");
        assert_eq!(step.trust == Trust::Configured, same, "{to}");
    }
}
