//! Maven's repositories, by the layout that Maven, Leiningen, Gradle, sbt and Coursier share.
//!
//! Spec: "Maven Repository Layout (Maven 2)", `GROUP/ARTIFACT/VERSION/ARTIFACT-VERSION[-CLASSIFIER].EXTENSION`, and
//! the checksum files `.sha1`, `.md5`, `.sha256`, `.sha512` beside each file. Tried with Maven 3.8 and Leiningen 2.10.
//!
//! **What never changes**: a file that repeats the artifact and the version of the folders that it is in, unless that
//! version is a snapshot. In a snapshot's folder the file must carry the time of its making
//! (`a-1.0-20260102.030405-6.jar`); `a-1.0-SNAPSHOT.jar` and `maven-metadata.xml` are asked for again.
//!
//! **What files are checked against.** The `.sha1` beside a file is read first, and the file is kept only if it hashes
//! to that: clients ask for it anyway, right after. Where there is none, the file is taken as it is. A file that its own
//! `.sha1` contradicts is refused, here as by a client whose policy is to fail.
//!
//! **Checksum files** are made here as long as what they are about is kept, so that they fit it whatever upstream has
//! become: of files once they are here, of metadata always. Upstream's are passed on while a file is not here yet.
//!
//! **In a proxy's request line** nobody has said that an address is a repository's. A path that fits the layout is taken
//! for a file only if the `.sha1` beside it confirms it, for a signature, a checksum file or metadata only if it
//! begins as one. All else stays under RFC 9111, and so does whatever is asked for with a credential.

use std::time::Duration;

use bytes::Bytes;
use url::Url;

use super::path::{self, Source};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::kind::ErrorKind;
use crate::model::lookup::{
    About, Answer, Evidence, Expect, Extract, Freshness, Lookup, Origins, Recognised, Rejection, Request, Route, Sniff,
    Unproven,
};

const MINUTES: Freshness =
    Freshness::Revalidate { fresh_for: Duration::from_secs(60), stale_if_error: Duration::from_secs(7 * 24 * 3600) };

/// Distributions of whole products travel as artifacts too.
const FILE_BYTES: u64 = 8 << 30;
/// Catalogues of archetypes and of prefixes have some ten megabytes.
const DOCUMENT_BYTES: u64 = 256 << 20;
const METADATA_BYTES: u64 = 32 << 20;
const SUM_BYTES: u64 = Sniff::BYTES as u64;

static ABOUT: About = About {
    name: "maven",
    title: "Maven artifacts",
    spec: "Maven 2 repository layout",
    immutable: "files of releases and of timestamped snapshots that the `.sha1` beside them proves",
    mutable: "`maven-metadata.xml`, `-SNAPSHOT` files and catalogues for 1 min; a file without a `.sha1` is confirmed each \
              time; checksum files are made of what is kept and proven",
    without_upstream: ErrorKind::Unavailable,
    probe: Some("org/apache/maven/plugins/maven-clean-plugin/maven-metadata.xml"),
};

/// Maven's repositories.
pub struct Maven;

impl super::Ecosystem for Maven {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn route(&self, request: &Request<'_>) -> Result<Route, Rejection> {
        let source = Source::of(request)?;
        if source.rest.is_empty() {
            return Err(Rejection::not_found(
                "a Maven repository has GROUP/ARTIFACT/VERSION/FILE and maven-metadata.xml",
            ));
        }
        if source.is_nowhere() {
            return Ok(Route::NoUpstream);
        }
        Ok(Route::Cached(Box::new(lookup(&source, &source.rest, Unproven::Kept))))
    }

    fn recognise(&self, url: &Url) -> Option<Recognised> {
        let source = Source::at(url)?;
        let thing = summed(&source.rest).map_or_else(|| source.rest.clone(), |(thing, _)| thing);
        match kind(&thing) {
            Kind::File | Kind::Metadata => {}
            // Nothing proves a signature, and one that is made anew comes under the same name.
            Kind::Signature | Kind::Document => return None,
        }
        let lookup = lookup(&source, &source.rest, Unproven::PassedOn);
        Some(Recognised { route: Route::Cached(Box::new(lookup)), evidence: Evidence::InItself })
    }

