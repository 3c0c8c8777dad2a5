//! From what a machine's tools use to what they are told, so that they fetch through larder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use url::Url;

use super::discover::asked::Kept;
use super::discover::{Found, Surroundings, look};
use super::failure::Failure;
use super::out;
use super::tools::{self, Purpose, Settings};
use crate::app::adopted::Source;
use crate::config::print::{Adopted, Discovered};
use crate::config::sections::Next;
use crate::ecosystem;
use crate::model::lookup::Fallback;
use crate::protocol::label;
use crate::runtime::clock::SystemClock;

/// Looks at the tools of this machine and of the directory that the command runs in. Blocks: a tool may be asked.
pub(crate) fn found_here() -> Vec<Found> {
    look(&Surroundings::here(std::env::current_dir().unwrap_or_default()))
}

/// The same, with what tools answered before, which this data directory keeps.
pub(crate) fn known_here(data: &Path) -> Vec<Found> {
    let around = Surroundings::here(std::env::current_dir().unwrap_or_default());
    look(&around.keeping(Kept { dir: data.join("asked"), clock: SystemClock::new() }))
}

/// Found on a machine where every tool is pointed at larder already, at addresses that name no upstream: the server's own
/// are meant.
pub(crate) fn unnamed(server: &Url) -> Vec<Found> {
    let server = server.as_str().trim_end_matches('/');
    let one =
        |name: &'static str| Found::one(name, "", "the server's own upstreams".to_owned(), &format!("{server}/{name}"));
    let mut all: Vec<Found> = ["apt", "cargo", "go", "maven", "npm", "pypi"].into_iter().filter_map(one).collect();
    for found in &mut all {
        match found.ecosystem {
            "cargo" => found.settings.insert("source", "crates-io".to_owned()),
            "go" => found.settings.insert("GOPROXY", format!("{server}/go|direct")),
            _ => None,
        };
    }
    all
}

/// A server, and how its clients are told apart.
pub(crate) struct Target {
    /// As the tools reach it.
    pub server: Url,
    /// The same with the build's label in its path, where the server takes that.
    pub labelled: Url,
    /// The build's label, and a token or nothing.
    pub label: Option<(String, String)>,
    pub overlays: PathBuf,
}

pub(crate) fn wrong_label(label: &str) -> Failure {
    Failure::usage(format!("{label:?} cannot be a build label"), "use up to 64 letters, digits and -_.:/+@#=")
}

/// The address that tools are given: `/~LABEL` in its path counts a request for that label.
pub(crate) fn tools_url(base: &Url, label: Option<&str>) -> Url {
    let mut url = base.clone();
    if let Some(label) = label {
        url.set_path(&format!("{}{}", base.path().trim_end_matches('/'), label::in_path(label)));
    }
    url
}

/// What proxies are shown. None: nothing to tell.
pub(crate) fn credential(label: Option<&str>, token: Option<&str>) -> Option<(String, String)> {
    match (label, token) {
        (None, None) => None,
        (label, token) => Some((label.unwrap_or("larder").to_owned(), token.unwrap_or_default().to_owned())),
    }
}

/// What the tools of this machine are told for one command.
pub(crate) fn settings(target: Target, found: &[Found]) -> Settings {
    told(target, found, Purpose::Command, &|_| true)
}

/// What is printed for some of them, by their words.
pub(crate) fn printed(target: Target, found: &[Found], wanted: &dyn Fn(&str) -> bool) -> Settings {
    told(target, found, Purpose::Print, wanted)
}

fn told(target: Target, found: &[Found], purpose: Purpose, wanted: &dyn Fn(&str) -> bool) -> Settings {
    let around = Surroundings::here(std::env::current_dir().unwrap_or_default());
    let Target { server, labelled, label, overlays } = target;
    let client = tools::Client { server, labelled, label, found, around: &around, purpose, overlays };
    tools::settings_of(&client, wanted)
}

