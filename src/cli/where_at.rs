//! Which server a command talks to, and which settings it works with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::beacon::Beacon;
use super::client::{Client, ClientError};
use super::failure::Failure;
use crate::config::sections::{Log, LogFormat};
use crate::config::{Config, Flags, Loaded, Variables, load};
use crate::protocol::owner::OwnerKey;
use crate::server::authorities::OWN_CERTIFICATE;
use crate::telemetry::log::{self, LogLevel};

/// Where agents before servers keep what is theirs, below the data directory.
pub(crate) const AGENTS: &str = "agents";

/// Options for commands that read the configuration.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// Configuration file; without it, the user's, then the machine's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory; without it, the platform's
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Options for commands that talk to a server.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ServerArgs {
    /// Server to talk to; without it LARDER_SERVER, else the larder of this machine
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    #[command(flatten)]
    pub at: ConfigArgs,
}

/// What the environment and files say, read once for a command.
pub(crate) struct Here {
    pub loaded: Loaded,
    pub variables: Variables,
}

impl ConfigArgs {
    /// *Errors*: a configuration that cannot be used.
    pub fn here(&self, listen: Option<String>) -> Result<Here, Failure> {
        let variables = Variables::of_process();
        let flags = Flags { config: self.config.clone(), listen, data: self.data.clone() };
        let loaded = load(&flags, &variables)?;
        Ok(Here { loaded, variables })
    }
}

impl Here {
    /// *Errors*: no directory is named and there is no home.
    pub fn data_dir(&self) -> Result<PathBuf, Failure> {
        Ok(self.loaded.config.data_dir(&self.variables)?)
    }

    /// The configuration with its data directory settled.
    ///
    /// *Errors*: as `data_dir`.
    pub fn settled(&self) -> Result<(Config, PathBuf), Failure> {
        let dir = self.data_dir()?;
        let mut config = self.loaded.config.clone();
        config.data.dir = Some(dir.clone());
        Ok((config, dir))
    }

    pub fn token(&self) -> Option<&str> {
        self.variables.get("LARDER_TOKEN").filter(|token| !token.is_empty())
    }

    /// *Errors*: the address is not one.
    pub fn client(&self, address: &str) -> Result<Client, Failure> {
        let own = self.data_dir().ok().map(|dir| dir.join(OWN_CERTIFICATE)).filter(|file| file.is_file());
        let client = Client::new(address, self.token())?.trusting(own);
        Ok(match self.owner_of(client.address()) {
            Some(key) => client.of_owner(key),
            None => client,
        })
    }

    /// The key of the directory whose owner serves there: of this user, or of one of its agents.
    fn owner_of(&self, address: &str) -> Option<OwnerKey> {
        let data = self.data_dir().ok()?;
        let agents = std::fs::read_dir(data.join(AGENTS)).into_iter().flatten().map_while(Result::ok);
        let mut dirs = std::iter::once(data).chain(agents.map(|agent| agent.path()));
        let dir = dirs.find(|dir| Beacon::seen(dir).as_deref() == Some(address))?;
        OwnerKey::read(&dir).ok()?
    }

    /// The address of the larder of this machine: what its owner wrote down, else where it would listen.
    pub fn own_address(&self) -> String {
        let seen = self.data_dir().ok().and_then(|dir| Beacon::seen(&dir));
        seen.unwrap_or_else(|| self.loaded.config.listen().first().map_or_else(String::new, local_url))
    }
}

impl ServerArgs {
    /// The server that the options, the environment or this machine name.
    ///
    /// *Errors*: a configuration or an address that is wrong.
    pub fn client(&self) -> Result<Client, Failure> {
        let here = self.at.here(None)?;
        let named = self.server.as_deref().or_else(|| here.variables.get("LARDER_SERVER"));
        here.client(&named.map_or_else(|| here.own_address(), str::to_owned))
    }
}

/// How this machine reaches an address that is listened on.
pub(crate) fn local_url(listen: &SocketAddr) -> String {
    match (listen.ip().is_unspecified(), listen.is_ipv6()) {
        (true, true) => format!("http://[::1]:{}", listen.port()),
        (true, false) => format!("http://127.0.0.1:{}", listen.port()),
        (false, _) => format!("http://{listen}"),
    }
}

/// What `GET /api/v1/health` tells.
#[derive(Deserialize, Debug, Default, Clone)]
#[serde(default)]
pub(crate) struct Health {
    /// It takes requests, and goes on to.
    pub ready: bool,
    pub version: String,
    pub offline: bool,
    /// It stands before another larder itself.
    pub agent: bool,
    /// Builds started it, and it goes when they have gone.
    pub embedded: bool,
    /// Which process it is. Empty: one that knows no agents.
    pub instance: String,
}

/// Whether a larder answers there, soon.
pub(crate) async fn is_alive(client: &Client) -> bool {
    matches!(admits(client).await, Ok(Some(_)))
}

/// What a larder there says of itself, soon. *Errors*: one that wants a token, or another one.
pub(crate) async fn admits(client: &Client) -> Result<Option<Health>, ClientError> {
    match answers(client).await {
        Ok(health) => Ok(Some(health)),
        Err(error) if error.wants_token() => Err(error),
        Err(_) => Ok(None),
    }
}

/// As `admits`, with why there is none.
pub(crate) async fn answers(client: &Client) -> Result<Health, ClientError> {
    let missing = |why: &str| ClientError::Unreachable { url: client.address().to_owned(), why: why.to_owned() };
    let asked = client.get::<Health>("/api/v1/health");
    let asked = tokio::time::timeout(Duration::from_secs(2), asked).await;
    let health = asked.unwrap_or_else(|_| Err(missing("no answer in time")))?;
    if health.ready { Ok(health) } else { Err(missing("it takes no requests now")) }
}

/// Runs a command that talks to a server.
///
/// *Errors*: as `work`.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = built.map_err(|error| {
        Failure::failed(format!("the runtime does not start: {error}"), "see the limits on processes and open files")
    })?;
    runtime.block_on(work)
}

/// Runs a command that serves.
///
/// *Errors*: as `work`.
pub(crate) fn block_on_all_cores<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("larder").build();
    let runtime = built.map_err(|error| {
        Failure::failed(format!("the runtime does not start: {error}"), "see the limits on processes and open files")
    })?;
    let done = runtime.block_on(work);
    // What still blocks, such as a look-up of a name, must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Sets the process's own log up.
///
/// *Errors*: a level that is none.
pub(crate) fn log(settings: &Log) -> Result<LogLevel, Failure> {
    let format = match settings.format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    let settings = log::Settings { level: settings.level.clone(), format };
    log::init(&settings)
        .map_err(|error| Failure::usage(format!("log.level: {error}"), "write for example info or debug"))
}

/// Makes the data directory, for its owner's eyes alone.
///
/// *Errors*: what the operator must change.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| {
        let message = format!("{}: the data directory cannot be made: {error}", dir.display());
        Failure { code: super::failure::USAGE, ..Failure::failed(message, "name another with --data DIR") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_over_loopback() {
        for (listen, url) in [
            ("0.0.0.0:7070", "http://127.0.0.1:7070"),
            ("[::]:7070", "http://[::1]:7070"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(local_url(&listen.parse().expect("an address")), url);
        }
    }
}