    /// Maven and Leiningen show the status alone.
    fn error_body(&self, _: ErrorKind, why: &str) -> Answer {
        let body = Bytes::from(format!("{why}\n"));
        Answer { status: 500, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body }
    }
}

/// What a path is, going by its last three segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A file of a release, or of a snapshot with the time of its making.
    File,
    /// The signature of one.
    Signature,
    Metadata,
    /// All else.
    Document,
}

fn lookup(source: &Source, rest: &[String], unproven: Unproven) -> Lookup {
    let Some((thing, algorithm)) = summed(rest) else { return of_thing(source, rest, unproven) };
    let below = path::join(rest.iter().map(String::as_str));
    let plain = document(source, &below, SUM_BYTES, Expect::Sniff(Sniff { is_sound: is_sum }));
    let kind = kind(&thing);
    let otherwise = match (source.origins(&below), kind) {
        (Origins::Listed(origins), Kind::File | Kind::Signature | Kind::Document) => origins,
        (_, _) => Vec::new(),
    };
    if kind == Kind::Document {
        return plain;
    }
    let thing = Box::new(of_thing(source, &thing, unproven));
    Lookup { origins: Origins::SumOf { thing, algorithm, otherwise }, ..plain }
}

/// A lookup of what is no checksum file.
fn of_thing(source: &Source, rest: &[String], unproven: Unproven) -> Lookup {
    let below = path::join(rest.iter().map(String::as_str));
    match kind(rest) {
        Kind::File => {
            let sum = document(source, &format!("{below}.sha1"), SUM_BYTES, Expect::Sniff(Sniff { is_sound: is_sum }));
            let extract = Extract { find: sha1_in, what: below.clone() };
            let expect = Expect::Beside { document: Box::new(sum), extract, unproven };
            Lookup { freshness: Freshness::Immutable, ..document(source, &below, FILE_BYTES, expect) }
        }
        Kind::Signature => {
            let expect = Expect::Sniff(Sniff { is_sound: is_signature });
            Lookup { freshness: Freshness::Immutable, ..document(source, &below, SUM_BYTES, expect) }
        }
        Kind::Metadata => document(source, &below, METADATA_BYTES, Expect::Sniff(Sniff { is_sound: is_metadata })),
        Kind::Document => document(source, &below, DOCUMENT_BYTES, Expect::Nothing),
    }
}

fn document(source: &Source, below: &str, max_bytes: u64, expect: Expect) -> Lookup {
    Lookup {
        key: source.key(ABOUT.name, below),
        origins: source.origins(below),
        freshness: MINUTES,
        expect,
        rewrite: None,
        max_bytes,
        forward: Vec::new(),
        stand_in: None,
        alias: None,
    }
}

/// What a checksum file is about, and the function that makes it. None: it is no checksum file.
fn summed(rest: &[String]) -> Option<(Vec<String>, Algorithm)> {
    let (file, folders) = rest.split_last()?;
    let (thing, ending) = file.rsplit_once('.')?;
    let algorithm = Algorithm::from_name(ending).filter(|_| !thing.is_empty())?;
    Some((folders.iter().cloned().chain([thing.to_owned()]).collect(), algorithm))
}

fn kind(rest: &[String]) -> Kind {
    let Some((file, folders)) = rest.split_last() else { return Kind::Document };
    if file == "maven-metadata.xml" {
        return Kind::Metadata;
    }
    let [_, .., artifact, version] = folders else { return Kind::Document };
    match file.strip_suffix(".asc") {
        Some(signed) if is_file(artifact, version, signed) => Kind::Signature,
        None if is_file(artifact, version, file) => Kind::File,
        Some(_) | None => Kind::Document,
    }
}

