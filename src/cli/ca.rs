//! `larder ca`.

use std::path::PathBuf;

use clap::Subcommand;

use super::failure::Failure;
use super::out;
use super::where_at::{ConfigArgs, make_dir};
use crate::app;

/// Where the authority's certificate stands in the data directory.
pub(crate) const CERTIFICATE: &str = "ca/ca.pem";

/// larder's own certificate authority, for TLS without certificate files
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder ca create
  larder ca print > /usr/local/share/ca-certificates/larder.crt && update-ca-certificates
  curl --cacert \"$(larder ca path)\" https://HOST:7070/healthz")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the certificate, for clients to trust
    #[command(after_help = "Examples:\n  larder ca print > larder.crt")]
    Print {
        #[command(flatten)]
        at: ConfigArgs,
    },
    /// Print the path of the certificate
    #[command(after_help = "Examples:\n  SSL_CERT_FILE=\"$(larder ca path)\" command")]
    Path {
        #[command(flatten)]
        at: ConfigArgs,
    },
    /// Make the authority; one that is there is kept
    #[command(after_help = "Examples:\n  larder ca create --data /srv/larder")]
    Create {
        #[command(flatten)]
        at: ConfigArgs,
    },
}

/// *Errors*: there is no authority as yet, or its files cannot be used.
pub(crate) fn ca(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Print { at } => {
            let file = existing(at)?;
            let pem = std::fs::read_to_string(&file).map_err(|error| {
                Failure::failed(
                    format!("{}: {error}", file.display()),
                    "run it as the user that owns the data directory",
                )
            })?;
            out::text_out(&pem);
        }
        Action::Path { at } => out::line(&existing(at)?.display().to_string()),
        Action::Create { at } => {
            let (config, dir) = at.here(None)?.settled()?;
            make_dir(&dir)?;
            app::certificate_authority(&dir, &config)?;
            out::line(&dir.join(CERTIFICATE).display().to_string());
        }
    }
    Ok(())
}

fn existing(at: &ConfigArgs) -> Result<PathBuf, Failure> {
    let file = at.here(None)?.data_dir()?.join(CERTIFICATE);
    if file.is_file() {
        return Ok(file);
    }
    Err(Failure::failed(
        format!("there is no certificate authority in {}", file.display()),
        "make one: larder ca create",
    ))
}
