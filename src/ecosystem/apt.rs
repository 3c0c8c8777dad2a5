//! apt's repositories: `dists/SUITE/`, `pool/`, and flat ones without either.
//!
//! Spec: "Debian Repository Format". Tried with apt 2.6.
//!
//! **A generation.** `InRelease` (or `Release` with `Release.gpg`) names every index of its suite with its sum. An archive
//! replaces all of them at once, so a client that asks for a `Packages.xz` just after the archive has moved on gets
//! one that its `InRelease` does not know: `Hash Sum mismatch`. Here an index's plain name means what the `InRelease`
//! says that the asking client was handed (`Route::Member`): the file with that sum, which is kept under
//! `by-hash/SHA256/SUM` whatever name it was asked by, fetched from there where the archive keeps files by hash, and
//! kept only if it hashes to it. Several generations live side by side like this. `InRelease` itself is confirmed
//! upstream each time, which costs a 304, so that it is never older than the indexes that are fetched by its word.
//!
//! **What never changes**: files `by-hash`, proven by the hash in their name, and what is below `pool/`: the format
//! forbids two files of one name. A `.deb` must begin as one to be kept. Nothing proves it further (its sum stands in an
//! index of fifty megabytes, unpacked), and small archives do build a version anew. So with each new generation the
//! packages of its archive that are kept are confirmed upstream once, before their next use.
//!
//! **In a proxy's request line** nobody has said that an address is an archive's. There it is taken for what it looks
//! like on proof alone: `by-hash/SHA256/SUM` is proven by its bytes; an `InRelease` must begin as one, and is short-lived
//! anyway; an index must be named by an `InRelease` that was handed out here; a package must be named
//! `NAME_VERSION_ARCHITECTURE.deb`, lie below an archive whose `InRelease` was handed out here, and begin as one. All else
//! stays under RFC 9111, and so does whatever is asked for with a credential.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use super::path::{self, Source};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::kind::ErrorKind;
use crate::model::lookup::{
    About, Answer, Evidence, Expect, Fallback, Freshness, Generation, Lookup, Member, Named, Origin, Origins,
    Recognised, Rejection, Request, Route, Sniff,
};

const OUTAGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Confirmed each time: see above.
const EACH_TIME: Freshness = Freshness::Revalidate { fresh_for: Duration::ZERO, stale_if_error: OUTAGE };
const MINUTES: Freshness = Freshness::Revalidate { fresh_for: Duration::from_secs(60), stale_if_error: OUTAGE };

const RELEASE_BYTES: u64 = 16 << 20;
/// `Contents` of a whole distribution has some hundred megabytes.
const INDEX_BYTES: u64 = 2 << 30;
const FILE_BYTES: u64 = 16 << 30;

/// The functions that files are kept by, as their folders are called.
const FOLDERS: [(&str, Algorithm); 4] = [
    ("SHA256", Algorithm::Sha256),
    ("SHA512", Algorithm::Sha512),
    ("SHA1", Algorithm::Sha1),
    ("MD5Sum", Algorithm::Md5),
];

static ABOUT: About = About {
    name: "apt",
    title: "apt's packages",
    spec: "Debian Repository Format",
    immutable: "files below `pool/` and `by-hash/`; an index as the `InRelease` names it that the client was handed",
    mutable: "`InRelease`, `Release` and `Release.gpg` each time; what no `InRelease` names for 1 min",
    without_upstream: ErrorKind::Unavailable,
    probe: None,
};

/// apt's repositories.
pub struct Apt;

impl super::Ecosystem for Apt {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn route(&self, request: &Request<'_>) -> Result<Route, Rejection> {
        let path = without_dots(request.path);
        let source = Source::of(&Request { path: &path, ..*request })?;
        let Some(what) = What::of(&source.rest) else {
            return Err(Rejection::not_found("an archive has dists/SUITE/InRelease, what that names, and pool/"));
        };
        if source.is_nowhere() {
            return Ok(Route::NoUpstream);
        }
        Ok(match what {
            What::ByHash(sum) => Route::Cached(Box::new(by_its_hash(&source, sum, name_of(request.query)))),
            _ => route(&source, what),
        })
    }

    fn recognise(&self, url: &Url) -> Option<Recognised> {
        let source = Source::at(url)?;
        let what = What::of(&source.rest)?;
        let evidence = match what {
            What::Release { .. } | What::Signature | What::Index { .. } => Evidence::InItself,
            What::ByHash(sum) if sum.as_bytes().len() >= Algorithm::Sha256.sum_bytes() => Evidence::InItself,
            What::Package if is_versioned(source.rest.last()?) => Evidence::BelowGeneration,
            What::ByHash(_) | What::Package | What::File | What::Document => return None,
        };
        Some(Recognised { route: route(&source, what), evidence })
    }

