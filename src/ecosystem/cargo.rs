//! Cargo's sparse registries: `config.json`, the index and the crates.
//!
//! Spec: the Cargo Book, "Registry Index" and "Source Replacement". Tried with cargo 1.95.
//!
//! **The door.** `config.json` is kept as upstream sent it. On its way out `dl` alone is rewritten, to
//! `MOUNT[/@HOST/base]/~dl/{crate}/{version}/{sha256-checksum}`, which is the same for every upstream: cargo fills the
//! markers in from the index. `auth-required` stays, or cargo would send no token, and is added for a client that shows
//! larder itself one, which cargo would otherwise show for `config.json` alone. `api` stays too, so that publish,
//! yank, owner and search go to the registry itself and nothing of them passes here.
//!
//! **Where crates come from.** Upstream's own `dl` is read from the stored `config.json` when a crate is missing. It is
//! not carried in the client's address: there it could aim an operator's trust at any host. So the download host is
//! trusted as much as the index that names it.
//!
//! **What crates are checked against.** The sum in the address is the index's: cargo copied it from the line that it
//! read here. It is part of the key, so a made-up sum fills a key of its own, and only with bytes that do hash to it. It
//! needs no second document, works while upstream is down, and a crate replaced under its version in a private
//! registry gets a new key. Tools that know no sum may ask `~dl/NAME/VERSION/download`; then the index is looked up
//! and its line decides.
//!
//! Several upstreams of one mount are mirrors of one registry, not registries to be mixed.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use url::Url;

use super::path::{self, Source};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::kind::ErrorKind;
use crate::model::lookup::{
    About, Answer, Derive, Expect, Extract, Fallback, Freshness, Lookup, Origins, Rejection, Request, Rewrite, Route,
    Shown,
};

const OUTAGE: Duration = Duration::from_secs(7 * 24 * 3600);
const CONFIG: Freshness = Freshness::Revalidate { fresh_for: Duration::from_secs(600), stale_if_error: OUTAGE };
const INDEX: Freshness = Freshness::Revalidate { fresh_for: Duration::from_secs(60), stale_if_error: OUTAGE };

const CONFIG_BYTES: u64 = 64 << 10;
/// The largest index files of the public registry have some megabytes.
const INDEX_BYTES: u64 = 64 << 20;
/// Private registries may take larger crates than the public one.
const CRATE_BYTES: u64 = 1 << 30;

const CRATE: &str = "{crate}";
const VERSION: &str = "{version}";
const PREFIX: &str = "{prefix}";
const LOWER_PREFIX: &str = "{lowerprefix}";
const SUM: &str = "{sha256-checksum}";

static ABOUT: About = About {
    name: "cargo",
    title: "Cargo crates",
    spec: "sparse registry index (Cargo Book)",
    immutable: "crates, checked against the index's SHA-256",
    mutable: "index files for 1 min, `config.json` for 10 min",
    without_upstream: ErrorKind::Unavailable,
    probe: Some("se/rd/serde"),
};

/// Cargo's sparse registries.
pub struct Cargo;

impl super::Ecosystem for Cargo {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn route(&self, request: &Request<'_>) -> Result<Route, Rejection> {
        let source = Source::of(request)?;
        let asked = Asked::parse(&source)?;
        if source.is_nowhere() {
            return Ok(Route::NoUpstream);
        }
        let lookup = match asked.what {
            What::Config => config(&source, &asked.base, request),
            What::Entry { name } => entry(&source, &asked.base, &name),
            What::Crate { name, version, sum } => download(&source, &asked.base, &name, &version, sum),
        };
        Ok(Route::Cached(Box::new(lookup)))
    }

    /// The shape of the registry API's errors, which cargo prints by their `detail`.
    fn error_body(&self, _: ErrorKind, why: &str) -> Answer {
        let body = serde_json::json!({ "errors": [{ "detail": why }] });
        let body = Bytes::from(body.to_string());
        Answer { status: 500, content_type: "application/json", headers: Vec::new(), body }
    }
}

/// A request, understood.
struct Asked {
    /// Encoded path before the index, below an upstream named in the path; empty otherwise.
    base: String,
    what: What,
}

