//! `larder token`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::out;
use super::where_at::{ConfigArgs, Here, make_dir};
use crate::model::{hex, units};
use crate::protocol::gate::TOKEN_FILE;
use crate::protocol::label::label_of;
use crate::protocol::token::{Keyed, Line, Right, Token, TokenFile, datetime};
use crate::runtime::clock::{SystemClock, random_bytes};

/// Create, list and revoke tokens
///
/// A token works as Bearer, as the password of Basic (whose user name is then the build's label), as a
/// proxy's credential and in gRPC metadata. A running larder sees changes within a second.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder token create ci --right write --expires 90d
  larder token create --file tokens.toml ci        for a file that every node has
  larder token list
  larder token revoke ci")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Args)]
struct Where {
    /// Token file; without it gate.token_file, else the node's own in the data directory
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    at: ConfigArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token and print it, this once
    #[command(after_help = "\
Examples:
  larder token create ci --right write
  LARDER_TOKEN=$(larder token create laptop --expires 30d)
  larder token create release --right write --scope release --json")]
    Create {
        /// What to call it; without it, a random name
        name: Option<String>,
        /// read, write or admin; each includes those before it
        #[arg(long, value_name = "RIGHT", default_value = "read")]
        right: Right,
        /// Build label of callers that give none
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
        /// When it ends, from now; without it, never
        #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
        expires: Option<Duration>,
        /// Scope that it reads and writes; without it, the shared one
        #[arg(long, value_name = "NAME")]
        scope: Option<String>,
        /// Print name, token, right and end as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Where,
    },
    /// List tokens, never their text
    #[command(after_help = "Examples:\n  larder token list --json")]
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Where,
    },
    /// Take a token back
    #[command(after_help = "Examples:\n  larder token revoke ci")]
    Revoke {
        /// What it is called
        name: String,
        #[command(flatten)]
        at: Where,
    },
}

/// What `token create` was asked for.
struct Wanted<'a> {
    name: Option<&'a str>,
    right: Right,
    label: Option<&'a str>,
    expires: Option<Duration>,
    scope: Option<&'a str>,
}

/// *Errors*: the file's, or a name that is wrong.
pub(crate) fn token(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Create { name, right, label, expires, scope, json, at } => {
            let wanted = Wanted {
                name: name.as_deref(),
                right: *right,
                label: label.as_deref(),
                expires: *expires,
                scope: scope.as_deref(),
            };
            create(&wanted, *json, at)
        }
        Action::List { json, at } => list(*json, at),
        Action::Revoke { name, at } => revoke(name, at),
    }
}

impl Where {
    fn open(&self, here: &Here) -> Result<TokenFile, Failure> {
        if let Some(file) = self.file.as_ref().or(here.loaded.config.gate.token_file.as_ref()) {
            return Ok(TokenFile::read_or_new(file, Keyed::ByItself)?);
        }
        let dir = here.data_dir()?;
        make_dir(&dir)?;
        Ok(TokenFile::read_or_new(&dir.join(TOKEN_FILE), Keyed::ByNeighbour)?)
    }
}

fn create(wanted: &Wanted<'_>, json: bool, at: &Where) -> Result<(), Failure> {
    for word in [wanted.name, wanted.label, wanted.scope].into_iter().flatten() {
        if label_of(word).is_none() {
            let help = "use up to 64 letters, digits and -_.:/+@#=";
            return Err(Failure::usage(format!("{word:?} cannot be a name, label or scope"), help));
        }
    }
    let here = at.at.here(None)?;
    let mut file = at.open(&here)?;
    let name = wanted.name.map_or_else(|| format!("token-{}", hex::encode(&random_bytes::<4>())), str::to_owned);
    if file.lines.iter().any(|line| line.name == name) {
        let help = format!("take another name, or first `larder token revoke {name}`");
        return Err(Failure::failed(format!("there is a token {name:?} already"), help));
    }
    let token = Token::generate();
    let expires = wanted.expires.map(|after| datetime(SystemClock::new().now().plus(after)));
    file.lines.push(Line {
        name: name.clone(),
        hash: hex::encode(&token.hash(&file.salt)),
        rights: vec![wanted.right],
        expires,
        label: wanted.label.map(str::to_owned),
        scope: wanted.scope.map(str::to_owned),
    });
    file.write()?;
    let ends = expires.map(|at| at.to_string());
    if json {
        let told = json!({ "name": name, "token": token.reveal(), "right": wanted.right, "expires": ends });
        out::line(&told.to_string());
    } else {
        let until = ends.map_or_else(|| "without end".to_owned(), |ends| format!("until {ends}"));
        let file = file.path.display();
        out::note(&format!("token {name}, right {}, {until}; its hash is in {file}", wanted.right.name()));
        out::note("it is shown this once:");
        out::line(&token.reveal());
    }
    Ok(())
}

fn list(json: bool, at: &Where) -> Result<(), Failure> {
    let file = at.open(&at.at.here(None)?)?;
    let ends = |line: &Line| line.expires.map(|at| at.to_string());
    if json {
        let told = file.lines.iter().map(|line| {
            json!({ "name": line.name, "right": line.right(), "expires": ends(line), "label": line.label,
                    "scope": line.scope })
        });
        out::line(&serde_json::Value::Array(told.collect()).to_string());
        return Ok(());
    }
    if file.lines.is_empty() {
        out::line("no tokens; make one: larder token create NAME --right write");
        return Ok(());
    }
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = file
        .lines
        .iter()
        .map(|line| {
            let right = line.right().map_or("-", Right::name).to_owned();
            vec![
                line.name.clone(),
                right,
                or_dash(ends(line)),
                or_dash(line.label.clone()),
                or_dash(line.scope.clone()),
            ]
        })
        .collect();
    out::text_out(&out::table(&["name", "right", "expires", "label", "scope"], &rows));
    Ok(())
}

fn revoke(name: &str, at: &Where) -> Result<(), Failure> {
    let mut file = at.open(&at.at.here(None)?)?;
    let before = file.lines.len();
    file.lines.retain(|line| line.name != name);
    if file.lines.len() == before {
        let help = "see `larder token list` for the names";
        return Err(Failure::failed(format!("there is no token {name:?} in {}", file.path.display()), help));
    }
    file.write()?;
    out::line(&format!("token {name} is revoked"));
    Ok(())
}
