//! The settings as documents: the annotated default, the generated page, what is in force.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::about;
use super::sections::Next;
use super::shape::{self, ANY, Shape};
use super::{Config, ConfigError};
use crate::model::units;

const HEAD: &str = "\
# Every setting of larder, each with its default. Take the `#` away to change one.
# A file wins over these defaults, a variable LARDER_SECTION_KEY over the file, and a flag over both.
";

/// The annotated default, as `config/default.toml` and `larder config default` have it.
pub fn default_file() -> String {
    with_upstreams(&Discovered::default())
}

/// What was discovered, for the annotated configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// By ecosystem, in order of preference.
    pub upstreams: BTreeMap<String, Vec<Adopted>>,
    /// Further hosts that clients may name, and where each was found.
    pub allow: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub url: String,
    pub next: Next,
    pub found_in: String,
}

/// The annotated default with what was discovered filled in.
pub fn with_upstreams(discovered: &Discovered) -> String {
    let mut out = HEAD.to_owned();
    if let Shape::Table(sections) = shape::of::<Config>() {
        let defaults = defaults();
        for (section, shape) in &sections {
            if let Shape::Table(keys) = shape
                && !keys.is_empty()
            {
                write_table(&mut out, section, keys, &defaults);
                if *section == "upstreams" {
                    write_allowed(&mut out, &discovered.allow);
                }
            }
            if let Shape::Named(inner) = shape {
                write_named(&mut out, section, inner, &discovered.upstreams);
            }
        }
    }
    out
}

/// What was discovered and nothing else: for a document in which the annotated default would be in the way.
pub fn upstreams_alone(discovered: &Discovered) -> String {
    let mut out = "# Found by `larder init`. All other settings have their defaults.\n".to_owned();
    if !discovered.allow.is_empty() {
        out.push_str("\n[upstreams]\n");
        write_allowed(&mut out, &discovered.allow);
    }
    for (ecosystem, found) in &discovered.upstreams {
        out.push_str(&format!("\n[ecosystem.{ecosystem}]\n"));
        write_found(&mut out, found);
    }
    out
}

