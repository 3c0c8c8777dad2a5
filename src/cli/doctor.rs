//! `larder doctor`.

mod bucket;

use crate::model::units::rounded_bytes;
use std::path::Path;

use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::health;
use super::out;
use super::point;
use super::probe::{NotProbed, Probe, Probes, probe};
use super::progress::waiting;
use super::upstream::Upstreams;
use super::where_at::{ConfigArgs, Health, Here, block_on};
use crate::runtime::clock::SystemClock;

/// Check configuration, disk, clock, bucket and upstreams; time a server
///
/// A bucket that is configured is used once as larder uses one, and left as it was.
///
/// With URL, a probe of each ecosystem goes through the server, cold then warm, from where this machine's tools fetch;
/// what neither they nor the server have an upstream for is told. Exit code 1 when something is broken. For health
/// checks --probe asks within two seconds, and nothing but, whether a server is ready.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder doctor
  larder doctor http://cache:7070 --json
  larder doctor --probe                 exit code 0: the larder of this machine is ready")]
pub(crate) struct Args {
    /// Server to probe
    url: Option<String>,
    /// Only ask whether the larder of this machine, or at URL, is ready
    #[arg(long, conflicts_with = "json")]
    probe: bool,
    /// Print checks and probes as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: ConfigArgs,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Broken,
}

#[derive(Serialize, Debug)]
struct Check {
    name: &'static str,
    state: State,
    what: String,
    help: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, what: impl Into<String>, help: &str) -> Check {
        Check { name, state, what: what.into(), help: Some(help.to_owned()).filter(|help| !help.is_empty()) }
    }

    fn line(&self) -> String {
        let state = match self.state {
            State::Ok => "ok    ",
            State::Warn => "warn  ",
            State::Broken => "BROKEN",
        };
        let help = self.help.as_ref().map(|help| format!("\n         help: {help}")).unwrap_or_default();
        format!("{state} {:<10} {}{help}", self.name, out::plain(&self.what))
    }
}

/// *Errors*: something is broken.
pub(crate) fn doctor(args: &Args) -> Result<(), Failure> {
    if args.probe {
        return health::ready(&args.at, args.url.as_deref());
    }
    let mut checks = Vec::new();
    let here = match args.at.here(None) {
        Ok(here) => {
            checks.push(configuration(&here));
            checks.push(disk(&here));
            Some(here)
        }
        Err(failure) => {
            let help = failure.help.unwrap_or_default();
            checks.push(Check::new("config", State::Broken, failure.message, &help));
            None
        }
    };
    let mut probes = Probes::default();
    if let Some(here) = &here {
        let address = args.url.clone().unwrap_or_else(|| here.own_address());
        let client = here.client(&address)?;
        let must_answer = args.url.is_some();
        block_on(async {
            checks.extend(waiting("trying the bucket", bucket::check(here)).await);
            let answered = server(&client, must_answer, &mut checks).await;
            if let Answered::Yes(listed) = answered
                && must_answer
            {
                let found = point::found_here();
                probes = waiting("probing, cold then warm", probe(&client, &found, listed.as_ref())).await;
            }
            Ok(())
        })?;
    }
    report(args.json, &checks, &probes)
}

fn configuration(here: &Here) -> Check {
    let from = here.loaded.file.as_ref().map_or("defaults; no file".to_owned(), |file| file.display().to_string());
    match here.loaded.notes.first() {
        Some(note) => Check::new("config", State::Warn, note.clone(), "unset it, or see `larder config default`"),
        None => Check::new("config", State::Ok, from, ""),
    }
}

/// Room and rights at the data directory, or where it would be made.
fn disk(here: &Here) -> Check {
    let dir = match here.data_dir() {
        Ok(dir) => dir,
        Err(failure) => return Check::new("disk", State::Broken, failure.message, ""),
    };
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let broken = |what: String, help: &str| Check::new("disk", State::Broken, what, help);
    if rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        return broken(
            format!("{} may not be written", there.display()),
            "name another with --data DIR, or change its owner",
        );
    }
    match rustix::fs::statvfs(there) {
        Err(error) => broken(format!("{}: {error}", there.display()), "see dmesg"),
        Ok(volume) => {
            let (free, all) = (volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize);
            let what = format!("{}: {} free of {}", dir.display(), rounded_bytes(free), rounded_bytes(all));
            if free < all / 20 {
                return Check::new(
                    "disk",
                    State::Warn,
                    what,
                    "larder leaves 5 % free and now stores nothing: make room",
                );
            }
            Check::new("disk", State::Ok, what, "")
        }
    }
}

/// Whether a server answers.
enum Answered {
    /// With its upstreams, where it tells them.
    Yes(Option<Upstreams>),
    No,
}

