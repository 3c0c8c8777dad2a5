//! The one table of client settings: what each tool of a build is told so that it fetches through larder. `run`, `env`
//! and the docs are made from it.
//!
//! Settings are variables wherever the tool has them, since those reach tools started by make and scripts too. Where it
//! has none (cargo), a small directory is laid over the tool's own. Nothing of the project is changed, and lockfiles stay
//! as they would be without larder.
//!
//! Tried with go 1.26 and cargo 1.95. What tells builds apart travels differently for each: go refuses userinfo over plain
//! HTTP, so it stands in the path (`Client::labelled`); cargo names the folders of unpacked sources after the whole
//! address and builds anew what has moved, so its address must stay the same from build to build and the label goes in
//! its user agent; the proxy variables carry it as proxy authentication.

pub mod cargo;
pub mod render;

use std::fs;
use std::io;
use std::path::PathBuf;

use url::Url;

use super::discover::{Found, Surroundings, address, go};
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
    /// A directory of ours on the client's machine that stays from run to run, for what is laid over tools' own files.
    pub overlays: PathBuf,
}

/// What a tool is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pub env: Vec<(String, String)>,
    /// What else holds on this machine.
    pub here: Overlay,
    /// The same for a machine that is not this one: an image, a CI runner.
    pub elsewhere: Script,
    /// What stays as it is, and why, for people.
    pub notes: Vec<String>,
}

/// Files laid over a tool's own, and the variables that lead the tool to them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overlay {
    pub env: Vec<(String, String)>,
    /// Made when missing, before the files and links.
    pub directories: Vec<PathBuf>,
    /// Path and text; written over.
    pub files: Vec<(PathBuf, String)>,
    /// Where the link is, and what it leads to.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Shell commands that make an overlay, and the variables that lead to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    /// POSIX shell; ends with a line feed unless empty.
    pub lines: String,
    /// To be exported after the lines; values stand between double quotes and may name the lines' variables.
    pub env: Vec<(String, String)>,
}

/// A row of the table.
pub struct Tool {
    pub name: &'static str,
    /// The ecosystem whose mount it needs; None for the forward proxy. Rows without their mount tell nothing.
    pub ecosystem: Option<&'static str>,
    /// What it sets, for the docs.
    pub sets: &'static str,
    settings: fn(&Client<'_>) -> Settings,
}

/// Every tool.
pub static TOOLS: [Tool; 5] = [
    Tool { name: "go", ecosystem: Some("go"), sets: "`GOPROXY`", settings: go_settings },
    Tool {
        name: "cargo",
        ecosystem: Some("cargo"),
        sets: "`CARGO_HOME`: a directory with source replacement, laid over the real one",
        settings: cargo::settings,
    },
    Tool { name: "npm, pnpm, yarn", ecosystem: Some("npm"), sets: "`npm_config_registry`", settings: npm_settings },
    Tool {
        name: "pip, uv",
        ecosystem: Some("pypi"),
        sets: "`PIP_INDEX_URL`, `PIP_TRUSTED_HOST`, `UV_DEFAULT_INDEX`",
        settings: python_settings,
    },
    Tool {
        name: "all that reads proxy variables",
        ecosystem: None,
        sets: "`http_proxy`, `https_proxy`, `no_proxy`, and each in capitals",
        settings: proxy_settings,
    },
];

/// What all tools together are told.
pub fn settings(client: &Client<'_>) -> Settings {
    let mut all = Settings::default();
    for tool in TOOLS.iter().filter(|tool| tool.is_mounted()) {
        let one = (tool.settings)(client);
        all.env.extend(one.env);
        all.here.env.extend(one.here.env);
        all.here.directories.extend(one.here.directories);
        all.here.files.extend(one.here.files);
        all.here.links.extend(one.here.links);
        all.elsewhere.lines.push_str(&one.elsewhere.lines);
        all.elsewhere.env.extend(one.elsewhere.env);
        all.notes.extend(one.notes);
    }
    all
}

/// The table for the docs.
pub fn markdown() -> String {
    let rows = TOOLS.iter().filter(|tool| tool.is_mounted());
    rows.fold("| Tool | What is set |\n|---|---|\n".to_owned(), |page, tool| {
        format!("{page}| {} | {} |\n", tool.name, tool.sets)
    })
}

impl Tool {
    fn is_mounted(&self) -> bool {
        self.ecosystem.is_none_or(|name| ecosystem::ALL.iter().any(|known| known.about().name == name))
    }
}

impl Settings {
    /// Every variable that holds on this machine.
    pub fn env_here(&self) -> impl Iterator<Item = &(String, String)> {
        self.env.iter().chain(&self.here.env)
    }
}

impl Overlay {
    /// Lays the files and links; variables are the caller's.
    ///
    /// *Errors*: the first thing that could not be made; what was made before stays.
    pub fn lay(&self) -> io::Result<()> {
        for dir in &self.directories {
            fs::create_dir_all(dir)?;
        }
        for (at, text) in &self.files {
            let fresh = at.with_extension(format!("new-{}", std::process::id()));
            fs::write(&fresh, text)?;
            fs::rename(&fresh, at)?;
        }
        for (at, target) in &self.links {
            if fs::read_link(at).is_ok_and(|known| known == *target) {
                continue;
            }
            let fresh = at.with_extension(format!("new-{}", std::process::id()));
            if fresh.is_symlink() {
                fs::remove_file(&fresh)?;
            }
            std::os::unix::fs::symlink(target, &fresh)?;
            fs::rename(&fresh, at)?;
        }
        Ok(())
    }
}

impl Client<'_> {
    /// The address of an upstream through `server`: `SERVER/MOUNT/@HOST/base`, without a slash at the end. One that is
    /// ours already, as under a `larder run` within another, is not wrapped twice.
    pub(crate) fn through(&self, server: &Url, mount: &str, upstream: &Url) -> String {
        let base = upstream.path().trim_end_matches('/');
        let server = server.as_str().trim_end_matches('/');
        if upstream.origin() != self.server.origin() {
            return format!("{server}/{mount}/{}{base}", path::name_in_path(upstream));
        }
        match base.split_once(&format!("/{mount}/@")) {
            Some((_, named)) => format!("{server}/{mount}/@{named}"),
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

/// The client's own list with each address replaced; `direct`, `off` and the signs between them stay.
fn go_settings(client: &Client<'_>) -> Settings {
    let Some(list) = client.found("go").and_then(|found| found.settings.get("GOPROXY")) else {
        return Settings::default();
    };
    let mut server = client.labelled.clone();
    if let Some((label, token)) =
        client.label.as_ref().filter(|_| client.token().is_some() && server.scheme() == "https")
    {
        // Cannot fail: the address has a host.
        let _ = server.set_username(label);
        let _ = server.set_password(Some(token));
    }
    let through = |item: &str| address(item).map(|(url, _)| client.through(&server, "go", &url));
    let list = go::write_list(&go::list_items(list), through);
    Settings { env: vec![("GOPROXY".into(), list)], ..Settings::default() }
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

/// The proxy variables; what the client had in `no_proxy` stays in it. larder itself is asked directly, but where a token
/// is needed and TLS is not spoken: the proxy's credential is then the one way in which every tool can show it.
fn proxy_settings(client: &Client<'_>) -> Settings {
    let mut proxy = client.server.clone();
    proxy.set_path("");
    if let Some((label, token)) = &client.label {
        // Cannot fail: the address has a host.
        let _ = proxy.set_username(label);
        let _ = proxy.set_password(Some(token).filter(|token| !token.is_empty()).map(String::as_str));
    }
    let mut proxy = proxy.as_str().trim_end_matches('/').to_owned();
    if client.label.is_some() && client.token().is_none() {
        // Where there is no password at all, git asks a terminal for it.
        proxy = proxy.replacen('@', ":@", 1);
    }
    let host = client.server.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let known = ["no_proxy", "NO_PROXY"].into_iter().find_map(|name| client.around.var(name)).unwrap_or_default();
    let mut direct: Vec<&str> = known.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let larder = Some(host.as_str()).filter(|_| !client.shows_token_as_proxy());
    for name in ["localhost", "127.0.0.1", "::1"].into_iter().chain(larder) {
        if !direct.contains(&name) {
            direct.push(name);
        }
    }
    let direct = direct.join(",");
    let pairs = [("http_proxy", &proxy), ("https_proxy", &proxy), ("no_proxy", &direct)];
    let env = pairs
        .into_iter()
        .flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_ascii_uppercase(), value.clone())]);
    Settings { env: env.collect(), ..Settings::default() }
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
        let list = format!("{base}/b/42/go/@go.example,{base}/go,{base}/b/42/go/@x.example/go/@y");
        assert_eq!(variable(&set, "GOPROXY"), list);
    }

