//! `larder run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::client::Client;
use super::containers::{self, Contained, Larder, Larders};
use super::discover::{Found, Surroundings};
use super::failure::Failure;
use super::keystore::Der;
use super::out;
use super::point::{self, Target, credential, tools_url, wrong_label};
use super::progress::waiting;
use super::run_child::run_child;
use super::shared::{self, Entered, Shared};
use super::stats::{encoded, of_build};
use super::summary::{Behind, Told};
use super::trust;
use super::trust::offer::{self, Consent, Offer};
use super::unseen::{self, Containers};
use super::where_at::{ConfigArgs, Here, answers, block_on};
use crate::model::hex;
use crate::protocol::label::label_of;
use crate::runtime::clock::random_bytes;
use crate::runtime::tasks::Tasks;

/// How long a server may take to tell what it did for a build, or to be told what the build uses.
const SOON: Duration = Duration::from_secs(2);
/// Run a command through the cache
///
/// Uses the server that --server or LARDER_SERVER names, by way of an agent on this machine that goes on
/// without it when it is lost; else the larder that serves this user's data directory, else one that this
/// user's builds share, gone a while after the last of them. A larder of another user has to be named.
/// Every known tool's settings and the proxy variables are set for the command; its exit code is
/// returned. The end tells what was saved, and what went around the cache.
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
    /// Fail where the server fails: no agent before it, and nothing fetched around it
    #[arg(long)]
    strict: bool,
    /// Never ask upstream: what this machine keeps must do. Not before a server, which is told: larder offline on
    #[arg(long)]
    offline: bool,
    /// Trust the authority of a server that intercepts although it came over plain HTTP
    #[arg(long)]
    trust_plain_http: bool,
    #[command(flatten)]
    at: ConfigArgs,
    /// Command to run
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The server that a build uses.
struct Place {
    client: Client,
    /// The one behind it, where it is an agent's.
    behind: Option<Client>,
    /// Kept until the build has ended.
    shared: Option<(Shared, Entered)>,
}

impl Place {
    /// Another's, as it stands.
    fn theirs(client: Client) -> Place {
        Place { client, behind: None, shared: None }
    }

    async fn shared(shared: Shared, behind: Option<Client>) -> Result<Place, Failure> {
        let entered = waiting("waiting for the larder that builds share", shared.enter()).await?;
        Ok(Place { client: entered.client.clone(), behind, shared: Some((shared, entered)) })
    }

    /// Where the cache is that other machines and containers reach too.
    fn server(&self) -> &Client {
        self.behind.as_ref().unwrap_or(&self.client)
    }

    /// The directory of the agent before a server, and whether that server was there a moment ago.
    fn agent(&self) -> Option<(&Path, bool)> {
        let (shared, _) = self.shared.as_ref()?;
        Some((&shared.dir, shared.server.as_ref()?.is_there))
    }

    /// What came of a build so far, here and behind.
    async fn of_build(&self, label: &str) -> Result<Told, Failure> {
        let here = of_build(&self.client, label).await?;
        let Some(behind) = &self.behind else { return Ok(Told { here, behind: Behind::Nobody }) };
        let told = tokio::time::timeout(SOON, of_build(behind, label)).await;
        Ok(Told {
            here,
            behind: told.ok().and_then(Result::ok).map_or(Behind::Lost, |stats| Behind::Said(Box::new(stats))),
        })
    }

    /// What came of a label before this build. A server that was lost a moment ago is not waited for again.
    async fn at_begin(&self, label: &str) -> Told {
        let Some((_, false)) = self.agent() else { return self.of_build(label).await.unwrap_or_default() };
        Told { here: of_build(&self.client, label).await.unwrap_or_default(), behind: Behind::Lost }
    }

    /// Makes what was fetched durable: nothing waits for the larder itself to end.
    async fn flush(&self) {
        let Some((shared, _)) = &self.shared else { return };
        // What is not durable is fetched again.
        let Ok(told) = self.client.post::<Value>("/api/v1/flush", &Value::Null).await else { return };
        if let Some(lost) = told["taken_back"].as_u64().filter(|lost| *lost > 0) {
            let answers = out::count(lost, "answer that was fetched is", "answers that were fetched are");
            let log = shared.dir.join(shared::LOG);
            out::note(&format!("{answers} not kept, since the disk failed: see {}, and dmesg", log.display()));
        }
    }

    /// Never ends: sees to it that the larder that builds share is there.
    async fn keep_alive(&self) {
        match &self.shared {
            Some((shared, _)) => shared::keep_alive(shared, &self.client).await,
            None => std::future::pending().await,
        }
    }
}

impl Args {
    /// Whether the command may not run without larder, or with less of it.
    fn must(&self) -> bool {
        self.strict || self.offline
    }
}