enum What {
    Config,
    Entry { name: String },
    Crate { name: String, version: String, sum: Option<Checksum> },
}

impl Asked {
    /// Reads the path from its end, where the shape of an index is unmistakable; what stands before it is the base.
    fn parse(source: &Source) -> Result<Asked, Rejection> {
        let rest: Vec<&str> = source.rest.iter().map(String::as_str).collect();
        let (before, what) = match rest.as_slice() {
            [before @ .., "config.json"] => (before, What::Config),
            [before @ .., "~dl", name, version, last] => {
                (before, Asked::download(name, version, last).ok_or_else(unknown)?)
            }
            [before @ .., prefix @ ("1" | "2"), name] if shelf(name).as_deref() == Some(*prefix) => {
                (before, What::Entry { name: (*name).to_owned() })
            }
            [before @ .., first, second, name] if shelf(name) == Some(format!("{first}/{second}")) => {
                (before, What::Entry { name: (*name).to_owned() })
            }
            _ => return Err(unknown()),
        };
        if source.named.is_none() && !before.is_empty() {
            return Err(unknown());
        }
        if matches!(&what, What::Entry { name } if name.bytes().any(|byte| byte.is_ascii_uppercase())) {
            return Err(Rejection::not_found("index files are named in lower case"));
        }
        Ok(Asked { base: path::join(before.iter().copied()), what })
    }

    fn download(name: &str, version: &str, last: &str) -> Option<What> {
        shelf(name)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
        let is_version = version.starts_with(|char: char| char.is_ascii_digit()) && version.bytes().all(plain);
        let sum = match last {
            "download" => None,
            hex => Some(Checksum::from_hex(Algorithm::Sha256, hex)?),
        };
        is_version.then(|| What::Crate { name: name.to_owned(), version: version.to_owned(), sum })
    }
}

fn unknown() -> Rejection {
    Rejection::not_found(
        "a sparse registry has config.json and index files such as ca/rg/cargo; crates are at ~dl/NAME/VERSION/SHA256",
    )
}

/// The folder that a crate's index file is in, in the case of the name: `1`, `2`, `3/c`, `ca/rg`. None when the name is
/// no crate's.
fn shelf(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let sound = name.len() <= 64 && name.bytes().all(plain) && name.starts_with(|char: char| char != '-');
    match name.len() {
        _ if !sound => None,
        0 => None,
        1 => Some("1".to_owned()),
        2 => Some("2".to_owned()),
        3 => Some(format!("3/{}", &name[..1])),
        _ => Some(format!("{}/{}", &name[..2], &name[2..4])),
    }
}

fn config(source: &Source, base: &str, request: &Request<'_>) -> Lookup {
    let public_base = request.public_base;
    let named = source.named.as_deref().unwrap_or_default();
    let dl = format!("{public_base}{named}{base}/~dl/{CRATE}/{VERSION}/{SUM}");
    let apply = match request.shown {
        Shown::Token => with_dl_behind_a_token,
        Shown::Nothing => with_dl,
    };
    let rewrite = Rewrite { apply, with: dl, max_bytes: CONFIG_BYTES };
    Lookup { rewrite: Some(rewrite), ..document(source, format!("{base}/config.json"), CONFIG, CONFIG_BYTES) }
}

fn entry(source: &Source, base: &str, name: &str) -> Lookup {
    let name = name.to_ascii_lowercase();
    let shelf = shelf(&name).unwrap_or_default();
    document(source, format!("{base}/{shelf}/{name}"), INDEX, INDEX_BYTES)
}

fn document(source: &Source, below: String, freshness: Freshness, max_bytes: u64) -> Lookup {
    Lookup {
        key: source.key(ABOUT.name, &below),
        origins: source.origins(&below),
        freshness,
        expect: Expect::Nothing,
        rewrite: None,
        max_bytes,
        forward: Vec::new(),
        stand_in: None,
        alias: None,
    }
}

