//! How package managers ask: pure grammars, one file each. No async, no clock, no I/O, no state; imports `model` alone.
//!
//! To add one: a file here, a word in `ALL`, a test with real clients under `tests/it/`, and `docs/ecosystems.md` made anew.

pub mod apt;
pub mod cargo;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod go;
pub mod maven;
pub mod path;

use crate::model::kind::ErrorKind;
use url::Url;

use crate::model::lookup::{About, Answer, Recognised, Rejection, Request, Route};

/// A package manager's grammar. Given the same request it gives the same answer.
pub trait Ecosystem: Send + Sync + 'static {
    fn about(&self) -> &'static About;

    /// Describes what the request wants.
    ///
    /// *Errors*: `Invalid` for what the protocol has no place for, `NotFound` for what it would answer 404 to.
    fn route(&self, request: &Request<'_>) -> Result<Route, Rejection>;

    /// What an address is that a client named as it is: a forward proxy's request line, or what TLS was taken off of.
    /// Keys are those that the mount would make of the same address. None: nothing that could be proven to be of this
    /// ecosystem; it stays under RFC 9111.
    fn recognise(&self, _url: &Url) -> Option<Recognised> {
        None
    }

    /// The error body that this ecosystem's clients show best. The status is chosen elsewhere and written over the one
    /// that is in the answer.
    fn error_body(&self, kind: ErrorKind, why: &str) -> Answer;
}

/// Every ecosystem; mounts, config keys, hints, metrics and docs iterate over this.
pub static ALL: &[&dyn Ecosystem] = &[&apt::Apt, &cargo::Cargo, &go::Go, &maven::Maven];

/// What the first ecosystem that knows an address makes of it, and where in `ALL` that is.
pub fn recognise(url: &Url) -> Option<(usize, Recognised)> {
    ALL.iter().enumerate().find_map(|(at, ecosystem)| Some((at, ecosystem.recognise(url)?)))
}

/// The text of `docs/ecosystems.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "<!-- Made from the ecosystems themselves; do not edit by hand. -->\n\n# Ecosystems\n\n\
         Each is mounted at `/NAME/`. Where an upstream stands in the path, `/NAME/@HOST/...` is asked at \
         `https://HOST/...`; `@HOST:PORT` and `@http:HOST:PORT` say port and scheme.\n\n\
         | Mount | Ecosystem | Specification | Kept for ever | Asked again | Without an upstream |\n\
         |---|---|---|---|---|---|\n",
    );
    for ecosystem in ALL {
        let About { name, title, spec, immutable, mutable, without_upstream, .. } = ecosystem.about();
        let without = match without_upstream {
            ErrorKind::NotFound => "not found: the client's own list goes on",
            ErrorKind::Invalid
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Busy
            | ErrorKind::Unavailable
            | ErrorKind::Corrupt
            | ErrorKind::Internal => "unavailable, with the command that mends it",
        };
        page.push_str(&format!("| `/{name}/` | {title} | {spec} | {immutable} | {mutable} | {without} |\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_ecosystem_has_a_row_and_a_name_of_its_own() {
        let page = markdown();
        for (at, ecosystem) in ALL.iter().enumerate() {
            let about = ecosystem.about();
            assert!(page.contains(&format!("| `/{}/` |", about.name)));
            assert!(!about.title.is_empty() && !about.spec.is_empty());
            assert!(ALL[..at].iter().all(|other| other.about().name != about.name));
        }
    }

    #[test]
    fn the_page_of_ecosystems_is_current() {
        assert_eq!(include_str!("../../docs/ecosystems.md"), markdown(), "write markdown() to docs/ecosystems.md");
    }

    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("@v".to_owned()),
            Just("list".to_owned()),
            Just("@latest".to_owned()),
            Just("v1.2.3.zip".to_owned()),
            Just("sumdb".to_owned()),
            Just("tile".to_owned()),
            Just("lookup".to_owned()),
            Just("config.json".to_owned()),
            Just("~dl".to_owned()),
            Just("ca".to_owned()),
            Just("rg".to_owned()),
            Just("cargo".to_owned()),
            Just("dists".to_owned()),
            Just("pool".to_owned()),
            Just("InRelease".to_owned()),
            Just("by-hash".to_owned()),
            Just("maven-metadata.xml".to_owned()),
            Just("a-1.0.jar.sha1".to_owned()),
            Just("1.0-SNAPSHOT".to_owned()),
            Just("%2e%2e".to_owned()),
            Just("%252e%252e".to_owned()),
            Just("@go.example".to_owned()),
            Just("@http:go.example:81".to_owned()),
            "[ -~]{0,12}",
            "\\PC{0,6}",
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.join("/")))
    }

    proptest! {
        #[test]
        fn any_path_gets_one_answer_below_its_base(path in paths()) {
            for ecosystem in ALL {
                fuzz::any_path(*ecosystem, &path);
            }
        }
    }
}
