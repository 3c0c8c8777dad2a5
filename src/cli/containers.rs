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
//! Where the server intercepts hosts, or speaks TLS by an authority of its own, the secret has the authority too. Other
//! `RUN`s do not trust it, so that they are led around larder to those hosts.
//!
//! Tried with buildah 1.28 and the client of Docker 28.

mod builder;
mod docker;
pub(crate) mod print;
mod trust;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::client::Client;
use super::discover::Found;
use super::failure::Failure;
use super::point::{self, Target, tools_url};
use super::tools::{Settings, render};
use super::trust::offer::Offer;
use super::where_at::admits;
use crate::model::hex;
use crate::runtime::clock::random_bytes;
use docker::Proxies;
use words::{Engine, Use, What};

/// The secret's id, and its name below `/run/secrets/`. Dockerfiles name it, so that it can never change.
const SECRET: &str = "cache";
/// Where it is, for a Compose file: `secrets: { cache: { file: "${LARDER_SECRET:-/dev/null}" } }`.
const SECRET_FILE: &str = "LARDER_SECRET";
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
    /// Held while it is there, so that what a killed run left is known.
    _lock: Option<std::fs::File>,
}

/// A larder, and what it is shown.
pub(crate) struct Larder<'a> {
    pub client: &'a Client,
    pub label: Option<(String, String)>,
}

/// What containers may go through.
pub(crate) struct Larders<'a> {
    /// What the build itself uses: in this machine's own network alone.
    pub near: Larder<'a>,
    /// What other networks reach too. None: it does not answer.
    pub far: Option<Larder<'a>>,
    /// Whom they have to trust.
    pub offer: Option<&'a Offer>,
}

pub(crate) fn are_started_by(command: &[OsString]) -> bool {
    words::use_of(command).is_some()
}

/// Changes a command that starts containers, if their network reaches the server; says so if it does not.
///
/// *Shape*: None: run it as it is. *Errors*: what could not be written.
pub(crate) async fn prepare(
    command: &[OsString],
    larders: Larders<'_>,
    found: &[Found],
    overlays: &Path,
) -> Result<Option<Contained>, Failure> {
    let Some(Use { engine, .. }) = words::use_of(command) else { return Ok(None) };
    // A daemon may be on another machine, whose loopback is none of ours.
    let is_near = engine == Engine::Buildah && shares_network(command, engine);
    let Some(Larder { client, label }) = (if is_near { Some(larders.near) } else { larders.far }) else {
        super::out::note(&format!("{OUTSIDE}, whose server does not answer"));
        return Ok(None);
    };
    let server = match address(command, client).await {
        Ok(server) => server,
        Err(why) => {
            super::out::note(&why);
            return Ok(None);
        }
    };
    let name = label.as_ref().map(|(name, _)| name.as_str());
    let offer = larders.offer.map(|offer| offer.clone().at(&server));
    let target =
        Target { labelled: tools_url(&server, name), label: label.clone(), overlays: overlays.to_owned(), server };
    sweep(overlays);
    let dir = overlays.join(format!("{DIR}{}", hex::encode(&random_bytes::<8>())));
    let told = Told::of(point::settings(target, found), offer.as_ref());
    contain(command, &told, &dir).map(Some)
}

fn shares_network(command: &[OsString], engine: Engine) -> bool {
    let isolation = std::env::var("BUILDAH_ISOLATION").ok();
    words::shares_network(command, isolation.as_deref().filter(|_| engine == Engine::Buildah))
}

