//! Maven: mirrors and repositories from `settings.xml` and `pom.xml`, with Gradle's and Leiningen's beside them. The
//! default repository stands only inside Maven's own archive, and is read there.
//!
//! Source: Maven's "Settings Reference", "POM Reference" and "Using Mirrors for Repositories". The elements that matter
//! are flat, so they are picked out without a parser.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Found, Surroundings, clojure, filled, firsts, gradle, jar};

/// The repository that every build has unless its settings say otherwise.
pub const CENTRAL: &str = "central";
const SUPER_POM: &str = "org/apache/maven/model/pom-4.0.0.xml";
/// A project has few parents.
const PARENTS: usize = 8;

/// Looks for Maven's repositories: the default one (a mirror of `central`, else `central` itself), then others by what
/// they mirror, by id, or by host.
///
/// `settings`: `mirrorOf` for a mirror; `token` is there when a credential is shown to it.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let (mut mirrors, mut all, mut private) = (Vec::new(), Vec::new(), Vec::new());
    for path in files(around) {
        let Some(text) = around.read(&path) else { continue };
        let file = File { around, text: without_comments(&text), from: around.shown(&path) };
        private.extend(file.servers());
        mirrors.extend(file.mirrors());
        all.extend(file.repositories());
    }
    mirrors.extend(all);
    let mut all = mirrors;
    all.extend(clojure::look(around));
    all.extend(built_in(around));
    all.extend(clojure::built_in(around));
    all.extend(gradle::look(around));
    for found in &mut all {
        let id = found.settings.get("id").unwrap_or(&found.name);
        if private.contains(id) || !found.secrets.is_empty() {
            found.settings.insert("token", "yes".into());
        }
        if found.name == CENTRAL || found.settings.get("mirrorOf").is_some_and(|of| covers_central(of)) {
            found.name = String::new();
        }
    }
    all.sort_by_key(|found| !found.name.is_empty());
    firsts(all)
}

/// `*`, `external:*` or a list with `central`, unless it is excepted.
fn covers_central(pattern: &str) -> bool {
    let mut words = pattern.split(',').map(str::trim);
    let named = words.clone().any(|word| matches!(word, "*" | "external:*") || word == CENTRAL);
    named && !words.any(|word| word.strip_prefix('!') == Some(CENTRAL))
}

struct File<'a> {
    around: &'a Surroundings<'a>,
    text: String,
    from: String,
}

impl File<'_> {
    /// Ids that have a credential.
    fn servers(&self) -> Vec<String> {
        let ids = blocks(&self.text, "server").filter_map(|block| blocks(block, "id").next());
        ids.map(|id| id.trim().to_owned()).collect()
    }

    fn mirrors(&self) -> Vec<Found> {
        // Maven's own settings refuse plain HTTP by a mirror that is blocked.
        let blocked = |block: &&str| blocks(block, "blocked").any(|word| word.trim() == "true");
        let each = blocks(&self.text, "mirror").filter(|block| !blocked(block)).filter_map(|block| {
            let of = plain(blocks(block, "mirrorOf").next()?);
            let mut found = self.found(&of, block)?;
            found.settings.insert("mirrorOf", of);
            found.settings.extend(blocks(block, "id").next().map(|id| ("id", plain(id))));
            Some(found)
        });
        each.collect()
    }

    /// Where things are fetched from; where a project puts its own is not asked.
    fn repositories(&self) -> Vec<Found> {
        let text = without(&self.text, "distributionManagement");
        let each = |element: &str| -> Vec<Found> {
            let all = blocks(&text, element);
            all.filter_map(|block| self.found(&plain(blocks(block, "id").next()?), block)).collect()
        };
        [each("repository"), each("pluginRepository")].concat()
    }

    fn found(&self, name: &str, block: &str) -> Option<Found> {
        let url = plain(blocks(block, "url").next()?);
        let value = |name: &str| match name.strip_prefix("env.") {
            Some(name) => self.around.var(name).map(str::to_owned),
            None => properties(&self.text).get(name).cloned(),
        };
        Found::one("maven", name, self.from.clone(), &filled(&url, value)?)
    }
}

fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let mut files = named_by_project(around);
    files.push(around.home().join(".m2/settings.xml"));
    files.extend(homes(around).map(|home| home.join("conf/settings.xml")));
    files.push(around.at("/etc/maven/settings.xml"));
    let dirs = around.project().ancestors().take(PARENTS);
    files.extend(dirs.map(|dir| dir.join("pom.xml")).take_while(|path| around.read(path).is_some()));
    files
}

/// `-s FILE` and `-gs FILE` in the project's `.mvn/maven.config`.
fn named_by_project(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let Some((path, text)) = around.above(".mvn/maven.config") else { return Vec::new() };
    let Some(project) = path.parent().and_then(Path::parent) else { return Vec::new() };
    let words: Vec<&str> = text.split_whitespace().flat_map(|word| word.split('=')).collect();
    let options = ["-s", "--settings", "-gs", "--global-settings"];
    let named = words.windows(2).filter(|pair| options.contains(&pair[0]));
    named.map(|pair| if pair[1].starts_with('/') { around.at(pair[1]) } else { project.join(pair[1]) }).collect()
}

/// Where Maven may be installed.
fn homes<'a>(around: &'a Surroundings<'_>) -> impl Iterator<Item = PathBuf> + 'a {
    let named = ["MAVEN_HOME", "M2_HOME"].into_iter().filter_map(|name| around.var(name));
    let usual = ["/usr/share/maven", "/opt/maven", "/opt/apache-maven", "/usr/local/maven"];
    named.chain(usual).map(|home| around.at(home))
}

/// The installation's own directory of configuration, and the settings in it.
pub fn installed(around: &Surroundings<'_>) -> Option<(PathBuf, String)> {
    let conf = homes(around).map(|home| home.join("conf"));
    conf.into_iter().find_map(|conf| Some((conf.clone(), around.read(&conf.join("settings.xml"))?)))
}

/// The super-POM, inside the archive `maven-model-builder`.
fn built_in(around: &Surroundings<'_>) -> Option<Found> {
    let homes = ["MAVEN_HOME", "M2_HOME"].into_iter().filter_map(|name| around.var(name));
    let homes = homes.chain(["/usr/share/maven", "/opt/maven", "/opt/apache-maven", "/usr/local/maven"]);
    let archives = homes
        .flat_map(|home| around.list(&around.at(home).join("lib")))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maven-model-builder")));
    let read = |path: PathBuf| Some((jar::member(around.open(&path)?, SUPER_POM)?, around.shown(&path)));
    let (text, from) = archives.filter_map(read).next()?;
    let text = without_comments(&text);
    let url = blocks(&text, "repository").find_map(|block| blocks(block, "url").next())?;
    Found::one("maven", CENTRAL, from, &plain(url))
}

/// Elements of `<properties>`, by name.
fn properties(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for block in blocks(text, "properties") {
        for (name, rest) in block.split('<').filter_map(|piece| piece.split_once('>')) {
            if !name.starts_with('/') {
                all.insert(name.trim().to_owned(), plain(rest));
            }
        }
    }
    all
}

/// Text as XML means it: without blanks around it and with its entities.
fn plain(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("<![CDATA[").and_then(|text| text.strip_suffix("]]>")).unwrap_or(text);
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

pub fn without_comments(text: &str) -> String {
    let mut pieces = text.split("<!--");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |out, piece| out + piece.split_once("-->").map_or("", |(_, after)| after))
}

/// The text without an element and all that stands in it.
fn without(text: &str, element: &str) -> String {
    let mut out = text.to_owned();
    for block in blocks(text, element) {
        out = out.replacen(block, "", 1);
    }
    out
}

