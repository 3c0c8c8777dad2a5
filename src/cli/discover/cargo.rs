//! Cargo: source replacement and registries from its configuration files and `Cargo.lock`; the default index is the one
//! that cargo is built with, carried by the `tame-index` crate.
//!
//! Source: the Cargo Book, "Configuration", "Source Replacement" and "Registries". Git indexes and vendored directories
//! are not proxied and not reported.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Found, Surroundings};

const DEFAULT: &str = "crates-io";
/// Where the default index was found when nothing replaces it.
pub const BUILT_IN: &str = "cargo's built-in default";
/// A chain of replacements longer than this is a loop.
const CHAIN: usize = 16;

/// Looks for Cargo's registries: first the default one with whatever replaces it, then the others.
///
/// `settings`: `source` is the name under which the source stands in `[source]`, if it does; `location` its address as
/// cargo writes it; `token` is there when cargo has a credential for it.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let layers = Layers::read(around);
    let mut all: Vec<Found> = layers.default_registry().into_iter().collect();
    let named = layers.registries(around).into_iter();
    let locked = locked(around).into_iter().map(|(index, from)| (String::new(), index, from));
    for (name, index, from) in named.chain(locked) {
        let Some(mut found) = sparse(&index).and_then(|url| Found::one("cargo", &name, from, url)) else { continue };
        if all.iter().any(|known| known.urls == found.urls) {
            continue;
        }
        if found.name.is_empty() {
            found.name = found.urls[0].0.host_str().unwrap_or_default().replace(['.', ':'], "-");
        }
        if let Some(source) = layers.source_at(&index) {
            found.settings.insert("source", source);
        }
        if layers.has_credential(around, &name) || !found.secrets.is_empty() {
            found.settings.insert("token", "yes".into());
        }
        found.settings.insert("location", format!("sparse+{}", found.urls[0].0));
        all.push(found);
    }
    all
}

/// Says, under `larder run`, which home the one in `CARGO_HOME` is laid over.
pub const REAL_HOME: &str = "LARDER_CARGO_HOME";

/// Where cargo keeps its own files, where they really lie; never an overlay of ours.
pub fn home(around: &Surroundings<'_>) -> PathBuf {
    let home = around.var("CARGO_HOME").map_or_else(|| around.home().join(".cargo"), |dir| around.at(dir));
    let under = around.var(REAL_HOME).map(|dir| around.at(dir));
    let is_ours = |under: &PathBuf| home.join("registry").read_link().is_ok_and(|link| link == under.join("registry"));
    under.filter(is_ours).unwrap_or(home)
}

/// The text of the configuration in cargo's home; None when there is none.
pub fn home_config(around: &Surroundings<'_>) -> Option<String> {
    let home = home(around);
    ["config.toml", "config"].iter().find_map(|name| around.read(&home.join(name)))
}

fn sparse(index: &str) -> Option<&str> {
    index.strip_prefix("sparse+")
}

/// Configuration files, the nearest to the project first.
struct Layers(Vec<(String, Table)>);

impl Layers {
    fn read(around: &Surroundings<'_>) -> Layers {
        let mut layers = Layers(Vec::new());
        for dir in around.project().ancestors() {
            layers.add_from(around, &dir.join(".cargo"));
            if dir == around.at("/") {
                break;
            }
        }
        layers.add_from(around, &home(around));
        layers
    }

    fn add_from(&mut self, around: &Surroundings<'_>, dir: &Path) {
        for name in ["config", "config.toml"] {
            if let Some(text) = around.read(&dir.join(name)) {
                self.add(around, &dir.join(name), &text);
                return;
            }
        }
    }

    fn add(&mut self, around: &Surroundings<'_>, path: &Path, text: &str) {
        let shown = around.shown(path);
        if self.0.iter().any(|(known, _)| *known == shown) {
            return;
        }
        let Ok(table) = text.parse::<Table>() else { return };
        let included = match table.get("include") {
            Some(Value::Array(files)) => files.clone(),
            file => file.cloned().into_iter().collect(),
        };
        self.0.push((shown, table));
        for file in included {
            let named = file.as_str().or_else(|| file.get("path")?.as_str());
            let Some(file) = named.zip(path.parent()).map(|(file, dir)| dir.join(file)) else { continue };
            if let Some(text) = around.read(&file) {
                self.add(around, &file, &text);
            }
        }
    }

