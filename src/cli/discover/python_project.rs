//! What a Python project says of its indexes: `pyproject.toml` for uv, poetry and pdm, `uv.toml`, `Pipfile`, and the
//! lockfiles of uv, poetry and pipenv.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toml::{Table, Value};

use super::python_index::{Index, extras_of, named};
use super::{Surroundings, address};

/// What the project's own files ask for.
pub(super) fn settings(around: &Surroundings<'_>) -> Vec<Index> {
    let mut all = Vec::new();
    // uv reads its own file in place of the table where both are there.
    let own = match around.var("UV_CONFIG_FILE") {
        Some(path) => table(around, around.at(path)),
        None => near(around, "uv.toml"),
    };
    let project = near(around, "pyproject.toml");
    let tool =
        |name: &str| project.as_ref().and_then(|(table, from)| Some((table.get("tool")?.get(name)?.as_table()?, from)));
    let uv = own.as_ref().map(|(table, from)| (table, from)).or_else(|| tool("uv"));
    all.extend(uv.into_iter().flat_map(|(table, from)| of_uv(table, from)));
    for (table, from) in [tool("poetry"), tool("pdm")].into_iter().flatten() {
        all.extend(of_sources(table.get("source"), from));
    }
    all.extend(near(around, "Pipfile").into_iter().flat_map(|(table, from)| of_pipfile(table.get("source"), &from)));
    all
}

/// What users and machines have set for uv.
pub(super) fn users(around: &Surroundings<'_>) -> Vec<Index> {
    let files =
        [around.config_home().join("uv/uv.toml"), around.at("/etc/xdg/uv/uv.toml"), around.at("/etc/uv/uv.toml")];
    files.into_iter().filter_map(|path| table(around, path)).flat_map(|(table, from)| of_uv(&table, &from)).collect()
}

/// Where lockfiles say that packages come from, the most used one first; it is the default where nothing else is.
pub(super) fn locked(around: &Surroundings<'_>) -> Vec<Index> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut files = BTreeSet::new();
    for (lock, from) in [near(around, "uv.lock"), near(around, "poetry.lock")].into_iter().flatten() {
        for package in lock.get("package").and_then(Value::as_array).into_iter().flatten() {
            files.extend(files_of(package).map(|host| (host, from.clone())));
            let Some(source) = package.get("source") else { continue };
            let registry = source
                .get("registry")
                .or_else(|| source.get("url").filter(|_| source.get("type").and_then(Value::as_str) == Some("legacy")));
            if let Some(url) = registry.and_then(Value::as_str) {
                *counts.entry((url.to_owned(), from.clone())).or_default() += 1;
            }
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut all = Vec::new();
    for (at, ((url, from), _)) in counts.iter().enumerate() {
        // poetry names only what is not its default.
        if at == 0 && from.ends_with("uv.lock") {
            all.push(Index::new("", url, from));
        }
        all.extend(named("", url).map(|name| Index::new(&name, url, from)));
    }
    all.extend(files.iter().filter_map(|(url, from)| Some(Index::new(&named("", url)?, url, from))));
    all.extend(of_pipfile_lock(around));
    all
}

/// Where the files of a package of `uv.lock` lie: often not where the index is.
fn files_of(package: &Value) -> impl Iterator<Item = String> {
    let wheels = package.get("wheels").and_then(Value::as_array).into_iter().flatten();
    let files = wheels.chain(package.get("sdist")).filter_map(|file| address(file.get("url")?.as_str()?));
    files.map(|(url, _)| url.origin().ascii_serialization())
}

fn near(around: &Surroundings<'_>, name: &str) -> Option<(Table, String)> {
    let (path, text) = around.above(name)?;
    Some((text.parse().ok()?, around.shown(&path)))
}

fn table(around: &Surroundings<'_>, path: PathBuf) -> Option<(Table, String)> {
    Some((around.read(&path)?.parse().ok()?, around.shown(&path)))
}

fn of_uv(settings: &Table, from: &str) -> Vec<Index> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for index in settings.get("index").and_then(Value::as_array).into_iter().flatten() {
        let url = text(index, "url");
        let is_default = index.get("default").and_then(Value::as_bool) == Some(true);
        let name = if is_default { Some(String::new()) } else { named(&text(index, "name"), &url) };
        all.extend(name.map(|name| Index::new(&name, &url, from)));
    }
    for settings in [Some(settings), settings.get("pip").and_then(Value::as_table)].into_iter().flatten() {
        all.extend(settings.get("index-url").and_then(Value::as_str).map(|url| Index::new("", url, from)));
        for name in ["extra-index-url", "find-links"] {
            let urls = settings.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            all.extend(urls.flat_map(|url| extras_of(url, from)));
        }
    }
    all
}

/// poetry's and pdm's sources: `primary` or `default = true` stands in the default's place, or pdm's name for it.
fn of_sources(sources: Option<&Value>, from: &str) -> Vec<Index> {
    let mut all = Vec::new();
    for source in sources.and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| source.get(name).and_then(Value::as_str).unwrap_or_default();
        let is_default = matches!(text("priority"), "primary" | "default")
            || source.get("default").and_then(Value::as_bool) == Some(true)
            || text("name") == "pypi";
        let name = if is_default { Some(String::new()) } else { named(text("name"), text("url")) };
        all.extend(name.map(|name| Index::new(&name, text("url"), from)));
    }
    all
}

