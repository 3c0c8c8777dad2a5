//! Python: `index-url` from pip's and uv's variables and files, registries from `uv.lock`; pip is asked for its default
//! only where none of them tells.
//!
//! Source: pip's "Configuration", uv's "Package indexes". The default is printed by `pip download --help`.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{Found, Surroundings, ini};

const VARIABLES: [&str; 4] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIPENV_PYPI_MIRROR"];

/// Looks for the Python index; at most one.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let variable =
        || VARIABLES.into_iter().find_map(|name| Found::one("pypi", "", format!("${name}"), around.var(name)?));
    variable()
        .or_else(|| of_project(around))
        .or_else(|| of_files(around))
        .or_else(|| asked(around))
        .into_iter()
        .collect()
}

fn of_files(around: &Surroundings<'_>) -> Option<Found> {
    files(around).into_iter().find_map(|path| {
        let text = around.read(&path)?;
        ini(&text).find_map(|(section, name, value)| {
            let is_it = section == "global" && matches!(name, "index-url" | "index_url");
            if is_it { Found::one("pypi", "", around.shown(&path), value) } else { None }
        })
    })
}

/// pip's files, the nearest first.
pub(crate) fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let given = around.var("PIP_CONFIG_FILE").map(|path| around.at(path));
    let environment = around.var("VIRTUAL_ENV").map(|dir| around.at(dir).join("pip.conf"));
    let user = [around.config_home().join("pip/pip.conf"), around.home().join(".pip/pip.conf")];
    let global = [around.at("/etc/xdg/pip/pip.conf"), around.at("/etc/pip.conf")];
    given.into_iter().chain(environment).chain(user).chain(global).collect()
}

/// `[[tool.uv.index]]` with `default = true`, or what `uv.lock` was resolved with.
fn of_project(around: &Surroundings<'_>) -> Option<Found> {
    let table = |name: &str| around.read(&around.project().join(name))?.parse::<Table>().ok();
    let shown = |name: &str| around.shown(&around.project().join(name));
    let settings = table("pyproject.toml").and_then(|project| project.get("tool")?.get("uv").cloned());
    let settings = settings.or_else(|| table("uv.toml").map(Value::Table));
    let told = settings.as_ref().and_then(|settings| {
        let indexes = settings.get("index").and_then(Value::as_array)?;
        indexes.iter().find(|index| index.get("default").and_then(Value::as_bool) == Some(true))?.get("url")?.as_str()
    });
    let told = told.or_else(|| settings.as_ref()?.get("index-url")?.as_str());
    if let Some(found) = told.and_then(|url| Found::one("pypi", "", shown("pyproject.toml"), url)) {
        return Some(found);
    }
    let lock = table("uv.lock")?;
    let mut registries = lock.get("package")?.as_array()?.iter();
    let registry = registries.find_map(|package| package.get("source")?.get("registry")?.as_str())?;
    Found::one("pypi", "", shown("uv.lock"), registry)
}

/// pip names its default in the help of `--index-url`: `(default https://...)`.
fn asked(around: &Surroundings<'_>) -> Option<Found> {
    let help = ["pip", "pip3"].into_iter().find_map(|pip| around.ask(pip, &["download", "--help"]))?;
    let after = help.split_once("--index-url")?.1.split_once("(default")?.1;
    let default = after.split_once(')')?.0.split_whitespace().collect::<String>();
    Found::one("pypi", "", "pip download --help".into(), &default)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::super::tool::AskTool;
    use super::*;

    #[test]
    fn files_tell_in_pips_order() {
        let machine = Machine::new(&[
            ("etc/pip.conf", "[global]\nindex-url = https://global.example/simple\n"),
            (
                "home/me/.config/pip/pip.conf",
                "[install]\nindex-url = https://no.example\n[global]\nindex-url = https://u:p@user.example/simple\n",
            ),
        ]);
        let found = machine.look(look).remove(0);
        assert_eq!((urls(&found), found.secrets.len()), (vec!["https://user.example/simple/"], 1));
        let machine = machine.with("PIP_INDEX_URL", "https://env.example/simple");
        assert_eq!(machine.look(look)[0].from, "$PIP_INDEX_URL");
    }

    #[test]
    fn uv_tells_in_its_project_or_lock() {
        let lock = "[[package]]\nname = 'a'\nsource = { registry = 'https://lock.example/simple' }\n";
        let machine = Machine::new(&[("build/app/uv.lock", lock)]);
        assert_eq!(urls(&machine.look(look)[0]), ["https://lock.example/simple/"]);
        let project = "[[tool.uv.index]]\nurl = 'https://extra.example'\n[[tool.uv.index]]\nurl = 'https://uv.example/simple'\ndefault = true\n";
        let machine = Machine::new(&[("build/app/uv.lock", lock), ("build/app/pyproject.toml", project)]);
        assert_eq!(urls(&machine.look(look)[0]), ["https://uv.example/simple/"]);
    }

    #[test]
    fn pips_help_names_its_default() {
        struct Pip;
        impl AskTool for Pip {
            fn ask(&self, program: &str, _: &[&str]) -> Option<String> {
                (program == "pip3")
                    .then(|| "  -i, --index-url <url>  Base (default\n     https://py.example/simple). This".into())
            }
        }
        assert_eq!(urls(&Machine::new(&[]).look_asking(look, &Pip)[0]), ["https://py.example/simple/"]);
    }
}
