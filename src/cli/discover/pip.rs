//! Python: the default index and further ones from variables and files of pip, uv, poetry, pipenv and pdm, from
//! requirements and lockfiles; pip is asked for its default only where none of them tells.
//!
//! Source: pip's "Configuration" and "Requirements File Format", uv's "Package indexes", poetry's "Repositories",
//! pipenv's "Specifying Package Indexes". The default is printed by `pip download --help`.

use std::path::PathBuf;

use super::asked::Question;
use super::python_index::{Index, after_name, extras_of};
use super::{Found, Surroundings, python_project};

/// With one address each, the nearest first.
const DEFAULTS: [&str; 4] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIPENV_PYPI_MIRROR"];
/// With addresses between blanks; uv's may be `name=address`.
const EXTRAS: [&str; 5] = ["UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_FIND_LINKS"];

/// Looks for Python's indexes: the default one, then further ones by name or host.
///
/// `settings`: `token` is there when a credential is shown to it.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut told = of_variables(around);
    told.extend(of_requirements(around));
    told.extend(python_project::settings(around));
    for path in files(around) {
        told.extend(around.read(&path).into_iter().flat_map(|text| of_pip(&text, &around.shown(&path))));
    }
    // What users and machines have of uv comes after what they have of pip: both hold, for the one and the other.
    told.extend(python_project::users(around));
    told.extend(python_project::locked(around));
    if !told.iter().any(|index| index.name.is_empty()) {
        told.extend(asked(around));
    }
    told.sort_by_key(|index| !index.name.is_empty());
    super::firsts(told.iter().filter_map(|index| found(around, index)).collect())
}

fn found(around: &Surroundings<'_>, index: &Index) -> Option<Found> {
    let url = around.expanded(&index.url)?;
    let mut found = Found::one("pypi", &index.name, index.from.clone(), &url)?;
    if !found.secrets.is_empty() || around.is_in_netrc(&found.urls[0].0) {
        found.settings.insert("token", "yes".into());
    }
    Some(found)
}

fn of_variables(around: &Surroundings<'_>) -> Vec<Index> {
    let defaults = DEFAULTS.into_iter().filter_map(|name| Some((name, around.var(name)?)));
    let defaults = defaults.map(|(name, value)| Index::new("", after_name(value).1, &format!("${name}")));
    let extras = EXTRAS.into_iter().filter_map(|name| Some((name, around.var(name)?)));
    let extras = extras.flat_map(|(name, value)| extras_of(value, &format!("${name}")));
    defaults.chain(extras).collect()
}

/// pip's files, the nearest first: the one that a variable names, the environment's, the user's, the machine's.
pub(crate) fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let given = around.var("PIP_CONFIG_FILE");
    if given == Some("/dev/null") {
        return Vec::new();
    }
    let given = given.map(|path| around.at(path));
    let homes = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|name| around.var(name));
    let homes = homes.map(|dir| around.at(dir)).chain([".venv", "venv"].map(|dir| around.project().join(dir)));
    let prefixes = ["/usr/local", "/usr", "/opt/venv", "/venv", "/opt/conda"].map(|prefix| around.at(prefix));
    let environment = homes.chain(prefixes).map(|dir| dir.join("pip.conf"));
    let user = [around.config_home().join("pip/pip.conf"), around.home().join(".pip/pip.conf")];
    let wide = around.var("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg").split(':');
    let wide: Vec<_> = wide.map(|dir| around.at(dir).join("pip/pip.conf")).collect();
    given.into_iter().chain(environment).chain(user).chain([around.at("/etc/pip.conf")]).chain(wide).collect()
}

/// pip's own sections: what `install` has wins over `global`.
fn of_pip(text: &str, from: &str) -> Vec<Index> {
    let mut all = Vec::new();
    let lines = settings_of(text);
    for wanted in ["install", "download", "global"] {
        for (_, name, value) in lines.iter().filter(|(section, ..)| section == wanted) {
            match name.as_str() {
                "index-url" => all.push(Index::new("", value, from)),
                "extra-index-url" | "find-links" => all.extend(extras_of(value, from)),
                _ => {}
            }
        }
    }
    all
}

/// Section, name and value as Python's configparser reads them: `=` or `:` between, further lines indented.
pub(super) fn settings_of(text: &str) -> Vec<(String, String, String)> {
    let mut all: Vec<(String, String, String)> = Vec::new();
    let mut section = "";
    for line in text.lines() {
        let inner = line.trim();
        if inner.is_empty() || inner.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t'])
            && let Some((_, _, value)) = all.last_mut()
        {
            value.push(' ');
            value.push_str(inner);
        } else if let Some(name) = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            section = name.trim();
        } else if let Some((name, value)) = inner.split_once(['=', ':']) {
            let name = name.trim().to_ascii_lowercase().replace('_', "-");
            all.push((section.to_owned(), name, value.trim().to_owned()));
        }
    }
    all
}

