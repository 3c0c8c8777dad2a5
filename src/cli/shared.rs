//! The larder that the builds of one user share: found by its data directory, or started beside them, so that none of
//! them has to wait for another's end and none takes it along when it is killed. It goes a while after the last of them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use url::Url;

use super::beacon::{Beacon, Guest};
use super::client::Client;
use super::failure::{FAILED, Failure};
use super::where_at::{AGENTS, Health, admits, make_dir};
use crate::protocol::owner::OwnerKey;

/// How long one may take to start, or to let go of its directory.
const STARTING: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(20);
/// What it says once it serves.
pub(super) const READY: &str = "ready ";
/// Its own messages; begun anew when they are this long.
pub(crate) const LOG: &str = "shared.log";
const LOG_BYTES: u64 = 1 << 20;

/// What it should be.
#[derive(Clone)]
pub(crate) struct Shared {
    pub dir: PathBuf,
    pub config: Option<PathBuf>,
    pub offline: bool,
    pub server: Option<Server>,
}

/// The server that it stands before.
#[derive(Clone)]
pub(crate) struct Server {
    pub url: String,
    pub token: Option<String>,
    /// It answered a moment ago.
    pub is_there: bool,
}

/// A build's part in it: it stays as long as this is held.
pub(crate) struct Entered {
    pub client: Client,
    _guest: Guest,
}

