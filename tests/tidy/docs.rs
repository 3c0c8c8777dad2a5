//! Pages that list things are made from the things, by the binary itself: `larder docs` writes them.

use std::process::Command;

use crate::tree::root;

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