/// What stands between `<element>` and `</element>`; the first may have attributes.
pub(super) fn blocks<'a>(text: &'a str, element: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let after = rest.split_once(&open)?.1;
            rest = after;
            // Another element may begin with the same letters.
            if !after.starts_with(|one: char| one == '>' || one.is_whitespace()) {
                continue;
            }
            let (inside, after) = after.split_once('>')?.1.split_once(&close)?;
            rest = after;
            return Some(inside);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::*;

    fn told(all: &[Found]) -> Vec<(&str, &str)> {
        all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect()
    }

    #[test]
    fn mirrors_and_repositories_are_found() {
        let settings = "<settings><mirrors><!-- <mirror><url>https://no.example</url><mirrorOf>x</mirrorOf></mirror> -->
            <mirror><id>m</id><url> https://mirror.example/maven?a&amp;b </url><mirrorOf>central, !x</mirrorOf></mirror>
            <mirror><id>n</id><url>https://me:hush@other.example</url><mirrorOf>*,!central</mirrorOf></mirror>
            <mirror><id>b</id><url>http://0.0.0.0/</url><mirrorOf>external:http:*</mirrorOf><blocked>true</blocked></mirror></mirrors>
            <servers><server><id>m</id><password>hush</password></server></servers></settings>";
        let pom = "<project><properties><a.b>extra</a.b></properties>
            <distributionManagement><repository><id>out</id><url>https://out.example</url></repository></distributionManagement>
            <repositories><repository combine.children='x'><id>extra</id><url>https://${a.b}.example/${env.PART}/</url></repository>
            <repository><id>central</id><url>https://central.example</url></repository>
            <repository><id>none</id><url>https://${none}.example/</url></repository></repositories></project>";
        let machine = Machine::new(&[("home/me/.m2/settings.xml", settings), ("build/app/pom.xml", pom)]);
        let all = machine.with("PART", "r").look(look);
        assert_eq!(
            told(&all),
            [
                ("", "https://mirror.example/maven/"),
                ("*,!central", "https://other.example/"),
                ("extra", "https://extra.example/r/")
            ]
        );
        let private: Vec<bool> = all.iter().map(|found| found.settings.contains_key("token")).collect();
        assert_eq!(private, [true, true, false]);
        assert!(!format!("{all:?}").contains("hush"));
    }

    #[test]
    fn parents_profiles_and_settings_of_the_project_count() {
        let pom = "<project><repositories><repository><id>near</id><url>https://near.example</url></repository></repositories></project>";
        let parent = "<project><profiles><profile><pluginRepositories><pluginRepository><id>far</id><url>https://far.example</url></pluginRepository></pluginRepositories></profile></profiles></project>";
        let settings = "<settings><mirrors><mirror><mirrorOf>external:*</mirrorOf><url>https://all.example</url></mirror></mirrors></settings>";
        let all = Machine::new(&[
            ("build/app/pom.xml", pom),
            ("build/pom.xml", parent),
            ("pom.xml", "<project><broken"),
            ("build/.mvn/maven.config", "-T4\n--settings=ci/settings.xml\n"),
            ("build/ci/settings.xml", settings),
        ])
        .look(look);
        assert_eq!(
            told(&all),
            [("", "https://all.example/"), ("near", "https://near.example/"), ("far", "https://far.example/")]
        );
        assert_eq!(all[0].from, "/build/ci/settings.xml");
    }

    #[test]
    fn the_default_is_read_from_mavens_own_archive() {
        let pom = "<project><repositories><repository><id>central</id><url>https://central.example/m2</url></repository></repositories></project>";
        let machine = Machine::new(&[("usr/share/java/builder.jar", ""), ("usr/share/maven/lib/other.jar", "")]);
        let archive = jar::tests::archive(SUPER_POM, pom, 8);
        std::fs::write(machine.dir.path().join("usr/share/java/builder.jar"), archive).expect("a file");
        let at = machine.dir.path().join("usr/share/maven/lib/maven-model-builder-3.jar");
        std::os::unix::fs::symlink("/usr/share/java/builder.jar", at).expect("a link");
        let all = machine.look(look);
        assert_eq!(told(&all), [("", "https://central.example/m2/")]);
        assert_eq!(all[0].from, "/usr/share/maven/lib/maven-model-builder-3.jar");
    }
}
