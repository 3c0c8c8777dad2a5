//! `larder upstream` and `larder offline`: from where a running server fetches.

use std::io::Read;

use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::Failure;
use super::out;
use super::where_at::{ServerArgs, block_on};

/// Show and decide where a running server may fetch from
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder upstream list
  larder upstream list --pending                          hosts that builds asked for
  larder upstream allow packages.example
  larder init --json | larder upstream import -           adopt what this build image uses")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List upstreams, with where each was found and how it fares
    #[command(after_help = "Examples:\n  larder upstream list --pending --json")]
    List {
        /// Only hosts that wait to be allowed
        #[arg(long)]
        pending: bool,
        /// Print the server's answer as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Let clients name a host
    #[command(
        after_help = "Examples:\n  larder upstream allow packages.example\n  larder upstream allow 10.0.0.7:8081"
    )]
    Allow {
        /// HOST or HOST:PORT
        host: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Adopt upstreams that `larder init --json` found
    #[command(
        after_help = "Examples:\n  larder upstream import found.json\n  larder init --json | larder upstream import -"
    )]
    Import {
        /// File to read; - is standard input
        file: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// One of `GET /api/v1/upstreams`, under `upstreams`.
#[derive(Deserialize, Debug, Default, Clone)]
#[serde(default)]
pub(crate) struct Listed {
    /// Empty for a host that no ecosystem is tied to.
    pub ecosystem: String,
    pub url: String,
    /// Where the address was found, or who asked for it.
    pub found_in: String,
    /// `adopted`, `configured`, `allowed`, `pending`.
    pub state: String,
    /// `well`, `probing`, `resting …`; empty when it was not asked yet.
    pub breaker: String,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(crate) struct Upstreams {
    pub upstreams: Vec<Listed>,
}

/// *Errors*: the server's, or a file that cannot be read.
pub(crate) fn upstream(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::List { pending, json, server } => list(*pending, *json, server),
        Action::Allow { host, server } => {
            let client = server.client()?;
            block_on(async {
                let _: Value = client.post("/api/v1/upstreams/allow", &json!({ "host": host })).await?;
                out::line(&format!("{host} is allowed"));
                Ok(())
            })
        }
        Action::Import { file, server } => import(file, server),
    }
}

fn list(pending: bool, json: bool, server: &ServerArgs) -> Result<(), Failure> {
    let client = server.client()?;
    block_on(async {
        let path = if pending { "/api/v1/upstreams?pending" } else { "/api/v1/upstreams" };
        let said: Value = client.get(path).await?;
        if json {
            out::line(&said.to_string());
            return Ok(());
        }
        let listed: Upstreams = serde_json::from_value(said).unwrap_or_default();
        if listed.upstreams.is_empty() {
            out::line(if pending {
                "no host is waiting"
            } else {
                "no upstream is known; adopt what a build image uses: larder init --json | larder upstream import -"
            });
            return Ok(());
        }
        let row = |listed: &Listed| {
            [&listed.ecosystem, &listed.url, &listed.state, &listed.breaker, &listed.found_in]
                .map(|cell| if cell.is_empty() { "-".to_owned() } else { out::plain(cell) })
                .to_vec()
        };
        let rows: Vec<Vec<String>> = listed.upstreams.iter().map(row).collect();
        out::text_out(&out::table(&["ecosystem", "upstream", "state", "health", "found in"], &rows));
        Ok(())
    })
}

fn import(file: &str, server: &ServerArgs) -> Result<(), Failure> {
    let unreadable =
        |error: std::io::Error| Failure::failed(format!("{file}: {error}"), "write one with `larder init --json`");
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
    } else {
        text = std::fs::read_to_string(file).map_err(unreadable)?;
    }
    let found: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::usage(
            format!("{file} is not what `larder init --json` writes: {error}"),
            "run `larder init --json` again",
        )
    })?;
    let count = found.get("upstreams").and_then(Value::as_array).map_or(0, Vec::len);
    if count == 0 {
        return Err(Failure::failed(
            format!("{file} names no upstream"),
            "run `larder init --json` where the build runs",
        ));
    }
    let client = server.client()?;
    block_on(async {
        let _: Value = client.post("/api/v1/upstreams/import", &found).await?;
        out::line(&format!("{} adopted", out::count(count as u64, "upstream", "upstreams")));
        Ok(())
    })
}

/// Let a running server answer from the cache alone, or end that
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder offline on      never ask upstream
  larder offline off")]
pub(crate) struct OfflineArgs {
    state: OnOff,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum OnOff {
    On,
    Off,
}

/// *Errors*: the server's.
pub(crate) fn offline(args: &OfflineArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    block_on(async {
        let on = args.state == OnOff::On;
        let _: Value = client.post("/api/v1/offline", &json!({ "on": on })).await?;
        out::line(if on { "offline: answers come from the cache alone" } else { "online: upstream is asked again" });
        Ok(())
    })
}
