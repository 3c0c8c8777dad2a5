//! Entries for the fuzz targets: paths as clients send them to a grammar, and the documents that cargo's grammar reads.

use http::{HeaderMap, Method};
use serde_json::Value;
use url::Url;

use super::apt::{self, Apt};
use super::cargo::{self, Cargo};
use super::go::Go;
use super::maven::{self, Maven};
use super::{Ecosystem, path};
use crate::model::checksum::Algorithm;
use crate::model::lookup::{Fallback, Origins, Request, Route, Shown, Trust, Upstream};

const BASE: &str = "https://one.example/base/";

pub fn apt(bytes: &[u8]) {
    if let Ok(path) = std::str::from_utf8(bytes) {
        any_path(&Apt, path);
    }
    // The name in the last line, in the release above it.
    let at = memchr::memrchr(b'\n', bytes).unwrap_or(0);
    if let Ok(name) = std::str::from_utf8(&bytes[at..])
        && let Some(apt::Sized { sum, .. }) = apt::sum_in(&bytes[..at], name.trim())
    {
        assert!(String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase().contains(&sum.hex()), "{sum}");
    }
}

pub fn go(bytes: &[u8]) {
    if let Ok(path) = std::str::from_utf8(bytes) {
        any_path(&Go, path);
    }
}

pub fn cargo(bytes: &[u8]) {
    if let Ok(path) = std::str::from_utf8(bytes) {
        any_path(&Cargo, path);
    }
}

pub fn maven(bytes: &[u8]) {
    if let Ok(path) = std::str::from_utf8(bytes) {
        any_path(&Maven, path);
    }
    for algorithm in Algorithm::ALL {
        if let Some(sum) = maven::sum_in(bytes, algorithm) {
            assert!(String::from_utf8_lossy(bytes).to_ascii_lowercase().contains(&sum.hex()), "{sum}");
        }
    }
}

/// A first line of `NAME VERSION SUM`, and a document: an index file, or a `config.json`.
pub fn cargo_document(bytes: &[u8]) {
    let at = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let (line, document) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let Ok(what) = std::str::from_utf8(line) else { return };
    if let Some(sum) = cargo::sum_of(document, what) {
        assert!(String::from_utf8_lossy(document).to_ascii_lowercase().contains(&sum.hex()), "{sum}");
    }
    for url in cargo::addresses(document, what).into_iter().flatten() {
        assert!(matches!(url.scheme(), "http" | "https") && url.username().is_empty(), "{url}");
    }
    if let Ok(rewritten) = cargo::with_dl(document, what) {
        let read = |bytes: &[u8]| match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => fields,
            other => panic!("{other:?}"),
        };
        let (mut before, mut after) = (read(document), read(&rewritten));
        assert_eq!(after.remove("dl"), Some(Value::String(what.to_owned())));
        before.remove("dl");
        assert_eq!(before, after);
    }
}

/// One answer to one path, a key that does not climb, and addresses below what was configured or named.
pub(crate) fn any_path(ecosystem: &dyn Ecosystem, path: &str) {
    for bases in [&[BASE][..], &["https://one.example/", "https://two.example/"], &[]] {
        let route = ask(path, bases, |request| ecosystem.route(request));
        let again = ask(path, bases, |request| ecosystem.route(request));
        assert_eq!(format!("{route:?}"), format!("{again:?}"));
        let lookup = match route {
            Ok(Route::Cached(lookup)) => *lookup,
            Ok(Route::Generation(generation)) => generation.document,
            Ok(Route::Member(member)) => member.plain,
            Ok(Route::Generated(_) | Route::PassThrough(_) | Route::NoUpstream) | Err(_) => continue,
        };
        let key = &lookup.key.path;
        assert!(key.starts_with('/') && !key.contains('\\') && !key.chars().any(char::is_control), "{key}");
        let climbs = |part: &str| part.is_empty() || part == "." || part == "..";
        assert!(!key[1..].split('/').any(climbs), "{key}");
        let Origins::Listed(origins) = &lookup.origins else { continue };
        let first = path.split('/').nth(1).map_or("/".to_owned(), |first| format!("/{first}"));
        let named = path::segments(&first).is_ok_and(|parts| parts.first().is_some_and(|first| first.starts_with('@')));
        for (origin, base) in origins.iter().zip(bases) {
            assert!(named || origin.url.as_str().starts_with(base), "{}", origin.url);
            assert!(bases.len() > 1 || origin.url.path() == key, "{} {key}", origin.url);
        }
    }
}

/// Routes a GET with the upstreams `bases`.
pub(crate) fn ask<T>(path: &str, bases: &[&str], then: impl FnOnce(&Request<'_>) -> T) -> T {
    let upstream = |base: &&str| Upstream {
        url: Url::parse(base).expect("a test's base is a URL"),
        next: Fallback::OnAbsence,
        trust: Trust::Configured,
    };
    let upstreams: Vec<_> = bases.iter().map(upstream).collect();
    then(&Request {
        method: &Method::GET,
        path,
        query: None,
        headers: &HeaderMap::new(),
        upstreams: &upstreams,
        public_base: "http://larder.example/mount",
        shown: Shown::Nothing,
    })
}
