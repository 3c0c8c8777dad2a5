//! From file, environment and flags to a checked `Config`, with every mistake in one line that says what to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Config;
use super::reader::{Node, Problem, Source, What};
use super::shape::{self, Shape};
use crate::model::kind::ErrorKind;

/// The configuration cannot be used. Its text is one line: where, which key, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    pub fn new(message: impl Into<String>) -> ConfigError {
        ConfigError { message: message.into().replace('\n', " ") }
    }

    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The process's environment, as data.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// What the process was started with; names and values that are not Unicode are left out.
    pub fn of_process() -> Variables {
        let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Variables(std::env::vars_os().filter_map(unicode).collect())
    }

    /// None: unset or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The platform's directory for a user's data.
    pub fn data_home(&self) -> Option<PathBuf> {
        let below = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
        self.absolute("XDG_DATA_HOME").or_else(|| self.absolute("HOME").map(|home| home.join(below)))
    }

    /// The platform's directory for a user's configuration.
    pub fn config_home(&self) -> Option<PathBuf> {
        self.absolute("XDG_CONFIG_HOME").or_else(|| self.absolute("HOME").map(|home| home.join(".config")))
    }

    fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Variables {
    fn from(pairs: [(&str, &str); N]) -> Variables {
        Variables(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// Settings given on the command line, which win over all else.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub listen: Option<String>,
    pub data: Option<PathBuf>,
}

/// A configuration and what it was made from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// None: no file was named and none stands in the usual places.
    pub file: Option<PathBuf>,
    /// What the operator should hear of, though it does no harm.
    pub notes: Vec<String>,
}

/// Composes the configuration.
///
/// *Errors*: an unreadable file, an unknown key or variable, a wrong value.
pub fn load(flags: &Flags, variables: &Variables) -> Result<Loaded, ConfigError> {
    let mut tree = Node::empty();
    let file = find(flags, variables);
    if let Some(path) = &file {
        tree.overlay(read(path)?);
    }
    let shape = shape::of::<Config>();
    let mut notes = Vec::new();
    for (name, value) in variables.0.iter().filter(|(name, _)| name.starts_with("LARDER_")) {
        match meaning(name, &shape) {
            Meaning::Setting(path) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                tree.overlay(Node::word(&path, value, Source::Variable(name.clone())));
            }
            Meaning::Other => {}
            Meaning::Stray => notes.push(format!("{name} is set but larder has no such setting")),
            Meaning::Unknown(remedy) => return Err(ConfigError::new(format!("{name}: no such setting; {remedy}"))),
        }
    }
    if let Some(listen) = &flags.listen {
        tree.overlay(Node::word(&["server", "listen"], listen, Source::Flag("--listen")));
    }
    if let Some(data) = &flags.data {
        let data = data.to_str().ok_or_else(|| ConfigError::new("--data: the path is not Unicode; choose another"))?;
        tree.overlay(Node::word(&["data", "dir"], data, Source::Flag("--data")));
    }
    let config = compose(tree, &shape)?;
    Ok(Loaded { config, file, notes })
}

/// Reads a configuration from text alone, as the tests and `init` do.
///
/// *Errors*: as `load`.
pub fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
    compose(document(name, text)?, &shape::of::<Config>())
}

fn compose(tree: Node, shape: &Shape) -> Result<Config, ConfigError> {
    let config = Config::deserialize(tree).map_err(|problem| told(&problem, shape))?;
    config.check()?;
    Ok(config)
}

/// The file to read: the flag, `LARDER_CONFIG`, the user's, the machine's.
fn find(flags: &Flags, variables: &Variables) -> Option<PathBuf> {
    let named = flags.config.clone().or_else(|| variables.get("LARDER_CONFIG").map(PathBuf::from));
    named.or_else(|| {
        let user = variables.config_home().map(|home| home.join("larder/larder.toml"));
        let machine = Some(PathBuf::from("/etc/larder/larder.toml"));
        [user, machine].into_iter().flatten().find(|path| path.is_file())
    })
}

