//! `larder env`.

use std::time::Duration;

use super::containers::print::{Builder, print};
use super::failure::Failure;
use super::out;
use super::point::{self, Target, credential, tools_url, wrong_label};
use super::tools::{self, render};
use super::where_at::{ServerArgs, block_on, is_alive};
use crate::protocol::label::label_of;

/// How long a server may be silent with `--if-up`.
const IF_UP: Duration = Duration::from_millis(300);

/// Print what points a build's tools at a server
///
/// What this machine's tools use is read first, so that each keeps its own upstreams, and named in the
/// addresses. Without TOOL, all tools and the proxy variables. What is pasted where is in docs/use/.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  eval \"$(larder env)\"
  eval \"$(larder env --if-up --server http://cache:7070)\"
  larder env --server http://cache:7070 --format github
  larder env --format dockerfile cargo go
  larder env --unnamed --server http://cache:7070 --format make > larder.mk
  larder env --label build-42 proxy
  docker build $(larder env docker) .                          so too: buildah bud $(larder env buildah) .
  larder env gitlab                                            the same in a job's before_script")]
pub(crate) struct Args {
    /// Form to print
    #[arg(long, value_enum, value_name = "FORM", default_value = "sh")]
    format: render::Format,
    /// Print nothing when the server does not answer within 300 ms
    #[arg(long)]
    if_up: bool,
    /// Name no upstreams in the addresses: the server's own are used, whatever this machine's tools use
    #[arg(long)]
    unnamed: bool,
    /// Build label that the requests count for
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Tools such as cargo, go or apt, and `proxy` for the proxy variables; or one of docker, buildkit, buildah and
    /// gitlab, for the options of a build in containers
    #[arg(value_name = "TOOL")]
    tools: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// *Errors*: a tool or label that is not one, a configuration that cannot be used.
pub(crate) fn env(args: &Args) -> Result<(), Failure> {
    let here = args.server.at.here(None)?;
    let client = args.server.client()?;
    let label = args.label.as_deref().or_else(|| here.variables.get("LARDER_LABEL"));
    if let Some(label) = label.filter(|label| label_of(label).is_none()) {
        return Err(wrong_label(label));
    }
    if args.if_up {
        let asked = async { Ok(tokio::time::timeout(IF_UP, is_alive(&client)).await.unwrap_or(false)) };
        if !block_on(asked)? {
            out::note(&format!("no larder answers at {}: nothing is pointed at it", client.address()));
            return Ok(());
        }
    }
    if let Some(builder) = Builder::of(&args.tools) {
        return print(builder, &here, &client, label);
    }
    let known = names();
    if let Some(unknown) = args.tools.iter().find(|tool| !known.contains(&tool.as_str())) {
        return Err(Failure::usage(format!("{unknown:?} is no tool"), format!("there is: {}", known.join(", "))));
    }
    let found = if args.unnamed { point::unnamed(&client.base) } else { point::known_here(&here.data_dir()?) };
    point::note_secrets(&found);
    let target = Target {
        server: client.base.clone(),
        labelled: tools_url(&client.base, label),
        label: credential(label, here.token()),
        overlays: here.data_dir()?.join("overlays"),
    };
    // The token goes by way of the proxy variables where tools can show it nowhere else.
    let carries_token = here.token().is_some() && client.base.scheme() == "http";
    let named = |word: &str| args.tools.iter().any(|tool| tool == word);
    let wanted =
        |word: &str| args.tools.is_empty() || named(word) || word == "proxy" && (carries_token || by_proxy(&named));
    let settings = point::printed(target, &found, &wanted);
    settings.notes.iter().for_each(|note| out::note(note));
    out::text_out(&render::render(&settings, args.format));
    Ok(())
}

fn names() -> Vec<&'static str> {
    tools::TOOLS.iter().filter(|tool| tool.is_mounted()).map(|tool| tool.word).collect()
}

/// Whether one that is named reads the proxy variables and nothing else.
fn by_proxy(named: &dyn Fn(&str) -> bool) -> bool {
    tools::TOOLS.iter().any(|tool| tool.needs_variables() && named(tool.word))
}
