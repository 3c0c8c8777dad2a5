//! `larder explain`.

use serde_json::Value;

use super::client::ClientError;
use super::failure::Failure;
use super::out;
use super::stats::encoded;
use super::where_at::{ServerArgs, block_on};

/// Tell why an address is cached or not: key, class, freshness arithmetic, where the bytes are
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder explain https://HOST/PATH                  as a tool asks a proxy for it
  larder explain /go/rsc.io/quote/@v/list           as a tool asks larder for it
  larder explain --json https://HOST/PATH")]
pub(crate) struct Args {
    /// The address, as a tool asks for it
    url: String,
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// *Errors*: the server's.
pub(crate) fn explain(args: &Args) -> Result<(), Failure> {
    let client = args.server.client()?;
    block_on(async {
        let path = format!("/api/v1/explain?url={}", encoded(&args.url));
        let said: Value = client.get(&path).await.map_err(|error| match error {
            ClientError::Status { status: 400, why, .. } => Failure::usage(
                why,
                "write what a tool asks: https://HOST/PATH, or a path below a mount such as /go/ or /cargo/",
            ),
            error => Failure::from(error),
        })?;
        if args.json {
            out::line(&said.to_string());
        } else {
            out::text_out(&out::fields(&said));
        }
        Ok(())
    })
}
