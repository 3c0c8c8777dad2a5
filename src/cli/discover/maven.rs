//! Maven: mirrors and repositories from `settings.xml`, repositories from `pom.xml`. The default repository stands only
//! inside Maven's own archive; it is read from there when `unzip` is at hand.
//!
//! Source: Maven's "Settings Reference". The elements that matter are flat, so they are picked out without a parser.

use std::path::PathBuf;

use super::{Found, Surroundings};

/// Looks for Maven's repositories: mirrors by what they mirror, repositories by id.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for path in files(around) {
        let Some(text) = around.read(&path) else { continue };
        let text = without_comments(&text);
        for (element, id) in [("mirror", "mirrorOf"), ("repository", "id"), ("pluginRepository", "id")] {
            // Maven's own settings refuse plain HTTP by a mirror that is blocked.
            let blocked = |block: &&str| blocks(block, "blocked").any(|word| word.trim() == "true");
            for block in blocks(&text, element).filter(|block| !blocked(block)) {
                let named = blocks(block, "url").next().zip(blocks(block, id).next());
                all.extend(named.and_then(|(url, name)| Found::one("maven", name.trim(), around.shown(&path), url)));
            }
        }
    }
    if !all.iter().any(|found| found.name == "central" || found.name.starts_with('*')) {
        all.extend(built_in(around));
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

fn files(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let installed = ["MAVEN_HOME", "M2_HOME"].into_iter().filter_map(|name| around.var(name));
    let installed = installed.map(|home| around.at(home).join("conf/settings.xml"));
    let mut files = vec![around.home().join(".m2/settings.xml")];
    files.extend(installed);
    files.extend(["/etc/maven/settings.xml", "/usr/share/maven/conf/settings.xml"].map(|path| around.at(path)));
    files.push(around.project().join("pom.xml"));
    files
}

/// The super-POM, inside the archive `maven-model-builder`.
fn built_in(around: &Surroundings<'_>) -> Option<Found> {
    let homes = ["MAVEN_HOME", "M2_HOME"].into_iter().filter_map(|name| around.var(name)).chain(["/usr/share/maven"]);
    let archives = homes.flat_map(|home| around.list(&around.at(home).join("lib")));
    let is_it =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maven-model-builder"));
    let archive = archives.into_iter().find(is_it)?;
    let text = around.ask("unzip", &["-p", archive.to_str()?, "org/apache/maven/model/pom-4.0.0.xml"])?;
    let text = without_comments(&text);
    let url = blocks(&text, "repository").find_map(|block| blocks(block, "url").next())?.to_owned();
    Found::one("maven", "central", around.shown(&archive), &url)
}

pub(super) fn without_comments(text: &str) -> String {
    let mut pieces = text.split("<!--");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |out, piece| out + piece.split_once("-->").map_or("", |(_, after)| after))
}

/// What stands between `<element>` and `</element>`.
pub(super) fn blocks<'a>(text: &'a str, element: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (inside, after) = rest.split_once(&open)?.1.split_once(&close)?;
        rest = after;
        Some(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::*;

    #[test]
    fn mirrors_and_repositories_are_found() {
        let settings = "<settings><mirrors><!-- <mirror><url>https://no.example</url><mirrorOf>x</mirrorOf></mirror> -->
            <mirror><id>m</id><url>https://mirror.example/maven</url><mirrorOf>central</mirrorOf></mirror>
            <mirror><id>b</id><url>http://0.0.0.0/</url><mirrorOf>external:http:*</mirrorOf><blocked>true</blocked></mirror></mirrors></settings>";
        let pom = "<project><repositories><repository><id>extra</id><url>https://extra.example/r/</url></repository></repositories></project>";
        let all = Machine::new(&[("home/me/.m2/settings.xml", settings), ("build/app/pom.xml", pom)]).look(look);
        let told: Vec<_> = all.iter().map(|found| (found.name.as_str(), urls(found)[0])).collect();
        assert_eq!(told, [("central", "https://mirror.example/maven/"), ("extra", "https://extra.example/r/")]);
    }
}
