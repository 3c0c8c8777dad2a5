//! A checkout or an unpacked image: its files alone, whoever's home and wherever the project may be in it.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use super::tool::NoTools;
use super::{Found, Surroundings, look};

/// Files that say that a directory is a project.
const MARKS: [&str; 26] = [
    ".cargo",
    ".npmrc",
    ".yarnrc.yml",
    "Cargo.lock",
    "Pipfile",
    "Pipfile.lock",
    "build.gradle",
    "build.gradle.kts",
    "bun.lock",
    "bunfig.toml",
    "deps.edn",
    "go.mod",
    "gradle",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "poetry.lock",
    "pom.xml",
    "project.clj",
    "pyproject.toml",
    "requirements.txt",
    "settings.gradle",
    "settings.gradle.kts",
    "uv.lock",
    "yarn.lock",
];
/// Where images have what they build, below their root.
const PLACES: [&str; 12] =
    ["app", "build", "code", "home", "mnt", "opt", "project", "root", "src", "srv", "usr/src", "workspace"];
/// Made by tools, large, and no project of anybody here.
const SKIPPED: [&str; 6] = ["node_modules", "target", "vendor", "dist", "site-packages", "testdata"];
const DEPTH: usize = 4;
const DIRECTORIES: usize = 4096;
const PROJECTS: usize = 64;

/// Everything that lies there tells. Where two say different things, the first is the default and the others are
/// further sources, named after their hosts.
pub fn look_unpacked(root: &Path) -> Vec<Found> {
    let around = Surroundings::unpacked(root);
    let at = |path: &str| around.at(path);
    let is_image = ["etc/os-release", "etc/passwd", "bin", "usr/bin"].iter().any(|path| root.join(path).exists());
    let starts = if is_image { PLACES.iter().map(|place| root.join(place)).collect() } else { vec![root.to_owned()] };
    let users = around.list(&at("/home"));
    let users = users.iter().filter_map(|home| Some(format!("/home/{}", home.file_name()?.to_str()?)));
    let homes = std::iter::once("/root".to_owned()).chain(users);
    let mut all: Vec<Found> = Vec::new();
    let projects = projects(starts);
    for (first, home) in homes.enumerate().map(|(at, home)| (at == 0, home)) {
        let env = environment(root, &home);
        // A project in a home is looked at with that home.
        let near = projects.iter().filter(|project| match project.strip_prefix(root.join("home")) {
            Ok(_) => project.starts_with(at(&home)),
            Err(_) => first,
        });
        for project in near.cloned().chain([root.to_owned()]) {
            let found = look(&Surroundings::new(root, &project, env.clone(), &NoTools));
            found.into_iter().for_each(|found| add(&mut all, found));
        }
    }
    all.sort_by(|one, other| one.ecosystem.cmp(other.ecosystem));
    all
}

fn add(all: &mut Vec<Found>, mut found: Found) {
    let known = |found: &Found, all: &[Found]| {
        let mut same = all.iter().filter(|known| known.ecosystem == found.ecosystem);
        same.any(|known| known.name == found.name || known.urls == found.urls)
    };
    if known(&found, all) {
        let host = found.urls.first().and_then(|(url, _)| url.host_str());
        found.name = host.unwrap_or_default().to_owned();
    }
    // cargo carries its default everywhere: it is none where something else was found.
    let is_news = found.from != super::cargo::BUILT_IN || !all.iter().any(|known| known.ecosystem == found.ecosystem);
    if is_news && !known(&found, all) {
        all.push(found);
    }
}

/// What would be set there: what `/etc/environment` has, and where images of Rust put cargo.
fn environment(root: &Path, home: &str) -> BTreeMap<String, String> {
    let around = Surroundings::unpacked(root);
    let text = around.read(&around.at("/etc/environment")).unwrap_or_default();
    let mut env: BTreeMap<String, String> = super::ini(&text)
        .map(|(_, name, value)| (name.trim_start_matches("export ").to_owned(), value.to_owned()))
        .collect();
    if around.at("/usr/local/cargo").is_dir() {
        env.entry("CARGO_HOME".to_owned()).or_insert_with(|| "/usr/local/cargo".to_owned());
    }
    env.insert("HOME".to_owned(), home.to_owned());
    env
}

