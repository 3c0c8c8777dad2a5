//! The one table of client settings: what each tool of a build is told so that it fetches through larder. `run`, `env`
//! and the docs are made from it.
//!
//! Settings are variables wherever the tool has them, since those reach tools started by make and scripts too. Where it
//! has none (cargo), a small directory is laid over the tool's own. Nothing of the project is changed, and lockfiles stay
//! as they would be without larder.
//!
//! Tried with go 1.26, cargo 1.95, apt 2.6 and Maven 3.8. What tells builds apart travels differently for each: go refuses userinfo over plain
//! HTTP, so it stands in the path (`Client::labelled`); cargo names the folders of unpacked sources after the whole
//! address and builds anew what has moved, so its address must stay the same from build to build and the label goes in
//! its user agent; the proxy variables carry it as proxy authentication.

mod apt;
pub mod cargo;
mod go;
mod maven;
pub mod overlay;
pub mod pasted;
mod proxy;
pub mod render;

use std::collections::BTreeSet;
use std::path::PathBuf;

use url::Url;

use self::overlay::{Overlay, Script};
use super::discover::{Found, Surroundings};
use crate::ecosystem::{self, path};

/// Whom the settings are for.
pub struct Client<'a> {
    /// How the client reaches larder: `http://127.0.0.1:7070`; mounts are put after its path. The same for all builds.
    pub server: Url,
    /// The same with what tells this build apart in its path, where the server takes that; else the same as `server`.
    pub labelled: Url,
    /// The build's label, and a token or nothing.
    pub label: Option<(String, String)>,
    pub found: &'a [Found],
    /// The client's surroundings: variables that are added to, files that are laid over.
    pub around: &'a Surroundings<'a>,
    pub purpose: Purpose,
    /// A directory of ours on the client's machine that stays from run to run, for what is laid over tools' own files.
    pub overlays: PathBuf,
}

/// What becomes of the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// For one command that larder looks after.
    Command,
    /// Printed, and in force when larder may be gone.
    Print,
}

/// What a tool is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The server that they lead to.
    pub server: Option<Url>,
    pub env: Vec<(String, String)>,
    /// What else holds on this machine.
    pub here: Overlay,
    /// The same for a machine that is not this one: an image, a CI runner.
    pub elsewhere: Script,
    /// Variables by which a tool is lost when larder is gone.
    pub no_fallback: BTreeSet<String>,
    /// What stays as it is, and why, for people.
    pub notes: Vec<String>,
}

