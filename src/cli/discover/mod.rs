//! Which upstreams the tools of a build use already: read from their own files, and asked of a tool only where no file
//! tells. No host of a public registry is known here.
//!
//! Everything is read below a root and with an environment that are given, so that a checkout or an unpacked image can
//! be read with no tool installed. What is found never carries userinfo: that is a `Secret` of its own.

pub mod apt;
pub mod asked;
pub mod cargo;
mod clojure;
mod edn;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod go;
mod gradle;
mod jar;
pub mod maven;
pub mod npm;
mod npm_lock;
pub mod pip;
mod python_index;
mod python_project;
pub mod tool;
pub mod unpacked;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use url::Url;

use self::asked::{Kept, Question};
use self::tool::{AskTool, InstalledTools, NoTools};
use crate::model::lookup::Fallback;

/// Files larger than this are not read; lockfiles of large projects have some megabytes.
const FILE_BYTES: u64 = 32 << 20;
/// More entries of a directory are not looked at.
const DIRECTORY_ENTRIES: usize = 4096;
/// Links followed for one path, as Linux has it.
const LINKS: usize = 40;

/// Upstreams that a tool uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The ecosystem's name: its mount, where there is one.
    pub ecosystem: &'static str,
    /// Which of the tool's sources: cargo's registry, npm's scope, Maven's repository. Empty for the default one.
    pub name: String,
    /// Base addresses in the tool's order, each ending in `/`, without userinfo.
    pub urls: Vec<(Url, Fallback)>,
    /// The file, variable or tool that told, for people.
    pub from: String,
    /// Userinfo that stood in the addresses.
    pub secrets: Vec<Secret>,
    /// What else the tool's own settings need to be written again, in the tool's words.
    pub settings: BTreeMap<&'static str, String>,
}

/// A credential found in an address. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Scheme, host and port that it belongs to.
    pub origin: String,
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secret({})", self.origin)
    }
}

/// Where to look.
pub struct Surroundings<'a> {
    /// `/`, or where an image or a checkout lies.
    root: PathBuf,
    /// Where the build's own files are.
    project: PathBuf,
    env: BTreeMap<String, String>,
    tools: &'a dyn AskTool,
    /// What tools answered before. None: they are asked each time.
    kept: Option<Kept>,
}

