//! `larder run`.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::beacon::{Beacon, Guest};
use super::client::Client;
use super::discover::Found;
use super::env::{credential, tools_url, wrong_label};
use super::failure::Failure;
use super::out;
use super::point::{self, Target};
use super::progress::waiting;
use super::run_child::run_child;
use super::stats::{encoded, of_build};
use super::summary::Stats;
use super::where_at::{ConfigArgs, Here, admits, block_on_all_cores, is_alive, local_url, log, make_dir};
use crate::app::{self, Running, StartErrorKind, StartOptions};
use crate::config::Config;
use crate::model::digest::Digest;
use crate::model::hex;
use crate::protocol::gate::label_of;
use crate::protocol::hosts::Learn;
use crate::runtime::clock::random_bytes;
use crate::upstream::parent::ParentSettings;

/// The port of the last server that ran inside a build; tools that keep what they fetched by address then find it again.
const PORT: &str = "run.port";
/// How long a server may take to tell what it did for a build.
const SOON: Duration = Duration::from_secs(2);
/// How long a larder that owns the data directory may take to say where it serves.
const STARTING: Duration = Duration::from_secs(10);

/// Run a command through the cache
///
/// Uses the server that --server or LARDER_SERVER names, else the larder of this machine, else one
/// inside this command, gone with it. Every known tool's settings and the proxy variables are set for the
/// command; its exit code is returned. The end tells what was saved, and what went around the cache.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder run -- cargo fetch
  larder run --server http://cache:7070 --label build-42 -- make
  larder run --record build.jsonl -- go mod download")]
pub(crate) struct Args {
    /// Server to use
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Write the build's record to a file: what was fetched, with its sums
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Build label; without it LARDER_LABEL, else one of its own
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Fail where the server fails: no larder of our own before it, and nothing fetched around it
    #[arg(long)]
    strict: bool,
    /// Answer from the cache alone, never ask upstream (a server inside this command)
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    at: ConfigArgs,
    /// Command to run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The server that a build uses.
struct Place {
    client: Client,
    /// The one behind it, where it is an agent's.
    behind: Option<Client>,
    kind: Kind,
}

impl Place {
    /// Another's, as it stands.
    fn theirs(client: Client) -> Place {
        Place { client, behind: None, kind: Kind::Theirs { _guest: None } }
    }

    /// What came of a build so far, here and behind.
    async fn of_build(&self, label: &str) -> Result<Stats, Failure> {
        let here = of_build(&self.client, label).await?;
        let Some(behind) = &self.behind else { return Ok(here) };
        // A server that is lost by now has nothing to tell.
        let told = tokio::time::timeout(SOON, of_build(behind, label)).await;
        Ok(here.before(&told.ok().and_then(Result::ok).unwrap_or_default()))
    }
}

enum Kind {
    /// Inside this process.
    Ours { running: Running, beacon: Option<Beacon>, dir: PathBuf },
    /// Another's; the guest keeps one that another build started.
    Theirs { _guest: Option<Guest> },
}

/// *Errors*: no server, or a command that cannot be started; else the code is the command's.
pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let here = args.at.here(None)?;
    let given = args.label.as_deref().or_else(|| here.variables.get("LARDER_LABEL"));
    if let Some(label) = given.filter(|label| label_of(label).is_none()) {
        return Err(wrong_label(label));
    }
    let label = given.map_or_else(|| format!("run-{}", hex::encode(&random_bytes::<4>())), str::to_owned);
    if let Some(file) = &args.record {
        // Better now than after the build.
        std::fs::File::create(file).map_err(|error| cannot_write(file, &error))?;
    }
    block_on_all_cores(async move {
        let looked = waiting("reading what this machine's tools use", tokio::task::spawn_blocking(point::found_here));
        // A look that panicked found nothing.
        let found = looked.await.unwrap_or_default();
        let place = place(&args, &here, &found, &label).await?;
        let done = build(&args, &here, &found, &label, &place).await;
        leave(place).await;
        done.map(ExitCode::from)
    })
}