/// *Errors*: wrong arguments or a wrong configuration, a server that refuses this user, a command that cannot be started;
/// with `--strict` or `--offline` whatever fails. Else the code is the command's.
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
    block_on(async move {
        let data = here.data_dir().ok();
        let look = move || data.map_or_else(point::found_here, |data| point::known_here(&data));
        let looking = tokio::task::spawn_blocking(look);
        let looked = waiting("reading what this machine's tools use", looking);
        // A look that panicked found nothing.
        let found = looked.await.unwrap_or_default();
        let done = match place(&args, &here, &found).await? {
            Some(place) => build(&args, &here, &found, &label, &place).await,
            None => run_child(&args.command, &[]).await,
        };
        done.map(ExitCode::from)
    })
}

/// Points the tools at the server, runs the command, tells what came of it.
async fn build(args: &Args, here: &Here, found: &[Found], label: &str, place: &Place) -> Result<u8, Failure> {
    let client = &place.client;
    let before = place.at_begin(label).await;
    let (contained, env) = match pointed(args, here, found, label, place).await {
        Err(failure) if !args.must() => {
            without(&failure);
            return run_child(&args.command, &[]).await;
        }
        pointed => pointed?,
    };
    let (command, env) = match &contained {
        Some(contained) => (&contained.command, contained.over(env)),
        None => (&args.command, env),
    };
    let containers = if contained.is_some() { Containers::Told } else { Containers::NotTold };
    let code = tokio::select! {
        code = run_child(command, &env) => code?,
        () = place.keep_alive() => return Err(Failure::failed("the watch over larder ended", "run it again")),
    };
    match place.of_build(label).await {
        Ok(after) => {
            let after = after.since(&before);
            if after.here.bytes_from_upstream > 0 {
                place.flush().await;
            }
            after.lines(label, &unseen::line(&args.command, containers)).iter().for_each(|line| out::note(line));
        }
        Err(failure) => out::error(&format!("larder: what was saved is not known\n{}", failure.text())),
    }
    if let Some(file) = &args.record
        && let Err(failure) = record(client, label, file).await
    {
        out::error(&format!("larder: the build's record was not written\n{}", failure.text()));
    }
    Ok(code)
}

/// What points the command's tools and containers at the server.
///
/// *Errors*: what could not be written. Nothing of it is then in force.
async fn pointed(
    args: &Args,
    here: &Here,
    found: &[Found],
    label: &str,
    place: &Place,
) -> Result<(Option<Contained>, Vec<(String, String)>), Failure> {
    let client = &place.client;
    // A larder on this machine asks for none, and an agent shows its server the server's.
    let token = if place.shared.is_some() { None } else { here.token() };
    let target = Target {
        labelled: tools_url(&client.base, Some(label)),
        server: client.base.clone(),
        label: credential(Some(label), token),
        overlays: overlays(here).unwrap_or_default(),
    };
    let settings = point::settings(target, found);
    settings.notes.iter().for_each(|note| out::note(note));
    let mut env: Vec<(String, String)> = match overlays(here).and_then(|_| point::lay(&settings)) {
        Ok(()) => settings.env_here().cloned().collect(),
        Err(failure) if args.must() => return Err(failure),
        Err(failure) => {
            out::note(&format!("tools whose settings are files are left as they are: {}", failure.line()));
            settings.env.clone()
        }
    };
    let offer = offered(args, place).await;
    let for_tools = |offer: &Offer| offer.clone().at(&client.base).certificates();
    let certificates = offer.as_ref().map(for_tools).unwrap_or_default();
    let trust = match trusted(here, &certificates) {
        // The server looks into no tunnel of a build that does not trust it.
        Err(failure) if place.behind.is_some() && !args.must() => {
            out::note(&format!("this build does not trust the server's authority: {}", failure.line()));
            Vec::new()
        }
        trust => trust?,
    };
    if place.behind.is_some() {
        // Where it is not told, the server looks into no tunnel of this build.
        let told = serde_json::json!({ "build": label, "trusts": !trust.is_empty() });
        let _ = client.post::<Value>("/api/v1/trusting", &told).await;
    }
    env.extend(trust);
    // So that a larder started by the command uses the same server.
    env.push(("LARDER_SERVER".to_owned(), client.address().to_owned()));
    env.push(("LARDER_LABEL".to_owned(), label.to_owned()));
    if token.is_none() && here.token().is_some() {
        // It would be none of that one's.
        env.push(("LARDER_TOKEN".to_owned(), String::new()));
    }
    if !containers::are_started_by(&args.command) {
        return Ok((None, env));
    }
    let larder = |client, token| Larder { client, label: credential(Some(label), token) };
    let is_lost = place.agent().is_some_and(|(_, is_there)| !is_there);
    let far = Some(larder(place.server(), here.token())).filter(|_| !is_lost);
    let larders = Larders { near: larder(client, token), far, offer: offer.as_ref() };
    let contained = containers::prepare(&args.command, larders, found, &overlays(here)?).await?;
    Ok((contained, env))
}

/// Where what is laid over tools' own files lies.
fn overlays(here: &Here) -> Result<PathBuf, Failure> {
    Ok(here.data_dir()?.join("overlays"))
}