/// A row of the table.
pub struct Tool {
    /// What `larder env` calls it.
    pub word: &'static str,
    pub name: &'static str,
    /// The ecosystem whose mount it needs; None for the forward proxy. Rows without their mount tell nothing.
    pub ecosystem: Option<&'static str>,
    /// What it sets, for the docs.
    pub sets: &'static str,
    /// What larder keeps of what the tool fetches so.
    pub kept: &'static str,
    /// What the tool does when larder is gone.
    pub alone: &'static str,
    settings: fn(&Client<'_>) -> Settings,
}

/// In print, of a line whose tool does not go on without larder.
pub const NO_FALLBACK: &str = "no fallback";
const PROXY: &str = "reads the proxy variables";
const PROXY_KEPT: &str = "over plain HTTP all that RFC 9111 lets a cache keep; https is tunnelled, not kept, unless larder intercepts the host";

/// Every tool.
pub static TOOLS: [Tool; 12] = [
    Tool {
        word: "go",
        name: "go",
        ecosystem: Some("go"),
        sets: "`GOPROXY`",
        kept: "modules, toolchains, the checksum database",
        alone: "goes on: behind larder's address are `|` and the one that it stands for, or `direct`",
        settings: go::settings,
    },
    Tool {
        word: "cargo",
        name: "cargo",
        ecosystem: Some("cargo"),
        sets: "`CARGO_HOME`: a directory with source replacement, laid over the real one",
        kept: "the index and crates of sparse registries; git indexes and git dependencies are not",
        alone: NO_FALLBACK,
        settings: cargo::settings,
    },
    Tool {
        word: "npm",
        name: "npm, pnpm, yarn",
        ecosystem: Some("npm"),
        sets: "`npm_config_registry`",
        kept: "packages and their documents",
        alone: NO_FALLBACK,
        settings: npm_settings,
    },
    Tool {
        word: "pypi",
        name: "pip, uv",
        ecosystem: Some("pypi"),
        sets: "`PIP_INDEX_URL`, `PIP_TRUSTED_HOST`, `UV_DEFAULT_INDEX`",
        kept: "files and indexes",
        alone: NO_FALLBACK,
        settings: python_settings,
    },
    Tool {
        word: "proxy",
        name: "all that reads proxy variables",
        ecosystem: None,
        sets: "`http_proxy`, `https_proxy`, `no_proxy`, and each in capitals; `http_no_proxy` for Leiningen",
        kept: PROXY_KEPT,
        alone: NO_FALLBACK,
        settings: proxy::settings,
    },
    Tool {
        word: "apt",
        name: "apt",
        ecosystem: None,
        sets: "`APT_CONFIG`: a file that names a script by which apt finds its proxy",
        kept: "indexes as the client's own `InRelease` names them, and packages; of https sources where larder intercepts the host",
        alone: "goes on: the script answers `DIRECT` when larder takes no connection within a second",
        settings: apt::settings,
    },
    Tool {
        word: "maven",
        name: "Maven",
        ecosystem: None,
        sets: "`MAVEN_OPTS`: `-Dmaven.conf`, a directory laid over the installation's settings, with larder as mirror of \
               each repository that has none yet, and as proxy for the rest",
        kept: "artifacts and checksum files of mirrored repositories; others over plain HTTP; https by way of the proxy \
               where larder intercepts the host",
        alone: NO_FALLBACK,
        settings: maven::settings,
    },
    Tool {
        word: "gradle",
        name: "Gradle",
        ecosystem: None,
        sets: "`GRADLE_OPTS`: the JVM's proxy properties behind what is there (not tried)",
        kept: PROXY_KEPT,
        alone: NO_FALLBACK,
        settings: proxy::gradle,
    },
    Tool {
        word: "lein",
        name: "Leiningen",
        ecosystem: None,
        sets: PROXY,
        kept: "by the variables alone nothing: it refuses plain HTTP, and https is tunnelled unless larder intercepts the \
               host; by `:mirrors` and TLS, artifacts and checksum files",
        alone: NO_FALLBACK,
        settings: nothing,
    },
    Tool {
        word: "git",
        name: "git",
        ecosystem: None,
        sets: PROXY,
        kept: "nothing: its answers are not to be reused, and https is tunnelled",
        alone: NO_FALLBACK,
        settings: nothing,
    },
    Tool {
        word: "curl",
        name: "curl, wget",
        ecosystem: None,
        sets: PROXY,
        kept: PROXY_KEPT,
        alone: NO_FALLBACK,
        settings: nothing,
    },
    Tool {
        word: "docker",
        name: "docker, buildah, podman",
        ecosystem: None,
        sets: "`--build-arg http_proxy=...`, or `proxies` in `~/.docker/config.json`: see the pages on them",
        kept: "what the tools of this list fetch in RUN steps; images are pulled by the daemon, which is not asked",
        alone: NO_FALLBACK,
        settings: nothing,
    },
];

/// The proxy variables are all that it needs.
fn nothing(_: &Client<'_>) -> Settings {
    Settings::default()
}

/// What all tools together are told.
pub fn settings(client: &Client<'_>) -> Settings {
    settings_of(client, &|_| true)
}

/// What those tools are told whose word is wanted.
pub fn settings_of(client: &Client<'_>, wanted: &dyn Fn(&str) -> bool) -> Settings {
    let mut all = Settings { server: Some(client.server.clone()), ..Settings::default() };
    for tool in TOOLS.iter().filter(|tool| tool.is_mounted() && wanted(tool.word)) {
        let one = (tool.settings)(client);
        if tool.alone == NO_FALLBACK {
            let names = one.env.iter().chain(&one.here.env).chain(&one.elsewhere.env).map(|(name, _)| name.clone());
            all.no_fallback.extend(names.filter(|name| !HARMLESS.contains(&name.to_ascii_lowercase().as_str())));
        }
        all.env.extend(one.env);
        all.here.env.extend(one.here.env);
        all.here.directories.extend(one.here.directories);
        all.here.files.extend(one.here.files);
        all.here.links.extend(one.here.links);
        all.here.programs.extend(one.here.programs);
        all.elsewhere.lines.push_str(&one.elsewhere.lines);
        all.elsewhere.env.extend(one.elsewhere.env);
        all.elsewhere.directories.extend(one.elsewhere.directories);
        all.notes.extend(one.notes);
    }
    all
}

/// Lead to no server.
const HARMLESS: [&str; 8] = [
    "no_proxy",
    "http_no_proxy",
    "cargo_http_user_agent",
    "pip_trusted_host",
    "larder_cargo_home",
    "larder_token",
    "larder_maven_server",
    "larder_maven_label",
];

/// The table for the docs.
pub fn markdown() -> String {
    let rows = TOOLS.iter().filter(|tool| tool.is_mounted());
    let head = "| Tool | `larder env` | What is set | What is kept | When larder is gone |\n|---|---|---|---|---|\n";
    rows.fold(head.to_owned(), |page, tool| {
        let Tool { word, name, sets, kept, alone, .. } = tool;
        format!("{page}| {name} | `{word}` | {sets} | {kept} | {alone} |\n")
    })
}

impl Tool {
    pub(crate) fn is_mounted(&self) -> bool {
        self.ecosystem.is_none_or(|name| ecosystem::ALL.iter().any(|known| known.about().name == name))
    }

