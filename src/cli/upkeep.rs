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
///
/// The larder that serves does it: this machine's, or the one that --server or LARDER_SERVER names.
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
    wanted_bytes: u64,
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
        if let Some(more) = freed.wanted_bytes.checked_sub(freed.freed_bytes).filter(|more| *more > 0) {
            out::line(&format!(
                "{} more cannot go: a kept record of a build names it (index.keep_records), or it was promised to a client",
                rounded_bytes(more)
            ));
        }
        Ok(())
    })
}

/// Hash again all that is kept
///
/// The larder that serves does it meanwhile: this machine's, or the one that --server or LARDER_SERVER names.
/// A bad object is set aside, never served, and fetched anew when it is next asked for. Exit code 1 when
/// something was bad or could not be read.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder verify
  larder verify --json | tail -n 1")]
pub(crate) struct VerifyArgs {
    /// Print the server's lines as they come
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// One line of `POST /api/v1/verify`. Every field must be there: a line that is not understood is not "all good".
#[derive(Deserialize, Debug)]
struct Verified {
    done: u64,
    of: u64,
    /// What was found since the line before.
    bad: Vec<Bad>,
}

#[derive(Deserialize, Debug)]
struct Bad {
    digest: String,
    why: String,
    /// False: the disk did not give its bytes, and it stays where it is.
    set_aside: bool,
}

impl Bad {
    fn line(&self) -> String {
        let what = if self.set_aside { "bad, set aside" } else { "not readable" };
        format!("{what}: {} {}", out::plain(&self.digest), out::plain(&self.why))
    }
}

/// *Errors*: the server's, or something that was bad.
pub(crate) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    block_on(async {
        let mut progress = Progress::new("verifying");
        let (mut done, mut found) = (0, Vec::new());
        let each = |line: &str| {
            if args.json {
                out::line(line);
            }
            let said: Verified = serde_json::from_str(line).map_err(|error| {
                let what = format!("the server's account of what it verified is not understood: {error}");
                Failure::failed(what, "is it another version? larder doctor URL tells")
            })?;
            progress.at(said.done, said.of);
            // What is stored or evicted meanwhile moves `of`: the end is where the lines end.
            done = said.done;
            found.extend(said.bad);
            Ok(())
        };
        client.lines(Method::POST, "/api/v1/verify", Some(&json!({})), each).await?;
        progress.end();
        if !args.json {
            found.iter().for_each(|bad| out::line(&bad.line()));
        }
        let set_aside = found.iter().filter(|bad| bad.set_aside).count();
        verdict(done, set_aside as u64, (found.len() - set_aside) as u64).map(|line| {
            if !args.json {
                out::line(&line);
            }
        })
    })
}

fn verdict(done: u64, bad: u64, unreadable: u64) -> Result<String, Failure> {
    let objects = out::count(done, "object", "objects");
    match (bad, unreadable) {
        (0, 0) => Ok(format!("verified {objects}: all good")),
        (_, 0) => Err(Failure::failed(
            format!("{bad} of {objects} bad and set aside; fetched anew when next asked for"),
            "look at the disk, with smartctl and dmesg; what was set aside is in bad/ of the data directory",
        )),
        (_, _) => Err(Failure::failed(
            format!("{unreadable} of {objects} could not be read, {bad} bad and set aside"),
            "look at the disk, with smartctl and dmesg, and at the server's log",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_as_the_server_writes_it_is_understood() {
        use crate::cache::scrub;
        let bad = scrub::Bad { digest: "d1".into(), why: "its bytes do not match".into(), set_aside: true };
        let line = serde_json::to_string(&scrub::Progress { done: 1, of: 2, bytes: 3, bad: vec![bad] });
        let said: Verified = serde_json::from_str(&line.expect("written")).expect("understood");
        assert_eq!(said.bad[0].line(), "bad, set aside: d1 its bytes do not match");
        assert!(serde_json::from_str::<Verified>(r#"{"done": 1, "of": 1}"#).is_err());
    }

    #[test]
    fn what_is_bad_or_unreadable_fails() {
        assert_eq!(verdict(1, 0, 0).expect("good"), "verified 1 object: all good");
        assert_eq!(verdict(0, 0, 0).expect("good"), "verified 0 objects: all good");
        assert!(verdict(8, 2, 0).is_err_and(|failure| failure.message.starts_with("2 of 8 objects bad and set aside")));
        assert!(verdict(8, 0, 1).is_err_and(|failure| failure.message.starts_with("1 of 8 objects could not be read")));
    }
}
