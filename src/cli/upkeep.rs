//! `larder gc` and `larder verify`.

use crate::model::units::rounded_bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::Failure;
use super::out;
use super::progress::{Progress, waiting};
use super::where_at::{ServerArgs, block_on};
use crate::model::units;

/// Make room: evict what was used least
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder gc                      down to the budget
  larder gc --max-bytes 10GiB    down to 10 GiB, this once
  larder gc --dry-run --json     tell what would go")]
pub(crate) struct GcArgs {
    /// Keep at most this much, this once
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    max_bytes: Option<u64>,
    /// Tell what would go; evict nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Freed {
    freed_bytes: u64,
    freed_objects: u64,
    /// Kept afterwards.
    bytes: u64,
}

/// *Errors*: the server's.
pub(crate) fn gc(args: &GcArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    block_on(async {
        let ask = json!({ "max_bytes": args.max_bytes, "dry_run": args.dry_run });
        let said: Value = waiting("evicting", client.post("/api/v1/gc", &ask)).await?;
        if args.json {
            out::line(&said.to_string());
            return Ok(());
        }
        let freed: Freed = serde_json::from_value(said).unwrap_or_default();
        let (verb, kept) = if args.dry_run { ("would free", "would be kept") } else { ("freed", "kept") };
        out::line(&format!(
            "{verb} {} of {}; {} {kept}",
            rounded_bytes(freed.freed_bytes),
            out::count(freed.freed_objects, "object", "objects"),
            rounded_bytes(freed.bytes)
        ));
        Ok(())
    })
}

/// Hash again all that is kept
///
/// A bad object is set aside, never served, and fetched anew when it is next asked for; with --repair
/// it is fetched at once. Exit code 1 when something bad was found and not repaired.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder verify
  larder verify --repair
  larder verify --json | tail -n 1")]
pub(crate) struct VerifyArgs {
    /// Fetch what is bad anew
    #[arg(long)]
    repair: bool,
    /// Print the server's lines as they come
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// One line of `POST /api/v1/verify`. `bad` holds what was found since the line before.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Verified {
    done: u64,
    of: u64,
    bad: Vec<Bad>,
    /// The server gave up, and why.
    error: Option<String>,
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Bad {
    Digest(String),
    Told {
        digest: String,
        #[serde(default)]
        why: String,
        #[serde(default)]
        repaired: bool,
    },
}

impl Bad {
    fn repaired(&self) -> bool {
        matches!(self, Bad::Told { repaired: true, .. })
    }

    fn line(&self) -> String {
        match self {
            Bad::Digest(digest) => format!("bad: {}", out::plain(digest)),
            Bad::Told { digest, why, repaired } => {
                let end = if *repaired { ", repaired" } else { "" };
                format!("bad: {} {}{end}", out::plain(digest), out::plain(why))
            }
        }
    }
}

/// *Errors*: the server's, or something bad that stays bad.
pub(crate) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    block_on(async {
        let mut progress = Progress::new("verifying");
        let (mut last, mut bad) = (Verified::default(), Vec::new());
        let ask = json!({ "repair": args.repair });
        let each = |line: &str| {
            if args.json {
                out::line(line);
            }
            let Ok(said) = serde_json::from_str::<Verified>(line) else { return Ok(()) };
            if let Some(error) = &said.error {
                return Err(Failure::failed(out::plain(error), "see the server's log"));
            }
            progress.at(said.done, said.of);
            last = Verified { bad: Vec::new(), ..said };
            bad.extend(said.bad);
            Ok(())
        };
        client.lines(Method::POST, "/api/v1/verify", Some(&ask), each).await?;
        progress.end();
        if !args.json {
            bad.iter().for_each(|bad| out::line(&bad.line()));
            let found = if bad.is_empty() { "all good".to_owned() } else { format!("{} bad", bad.len()) };
            out::line(&format!("verified {} of {}: {found}", last.done, out::count(last.of, "object", "objects")));
        }
        if last.done < last.of {
            return Err(Failure::failed("the server stopped before the end", "run `larder verify` again"));
        }
        match bad.iter().filter(|bad| !bad.repaired()).count() {
            0 => Ok(()),
            count => Err(Failure::failed(
                format!("{} bad and not repaired", out::count(count as u64, "object is", "objects are")),
                "run `larder verify --repair`, and look at the disk: smartctl, dmesg",
            )),
        }
    })
}