/// Points the tools at the server, runs the command, tells what came of it.
async fn build(args: &Args, here: &Here, found: &[Found], label: &str, place: &Place) -> Result<u8, Failure> {
    let client = &place.client;
    let ours = matches!(place.kind, Kind::Ours { .. });
    let before = place.of_build(label).await.unwrap_or_default();
    // A larder on this machine asks for none, and an agent shows its server the server's.
    let token = if ours || place.behind.is_some() { None } else { here.token() };
    let target = Target {
        // Inside this process every request is this build's.
        labelled: if ours { client.base.clone() } else { tools_url(&client.base, Some(label)) },
        server: client.base.clone(),
        label: credential(Some(label), token),
        overlays: here.data_dir()?.join("overlays"),
    };
    let settings = point::settings(target, found);
    settings.notes.iter().for_each(|note| out::note(note));
    point::lay(&settings)?;
    let mut env: Vec<(String, String)> = settings.env_here().cloned().collect();
    // So that a larder started by the command uses the same server.
    env.push(("LARDER_SERVER".to_owned(), client.address().to_owned()));
    env.push(("LARDER_LABEL".to_owned(), label.to_owned()));
    if token.is_none() && here.token().is_some() {
        // It would be none of that one's.
        env.push(("LARDER_TOKEN".to_owned(), String::new()));
    }
    let code = run_child(&args.command, &env).await?;
    match place.of_build(label).await {
        Ok(after) => after.since(&before).lines(label).iter().for_each(|line| out::note(line)),
        Err(failure) => out::error(&format!("larder: what was saved is not known\n{}", failure.text())),
    }
    if let Some(file) = &args.record
        && let Err(failure) = record(client, label, file).await
    {
        out::error(&format!("larder: the build's record was not written\n{}", failure.text()));
    }
    Ok(code)
}

async fn place(args: &Args, here: &Here, found: &[Found], label: &str) -> Result<Place, Failure> {
    let named = args.server.as_deref().or_else(|| here.variables.get("LARDER_SERVER"));
    if let Some(address) = named {
        return before(args, here, here.client(address)?, found).await;
    }
    let (config, dir) = here.settled()?;
    if let Some(place) = neighbour(&dir, found).await? {
        return Ok(place);
    }
    let chosen = args.at.data.is_some() || args.at.config.is_some();
    if !chosen && !args.offline {
        let client = here.client(&here.own_address())?;
        if is_alive(&client).await {
            adopt(&client, found).await;
            return Ok(Place::theirs(client));
        }
    }
    let options = StartOptions {
        offline: args.offline,
        embedded: true,
        found: point::sources(found),
        label: Some(label.to_owned()),
        parent: None,
    };
    ours(config, &dir, options, found).await
}

/// A larder of our own before the server, so that the build goes on without it. With `--strict` the server itself.
async fn before(args: &Args, here: &Here, server: Client, found: &[Found]) -> Result<Place, Failure> {
    // One that wants a token is no reason to go without it unnoticed.
    let health = admits(&server).await?;
    match &health {
        Some(_) => adopt(&server, found).await,
        None if args.strict => {
            let message = format!("no larder answers at {}", server.address());
            return Err(Failure::failed(message, "start it, or leave --strict out to go on without it"));
        }
        None => out::note(&format!("no larder answers at {}: going on without it", server.address())),
    }
    // Another agent does what ours would do, and an older larder knows none.
    if args.strict || health.as_ref().is_some_and(|health| health.agent || health.instance.is_empty()) {
        return Ok(Place::theirs(server));
    }
    let (mut config, dir) = here.settled()?;
    let dir = dir.join("agents").join(&Digest::of(server.address().as_bytes()).to_string()[..16]);
    let behind = Some(server.clone());
    if let Some(place) = neighbour(&dir, found).await? {
        return Ok(Place { behind, ..place });
    }
    config.data.dir = Some(dir.clone());
    // Its clients are this machine's, and may go where they could go without it. Who may go where is the server's to say.
    config.upstreams.learn = Learn::Public;
    config.upstream.allow_private = vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
    if config.upstream.ca_file.is_none() {
        config.upstream.ca_file = server.roots.clone();
    }
    let parent = ParentSettings { base: server.base.clone(), token: server.token.clone(), is_there: health.is_some() };
    let options =
        StartOptions { offline: args.offline, embedded: true, parent: Some(parent), ..StartOptions::default() };
    let place = ours(config, &dir, options, found).await?;
    Ok(Place { behind, ..place })
}