    /// apt shows the status alone.
    fn error_body(&self, _: ErrorKind, why: &str) -> Answer {
        let body = Bytes::from(format!("{why}\n"));
        Answer { status: 500, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body }
    }
}

/// What a path is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// `InRelease`, or `Release`; how many segments lead to the archive that it is of.
    Release {
        archive: usize,
    },
    /// `Release.gpg`.
    Signature,
    ByHash(Checksum),
    /// What a release may name; how many segments lead to the folder that may hold it: at least, and at most.
    Index {
        from: usize,
        to: usize,
    },
    /// Something that apt installs.
    Package,
    /// Below `pool/`, such as a source.
    File,
    Document,
}

impl What {
    /// None: a folder.
    fn of(rest: &[String]) -> Option<What> {
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let (file, folders) = rest.split_last()?;
        let dists = folders.iter().position(|folder| *folder == "dists");
        let of_index = folders.last().is_some_and(|folder| folder.starts_with("binary-") || *folder == "source");
        Some(match *file {
            "InRelease" | "Release" if !of_index => What::Release { archive: dists.unwrap_or(folders.len()) },
            "Release.gpg" if !of_index => What::Signature,
            name => match (by_hash(folders, name), dists) {
                (Some(sum), _) => What::ByHash(sum),
                (None, _) if is_package(name) => What::Package,
                (None, _) if folders.contains(&"pool") => What::File,
                // A suite's name may have a slash in it: `stable/updates`.
                (None, Some(at)) if folders.len() > at + 1 => {
                    What::Index { from: at + 2, to: folders.len().min(at + 3) }
                }
                (None, None) if is_index(name) => What::Index { from: folders.len(), to: folders.len() },
                (None, _) => What::Document,
            },
        })
    }
}

/// `.../by-hash/SHA256/SUM`
fn by_hash(folders: &[&str], name: &str) -> Option<Checksum> {
    let [_, .., "by-hash", function] = folders else { return None };
    let (_, algorithm) = FOLDERS.into_iter().find(|(folder, _)| folder == function)?;
    Checksum::from_hex(algorithm, name)
}

fn is_package(name: &str) -> bool {
    [".deb", ".udeb", ".ddeb"].iter().any(|ending| name.ends_with(ending))
}

/// What an archive may have put something else in the place of, though the format forbids that: all but what is proven.
fn may_replace(path: &str) -> bool {
    is_package(path) || path.contains("/pool/")
}

/// Indexes of a flat repository.
fn is_index(name: &str) -> bool {
    let bare = name.split_once('.').map_or(name, |(bare, _)| bare);
    matches!(bare, "Packages" | "Sources" | "Contents") || bare.starts_with("Translation-")
}

/// `NAME_VERSION_ARCHITECTURE.deb`, the version with a digit in front: `current` is none.
fn is_versioned(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    matches!(parts.as_slice(), [_, version, _] if version.starts_with(|char: char| char.is_ascii_digit()))
}

fn route(source: &Source, what: What) -> Route {
    let plain = |freshness, max_bytes, expect| lookup(source, &source.rest, freshness, max_bytes, expect);
    let sniffed = |is_sound| Expect::Sniff(Sniff { is_sound });
    let cached = match what {
        What::Release { archive } => {
            let document = release(source, &source.rest);
            let below = below(&source.rest[..archive]);
            let archive = source.key(ABOUT.name, &below).path;
            return Route::Generation(Box::new(Generation { document, archive, may_replace }));
        }
        What::Index { from, to } => return Route::Member(Box::new(member(source, from..=to))),
        What::Signature => plain(EACH_TIME, RELEASE_BYTES, sniffed(is_signature)),
        What::ByHash(sum) => by_its_hash(source, sum, None),
        What::Package => plain(Freshness::Immutable, FILE_BYTES, sniffed(is_archive)),
        What::File => plain(Freshness::Immutable, FILE_BYTES, Expect::Nothing),
        What::Document => plain(MINUTES, INDEX_BYTES, Expect::Nothing),
    };
    Route::Cached(Box::new(cached))
}

fn release(source: &Source, path: &[String]) -> Lookup {
    let is_sound = if path.last().is_some_and(|name| name == "InRelease") { is_signed } else { is_release };
    lookup(source, path, EACH_TIME, RELEASE_BYTES, Expect::Sniff(Sniff { is_sound }))
}