fn download(source: &Source, base: &str, name: &str, version: &str, sum: Option<Checksum>) -> Lookup {
    let (last, expect) = match sum {
        Some(sum) => (sum.hex(), Expect::Sum(sum)),
        None => {
            let extract = Extract { find: sum_of, what: format!("{name} {version}") };
            ("download".to_owned(), Expect::InDocument { document: Box::new(entry(source, base, name)), extract })
        }
    };
    let what = format!("{name} {version} {}", sum.map(|sum| sum.hex()).unwrap_or_default());
    let derive = Derive { urls: addresses, what, next: Fallback::OnAbsence, trust: source.trust() };
    let config = document(source, format!("{base}/config.json"), CONFIG, CONFIG_BYTES);
    Lookup {
        key: source.key(ABOUT.name, &format!("{base}/~dl/{name}/{version}/{last}")),
        origins: Origins::InDocument { document: Box::new(config), derive },
        freshness: Freshness::Immutable,
        expect,
        rewrite: None,
        max_bytes: CRATE_BYTES,
        forward: Vec::new(),
        stand_in: None,
        alias: None,
    }
}

/// `config.json` with another `dl`.
pub(super) fn with_dl(document: &[u8], dl: &str) -> Result<Vec<u8>, String> {
    serde_json::to_vec(&fields_with_dl(document, dl)?).map_err(|error| error.to_string())
}

/// The same for a client that shows larder a token: cargo would show it for this file alone.
fn with_dl_behind_a_token(document: &[u8], dl: &str) -> Result<Vec<u8>, String> {
    let mut fields = fields_with_dl(document, dl)?;
    fields.insert("auth-required".to_owned(), Value::Bool(true));
    serde_json::to_vec(&fields).map_err(|error| error.to_string())
}

fn fields_with_dl(document: &[u8], dl: &str) -> Result<serde_json::Map<String, Value>, String> {
    let config: Value =
        serde_json::from_slice(document).map_err(|error| format!("config.json is not JSON: {error}"))?;
    let Value::Object(mut fields) = config else { return Err("config.json is not an object".into()) };
    match fields.get_mut("dl") {
        Some(Value::String(template)) => dl.clone_into(template),
        _ => return Err("config.json names no dl".into()),
    }
    Ok(fields)
}

/// The address that `config.json` gives for `NAME VERSION SUM`; a sum may be missing where the template needs none.
pub(super) fn addresses(document: &[u8], what: &str) -> Option<Vec<Url>> {
    let mut words = what.split(' ');
    let (name, version, sum) = (words.next()?, words.next()?, words.next()?);
    let config: Value = serde_json::from_slice(document).ok()?;
    let template = config.get("dl")?.as_str()?;
    let filled = if [CRATE, VERSION, PREFIX, LOWER_PREFIX, SUM].iter().any(|marker| template.contains(marker)) {
        if sum.is_empty() && template.contains(SUM) {
            return None;
        }
        template
            .replace(CRATE, name)
            .replace(VERSION, version)
            .replace(PREFIX, &shelf(name)?)
            .replace(LOWER_PREFIX, &shelf(&name.to_ascii_lowercase())?)
            .replace(SUM, sum)
    } else {
        format!("{template}/{name}/{version}/download")
    };
    let url = Url::parse(&filled).ok()?;
    let sound = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    (sound && url.host_str().is_some()).then(|| vec![url])
}