impl<'a> Surroundings<'a> {
    /// This machine, this directory, this environment.
    pub fn here(project: PathBuf) -> Surroundings<'static> {
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Surroundings { root: PathBuf::from("/"), project, env: env.collect(), tools: &InstalledTools, kept: None }
    }

    /// A checkout or an unpacked image: its files alone.
    pub fn unpacked(root: &Path) -> Surroundings<'static> {
        let env = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
        Surroundings { root: root.to_owned(), project: root.to_owned(), env, tools: &NoTools, kept: None }
    }

    pub fn new(root: &Path, project: &Path, env: BTreeMap<String, String>, tools: &'a dyn AskTool) -> Surroundings<'a> {
        Surroundings { root: root.to_owned(), project: project.to_owned(), env, tools, kept: None }
    }

    /// The same, with what tools answered before.
    pub fn keeping(mut self, kept: Kept) -> Surroundings<'a> {
        self.kept = Some(kept);
        self
    }

    pub fn project(&self) -> &Path {
        &self.project
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn vars(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// An absolute path as the tools see it, where it really lies.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let below = path.as_ref().components().filter(|part| matches!(part, Component::Normal(_)));
        below.fold(self.root.clone(), |at, part| at.join(part))
    }

    /// The user's home, where it really lies.
    pub fn home(&self) -> PathBuf {
        self.at(self.var("HOME").unwrap_or("/root"))
    }

    /// `$XDG_CONFIG_HOME`, or `.config` in the home.
    pub fn config_home(&self) -> PathBuf {
        self.var("XDG_CONFIG_HOME").map_or_else(|| self.home().join(".config"), |dir| self.at(dir))
    }

    /// A text file; None when it is missing, too large or not UTF-8.
    pub fn read(&self, path: &Path) -> Option<String> {
        let mut text = String::new();
        let read = self.open(path)?.take(FILE_BYTES + 1).read_to_string(&mut text).ok()?;
        (read as u64 <= FILE_BYTES).then_some(text)
    }

    /// A file; None when it is missing.
    pub fn open(&self, path: &Path) -> Option<File> {
        let path = self.inside(path)?;
        // Looked at before it is opened: a pipe would hold us up.
        path.metadata().ok().filter(|about| about.is_file()).and_then(|_| File::open(&path).ok())
    }

    /// The nearest file of a name, in the project's directory or above it, and its text.
    pub fn above(&self, name: &str) -> Option<(PathBuf, String)> {
        let dirs = self.project.ancestors().take_while(|dir| dir.starts_with(&self.root));
        dirs.map(|dir| dir.join(name)).find_map(|path| Some((path.clone(), self.read(&path)?)))
    }

    /// Files in a directory by name; none when there is no such directory.
    pub fn list(&self, dir: &Path) -> Vec<PathBuf> {
        let Some(Ok(entries)) = self.inside(dir).map(|dir| dir.read_dir()) else { return Vec::new() };
        let mut paths: Vec<_> =
            entries.take(DIRECTORY_ENTRIES).filter_map(|entry| Some(dir.join(entry.ok()?.file_name()))).collect();
        paths.sort();
        paths
    }

    /// Where a path leads: links are followed as they are for whoever lives below the root. None for a circle; what is not
    /// there may lead to nothing.
    pub fn inside(&self, path: &Path) -> Option<PathBuf> {
        if self.root == Path::new("/") {
            return path.canonicalize().ok();
        }
        let below = path.strip_prefix(&self.root).ok()?;
        let mut ahead: Vec<PathBuf> = below.components().rev().map(|part| part.as_os_str().into()).collect();
        let (mut at, mut links) = (self.root.clone(), 0);
        while let Some(part) = ahead.pop() {
            match part.components().next()? {
                Component::Normal(name) => at.push(name),
                Component::ParentDir if at != self.root => at = at.parent()?.to_owned(),
                Component::ParentDir | Component::CurDir | Component::RootDir | Component::Prefix(_) => continue,
            }
            let Ok(target) = at.read_link() else { continue };
            links += 1;
            at = if target.is_absolute() { self.root.clone() } else { at.parent()?.to_owned() };
            ahead.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
            if links > LINKS {
                return None;
            }
        }
        Some(at)
    }

    /// `${NAME}` with the variable's value, `${NAME:-text}` and `${NAME-text}` with the text where it has none. None
    /// where a variable has no value: what is left would be no address.
    pub fn expanded(&self, text: &str) -> Option<String> {
        filled(text, |inside| {
            let (name, other) = inside.split_once('-').map_or((inside, None), |(name, other)| (name, Some(other)));
            self.var(name.trim_end_matches([':', '?'])).or(other).map(str::to_owned)
        })
    }

    /// Whether the user's netrc has a credential for a host. Tools that read it would show it to nobody but that host.
    pub fn is_in_netrc(&self, url: &Url) -> bool {
        let path = self.var("NETRC").map_or_else(|| self.home().join(".netrc"), |path| self.at(path));
        let text = self.read(&path).unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        words.windows(2).any(|pair| pair[0] == "machine" && url.host_str() == Some(pair[1]))
    }

    /// A path as people know it: as the tools see it, not where an image was unpacked.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).map_or(path.display().to_string(), |below| format!("/{}", below.display()))
    }

    /// What a tool answers, now or before. None when it is not installed, fails, or may not be asked.
    pub fn ask(&self, question: &Question) -> Option<String> {
        let start = |arguments: &[&str]| self.tools.ask(question.program, arguments);
        match &self.kept {
            Some(kept) => kept.ask(question, self, &start),
            None => start(question.arguments).as_deref().and_then(question.answer),
        }
    }

    /// What a tool prints now. None as in `ask`.
    pub fn ask_now(&self, program: &str, arguments: &[&str]) -> Option<String> {
        self.tools.ask(program, arguments)
    }
}

