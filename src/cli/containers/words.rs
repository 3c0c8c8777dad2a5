//! Which commands start containers: what is typed after `docker`, `podman`, `nerdctl`, `docker-compose` and `buildah`.
//!
//! Tried with Docker 28 and buildah 1.28; options from their own help.

use std::ffi::OsString;
use std::path::Path;

/// A command that starts containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Use {
    pub engine: Engine,
    pub what: What,
    /// Where in the command further options go: right after the subcommand.
    pub at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Engine {
    /// A client of a daemon, which has its settings for builds and containers in a file.
    Docker,
    /// Does the work itself and hands its own proxy variables on: podman too.
    Buildah,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Build,
    Run,
    Compose,
}

/// Options before the subcommand that have a value of their own.
const VALUED: [&str; 21] = [
    "--config",
    "--context",
    "-c",
    "--host",
    "-H",
    "--log-level",
    "-l",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
    "--root",
    "--runroot",
    "--storage-driver",
    "--storage-opt",
    "--registries-conf",
    "--registries-conf-dir",
    "--default-mounts-file",
    "--userns-uid-map",
    "--userns-gid-map",
    "--connection",
    "--url",
];

/// What a command does with containers; None: nothing.
pub(crate) fn use_of(command: &[OsString]) -> Option<Use> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let engine = match Path::new(words.first()?).file_name()?.to_str()? {
        "docker" | "nerdctl" => Engine::Docker,
        "docker-compose" => return Some(Use { engine: Engine::Docker, what: What::Compose, at: 1 }),
        "buildah" | "podman" => Engine::Buildah,
        _ => return None,
    };
    let first = subcommand(&words, 1)?;
    let (what, at) = match words[first] {
        "build" | "bud" | "build-using-dockerfile" => (What::Build, first),
        "compose" => (What::Compose, first),
        // `buildah run` is in a container that is there, with what it was made with.
        "run" | "create" if !words[0].ends_with("buildah") => (What::Run, first),
        "buildx" | "image" | "builder" => {
            let second = subcommand(&words, first + 1)?;
            (words[second] == "build").then_some((What::Build, second))?
        }
        "container" => {
            let second = subcommand(&words, first + 1)?;
            matches!(words[second], "run" | "create").then_some((What::Run, second))?
        }
        _ => return None,
    };
    Some(Use { engine, what, at: at + 1 })
}

/// The first word from `at` on that is no option.
fn subcommand(words: &[&str], at: usize) -> Option<usize> {
    let mut at = at;
    while let Some(word) = words.get(at) {
        match word {
            word if VALUED.contains(word) => at += 2,
            word if word.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

/// The value of an option, however it is written; the last one counts.
pub(crate) fn option<'a>(command: &'a [OsString], names: &[&str]) -> Option<&'a str> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    words.iter().enumerate().rev().find_map(|(at, word)| match word.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value),
        Some(_) | None if names.contains(word) => words.get(at + 1).copied(),
        Some(_) | None => None,
    })
}

/// Whether the containers are in this machine's own network, loopback included.
pub(crate) fn shares_network(command: &[OsString], isolation: Option<&str>) -> bool {
    let isolation = option(command, &["--isolation"]).or(isolation);
    isolation == Some("chroot") || option(command, &["--network", "--net"]) == Some("host")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn command(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn commands_are_known_whatever_stands_before_them() {
        for (line, engine, what, at) in [
            ("docker build .", Engine::Docker, What::Build, 2),
            ("/usr/bin/docker --context ci -D buildx build -t a .", Engine::Docker, What::Build, 6),
            ("docker image build .", Engine::Docker, What::Build, 3),
            ("docker -H tcp://h:1 run --rm a", Engine::Docker, What::Run, 4),
            ("docker container create a", Engine::Docker, What::Run, 3),
            ("docker compose up", Engine::Docker, What::Compose, 2),
            ("docker-compose build", Engine::Docker, What::Compose, 1),
            ("buildah --storage-driver vfs --root=/r bud .", Engine::Buildah, What::Build, 5),
            ("podman run a", Engine::Buildah, What::Run, 2),
        ] {
            assert_eq!(use_of(&command(line)), Some(Use { engine, what, at }), "{line}");
        }
        for line in ["docker", "docker pull a", "docker image ls", "buildah from a", "buildah run a -- b", "make build"]
        {
            assert_eq!(use_of(&command(line)), None, "{line}");
        }
    }

    #[test]
    fn networks_are_told_apart() {
        assert!(shares_network(&command("buildah bud --isolation chroot ."), None));
        assert!(shares_network(&command("buildah bud ."), Some("chroot")));
        assert!(!shares_network(&command("buildah bud --isolation=oci ."), Some("chroot")));
        assert!(shares_network(&command("docker build --network=host ."), None));
        assert!(!shares_network(&command("docker build --network default ."), None));
    }
}
