//! `larder shared`: the larder that builds share, started by the first of them (`shared.rs`), gone a while after the last.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::signal::unix::{SignalKind, signal};

use super::beacon::{Beacon, Guest};
use super::client::Client;
use super::failure::Failure;
use super::out;
use super::shared::{IN_USE, READY};
use super::where_at::{ConfigArgs, block_on_all_cores, local_url, log, make_dir};
use crate::app::error::StartErrorKind;
use crate::app::{self, StartOptions};
use crate::config::Config;
use crate::protocol::hosts::Learn;
use crate::upstream::parent::ParentSettings;

/// The port of the last server of a directory; tools that keep what they fetched by address then find it again.
const PORT: &str = "run.port";
/// How long it stays when nobody uses it, and how often it looks.
const STAYS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Serve the builds of this user, until none is left
#[derive(clap::Args)]
#[command(hide = true, after_help = "Examples:\n  larder shared --data DIR --server http://cache:7070")]
pub(crate) struct Args {
    /// Server to stand before
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The server did not answer a moment ago
    #[arg(long)]
    lost: bool,
    /// Answer from the cache alone
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    at: ConfigArgs,
}

/// *Errors*: it cannot serve. They are told on standard output, where who started it listens.
pub(crate) fn serve_shared(args: &Args) -> Result<(), Failure> {
    serve(args).inspect_err(|failure| out::line(failure.text().trim_end()))
}

fn serve(args: &Args) -> Result<(), Failure> {
    let here = args.at.here(None)?;
    let (mut config, dir) = here.settled()?;
    make_dir(&dir)?;
    config.server.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, last_port(&dir, is_free)))];
    // Its clients are on this machine.
    config.server.tls = Default::default();
    if config.log.level == Config::default().log.level {
        config.log.level = "warn".to_owned();
    }
    log(&config.log)?;
    let mut options = StartOptions { offline: args.offline, embedded: true, ..StartOptions::default() };
    if let Some(server) = &args.server {
        let server = here.client(server)?;
        // Its clients may go where they could go without it. Who may go where is the server's to say.
        config.upstreams.learn = Learn::Public;
        config.upstream.allow_private = vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        if config.upstream.ca_file.is_none() {
            config.upstream.ca_file = server.roots.clone();
        }
        let Client { base, token, .. } = server;
        options.parent = Some(ParentSettings { base, token, is_there: !args.lost });
    }
    block_on_all_cores(async move {
        let running = app::start(config, options).await.map_err(|error| match error.kind {
            StartErrorKind::InUse => Failure { code: IN_USE, ..Failure::from(error) },
            StartErrorKind::Config | StartErrorKind::Failed => Failure::from(error),
        })?;
        let url = local_url(&running.addr);
        // Without it the next one takes another port, and that is all.
        let _ = std::fs::write(dir.join(PORT), running.addr.port().to_string());
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| Failure::failed(format!("signals cannot be heard: {error}"), "see ulimit -a"))?;
        let mut started = false;
        loop {
            let beacon = Beacon::light(&dir, &url).map_err(|error| {
                Failure::failed(format!("{}: {error}", dir.display()), "name another with --data DIR")
            })?;
            // Who started it listens no longer than this.
            if !std::mem::replace(&mut started, true) {
                out::line(&format!("{READY}{url}"));
            }
            let told = tokio::select! {
                () = is_left(&dir, &url) => false,
                _ = terminate.recv() => true,
            };
            // Who comes from here on starts another; who came before is seen now.
            drop(beacon);
            if told || !Guest::any(&dir) {
                break;
            }
        }
        running.stop().await;
        Ok(())
    })
}

/// Resolves when nobody has used it for a while, or it is sent away, or its directory is gone.
async fn is_left(dir: &Path, url: &str) {
    let looks = STAYS.as_millis() / LOOK.as_millis();
    let mut unused = 0;
    while unused < looks {
        tokio::time::sleep(LOOK).await;
        unused = if Guest::any(dir) { 0 } else { unused + 1 };
        let is_sent_away = Beacon::seen(dir).as_deref() != Some(url);
        if is_sent_away && unused > 0 {
            return;
        }
    }
}

/// The port that was used before if it is free, else any.
fn last_port(dir: &Path, is_free: impl FnOnce(u16) -> bool) -> u16 {
    let known = std::fs::read_to_string(dir.join(PORT)).ok().and_then(|text| text.trim().parse().ok());
    known.filter(|port| is_free(*port)).unwrap_or(0)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_kept_while_it_is_free() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(last_port(dir.path(), |_| true), 0);
        // What was free a moment ago may be another's now: no port is given back here to be found free.
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = taken.local_addr().expect("an address").port();
        std::fs::write(dir.path().join(PORT), port.to_string()).expect("writes");
        assert_eq!(last_port(dir.path(), is_free), 0, "taken");
        assert_eq!(last_port(dir.path(), |asked| asked == port), port);
    }
}