/// `name`: what it is called where the archive keeps no files by hash.
fn by_its_hash(source: &Source, sum: Checksum, name: Option<&str>) -> Lookup {
    let mut found = lookup(source, &source.rest, Freshness::Immutable, INDEX_BYTES, Expect::Sum(sum));
    let folder = source.rest.len().saturating_sub(3);
    let path = name.map(|name| source.rest[..folder].iter().cloned().chain([name.to_owned()]).collect::<Vec<_>>());
    let beside = path.map(|path| source.origins(&below(&path)));
    if let (Origins::Listed(listed), Some(Origins::Listed(beside))) = (&mut found.origins, beside) {
        *listed = listed.drain(..).zip(beside).flat_map(|(by_hash, beside)| [by_hash, beside]).collect();
    }
    found
}

/// Another larder's question for a file by its hash says what it is called (`Lookup::alias`). None: no such thing.
fn name_of(query: Option<&str>) -> Option<&str> {
    let name = query?.strip_prefix("of=")?;
    let is_name = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '~');
    (name.chars().all(is_name) && name.contains(|char: char| char.is_ascii_alphanumeric())).then_some(name)
}

fn member(source: &Source, depths: std::ops::RangeInclusive<usize>) -> Member {
    let named = |depth: usize, file: &str| {
        let (folder, name) = source.rest.split_at(depth);
        let path: Vec<String> = folder.iter().cloned().chain([file.to_owned()]).collect();
        Named { document: release(source, &path), name: name.join("/") }
    };
    let by = depths.flat_map(|depth| ["InRelease", "Release"].map(|file| named(depth, file))).collect();
    Member { by, plain: lookup(source, &source.rest, MINUTES, INDEX_BYTES, Expect::Nothing), meant }
}

fn lookup(source: &Source, path: &[String], freshness: Freshness, max_bytes: u64, expect: Expect) -> Lookup {
    let below = below(path);
    Lookup {
        key: source.key(ABOUT.name, &below),
        origins: source.origins(&below),
        freshness,
        expect,
        rewrite: None,
        max_bytes,
        forward: Vec::new(),
        stand_in: None,
        alias: None,
    }
}

/// An encoded path. apt writes a plus sign as `%2b`, since some stores take a bare one for a space.
fn below(path: &[String]) -> String {
    path::join(path.iter().map(String::as_str)).replace('+', "%2B")
}

/// What a name stands for in a release: the file with the sum that it gives. None: it does not name it, or by no sum
/// that proves anything.
fn meant(release: &[u8], name: &str, plain: &Lookup) -> Option<Lookup> {
    let Sized { sum, bytes, folder } = sum_in(release, name)?;
    let (parent, _) = plain.key.path.rsplit_once('/')?;
    let by_hash = format!("{parent}/by-hash/{folder}/{}", sum.hex());
    let Origins::Listed(listed) = &plain.origins else { return None };
    let keeps = field(release, "Acquire-By-Hash").is_some_and(|value| value == "yes");
    let beside = |origin: &Origin| {
        let mut url = origin.url.clone();
        let parent = url.path().rsplit_once('/').map(|(parent, _)| parent.to_owned())?;
        url.set_path(&format!("{parent}/by-hash/{folder}/{}", sum.hex()));
        // An archive that says so may forget older ones, which may still be those of today.
        keeps.then_some(Origin { url, next: Fallback::OnAbsence, trust: origin.trust })
    };
    let (_, file) = plain.key.path.rsplit_once('/')?;
    let alias = listed.first()?.url.join(&format!("by-hash/{folder}/{}?of={file}", sum.hex())).ok();
    let origins = listed.iter().flat_map(|origin| beside(origin).into_iter().chain([origin.clone()])).collect();
    let mut key = plain.key.clone();
    key.path = by_hash;
    Some(Lookup {
        key,
        origins: Origins::Listed(origins),
        freshness: Freshness::Immutable,
        expect: Expect::Exactly { sum, bytes },
        alias,
        ..plain.clone()
    })
}

/// The folder of a flat repository is written `./`, and apt asks for it so.
fn without_dots(path: &str) -> Cow<'_, str> {
    if !path.contains("/./") || path.starts_with("/./") {
        return Cow::Borrowed(path);
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| *segment != ".").collect();
    Cow::Owned(segments.join("/"))
}

fn lines(release: &[u8]) -> impl Iterator<Item = &str> {
    release.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).map(str::trim_ascii_end)
}

fn field<'a>(release: &'a [u8], name: &str) -> Option<&'a str> {
    lines(release).find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim_ascii))
}

