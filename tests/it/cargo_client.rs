//! The real cargo through larder: larder's own lockfile, cold, then from an emptied client with no way out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::agent::emptied;
use crate::support::alone;
use crate::support::body::sha256_hex;
use crate::support::machine::{Island, is_root, kept, root_or_say, scratch};
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};

const LIMIT: Duration = Duration::from_secs(600);

/// A project with our own dependencies: more than 250 in the lockfile.
fn project(dir: &Path) -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = dir.join("project");
    fs::create_dir_all(project.join("src")).expect("scratch can be written");
    for name in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(ours.join(name), project.join(name)).expect("our own manifest can be read");
    }
    // The manifest names targets: cargo wants to see each of them.
    for name in ["src/lib.rs", "src/main.rs"] {
        fs::write(project.join(name), "fn main() {}\n").expect("scratch can be written");
    }
    let manifest: toml::Table =
        fs::read_to_string(project.join("Cargo.toml")).expect("just copied").parse().expect("it is TOML");
    let benches = manifest.get("bench").and_then(toml::Value::as_array).into_iter().flatten();
    for bench in benches {
        let named = format!("benches/{}.rs", bench["name"].as_str().expect("a bench has a name"));
        let path = project.join(bench.get("path").and_then(toml::Value::as_str).unwrap_or(&named));
        fs::create_dir_all(path.parent().expect("a target is in a folder")).expect("scratch can be written");
        fs::write(path, "fn main() {}\n").expect("scratch can be written");
    }
    project
}

/// Name and version to SHA-256, as the lockfile has them.
fn locked(project: &Path) -> BTreeMap<String, String> {
    let lock: toml::Table =
        fs::read_to_string(project.join("Cargo.lock")).expect("a lockfile").parse().expect("it is TOML");
    let text = |package: &toml::Value, key: &str| package.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let packages = lock["package"].as_array().expect("packages");
    packages
        .iter()
        .filter_map(|one| Some((format!("{}-{}", text(one, "name")?, text(one, "version")?), text(one, "checksum")?)))
        .collect()
}

/// Every crate file below a cargo home.
fn crates(home: &Path) -> BTreeMap<String, PathBuf> {
    let registries = fs::read_dir(home.join("registry/cache")).into_iter().flatten().map_while(Result::ok);
    let files =
        registries.flat_map(|registry| fs::read_dir(registry.path()).into_iter().flatten().map_while(Result::ok));
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().trim_end_matches(".crate").to_owned());
    files.filter_map(|file| Some((name(&file.path())?, file.path()))).collect()
}

/// What cargo fetches with nothing between it and its registry; fetched once, kept outside of the repository.
fn direct(project: &Path) -> BTreeMap<String, PathBuf> {
    let home = kept().join("cargo-direct");
    let have = crates(&home);
    if !locked(project).keys().all(|name| have.contains_key(name)) {
        let mut command = cargo(project, &home);
        command.args(["fetch", "--locked"]);
        let ended = end_of(command, LIMIT);
        assert_eq!(ended.code, Some(0), "the direct fetch: {}", ended.stderr);
    }
    crates(&home)
}

fn cargo(project: &Path, home: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    fs::create_dir_all(home).expect("a cargo home can be made");
    as_client(&mut command, project, home);
    command
}

fn as_client(command: &mut Command, project: &Path, home: &Path) {
    for name in std::env::vars_os().map(|(name, _)| name) {
        let text = name.to_string_lossy();
        // What this test run was given by its own cargo is not the client's business.
        if text.starts_with("CARGO") && text != "CARGO_HTTP_CAINFO" || text == "RUSTFLAGS" {
            command.env_remove(&name);
        }
    }
    // The agent's store is the client's too: emptied with it.
    command.current_dir(project).env("CARGO_HOME", home).env("LARDER_DATA_DIR", home.join("larder"));
}

/// `larder run -- cargo fetch` from an empty cargo home.
fn fetch(server: &Server, project: &Path, home: &Path, within: &[String], record: &Path) -> Ended {
    fs::create_dir_all(home).expect("a cargo home can be made");
    let mut words = within.to_vec();
    words.push(LARDER.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["run", "--server", &server.url(), "--record"]).arg(record);
    command.args(["--", "cargo", "fetch", "--locked"]);
    as_client(&mut command, project, home);
    end_of(command, LIMIT)
}

#[track_caller]
fn assert_right(project: &Path, home: &Path, direct: &BTreeMap<String, PathBuf>) {
    let (locked, got) = (locked(project), crates(home));
    assert!(locked.len() >= 150, "{} dependencies are too few", locked.len());
    for (name, sum) in &locked {
        let bytes = fs::read(got.get(name).unwrap_or_else(|| panic!("{name} is missing"))).expect("a crate file");
        assert_eq!(&sha256_hex(&bytes), sum, "{name} is not what the lockfile says");
        assert!(bytes == fs::read(&direct[name]).expect("a crate file"), "{name} is not what the upstream served");
    }
}

/// Each crate that the record names must have the sum that the lockfile has.
#[track_caller]
fn assert_recorded(record: &Path, project: &Path) {
    let text = fs::read_to_string(record).expect("--record wrote a file");
    let missing: Vec<_> = locked(project).into_iter().filter(|(_, sum)| !text.contains(sum.as_str())).collect();
    assert!(missing.is_empty(), "{} crates are not in the record, such as {:?}", missing.len(), missing[0]);
}

#[test]
fn cargo_fetch_cold_and_again_with_no_way_out() {
    let _alone = alone();
    let dir = scratch();
    let project = project(dir.path());
    let direct = direct(&project);
    // No permission for loopback upstreams, an empty PATH and HOME: what it knows comes from the client's side.
    let setup = Setup::below(dir.path()).default_policy();
    let (home, record) = (dir.path().join("cargo-home"), dir.path().join("record.json"));

    let server = setup.start();
    let cold = fetch(&server, &project, &home, &[], &record);
    assert_eq!(cold.code, Some(0), "cold: {}{}", cold.stdout, cold.stderr);
    assert_right(&project, &home, &direct);
    assert_recorded(&record, &project);
    server.stop();

    emptied(&home);
    let server = setup.clone().argument("--offline").start();
    let offline = fetch(&server, &project, &home, &[], &record);
    assert_eq!(offline.code, Some(0), "offline: {}{}", offline.stdout, offline.stderr);
    assert_right(&project, &home, &direct);
    server.stop();

    if !is_root() && !root_or_say("a network namespace without a way out") {
        return;
    }
    emptied(&home);
    let island = Island::new();
    let words = island.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = setup.within(&words).start();
    // It is asked inside the island; from out here it cannot be reached.
    let cut_off = fetch(&server, &project, &home, &island.words(), &record);
    assert_eq!(cut_off.code, Some(0), "cut off: {}{}", cut_off.stdout, cut_off.stderr);
    assert_right(&project, &home, &direct);
}
