//! The other files of `ops/`, each read by what reads it in use.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::machine::{root_or_say, run, scratch};
use crate::support::server::LARDER;

const OPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops");

/// What a command said, both ways.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {said}", output.status);
    said
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = scratch();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for name in ["larder.service", "larder.socket"] {
        let unit = std::fs::read_to_string(format!("{OPS}/{name}")).expect("is there");
        // Where it will be installed there is nothing as yet.
        let unit = unit.replace("/usr/bin/larder", LARDER);
        assert!(name != "larder.service" || unit.contains(LARDER), "{unit}");
        std::fs::write(dir.path().join(name), unit).expect("scratch can be written");
        verify.arg(dir.path().join(name));
    }
    assert_eq!(said(&mut verify), "");
}

#[test]
fn compose_takes_the_file() {
    let shown = said(Command::new("docker-compose").args(["-f", &format!("{OPS}/compose.yaml"), "config"]));
    assert!(shown.contains("dockerfile: ops/Dockerfile"), "{shown}");
}

/// The service has a user of its own; who makes a token is often root.
#[test]
fn a_token_that_root_makes_is_read_by_the_services_user() {
    if !root_or_say("giving a directory to another user") {
        return;
    }
    let dir = scratch();
    std::os::unix::fs::chown(dir.path(), Some(10001), Some(10001)).expect("root may");
    run(&[LARDER, "token", "create", "ci", "--data", &dir.path().display().to_string()]);
    for name in ["tokens.toml", "token.key"] {
        let made = std::fs::metadata(dir.path().join(name)).expect("was made");
        assert_eq!((made.uid(), made.mode() & 0o777), (10001, 0o600), "{name}");
    }
}
