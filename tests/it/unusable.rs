//! `larder run` where what larder itself needs cannot be had: no directory, a store that it does not know, a full disk. The
//! command runs all the same, with what is left or with its own environment, and its exit code is returned.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::agent::{Agent, as_user};
use crate::support::machine::{Mounted, root_or_say, run, scratch};
use crate::support::server::{Ended, LARDER, Setup, end_of};
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
/// Tells what it was given, and ends with a code of its own.
const COMMAND: [&str; 3] = ["sh", "-c", "echo \"$LARDER_SERVER $CARGO_HOME $http_proxy $SSL_CERT_FILE\"; exit 7"];
const OWN_ENVIRONMENT: &str = "   \n";

/// `larder run` of a user whose home is `home`, in a project of cargo's.
fn run_in(dir: &Path, words: &[&str], command: &[&str]) -> Command {
    let mut run = Command::new(LARDER);
    run.arg("run").args(words).arg("--").args(command);
    as_user(&mut run, dir);
    for name in ["CARGO_HOME", "SSL_CERT_FILE", "XDG_DATA_HOME", "DOCKER_CONFIG"] {
        run.env_remove(name);
    }
    fs::write(dir.join("Cargo.toml"), "[package]\nname = \"p\"\nversion = \"1.0.0\"\n")
        .expect("scratch can be written");
    run
}

#[track_caller]
fn assert_ran(when: &str, ended: &Ended, environment: &str, note: &str) {
    assert_eq!((ended.code, &*ended.stdout), (Some(7), environment), "{when}: {}", ended.stderr);
    let line = ended.stderr.lines().find(|line| line.contains(note));
    assert!(line.is_some_and(|line| line.starts_with("larder: ")), "{when}: {note}: {}", ended.stderr);
    assert!(!ended.stderr.contains("error:"), "{when}: {}", ended.stderr);
}

#[track_caller]
fn assert_did_not_run(when: &str, ended: &Ended) {
    assert!(ended.code != Some(0) && ended.stdout.is_empty(), "{when}: {ended:?}");
    assert!(ended.stderr.contains("error: "), "{when}: {ended:?}");
}

#[test]
fn a_directory_that_cannot_be_made_is_no_reason_to_fail_but_with_strict() {
    if !root_or_say("mounting a small disk") {
        return;
    }
    let dir = scratch();
    let read_only = Mounted::tmpfs(dir.path(), 4096);
    run(&["mount", "-o", "remount,ro", &read_only.at.display().to_string()]);
    let server = Setup::below(&dir.path().join("server")).start();
    let url = server.url();
    fs::write(dir.path().join("file"), "").expect("scratch can be written");
    let file = dir.path().join("file").display().to_string();
    for (when, home) in [("a file", Some(&*file)), ("read-only", read_only.at.to_str()), ("none", None)] {
        let with = |words: &[&str]| {
            let mut larder = run_in(dir.path(), words, &COMMAND);
            match home {
                Some(home) => larder.env("HOME", home),
                None => larder.env_remove("HOME"),
            };
            end_of(larder, LIMIT)
        };
        // Not that of this machine, should there be one.
        let config = dir.path().join("own.toml");
        fs::write(&config, "[server]\nlisten = [\"127.0.0.1:1\"]\n").expect("scratch can be written");
        let config = config.display().to_string();
        assert_ran(when, &with(&["--config", &config]), OWN_ENVIRONMENT, "without a cache: ");
        for strict in ["--strict", "--offline"] {
            assert_did_not_run(when, &with(&["--config", &config, strict]));
        }
        let ended = with(&["--server", &url]);
        let proxy = ended.stdout.split(' ').nth(2).unwrap_or_default().to_owned();
        assert_ran(when, &ended, &format!("{url}  {proxy} \n"), "without an agent: ");
        assert!(proxy.ends_with(&url["http://".len()..]), "{when}: {ended:?}");
        assert!(ended.stderr.contains("--data DIR"), "{when}: {}", ended.stderr);
    }
}

/// A store that a newer larder wrote.
fn make_newer(store: &Path) {
    fs::create_dir_all(store).expect("scratch can be written");
    fs::write(store.join("format"), "9 3.1.4\n").expect("scratch can be written");
}