/// The address of a server from within the containers that a command starts.
///
/// *Errors*: why they do not get to it, and what to do.
async fn address(command: &[OsString], server: &Client) -> Result<Url, String> {
    let engine = words::use_of(command).map_or(Engine::Docker, |found| found.engine);
    if !is_loopback(&server.base) || shares_network(command, engine) {
        return Ok(server.base.clone());
    }
    for host in gateways(engine) {
        let mut there = server.base.clone();
        if there.set_host(Some(&host)).is_err() {
            continue;
        }
        if host == DESKTOP {
            return Ok(there);
        }
        let Ok(client) = Client::new(there.as_str(), server.token.as_deref()) else { continue };
        match tokio::time::timeout(SOON, admits(&client)).await {
            Ok(Ok(Some(_))) => return Ok(there),
            Ok(Err(why)) => {
                return Err(format!(
                    "{OUTSIDE}: larder at {} does not admit them ({why}): put their network into gate.anonymous_read, as \
                     172.16.0.0/12, or a token into LARDER_TOKEN",
                    there.as_str().trim_end_matches('/')
                ));
            }
            Ok(Ok(None)) | Err(_) => {}
        }
    }
    Err(out_of_reach(&server.base))
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

fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

const OUTSIDE: &str = "the containers of this build go without larder";

/// What to say when containers do not reach the server: one that listens on loopback, as those that builds share do.
fn out_of_reach(server: &Url) -> String {
    format!(
        "{OUTSIDE}: it listens on {} alone, where they do not come. One that they reach: \
         `LARDER_GATE_ANONYMOUS_READ=172.16.0.0/12 larder serve --listen 0.0.0.0:7070`, which `larder run` on this machine \
         finds, or any other with --server URL",
        super::out::plain(server.authority())
    )
}

/// What containers are told.
pub(crate) struct Told {
    /// Those that read the secret, or are started with variables of their own.
    settings: Settings,
    /// Shell by which they trust larder.
    trust: String,
    /// Proxies for all others.
    proxies: Vec<(String, String)>,
}

impl Told {
    pub fn of(settings: Settings, offer: Option<&Offer>) -> Told {
        let proxies = settings.env.iter().filter(|(name, _)| is_proxy(name)).cloned().collect();
        let Some(offer) = offer else { return Told { settings, trust: String::new(), proxies } };
        let own = ["https_proxy", "HTTPS_PROXY"].iter().find_map(|name| std::env::var(name).ok());
        let proxies = around(proxies, &offer.hosts, own.filter(|own| !own.is_empty()));
        Told { settings, trust: trust::script(&offer.certificates()), proxies }
    }

    /// What a `RUN` reads: shell that sets everything, and leaves no file in the layer.
    fn secret(&self) -> String {
        render::elsewhere(&self.settings).replace(ELSEWHERE.0, ELSEWHERE.1) + &self.trust
    }
}

/// Proxies for who does not trust larder, so that hosts which it intercepts are reached as without it: by the user's own
/// proxy, else directly.
fn around(mut proxies: Vec<(String, String)>, hosts: &[String], own: Option<String>) -> Vec<(String, String)> {
    if hosts.is_empty() {
        return proxies;
    }
    let names = hosts.iter().map(|host| {
        let host =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&**host, |(host, _)| host);
        host.trim_start_matches('*').trim_matches(['[', ']']).to_owned()
    });
    let names: Vec<String> = names.collect();
    for (name, value) in &mut proxies {
        match (name.to_ascii_lowercase().as_str(), &own) {
            ("https_proxy", Some(own)) => value.clone_from(own),
            ("no_proxy", None) => *value = format!("{value},{}", names.join(",")),
            ("http_no_proxy", None) => *value = format!("{value}|{}", names.join("|")),
            _ => {}
        }
    }
    proxies
}