    #[test]
    fn without_an_upstream_only_the_proxy_is_set() {
        let env = [("NO_PROXY", "corp.example, localhost")];
        let set = with_client(&[], &env, Path::new("/nowhere"), settings);
        assert_eq!(variable(&set, "https_proxy"), "http://build:t%2Fk@larder.example:7070");
        assert_eq!(variable(&set, "HTTP_PROXY"), variable(&set, "http_proxy"));
        assert_eq!(variable(&set, "no_proxy"), "corp.example,localhost,127.0.0.1,::1");
        assert_eq!(set.env.len(), 6);
    }

    #[test]
    fn a_label_without_a_token_has_an_empty_password_since_git_would_ask_for_one() {
        let around = Surroundings::new(Path::new("/nowhere"), Path::new("/nowhere"), BTreeMap::new(), &NoTools);
        let server = Url::parse("http://larder.example:7070").expect("is a URL");
        let label = Some(("build-7".to_owned(), String::new()));
        let overlays = PathBuf::from("/o");
        let set = settings(&Client { labelled: server.clone(), server, label, found: &[], around: &around, overlays });
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
            settings(&Client { labelled: server.clone(), server, label, found, around: &around, overlays })
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
        assert!(tls.notes[0].contains("anonymous_read"), "{:?}", tls.notes);
    }

    #[test]
    fn rows_without_a_mount_tell_nothing() {
        let npm = Found::of("npm", "", "x".into(), [("https://npm.example".to_owned(), Fallback::OnAbsence)]);
        let set = with_client(&[npm.expect("is an address")], &[], Path::new("/nowhere"), settings);
        assert_eq!(variable(&set, "npm_config_registry").is_empty(), !markdown().contains("npm"));
    }

    #[test]
    fn laying_twice_is_laying_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let set = Overlay {
            directories: vec![at("a/b")],
            files: vec![(at("a/config.toml"), "text".into())],
            links: vec![(at("a/.link"), at("a/b")), (at("a/dangling"), at("none"))],
            ..Overlay::default()
        };
        set.lay().expect("can be made");
        set.lay().expect("can be made again");
        assert_eq!(fs::read_to_string(at("a/config.toml")).expect("is there"), "text");
        assert_eq!(fs::read_link(at("a/.link")).expect("is a link"), at("a/b"));
        assert_eq!(fs::read_dir(at("a")).expect("is there").count(), 4);
    }
}
