//! Go modules by the GOPROXY protocol, and the checksum database behind the same base.
//!
//! Spec: the Go Modules Reference, "GOPROXY protocol" and "Checksum database"; module and version syntax as in
//! the packages `module` and `semver` of Go's `x/mod`. Tried with go 1.26.
//!
//! The checksum database is asked where go asks for it: below the proxy, `/sumdb/NAME/...`. The upstream proxy is sent
//! the same path, `supported` too, so an upstream that does not speak for a database keeps its 404 and go turns to
//! the database itself. Its answers are signed; what is passed on here is verified there.
//!
//! Module paths and versions arrive case-encoded (`!a` for `A`); `%21` is the same as `!`. `Disable-Module-Fetch` is not
//! looked at. `direct` and `off` in a client's list are no upstreams: the list of upstreams simply ends before them.

use std::time::Duration;

use bytes::Bytes;

use super::path::{self, Source};
use crate::model::kind::ErrorKind;
use crate::model::lookup::{About, Answer, Expect, Freshness, Lookup, Rejection, Request, Route, StandIn};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// How long a list or a query is good for when upstream is down.
const OUTAGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// go itself refuses a `go.mod` above 16 MiB.
const MOD_BYTES: u64 = 16 << 20;
/// Lists and `.info` documents are small; the longest lists known have some hundred kilobytes.
const DOCUMENT_BYTES: u64 = 16 << 20;
/// Modules end at 500 MiB, but toolchains travel as modules too.
const ZIP_BYTES: u64 = 4 << 30;
/// A tile has 256 hashes, or 256 records.
const SUMDB_BYTES: u64 = 8 << 20;

/// A hash in a tile.
const HASH_BYTES: u64 = 32;

const MINUTES: Freshness = Freshness::Revalidate { fresh_for: MINUTE, stale_if_error: OUTAGE };
const HOURLY: Freshness = Freshness::Revalidate { fresh_for: HOUR, stale_if_error: OUTAGE };

static ABOUT: About = About {
    name: "go",
    title: "Go modules",
    spec: "GOPROXY protocol (Go Modules Reference)",
    immutable: "`.info`, `.mod` and `.zip` of canonical versions, toolchains; the checksum database's lookups and tiles",
    mutable: "`@v/list`, `@latest` and queries such as `@v/main.info` for 1 min; the database's `latest` and `supported` for 1 h",
    without_upstream: ErrorKind::NotFound,
    probe: Some("github.com/pkg/errors/@v/list"),
};

/// Go modules.
pub struct Go;

impl super::Ecosystem for Go {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn route(&self, request: &Request<'_>) -> Result<Route, Rejection> {
        let source = Source::of(request)?;
        let (freshness, max_bytes) = classify(&source)?;
        if source.is_nowhere() {
            return Ok(Route::NoUpstream);
        }
        let below = path::join(source.rest.iter().map(String::as_str));
        let key = source.key(ABOUT.name, &below);
        Ok(Route::Cached(Box::new(Lookup {
            stand_in: wider_tile(&key.path),
            alias: None,
            key,
            origins: source.origins(&below),
            freshness,
            expect: Expect::Nothing,
            rewrite: None,
            max_bytes,
            forward: Vec::new(),
        })))
    }

    /// go prints a `text/plain` body as it is, below the line with the status.
    fn error_body(&self, _: ErrorKind, why: &str) -> Answer {
        let body = Bytes::from(format!("{why}\n"));
        Answer { status: 500, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body }
    }
}

/// What a path asks for: how long the answer is good, and how large it may be.
fn classify(source: &Source) -> Result<(Freshness, u64), Rejection> {
    let rest: Vec<&str> = source.rest.iter().map(String::as_str).collect();
    match rest.as_slice() {
        [module @ .., "@latest"] => {
            check_module(module, source)?;
            Ok((MINUTES, DOCUMENT_BYTES))
        }
        [module @ .., "@v", file] => {
            check_module(module, source)?;
            version_file(file)
        }
        _ => sumdb(&rest, source),
    }
}