fn write_table(out: &mut String, path: &str, keys: &[(&'static str, Shape)], defaults: &Table) {
    out.push('\n');
    comment(out, path);
    out.push_str(&format!("[{path}]\n"));
    for (key, shape) in keys {
        let full = format!("{path}.{key}");
        match shape {
            Shape::Table(_) => {}
            Shape::Named(_) => {
                comment(out, &full);
                out.push_str(&format!("# [{full}.{ANY}]\n"));
            }
            Shape::Bool | Shape::Integer | Shape::Float | Shape::Text | Shape::Size | Shape::Words(_) | Shape::List => {
                comment(out, &full);
                out.push_str(&format!("# {key} = {}\n", shown(defaults, &full, shape)));
            }
        }
    }
    for (key, shape) in keys {
        if let Shape::Table(inner) = shape {
            write_table(out, &format!("{path}.{key}"), inner, defaults);
        }
    }
}

fn write_allowed(out: &mut String, allow: &BTreeMap<String, String>) {
    if allow.is_empty() {
        return;
    }
    out.push_str("allow = [\n");
    for (host, found_in) in allow {
        out.push_str(&format!("    {}, # found in {}\n", Value::String(host.clone()), one_line(found_in)));
    }
    out.push_str("]\n");
}

fn write_named(out: &mut String, section: &str, inner: &Shape, adopted: &BTreeMap<String, Vec<Adopted>>) {
    out.push('\n');
    comment(out, section);
    let Shape::Table(keys) = inner else { return };
    if section != "ecosystem" {
        out.push_str(&format!("# [{section}.{ANY}]\n"));
        for (key, _) in keys {
            let full = format!("{section}.{ANY}.{key}");
            comment(out, &full);
            out.push_str(&format!("# {key} = {}\n", about::of(&full).map_or("", |about| about.example)));
        }
        return;
    }
    for ecosystem in crate::ecosystem::ALL.iter().map(|ecosystem| ecosystem.about().name) {
        let found = adopted.get(ecosystem).map_or(&[][..], Vec::as_slice);
        let mark = if found.is_empty() { "# " } else { "" };
        out.push_str(&format!("{mark}[{section}.{ecosystem}]\n"));
        if found.is_empty() {
            out.push_str("# upstreams = []\n");
        } else {
            write_found(out, found);
        }
    }
    for (key, _) in keys {
        comment(out, &format!("{section}.{ANY}.{key}"));
    }
}

fn write_found(out: &mut String, found: &[Adopted]) {
    for adopted in found {
        out.push_str(&format!("# {} was found in {}\n", adopted.url, one_line(&adopted.found_in)));
    }
    let urls: Vec<Value> = found.iter().map(|adopted| Value::String(adopted.url.clone())).collect();
    out.push_str(&format!("upstreams = {}\n", Value::Array(urls)));
    if found.iter().any(|adopted| adopted.next == Next::Failure) {
        out.push_str("next = \"failure\"\n");
    }
}

fn comment(out: &mut String, key: &str) {
    let Some(about) = about::of(key) else { return };
    let name = key.rsplit_once(&format!("{ANY}.")).map_or(String::new(), |(_, key)| format!("{key}: "));
    let mut line = "#".to_owned();
    for word in format!("{name}{}", about.text).split_whitespace() {
        if line.len() + 1 + word.len() > 110 {
            out.push_str(&line);
            out.push('\n');
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// The default, the example, or an empty value of the right kind.
fn shown(defaults: &Table, key: &str, shape: &Shape) -> String {
    if let Some(value) = at(defaults, key) {
        return value.to_string();
    }
    match (about::of(key), shape) {
        (Some(about), _) if !about.example.is_empty() => about.example.to_owned(),
        (_, Shape::List) => "[]".to_owned(),
        (_, Shape::Integer | Shape::Float) => "0".to_owned(),
        (_, Shape::Bool) => "false".to_owned(),
        (_, Shape::Words(words)) => format!("{:?}", words.first().copied().unwrap_or_default()),
        (_, Shape::Size) => "\"1GiB\"".to_owned(),
        (_, Shape::Text | Shape::Table(_) | Shape::Named(_)) => "\"\"".to_owned(),
    }
}

/// The default of a dotted key as it is written in a file. None: unset.
pub(super) fn default_of(key: &str) -> Option<String> {
    match at(&defaults(), key)? {
        Value::Table(_) => None,
        value => Some(value.to_string()),
    }
}

fn defaults() -> Table {
    Table::try_from(Config::default()).expect("defaults are TOML")
}

fn at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = value.as_table()?.get(part)?;
    }
    Some(value)
}

/// What is in force, as TOML.
///
/// *Errors*: none that a configuration which was read can cause.
pub fn in_force(config: &Config) -> Result<String, ConfigError> {
    toml::to_string(config).map_err(|error| ConfigError::new(format!("cannot be shown: {error}")))
}

/// `docs/config.md`.
pub fn markdown() -> String {
    let mut out = "\
# Configuration

Made by `larder docs` from the settings; do not edit.

larder needs no configuration. It reads the file named by `--config` or `LARDER_CONFIG`, else
`$XDG_CONFIG_HOME/larder/larder.toml` (`~/.config/larder/larder.toml`), else `/etc/larder/larder.toml`. A file wins over the
defaults below, a variable `LARDER_SECTION_KEY` over the file (lists with commas between), and a flag over both. A key that
larder does not know is refused. `larder config default` prints all of this as a file, `larder config show` what is in force.
"
    .to_owned();
    let defaults = defaults();
    let shape = shape::of::<Config>();
    let mut section = String::new();
    for (path, shape) in shape.leaves() {
        let (table, key) = path.rsplit_once('.').unwrap_or(("", &path));
        if table != section {
            section = table.to_owned();
            out.push_str(&format!("\n## `[{table}]`\n\n"));
            let named = table.trim_end_matches(&format!(".{ANY}"));
            if let Some(about) = about::of(named) {
                out.push_str(&format!("{}\n\n", about.text));
            }
            out.push_str("| key | takes | default | meaning |\n|---|---|---|---|\n");
        }
        let default = at(&defaults, &path);
        let text = about::of(&path).map_or("", |about| about.text);
        let cell = default.map_or("unset".to_owned(), |value| format!("`{value}`"));
        out.push_str(&format!("| `{key}` | {} | {cell} | {text} |\n", takes(shape, default)));
    }
    out
}

/// Sizes and durations are text to the types; their defaults tell them apart.
fn takes(shape: &Shape, default: Option<&Value>) -> String {
    let text = default.and_then(Value::as_str).unwrap_or_default();
    match shape {
        Shape::Text if !text.is_empty() && units::parse_duration(text).is_ok() => "a duration".to_owned(),
        other => other.takes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_words_and_no_words_are_left_over() {
        let shape = shape::of::<Config>();
        let keys: Vec<String> = shape.leaves().into_iter().map(|(path, _)| path).collect();
        let without: Vec<&String> = keys.iter().filter(|key| about::of(key).is_none()).collect();
        assert!(without.is_empty(), "say in config/about.rs what these mean: {without:?}");
        let known = |about: &about::About| {
            keys.iter().any(|key| key == about.key || key.starts_with(&format!("{}.", about.key)))
        };
        let stray: Vec<&str> = about::ALL.iter().filter(|about| !known(about)).map(|about| about.key).collect();
        assert!(stray.is_empty(), "no such keys: {stray:?}");
    }

    #[test]
    fn sizes_and_durations_are_written_with_units() {
        let shape = shape::of::<Config>();
        let units = ["bytes", "ms", "s"];
        let plain = shape.leaves().into_iter().filter(|(path, shape)| {
            matches!(shape, Shape::Integer) && units.iter().any(|unit| path.ends_with(&format!("_{unit}")))
        });
        assert_eq!(plain.map(|(path, _)| path).collect::<Vec<_>>(), [""; 0]);
        let sized = crate::config::parse("larder.toml", "[store]\nmax_bytes = \"10GiB\"\nmemory_bytes = 4096\n");
        let store = sized.expect("reads").store;
        assert_eq!((store.max_bytes, store.memory_bytes), (Some(10 << 30), 4096));
        assert!(default_file().contains("# segment_bytes = \"256MiB\"\n"));
    }

    #[test]
    fn the_annotated_default_changes_nothing() {
        let text = default_file();
        let read = crate::config::parse("default.toml", &text).expect("reads");
        assert_eq!(in_force(&read), in_force(&Config::default()));
        assert!(text.contains("# listen = [\"127.0.0.1:7070\"]\n"), "{text}");
    }

    #[test]
    fn every_line_of_the_annotated_default_is_a_setting_once_uncommented() {
        let uncommented: String = default_file()
            .lines()
            .filter_map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.starts_with('[') || rest.split(' ').nth(1) == Some("=") => Some(rest),
                Some(_) => None,
                None => Some(line),
            })
            .map(|line| format!("{line}\n"))
            .collect();
        crate::config::parse("default.toml", &uncommented).expect("reads");
    }

    #[test]
    fn adopted_upstreams_stand_in_the_file_with_where_they_were_found() {
        let found_in = "a file\nof some kind".to_owned();
        let adopted =
            Adopted { url: "https://mirror.example/".into(), next: Next::Failure, found_in: found_in.clone() };
        let discovered = Discovered {
            upstreams: BTreeMap::from([("go".to_owned(), vec![adopted])]),
            allow: BTreeMap::from([("wheels.example:8080".to_owned(), found_in)]),
        };
        let text = with_upstreams(&discovered);
        let read = crate::config::parse("larder.toml", &text).expect("reads");
        assert_eq!(read.ecosystem["go"].upstreams, ["https://mirror.example/"]);
        assert_eq!(read.ecosystem["go"].next, Next::Failure);
        assert_eq!(read.upstreams.allow, ["wheels.example:8080"]);
        assert!(text.contains("found in a file of some kind"), "{text}");
    }
}