/// A larder inside this process, or the one that has its directory.
async fn ours(mut config: Config, dir: &Path, options: StartOptions, found: &[Found]) -> Result<Place, Failure> {
    make_dir(dir)?;
    config.server.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, last_port(dir)))];
    // Its clients are this build's, on this machine.
    config.server.tls = Default::default();
    if config.log.level == Config::default().log.level {
        // The build's own lines matter here.
        config.log.level = "warn".to_owned();
    }
    log(&config.log)?;
    match app::start(config, options).await {
        Ok(running) => {
            let url = local_url(&running.addr);
            let beacon = Beacon::light(dir, &url).ok();
            // Without it the next run takes another port, and that is all.
            let _ = std::fs::write(dir.join(PORT), running.addr.port().to_string());
            let client = Client::new(&url, None)?;
            Ok(Place { client, behind: None, kind: Kind::Ours { running, beacon, dir: dir.to_owned() } })
        }
        Err(error) if error.kind == StartErrorKind::InUse => {
            let owner = waiting("another larder owns the data directory; waiting for its address", owner(dir, found));
            owner.await?.ok_or_else(|| Failure::from(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// The larder that owns the data directory, where it says that it serves.
async fn neighbour(dir: &Path, found: &[Found]) -> Result<Option<Place>, Failure> {
    let Some(address) = Beacon::seen(dir) else { return Ok(None) };
    // Before it is asked, so that it does not go away after it answered.
    let guest = Guest::enter(dir).ok();
    let client = Client::new(&address, None)?;
    if !is_alive(&client).await {
        return Ok(None);
    }
    adopt(&client, found).await;
    Ok(Some(Place { client, behind: None, kind: Kind::Theirs { _guest: guest } }))
}

async fn owner(dir: &Path, found: &[Found]) -> Result<Option<Place>, Failure> {
    let step = Duration::from_millis(100);
    for _ in 0..STARTING.as_millis() / step.as_millis() {
        if let Some(place) = neighbour(dir, found).await? {
            return Ok(Some(place));
        }
        tokio::time::sleep(step).await;
    }
    Ok(None)
}

/// Offers a server what this machine's tools use. It may refuse: then its own policy says what it fetches.
async fn adopt(client: &Client, found: &[Found]) {
    let sources = point::sources(found);
    if !sources.is_empty() {
        let _ = client.post::<Value>("/api/v1/upstreams/import", &point::as_json(&sources)).await;
    }
}

/// The port that was used before if it is free, else any.
fn last_port(dir: &Path) -> u16 {
    let known = std::fs::read_to_string(dir.join(PORT)).ok().and_then(|text| text.trim().parse().ok());
    known.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap_or(0)
}

async fn record(client: &Client, label: &str, file: &Path) -> Result<(), Failure> {
    let mut lines = Vec::new();
    let path = format!("/api/v1/builds/{}", encoded(label));
    let each = |line: &str| {
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
        Ok(())
    };
    client.lines(Method::GET, &path, None, each).await?;
    std::fs::write(file, lines).map_err(|error| cannot_write(file, &error))
}

fn cannot_write(file: &Path, error: &std::io::Error) -> Failure {
    let help = "name a file that this user may write with --record FILE";
    Failure::failed(format!("{}: {error}", file.display()), help)
}

/// Stops a server of ours, once no other build uses it.
async fn leave(place: Place) {
    let Kind::Ours { running, beacon, dir } = place.kind else { return };
    // New builds start their own from here on.
    drop(beacon);
    if Guest::any(&dir) {
        out::note("waiting for another build that uses this cache");
        let waited = tokio::task::spawn_blocking(move || Guest::wait_for_all(&dir)).await;
        if !matches!(waited, Ok(Ok(()))) {
            out::note("the other build could not be waited for");
        }
    }
    waiting("storing what was fetched", running.stop()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_kept_while_it_is_free() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(last_port(dir.path()), 0);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = taken.local_addr().expect("an address").port();
        std::fs::write(dir.path().join(PORT), port.to_string()).expect("writes");
        assert_eq!(last_port(dir.path()), 0, "taken");
        drop(taken);
        assert_eq!(last_port(dir.path()), port);
    }
}