fn read(path: &Path) -> Result<Node, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "no such file; make one with `larder init --write FILE`, or leave --config out"
            }
            std::io::ErrorKind::PermissionDenied => "may not be read; give this user the right to read it",
            std::io::ErrorKind::InvalidData => "is not UTF-8; save it as UTF-8",
            _ => return ConfigError::new(format!("{name}: cannot be read ({error}); name another with --config FILE")),
        };
        ConfigError::new(format!("{name}: {remedy}"))
    })?;
    document(&name, &text)
}

fn document(name: &str, text: &str) -> Result<Node, ConfigError> {
    Node::document(name, text)
        .map_err(|(line, why)| ConfigError::new(format!("{name}:{line}: not TOML: {why}; mend that line")))
}

/// One line for a problem: where, which key, what is wrong, what to do.
fn told(problem: &Problem, shape: &Shape) -> ConfigError {
    let place = problem.source.as_ref().map(|source| format!("{source}: ")).unwrap_or_default();
    let key = problem.path.join(".");
    match &problem.what {
        What::UnknownKey { key: unknown, known } => {
            let full = if key.is_empty() { unknown.clone() } else { format!("{key}.{unknown}") };
            ConfigError::new(format!("{place}unknown key {full}; {}", remedy_for(unknown, &key, known, shape)))
        }
        What::Wrong(why) => {
            let default = match super::print::default_of(&key) {
                Some(default) => format!("the default is {default}"),
                None => "see `larder config default`".to_owned(),
            };
            ConfigError::new(format!("{place}{key}: {why}; {default}"))
        }
    }
}

fn remedy_for(unknown: &str, section: &str, known: &[&str], shape: &Shape) -> String {
    let full = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    if let Some(near) = nearest(unknown, known.iter().copied()) {
        return format!("did you mean {}?", full(near));
    }
    let elsewhere = shape.leaves().into_iter().find(|(path, _)| path.rsplit('.').next() == Some(unknown));
    match (elsewhere, known) {
        (Some((path, _)), _) => format!("did you mean {path}?"),
        (None, []) => format!("[{section}] takes no keys; take it out"),
        (None, known) if section.is_empty() => format!("the sections are: {}", known.join(", ")),
        (None, known) => format!("[{section}] takes: {}", known.join(", ")),
    }
}

enum Meaning {
    Setting(Vec<String>),
    /// A variable of the command line's own, or one that a platform sets.
    Other,
    Stray,
    Unknown(String),
}

/// Variables that are no settings.
const OTHERS: [&str; 4] = ["LARDER_CONFIG", "LARDER_SERVER", "LARDER_TOKEN", "LARDER_LABEL"];

fn meaning(name: &str, shape: &Shape) -> Meaning {
    if OTHERS.contains(&name) {
        return Meaning::Other;
    }
    let rest = name.trim_start_matches("LARDER_").to_ascii_lowercase();
    if let Some(path) = shape.path_of(&rest) {
        return Meaning::Setting(path);
    }
    if is_service_link(&rest) {
        return Meaning::Other;
    }
    let Shape::Table(sections) = shape else { return Meaning::Stray };
    let in_a_section =
        sections.iter().any(|(section, _)| rest.strip_prefix(section).is_some_and(|tail| tail.starts_with('_')));
    let names: Vec<String> = shape.leaves().iter().map(|(path, _)| path.replace('.', "_").to_lowercase()).collect();
    match nearest(&rest, names.iter().map(String::as_str)) {
        Some(near) => Meaning::Unknown(format!("did you mean LARDER_{}?", near.to_ascii_uppercase())),
        None if in_a_section => Meaning::Unknown("unset it, or see `larder config default` for the keys".to_owned()),
        None => Meaning::Stray,
    }
}

/// What Kubernetes sets for a service called `larder…`: `LARDER_PORT`, `LARDER_SERVICE_HOST`, `LARDER_PORT_7070_TCP`.
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let service = words.windows(2).any(|pair| pair[0] == "service" && matches!(pair[1], "host" | "port"));
    let port = words.windows(2).any(|pair| pair[0] == "port" && number(pair[1]));
    service || port || words.last() == Some(&"port")
}

/// The word that was probably meant. None: nothing is near.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + word.len() / 4;
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits that turn one word into the other, a swap of neighbours counting one.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut least = (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i - 1] == *b && to[j - 1] == *a {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