/// What a release says of a file, and the folder of files that are kept by that sum.
pub(super) struct Sized {
    pub sum: Checksum,
    pub bytes: u64,
    folder: &'static str,
}

/// What a release says of a file, by the best of its sums.
pub(super) fn sum_in(release: &[u8], name: &str) -> Option<Sized> {
    FOLDERS[..2].iter().find_map(|(folder, algorithm)| {
        let mut inside = false;
        let mut told = lines(release).filter(|line| {
            let goes_on = line.starts_with(' ');
            if !goes_on {
                inside = line.strip_suffix(':') == Some(folder);
            }
            goes_on && inside
        });
        told.find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (sum, bytes, named) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            let is_it = named.strip_prefix("./").unwrap_or(named) == name;
            let sum = Checksum::from_hex(*algorithm, sum).filter(|_| is_it)?;
            Some(Sized { sum, bytes, folder })
        })
    })
}

fn is_signed(beginning: &[u8]) -> bool {
    beginning.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----")
}

fn is_signature(beginning: &[u8]) -> bool {
    beginning.starts_with(b"-----BEGIN PGP SIGNATURE-----")
}

fn is_release(beginning: &[u8]) -> bool {
    const FIELDS: [&str; 8] =
        ["Origin:", "Label:", "Suite:", "Codename:", "Date:", "Architectures:", "MD5Sum:", "SHA256:"];
    !beginning.starts_with(b"<") && lines(beginning).any(|line| FIELDS.iter().any(|field| line.starts_with(field)))
}

/// The format of a package's outer archive (deb(5)).
fn is_archive(beginning: &[u8]) -> bool {
    beginning.starts_with(b"!<arch>\n")
}

#[cfg(test)]
mod tests {
    use super::super::Ecosystem;
    use super::super::fuzz::ask;
    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const OTHER: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn routed(path: &str) -> Route {
        ask(path, &["http://deb.example/debian/"], |request| Apt.route(request))
            .unwrap_or_else(|why| panic!("{path}: {why}"))
    }