/// Whom the build has to trust, where the server intercepts. A server that cannot be believed is no reason to stop: it
/// finds that its certificates are not taken, and tunnels. One that is lost may be back before the build's end: its
/// authority is then the one that it had.
async fn offered(args: &Args, place: &Place) -> Option<Offer> {
    let consent = if args.trust_plain_http { Consent::Given } else { Consent::Missing };
    let agent = place.agent();
    if let Some((dir, false)) = agent {
        return offer::known(dir);
    }
    match tokio::time::timeout(SOON, offer::offered(place.server(), consent)).await {
        Ok(Ok(offer)) => {
            if let Some((dir, _)) = agent {
                offer::remember(dir, offer.as_ref());
            }
            offer
        }
        Ok(Err(failure)) => {
            out::error(&format!("larder: this build does not trust the server's authority\n{}", failure.text()));
            None
        }
        // It has fallen silent just now.
        Err(_) => agent.and_then(|(dir, _)| offer::known(dir)),
    }
}

/// What leads the tools to certificates.
fn trusted(here: &Here, certificates: &[Der]) -> Result<Vec<(String, String)>, Failure> {
    if certificates.is_empty() {
        return Ok(Vec::new());
    }
    let dir = overlays(here)?.join("trust");
    let around = Surroundings::here(std::env::current_dir().unwrap_or_default());
    trust::lay(&dir, &trust::Before::here(&around), certificates).map_err(|error| {
        let message = format!("{}: certificates for the build cannot be written: {error}", dir.display());
        Failure::failed(message, "name another with --data DIR")
    })
}

/// None: nothing can serve the build, which is no reason not to run it.
async fn place(args: &Args, here: &Here, found: &[Found]) -> Result<Option<Place>, Failure> {
    let named = args.server.as_deref().or_else(|| here.variables.get("LARDER_SERVER"));
    if let Some(address) = named {
        let server = here.client(address)?;
        if args.offline {
            let address = server.address();
            let message =
                format!("--offline is of no use with {address}: that server decides whether upstream is asked");
            let help = format!(
                "tell it: larder offline on --server {address}; or go by what this machine keeps: leave --server and \
                 LARDER_SERVER out"
            );
            return Err(Failure::usage(message, help));
        }
        return before(args, here, server, found).await;
    }
    let shared = |dir| Shared { dir, config: args.at.config.clone(), offline: args.offline, server: None };
    let entered = async { Place::shared(shared(here.data_dir()?), None).await };
    match entered.await {
        Ok(place) => {
            adopt(&place.client, found).await;
            Ok(Some(place))
        }
        Err(failure) if args.must() => Err(failure),
        Err(failure) => Ok(without(&failure)),
    }
}

/// An agent before the server, so that the build goes on without it. With `--strict` the server itself.
async fn before(args: &Args, here: &Here, server: Client, found: &[Found]) -> Result<Option<Place>, Failure> {
    let mut answered = answers(&server).await;
    if answered.is_ok() && !adopt(&server, found).await && !args.strict {
        // Busy it may be, or gone in this moment.
        answered = answers(&server).await;
    }
    let health = match answered {
        Ok(health) => Some(health),
        // One that wants a token is no reason to go without it unnoticed.
        Err(error) if error.wants_token() => {
            // A build needs no more than this.
            let help = "set LARDER_TOKEN to a token made there with `larder token create NAME --right read`";
            return Err(Failure { help: Some(help.to_owned()), ..error.into() });
        }
        Err(error) if args.strict => return Err(error.into()),
        Err(error) => {
            out::note(&format!("{error}; going on without it"));
            None
        }
    };
    // Another agent does what ours would do, and an older larder knows none.
    if args.strict || health.as_ref().is_some_and(|health| health.agent || health.instance.is_empty()) {
        return Ok(Some(Place::theirs(server)));
    }
    let (url, token) = (server.address().to_owned(), server.token.clone());
    let told = shared::Server { url, token, is_there: health.is_some() };
    let entered = async {
        let dir = shared::agent_dir(&here.data_dir()?, &told);
        let shared = Shared { dir, config: args.at.config.clone(), offline: false, server: Some(told) };
        Place::shared(shared, Some(server.clone())).await
    };
    match entered.await {
        Ok(place) => Ok(Some(place)),
        Err(failure) if health.is_some() => {
            out::note(&format!("the server is used without an agent: {}", failure.line()));
            Ok(Some(Place::theirs(server)))
        }
        Err(failure) => Ok(without(&failure)),
    }
}

fn without(failure: &Failure) -> Option<Place> {
    out::note(&format!("this build runs without a cache: {}", failure.line()));
    None
}

/// Offers a server what this machine's tools use. It may refuse: then its own policy says what it fetches. False: it did
/// not answer soon, and is told meanwhile.
async fn adopt(client: &Client, found: &[Found]) -> bool {
    let sources = point::sources(found);
    if sources.is_empty() {
        return true;
    }
    let (answered, soon) = tokio::sync::oneshot::channel();
    let (client, told) = (client.clone(), point::as_json(&sources));
    // One that is slow would take nothing of what breaks off.
    Tasks::new().spawn("telling a server what the build uses", async move {
        let _ = client.post::<Value>("/api/v1/upstreams/import", &told).await;
        // The build has begun if nobody listens.
        let _ = answered.send(());
    });
    tokio::time::timeout(SOON, soon).await.is_ok()
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
