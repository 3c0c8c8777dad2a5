//! Builds in containers: what `run` adds to a command that starts containers, and what `env docker|buildkit|buildah|gitlab`
//! prints.
//!
//! Nothing of larder may come into an image, its history or the key of a layer, or a rebuild after a change here would build
//! all of it anew. So it goes in two ways alone: as the proxy arguments that every builder knows beforehand and leaves out of
//! keys (for Docker by the client's own settings), and as a secret, of which builders keep neither name nor text. A `RUN` that
//! wants more than the proxies, as for Go, reads the secret if there is one, and is the same line with and without larder:
//!
//! ```text
//! RUN --mount=type=secret,id=cache [ ! -f /run/secrets/cache ] || . /run/secrets/cache; go mod download
//! ```
//!
//! Tried with buildah 1.28 and the client of Docker 28.

mod docker;
pub(crate) mod print;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use super::client::Client;
use super::discover::Found;
use super::env::tools_url;
use super::failure::Failure;
use super::point::{self, Target};
use super::tools::{Settings, render};
use crate::model::hex;
use crate::runtime::clock::random_bytes;
use docker::Proxies;
use words::{Engine, Use, What};

/// The secret's id, and its name below `/run/secrets/`. Dockerfiles name it, so that it can never change.
const SECRET: &str = "cache";
/// How soon an address must answer that containers may reach us at.
const SOON: Duration = Duration::from_millis(300);
/// Files that the settings make on machines that are not this one begin so. In a container they go to memory: what is in
/// `/tmp` at the end of a `RUN` is in its layer.
const ELSEWHERE: (&str, &str) = ("/tmp/larder-", "/dev/shm/larder-");

/// A command, changed so that its containers go through larder. What was written for it goes when this does.
pub(crate) struct Contained {
    pub command: Vec<OsString>,
    /// To be set; None: to be taken away.
    pub env: Vec<(String, Option<String>)>,
    dir: PathBuf,
}

/// Changes a command that starts containers, if their network reaches the server; says so if it does not.
///
/// *Shape*: None: run it as it is. *Errors*: what could not be written.
pub(crate) async fn prepare(
    command: &[OsString],
    server: &Url,
    label: Option<(String, String)>,
    found: &[Found],
    overlays: &Path,
) -> Result<Option<Contained>, Failure> {
    if words::use_of(command).is_none() {
        return Ok(None);
    }
    let Some(server) = address(command, server).await else {
        super::out::note(&out_of_reach(server));
        return Ok(None);
    };
    let name = label.as_ref().map(|(name, _)| name.as_str());
    let target =
        Target { labelled: tools_url(&server, name), label: label.clone(), overlays: overlays.to_owned(), server };
    let dir = overlays.join(format!("containers-{}", hex::encode(&random_bytes::<8>())));
    contain(command, &point::settings(target, found), &dir).map(Some)
}

/// The address of `server` from within the containers that a command starts.
///
/// *Shape*: None when they do not reach it.
async fn address(command: &[OsString], server: &Url) -> Option<Url> {
    let found = words::use_of(command)?;
    let isolation = std::env::var("BUILDAH_ISOLATION").ok();
    let isolation = isolation.as_deref().filter(|_| found.engine == Engine::Buildah);
    if !is_loopback(server) || words::shares_network(command, isolation) {
        return Some(server.clone());
    }
    for host in gateways(found.engine) {
        let mut there = server.clone();
        if there.set_host(Some(&host)).is_ok() && (host == DESKTOP || answers(&there).await) {
            return Some(there);
        }
    }
    None
}

/// How containers of Docker Desktop call the machine, loopback included.
const DESKTOP: &str = "host.docker.internal";

/// This machine as containers on an engine's own network call it.
fn gateways(engine: Engine) -> Vec<String> {
    if std::env::consts::OS == "macos" {
        return vec![DESKTOP.to_owned()];
    }
    let bridges: &[&str] = match engine {
        Engine::Docker => &["docker0"],
        Engine::Buildah => &["podman0", "cni-podman0"],
    };
    bridges.iter().filter_map(|bridge| address_of(bridge)).collect()
}