    fn cached(path: &str) -> Lookup {
        match routed(path) {
            Route::Cached(lookup) => *lookup,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn member(path: &str) -> Member {
        match routed(path) {
            Route::Member(member) => *member,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn text(by_hash: &str) -> String {
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: Test\nAcquire-By-Hash: {by_hash}\nMD5Sum:\n \
             d41d8cd98f00b204e9800998ecf8427e 0 main/x\nSHA256:\n {OTHER}     3 main/binary-amd64/Packages\n \
             {SUM}        0 main/binary-amd64/Packages.xz\n {SUM} 0 ./Sources.gz\nDescription: x\n {OTHER} 3 main/y\n"
        )
    }

    #[test]
    fn packages_and_files_by_hash_never_change() {
        for path in [
            "/dists/s/pool/stable/amd64/x_1_amd64.deb",
            "/pool/main/h/hello/hello_2.10-3_amd64.deb",
            "/pool/main/h/hello/hello_2.10.orig.tar.gz",
            "/x/a_1_all.udeb",
        ] {
            assert_eq!(cached(path).freshness, Freshness::Immutable, "{path}");
        }
        let found = cached(&format!("/dists/s/main/binary-amd64/by-hash/SHA256/{SUM}"));
        assert!(matches!(found.expect, Expect::Sum(sum) if sum.hex() == SUM));
        let plus = cached("/pool/main/g/g%2b%2b/g%2b%2b_1_amd64.deb");
        assert_eq!(plus.key.path, "/debian/pool/main/g/g%2B%2B/g%2B%2B_1_amd64.deb");
        assert_eq!(plus.key.path, cached("/pool/main/g/g++/g++_1_amd64.deb").key.path);
    }

    #[test]
    fn a_release_is_of_its_archive() {
        for (path, archive) in [
            ("/dists/s/InRelease", "/debian"),
            ("/dists/s/updates/Release", "/debian"),
            ("/flat/amd64/InRelease", "/debian/flat/amd64"),
            ("/flat/./Release", "/debian/flat"),
        ] {
            let Route::Generation(found) = routed(path) else { panic!("{path}") };
            assert_eq!((found.archive.as_str(), found.document.freshness), (archive, EACH_TIME), "{path}");
        }
        assert_eq!(cached("/dists/s/Release.gpg").freshness, EACH_TIME);
    }

    #[test]
    fn an_index_means_what_a_release_says() {
        for (path, by) in [
            ("/dists/s/main/binary-amd64/Packages.xz", "/debian/dists/s/InRelease main/binary-amd64/Packages.xz"),
            ("/dists/s/main/binary-amd64/Release", "/debian/dists/s/InRelease main/binary-amd64/Release"),
            ("/dists/s/x", "/debian/dists/s/InRelease x"),
            ("/flat/Packages.gz", "/debian/flat/InRelease Packages.gz"),
            ("/Sources", "/debian/InRelease Sources"),
        ] {
            let found = member(path);
            assert_eq!(format!("{} {}", found.by[0].document.key.path, found.by[0].name), by);
            assert_eq!(found.plain.freshness, MINUTES);
        }
        let two = member("/dists/s/updates/main/binary-amd64/Packages");
        let by: Vec<_> = two.by.iter().map(|one| one.document.key.path.as_str()).collect();
        let paths = ["s/InRelease", "s/Release", "s/updates/InRelease", "s/updates/Release"];
        assert_eq!(by, paths.map(|path| format!("/debian/dists/{path}")));
    }

    #[test]
    fn what_is_meant_is_kept_by_its_hash() {
        let asked = member("/dists/s/main/binary-amd64/Packages.xz");
        let addresses = |by_hash: &str| {
            let found = (asked.meant)(text(by_hash).as_bytes(), &asked.by[0].name, &asked.plain).expect("is named");
            assert_eq!(found.key.path, format!("/debian/dists/s/main/binary-amd64/by-hash/SHA256/{SUM}"));
            assert_eq!(found.freshness, Freshness::Immutable);
            assert!(matches!(found.expect, Expect::Exactly { sum, bytes: 0 } if sum.hex() == SUM));
            assert_eq!(found.key, cached(&format!("/dists/s/main/binary-amd64/by-hash/SHA256/{SUM}")).key);
            let Origins::Listed(origins) = found.origins else { panic!("listed") };
            origins
                .iter()
                .map(|origin| origin.url.path().rsplit('/').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(addresses("yes"), [SUM, "Packages.xz"]);
        assert_eq!(addresses("no"), ["Packages.xz"]);
    }

    #[test]
    fn only_what_is_named_by_a_sound_sum_is_meant() {
        let release = text("yes");
        let named = |name: &str| sum_in(release.as_bytes(), name).map(|named| named.sum.hex());
        assert_eq!(named("Sources.gz").as_deref(), Some(SUM));
        assert_eq!(named("main/binary-amd64/Packages").as_deref(), Some(OTHER));
        for name in ["main/x", "main/y", "Packages", ""] {
            assert_eq!(named(name), None, "{name}");
        }
    }

    #[test]
    fn a_request_line_needs_proof() {
        let evidence = |path: &str| {
            let url = Url::parse(&format!("http://deb.example{path}")).expect("an address");
            Apt.recognise(&url).map(|found| found.evidence)
        };
        let hashed = format!("/debian/dists/s/main/by-hash/SHA256/{SUM}");
        for path in ["/debian/dists/s/InRelease", "/debian/dists/s/main/binary-amd64/Packages", hashed.as_str()] {
            assert_eq!(evidence(path), Some(Evidence::InItself), "{path}");
        }
        assert_eq!(evidence("/debian/pool/h/hello_2.10-3_amd64.deb"), Some(Evidence::BelowGeneration));
        for path in [
            "/direct/browser_current_amd64.deb",
            "/pool/browser.deb",
            "/pool/a/a_1.orig.tar.gz",
            "/debian/pool/h/hello_2.10-3_amd64.deb?token=1",
            "/dists/s/by-hash/MD5Sum/d41d8cd98f00b204e9800998ecf8427e",
            "/index.html",
            "/",
        ] {
            assert_eq!(evidence(path), None, "{path}");
        }
    }

    #[test]
    fn by_mount_and_by_proxy_it_is_one_key() {
        let path = "/debian/pool/main/g/g%2b%2b_1_amd64.deb";
        let url = Url::parse(&format!("http://deb.example{path}")).expect("an address");
        let Some(Recognised { route: Route::Cached(found), .. }) = Apt.recognise(&url) else { panic!("{url}") };
        let Ok(Route::Cached(named)) = ask(&format!("/@http:deb.example{path}"), &[], |request| Apt.route(request))
        else {
            panic!("{path}")
        };
        assert_eq!(found.key, named.key);
    }

    #[test]
    fn a_portals_page_is_nothing_of_an_archives() {
        let page = b"<!DOCTYPE html>\n<html>\nDate: today\n</html>";
        assert!(!is_signed(page) && !is_signature(page) && !is_release(page) && !is_archive(page));
        assert!(is_signed(text("yes").as_bytes()) && is_release(b"Origin: Test\nSuite: s\n"));
    }
}