fn version_file(file: &str) -> Result<(Freshness, u64), Rejection> {
    if file == "list" {
        return Ok((MINUTES, DOCUMENT_BYTES));
    }
    let Some((version, kind)) = file.rsplit_once('.') else { return Err(unknown()) };
    let max_bytes = match kind {
        "info" => DOCUMENT_BYTES,
        "mod" => MOD_BYTES,
        "zip" => ZIP_BYTES,
        _ => return Err(unknown()),
    };
    let version = unescape(version).filter(|version| !version.is_empty());
    let Some(version) = version else {
        return Err(Rejection::not_found("a version is case-encoded: !a for A"));
    };
    Ok((if is_canonical(&version) { Freshness::Immutable } else { MINUTES }, max_bytes))
}

/// `sumdb/NAME/...`; below an upstream named in the path it may come after that upstream's base.
fn sumdb(rest: &[&str], source: &Source) -> Result<(Freshness, u64), Rejection> {
    let bases = if source.named.is_some() { rest.len() } else { 1 };
    for at in 0..bases.min(rest.len()) {
        let ["sumdb", name, asked @ ..] = &rest[at..] else { continue };
        if !is_database(name) {
            continue;
        }
        match asked {
            ["supported" | "latest"] => return Ok((HOURLY, SUMDB_BYTES)),
            ["lookup", record @ ..] if is_record(record) => return Ok((Freshness::Immutable, SUMDB_BYTES)),
            ["tile", tile @ ..] if is_tile(tile) => return Ok((Freshness::Immutable, SUMDB_BYTES)),
            _ => {}
        }
    }
    Err(unknown())
}

fn unknown() -> Rejection {
    Rejection::not_found(
        "the GOPROXY protocol has MODULE/@v/list, MODULE/@v/VERSION.info|mod|zip, MODULE/@latest and sumdb/NAME/...",
    )
}

/// Module paths are refused when go could not have sent them. Below an upstream named in the path the first segments
/// may be that upstream's base, which obeys other rules.
fn check_module(module: &[&str], source: &Source) -> Result<(), Rejection> {
    let strict = source.named.is_none();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._~!".contains(&byte);
    let sound = |element: &&str| {
        unescape(element).is_some() && (!strict || element.bytes().all(plain) && !element.ends_with('.'))
            || !strict && !element.contains('!')
    };
    if !module.is_empty() && module.iter().all(sound) {
        return Ok(());
    }
    Err(Rejection::not_found("a module path is case-encoded (!a for A) and has letters, digits and -._~ alone"))
}

/// Undoes the case-encoding. None when it is not one: `!` before anything but a lower-case letter, or a bare capital.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '!' => out.push(chars.next().filter(char::is_ascii_lowercase)?.to_ascii_uppercase()),
            'A'..='Z' => return None,
            _ => out.push(char),
        }
    }
    Some(out)
}