    /// The nearest `[table.name] field`, and the file it stands in.
    fn get(&self, table: &str, name: &str, field: &str) -> Option<(&str, &str)> {
        self.0.iter().find_map(|(shown, layer)| {
            let value = layer.get(table)?.get(name)?.get(field)?.as_str()?;
            Some((value, shown.as_str()))
        })
    }

    fn names(&self, table: &str) -> Vec<&str> {
        let tables = self.0.iter().filter_map(|(_, layer)| layer.get(table)?.as_table());
        let mut names: Vec<_> = tables.flat_map(|table| table.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What cargo asks for crates that name no registry.
    fn default_registry(&self) -> Option<Found> {
        let mut source = DEFAULT;
        for _ in 0..CHAIN {
            match self.get("source", source, "replace-with") {
                Some((next, _)) => source = next,
                None => break,
            }
        }
        let told = self.get("source", source, "registry").or_else(|| self.get("registries", source, "index"));
        let elsewhere = ["directory", "local-registry", "git"];
        let (location, from) = match told {
            Some((location, shown)) => (location, shown.to_owned()),
            None if elsewhere.iter().any(|kind| self.get("source", source, kind).is_some()) => return None,
            None if source == DEFAULT => (tame_index::CRATES_IO_HTTP_INDEX, BUILT_IN.to_owned()),
            None => return None,
        };
        let mut found = Found::one("cargo", "", from, sparse(location)?)?;
        found.settings.insert("source", source.to_owned());
        found.settings.insert("location", format!("sparse+{}", found.urls[0].0));
        Some(found)
    }

    /// `[registries]` by name, index and file; a variable beats the files.
    fn registries(&self, around: &Surroundings<'_>) -> Vec<(String, String, String)> {
        let told = self.names("registries").into_iter().filter(|name| *name != DEFAULT).filter_map(|name| {
            let variable = variable(name, "INDEX");
            let (index, from) = match around.var(&variable) {
                Some(index) => (index, format!("${variable}")),
                None => self.get("registries", name, "index").map(|(index, shown)| (index, shown.to_owned()))?,
            };
            Some((name.to_owned(), index.to_owned(), from))
        });
        let mut all: Vec<_> = told.collect();
        for (name, index) in around.vars() {
            let inner = name.strip_prefix("CARGO_REGISTRIES_").and_then(|name| name.strip_suffix("_INDEX"));
            let Some(inner) = inner.filter(|inner| !inner.is_empty()) else { continue };
            if inner != "CRATES_IO" && !all.iter().any(|(known, ..)| variable(known, "INDEX") == name) {
                all.push((inner.to_ascii_lowercase().replace('_', "-"), index.to_owned(), format!("${name}")));
            }
        }
        all
    }

    /// The name of a `[source]` at an address: cargo refuses two names for one.
    fn source_at(&self, index: &str) -> Option<String> {
        let same = |name: &&str| self.get("source", name, "registry").is_some_and(|(location, _)| location == index);
        self.names("source").into_iter().find(same).map(str::to_owned)
    }

    fn has_credential(&self, around: &Surroundings<'_>, name: &str) -> bool {
        let home = home(around);
        let stored = ["credentials.toml", "credentials"].iter().any(|file| {
            let table = around.read(&home.join(file)).and_then(|text| text.parse::<Table>().ok());
            table.is_some_and(|table| table.get("registries").and_then(|all| all.get(name)).is_some())
        });
        stored
            || around.var(&variable(name, "TOKEN")).is_some()
            || around.var(&variable(name, "CREDENTIAL_PROVIDER")).is_some()
            || self.get("registries", name, "token").is_some()
            || self.0.iter().any(|(_, layer)| {
                let registry = layer.get("registries").and_then(|all| all.get(name));
                registry.is_some_and(|registry| registry.get("credential-provider").is_some())
            })
    }
}

fn variable(registry: &str, field: &str) -> String {
    format!("CARGO_REGISTRIES_{}_{field}", registry.to_ascii_uppercase().replace('-', "_"))
}

/// Sparse registries that the nearest `Cargo.lock` names.
fn locked(around: &Surroundings<'_>) -> Vec<(String, String)> {
    let Some((path, lock)) = around.above("Cargo.lock") else { return Vec::new() };
    let lines = lock.lines().filter_map(|line| line.strip_prefix("source = \"")?.strip_suffix('"'));
    let mut all: Vec<_> = lines.filter(|source| source.starts_with("sparse+")).map(str::to_owned).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(|index| (index, around.shown(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::*;

    #[test]
    fn the_default_index_is_the_one_cargo_is_built_with() {
        let found = Machine::new(&[]).look(look).remove(0);
        assert_eq!(format!("sparse+{}", found.urls[0].0), tame_index::CRATES_IO_HTTP_INDEX);
        assert_eq!((found.settings["source"].as_str(), found.name.as_str()), (DEFAULT, ""));
        assert_eq!(found.from, "cargo's built-in default");
    }

    #[test]
    fn replacement_is_followed_across_files() {
        let machine = Machine::new(&[
            ("build/app/.cargo/config.toml", "[source.crates-io]\nreplace-with = 'corp'\n"),
            ("build/.cargo/config", "[source.corp]\nregistry = 'sparse+https://far.example/'\nreplace-with = 'near'\n"),
            ("home/me/.cargo/config.toml", "[source.near]\nregistry = 'sparse+https://near.example/index'\n"),
        ]);
        let found = machine.look(look).remove(0);
        assert_eq!(urls(&found), ["https://near.example/index/"]);
        assert_eq!(found.settings["source"], "near");
        assert_eq!(found.from, "/home/me/.cargo/config.toml");
    }

    #[test]
    fn what_is_vendored_or_git_is_left_alone() {
        for source in
            ["directory = 'vendor'", "registry = 'https://git.example/index'", "git = 'https://git.example/x'"]
        {
            let config = format!("[source.crates-io]\nreplace-with = 'v'\n[source.v]\n{source}\n");
            assert_eq!(Machine::new(&[("build/app/.cargo/config.toml", &config)]).look(look), [], "{source}");
        }
        let looped = "[source.crates-io]\nreplace-with = 'a'\n[source.a]\nreplace-with = 'crates-io'\n";
        Machine::new(&[("build/app/.cargo/config.toml", looped)]).look(look);
    }

    #[test]
    fn other_registries_come_from_files_variables_and_the_lock() {
        let machine = Machine::new(&[
            (
                "home/me/.cargo/config.toml",
                "[registries.corp]\nindex = 'sparse+https://corp.example/i/'\n[registries.git]\nindex = 'https://g.example'\n\
                 [source.known]\nregistry = 'sparse+https://corp.example/i/'\n",
            ),
            ("home/me/.cargo/credentials.toml", "[registries.corp]\ntoken = 'hush'\n"),
            ("build/Cargo.lock", "[[package]]\nname = 'a'\nsource = \"sparse+https://lock.example/i/\"\n"),
        ])
        .with("CARGO_REGISTRIES_EXTRA_ONE_INDEX", "sparse+https://extra.example/");
        let all = machine.look(look);
        let of = |name: &str| all.iter().find(|found| found.name == name).unwrap_or_else(|| panic!("{name}: {all:?}"));
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(of("corp").settings["token"], "yes");
        assert_eq!(of("corp").settings["source"], "known");
        assert_eq!(urls(of("extra-one")), ["https://extra.example/"]);
        assert_eq!(
            (urls(of("lock-example")), of("lock-example").from.as_str()),
            (vec!["https://lock.example/i/"], "/build/Cargo.lock")
        );
        assert!(!of("lock-example").settings.contains_key("token"));
    }

    #[test]
    fn an_overlay_of_ours_is_seen_through() {
        let machine = Machine::new(&[
            (
                "home/me/.cargo/config.toml",
                "[source.crates-io]\nreplace-with = 'm'\n[source.m]\nregistry = 'sparse+https://m.example/'\n",
            ),
            (
                "over/config.toml",
                "[source.crates-io]\nreplace-with = 'l'\n[source.l]\nregistry = 'sparse+http://larder.example/'\n",
            ),
        ]);
        let real = machine.dir.path().join("home/me/.cargo/registry");
        std::os::unix::fs::symlink(real, machine.dir.path().join("over/registry")).expect("a link");
        let machine = machine.with("CARGO_HOME", "/over").with(REAL_HOME, "/home/me/.cargo");
        assert_eq!(urls(&machine.look(look)[0]), ["https://m.example/"]);
    }

    #[test]
    fn included_files_count() {
        let machine = Machine::new(&[
            ("build/app/.cargo/config.toml", "include = 'more.toml'\n[source.crates-io]\nreplace-with = 'm'\n"),
            ("build/app/.cargo/more.toml", "[source.m]\nregistry = 'sparse+https://m.example/'\n"),
        ]);
        assert_eq!(urls(&machine.look(look)[0]), ["https://m.example/"]);
    }
}
