//! npm, pnpm, yarn, bun: the default registry and those of scopes from variables, `.npmrc`, `.yarnrc`, `.yarnrc.yml`,
//! `pnpm-workspace.yaml` and `bunfig.toml`; hosts that lockfiles resolved at. npm itself is asked only where none of them
//! tells.
//!
//! Source: npm's documentation, "npmrc", "config" and "scope"; yarn's "yarnrc"; pnpm's "Settings"; bun's "bunfig.toml".

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::asked::{Question, program};
use super::{Found, Surroundings, ini, npm_lock, yaml};

/// Of the names after the first, a version 6 takes no notice.
static ASK: Question = Question {
    program: "npm",
    arguments: &["config", "get", "registry", "globalconfig", "userconfig"],
    answer: |printed| {
        let first = printed.lines().next()?.trim();
        Some(first.strip_prefix("registry=").unwrap_or(first).to_owned()).filter(|text| !text.is_empty())
    },
    sources: &[],
    named: |printed| {
        let values = printed.lines().filter_map(|line| line.split_once('='));
        values.filter(|(name, _)| name.ends_with("config")).map(|(_, value)| value.trim().into()).collect()
    },
    files: read_by_npm,
    variables: &["npm", "node", "nvm"],
};
/// What ends the name of a setting that holds a credential.
const CREDENTIALS: [&str; 5] = ["_authToken", "_auth", "_password", "npmAuthToken", "npmAuthIdent"];

/// Looks for npm's registries: the default one, then one for each scope, then further hosts of lockfiles.
///
/// `settings`: `token` is there when npm has a credential for it.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut told = Told { around, all: Vec::new(), private: Vec::new() };
    told.variables();
    for path in files(around) {
        told.npmrc(&path);
    }
    told.others();
    let locked = npm_lock::look(around);
    let Told { mut all, private, .. } = told;
    if !all.iter().any(|found| found.name.is_empty()) {
        let asked = || Found::one("npm", "", "npm config get registry".into(), &around.ask(&ASK)?);
        all.extend(
            locked
                .first()
                .map(|(base, from)| (base.clone(), from.clone()))
                .map_or_else(asked, |(base, from)| Found::one("npm", "", from, &base)),
        );
    }
    for (base, from) in locked {
        let host = super::address(&base).and_then(|(url, _)| Some(url.host_str()?.to_owned()));
        all.extend(host.and_then(|host| Found::one("npm", &host, from, &base)));
    }
    let all = super::firsts(all);
    all.into_iter().map(|found| with_token(found, &private)).collect()
}

/// npm binds credentials to the beginning of an address without its scheme; `//` alone stands for any.
fn with_token(mut found: Found, private: &[String]) -> Found {
    let is_one = |start: &String| {
        found.urls.iter().any(|(url, _)| url.as_str().split_once(':').is_some_and(|(_, rest)| rest.starts_with(start)))
    };
    if !found.secrets.is_empty() || private.iter().any(is_one) {
        found.settings.insert("token", "yes".into());
    }
    found
}

struct Told<'a> {
    around: &'a Surroundings<'a>,
    all: Vec<Found>,
    /// Beginnings of addresses that a credential is shown to.
    private: Vec<String>,
}

