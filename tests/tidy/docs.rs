//! Pages that list things are made from the things, by the binary itself: `larder docs WORD`.

use std::process::Command;

use crate::tree::root;

/// The page, and the word that makes it.
const GENERATED: [(&str, &str); 4] = [
    ("docs/ecosystems.md", "ecosystems"),
    ("docs/metrics.md", "metrics"),
    ("docs/config.md", "config"),
    ("docs/cli.md", "cli"),
];

#[test]
fn generated_pages_are_current() {
    let mut complaints = Vec::new();
    for (page, word) in GENERATED {
        let output = Command::new(env!("CARGO_BIN_EXE_larder")).args(["docs", word]).output().expect("the binary runs");
        let stale = std::fs::read(root().join(page)).ok().is_none_or(|bytes| bytes != output.stdout);
        if !output.status.success() || output.stdout.is_empty() {
            complaints.push(format!(
                "larder docs {word}: {} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ));
        } else if stale {
            complaints.push(format!("{page} is not current: larder docs {word} > {page}"));
        }
    }
    crate::assert_none(complaints);
}
