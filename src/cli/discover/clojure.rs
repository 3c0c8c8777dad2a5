//! Leiningen and Clojure's own tool: repositories and mirrors from `project.clj`, `profiles.clj`, `deps.edn`; the default
//! ones from Leiningen's archive.
//!
//! Source: Leiningen's sample.project.clj and doc/PROFILES.md, "deps.edn" in Clojure's reference.

use std::path::PathBuf;

use super::edn::{self, Form};
use super::{Found, Surroundings, jar};

const DEFAULTS: &str = "leiningen/core/project.clj";

/// Repositories by name; the default one is called `central`, as everywhere with Maven.
pub(super) fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut mirrors = Vec::new();
    let mut all = Vec::new();
    for path in files(around) {
        let Some(text) = around.read(&path) else { continue };
        let (forms, from) = (edn::read(&text), around.shown(&path));
        mirrors.extend(edn::behind(&forms, ":mirrors").into_iter().flat_map(|form| repositories(around, form, &from)));
        for key in [":repositories", ":plugin-repositories", ":mvn/repos"] {
            all.extend(edn::behind(&forms, key).into_iter().flat_map(|form| repositories(around, form, &from)));
        }
    }
    mirrors.extend(all);
    mirrors
}

/// What Leiningen has where nothing is said.
pub(super) fn built_in(around: &Surroundings<'_>) -> Vec<Found> {
    let lein = around.var("LEIN_HOME").map_or_else(|| around.home().join(".lein"), |dir| around.at(dir));
    let dirs = [lein.join("self-installs"), around.at("/usr/share/java"), around.at("/usr/share/leiningen")];
    let given = around.var("LEIN_JAR").map(|path| around.at(path));
    let archives = given.into_iter().chain(dirs.iter().flat_map(|dir| around.list(dir))).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("leiningen") && name.ends_with(".jar")
    });
    let read = |path: PathBuf| Some((jar::member(around.open(&path)?, DEFAULTS)?, around.shown(&path)));
    let Some((text, from)) = archives.filter_map(read).next() else { return Vec::new() };
    let forms = edn::read(&text);
    let told = edn::behind(&forms, "default-repositories").into_iter();
    told.flat_map(|form| repositories(around, form, &from)).collect()
}

/// The project's before the user's before the machine's.
fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let near = |name: &str| around.above(name).map(|(path, _)| path);
    let lein = around.var("LEIN_HOME").map_or_else(|| around.home().join(".lein"), |dir| around.at(dir));
    let clojure = around.var("CLJ_CONFIG").map(|dir| around.at(dir));
    let clojure = [clojure, Some(around.config_home().join("clojure")), Some(around.home().join(".clojure"))];
    let mut files: Vec<_> = ["project.clj", "profiles.clj", "deps.edn"].into_iter().filter_map(near).collect();
    files.push(lein.join("profiles.clj"));
    files.extend(around.list(&lein.join("profiles.d")));
    files.extend(clojure.into_iter().flatten().map(|dir| dir.join("deps.edn")));
    files.push(around.at("/etc/leiningen/profiles.clj"));
    files
}

/// `[["name" "url"] ["name" {:url "url"}]]`, or a map of the same.
fn repositories(around: &Surroundings<'_>, form: &Form, from: &str) -> Vec<Found> {
    let items = form.many().unwrap_or_default();
    let is_map = items.first().is_some_and(|first| first.many().is_none());
    let pairs: Vec<&[Form]> =
        if is_map { items.chunks_exact(2).collect() } else { items.iter().filter_map(Form::many).collect() };
    let each = pairs.into_iter().filter_map(|pair| {
        let [name, about, ..] = pair else { return None };
        let url = about.text().or_else(|| about.get(":url")?.text())?;
        let mut found = Found::one("maven", name.text()?, from.to_owned(), &around.expanded(url)?)?;
        let keys = [":username", ":password", ":creds", ":passphrase"];
        if !found.secrets.is_empty() || keys.iter().any(|key| about.get(key).is_some()) {
            found.settings.insert("token", "yes".into());
        }
        Some(found)
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::super::maven;
    use super::super::tests::{Machine, urls};
    use super::*;

    fn told(all: &[Found]) -> Vec<(&str, &str)> {
        all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect()
    }

    #[test]
    fn mirrors_win_over_repositories_and_repositories_over_the_built_in() {
        let project = "(defproject a \"1\" ; x\n :repositories [[\"corp\" {:url \"https://corp.example/r\" :username \"me\" :password :env}]\n\
                       #_[\"off\" \"https://off.example\"] [\"plain\" \"https://u:hush@plain.example\"]]\n\
                       :deploy-repositories [[\"out\" \"https://no.example\"]]\n\
                       :profiles {:dev {:plugin-repositories {\"plugins\" {:url \"https://plugins.example\"}}}})";
        let profiles = "{:user {:mirrors {\"central\" {:name \"m\" :url \"https://mirror.example/central\"} #\"clojars\" {:url \"https://mirror.example/clojars\"}}}}";
        let machine = Machine::new(&[("build/app/project.clj", project), ("home/me/.lein/profiles.clj", profiles)]);
        let defaults = "(def default-repositories [[\"central\" {:url \"https://c.example/\" :snapshots false}] [\"clojars\" {:url \"https://clojars.example/repo\"}]])";
        let archive = jar::tests::archive(DEFAULTS, defaults, 8);
        let dir = machine.dir.path().join("usr/share/java");
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("leiningen-2.jar"), archive).expect("a file");
        std::fs::write(dir.join("leiningen-1.jar"), "no archive").expect("a file");
        let all = machine.look(maven::look);
        assert_eq!(
            told(&all),
            [
                ("", "https://mirror.example/central/"),
                ("clojars", "https://mirror.example/clojars/"),
                ("corp", "https://corp.example/r/"),
                ("plain", "https://plain.example/"),
                ("plugins", "https://plugins.example/"),
            ]
        );
        let private: Vec<bool> = all.iter().map(|found| found.settings.contains_key("token")).collect();
        assert_eq!(private, [false, false, true, true, false]);
        assert!(!format!("{all:?}").contains("hush"));
        std::fs::remove_file(machine.dir.path().join("home/me/.lein/profiles.clj")).expect("was there");
        let all = machine.look(maven::look);
        assert!(told(&all).contains(&("", "https://c.example/")), "{all:?}");
        assert!(told(&all).contains(&("clojars", "https://clojars.example/repo/")), "{all:?}");
    }

    #[test]
    fn deps_edn_names_its_repositories() {
        let deps = "{:deps {a/b {:mvn/version \"1\"}} :mvn/repos {\"central\" {:url \"https://near.example/c\"} \"x\" {:url \"https://x.example/\"}}}";
        let all = Machine::new(&[("build/app/deps.edn", deps), ("home/me/.clojure/deps.edn", "{")]).look(maven::look);
        assert_eq!(told(&all), [("", "https://near.example/c/"), ("x", "https://x.example/")]);
    }
}