/// Whether the name says `ARTIFACT-VERSION` and what may follow: `.jar`, `-sources.jar`.
fn is_file(artifact: &str, version: &str, file: &str) -> bool {
    let after = |text: &str| file.strip_prefix(artifact).and_then(|rest| rest.strip_prefix('-')?.strip_prefix(text));
    let goes_on = |rest: &str| {
        let ending = rest.rsplit_once('.').is_some_and(|(_, ending)| !ending.is_empty());
        ending && rest.starts_with(['.', '-'])
    };
    match version.strip_suffix("-SNAPSHOT") {
        None => after(version).is_some_and(goes_on),
        Some(base) => after(base).and_then(|rest| made_at(rest.strip_prefix('-')?)).is_some_and(goes_on),
    }
}

/// What comes after `YYYYMMDD.HHMMSS-N`.
fn made_at(rest: &str) -> Option<&str> {
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    let (day, rest) = rest.split_once('.')?;
    let (time, rest) = rest.split_once('-')?;
    let end = rest.find(|char: char| !char.is_ascii_digit())?;
    (digits(day, 8) && digits(time, 6) && end > 0).then(|| &rest[end..])
}

/// The sum in a checksum file: alone, before the name of the file, or after `SHA1(NAME)=`.
pub(super) fn sum_in(document: &[u8], algorithm: Algorithm) -> Option<Checksum> {
    let text = std::str::from_utf8(document).ok().filter(|text| text.len() < Sniff::BYTES)?;
    text.split_ascii_whitespace().find_map(|word| Checksum::from_hex(algorithm, word))
}

fn sha1_in(document: &[u8], _: &str) -> Option<Checksum> {
    sum_in(document, Algorithm::Sha1)
}

fn is_sum(document: &[u8]) -> bool {
    Algorithm::ALL.into_iter().any(|algorithm| sum_in(document, algorithm).is_some())
}

fn is_signature(beginning: &[u8]) -> bool {
    beginning.starts_with(b"-----BEGIN PGP ")
}

fn is_metadata(beginning: &[u8]) -> bool {
    memchr::memmem::find(beginning, b"<metadata").is_some()
}

#[cfg(test)]
mod tests {
    use super::super::Ecosystem;
    use super::super::fuzz::ask;
    use super::*;

    const BASE: &str = "https://maven.example/repo/";

