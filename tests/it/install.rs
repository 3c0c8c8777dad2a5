//! The other files of `ops/`, each read by what reads it in use.

use std::process::Command;

use crate::support::machine::scratch;
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