/// What was found, as the server takes it.
pub(crate) fn sources(found: &[Found]) -> Vec<Source> {
    let each = |found: &Found| {
        let (name, found_in) = (found.name.clone(), found.from.clone());
        let source = move |(url, next): &(Url, Fallback)| Source {
            ecosystem: found.ecosystem.to_owned(),
            name: name.clone(),
            url: url.to_string(),
            next: *next,
            found_in: found_in.clone(),
        };
        found.urls.iter().map(source).collect::<Vec<_>>()
    };
    found.iter().flat_map(each).collect()
}

/// What `init --json` prints and `upstream import` sends.
pub(crate) fn as_json(sources: &[Source]) -> Value {
    let each = |source: &Source| {
        let next = match source.next {
            Fallback::OnAbsence => "absence",
            Fallback::OnFailure => "failure",
        };
        json!({ "ecosystem": source.ecosystem, "name": source.name, "url": source.url, "next": next,
                "found_in": source.found_in })
    };
    json!({ "upstreams": sources.iter().map(each).collect::<Vec<_>>() })
}

/// What was found, as a configuration holds it: default sources of ecosystems that are mounted, and further hosts.
pub(crate) fn discovered(sources: &[Source]) -> Discovered {
    let mounted = |name: &str| ecosystem::ALL.iter().any(|known| known.about().name == name);
    let mut discovered = Discovered::default();
    for source in sources {
        let adopted = || Adopted {
            url: source.url.clone(),
            next: match source.next {
                Fallback::OnAbsence => Next::Absence,
                Fallback::OnFailure => Next::Failure,
            },
            found_in: source.found_in.clone(),
        };
        if source.name.is_empty() && mounted(&source.ecosystem) {
            discovered.upstreams.entry(source.ecosystem.clone()).or_default().push(adopted());
        } else if let Some(host) = host_of(&source.url) {
            discovered.allow.entry(host).or_insert_with(|| source.found_in.clone());
        }
    }
    discovered
}

fn host_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Tells which origins had a credential in their address: it was left out.
pub(crate) fn note_secrets(found: &[Found]) {
    let origins: BTreeMap<&str, &str> =
        found.iter().flat_map(|found| found.secrets.iter().map(|secret| (&*secret.origin, &*found.from))).collect();
    for (origin, from) in origins {
        out::note(&format!(
            "{from} has a credential for {origin}, which is not written: keep it with larder init --credentials, in netrc, \
             or in [upstream] credentials"
        ));
    }
}

/// *Errors*: the file or link that could not be made.
pub(crate) fn lay(settings: &Settings) -> Result<(), Failure> {
    settings.here.lay().map_err(|error| {
        Failure::failed(
            format!("settings for the build's tools cannot be written: {error}"),
            "name another with --data DIR",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_stands_in_the_path() {
        let base = Url::parse("http://cache.example:7070/").expect("an address");
        let url = |label| tools_url(&base, label).to_string();
        assert_eq!(url(Some("pr-42")), "http://cache.example:7070/~pr-42");
        assert_eq!(url(Some("pr/42")), "http://cache.example:7070/~pr%2F42");
        assert_eq!(url(None), "http://cache.example:7070/");
    }

    #[test]
    fn default_sources_are_adopted_and_others_allowed() {
        let source = |ecosystem: &str, name: &str, url: &str| Source {
            ecosystem: ecosystem.into(),
            name: name.into(),
            url: url.into(),
            next: Fallback::OnAbsence,
            found_in: "a file".into(),
        };
        let sources = [
            source("go", "", "https://go.example/"),
            source("cargo", "corp", "https://crates.example:8443/index/"),
            source("unheard-of", "", "http://packages.example/"),
        ];
        let discovered = discovered(&sources);
        assert_eq!(discovered.upstreams.keys().collect::<Vec<_>>(), ["go"]);
        assert_eq!(discovered.allow.keys().collect::<Vec<_>>(), ["crates.example:8443", "packages.example"]);
        let json = as_json(&sources[..1]);
        assert_eq!(
            json["upstreams"][0],
            json!({"ecosystem": "go", "name": "", "url": "https://go.example/", "next": "absence", "found_in": "a file"})
        );
    }
}