impl Told<'_> {
    /// A setting by its name in an `.npmrc`.
    fn setting(&mut self, name: &str, value: &str, from: &str) {
        if let Some((start, _)) =
            name.rsplit_once(':').filter(|(start, end)| start.starts_with("//") && CREDENTIALS.contains(end))
        {
            self.private.push(start.to_owned());
        }
        if CREDENTIALS.contains(&name) {
            self.private.push("//".into());
        }
        let scope = name.strip_suffix(":registry").filter(|scope| scope.starts_with('@'));
        if let Some(name) = if name == "registry" { Some("") } else { scope } {
            self.add(name, value, from.to_owned());
        }
    }

    fn add(&mut self, name: &str, value: &str, from: String) {
        let value = self.around.expanded(value);
        self.all.extend(value.and_then(|value| Found::one("npm", name, from, &value)));
    }

    /// Any setting as `npm_config_NAME`, in any case and with `_` for `-`.
    fn variables(&mut self) {
        let around = self.around;
        for (variable, value) in around.vars().filter(|(_, value)| !value.is_empty()) {
            let start = variable.get(..11).filter(|start| start.eq_ignore_ascii_case("npm_config_"));
            let Some(name) = start.and_then(|_| variable.get(11..)) else { continue };
            let is_plain = name.eq_ignore_ascii_case("registry");
            self.setting(if is_plain { "registry" } else { name }, value, &format!("${variable}"));
        }
        for name in ["YARN_NPM_REGISTRY_SERVER", "YARN_REGISTRY", "BUN_CONFIG_REGISTRY"] {
            if let Some(value) = around.var(name) {
                self.add("", value, format!("${name}"));
            }
        }
    }

    fn npmrc(&mut self, path: &Path) {
        let Some(text) = self.around.read(path) else { return };
        let from = self.around.shown(path);
        for (_, name, value) in ini(&text) {
            self.setting(name, value, &from);
        }
    }

    /// Files of yarn, pnpm and bun, the project's before the user's.
    fn others(&mut self) {
        let around = self.around;
        let near = |name: &str| around.above(name).into_iter();
        let users = |name: &str| {
            let path = around.home().join(name);
            around.read(&path).map(|text| (path, text)).into_iter()
        };
        let rc = around.var("YARN_RC_FILENAME").unwrap_or(".yarnrc.yml").to_owned();
        for (path, text) in near(&rc).chain(users(&rc)).chain(near("pnpm-workspace.yaml")) {
            self.yaml(&text, &around.shown(&path));
        }
        for (path, text) in near(".yarnrc").chain(users(".yarnrc")) {
            for (name, value) in text.lines().filter_map(|line| line.trim().split_once(' ')) {
                self.setting(name.trim_matches('"'), value.trim().trim_matches('"'), &around.shown(&path));
            }
        }
        for (path, text) in near("bunfig.toml").chain(users(".bunfig.toml")) {
            self.bun(&text, &around.shown(&path));
        }
    }

    /// `npmRegistryServer`, `npmScopes: corp: npmRegistryServer`; pnpm's `registry` and `registries`.
    fn yaml(&mut self, text: &str, from: &str) {
        for (path, value) in yaml::pairs(text) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match path[..] {
                ["npmRegistryServer" | "registry"] | ["registries", "default"] => {
                    self.add("", &value, from.to_owned());
                }
                ["npmScopes", scope, "npmRegistryServer"] => {
                    self.add(&format!("@{scope}"), &value, from.to_owned());
                }
                ["registries", scope] => self.add(scope, &value, from.to_owned()),
                ["npmRegistries", start, name] if CREDENTIALS.contains(&name) => {
                    self.private.push(start.split_once(':').map_or(start, |(_, rest)| rest).to_owned());
                }
                [name] if CREDENTIALS.contains(&name) => self.private.push("//".into()),
                _ => {}
            }
        }
    }

    /// `[install] registry`, `[install.scopes]`: an address, or a table with `url` and perhaps a credential.
    fn bun(&mut self, text: &str, from: &str) {
        let Ok(table) = text.parse::<Table>() else { return };
        let Some(install) = table.get("install").and_then(Value::as_table) else { return };
        let scopes = install.get("scopes").and_then(Value::as_table).into_iter().flatten();
        let scopes = scopes.map(|(name, value)| (format!("@{}", name.trim_start_matches('@')), value));
        for (name, value) in install.get("registry").map(|value| (String::new(), value)).into_iter().chain(scopes) {
            let Some(url) = value.as_str().or_else(|| value.get("url")?.as_str()) else { continue };
            if value.get("token").or(value.get("password")).is_some() {
                self.private.extend(url.split_once(':').map(|(_, rest)| rest.to_owned()));
            }
            self.add(&name, url, from.to_owned());
        }
    }
}

/// npm's files: the project's, the user's, the global ones of the usual prefixes, npm's own; the nearest first.
pub(crate) fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let named = |name: &str| {
        let (lower, upper) = (format!("npm_config_{name}"), format!("NPM_CONFIG_{}", name.to_ascii_uppercase()));
        around.var(&lower).or_else(|| around.var(&upper)).map(|path| around.at(path))
    };
    let user = named("userconfig").unwrap_or_else(|| around.home().join(".npmrc"));
    let pnpm = around.config_home().join("pnpm/rc");
    let prefixes = named("prefix").into_iter().chain(["/usr/local", "/usr", "/"].map(|prefix| around.at(prefix)));
    let global = named("globalconfig").into_iter().chain(prefixes.map(|prefix| prefix.join("etc/npmrc")));
    let own = ["/usr/local/lib/node_modules/npm", "/usr/lib/node_modules/npm", "/usr/share/nodejs/npm"];
    let own = own.map(|dir| around.at(dir).join("npmrc"));
    let project = around.above(".npmrc").map(|(path, _)| path);
    project.into_iter().chain([user, pnpm]).chain(global).chain(own).collect()
}

