//! `larder run`.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::beacon::{Beacon, Guest};
use super::client::Client;
use super::containers;
use super::discover::{Found, Surroundings};
use super::env::{credential, tools_url, wrong_label};
use super::failure::Failure;
use super::out;
use super::point::{self, Target};
use super::progress::waiting;
use super::run_child::run_child;
use super::stats::{encoded, of_build};
use super::trust::{self, Consent};
use super::where_at::{ConfigArgs, Here, admits, block_on_all_cores, is_alive, local_url, log, make_dir};
use crate::app::{self, Running, StartErrorKind, StartOptions};
use crate::config::Config;
use crate::model::hex;
use crate::protocol::gate::label_of;
use crate::runtime::clock::random_bytes;

/// The port of the last server that ran inside a build; tools that keep what they fetched by address then find it again.
const PORT: &str = "run.port";
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
    /// Answer from the cache alone, never ask upstream (a server inside this command)
    #[arg(long)]
    offline: bool,
    /// Trust the authority of a server that intercepts although it came over plain HTTP
    #[arg(long)]
    trust_plain_http: bool,
    #[command(flatten)]
    at: ConfigArgs,
    /// Command to run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The server that a build uses.
struct Place {
    client: Client,
    kind: Kind,
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
        let done = build(&args, &here, &found, &label, &place.client, matches!(place.kind, Kind::Ours { .. })).await;
        leave(place).await;
        done.map(ExitCode::from)
    })
}

/// Points the tools at the server, runs the command, tells what came of it.
async fn build(
    args: &Args,
    here: &Here,
    found: &[Found],
    label: &str,
    client: &Client,
    ours: bool,
) -> Result<u8, Failure> {
    let before = of_build(client, label).await.unwrap_or_default();
    let token = if ours { None } else { here.token() };
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
    env.extend(trusted(args, here, client).await?);
    // So that a larder started by the command uses the same server.
    env.push(("LARDER_SERVER".to_owned(), client.address().to_owned()));
    env.push(("LARDER_LABEL".to_owned(), label.to_owned()));
    let (shown, overlays) = (credential(Some(label), token), here.data_dir()?.join("overlays"));
    let contained = containers::prepare(&args.command, &client.base, shown, found, &overlays).await?;
    let (command, env) = match &contained {
        Some(contained) => (&contained.command, contained.over(env)),
        None => (&args.command, env),
    };
    let code = run_child(command, &env).await?;
    match of_build(client, label).await {
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

/// What leads the tools to certificates, where the server intercepts. A server that cannot be believed is no reason to
/// stop: it finds that its certificates are not taken, and tunnels.
async fn trusted(args: &Args, here: &Here, client: &Client) -> Result<Vec<(String, String)>, Failure> {
    let consent = if args.trust_plain_http { Consent::Given } else { Consent::Missing };
    let offer = match trust::offered(client, consent).await {
        Ok(Some(offer)) => offer,
        Ok(None) => return Ok(Vec::new()),
        Err(failure) => {
            out::error(&format!("larder: this build does not trust the server's authority\n{}", failure.text()));
            return Ok(Vec::new());
        }
    };
    let dir = here.data_dir()?.join("overlays/trust");
    let around = Surroundings::here(std::env::current_dir().unwrap_or_default());
    trust::lay(&dir, &trust::Before::here(&around), &offer.certificates()).map_err(|error| {
        let help = "name another with --data DIR";
        Failure::failed(format!("{}: certificates for the build cannot be written: {error}", dir.display()), help)
    })
}

async fn place(args: &Args, here: &Here, found: &[Found], label: &str) -> Result<Place, Failure> {
    let named = args.server.as_deref().or_else(|| here.variables.get("LARDER_SERVER"));
    if let Some(address) = named {
        let client = here.client(address)?;
        // One that wants a token is no reason to go without it unnoticed.
        if admits(&client).await? {
            adopt(&client, found).await;
            return Ok(Place { client, kind: Kind::Theirs { _guest: None } });
        }
        out::note(&format!("no larder answers at {}: this build gets one of its own", client.address()));
    }
    let (mut config, dir) = here.settled()?;
    if let Some(place) = neighbour(here, &dir, found).await? {
        return Ok(place);
    }
    let chosen = args.at.data.is_some() || args.at.config.is_some();
    if named.is_none() && !chosen && !args.offline {
        let client = here.client(&here.own_address())?;
        if is_alive(&client).await {
            adopt(&client, found).await;
            return Ok(Place { client, kind: Kind::Theirs { _guest: None } });
        }
    }
    make_dir(&dir)?;
    config.server.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, last_port(&dir)))];
    // Its clients are this build's, on this machine.
    config.server.tls = Default::default();
    if config.log.level == Config::default().log.level {
        // The build's own lines matter here.
        config.log.level = "warn".to_owned();
    }
    log(&config.log)?;
    let options = StartOptions {
        offline: args.offline,
        embedded: true,
        found: point::sources(found),
        label: Some(label.to_owned()),
    };
    match app::start(config, options).await {
        Ok(running) => {
            let url = local_url(&running.addr);
            let beacon = Beacon::light(&dir, &url).ok();
            // Without it the next run takes another port, and that is all.
            let _ = std::fs::write(dir.join(PORT), running.addr.port().to_string());
            let client = Client::new(&url, None)?;
            Ok(Place { client, kind: Kind::Ours { running, beacon, dir } })
        }
        Err(error) if error.kind == StartErrorKind::InUse => {
            let owner =
                waiting("another larder owns the data directory; waiting for its address", owner(here, &dir, found));
            owner.await?.ok_or_else(|| Failure::from(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// The larder that owns the data directory, where it says that it serves.
async fn neighbour(here: &Here, dir: &Path, found: &[Found]) -> Result<Option<Place>, Failure> {
    let Some(address) = Beacon::seen(dir) else { return Ok(None) };
    // Before it is asked, so that it does not go away after it answered.
    let guest = Guest::enter(dir).ok();
    let client = here.client(&address)?;
    if !is_alive(&client).await {
        return Ok(None);
    }
    adopt(&client, found).await;
    Ok(Some(Place { client, kind: Kind::Theirs { _guest: guest } }))
}

async fn owner(here: &Here, dir: &Path, found: &[Found]) -> Result<Option<Place>, Failure> {
    let step = Duration::from_millis(100);
    for _ in 0..STARTING.as_millis() / step.as_millis() {
        if let Some(place) = neighbour(here, dir, found).await? {
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