/// Whether go would call the version canonical, so that it names the same bytes for ever: `v1.2.3`, a pre-release, a
/// pseudo-version, each also `+incompatible`.
fn is_canonical(version: &str) -> bool {
    let Some(version) = version.strip_prefix('v') else { return false };
    let version = version.strip_suffix("+incompatible").unwrap_or(version);
    let (core, pre) = match version.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (version, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| digits(text) && (text.len() == 1 || !text.starts_with('0'));
    let word = |text: &str| {
        let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        sound && (!digits(text) || number(text))
    };
    core.split('.').count() == 3 && core.split('.').all(number) && pre.is_none_or(|pre| pre.split('.').all(word))
}

fn is_database(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:".contains(&byte))
}

/// `MODULE@VERSION`, both case-encoded.
fn is_record(record: &[&str]) -> bool {
    let Some((last, dirs)) = record.split_last() else { return false };
    let Some((name, version)) = last.split_once('@') else { return false };
    let parts = dirs.iter().copied().chain([name, version]);
    !name.is_empty() && !version.is_empty() && parts.into_iter().all(|part| unescape(part).is_some())
}

/// A tile that is not full is the beginning of the same tile once it has grown: `tile/H/L/K.p/W` holds the first `W` of
/// its hashes. An emptied client asks for other widths than those that were asked for before, since it meets the tree's
/// heads in another order.
fn wider_tile(path: &str) -> Option<StandIn> {
    let (prefix, width) = path.rsplit_once(".p/")?;
    let is_of_hashes = prefix.contains("/tile/") && !prefix.contains("/data/");
    let width: u64 = width.parse().ok().filter(|width| *width > 0 && is_of_hashes)?;
    Some(StandIn { prefix: prefix.to_owned(), bytes: width * HASH_BYTES })
}

/// `H/L/K[.p/W]`: height, level (or `data`), and a number in groups of three digits, all but the last with an `x`.
fn is_tile(tile: &[&str]) -> bool {
    let digits = |text: &str, at_most: usize| {
        (1..=at_most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let [height, level, number @ ..] = tile else { return false };
    let (number, partial) = match number {
        [groups @ .., last, width] if last.ends_with(".p") && digits(width, 3) => ((groups, *last), true),
        [groups @ .., last] => ((groups, *last), false),
        [] => return false,
    };
    let (groups, last) = number;
    let last = if partial { last.trim_end_matches(".p") } else { last };
    let group = |text: &str| text.len() == 3 && digits(text, 3);
    digits(height, 2)
        && (*level == "data" || digits(level, 2))
        && groups.len() <= 6
        && groups.iter().all(|text| text.strip_prefix('x').is_some_and(group))
        && group(last)
}

#[cfg(test)]
mod tests {
    use super::super::Ecosystem;
    use super::super::fuzz::ask;
    use super::*;
    use crate::model::lookup::{Origins, Trust};

    fn route(path: &str, bases: &[&str]) -> Result<Route, Rejection> {
        ask(path, bases, |request| Go.route(request))
    }

    fn lookup(path: &str, bases: &[&str]) -> Lookup {
        match route(path, bases) {
            Ok(Route::Cached(lookup)) => *lookup,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_wider_tile_stands_in_for_a_narrower_one() {
        let found = lookup("/sumdb/sum.example/tile/8/1/x001/013.p/19", &["https://go.example/"]).stand_in;
        let prefix = "/sumdb/sum.example/tile/8/1/x001/013".to_owned();
        assert_eq!(found, Some(StandIn { prefix, bytes: 19 * 32 }));
        for path in ["/sumdb/sum.example/tile/8/1/001", "/sumdb/sum.example/tile/8/data/001.p/5", "/m.example/@v/list"]
        {
            assert_eq!(lookup(path, &["https://go.example/"]).stand_in, None, "{path}");
        }
    }

    #[test]
    fn each_path_has_its_class() {
        let table = [
            ("/go.example/m/@v/list", MINUTES),
            ("/go.example/m/@latest", MINUTES),
            ("/go.example/m/@v/v1.2.3.info", Freshness::Immutable),
            ("/go.example/m/@v/v1.2.3.mod", Freshness::Immutable),
            ("/go.example/m/@v/v1.2.3.zip", Freshness::Immutable),
            ("/go.example/m/@v/v0.0.0-20191109021931-daa7c04131f5.zip", Freshness::Immutable),
            ("/go.example/m/@v/v2.0.0+incompatible.mod", Freshness::Immutable),
            ("/go.example/m/@v/v2.0.0%2Bincompatible.mod", Freshness::Immutable),
            ("/go.example/m/@v/v1.0.0-!r!c1.zip", Freshness::Immutable),
            ("/go.example/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip", Freshness::Immutable),
            ("/go.example/m/@v/main.info", MINUTES),
            ("/go.example/m/@v/v1.info", MINUTES),
            ("/go.example/m/@v/v1.2.info", MINUTES),
            ("/go.example/m/@v/v1.2.3+meta.info", MINUTES),
            ("/go.example/m/@v/v01.2.3.info", MINUTES),
            ("/go.example/m/@v/v1.2.3-01.info", MINUTES),
            ("/go.example/m/@v/daa7c04131f5.info", MINUTES),
            ("/go.example/m/@v/latest.info", MINUTES),
            ("/sumdb/sum.example/supported", HOURLY),
            ("/sumdb/sum.example/latest", HOURLY),
            ("/sumdb/sum.example/lookup/go.example/!m@v1.2.3", Freshness::Immutable),
            ("/sumdb/sum.example/tile/8/0/001", Freshness::Immutable),
            ("/sumdb/sum.example/tile/8/0/x001/067", Freshness::Immutable),
            ("/sumdb/sum.example/tile/8/data/x001/x234/067.p/5", Freshness::Immutable),
        ];
        for (path, freshness) in table {
            assert_eq!(lookup(path, &["https://up.example/"]).freshness, freshness, "{path}");
        }
    }

    #[test]
    fn what_go_would_not_send_is_absent() {
        for path in [
            "/",
            "/m",
            "/go.example/@v/@v/list",
            "/go.example/m/@v",
            "/go.example/m/@v/v1.2.3.tar",
            "/go.example/m/@v/.zip",
            "/go.example/M/@v/list",
            "/go.example/!M/@v/list",
            "/go.example/m!/@v/list",
            "/go.example/!1/@v/list",
            "/go.example/m./@v/list",
            "/go.example/m/@v/V1.2.3.info",
            "/go.example/m/@v/v1/2.info",
            "/sumdb",
            "/sumdb/sum.example",
            "/sumdb/sum.example/other",
            "/sumdb/SUM/latest",
            "/sumdb/sum.example/lookup/m",
            "/sumdb/sum.example/lookup/m@",
            "/sumdb/sum.example/lookup/M@v1",
            "/sumdb/sum.example/tile/8/0",
            "/sumdb/sum.example/tile/8/0/1",
            "/sumdb/sum.example/tile/8/0/001/067",
            "/sumdb/sum.example/tile/8/0/x001",
            "/sumdb/sum.example/tile/8/0/001.p",
            "/sumdb/sum.example/tile/8/0/001.p/1000",
            "/a/sumdb/sum.example/latest",
        ] {
            let refused = route(path, &["https://up.example/"]).expect_err(path);
            assert_eq!(refused.kind, ErrorKind::NotFound, "{path}");
        }
    }

    #[test]
    fn percent_21_is_the_bang() {
        let bang = lookup("/go.example/!m/@v/v1.0.0-!r.zip", &["https://up.example/"]);
        let percent = lookup("/go.example/%21m/@v/v1.0.0-%21r.zip", &["https://up.example/"]);
        assert_eq!(bang.key, percent.key);
        assert_eq!(bang.key.path, "/go.example/!m/@v/v1.0.0-!r.zip");
        assert_eq!(format!("{:?}", bang.origins), format!("{:?}", percent.origins));
    }

    #[test]
    fn upstreams_are_asked_in_their_order() {
        let bases = ["https://a.example/base/", "https://b.example/"];
        let Origins::Listed(origins) = lookup("/go.example/m/@v/list", &bases).origins else { panic!("listed") };
        let urls: Vec<_> = origins.iter().map(|origin| origin.url.as_str()).collect();
        assert_eq!(urls, ["https://a.example/base/go.example/m/@v/list", "https://b.example/go.example/m/@v/list"]);
        assert!(origins.iter().all(|origin| origin.trust == Trust::Configured));
    }

    #[test]
    fn a_named_upstream_keeps_its_base() {
        let found = lookup("/@corp.example/Api/go/Proxy/go.example/!m/@v/v1.2.3.zip", &[]);
        assert_eq!(found.key.upstream, "https://corp.example");
        assert_eq!(found.key.path, "/Api/go/Proxy/go.example/!m/@v/v1.2.3.zip");
        let sums = lookup("/@corp.example/base/sumdb/sum.example/supported", &[]);
        assert_eq!(sums.key.path, "/base/sumdb/sum.example/supported");
        let Origins::Listed(origins) = sums.origins else { panic!("listed") };
        assert_eq!(origins[0].trust, Trust::Client);
        assert!(route("/@corp.example/go.example/!M/@v/list", &[]).is_err());
    }

    #[test]
    fn without_an_upstream_nobody_is_asked() {
        assert!(matches!(route("/go.example/m/@v/list", &[]), Ok(Route::NoUpstream)));
        assert!(route("/nonsense", &[]).is_err());
    }

    #[test]
    fn a_zip_may_be_as_large_as_a_toolchain() {
        assert_eq!(lookup("/go.example/m/@v/v1.2.3.zip", &["https://up.example/"]).max_bytes, 4 << 30);
    }
}
