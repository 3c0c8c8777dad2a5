//! Pages that list things are made from the things, by the binary itself: `larder docs` writes them.

use std::process::Command;

use crate::tree::{files, root};

/// Pages that must be among the generated ones.
const GENERATED: [&str; 5] =
    ["docs/ecosystems.md", "docs/metrics.md", "docs/config.md", "docs/cli.md", "docs/use/README.md"];

#[test]
fn generated_pages_are_current() {
    let missing = GENERATED.iter().filter(|page| !root().join(page).is_file()).map(|page| format!("{page} is missing"));
    let mut complaints: Vec<String> = missing.collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    let output = command.args(["docs", "--check", "--root"]).arg(root()).output().expect("the binary runs");
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        complaints.push(format!("larder docs --check: {}", String::from_utf8_lossy(&said)));
    }
    crate::assert_none(complaints);
}

#[test]
fn the_lock_without_sources_is_current() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("cargo made one, git has the other");
    let lock = read("Cargo.lock");
    let ours: Vec<&str> = lock.lines().filter(|line| !line.starts_with("source = \"registry+")).collect();
    assert!(ours == read("deps.lock").lines().collect::<Vec<_>>(), "dependencies changed: tests/lock --write");
}

/// Of each ADR its file's name and its first line.
fn misnumbered(adrs: &[(&str, &str)]) -> Vec<String> {
    let numbered = adrs.iter().zip(1..).filter_map(|((name, heading), number)| {
        let file = format!("{number:04}-");
        let title = format!("# {number}. ");
        let is_right = name.starts_with(&file) && heading.starts_with(&title);
        (!is_right).then(|| format!("docs/adr/{name}: should begin {file}, and its heading {title}"))
    });
    numbered.collect()
}

#[test]
fn decisions_are_numbered_in_a_row_in_name_and_heading() {
    let files = files();
    let adrs: Vec<(&str, &str)> = files
        .iter()
        .filter_map(|file| {
            Some((file.path.strip_prefix("docs/adr/")?, file.text()?.lines().next().unwrap_or_default()))
        })
        .collect();
    assert!(adrs.len() > 10, "the decisions were not found");
    crate::assert_none(misnumbered(&adrs));
}

#[test]
fn a_number_that_is_twice_missing_or_another_is_found() {
    let one = ("0001-a.md", "# 1. A");
    assert_eq!(misnumbered(&[one, ("0002-b.md", "# 2. B")]), [""; 0]);
    for other in [("0001-b.md", "# 1. B"), ("0002-b.md", "# 3. B"), ("0003-b.md", "# 3. B"), ("0002-b.md", "B")] {
        assert_eq!(misnumbered(&[one, other]).len(), 1, "{other:?}");
    }
}