/// Looks for one tool's upstreams.
type Look = fn(&Surroundings<'_>) -> Vec<Found>;
static LOOKS: [Look; 6] = [apt::look, cargo::look, go::look, maven::look, npm::look, pip::look];

/// Everything that the surroundings tell, the default source of each ecosystem first. All are looked for at once: a tool
/// that has to be asked takes its time.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    std::thread::scope(|scope| {
        let looks = LOOKS.map(|look| scope.spawn(move || look(around)));
        // A look that panicked found nothing.
        looks.into_iter().flat_map(|look| look.join().unwrap_or_default()).collect()
    })
}

impl Found {
    /// What `texts` name, with the fallback of each; None when no one is an address.
    pub fn of(
        ecosystem: &'static str,
        name: &str,
        from: String,
        texts: impl IntoIterator<Item = (String, Fallback)>,
    ) -> Option<Found> {
        let mut found = Found {
            ecosystem,
            name: name.to_owned(),
            urls: Vec::new(),
            from,
            secrets: Vec::new(),
            settings: BTreeMap::new(),
        };
        for (text, next) in texts {
            let Some((url, secret)) = address(&text) else { continue };
            if !found.urls.iter().any(|(known, _)| *known == url) {
                found.urls.push((url, next));
            }
            found.secrets.extend(secret);
        }
        (!found.urls.is_empty()).then_some(found)
    }

    /// One address, asked alone.
    pub fn one(ecosystem: &'static str, name: &str, from: String, text: &str) -> Option<Found> {
        Found::of(ecosystem, name, from, [(text.to_owned(), Fallback::OnAbsence)])
    }
}

/// The first of each name: the nearest setting wins. One that has a name and leads where another leads too says nothing
/// new.
pub(crate) fn firsts(all: Vec<Found>) -> Vec<Found> {
    let mut kept: Vec<Found> = Vec::new();
    for found in all {
        if !kept.iter().any(|known| known.name == found.name || known.urls == found.urls && is_host(&found)) {
            kept.push(found);
        }
    }
    kept
}

/// Whether a source has no name of its own but its host's.
fn is_host(found: &Found) -> bool {
    found.urls.iter().any(|(url, _)| url.host_str() == Some(&found.name))
}

/// Reads the base address of a registry.
///
/// *Shape*: http or https with a host; path ends in `/`; userinfo, query and fragment taken off.
pub fn address(text: &str) -> Option<(Url, Option<Secret>)> {
    let mut url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    url.host_str().filter(|host| !host.is_empty())?;
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let origin = url.origin().ascii_serialization();
    let secret = (!user.is_empty() || !password.is_empty()).then_some(Secret { origin, user, password });
    Some((url, secret))
}

/// A text with each `${...}` in it replaced by what `value` has for it. None where it has nothing: what is left would be
/// no address.
pub(crate) fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut pieces = text.split("${");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (inside, after) = piece.split_once('}')?;
        out.push_str(&value(inside)?);
        out.push_str(after);
    }
    Some(out)
}