/// The project's files wherever its root may be, and those of npm's own directory.
fn read_by_npm(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let own = program(around, ASK.program).and_then(|npm| around.inside(&npm));
    let own = own.and_then(|script| Some(script.parent()?.parent()?.to_owned()));
    let own = own.iter().flat_map(|dir| ["npmrc", "package.json"].map(|name| dir.join(name)));
    let above = around.project().ancestors().flat_map(|dir| [".npmrc", "package.json"].map(|name| dir.join(name)));
    files(around).into_iter().chain(above).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::super::tool::AskTool;
    use super::*;

    fn told(all: &[Found]) -> Vec<(&str, &str)> {
        all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect()
    }

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
    fn variables_in_an_npmrc_are_filled_in_and_credentials_seen() {
        let npmrc = "registry=https://${NPM_HOST}/npm/\n@open:registry=https://open.example\n\
                     @none:registry=https://${NOT_SET}/\n@in:registry=https://me:${NPM_TOKEN}@in.example/\n\
                     //corp.example/npm/:_authToken=${NPM_TOKEN}\n";
        let machine = Machine::new(&[("build/.npmrc", npmrc)]);
        let all = machine.with("NPM_HOST", "corp.example").with("NPM_TOKEN", "hush").look(look);
        assert_eq!(
            told(&all),
            [("", "https://corp.example/npm/"), ("@open", "https://open.example/"), ("@in", "https://in.example/")]
        );
        let private: Vec<bool> = all.iter().map(|found| found.settings.contains_key("token")).collect();
        assert_eq!(private, [true, false, true]);
        assert_eq!(all[2].secrets[0].password, "hush");
        assert!(!format!("{all:?}").contains("hush"));
    }

    #[test]
    fn variables_have_any_case_and_name_scopes_too() {
        let machine = Machine::new(&[("build/app/.npmrc", "registry=https://no.example/\n")]);
        let machine = machine.with("NPM_Config_Registry", "https://env.example/").with("npm_config_é", "x");
        let all = machine.with("npm_config_@corp:registry", "https://corp.example/").look(look);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(told(&all).contains(&("", "https://env.example/")), "{all:?}");
        assert!(told(&all).contains(&("@corp", "https://corp.example/")), "{all:?}");
    }

    #[test]
    fn yarn_pnpm_and_bun_have_files_of_their_own() {
        let yarn = "# c\nnpmRegistryServer: \"https://yarn.example/npm\"\nnpmScopes:\n  corp:\n    npmAlwaysAuth: true\n\
                    \x20   npmRegistryServer: 'https://corp.example'\nnpmRegistries:\n  \"//corp.example/\":\n    npmAuthToken: hush\n";
        let all = Machine::new(&[("build/app/.yarnrc.yml", yarn)]).look(look);
        assert_eq!(told(&all), [("", "https://yarn.example/npm/"), ("@corp", "https://corp.example/")]);
        assert_eq!(all[1].settings.get("token").map(String::as_str), Some("yes"));
        let classic = "# c\nregistry \"https://classic.example/\"\n\"@corp:registry\" \"https://corp.example\"\n";
        let all = Machine::new(&[("home/me/.yarnrc", classic)]).look(look);
        assert_eq!(told(&all), [("", "https://classic.example/"), ("@corp", "https://corp.example/")]);
        let pnpm =
            "packages:\n  - a/*\nregistries:\n  default: https://pnpm.example/\n  '@corp': https://corp.example/\n";
        let all = Machine::new(&[("build/pnpm-workspace.yaml", pnpm)]).look(look);
        assert_eq!(told(&all), [("", "https://pnpm.example/"), ("@corp", "https://corp.example/")]);
        let bun = "[install]\nregistry = 'https://bun.example'\n[install.scopes]\ncorp = { token = '$T', url = 'https://corp.example' }\n";
        let all = Machine::new(&[("build/app/bunfig.toml", bun)]).look(look);
        assert_eq!(told(&all), [("", "https://bun.example/"), ("@corp", "https://corp.example/")]);
        assert_eq!(all[1].settings.get("token").map(String::as_str), Some("yes"));
    }

    #[test]
    fn a_lockfile_tells_without_npm_and_names_further_hosts() {
        let lock = r#"{"packages":{"":{},"node_modules/a":{"resolved":"https://npm.example/a/-/a-1.tgz"},
            "node_modules/x/node_modules/@s/b":{"resolved":"https://npm.example/@s/b/-/b-1.tgz"},
            "node_modules/c":{"resolved":"https://other.example/c/-/c-1.tgz"}}}"#;
        let machine = Machine::new(&[("build/app/package-lock.json", lock)]);
        let other = ("other.example", "https://other.example/");
        assert_eq!(told(&machine.look(look))[..2], [("", "https://npm.example/"), other]);
        let all = machine.with("npm_config_registry", "https://env.example/").look(look);
        assert_eq!(told(&all)[..3], [("", "https://env.example/"), ("npm.example", "https://npm.example/"), other]);
    }

    #[test]
    fn npm_is_asked_only_where_no_file_tells() {
        struct Npm;
        impl AskTool for Npm {
            fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
                assert_eq!((program, arguments), ("npm", ASK.arguments));
                Some("https://npm.example/\n".into())
            }
        }
        let broken = [
            ("home/me/.npmrc", "registry\n=\n[x\n"),
            ("build/app/package-lock.json", "{"),
            ("build/app/bunfig.toml", "="),
        ];
        assert_eq!(told(&Machine::new(&broken).look_asking(look, &Npm)), [("", "https://npm.example/")]);
    }
}