impl Shared {
    /// Finds the one that serves the directory, or starts one.
    ///
    /// *Errors*: it cannot be started.
    pub async fn enter(&self) -> Result<Entered, Failure> {
        // A full or foreign disk is no reason to keep a build from running.
        make_dir(&self.dir).map_err(|failure| Failure { code: FAILED, ..failure })?;
        let entering = async {
            loop {
                if let Some(entered) = self.entered().await? {
                    return Ok(entered);
                }
                if !self.start().await? {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        tokio::time::timeout(STARTING, entering).await.unwrap_or_else(|_| {
            let message = format!("{}: no larder serves it, and none can be started", self.dir.display());
            Err(Failure::failed(message, "see whether another process holds its lock, or name another with --data DIR"))
        })
    }

    /// The one that serves the directory already, if it is what it should be.
    async fn entered(&self) -> Result<Option<Entered>, Failure> {
        // Before it is looked for, so that it does not go away once it was found.
        let guest = Guest::enter(&self.dir).map_err(|error| {
            Failure::failed(format!("{}: {error}", self.dir.display()), "name another with --data DIR")
        })?;
        let Some(address) = Beacon::seen(&self.dir) else { return Ok(None) };
        let key = OwnerKey::read(&self.dir).map_err(|error| {
            let message = format!("{}: no larder of this user serves it: {error}", self.dir.display());
            Failure::failed(message, "name that one with --server, or a directory of your own with --data DIR")
        })?;
        let Some(key) = key else { return Ok(None) };
        // What is no address was not written by one.
        let Ok(client) = Client::new(&address, None) else { return Ok(None) };
        let client = client.of_owner(key);
        let Ok(Some(health)) = admits(&client).await else { return Ok(None) };
        if self.offline == health.offline {
            return Ok(Some(Entered { client, _guest: guest }));
        }
        drop(guest);
        self.put_out(&health)?;
        Ok(None)
    }

    /// Sends away one that nobody uses, since it is online and should not be, or the other way round.
    fn put_out(&self, health: &Health) -> Result<(), Failure> {
        if !health.embedded || Guest::any(&self.dir) {
            let (is, should) = if health.offline { ("offline", "online") } else { ("online", "offline") };
            let message = format!("a larder that others use serves {} {is}", self.dir.display());
            return Err(Failure::failed(message, format!("to be {should}, use another --data DIR")));
        }
        Beacon::put_out(&self.dir);
        Ok(())
    }

    /// Starts one. False: another has the directory.
    async fn start(&self) -> Result<bool, Failure> {
        let failed = |error: std::io::Error| {
            Failure::failed(
                format!("larder cannot start itself: {error}"),
                "see the limits on processes and open files",
            )
        };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("shared").arg("--data").arg(&self.dir);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if self.offline {
            command.arg("--offline");
        }
        if let Some(server) = &self.server {
            command.args(["--server", &server.url]).env("LARDER_TOKEN", server.token.as_deref().unwrap_or_default());
            if !server.is_there {
                command.arg("--lost");
            }
            // Where `larder env` was in force too: its way around the server is not by the server.
            for name in leading_to(&server.url, unicode_variables()) {
                command.env_remove(name);
            }
        }
        // In a group of its own: what a terminal or a CI system sends to a build's processes is not for it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.log());
        let mut child = command.spawn().map_err(failed)?;
        let mut said =
            BufReader::new(child.stdout.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?);
        let mut line = String::new();
        // What cannot be read is as good as nothing said.
        let _ = said.read_line(&mut line).await;
        if line.starts_with(READY) {
            return Ok(true);
        }
        let _ = said.read_to_string(&mut line).await;
        let code = child.wait().await.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
        if code == Some(IN_USE) {
            return Ok(false);
        }
        let mut lines = line.lines();
        let message = lines.next().unwrap_or("larder ended before it served").trim_start_matches("error: ").to_owned();
        let help = lines.next().map(|help| help.trim_start_matches("help: ").to_owned());
        Err(Failure { message, help, code: code.unwrap_or(FAILED) })
    }

    fn log(&self) -> Stdio {
        let path = self.dir.join(LOG);
        let is_long = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES);
        let opened = std::fs::File::options().create(true).append(!is_long).write(true).truncate(is_long).open(&path);
        opened.map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

/// The code of one that found another in its place.
pub(super) const IN_USE: u8 = 3;

/// Watches over the one that a build uses, and starts another in its place when it dies.
///
/// *Cancel*: the watch ends.
pub(crate) async fn keep_alive(shared: &Shared, client: &Client) {
    let mut kept: Option<Entered> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let client = kept.as_ref().map_or(client, |entered| &entered.client);
        if !matches!(admits(client).await, Ok(None)) {
            continue;
        }
        // It takes the same port, which tools were told.
        match shared.enter().await {
            Ok(entered) => kept = Some(entered),
            Err(failure) => tracing::debug!(why = failure.message, "no larder can be started again"),
        }
    }
}

/// How often a build looks whether the larder that it uses is there.
const LOOK: Duration = Duration::from_millis(500);

/// The directory of the agent before a server, below the user's. With another token it is another one, since its answers
/// are; what an agent kept under a token that is not used any more goes over to the new one.
pub(crate) fn agent_dir(data: &Path, server: &Server) -> PathBuf {
    use crate::model::digest::Digest;
    let short = |text: &str| Digest::of(text.as_bytes()).to_string()[..16].to_owned();
    let agents = data.join(AGENTS);
    let (of_server, of_token) = (short(&server.url), server.token.as_deref().map(short).unwrap_or_default());
    let dir = agents.join(format!("{of_server}-{of_token}"));
    if !dir.exists() {
        let others = std::fs::read_dir(&agents).into_iter().flatten().map_while(Result::ok);
        let mut same = others.filter(|other| other.file_name().to_string_lossy().starts_with(&format!("{of_server}-")));
        if let Some(other) = same.find(|other| !Guest::any(&other.path()) && Beacon::seen(&other.path()).is_none()) {
            // If another build is faster, this one begins with nothing.
            let _ = std::fs::rename(other.path(), &dir);
        }
    }
    dir
}

/// What is not Unicode names no proxy.
fn unicode_variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The proxy variables that name the server itself.
fn leading_to(server: &str, variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let origin = |text: &str| {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        Url::parse(&with_scheme).ok().map(|url| url.origin())
    };
    let server = origin(server);
    let is_it = |(name, value): &(String, String)| {
        ["http_proxy", "https_proxy", "all_proxy"].contains(&&*name.to_ascii_lowercase()) && origin(value) == server
    };
    variables.filter(is_it).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_that_are_the_server_are_told_from_others() {
        let variables = [
            ("http_proxy", "http://label:@cache.example:7070"),
            ("HTTPS_PROXY", "cache.example:7070/"),
            ("ALL_PROXY", "http://proxy.example:7070"),
            ("https_proxy", "http://cache.example:3128"),
            ("LARDER_SERVER", "http://cache.example:7070"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
        assert_eq!(leading_to("http://cache.example:7070", variables), ["http_proxy", "HTTPS_PROXY"]);
    }

    #[test]
    fn a_new_token_takes_over_what_an_old_one_left() {
        let data = tempfile::tempdir().expect("a directory");
        let server = |token: &str| Server { url: "http://a.example".into(), token: Some(token.into()), is_there: true };
        let old = agent_dir(data.path(), &server("one"));
        std::fs::create_dir_all(&old).expect("can be made");
        std::fs::write(old.join("kept"), "x").expect("can be written");
        assert_eq!(agent_dir(data.path(), &server("one")), old);
        let guest = Guest::enter(&old).expect("enters");
        assert!(!agent_dir(data.path(), &server("two")).exists(), "it is in use");
        drop(guest);
        let new = agent_dir(data.path(), &server("two"));
        assert!(new != old && new.join("kept").exists() && !old.exists());
    }
}