    /// Whether the proxy variables are all that it is told.
    pub(crate) fn needs_variables(&self) -> bool {
        self.ecosystem.is_none() && !matches!(self.word, "apt" | "maven" | "gradle")
    }
}

impl Settings {
    /// Every variable that holds on this machine.
    pub fn env_here(&self) -> impl Iterator<Item = &(String, String)> {
        self.env.iter().chain(&self.here.env)
    }
}

impl Client<'_> {
    /// The address of an upstream through `server`: `SERVER/MOUNT/@HOST/base`, without a slash at the end. One that is
    /// ours already, as under a `larder run` within another, is not wrapped twice; one that names no upstream, as it does
    /// not.
    pub(crate) fn through(&self, server: &Url, mount: &str, upstream: &Url) -> String {
        let base = upstream.path().trim_end_matches('/');
        let server = server.as_str().trim_end_matches('/');
        if upstream.origin() != self.server.origin() {
            return format!("{server}/{mount}/{}{base}", path::name_in_path(upstream));
        }
        match base.split_once(&format!("/{mount}/@")) {
            Some((_, named)) => format!("{server}/{mount}/@{named}"),
            None if base.ends_with(&format!("/{mount}")) => format!("{server}/{mount}"),
            None => upstream.as_str().trim_end_matches('/').to_owned(),
        }
    }

    fn token(&self) -> Option<&str> {
        self.label.as_ref().map(|(_, token)| token.as_str()).filter(|token| !token.is_empty())
    }

    /// Whether tools reach their mounts by way of the proxy, to whom they show the token.
    pub(crate) fn shows_token_as_proxy(&self) -> bool {
        self.token().is_some() && self.server.scheme() == "http"
    }

    fn found(&self, ecosystem: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.ecosystem == ecosystem && found.name.is_empty())
    }
}

