//! Whether a builder knows `--secret`, asked of the program that will be run. Docker's client has it by its plug-in buildx;
//! without that it falls back to a builder which stops at the option. Of the others the help lists it.
//!
//! Tried with buildah 1.28, and with the client of Docker 28 without its plug-in.

use std::ffi::OsString;

use super::super::discover::tool::{AskTool, InstalledTools};
use super::words::{Engine, Use};

pub(super) fn knows_secrets(command: &[OsString], found: Use) -> bool {
    let words =
        (command.first().and_then(|word| word.to_str()), command.get(found.at - 1).and_then(|word| word.to_str()));
    let (Some(program), Some(subcommand)) = words else { return false };
    let says = |words: &[&str]| InstalledTools.ask(program, words);
    if found.engine == Engine::Buildah || program.ends_with("nerdctl") {
        return says(&[subcommand, "--help"]).is_some_and(|text| text.contains("--secret"));
    }
    // Zero: its user has asked for the other one.
    !std::env::var("DOCKER_BUILDKIT").is_ok_and(|value| value == "0") && says(&["buildx", "version"]).is_some()
}

/// A program that stands in for one.
#[cfg(test)]
pub(super) fn stand_in(dir: &std::path::Path, name: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let at = dir.join(name);
    std::fs::write(&at, format!("#!/bin/sh\n{script}\n")).expect("a file");
    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).expect("is ours");
    at.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::words::use_of;
    use super::*;

    #[test]
    fn a_builder_without_secrets_is_given_none() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, script, expected) in [
            ("docker", "test \"$*\" = 'buildx version'", true),
            ("docker", "echo 'docker: unknown command: docker buildx' >&2; exit 1", false),
            ("buildah", "test \"$*\" = 'build --help' && echo '      --secret stringArray'", true),
            ("podman", "echo '      --ssh stringArray'", false),
            ("nerdctl", "echo '      --secret stringArray'", true),
        ] {
            let program = stand_in(dir.path(), name, script);
            let command: Vec<OsString> = [&program, "build", "."].map(OsString::from).into();
            assert_eq!(knows_secrets(&command, use_of(&command).expect("builds")), expected, "{name}: {script}");
        }
    }
}
