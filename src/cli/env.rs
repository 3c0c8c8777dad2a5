//! `larder env`.

use url::Url;

use super::failure::Failure;
use super::out;
use super::point::{self, Target};
use super::stats::encoded;
use super::tools::{self, render};
use super::where_at::{Health, ServerArgs, block_on};
use crate::protocol::credential::label_of;

/// Print what points a build's tools at a server
///
/// What this machine's tools use is read first, so that each keeps its own upstreams, and named in the
/// addresses. Without TOOL, all tools and the proxy variables.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  eval \"$(larder env)\"
  larder env --server http://cache:7070 --format github
  larder env --format dockerfile cargo go
  larder env --label build-42 proxy")]
pub(crate) struct Args {
    /// Form to print
    #[arg(long, value_enum, value_name = "FORM", default_value = "sh")]
    format: render::Form,
    /// Build label that the requests count for
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Ecosystems such as cargo or go, and `proxy` for the proxy variables
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
    let known = names();
    if let Some(unknown) = args.tools.iter().find(|tool| !known.contains(&tool.as_str())) {
        return Err(Failure::usage(format!("{unknown:?} is no tool"), format!("there is: {}", known.join(", "))));
    }
    let wanted = |name: &str| args.tools.is_empty() || args.tools.iter().any(|tool| tool == name);
    let health = block_on(async {
        let asked = client.get::<Health>("/api/v1/health");
        // The settings are right without an answer too; only a label in the path needs one.
        Ok(tokio::time::timeout(std::time::Duration::from_secs(2), asked).await.ok().and_then(Result::ok))
    })?;
    let found: Vec<_> = point::found_here().into_iter().filter(|found| wanted(found.ecosystem)).collect();
    point::note_secrets(&found);
    let target = Target {
        server: client.base.clone(),
        labelled: tools_url(&client.base, label, health.as_ref()),
        label: credential(label, here.token()),
        overlays: here.data_dir()?.join("overlays"),
    };
    let mut settings = point::settings(target, &found);
    if !wanted("proxy") {
        settings.env.retain(|(name, _)| !name.to_ascii_lowercase().ends_with("_proxy"));
    }
    out::text_out(&render::render(&settings, args.format));
    Ok(())
}

pub(crate) fn wrong_label(label: &str) -> Failure {
    Failure::usage(format!("{label:?} cannot be a build label"), "use up to 64 letters, digits and -_.:/+@#=")
}

/// The address that tools are given: with the label in its path where the server understands that.
pub(crate) fn tools_url(base: &Url, label: Option<&str>, health: Option<&Health>) -> Url {
    let prefix = health.and_then(|health| health.build_prefix.as_deref());
    let mut url = base.clone();
    if let (Some(label), Some(prefix)) = (label, prefix) {
        let path = format!("{}/{}/{}", base.path().trim_end_matches('/'), prefix.trim_matches('/'), encoded(label));
        url.set_path(&path);
    }
    url
}

/// What proxies are shown. None: nothing to tell.
pub(crate) fn credential(label: Option<&str>, token: Option<&str>) -> Option<(String, String)> {
    match (label, token) {
        (None, None) => None,
        (label, token) => Some((label.unwrap_or("larder").to_owned(), token.unwrap_or_default().to_owned())),
    }
}

fn names() -> Vec<&'static str> {
    tools::TOOLS.iter().map(|tool| tool.ecosystem.unwrap_or("proxy")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_stands_in_the_path_where_the_server_takes_it() {
        let base = Url::parse("http://cache.example:7070/").expect("an address");
        let able = Health { build_prefix: Some("/b/".into()), ..Health::default() };
        let unable = Health::default();
        let url = |label, health| tools_url(&base, label, health).to_string();
        assert_eq!(url(Some("pr/42"), Some(&able)), "http://cache.example:7070/b/pr%2F42");
        assert_eq!(url(Some("pr/42"), Some(&unable)), "http://cache.example:7070/");
        assert_eq!(url(None, Some(&able)), "http://cache.example:7070/");
    }
}