#[test]
fn a_store_of_a_newer_larder_is_no_reason_to_fail_but_with_strict() {
    let dir = scratch();
    let data = dir.path().join("data");
    let shown = data.display().to_string();
    make_newer(&data);
    assert_ran(
        "own",
        &end_of(run_in(dir.path(), &["--data", &shown], &COMMAND), LIMIT),
        OWN_ENVIRONMENT,
        "without a cache: ",
    );
    assert_did_not_run("own", &end_of(run_in(dir.path(), &["--data", &shown, "--strict"], &COMMAND), LIMIT));

    let server = Setup::below(&dir.path().join("server")).start();
    let url = server.url();
    let with_server = || end_of(run_in(dir.path(), &["--data", &shown, "--server", &url], &COMMAND), LIMIT);
    assert_eq!(with_server().code, Some(7));
    let agents = || fs::read_dir(data.join("agents")).expect("agents").map_while(Result::ok).map(|one| one.path());
    wait_until(LIMIT, "its agent has gone", || !agents().any(|agent| agent.join("address").exists()));
    agents().for_each(|agent| make_newer(&agent));
    let ended = with_server();
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stdout.starts_with(&format!("{url} {shown}/overlays/cargo-")), "{ended:?}");
    assert!(ended.stderr.contains("without an agent: ") && ended.stderr.contains("3.1.4"), "{ended:?}");
}

#[test]
fn a_larder_that_others_use_offline_is_no_reason_to_fail() {
    let dir = scratch();
    let data = dir.path().join("data").display().to_string();
    let mut first = Command::new(LARDER);
    first.args(["run", "--offline", "--data", &data]);
    as_user(&mut first, dir.path());
    let first = Agent::of(first);
    let ended = end_of(run_in(dir.path(), &["--data", &data], &COMMAND), LIMIT);
    assert_ran("online", &ended, OWN_ENVIRONMENT, "without a cache: ");
    assert_eq!(first.end().code, Some(0));
}

#[test]
fn an_address_that_is_none_is_written_anew() {
    let dir = scratch();
    let data = dir.path().join("data");
    fs::create_dir_all(&data).expect("scratch can be written");
    fs::write(data.join("address"), "http://\n").expect("scratch can be written");
    let ended = end_of(run_in(dir.path(), &["--data", &data.display().to_string()], &COMMAND), LIMIT);
    assert!(ended.code == Some(7) && ended.stdout.starts_with("http://127.0.0.1:"), "{ended:?}");
}

#[test]
fn a_full_disk_below_the_tools_settings_leaves_out_those_that_are_files() {
    if !root_or_say("mounting a small disk") {
        return;
    }
    let dir = scratch();
    let server = Setup::below(&dir.path().join("server")).start();
    let small = Mounted::tmpfs(dir.path(), 4096);
    fs::write(small.at.join("filled"), [7; 4096]).expect("it has so much room");
    let data = dir.path().join("data");
    fs::create_dir_all(&data).expect("scratch can be written");
    std::os::unix::fs::symlink(&small.at, data.join("overlays")).expect("scratch can be written");
    let words = ["--data", &data.display().to_string(), "--server", &server.url()];
    let ended = end_of(run_in(dir.path(), &words, &COMMAND), LIMIT);
    let [agent, cargo, proxy, ..] = &*ended.stdout.split(' ').collect::<Vec<_>>() else { panic!("{ended:?}") };
    assert!(agent.starts_with("http://127.0.0.1:") && *agent != server.url() && cargo.is_empty(), "{ended:?}");
    assert!(proxy.ends_with(&agent["http://".len()..]), "{ended:?}");
    assert_ran("full", &ended, &ended.stdout, "cannot be written: ");
    assert!(ended.stderr.contains("--data DIR"), "{ended:?}");
    assert_did_not_run("full", &end_of(run_in(dir.path(), &[&words[..], &["--strict"]].concat(), &COMMAND), LIMIT));
    let left = run(&["find", &small.at.display().to_string(), "-name", "*.new*"]);
    assert_eq!(left, "", "what could not be written whole stays");
}

