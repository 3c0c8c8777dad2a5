//! Gradle: addresses in `repositories` blocks of build, settings and init scripts, and where the wrapper comes from.
//! Scripts are programs: what they put together from variables is not seen.
//!
//! Source: Gradle's "Declaring repositories", "Initialization Scripts" and "Gradle Wrapper".

use std::path::PathBuf;

use super::{Found, Surroundings, ini};

/// Repositories, each named after its host.
pub(super) fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut all = Vec::new();
    for path in files(around) {
        let Some(text) = around.read(&path) else { continue };
        all.extend(repositories(&text).into_iter().filter_map(|(url, private)| {
            let mut found = by_host(&url, around.shown(&path))?;
            if private || !found.secrets.is_empty() {
                found.settings.insert("token", "yes".into());
            }
            Some(found)
        }));
    }
    for name in ["gradle/wrapper/gradle-wrapper.properties", ".mvn/wrapper/maven-wrapper.properties"] {
        let Some((path, text)) = around.above(name) else { continue };
        // In a file of properties a colon may be escaped.
        let urls = ini(&text).filter(|(_, name, _)| matches!(*name, "distributionUrl" | "wrapperUrl"));
        all.extend(urls.filter_map(|(.., url)| by_host(&origin(&url.replace('\\', ""))?, around.shown(&path))));
    }
    all
}

fn origin(url: &str) -> Option<String> {
    let (url, _) = super::address(url)?;
    Some(url.origin().ascii_serialization())
}

fn by_host(url: &str, from: String) -> Option<Found> {
    let host = super::address(url)?.0.host_str()?.to_owned();
    Found::one("maven", &host, from, url)
}

fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let home = around.var("GRADLE_USER_HOME").map_or_else(|| around.home().join(".gradle"), |dir| around.at(dir));
    let mut files: Vec<_> = ["init.gradle", "init.gradle.kts"].map(|name| home.join(name)).into();
    files.extend(around.list(&home.join("init.d")));
    for dir in around.var("GRADLE_HOME").into_iter().chain(["/opt/gradle", "/usr/share/gradle"]) {
        files.extend(around.list(&around.at(dir).join("init.d")));
    }
    for name in ["settings.gradle", "settings.gradle.kts", "build.gradle", "build.gradle.kts"] {
        files.extend(around.above(name).map(|(path, _)| path));
    }
    files
}

/// Addresses behind `url`, `uri(`, `maven(` within `repositories`, and whether a credential stands beside each.
pub(super) fn repositories(text: &str) -> Vec<(String, bool)> {
    let mut all: Vec<(String, bool)> = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    let mut before = 0;
    while let Some(at) = rest[before..].find(['{', '}', '"', '\'', '/']).map(|at| before + at) {
        let (head, tail) = (&rest[..at], &rest[at + 1..]);
        before = 0;
        match rest.as_bytes()[at] {
            b'{' => {
                let name =
                    head.trim_end().rsplit(|one: char| !one.is_ascii_alphanumeric()).find(|word| !word.is_empty());
                open.push(name.unwrap_or_default());
                if let Some((_, private)) = all.last_mut().filter(|_| name == Some("credentials")) {
                    *private = true;
                }
                rest = tail;
            }
            b'}' => {
                open.pop();
                rest = tail;
            }
            b'/' if tail.starts_with('/') => rest = tail.split_once('\n').map_or("", |(_, rest)| rest),
            b'/' if tail.starts_with('*') => rest = tail.split_once("*/").map_or("", |(_, rest)| rest),
            b'/' => before = at + 1,
            quote => {
                let Some((value, after)) = tail.split_once(char::from(quote)) else { break };
                let is_source =
                    open.contains(&"repositories") && !open.iter().any(|name| matches!(*name, "publishing" | "pom"));
                let word = head.trim_end_matches([' ', '\t', '=', '(', '[']);
                let word = word.rsplit(|one: char| !one.is_ascii_alphanumeric()).next().unwrap_or_default();
                let names = matches!(word, "url" | "uri" | "setUrl" | "maven" | "artifactUrls");
                if is_source && names && value.starts_with("http") && !value.contains('$') {
                    all.push((value.to_owned(), false));
                }
                rest = after;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::maven;
    use super::super::tests::{Machine, urls};
    use super::*;

    #[test]
    fn addresses_are_taken_from_repositories_alone() {
        let script = "// repositories { maven { url 'https://no.example' } }\nimport a / b\n\
            allprojects { repositories { mavenCentral()\n maven { url \"https://a.example/m\" }\n\
            maven(\"https://b.example\") { credentials { username = 'x' } }\n maven { url = uri('https://c.example/$x') } } }\n\
            publishing { repositories { maven { url = 'https://out.example' } } pom { url = 'https://site.example' } }\n\
            /* url 'https://no.example' */ dependencyResolutionManagement { repositories { maven { setUrl('https://d.example') } } }";
        let told: Vec<_> = repositories(script);
        let want = [("https://a.example/m", false), ("https://b.example", true), ("https://d.example", false)];
        assert_eq!(told, want.map(|(url, private)| (url.to_owned(), private)));
        assert!(repositories("repositories { maven { url 'unclosed } }").is_empty());
    }

    #[test]
    fn scripts_and_wrappers_are_found_where_gradle_has_them() {
        let machine = Machine::new(&[
            (
                "home/me/.gradle/init.d/corp.gradle",
                "allprojects { repositories { maven { url 'https://init.example/m' } } }",
            ),
            (
                "build/settings.gradle.kts",
                "pluginManagement { repositories { maven(\"https://plugins.example/m2\") } }",
            ),
            (
                "build/app/gradle/wrapper/gradle-wrapper.properties",
                "distributionUrl=https\\://dist.example/gradle-8-bin.zip\n",
            ),
        ]);
        let all = machine.look(maven::look);
        let told: Vec<_> = all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect();
        assert_eq!(
            told,
            [
                ("init.example", "https://init.example/m/"),
                ("plugins.example", "https://plugins.example/m2/"),
                ("dist.example", "https://dist.example/")
            ]
        );
    }
}