/// Directories with a mark in them, the outermost first; links are not followed.
fn projects(starts: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut ahead: VecDeque<(PathBuf, usize)> = starts.into_iter().map(|start| (start, 0)).collect();
    let (mut found, mut seen) = (Vec::new(), 0);
    while let Some((dir, depth)) = ahead.pop_front() {
        seen += 1;
        if seen > DIRECTORIES || found.len() == PROJECTS {
            break;
        }
        let Ok(entries) = dir.read_dir() else { continue };
        let mut below = Vec::new();
        let mut is_project = false;
        for entry in entries.flatten().take(DIRECTORIES) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            is_project |= MARKS.contains(&name);
            let goes_on = depth < DEPTH && !name.starts_with('.') && !SKIPPED.contains(&name);
            if goes_on && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below.push((entry.path(), depth + 1));
            }
        }
        below.sort();
        ahead.extend(below);
        if is_project {
            found.push(dir);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::*;

    fn told(all: &[Found]) -> Vec<String> {
        all.iter().map(|found| format!("{} {:?} {}", found.ecosystem, found.name, urls(found).join(" "))).collect()
    }

    fn of_all(files: &[(&str, &str)]) -> Vec<String> {
        let machine = Machine::new(files);
        let all = look_unpacked(machine.dir.path());
        let root = machine.dir.path().display().to_string();
        assert!(!format!("{all:?}").contains(&root), "shown as whoever lives in it knows it");
        assert!(!format!("{all:?}").contains("hush"));
        let told = told(&all).into_iter();
        told.filter(|one| !one.starts_with("cargo \"\" https://index.")).collect()
    }

    #[test]
    fn an_image_tells_of_every_home_and_project_in_it() {
        let told = of_all(&[
            ("etc/os-release", "ID=any"),
            ("etc/environment", "GOPROXY=\"https://me:hush@go.example,direct\"\n"),
            ("etc/apt/sources.list.d/x.sources", "Types: deb\nURIs: http://apt.example/debian\nSuites: s\n"),
            (
                "usr/local/cargo/config.toml",
                "[source.crates-io]\nreplace-with='m'\n[source.m]\nregistry='sparse+https://crates.example/'\n",
            ),
            ("usr/local/pip.conf", "[global]\nindex-url=https://py.example/simple\n"),
            ("root/.npmrc", "registry=https://npm.example/\n"),
            ("home/dev/.npmrc", "registry=https://dev.example/\n"),
            (
                "home/dev/proj/package-lock.json",
                r#"{"packages":{"node_modules/a":{"resolved":"https://lock.example/a/-/a-1.tgz"}}}"#,
            ),
            (
                "app/pom.xml",
                "<project><repositories><repository><id>corp</id><url>https://corp.example/m</url></repository></repositories></project>",
            ),
            ("proc/self/environ", "x"),
        ]);
        assert_eq!(
            told,
            [
                "apt \"\" http://apt.example/debian/",
                "cargo \"\" https://crates.example/",
                "go \"\" https://go.example/",
                "maven \"corp\" https://corp.example/m/",
                "npm \"\" https://npm.example/",
                "npm \"dev.example\" https://dev.example/",
                "npm \"lock.example\" https://lock.example/",
                "pypi \"\" https://py.example/simple/",
            ]
        );
    }

    #[test]
    fn a_checkout_tells_by_the_lockfiles_of_all_its_parts() {
        let told = of_all(&[
            ("Cargo.lock", "[[package]]\nname = \"a\"\nsource = \"sparse+https://crates.example/i/\"\n"),
            (
                "web/package-lock.json",
                r#"{"packages":{"node_modules/a":{"resolved":"https://npm.example/a/-/a-1.tgz"}}}"#,
            ),
            ("web/node_modules/x/yarn.lock", "a@1:\n  resolved \"https://no.example/a/-/a-1.tgz\"\n"),
            ("tools/yarn.lock", "a@1:\n  resolved \"https://yarn.example/a/-/a-1.tgz\"\n"),
            ("py/uv.lock", "[[package]]\nname = 'a'\nsource = { registry = 'https://py.example/simple' }\n"),
            ("py/old/requirements.txt", "-i https://u:hush@old.example/simple\n"),
            ("clj/project.clj", "(defproject a \"1\" :repositories [[\"corp\" \"https://corp.example/r\"]])"),
            ("broken/package-lock.json", "{\"packages\": [\u{0}"),
            ("broken/pyproject.toml", "[tool.uv"),
            ("broken/.cargo/config.toml", "= = ="),
            ("broken/pom.xml", "<repository><url>"),
        ]);
        assert_eq!(
            told,
            [
                "cargo \"crates-example\" https://crates.example/i/",
                "maven \"corp\" https://corp.example/r/",
                "npm \"\" https://yarn.example/",
                "npm \"npm.example\" https://npm.example/",
                "pypi \"\" https://py.example/simple/",
                "pypi \"old.example\" https://old.example/simple/",
            ]
        );
    }
}