/// pipenv takes the first source for whatever names none. `$NAME` is filled in as `${NAME}` is.
fn of_pipfile(sources: Option<&Value>, from: &str) -> Vec<Index> {
    let sources = sources.and_then(Value::as_array).into_iter().flatten().enumerate();
    let each = sources.filter_map(|(at, source)| {
        let text = |name: &str| source.get(name).and_then(Value::as_str).unwrap_or_default();
        pipfile_index(at, text("name"), text("url"), from)
    });
    each.collect()
}

fn of_pipfile_lock(around: &Surroundings<'_>) -> Vec<Index> {
    let Some((path, text)) = around.above("Pipfile.lock") else { return Vec::new() };
    let lock: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let sources = lock.pointer("/_meta/sources").and_then(serde_json::Value::as_array).into_iter().flatten();
    let text = |source: &serde_json::Value, name: &str| {
        source.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let each = sources.enumerate().filter_map(|(at, source)| {
        pipfile_index(at, &text(source, "name"), &text(source, "url"), &around.shown(&path))
    });
    each.collect()
}

fn pipfile_index(at: usize, name: &str, url: &str, from: &str) -> Option<Index> {
    let name = if at == 0 { String::new() } else { named(name, url)? };
    Some(Index::new(&name, &braced(url), from))
}

/// `$NAME` as `${NAME}`.
fn braced(text: &str) -> String {
    let mut pieces = text.split('$');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|one: char| !one.is_ascii_alphanumeric() && one != '_').unwrap_or(piece.len());
        let (name, rest) = piece.split_at(end);
        if name.is_empty() {
            out.push('$');
            out.push_str(piece);
        } else {
            out.push_str(&format!("${{{name}}}{rest}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::super::{Found, pip};

    fn told(all: &[Found]) -> Vec<(&str, &str)> {
        all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect()
    }

    #[test]
    fn uv_tells_in_its_project_its_own_file_or_its_lock() {
        let lock = "[[package]]\nname = 'a'\nsource = { registry = 'https://corp.example/simple' }\n\
                    [[package]]\nname = 'b'\nsource = { registry = 'https://lock.example/simple' }\n\
                    [[package]]\nname = 'c'\nsource = { registry = 'https://lock.example/simple' }\n\
                    sdist = { url = 'https://files.example/a/c.tar.gz' }\nwheels = [{ url = 'https://files.example/c.whl' }]\n\
                    [[package]]\nname = 'd'\nsource = { virtual = '.' }\n";
        let lock = ("build/uv.lock", lock);
        assert_eq!(
            told(&Machine::new(&[lock]).look(pip::look)),
            [
                ("", "https://lock.example/simple/"),
                ("corp.example", "https://corp.example/simple/"),
                ("files.example", "https://files.example/")
            ]
        );
        let project = "[[tool.uv.index]]\nname = 'extra'\nurl = 'https://extra.example'\n[[tool.uv.index]]\nurl = 'https://uv.example/simple'\ndefault = true\n";
        let project = ("build/app/pyproject.toml", project);
        let all = Machine::new(&[lock, project]).look(pip::look);
        assert_eq!(told(&all)[..2], [("", "https://uv.example/simple/"), ("extra", "https://extra.example/")]);
        assert_eq!(all[0].from, "/build/app/pyproject.toml");
        let own = (
            "build/app/uv.toml",
            "index-url = 'https://own.example'\n[pip]\nextra-index-url = ['https://p.example/x']\n",
        );
        let all = Machine::new(&[project, own]).look(pip::look);
        assert_eq!(told(&all), [("", "https://own.example/"), ("p.example", "https://p.example/x/")]);
        let user = ("home/me/.config/uv/uv.toml", "[[index]]\nurl = 'https://user.example'\ndefault = true\n");
        assert_eq!(told(&Machine::new(&[user]).look(pip::look)), [("", "https://user.example/")]);
    }

    #[test]
    fn poetry_and_pdm_name_their_sources() {
        let poetry = "[[tool.poetry.source]]\nname = 'corp'\nurl = 'https://corp.example/simple'\npriority = 'supplemental'\n\
                      [[tool.poetry.source]]\nname = 'main'\nurl = 'https://main.example/simple'\npriority = 'primary'\n";
        let lock = "[[package]]\nname = 'a'\n[package.source]\ntype = 'legacy'\nurl = 'https://old.example/simple'\nreference = 'old'\n\
                    [[package]]\nname = 'b'\n[package.source]\ntype = 'git'\nurl = 'https://code.example/b'\n";
        let all =
            Machine::new(&[("build/app/pyproject.toml", poetry), ("build/app/poetry.lock", lock)]).look(pip::look);
        assert_eq!(
            told(&all),
            [
                ("", "https://main.example/simple/"),
                ("corp", "https://corp.example/simple/"),
                ("old.example", "https://old.example/simple/")
            ]
        );
        let pdm = "[[tool.pdm.source]]\nname = 'pypi'\nurl = 'https://pdm.example/simple'\n";
        assert_eq!(
            told(&Machine::new(&[("build/app/pyproject.toml", pdm)]).look(pip::look)),
            [("", "https://pdm.example/simple/")]
        );
    }

    #[test]
    fn pipenvs_first_source_is_the_default() {
        let pipfile = "[[source]]\nname = 'a'\nurl = 'https://$WHO:${PASS}@a.example/simple'\n[[source]]\nname = 'b'\nurl = 'https://b.example/simple'\n";
        let lock = r#"{"_meta":{"sources":[{"name":"c","url":"https://c.example/simple"}]}}"#;
        let machine = Machine::new(&[("build/app/Pipfile", pipfile), ("build/app/Pipfile.lock", lock)]);
        let all = machine.with("WHO", "me").with("PASS", "hush").look(pip::look);
        assert_eq!(told(&all), [("", "https://a.example/simple/"), ("b", "https://b.example/simple/")]);
        assert_eq!((all[0].secrets[0].user.as_str(), all[0].secrets[0].password.as_str()), ("me", "hush"));
        let lock = Machine::new(&[("build/app/Pipfile", "[[source"), ("build/app/Pipfile.lock", lock)]).look(pip::look);
        assert_eq!(told(&lock), [("", "https://c.example/simple/")]);
    }
}
