//! `larder serve`.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::beacon::Beacon;
use super::failure::Failure;
use super::out;
use super::where_at::{ConfigArgs, block_on_all_cores, local_url, log, make_dir};
use crate::app::{self, Running, StartOptions};
use crate::telemetry::log::LogLevel;

/// Serve build containers and CI runners until told to stop
///
/// Without any configuration it serves on 127.0.0.1:7070 and keeps what it caches in the platform's
/// data directory: $XDG_DATA_HOME/larder or ~/.local/share/larder, for root too. SIGTERM and SIGINT
/// drain and stop; a second one stops at once. SIGHUP reads tokens, certificates and policy again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder serve
  larder serve --listen 0.0.0.0:7070 --data /srv/larder     needs a token or gate.anonymous_read
  larder serve --config /etc/larder/larder.toml
  larder serve --offline                                    answer from the cache alone")]
pub(crate) struct Args {
    /// Address and port to listen on [default: 127.0.0.1:7070]; port 0 picks one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Answer from the cache alone, never ask upstream
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    at: ConfigArgs,
}

/// *Errors*: a configuration that cannot be used, or a start that failed.
pub(crate) fn serve(args: Args) -> Result<(), Failure> {
    let here = args.at.here(args.listen.clone())?;
    for note in &here.loaded.notes {
        out::note(note);
    }
    let (config, dir) = here.settled()?;
    make_dir(&dir)?;
    let level = log(&config.log)?;
    block_on_all_cores(async move {
        let mut signals = Signals::new()?;
        let options = StartOptions { offline: args.offline, ..StartOptions::default() };
        let running = app::start(config, options).await?;
        let url = local_url(&running.addr);
        // Without it `larder run` starts a server of its own, which then finds the directory taken.
        let beacon = Beacon::light(&dir, &url).ok();
        announce(&running, &url);
        loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                () = running.taken_over() => Asked::Stop,
            };
            match asked {
                Asked::Reload => reload(&args, &running, &level).await,
                Asked::Stop => break,
            }
        }
        drop(beacon);
        tokio::select! {
            () = super::progress::waiting("waiting for what is under way; once more to stop at once", running.stop()) => {}
            () = signals.stop() => out::note("stopped at once"),
        }
        Ok(())
    })
}

fn announce(running: &Running, url: &str) {
    out::line(&format!("listening on http://{}", running.addr));
    for line in &running.banner {
        out::line(line);
    }
    out::line(&format!("point this shell's tools at it: eval \"$(larder env --server {url})\""));
}

/// Reads the configuration again. What is wrong with it is told and changes nothing.
async fn reload(args: &Args, running: &Running, level: &LogLevel) {
    let reloaded = async {
        let (config, _) = args.at.here(args.listen.clone())?.settled()?;
        level
            .set(&config.log.level)
            .map_err(|error| Failure::usage(format!("log.level: {error}"), "write for example info or debug"))?;
        running.reload(config).await.map_err(Failure::from)
    };
    match reloaded.await {
        Ok(()) => out::note("tokens, certificates and policy were read again"),
        Err(failure) => out::error(&format!("larder: not reloaded\n{}", failure.text())),
    }
}

enum Asked {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::failed(format!("signals cannot be heard: {error}"), "see ulimit -a"))
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// *Cancel*: loses nothing.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        // The signal that began the stop may come twice, from a terminal and from a parent.
        tokio::time::sleep(Duration::from_millis(200)).await;
        while let Asked::Reload = self.next().await {}
    }
}