    fn lookup(path: &str) -> Lookup {
        match ask(path, &[BASE], |request| Maven.route(request)) {
            Ok(Route::Cached(lookup)) => *lookup,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn listed(lookup: &Lookup) -> &str {
        lookup.first_origin().expect("an origin").url.as_str()
    }

    #[test]
    fn files_of_releases_never_change() {
        for path in [
            "/org/clojure/clojure/1.11.1/clojure-1.11.1.jar",
            "/org/clojure/clojure/1.11.1/clojure-1.11.1.pom",
            "/g/a/1.0/a-1.0-sources.jar",
            "/g/a/1.0/a-1.0.tar.gz",
            "/g/a-b/1.0-rc-1/a-b-1.0-rc-1.module",
            "/g/a/1.0-SNAPSHOT/a-1.0-20260102.030405-6.jar",
            "/g/a/1.0-SNAPSHOT/a-1.0-20260102.030405-16-tests.jar",
        ] {
            let found = lookup(path);
            assert_eq!(found.freshness, Freshness::Immutable, "{path}");
            assert_eq!(listed(&found), format!("https://maven.example/repo{path}"));
            let Expect::Beside { document, unproven: Unproven::Kept, .. } = &found.expect else { panic!("{path}") };
            assert_eq!(listed(document), format!("https://maven.example/repo{path}.sha1"));
            assert_eq!(document.freshness, MINUTES, "a wrong one must not last");
        }
        assert_eq!(lookup("/g/a/1.0/a-1.0.jar.asc").freshness, Freshness::Immutable);
    }

    #[test]
    fn what_may_change_is_asked_again() {
        for path in [
            "/g/a/maven-metadata.xml",
            "/g/a/1.0-SNAPSHOT/maven-metadata.xml",
            "/g/a/1.0-SNAPSHOT/a-1.0-SNAPSHOT.jar",
            "/g/a/1.0-SNAPSHOT/a-1.0-2026.0304-6.jar",
            "/g/a/1.0/a-1.1.jar",
            "/g/a/1.0/b-1.0.jar",
            "/g/a/1.0/a-1.0",
            "/g/a/1.0/a-1.0x.jar",
            "/a/1.0/a-1.0.jar",
            "/archetype-catalog.xml",
            "/.index/nexus-maven-repository-index.gz",
        ] {
            assert_eq!(lookup(path).freshness, MINUTES, "{path}");
        }
    }

    #[test]
    fn checksum_files_are_of_what_is_kept() {
        let made = |path: &str| match lookup(path).origins {
            Origins::SumOf { thing, algorithm, otherwise } => (thing.key.path, algorithm, otherwise.len()),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(made("/g/a/1.0/a-1.0.jar.sha1"), ("/repo/g/a/1.0/a-1.0.jar".into(), Algorithm::Sha1, 1));
        assert_eq!(made("/g/a/1.0/a-1.0.jar.asc.md5"), ("/repo/g/a/1.0/a-1.0.jar.asc".into(), Algorithm::Md5, 1));
        // Those of metadata never come from upstream, which may have moved on.
        assert_eq!(
            made("/g/a/maven-metadata.xml.sha256"),
            ("/repo/g/a/maven-metadata.xml".into(), Algorithm::Sha256, 0)
        );
        assert!(matches!(lookup("/archetype-catalog.xml.sha1").origins, Origins::Listed(_)));
    }

    #[test]
    fn a_request_line_needs_proof() {
        let recognised = |path: &str| {
            let url = Url::parse(&format!("https://maven.example{path}")).expect("an address");
            Maven.recognise(&url).map(|found| match found.route {
                Route::Cached(lookup) => *lookup,
                other => panic!("{path}: {other:?}"),
            })
        };
        let file = recognised("/repo/g/a/1.0/a-1.0.jar").expect("fits the layout");
        assert!(matches!(file.expect, Expect::Beside { unproven: Unproven::PassedOn, .. }));
        assert_eq!(file.key, lookup("/g/a/1.0/a-1.0.jar").key);
        assert!(matches!(recognised("/repo/g/a/maven-metadata.xml").expect("a name").expect, Expect::Sniff(_)));
        assert!(recognised("/repo/g/a/1.0/a-1.0.jar.sha1").is_some());
        for path in ["/docs/index.html", "/repo/g/a/1.0/b-1.0.jar", "/g/a/1.0/a-1.0.jar?x=1", "/x.sha1", "/"] {
            assert!(recognised(path).is_none(), "{path}");
        }
    }

    #[test]
    fn sums_are_read_as_they_are_written() {
        let sum = "a9993e364706816aba3e25717850c26c9cd0d89d";
        for text in [
            sum.to_owned(),
            format!("{sum}\n"),
            format!("{}  a-1.0.jar\n", sum.to_uppercase()),
            format!("SHA1(a-1.0.jar)= {sum}\n"),
        ] {
            let found = sum_in(text.as_bytes(), Algorithm::Sha1).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(found.hex(), sum);
        }
        for text in ["", "<html>", "a9993e", &format!("{sum}00"), &format!("{}{sum}", " ".repeat(5000))] {
            assert!(sum_in(text.as_bytes(), Algorithm::Sha1).is_none(), "{text}");
        }
    }

    #[test]
    fn a_portals_page_is_nothing_of_a_repositorys() {
        let page = b"<!DOCTYPE html><html><title>Please log in</title></html>";
        assert!(!is_sum(page) && !is_signature(page) && !is_metadata(page));
        assert!(is_metadata(b"<?xml version=\"1.0\"?>\n<metadata modelVersion=\"1.1.0\">"));
    }
}