/// Whether the tool shows the source a credential: larder, in its place, would be shown none.
pub(crate) fn is_private(found: &Found) -> bool {
    found.settings.contains_key("token") || !found.secrets.is_empty()
}

pub(crate) fn asked_directly(tool: &str, found: &Found) -> String {
    let hosts: Vec<&str> = found.urls.iter().filter_map(|(url, _)| url.host_str()).collect();
    format!("{tool} has a credential for {} and asks there directly", hosts.join(", "))
}

fn npm_settings(client: &Client<'_>) -> Settings {
    let Some((url, _)) = client.found("npm").and_then(|found| found.urls.first()) else { return Settings::default() };
    let registry = format!("{}/", client.through(&client.server, "npm", url));
    Settings { env: vec![("npm_config_registry".into(), registry)], ..Settings::default() }
}

fn python_settings(client: &Client<'_>) -> Settings {
    let Some((url, _)) = client.found("pypi").and_then(|found| found.urls.first()) else { return Settings::default() };
    let index = format!("{}/", client.through(&client.server, "pypi", url));
    let mut env = vec![("PIP_INDEX_URL".into(), index.clone()), ("UV_DEFAULT_INDEX".into(), index)];
    if let Some(host) = client.server.host_str().filter(|_| client.server.scheme() == "http") {
        env.push(("PIP_TRUSTED_HOST".into(), host.into()));
    }
    Settings { env, ..Settings::default() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::discover::tool::NoTools;
    use super::*;
    use crate::model::lookup::Fallback;

    pub(crate) fn with_client<T>(
        found: &[Found],
        env: &[(&str, &str)],
        root: &Path,
        then: impl FnOnce(&Client<'_>) -> T,
    ) -> T {
        let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let around = Surroundings::new(root, &root.join("app"), env, &NoTools);
        then(&Client {
            server: Url::parse("http://larder.example:7070").expect("is a URL"),
            labelled: Url::parse("http://larder.example:7070/b/42").expect("is a URL"),
            label: Some(("build".into(), "t/k".into())),
            found,
            around: &around,
            purpose: Purpose::Command,
            overlays: PathBuf::from("/cache/larder"),
        })
    }

    pub(crate) fn variable<'a>(settings: &'a Settings, name: &str) -> &'a str {
        settings.env_here().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    #[test]
    fn gos_list_keeps_its_signs_and_words() {
        let mut found = Found::one("go", "", "go.env".into(), "https://go.example").expect("is an address");
        found.settings.insert("GOPROXY", "https://go.example/,http://b.example:81/x/|/srv/go,direct".into());
        let set = with_client(&[found], &[], Path::new("/nowhere"), settings);
        let base = "http://larder.example:7070/b/42/go";
        let list = format!("{base}/@go.example,{base}/@http:b.example:81/x|/srv/go,direct");
        assert_eq!(variable(&set, "GOPROXY"), list);
    }

    #[test]
    fn what_leads_here_already_is_not_wrapped_twice() {
        let mut found = Found::one("go", "", "$GOPROXY".into(), "https://go.example").expect("is an address");
        let list =
            "http://larder.example:7070/b/41/go/@go.example/,http://larder.example:7070/go/,https://x.example/go/@y/";
        found.settings.insert("GOPROXY", list.into());
        let set = with_client(&[found], &[], Path::new("/nowhere"), settings);
        let base = "http://larder.example:7070";
        let list = format!("{base}/b/42/go/@go.example,{base}/b/42/go,{base}/b/42/go/@x.example/go/@y");
        assert_eq!(variable(&set, "GOPROXY"), list);
    }

    #[test]
    fn without_an_upstream_only_the_proxy_is_set() {
        let env = [("NO_PROXY", "corp.example, localhost")];
        let set = with_client(&[], &env, Path::new("/nowhere"), settings);
        assert_eq!(variable(&set, "https_proxy"), "http://build:t%2Fk@larder.example:7070");
        assert_eq!(variable(&set, "HTTP_PROXY"), variable(&set, "http_proxy"));
        assert_eq!(variable(&set, "no_proxy"), "corp.example,localhost,127.0.0.1,::1");
        assert_eq!(set.env.len(), 7);
    }

    #[test]
    fn a_label_without_a_token_has_an_empty_password_since_git_would_ask_for_one() {
        let around = Surroundings::new(Path::new("/nowhere"), Path::new("/nowhere"), BTreeMap::new(), &NoTools);
        let server = Url::parse("http://larder.example:7070").expect("is a URL");
        let label = Some(("build-7".to_owned(), String::new()));
        let (overlays, purpose) = (PathBuf::from("/o"), Purpose::Command);
        let labelled = server.clone();
        let set = settings(&Client { labelled, server, label, found: &[], around: &around, purpose, overlays });
        assert_eq!(variable(&set, "https_proxy"), "http://build-7:@larder.example:7070");
    }

    #[test]
    fn a_token_reaches_the_mounts_too() {
        let mut found = Found::one("go", "", "go.env".into(), "https://go.example").expect("is an address");
        found.settings.insert("GOPROXY", "https://go.example,direct".into());
        let crates = Found::one("cargo", "", "x".into(), "https://crates.example/").expect("is an address");
        let around = Surroundings::new(Path::new("/nowhere"), Path::new("/nowhere"), BTreeMap::new(), &NoTools);
        let told = |server: &str, token: &str| {
            let server = Url::parse(server).expect("is a URL");
            let label = Some(("ci".to_owned(), token.to_owned()));
            let overlays = PathBuf::from("/o");
            let found = &[found.clone(), crates.clone()];
            let purpose = Purpose::Command;
            settings(&Client { labelled: server.clone(), server, label, found, around: &around, purpose, overlays })
        };
        // Go and cargo show no credential of their own over plain HTTP, but the proxy's to the proxy.
        let plain = told("http://larder.example:7070", "lrd_x");
        assert_eq!(variable(&plain, "http_proxy"), "http://ci:lrd_x@larder.example:7070");
        assert_eq!(variable(&plain, "no_proxy"), "localhost,127.0.0.1,::1");
        assert_eq!(variable(&plain, "GOPROXY"), "http://larder.example:7070/go/@go.example,direct");
        assert!(plain.notes.is_empty());
        assert_eq!(
            variable(&told("http://larder.example:7070", ""), "no_proxy"),
            "localhost,127.0.0.1,::1,larder.example"
        );
        let tls = told("https://larder.example:7070", "lrd_x");
        assert_eq!(variable(&tls, "no_proxy"), "localhost,127.0.0.1,::1,larder.example");
        assert_eq!(variable(&tls, "GOPROXY"), "https://ci:lrd_x@larder.example:7070/go/@go.example,direct");
        assert_eq!(variable(&tls, "CARGO_REGISTRIES_LARDER_TOKEN"), "Bearer lrd_x");
    }

    #[test]
    fn a_list_with_a_credential_is_left_alone_and_not_shown() {
        let mut found = Found::one("go", "", "$GOPROXY".into(), "https://me:hush@go.example").expect("is an address");
        found.settings.insert("GOPROXY", "https://go.example/,direct".into());
        let set = with_client(&[found], &[], Path::new("/nowhere"), settings);
        assert_eq!(variable(&set, "GOPROXY"), "");
        assert_eq!(set.notes, ["go has a credential for go.example and asks there directly"]);
    }

    #[test]
    fn rows_without_a_mount_tell_nothing() {
        let npm = Found::of("npm", "", "x".into(), [("https://npm.example".to_owned(), Fallback::OnAbsence)]);
        let set = with_client(&[npm.expect("is an address")], &[], Path::new("/nowhere"), settings);
        assert_eq!(variable(&set, "npm_config_registry").is_empty(), !markdown().contains("npm"));
    }
}
