//! The public HTTP cache suite (npm package `http-cache-tests`) against the generic mirror.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::alone;
use crate::support::machine::{kept, scratch};
use crate::support::server::{Setup, end_of};

const EDITION: &str = "http-cache-tests@0.4.5";
const FLOOR: usize = 145;

/// Installs the suite once, outside of the repository.
fn suite() -> PathBuf {
    let prefix = kept().join("http-cache-tests");
    let folder = prefix.join("node_modules/http-cache-tests");
    if !folder.join("cli.mjs").is_file() || !prefix.join("node_modules/node-fetch").is_dir() {
        let mut command = Command::new("npm");
        command.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev", "--prefix"]);
        command.arg(&prefix).arg(EDITION);
        let ended = end_of(command, Duration::from_secs(300));
        assert_eq!(ended.code, Some(0), "npm install: {}", ended.stderr);
    }
    folder
}

fn exceptions() -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rfc9111/exceptions.txt");
    let text = std::fs::read_to_string(file).expect("the exceptions are in the repository");
    let ids = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_public_cache_suite_passes_but_for_named_exceptions() {
    let folder = suite();
    let _alone = alone();
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    let mut command = Command::new("node");
    command.arg("--no-warnings").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rfc9111/run.mjs"));
    command.arg(&folder).arg(format!("{}/http/ORIGIN", server.url()));
    let ended = end_of(command, Duration::from_secs(240));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result: serde_json::Value = serde_json::from_str(ended.stdout.trim()).expect("the runner prints JSON");
    let pass: BTreeSet<String> = serde_json::from_value(result["pass"].clone()).expect("ids");
    let fail: Vec<(String, String)> = serde_json::from_value(result["fail"].clone()).expect("ids and reasons");
    let known = exceptions();
    let news: Vec<_> =
        fail.iter().filter(|(id, _)| !known.contains(id)).map(|(id, why)| format!("{id}: {why}")).collect();
    let mended: Vec<_> = known.iter().filter(|id| pass.contains(*id)).collect();
    println!("{} of {} required cases pass", pass.len(), pass.len() + fail.len());
    assert!(
        news.is_empty(),
        "{} pass; these fail and are not named in exceptions.txt:\n{}",
        pass.len(),
        news.join("\n")
    );
    assert!(mended.is_empty(), "these pass again, take them out of exceptions.txt: {mended:?}");
    assert!(pass.len() >= FLOOR, "{} required cases pass, {FLOOR} are promised", pass.len());
}