/// `-i`, `--index-url`, `--extra-index-url` and `--find-links` in the requirements that lie in the project.
fn of_requirements(around: &Surroundings<'_>) -> Vec<Index> {
    let dirs = [around.project().to_owned(), around.project().join("requirements")];
    let texts = dirs.iter().flat_map(|dir| around.list(dir)).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let inner = path.parent().is_some_and(|dir| dir.ends_with("requirements"));
        (name.ends_with(".txt") || name.ends_with(".in")) && (inner || name.contains("requirements"))
    });
    let mut all = Vec::new();
    for (path, text) in texts.filter_map(|path| Some((path.clone(), around.read(&path)?))) {
        let from = around.shown(&path);
        let options = text.lines().map(str::trim).filter(|line| line.starts_with('-'));
        for (name, value) in options.filter_map(|line| line.split_once(['=', ' '])) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            match name {
                "-i" | "--index-url" => all.push(Index::new("", value, &from)),
                "--extra-index-url" | "-f" | "--find-links" => all.extend(extras_of(value, &from)),
                _ => {}
            }
        }
    }
    all
}

fn asked(around: &Surroundings<'_>) -> Option<Index> {
    let default = ["pip", "pip3"].into_iter().find_map(|program| around.ask(&Question { program, ..ASK }))?;
    Some(Index::new("", &default, "pip download --help"))
}

/// pip names its default in the help of `--index-url`: `(default https://...)`.
const ASK: Question = Question {
    program: "pip",
    arguments: &["download", "--help"],
    answer: |help| {
        let after = help.split_once("--index-url")?.1.split_once("(default")?.1;
        Some(after.split_once(')')?.0.split_whitespace().collect())
    },
    sources: &["config", "debug"],
    named: |printed| {
        let lines = printed.lines().filter_map(|line| line.trim().split_once(", exists: "));
        lines.map(|(path, _)| path.into()).collect()
    },
    files,
    variables: &["pip", "py", "conda", "virtual_env"],
};

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::super::tool::AskTool;
    use super::*;

    fn told(all: &[Found]) -> Vec<(&str, &str)> {
        all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect()
    }

    #[test]
    fn files_tell_in_pips_order() {
        let machine = Machine::new(&[
            ("etc/xdg/pip/pip.conf", "[global]\nindex-url = https://xdg.example/simple\n"),
            (
                "etc/pip.conf",
                "[global]\nindex_url: https://global.example/simple\nextra-index-url =\n  https://a.example/x\n  # c\n  https://b.example/x\n",
            ),
            ("home/me/.config/pip/pip.conf", "[global]\nINDEX-URL = https://u:hush@user.example/simple\n"),
        ]);
        let all = machine.look(look);
        assert_eq!(
            told(&all),
            [
                ("", "https://user.example/simple/"),
                ("a.example", "https://a.example/x/"),
                ("b.example", "https://b.example/x/")
            ]
        );
        assert_eq!((all[0].secrets.len(), all[0].settings["token"].as_str()), (1, "yes"));
        assert!(!format!("{all:?}").contains("hush"));
        let machine = machine.with("PIP_INDEX_URL", "https://env.example/simple");
        assert_eq!(machine.look(look)[0].from, "$PIP_INDEX_URL");
    }

    #[test]
    fn what_holds_for_install_wins_in_its_file_and_an_environment_over_the_user() {
        let machine = Machine::new(&[
            (
                "usr/local/pip.conf",
                "[global]\nindex-url = https://g.example\n[install]\nindex-url = https://i.example\n[list]\nindex-url = https://no.example",
            ),
            ("home/me/.pip/pip.conf", "[global]\nindex-url = https://user.example\n"),
        ]);
        assert_eq!(told(&machine.look(look)), [("", "https://i.example/")]);
        let none = machine.with("PIP_CONFIG_FILE", "/dev/null");
        assert_eq!(none.look(look), []);
    }

    #[test]
    fn requirements_and_variables_name_further_indexes() {
        let machine = Machine::new(&[
            (
                "build/app/requirements-dev.txt",
                "-r x.txt\n--index-url=https://${USER_PART}@r.example/simple # c\n--extra-index-url https://e.example/simple\na==1\n",
            ),
            ("build/app/notes.txt", "--index-url https://no.example\n"),
            ("home/me/.netrc", "machine e.example login me password x\n"),
        ]);
        let all = machine
            .with("USER_PART", "me:hush")
            .with("UV_INDEX", "corp=https://corp.example/simple https://f.example/")
            .look(look);
        assert_eq!(
            told(&all),
            [
                ("", "https://r.example/simple/"),
                ("corp", "https://corp.example/simple/"),
                ("f.example", "https://f.example/"),
                ("e.example", "https://e.example/simple/")
            ]
        );
        let private: Vec<bool> = all.iter().map(|found| found.settings.contains_key("token")).collect();
        assert_eq!(private, [true, false, false, true]);
        assert!(!format!("{all:?}").contains("hush"));
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
