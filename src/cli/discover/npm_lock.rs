//! Where lockfiles of npm, yarn, pnpm and bun say that packages were fetched. Picked out by their words, not parsed: the
//! files are large, and what is broken elsewhere in them must not hide this.

use std::collections::BTreeMap;

use super::Surroundings;

/// File, and what stands before an address in it.
const LOCKS: [(&str, &str); 6] = [
    ("package-lock.json", "\"resolved\""),
    ("npm-shrinkwrap.json", "\"resolved\""),
    ("yarn.lock", "resolved "),
    ("pnpm-lock.yaml", "tarball: "),
    ("bun.lock", "\", \""),
    // Left behind in images, where lockfiles often are not.
    ("node_modules/.package-lock.json", "\"resolved\""),
];

/// Base addresses of the registries that the project's packages were resolved at, the most used one first, each with the
/// lockfile that names it.
pub(super) fn look(around: &Surroundings<'_>) -> Vec<(String, String)> {
    let mut counts: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (name, before) in LOCKS {
        let Some((path, text)) = around.above(name) else { continue };
        for base in addresses(&text, before).filter_map(base_of) {
            counts.entry(base.to_owned()).or_insert_with(|| (0, around.shown(&path))).0 += 1;
        }
    }
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    all.into_iter().map(|(base, (_, from))| (base, from)).collect()
}

/// Addresses right behind a word; quotes, a colon and blanks may stand between.
pub(super) fn addresses<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let after = text.match_indices(before).filter_map(move |(at, _)| text.get(at + before.len()..));
    let starts = after.map(|rest| rest.trim_start_matches([' ', ':', '"', '\'']));
    let ends = |one: char| one.is_whitespace() || "\"'#,})".contains(one);
    starts.filter(|rest| rest.starts_with("http")).filter_map(move |rest| rest.split(ends).next())
}

/// The registry of a tarball at `BASE/NAME/-/FILE` or `BASE/@SCOPE/NAME/-/FILE`; of any other, its host alone.
pub(super) fn base_of(tarball: &str) -> Option<&str> {
    let Some((package, _)) = tarball.rsplit_once("/-/") else {
        let host = tarball.split_once("://")?.1.find('/')?;
        return tarball.get(..tarball.find("://")? + 3 + host);
    };
    let (base, _) = package.rsplit_once('/')?;
    let above = base.rsplit_once('/').filter(|(_, last)| last.starts_with('@') || last.starts_with("%40"));
    let base = above.map_or(base, |(above, _)| above);
    base.contains("://").then_some(base)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::super::tool::NoTools;
    use super::*;

    fn told(name: &str, text: &str) -> Vec<String> {
        let machine = Machine::new(&[(&format!("build/app/{name}"), text)]);
        let project = machine.dir.path().join("build/app/src");
        let around = Surroundings::new(machine.dir.path(), &project, machine.env.clone(), &NoTools);
        look(&around).into_iter().map(|(base, _)| base).collect()
    }

    #[test]
    fn each_kind_of_lockfile_is_read() {
        let yarn = "# yarn lockfile v1\n\n\"@s/b@^1\":\n  version \"1.0\"\n  resolved \"https://yarn.example/r/@s%2fb/-/b-1.tgz#abc\"\n\
                    a@1:\n  resolved \"https://yarn.example/r/a/-/a-1.tgz#abc\"\n";
        assert_eq!(told("yarn.lock", yarn), ["https://yarn.example/r"]);
        let pnpm = "packages:\n  a@1:\n    resolution: {integrity: x, tarball: https://pnpm.example/@s/a/-/a-1.tgz}\n  b@1:\n    resolution: {integrity: y}\n";
        assert_eq!(told("pnpm-lock.yaml", pnpm), ["https://pnpm.example"]);
        let bun =
            r#"{"packages":{"a":["a@1", "https://bun.example/a/-/a-1.tgz", {}, "sha512-x"],"b":["b@1", "", {}, "y"]}}"#;
        assert_eq!(told("bun.lock", bun), ["https://bun.example"]);
        let npm = r#"{"dependencies":{"a":{"resolved":"https://npm.example/download/@s/a/1.0/hash"},"g":{"resolved":"git+ssh://git@code.example/x.git#1"}}}"#;
        assert_eq!(told("npm-shrinkwrap.json", npm), ["https://npm.example"]);
        assert_eq!(told("package-lock.json", "{\"resolved\": \"https://cut.example/a/-"), ["https://cut.example"]);
        assert_eq!(told("package-lock.json", "\"resolved\""), [""; 0]);
    }
}