/// The sum on the index line of `NAME VERSION`.
pub(super) fn sum_of(document: &[u8], what: &str) -> Option<Checksum> {
    let (name, version) = what.split_once(' ')?;
    document.split(|byte| *byte == b'\n').find_map(|line| {
        let line: Value = serde_json::from_slice(line).ok()?;
        let text = |field: &str| line.get(field).and_then(Value::as_str);
        let is_it = text("name")?.eq_ignore_ascii_case(name) && text("vers")? == version;
        is_it.then(|| text("cksum")).flatten().and_then(|sum| Checksum::from_hex(Algorithm::Sha256, sum))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Ecosystem;
    use super::super::fuzz::ask;
    use super::*;
    use crate::model::lookup::Trust;

    const SHA: &str = "3bd1574e617a9a6c1f8f8181bd7e841e1f20e4277607ef28945765188d6284d4";

    fn route(path: &str, bases: &[&str]) -> Result<Route, Rejection> {
        ask(path, bases, |request| Cargo.route(request))
    }

    fn lookup(path: &str, bases: &[&str]) -> Lookup {
        match route(path, bases) {
            Ok(Route::Cached(lookup)) => *lookup,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn listed(lookup: &Lookup) -> &str {
        let Origins::Listed(origins) = &lookup.origins else { panic!("listed") };
        origins[0].url.as_str()
    }

    #[test]
    fn index_files_are_asked_again() {
        for name in ["1/a", "2/ab", "3/a/abc", "ca/rg/cargo", "it/oa/itoa", "a-/b_/a-b_c", "1/_"] {
            let found = lookup(&format!("/{name}"), &["https://crates.example/index/"]);
            assert_eq!(found.freshness, INDEX, "{name}");
            assert_eq!(listed(&found), format!("https://crates.example/index/{name}"));
            assert_eq!((&*found.key.upstream, found.key.path), ("https://crates.example", format!("/index/{name}")));
        }
    }

    #[test]
    fn what_is_no_index_is_absent() {
        for path in [
            "/",
            "/cargo",
            "/1/ab",
            "/2/a",
            "/3/b/abc",
            "/3/abc",
            "/ca/rg/other",
            "/CA/RG/CArgo",
            "/x/config.json",
            "/config.json/x",
            "/ca/rg/ca.rgo",
            "/-a/bc/-abc",
            "/~dl/itoa/1.0.0",
            "/~dl/itoa/1.0.0/abc",
            "/~dl/itoa/x/download",
            "/~dl/i%20a/1.0.0/download",
            "/x/~dl/itoa/1.0.0/download",
        ] {
            let refused = route(path, &["https://crates.example/"]).expect_err(path);
            assert_eq!(refused.kind, ErrorKind::NotFound, "{path}");
        }
    }

    #[test]
    fn the_door_rewrites_dl_alone() {
        for (path, base, dl) in [
            ("/config.json", "https://crates.example/index/", "http://larder.example/mount/~dl/"),
            ("/@crates.example/config.json", "", "http://larder.example/mount/@crates.example/~dl/"),
            ("/@http:c.example:81/a/b/config.json", "", "http://larder.example/mount/@http:c.example:81/a/b/~dl/"),
        ] {
            let rewrite = lookup(path, &[base].map(|base| if base.is_empty() { "https://x.example/" } else { base }))
                .rewrite
                .expect("config.json is rewritten");
            let raw = br#"{"dl":"https://up.example/dl","api":"https://up.example","auth-required":true}"#;
            let out = (rewrite.apply)(raw, &rewrite.with).expect("is a config");
            let out: Value = serde_json::from_slice(&out).expect("is JSON");
            assert_eq!(out["dl"], format!("{dl}{{crate}}/{{version}}/{{sha256-checksum}}"), "{path}");
            assert_eq!((&out["api"], &out["auth-required"]), (&"https://up.example".into(), &true.into()));
        }
        assert!(with_dl(b"[]", "x").is_err() && with_dl(b"{}", "x").is_err() && with_dl(b"<html>", "x").is_err());
    }

    #[test]
    fn a_client_that_shows_larder_a_token_is_told_to_go_on() {
        let raw = br#"{"dl":"https://up.example/dl"}"#;
        for (shown, auth) in [(Shown::Token, Value::Bool(true)), (Shown::Nothing, Value::Null)] {
            let routed = ask("/config.json", &["https://crates.example/"], |request| {
                Cargo.route(&Request { shown, ..*request })
            });
            let Ok(Route::Cached(lookup)) = routed else { panic!("{routed:?}") };
            let rewrite = lookup.rewrite.expect("config.json is rewritten");
            let out = (rewrite.apply)(raw, &rewrite.with).expect("is a config");
            let out: Value = serde_json::from_slice(&out).expect("is JSON");
            assert_eq!(out["auth-required"], auth, "{shown:?}");
            assert!(out["dl"].as_str().is_some_and(|dl| dl.starts_with("http://larder.example/mount/~dl/")));
        }
    }

    #[test]
    fn a_crate_is_checked_by_the_sum_in_its_address() {
        let found = lookup(&format!("/~dl/itoa/1.0.19/{SHA}"), &["https://crates.example/index/"]);
        let sum = Checksum::from_hex(Algorithm::Sha256, SHA).expect("is a sum");
        assert!(matches!(found.expect, Expect::Sum(expected) if expected == sum));
        assert_eq!(found.freshness, Freshness::Immutable);
        assert_eq!(found.key.path, format!("/index/~dl/itoa/1.0.19/{SHA}"));
        let Origins::InDocument { document, derive } = &found.origins else { panic!("in config.json") };
        assert_eq!(listed(document), "https://crates.example/index/config.json");
        assert!(document.rewrite.is_none());
        assert_eq!(document.key, lookup("/config.json", &["https://crates.example/index/"]).key);
        assert_eq!(derive.trust, Trust::Configured);
    }

    #[test]
    fn the_trust_of_a_named_index_is_that_of_its_downloads() {
        let found = lookup(&format!("/@crates.example/a/~dl/itoa/1.0.19/{SHA}"), &["https://x.example/"]);
        let Origins::InDocument { document, derive } = &found.origins else { panic!("in config.json") };
        assert_eq!(listed(document), "https://crates.example/a/config.json");
        assert_eq!(derive.trust, Trust::Client);
    }

    #[test]
    fn without_a_sum_the_index_decides() {
        let found = lookup("/~dl/Itoa/1.0.19/download", &["https://crates.example/"]);
        let Expect::InDocument { document, extract } = &found.expect else { panic!("in the index") };
        assert_eq!(listed(document), "https://crates.example/it/oa/itoa");
        let index = format!(
            "{{\"name\":\"itoa\",\"vers\":\"1.0.1\",\"cksum\":\"{}\"}}\nrubbish\n{{\"name\":\"itoa\",\"vers\":\"1.0.19\",\"cksum\":\"{SHA}\"}}\n",
            "0".repeat(64)
        );
        let sum = (extract.find)(index.as_bytes(), &extract.what).expect("the line is there");
        assert_eq!(sum.hex(), SHA);
        assert!((extract.find)(index.as_bytes(), "itoa 1.0.2").is_none());
    }

    #[test]
    fn markers_expand_as_cargo_expands_them() {
        let what = format!("MyCrate 1.0.0+meta {SHA}");
        for (dl, url) in [
            ("https://dl.example/api/v1/crates", "https://dl.example/api/v1/crates/MyCrate/1.0.0+meta/download".into()),
            ("https://dl.example/{crate}-{version}.crate", "https://dl.example/MyCrate-1.0.0+meta.crate".into()),
            ("https://dl.example/{prefix}/{crate}/{version}", "https://dl.example/My/Cr/MyCrate/1.0.0+meta".into()),
            ("https://dl.example/{lowerprefix}/{crate}", "https://dl.example/my/cr/MyCrate".into()),
            ("https://dl.example/{sha256-checksum}", format!("https://dl.example/{SHA}")),
        ] {
            let config = serde_json::json!({ "dl": dl }).to_string();
            let found = addresses(config.as_bytes(), &what).expect(dl);
            assert_eq!(found.iter().map(Url::as_str).collect::<Vec<_>>(), [url]);
        }
        for dl in ["file:///etc/{crate}", "relative/{crate}", "https://u:p@dl.example/{crate}", ""] {
            let config = serde_json::json!({ "dl": dl }).to_string();
            assert!(addresses(config.as_bytes(), &what).is_none(), "{dl}");
        }
        let config = br#"{"dl":"https://dl.example/{sha256-checksum}"}"#;
        assert!(addresses(config, "itoa 1.0.0 ").is_none());
    }

    #[test]
    fn errors_are_in_the_shape_of_the_registry_api() {
        let answer = Cargo.error_body(ErrorKind::NotFound, "no \"such\" crate");
        assert_eq!(&answer.body[..], br#"{"errors":[{"detail":"no \"such\" crate"}]}"#);
    }
}