/// The IPv4 address of a network interface.
fn address_of(interface: &str) -> Option<String> {
    let words = ["-4", "-oneline", "address", "show", "dev", interface];
    let output = std::process::Command::new("ip").args(words).output().ok().filter(|done| done.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
    Some(words.nth(1)?.split('/').next()?.to_owned())
}

async fn answers(there: &Url) -> bool {
    let Ok(client) = Client::new(there.as_str(), None) else { return false };
    let asked = client.send(Method::GET, "/readyz", HeaderMap::new(), Bytes::new());
    matches!(tokio::time::timeout(SOON, asked).await, Ok(Ok(response)) if response.status().is_success())
}

fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// What to say when containers do not reach the server.
fn out_of_reach(server: &Url) -> String {
    let port = server.port_or_known_default().unwrap_or_default();
    format!(
        "the containers of this build do not reach {}: start `larder serve --listen 0.0.0.0:{port}` with their network in \
         gate.anonymous_read, or name a larder that they reach with --server",
        server.as_str().trim_end_matches('/')
    )
}

/// Changes a command. `settings` are made for the address that its containers use; `dir` is ours, and new.
///
/// *Errors*: what could not be written.
fn contain(command: &[OsString], settings: &Settings, dir: &Path) -> Result<Contained, Failure> {
    let mut contained = Contained { command: command.to_vec(), env: Vec::new(), dir: dir.to_owned() };
    let Some(found) = words::use_of(command) else { return Ok(contained) };
    let laid = contained.lay(found, settings);
    laid.map_err(|error| {
        Failure::failed(
            format!("settings for containers cannot be written to {}: {error}", dir.display()),
            "name another directory with --data DIR",
        )
    })?;
    Ok(contained)
}

impl Contained {
    /// The variables of a command, with these in their places.
    pub fn over(&self, mut env: Vec<(String, String)>) -> Vec<(String, String)> {
        env.retain(|(name, _)| !self.env.iter().any(|(ours, _)| ours == name));
        env.extend(self.env.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))));
        env
    }

    fn lay(&mut self, found: Use, settings: &Settings) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let proxies = settings.env.iter().filter(|(name, _)| is_proxy(name));
        match found.engine {
            Engine::Docker => {
                // The client's own way to its daemon is none of ours.
                self.env.extend(proxies.map(|(name, _)| (name.clone(), None)));
                self.lay_docker(found, &self.dir.join("docker"), settings)?;
            }
            // Hands them on to every container.
            Engine::Buildah => self.env.extend(proxies.map(|(name, value)| (name.clone(), Some(value.clone())))),
        }
        match found.what {
            What::Build if takes_secret(&self.command) => {
                let at = write(&self.dir.join("secret"), &secret(settings))?;
                self.insert(found.at, ["--secret".into(), format!("id={SECRET},src={}", at.display())]);
            }
            What::Run => {
                let own = settings.env.iter().filter(|(name, _)| !is_proxy(name));
                let text: String = own.map(|(name, value)| format!("{name}={value}\n")).collect();
                let at = write(&self.dir.join("env"), &text)?;
                self.insert(found.at, ["--env-file".into(), at.display().to_string()]);
            }
            What::Build | What::Compose => {}
        }
        Ok(())
    }

    fn lay_docker(&mut self, found: Use, over: &Path, settings: &Settings) -> std::io::Result<()> {
        let own = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let named = words::option(&self.command[..found.at], &["--config"]).map(PathBuf::from);
        let real = named.clone().or(own);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
        let Some(real) = real.or_else(home) else { return Ok(()) };
        let text = std::fs::read_to_string(real.join("config.json")).ok();
        match docker::with_proxies(text.as_deref(), &proxies(settings)) {
            Some(config) => {
                docker::lay(over, &real, &config)?;
                self.env.push(("DOCKER_CONFIG".to_owned(), Some(over.display().to_string())));
                // The option would win over the variable.
                if let Some(named) = named {
                    let (named, over) = (named.display().to_string(), over.display().to_string());
                    for word in &mut self.command[..found.at] {
                        let ours = word.to_str().filter(|text| text.trim_start_matches("--config=") == named);
                        *word = ours.map_or_else(|| word.clone(), |text| text.replace(&named, &over).into());
                    }
                }
            }
            None => super::out::note(&format!(
                "{} has proxies of its own, which stay: containers go through those",
                real.join("config.json").display()
            )),
        }
        Ok(())
    }

    fn insert(&mut self, at: usize, words: [String; 2]) {
        self.command.splice(at..at, words.map(OsString::from));
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // It holds a token. What cannot be removed is readable by its owner alone.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether the secret may be added: it is not named yet, and Docker's builder is not the one that knows no secrets.
fn takes_secret(command: &[OsString]) -> bool {
    let named = command.iter().filter_map(|word| word.to_str()).any(|word| word.contains(&format!("id={SECRET},")));
    !named && !std::env::var("DOCKER_BUILDKIT").is_ok_and(|value| value == "0")
}

/// Whether every builder knows it as an argument, and leaves it out of keys.
fn is_proxy(name: &str) -> bool {
    render::is_proxy(name)
}

fn proxies(settings: &Settings) -> Proxies {
    let of = |name: &str| {
        let found = settings.env.iter().find(|(known, _)| known == name);
        found.map_or_else(String::new, |(_, value)| value.clone())
    };
    Proxies { http: of("http_proxy"), https: of("https_proxy"), none: of("no_proxy") }
}

/// What a `RUN` reads: shell that sets everything, and leaves no file in the layer.
fn secret(settings: &Settings) -> String {
    render::elsewhere(settings).replace(ELSEWHERE.0, ELSEWHERE.1)
}

/// What stands at the front of a `RUN` that wants more than the proxies.
pub(crate) fn secret_line() -> String {
    format!("RUN --mount=type=secret,id={SECRET} [ ! -f /run/secrets/{SECRET} ] || . /run/secrets/{SECRET}")
}

/// A `config.json` of Docker's client that has the proxies and nothing else.
pub(crate) fn proxies_file(settings: &Settings) -> String {
    let config = docker::with_proxies(None, &proxies(settings)).unwrap_or_default();
    serde_json::from_str(&config).map_or(config, |config: serde_json::Value| format!("{config:#}"))
}

fn write(at: &Path, text: &str) -> std::io::Result<PathBuf> {
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(at)?;
    file.write_all(text.as_bytes())?;
    Ok(at.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let pairs = [("GOPROXY", "http://10.0.0.1:7070/go,direct"), ("http_proxy", "http://b:t@10.0.0.1:7070")];
        let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let lines = "mkdir -p /tmp/larder-x\n".to_owned();
        let elsewhere = super::super::tools::Script { lines, ..Default::default() };
        Settings { env, elsewhere, ..Settings::default() }
    }

    fn command(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_build_gets_the_secret_and_buildah_the_variables() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours = dir.path().join("ours");
        let contained = contain(&command("buildah --root /r bud -t a ."), &settings(), &ours).expect("writes");
        let at = ours.join("secret");
        let expected = format!("buildah --root /r bud --secret id=cache,src={} -t a .", at.display());
        assert_eq!(contained.command, command(&expected));
        assert_eq!(contained.env, [("http_proxy".to_owned(), Some("http://b:t@10.0.0.1:7070".to_owned()))]);
        let secret = std::fs::read_to_string(at).expect("is there");
        assert!(secret.contains("export GOPROXY=") && secret.contains("mkdir -p /dev/shm/larder-x"), "{secret}");
        drop(contained);
        assert!(!ours.exists(), "a token would stay");
    }

    #[test]
    fn docker_is_left_its_own_way_to_the_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let line = format!("docker --config {} run a b", dir.path().join("none").display());
        let contained = contain(&command(&line), &settings(), &dir.path().join("ours")).expect("writes");
        assert_eq!(contained.env[0], ("http_proxy".to_owned(), None));
        let over = contained.env.iter().find(|(name, _)| name == "DOCKER_CONFIG").expect("is set").1.clone();
        assert!(std::fs::read_to_string(Path::new(over.as_deref().expect("is set")).join("config.json")).is_ok());
        let file = dir.path().join("ours/env");
        assert_eq!(contained.command[2], over.as_deref().expect("is set"));
        assert_eq!(contained.command[4..], command(&format!("--env-file {} a b", file.display())));
        assert_eq!(std::fs::read_to_string(file).expect("is there"), "GOPROXY=http://10.0.0.1:7070/go,direct\n");
    }

    #[test]
    fn a_secret_of_that_name_stays_the_users() {
        let dir = tempfile::tempdir().expect("a directory");
        let line = command("docker build --secret id=cache,src=/x .");
        let contained = contain(&line, &settings(), &dir.path().join("ours")).expect("writes");
        assert_eq!(contained.command, line);
    }

    #[tokio::test]
    async fn only_loopback_is_out_of_reach() {
        let there = Url::parse("http://cache.example:7070/").expect("an address");
        assert_eq!(address(&command("docker build ."), &there).await, Some(there));
        let here = Url::parse("http://127.0.0.1:1/").expect("an address");
        assert_eq!(address(&command("docker build --network host ."), &here).await, Some(here.clone()));
        assert_eq!(address(&command("docker build ."), &here).await, None);
        assert!(out_of_reach(&here).contains("0.0.0.0:1"));
    }
}
