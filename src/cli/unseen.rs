//! Why a build was not seen: what it starts may have been running before it, with an environment of its own.

use std::ffi::OsString;
use std::path::Path;

const CONTAINERS: &str = "docker build $(larder env docker) . reaches its RUN steps, and docs/tools.md has the rest";

/// What is known of a command's daemons, by its first word.
fn remedy(program: &str) -> Option<&'static str> {
    Some(match program {
        "docker" | "docker-compose" | "nerdctl" | "podman" | "buildah" => CONTAINERS,
        "gradle" | "gradlew" => "stop the one that runs with `gradle --stop`, or use --no-daemon",
        "mvnd" => "stop the one that runs with `mvnd --stop`, or use mvn",
        "bazel" | "bazelisk" => "stop the one that runs with `bazel shutdown`",
        "buck" | "buck2" => "stop the one that runs with `buck2 kill`",
        "sbt" | "sbtn" => "stop the one that runs with `sbt shutdown`",
        "nix" | "nix-build" | "nix-shell" => "give nix-daemon the variables of `larder env proxy`",
        _ => return None,
    })
}

/// Whether the containers that a command starts were told of larder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Containers {
    Told,
    NotTold,
}

/// What to say of a command of whose requests none came.
pub(crate) fn line(command: &[OsString], containers: Containers) -> String {
    if containers == Containers::Told {
        return "no request seen: its layers were there, or it fetches with a tool that reads no proxy variables; for those a RUN \
                reads a secret: larder env docker"
            .to_owned();
    }
    let program = command.first().and_then(|word| Path::new(word).file_name()).and_then(|name| name.to_str());
    match program.and_then(remedy) {
        Some(remedy) => format!("no request seen: your build runs in a daemon: {remedy}"),
        None => format!(
            "no request seen: it fetched nothing with a tool that `larder env` knows, or your build runs in a daemon: stop it \
             before, as with `gradle --stop` or `bazel shutdown`; for containers, {CONTAINERS}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_daemon_is_named_and_others_are_guessed_at() {
        let line = |words: &[&str]| line(&words.iter().map(OsString::from).collect::<Vec<_>>(), Containers::NotTold);
        assert!(
            line(&["./gradlew", "build"]).contains("your build runs in a daemon: stop the one that runs with `gradle")
        );
        assert!(line(&["/usr/bin/docker", "build", "."]).contains("larder env docker"));
        assert!(line(&["make"]).starts_with("no request seen: it fetched nothing"));
        assert!(line(&[]).contains("no request seen"));
    }
}