/// Whether it answers, its clock against ours, its upstreams.
async fn server(client: &Client, must_answer: bool, checks: &mut Vec<Check>) -> Answered {
    let here = SystemClock::new().now();
    // Tokens, certificates and freshness all hang on the date.
    if here.as_secs() < 1_735_689_600 {
        checks.push(Check::new("clock", State::Broken, "this machine's clock is years behind", "set it, with NTP"));
    }
    let health = match client.get::<Health>("/api/v1/health").await {
        Ok(health) => health,
        Err(error) => {
            // Without one, `larder run` brings its own.
            let state = if must_answer { State::Broken } else { State::Warn };
            let failure = Failure::from(error);
            checks.push(Check::new("server", state, failure.message, &failure.help.unwrap_or_default()));
            return Answered::No;
        }
    };
    let state = if health.ready { "ready" } else { "stopping" };
    let offline = if health.offline { ", offline" } else { "" };
    let what = format!("{} answers: larder {}, {state}{offline}", client.address(), health.version);
    checks.push(match health.ready {
        true => Check::new("server", State::Ok, what, ""),
        false => Check::new("server", State::Warn, what, "start it again"),
    });
    if let Ok(response) = client.send(Method::GET, "/api/v1/health", HeaderMap::new(), bytes::Bytes::new()).await {
        let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        if let Some(there) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            checks.push(clocks(here.as_secs(), there));
        }
    }
    match client.get::<Upstreams>("/api/v1/upstreams").await {
        Ok(listed) => {
            checks.push(upstreams(&listed));
            Answered::Yes(Some(listed))
        }
        Err(error) => {
            let failure = Failure::from(error);
            checks.push(Check::new("upstreams", State::Warn, failure.message, &failure.help.unwrap_or_default()));
            Answered::Yes(None)
        }
    }
}

fn clocks(here: i64, there: std::time::SystemTime) -> Check {
    let there = there.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let apart = here.abs_diff(i64::try_from(there).unwrap_or(i64::MAX));
    if apart > 60 {
        let what = format!("this clock and the server's are {} apart", out::seconds(apart as f64));
        return Check::new("clock", State::Warn, what, "set both, with NTP: freshness and tokens hang on them");
    }
    Check::new("clock", State::Ok, "agrees with the server's", "")
}

fn upstreams(listed: &Upstreams) -> Check {
    let all = listed.upstreams.len() as u64;
    let open: Vec<String> = listed
        .upstreams
        .iter()
        .filter(|one| one.breaker.starts_with("resting"))
        .map(|one| out::plain(&one.url))
        .collect();
    let pending = listed.upstreams.iter().filter(|one| one.state == "pending").count();
    if !open.is_empty() {
        let what = format!("left alone after failures: {}", open.join(", "));
        return Check::new(
            "upstreams",
            State::Warn,
            what,
            "see whether this machine reaches them; a proxy may be missing",
        );
    }
    if pending > 0 {
        let what = format!("{} to be allowed", out::count(pending as u64, "host waits", "hosts wait"));
        return Check::new("upstreams", State::Warn, what, "larder upstream list --pending");
    }
    if all == 0 {
        let help = "larder init --json | larder upstream import -";
        return Check::new("upstreams", State::Warn, "none is known: clients must name theirs", help);
    }
    Check::new("upstreams", State::Ok, format!("{} known, none fails", out::count(all, "is", "are")), "")
}

fn report(json: bool, checks: &[Check], probes: &Probes) -> Result<(), Failure> {
    let Probes { probed, not_probed } = probes;
    if json {
        let all = json!({ "checks": checks, "probes": probed, "not_probed": not_probed });
        out::text_out(&format!("{all:#}\n"));
    } else {
        checks.iter().for_each(|check| out::line(&check.line()));
        if !probed.is_empty() {
            out::line("");
            out::text_out(&times(probed));
        }
        for NotProbed { ecosystem, why } in not_probed {
            out::line(&format!("not probed: {ecosystem}: {}", out::plain(why)));
        }
    }
    let broken = checks.iter().filter(|check| check.state == State::Broken).count();
    let failed: Vec<&str> = probed.iter().filter(|probe| !probe.works()).map(|probe| probe.ecosystem).collect();
    match (broken, failed.as_slice()) {
        (0, []) => Ok(()),
        (0, failed) => Err(Failure::failed(
            format!("the probe failed for {}", failed.join(", ")),
            "larder explain with the path above tells why; larder upstream list shows what is known",
        )),
        (count, _) => {
            let what = out::count(count as u64, "check is broken", "checks are broken");
            Err(Failure::failed(what, "mend what is marked BROKEN, then run `larder doctor` again"))
        }
    }
}

fn times(probes: &[Probe]) -> String {
    let mut rows = Vec::new();
    for probe in probes {
        for (name, timing) in [("cold", &probe.cold), ("warm", &probe.warm)] {
            let said: Vec<String> = [&timing.cache_status, &timing.error].into_iter().flatten().cloned().collect();
            let said = if said.is_empty() { "-".to_owned() } else { said.join(": ") };
            rows.push(vec![
                probe.ecosystem.to_owned(),
                name.to_owned(),
                timing.status.to_string(),
                out::seconds(timing.seconds),
                out::plain(&said),
                probe.path.clone(),
            ]);
        }
    }
    out::table(&["ecosystem", "probe", "status", "time", "Cache-Status", "path"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::upstream::Listed;

    #[test]
    fn what_ails_upstreams_is_told_with_the_next_step() {
        let one = |state: &str, breaker: &str| Listed {
            url: "https://mirror.example/".into(),
            state: state.into(),
            breaker: breaker.into(),
            ..Listed::default()
        };
        let check = |upstreams: Vec<Listed>| super::upstreams(&Upstreams { upstreams });
        assert_eq!(check(vec![one("adopted", "well")]).state, State::Ok);
        assert!(check(vec![one("adopted", "resting for 5 s")]).what.contains("mirror.example"));
        assert!(check(vec![one("pending", "")]).help.is_some_and(|help| help.contains("--pending")));
        assert!(check(Vec::new()).help.is_some_and(|help| help.contains("init --json")));
    }

    #[test]
    fn clocks_that_differ_are_told() {
        let there = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        assert_eq!(clocks(1_000_030, there).state, State::Ok);
        assert_eq!(clocks(1_000_100, there).state, State::Warn);
        assert_eq!(clocks(999_900, there).state, State::Warn);
    }
}
