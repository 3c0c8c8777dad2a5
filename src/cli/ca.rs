//! `larder ca`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::failure::Failure;
use super::keystore::{self, Der};
use super::out;
use super::trust;
use super::trust::offer::{Consent, offered};
use super::where_at::{ConfigArgs, block_on, make_dir};
use crate::app::certificates::certificate_authority;
use crate::server::authorities::{INTERCEPT, OWN_CERTIFICATE, certificate_files};

/// larder's own certificate authority, for TLS without certificate files
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder ca create
  larder ca print > /usr/local/share/ca-certificates/larder.crt && update-ca-certificates
  larder ca print --format jks > larder.jks
  curl --cacert \"$(larder ca path)\" https://HOST:7070/healthz")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the certificates, for clients to trust: for TLS with larder itself, and for hosts that it intercepts
    #[command(after_help = "\
Examples:
  larder ca print > larder.crt
  larder ca print --format pkcs12 > larder.p12
  larder ca print --server https://HOST:7070 > larder.crt")]
    Print {
        /// Form to print; DER holds one certificate, the first
        #[arg(long, value_enum, value_name = "FORM", default_value = "pem")]
        format: Format,
        /// Password of a JKS or PKCS #12 store
        #[arg(long, value_name = "PASSWORD", default_value = keystore::PASSWORD)]
        password: String,
        /// Server to ask; without it, the data directory of this machine
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Take them from a server although they come over plain HTTP
        #[arg(long)]
        trust_plain_http: bool,
        #[command(flatten)]
        at: ConfigArgs,
    },
    /// Print what tells each tool to trust them; `larder run` does it for one command
    #[command(after_help = "Examples:\n  larder ca tools")]
    Tools,
    /// Print the path of the certificate for TLS with larder itself
    #[command(after_help = "Examples:\n  SSL_CERT_FILE=\"$(larder ca path)\" command")]
    Path {
        #[command(flatten)]
        at: ConfigArgs,
    },
    /// Make the authority for server.tls.names, and those for hosts in [intercept]; what is there is kept
    #[command(after_help = "Examples:\n  larder ca create --data /srv/larder")]
    Create {
        #[command(flatten)]
        at: ConfigArgs,
    },
}

/// How certificates are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Pem,
    Der,
    /// For Java
    Jks,
    /// For Java, and what reads .p12 or .pfx
    Pkcs12,
}

/// *Errors*: there is no authority as yet, or its files cannot be used.
pub(crate) fn ca(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Print { format, password, server, trust_plain_http, at } => {
            let consent = if *trust_plain_http { Consent::Given } else { Consent::Missing };
            let certificates = match server {
                Some(server) => of_server(server, consent, at)?,
                None => of_here(at)?,
            };
            print(&certificates, *format, password)?;
        }
        Action::Tools => {
            let note = "\nFILE holds what the tool trusts already and what `larder ca print` prints: most of these replace, \
                        and do not add.\n";
            out::text_out(&out::table(&["SETTING", "READ BY"], &trust::table("FILE")));
            out::text_out(note);
        }
        Action::Path { at } => out::line(&existing(at)?.display().to_string()),
        Action::Create { at } => {
            let (config, dir) = at.here(None)?.settled()?;
            make_dir(&dir)?;
            certificate_authority(&dir, &config)?;
            let made = [OWN_CERTIFICATE, INTERCEPT].map(|made| dir.join(made));
            made.iter().filter(|made| made.exists()).for_each(|made| out::line(&made.display().to_string()));
        }
    }
    Ok(())
}

fn print(certificates: &[Der], format: Format, password: &str) -> Result<(), Failure> {
    match format {
        Format::Pem => out::text_out(&keystore::pem(certificates)),
        Format::Der => out::bytes_out(certificates.first().map_or(&[], Vec::as_slice)),
        Format::Jks => out::bytes_out(&keystore::jks(certificates, password)),
        Format::Pkcs12 => {
            let store = keystore::pkcs12(certificates, password);
            out::bytes_out(&store.map_err(|error| Failure::failed(error.to_string(), "print it as PEM or JKS"))?);
        }
    }
    Ok(())
}

/// All that is in the data directory.
fn of_here(at: &ConfigArgs) -> Result<Vec<Der>, Failure> {
    let dir = at.here(None)?.data_dir()?;
    let mut certificates = Vec::new();
    for file in certificate_files(&dir) {
        let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect);
        let read = read.map_err(|error| {
            let help = "run it as the user that owns the data directory";
            Failure::failed(format!("{}: {error}", file.display()), help)
        })?;
        certificates.extend(read.into_iter().map(|one| one.to_vec()));
    }
    if certificates.is_empty() {
        return Err(none(&dir.join(OWN_CERTIFICATE)));
    }
    Ok(certificates)
}

fn of_server(server: &str, consent: Consent, at: &ConfigArgs) -> Result<Vec<Der>, Failure> {
    let client = at.here(None)?.client(server)?;
    match block_on(offered(&client, consent))? {
        Some(offer) => Ok(offer.certificates()),
        None => Err(Failure::failed(
            format!("{} asks nobody to trust anything: it has no authority of its own in use", client.address()),
            "see [server.tls] names and [intercept] hosts there",
        )),
    }
}

fn existing(at: &ConfigArgs) -> Result<PathBuf, Failure> {
    let file = at.here(None)?.data_dir()?.join(OWN_CERTIFICATE);
    if file.is_file() {
        return Ok(file);
    }
    Err(none(&file))
}

fn none(file: &Path) -> Failure {
    Failure::failed(
        format!("there is no certificate authority in {}", file.display()),
        "set server.tls.names and make one: larder ca create",
    )
}