/// `name = value` lines of an ini-like file, with the section each stands in; comments (`#`, `;`) and blank lines skipped.
pub(crate) fn ini(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            return None;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim();
            return None;
        }
        let (name, value) = line.split_once('=')?;
        Some((section, name.trim(), value.trim().trim_matches(['"', '\''])))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory that stands for a machine.
    pub(crate) struct Machine {
        pub dir: tempfile::TempDir,
        pub env: BTreeMap<String, String>,
    }

    impl Machine {
        pub fn new(files: &[(&str, &str)]) -> Machine {
            let dir = tempfile::tempdir().expect("a temporary directory");
            for (path, text) in files {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().expect("has a parent")).expect("a directory");
                std::fs::write(path, text).expect("a file");
            }
            Machine { dir, env: BTreeMap::from([("HOME".into(), "/home/me".into())]) }
        }

        pub fn with(mut self, name: &str, value: &str) -> Machine {
            self.env.insert(name.into(), value.into());
            self
        }

        pub fn look(&self, look: Look) -> Vec<Found> {
            self.look_asking(look, &NoTools)
        }

        pub fn look_asking(&self, look: Look, tools: &dyn AskTool) -> Vec<Found> {
            let project = self.dir.path().join("build/app");
            look(&Surroundings::new(self.dir.path(), &project, self.env.clone(), tools))
        }
    }

    pub(crate) fn urls(found: &Found) -> Vec<&str> {
        found.urls.iter().map(|(url, _)| url.as_str()).collect()
    }

    #[test]
    fn an_address_gives_up_its_secret() {
        let (url, secret) = address("https://me:p%40ss@pkg.example/base?x#y").expect("is an address");
        assert_eq!(url.as_str(), "https://pkg.example/base/");
        let secret = secret.expect("has userinfo");
        assert_eq!((&*secret.origin, &*secret.user, &*secret.password), ("https://pkg.example", "me", "p@ss"));
        assert!(!format!("{secret:?}").contains("p@ss"));
        for text in ["", "direct", "file:///srv/mirror", "pkg.example", "https://"] {
            assert!(address(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_image_is_read_without_leaving_it() {
        let machine = Machine::new(&[("etc/real", "inside")]);
        let outside = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(outside.path().join("secret"), "outside").expect("a file");
        let link = |target: &Path, at: &str| {
            std::os::unix::fs::symlink(target, machine.dir.path().join(at)).expect("a link");
        };
        link(&outside.path().join("secret"), "etc/link");
        link(Path::new("/etc/real"), "etc/alternative");
        link(Path::new("../../../etc"), "far");
        link(Path::new("/loop/x"), "loop");
        let around = Surroundings::unpacked(machine.dir.path());
        assert_eq!(around.read(&around.at("/etc/real")).as_deref(), Some("inside"));
        assert_eq!(around.read(&around.at("/etc/link")), None);
        assert_eq!(around.read(&around.at("/etc/alternative")).as_deref(), Some("inside"), "as the image has it");
        assert_eq!(around.read(&around.at("/far/real")).as_deref(), Some("inside"), "there is nothing above the root");
        assert_eq!(around.read(&around.at("/loop/x")), None);
        assert_eq!(around.at("/../../etc/real"), machine.dir.path().join("etc/real"));
        assert_eq!(around.shown(&around.at("/etc/real")), "/etc/real");
    }

    #[test]
    fn variables_are_filled_in_or_the_line_is_left_out() {
        let machine = Machine::new(&[("home/me/.netrc", "machine pkg.example\nlogin me\npassword hush\n")]);
        let machine = machine.with("HOST", "pkg.example").with("EMPTY", "");
        let around = Surroundings::new(machine.dir.path(), machine.dir.path(), machine.env.clone(), &NoTools);
        for (text, value) in [
            ("https://${HOST}/a", Some("https://pkg.example/a")),
            ("${NONE-x}${NONE:-y}${HOST-z}", Some("xypkg.example")),
            ("https://$HOST", Some("https://$HOST")),
            ("https://${NONE}/", None),
            ("https://${EMPTY?}/", None),
            ("https://${HOST", None),
        ] {
            assert_eq!(around.expanded(text).as_deref(), value, "{text}");
        }
        let has = |url: &str| around.is_in_netrc(&Url::parse(url).expect("is a URL"));
        assert!(has("https://pkg.example/x/") && !has("https://other.example/"));
    }

    #[test]
    fn an_empty_machine_tells_only_what_cargo_carries() {
        let machine = Machine::new(&[]);
        let around = Surroundings::unpacked(machine.dir.path());
        let found = look(&around);
        assert!(found.iter().all(|found| found.ecosystem == "cargo"), "{found:?}");
    }
}
