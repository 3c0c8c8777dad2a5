//! The real go through larder: more than 100 modules, checked by the checksum database, cold and cut off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::agent::emptied;
use crate::support::alone;
use crate::support::machine::{Island, kept, root_or_say, run, scratch};
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};

const LIMIT: Duration = Duration::from_secs(600);

/// `go 1.16` asks for the whole graph: well over 100 modules hang on these two.
const GO_MOD: &str = "module example.test/many

go 1.16

require (
\tgithub.com/prometheus/client_golang v1.14.0
\tgithub.com/spf13/cobra v1.2.0
)
";

/// A module without go.sum: every sum comes from the checksum database.
fn project(dir: &Path) -> PathBuf {
    let project = dir.join("project");
    // What an earlier run left, go.sum above all, is not wanted.
    let _ = fs::remove_dir_all(&project);
    fs::create_dir_all(&project).expect("scratch can be written");
    fs::write(project.join("go.mod"), GO_MOD).expect("scratch can be written");
    project
}

fn as_client(command: &mut Command, project: &Path, home: &Path) {
    for name in ["GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOSUMCHECK", "GOPRIVATE", "GONOPROXY", "GOINSECURE"] {
        command.env_remove(name);
    }
    // The agent's store is the client's too: emptied with it.
    command.env("LARDER_DATA_DIR", home.join("larder"));
    command.current_dir(project).env("GOFLAGS", "-modcacherw -mod=mod").env("GOTOOLCHAIN", "local");
    command.env("GOPATH", home.join("path")).env("GOMODCACHE", home.join("mod")).env("GOCACHE", home.join("build"));
}

/// Every file that the module proxy served, by its path in the module cache.
fn served(home: &Path) -> BTreeMap<String, blake3::Hash> {
    let root = home.join("mod/cache/download");
    let (mut found, mut open) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().map_while(Result::ok) {
            let path = entry.path();
            let end = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && path != root.join("sumdb") {
                open.push(path);
            } else if ["zip", "mod", "info"].contains(&end.as_str()) {
                let name = path.strip_prefix(&root).expect("below the root").display().to_string();
                found.insert(name, blake3::hash(&fs::read(&path).expect("a cached file")));
            }
        }
    }
    found
}

fn direct_home() -> PathBuf {
    kept().join(format!("go-direct-{}", &blake3::hash(GO_MOD.as_bytes()).to_hex()[..16]))
}

/// What go downloads with nothing but its own settings; once, kept outside of the repository.
fn direct() -> (BTreeMap<String, blake3::Hash>, String) {
    let home = direct_home();
    let sums = home.join("go.sum");
    if !sums.is_file() {
        let project = project(&home);
        let mut command = Command::new("go");
        command.args(["mod", "download"]);
        as_client(&mut command, &project, &home);
        let ended = end_of(command, LIMIT);
        assert_eq!(ended.code, Some(0), "the direct download: {}", ended.stderr);
        fs::copy(project.join("go.sum"), &sums).expect("go wrote go.sum");
    }
    (served(&home), fs::read_to_string(sums).expect("go.sum"))
}

/// go.sum with a line for every zip: without packages that need them, `go mod download` leaves most out.
fn whole_go_sum(written: &str) -> String {
    let root = direct_home().join("mod/cache/download");
    let (mut lines, mut open) = (written.to_owned(), vec![root.clone()]);
    while let Some(at) = open.pop() {
        for path in fs::read_dir(&at).into_iter().flatten().map_while(Result::ok).map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "ziphash") {
                let name = path.strip_prefix(&root).expect("below the root").with_extension("").display().to_string();
                let (module, version) = name.split_once("/@v/").expect("a module's version");
                let sum = fs::read_to_string(&path).expect("a cached file");
                lines += &format!("{} {} {}\n", unescaped(module), unescaped(version), sum.trim());
            }
        }
    }
    lines
}

/// Module paths in the cache have `!x` for `X`.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('!');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| whole + &part[..1].to_uppercase() + &part[1..])
}

fn download(server: &Server, project: &Path, home: &Path, within: &[String]) -> Ended {
    let mut words = within.to_vec();
    words.push(LARDER.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["run", "--server", &server.url(), "--", "go", "mod", "download"]);
    as_client(&mut command, project, home);
    end_of(command, LIMIT)
}

#[track_caller]
fn assert_right(when: &str, home: &Path, direct: &(BTreeMap<String, blake3::Hash>, String)) {
    let got = served(home);
    let modules = got.keys().filter(|name| name.ends_with(".zip")).count();
    assert!(modules >= 100, "{when}: {modules} modules are too few");
    for (name, digest) in &direct.0 {
        assert_eq!(got.get(name), Some(digest), "{when}: {name} is not what the upstream served");
    }
}

#[test]
fn go_mod_download_cold_and_again_with_no_way_out() {
    let _alone = alone();
    println!("{}", run(&["go", "version"]).trim());
    let dir = scratch();
    let direct = direct();
    let setup = Setup::below(dir.path()).default_policy();
    let home = dir.path().join("go-home");

    let server = setup.start();
    let project = project(dir.path());
    let cold = download(&server, &project, &home, &[]);
    assert_eq!(cold.code, Some(0), "cold: {}{}", cold.stdout, cold.stderr);
    assert_right("cold", &home, &direct);
    assert!(fs::read_to_string(project.join("go.sum")).is_ok_and(|sums| sums == direct.1), "go.sum differs");
    let checked = home.join("mod/cache/download/sumdb");
    assert!(checked.is_dir(), "the checksum database was not asked through larder");
    server.stop();

    // From here on the project has a whole go.sum, as projects do. Without one the client asks the checksum database
    // for proofs between tree heads that depend on the order in which answers come: no two runs ask for the same tiles.
    fs::write(project.join("go.sum"), whole_go_sum(&direct.1)).expect("scratch can be written");

    emptied(&home);
    let server = setup.clone().argument("--offline").start();
    let offline = download(&server, &project, &home, &[]);
    assert_eq!(offline.code, Some(0), "offline: {}{}", offline.stdout, offline.stderr);
    assert_right("offline", &home, &direct);
    server.stop();

    if !root_or_say("a network namespace without a way out") {
        return;
    }
    emptied(&home);
    let island = Island::new();
    let words = island.words();
    let server = setup.within(&words.iter().map(String::as_str).collect::<Vec<_>>()).start();
    let cut_off = download(&server, &project, &home, &words);
    assert_eq!(cut_off.code, Some(0), "cut off: {}{}", cut_off.stdout, cut_off.stderr);
    assert_right("cut off", &home, &direct);
}
