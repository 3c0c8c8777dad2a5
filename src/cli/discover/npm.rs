//! npm: `registry` and scoped registries from `.npmrc` files and variables, hosts from `package-lock.json`; npm itself is
//! asked only where none of them tells.
//!
//! Source: npm's documentation, "npmrc" and "scope".

use std::path::PathBuf;

use serde_json::Value;
use url::Url;

use super::{Found, Surroundings, ini};

/// Looks for npm's registries: the default one, then one for each scope.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut all = Vec::new();
    for name in ["npm_config_registry", "NPM_CONFIG_REGISTRY"] {
        all.extend(around.var(name).and_then(|text| Found::one("npm", "", format!("${name}"), text)));
    }
    for path in files(around) {
        let Some(text) = around.read(&path) else { continue };
        for (_, name, value) in ini(&text) {
            let scope = name.strip_suffix(":registry").filter(|scope| scope.starts_with('@'));
            let name = if name == "registry" { Some("") } else { scope };
            all.extend(name.and_then(|name| Found::one("npm", name, around.shown(&path), value)));
        }
    }
    if !all.iter().any(|found| found.name.is_empty()) {
        all.extend(locked(around).or_else(|| asked(around)));
    }
    let mut seen = Vec::new();
    all.retain(|found| {
        !seen.contains(&found.name) && {
            seen.push(found.name.clone());
            true
        }
    });
    all
}

/// The project's file, the user's, and the global ones of the usual prefixes; the nearest first.
pub(crate) fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let user = around.var("NPM_CONFIG_USERCONFIG").or_else(|| around.var("npm_config_userconfig"));
    let user = user.map_or_else(|| around.home().join(".npmrc"), |path| around.at(path));
    let global = ["/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc"].map(|path| around.at(path));
    [around.project().join(".npmrc"), user].into_iter().chain(global).collect()
}

/// The registry that most packages of the lockfile were resolved at. Tarballs stand at `BASE/NAME/-/FILE.tgz`.
fn locked(around: &Surroundings<'_>) -> Option<Found> {
    let path = around.project().join("package-lock.json");
    let lock: Value = serde_json::from_str(&around.read(&path)?).ok()?;
    let mut counts: Vec<(String, usize)> = Vec::new();
    for (name, package) in lock.get("packages")?.as_object()? {
        let name = name.rsplit("node_modules/").next().unwrap_or(name);
        let resolved = package.get("resolved").and_then(Value::as_str);
        let Some(base) = resolved.and_then(|url| url.split_once(&format!("/{name}/-/"))) else { continue };
        match counts.iter_mut().find(|(known, _)| known == base.0) {
            Some((_, count)) => *count += 1,
            None => counts.push((base.0.to_owned(), 1)),
        }
    }
    let (base, _) = counts.into_iter().filter(|(base, _)| Url::parse(base).is_ok()).max_by_key(|(_, count)| *count)?;
    Found::one("npm", "", around.shown(&path), &base)
}

fn asked(around: &Surroundings<'_>) -> Option<Found> {
    let printed = around.ask("npm", &["config", "get", "registry"])?;
    Found::one("npm", "", "npm config get registry".into(), printed.trim())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::*;

    #[test]
    fn the_nearest_npmrc_wins_and_scopes_stand_apart() {
        let all = Machine::new(&[
            (
                "build/app/.npmrc",
                "; c\nregistry=https://near.example/npm\n@corp:registry = \"https://corp.example/\"\n",
            ),
            ("home/me/.npmrc", "registry=https://user.example/\n//user.example/:_authToken=hush\n"),
        ])
        .look(look);
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!((urls(&all[0]), all[0].from.as_str()), (vec!["https://near.example/npm/"], "/build/app/.npmrc"));
        assert_eq!((urls(&all[1]), all[1].name.as_str()), (vec!["https://corp.example/"], "@corp"));
        assert!(!format!("{all:?}").contains("hush"));
    }

    #[test]
    fn a_lockfile_tells_without_npm() {
        let lock = r#"{"packages":{"":{},"node_modules/a":{"resolved":"https://npm.example/a/-/a-1.tgz"},
            "node_modules/x/node_modules/@s/b":{"resolved":"https://npm.example/@s/b/-/b-1.tgz"},
            "node_modules/c":{"resolved":"https://other.example/c/-/c-1.tgz"}}}"#;
        let all = Machine::new(&[("build/app/package-lock.json", lock)]).look(look);
        assert_eq!(urls(&all[0]), ["https://npm.example/"]);
    }
}
