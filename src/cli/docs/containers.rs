//! `docs/use/` on builds in containers, from the same settings and options as `larder env docker|buildah|gitlab`.

use std::path::Path;

use super::sample::{MADE, SERVER, sample, see};
use crate::cli::containers::{Told, print, proxies_file, secret_line};

/// Titles and files.
pub(super) const TITLES: [(&str, &str); 2] =
    [("BuildKit: docker build, buildx, Compose", "buildkit"), ("Buildah, Podman", "buildah")];

/// Where the secret lies on these pages.
const FILE: &str = "build.env";

pub(super) fn pages() -> [(String, String); 2] {
    let [(title, file), (other_title, other_file)] = TITLES;
    [
        (file.to_owned(), page(title, "docker build", "docker", &docker())),
        (other_file.to_owned(), page(other_title, "buildah bud", "buildah", buildah())),
    ]
}

fn page(title: &str, command: &str, word: &str, more: &str) -> String {
    let settings = sample(&["go", "cargo", "proxy"]);
    let (options, _) = print::options(&Told::of(settings, None), Path::new(FILE), &|_| None);
    let line = secret_line();
    format!(
        "# {title}\n\n{MADE}\n\nWhere larder is installed, nothing is edited:\n\n\
         ```sh\nlarder run --server {SERVER} -- {command} .\n```\n\n\
         By hand, with nothing added when larder does not answer:\n\n\
         ```sh\n{command} $(larder env --if-up --server {SERVER} {word}) .\n```\n\n\
         A token is on no command line, which every user of the machine could read: it is in the secret, and in a proxy that \
         the environment has already (`eval \"$(larder env)\"` before, with an address that containers reach). Else a `RUN` that \
         does not read the secret goes without larder; by `larder run` all go through.\n\n\
         Either takes along whatever reads the proxy variables, such as apt and apk. A `RUN` that needs more, as for Go, \
         Cargo and Maven, reads the secret if there is one:\n\n\
         ```dockerfile\n{line}; your-command\n```\n\n\
         Where larder is not installed, with the secret that this wrote elsewhere (`overlays/{FILE}` in larder's data \
         directory):\n\n\
         ```sh\n{command} {options} .\n```\n\n{more}\
         No layer, key or history changes by any of this: a rebuild without larder finds every layer.\n\n\
         ## When larder is dead\n\n`--if-up` adds nothing, and the build goes without. By `larder run`, \
         builds of buildah and podman that share this machine's network (`--isolation chroot`, `--network host`) have the agent, \
         and go on when larder dies in the middle. Other containers have none: where larder is dead when the build begins, they \
         go without; when it dies later, what a `RUN` fetches fails (`no fallback`; Go goes on), and the layers that are done \
         stay.\n\n\
         ## What is not cached\n\nThe images of `FROM`: they are pulled by the builder, which is not asked. What `RUN` fetches \
         over https by the proxy variables alone, unless larder intercepts the host.\n\n{}",
        see()
    )
}

fn docker() -> String {
    let proxies = proxies_file(sample(&["proxy"]));
    format!(
        "Compose, and every build and container of a user, by `~/.docker/config.json`:\n\n```json\n{proxies}\n```\n\n\
         In a GitLab job `larder env gitlab` prints a `before_script` that writes the secret, for `docker build \
         $LARDER_BUILD .`; its containers must reach larder's address.\n\n"
    )
}

fn buildah() -> &'static str {
    "`podman build` takes the same words.\n\n"
}