#[test]
fn certificates_that_cannot_be_written_leave_a_build_that_is_not_looked_into() {
    let dir = scratch();
    let server =
        Setup::below(&dir.path().join("server")).config("\n[intercept]\nhosts = [\"files.example\"]\n").start();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("overlays")).expect("scratch can be written");
    fs::write(data.join("overlays/trust"), "").expect("scratch can be written");
    let words = ["--data", &data.display().to_string(), "--trust-plain-http", "--server", &server.url()];
    let ended = end_of(run_in(dir.path(), &words, &COMMAND), LIMIT);
    assert_ran("no trust", &ended, &ended.stdout, "this build does not trust the server's authority: ");
    assert!(ended.stdout.starts_with("http://127.0.0.1:"), "{ended:?}");
    assert_did_not_run("no trust", &end_of(run_in(dir.path(), &[&words[..], &["--strict"]].concat(), &COMMAND), LIMIT));
}

#[test]
fn a_docker_build_goes_on_with_a_dangling_link_and_without_settings_of_its_own() {
    let dir = scratch();
    let server = Setup::below(&dir.path().join("server")).start();
    let bin = dir.path().join("bin");
    fs::create_dir_all(&bin).expect("scratch can be written");
    let script = "#!/bin/sh\necho \"$LARDER_SERVER $DOCKER_CONFIG $http_proxy\"\n[ -z \"$DOCKER_CONFIG\" ] || \
                  readlink $DOCKER_CONFIG/gone\nexit 7\n";
    fs::write(bin.join("docker"), script).expect("scratch can be written");
    fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let data = dir.path().join("data");
    let words = ["--data", &data.display().to_string(), "--server", &server.url()];
    let build = || {
        let mut larder = run_in(dir.path(), &words, &["docker", "build", "--network", "host", "."]);
        let path = std::env::var("PATH").unwrap_or_default();
        larder.env("PATH", format!("{}:{path}", bin.display()));
        end_of(larder, LIMIT)
    };
    let link = dir.path().join("home/.docker/gone");
    fs::create_dir_all(dir.path().join("home/.docker")).expect("scratch can be written");
    std::os::unix::fs::symlink("/nonexistent/plugins", &link).expect("scratch can be written");
    let ended = build();
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stdout.contains("overlays/containers-"), "{ended:?}");
    assert!(ended.stdout.ends_with(&format!("{}\n", link.display())), "{ended:?}");

    // What is written for containers cannot be.
    let overlays = data.join("overlays");
    fs::remove_dir_all(&overlays).expect("it is ours");
    fs::write(&overlays, "").expect("scratch can be written");
    let ended = build();
    assert_ran("no overlays", &ended, "  \n", "without a cache: ");

    // They would go to a server that is not there.
    fs::remove_file(&overlays).expect("it is ours");
    server.kill();
    let ended = build();
    assert_ran("no server", &ended, &ended.stdout, "whose server does not answer");
    assert!(ended.stdout.split(' ').nth(1) == Some(""), "{ended:?}");
}

/// These are the user's to know: nothing is run.
#[test]
fn a_typo_in_the_configuration_ends_a_run() {
    let dir = scratch();
    let config = dir.path().join("typo.toml");
    fs::write(&config, "[stoer]\n").expect("scratch can be written");
    let ended = end_of(run_in(dir.path(), &["--config", &config.display().to_string()], &COMMAND), LIMIT);
    assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
    assert!(ended.stderr.contains("did you mean store?"), "{ended:?}");
}

#[test]
fn offline_is_refused_where_a_server_is_asked() {
    let dir = scratch();
    let server = Setup::below(&dir.path().join("server")).start();
    let url = server.url();
    let data = dir.path().join("data").display().to_string();
    let named = ["--offline", "--data", &data, "--server", &url];
    let mut by_variable = run_in(dir.path(), &named[..3], &COMMAND);
    by_variable.env("LARDER_SERVER", &url);
    let strict = run_in(dir.path(), &[&named[..], &["--strict"]].concat(), &COMMAND);
    for run in [run_in(dir.path(), &named, &COMMAND), strict, by_variable] {
        let ended = end_of(run, LIMIT);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains(&format!("larder offline on --server {url}")), "{ended:?}");
    }
}