/// Changes a command. What is told is made for the address that its containers use; `dir` is ours, and new.
///
/// *Errors*: what could not be written.
fn contain(command: &[OsString], told: &Told, dir: &Path) -> Result<Contained, Failure> {
    let mut contained = Contained { command: command.to_vec(), env: Vec::new(), dir: dir.to_owned(), _lock: None };
    let Some(found) = words::use_of(command) else { return Ok(contained) };
    let laid = contained.lay(found, told);
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

    fn lay(&mut self, found: Use, told: &Told) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        // Under a name that no sweep looks at until it is locked.
        let fresh = self.dir.with_extension("new");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&fresh)?;
        let lock = std::fs::File::open(&fresh)?;
        // Where there are no locks, nothing is swept.
        let _ = lock.try_lock();
        std::fs::rename(&fresh, &self.dir)?;
        self._lock = Some(lock);
        let proxies = told.proxies.iter();
        match found.engine {
            Engine::Docker => {
                // The client's own way to its daemon is none of ours.
                self.env.extend(proxies.map(|(name, _)| (name.clone(), None)));
                self.lay_docker(found, &self.dir.join("docker"), told)?;
            }
            // Hands them on to every container.
            Engine::Buildah => self.env.extend(proxies.map(|(name, value)| (name.clone(), Some(value.clone())))),
        }
        match found.what {
            What::Build if takes_secret(&self.command, found) => {
                let at = write(&self.dir.join("secret"), &told.secret())?;
                self.insert(found.at, ["--secret".into(), format!("id={SECRET},src={}", at.display())]);
            }
            // Its services name their secrets in the file, which may name the variable.
            What::Compose => {
                let at = write(&self.dir.join("secret"), &told.secret())?;
                self.env.push((SECRET_FILE.to_owned(), Some(at.display().to_string())));
            }
            What::Run => {
                let own = told.settings.env.iter().filter(|(name, _)| !is_proxy(name));
                let text: String = own.map(|(name, value)| format!("{name}={value}\n")).collect();
                let at = write(&self.dir.join("env"), &text)?;
                self.insert(found.at, ["--env-file".into(), at.display().to_string()]);
            }
            What::Build => {}
        }
        Ok(())
    }

    fn lay_docker(&mut self, found: Use, over: &Path, told: &Told) -> std::io::Result<()> {
        let own = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let named = words::option(&self.command[..found.at], &["--config"]).map(PathBuf::from);
        let real = named.clone().or(own);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
        let Some(real) = real.or_else(home) else { return Ok(()) };
        let text = std::fs::read_to_string(real.join("config.json")).ok();
        match docker::with_proxies(text.as_deref(), &proxies(told)) {
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

/// How the directories are named that a run keeps for its containers.
const DIR: &str = "containers-";

/// Removes what killed runs left: a token and log-ins are in it.
fn sweep(overlays: &Path) {
    for entry in std::fs::read_dir(overlays).into_iter().flatten().map_while(Result::ok) {
        let name = entry.file_name();
        let is_laid = name.to_str().is_some_and(|name| name.starts_with(DIR) && !name.contains('.'));
        let lock = is_laid.then(|| std::fs::File::open(entry.path()).ok()).flatten();
        if lock.is_some_and(|lock| lock.try_lock().is_ok()) {
            // Another sweep may be at it.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the secret may be added: it is not named yet, and the builder is one that knows secrets. An older one would stop
/// at the option.
fn takes_secret(command: &[OsString], found: Use) -> bool {
    let named = command.iter().filter_map(|word| word.to_str()).any(|word| word.contains(&format!("id={SECRET},")));
    if named {
        return false;
    }
    let knows = builder::knows_secrets(command, found);
    if !knows {
        super::out::note(&format!(
            "{} has no builder that knows --secret (Docker's is buildx): a RUN goes by the proxies alone",
            command[0].to_string_lossy()
        ));
    }
    knows
}

/// Whether every builder knows it as an argument, and leaves it out of keys.
fn is_proxy(name: &str) -> bool {
    render::is_proxy(name)
}

fn proxies(told: &Told) -> Proxies {
    let of = |name: &str| {
        let found = told.proxies.iter().find(|(known, _)| known == name);
        found.map_or_else(String::new, |(_, value)| value.clone())
    };
    Proxies { http: of("http_proxy"), https: of("https_proxy"), none: of("no_proxy") }
}

/// What stands at the front of a `RUN` that wants more than the proxies.
pub(crate) fn secret_line() -> String {
    format!("RUN --mount=type=secret,id={SECRET} [ ! -f /run/secrets/{SECRET} ] || . /run/secrets/{SECRET}")
}

/// A `config.json` of Docker's client that has the proxies and nothing else.
pub(crate) fn proxies_file(settings: Settings) -> String {
    let config = docker::with_proxies(None, &proxies(&Told::of(settings, None))).unwrap_or_default();
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

    fn told() -> Told {
        let pairs = [("GOPROXY", "http://10.0.0.1:7070/go,direct"), ("http_proxy", "http://b:t@10.0.0.1:7070")];
        let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let lines = "mkdir -p /tmp/larder-x\n".to_owned();
        let elsewhere = super::super::tools::overlay::Script { lines, ..Default::default() };
        Told::of(Settings { env, elsewhere, ..Settings::default() }, None)
    }

    fn client(url: &str) -> Client {
        Client::new(url, None).expect("an address")
    }

    fn command(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_build_gets_the_secret_and_buildah_the_variables() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours = dir.path().join("ours");
        let buildah = builder::stand_in(dir.path(), "buildah", "echo '--secret id=x,src=y'");
        let contained = contain(&command(&format!("{buildah} --root /r bud -t a .")), &told(), &ours).expect("writes");
        let at = ours.join("secret");
        let expected = format!("{buildah} --root /r bud --secret id=cache,src={} -t a .", at.display());
        assert_eq!(contained.command, command(&expected));
        assert_eq!(contained.env, [("http_proxy".to_owned(), Some("http://b:t@10.0.0.1:7070".to_owned()))]);
        let secret = std::fs::read_to_string(at).expect("is there");
        assert!(secret.contains("export GOPROXY=") && secret.contains("mkdir -p /dev/shm/larder-x"), "{secret}");
        drop(contained);
        assert!(!ours.exists(), "a token would stay");
    }

    #[test]
    fn what_a_killed_run_left_is_swept_and_what_one_holds_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("containers-dead/docker")).expect("a directory");
        std::fs::write(at("containers-dead/secret"), "t").expect("a file");
        std::fs::create_dir(at("maven-1")).expect("a directory");
        let alive = contain(&command("docker run a"), &told(), &at("containers-alive")).expect("writes");
        sweep(dir.path());
        let left = || std::fs::read_dir(dir.path()).expect("reads").count();
        assert!(!at("containers-dead").exists() && at("containers-alive/env").exists() && left() == 2);
        drop(alive);
        assert_eq!(left(), 1);
    }

    #[test]
    fn docker_is_left_its_own_way_to_the_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let line = format!("docker --config {} run a b", dir.path().join("none").display());
        let contained = contain(&command(&line), &told(), &dir.path().join("ours")).expect("writes");
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
        let contained = contain(&line, &told(), &dir.path().join("ours")).expect("writes");
        assert_eq!(contained.command, line);
    }

    #[tokio::test]
    async fn only_loopback_is_out_of_reach() {
        let there = client("http://cache.example:7070/");
        assert_eq!(address(&command("docker build ."), &there).await, Ok(there.base));
        let here = client("http://127.0.0.1:1/");
        assert_eq!(address(&command("docker build --network host ."), &here).await, Ok(here.base.clone()));
        let why = address(&command("docker build ."), &here).await.expect_err("it is not there");
        assert!(why.contains("127.0.0.1:1 alone") && why.contains("--listen 0.0.0.0:7070"), "{why}");
    }

    #[test]
    fn who_does_not_trust_larder_is_led_around_it() {
        let proxies =
            || ["https_proxy", "no_proxy", "http_no_proxy"].map(|name| (name.to_owned(), "here".to_owned())).to_vec();
        let hosts = ["a.example:8443", "*.b.example", "[::1]:443"].map(str::to_owned);
        let values = |own: Option<&str>, hosts: &[String]| {
            let handed = around(proxies(), hosts, own.map(str::to_owned));
            handed.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(values(None, &hosts), ["here", "here,a.example,.b.example,::1", "here|a.example|.b.example|::1"]);
        assert_eq!(values(Some("http://corp.example"), &hosts), ["http://corp.example", "here", "here"]);
        assert_eq!(values(None, &[]), ["here"; 3]);
    }
}
