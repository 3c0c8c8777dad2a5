//! Interception, put together: what the configuration lists, and the authorities that it needs.

use std::path::Path;
use std::sync::Arc;

use super::{RunningParts, StartError, StartErrorKind};
use crate::config::Config;
use crate::protocol::api::TrustAnchors;
use crate::protocol::intercept::Pattern;
use crate::runtime::clock::Clock;
use crate::server::error::ServerError;
use crate::server::guise::Guises;

/// What is shown in their place. Makes an authority where one is missing for a host that is listed.
pub(super) fn guises(config: &Config, dir: &Path, clock: &Arc<dyn Clock>) -> Result<Arc<Guises>, StartError> {
    let guises = Guises::open(&dir.join("ca/intercept"), clock.clone()).map_err(not_intercepted)?;
    cover(&guises, &intercepted(config)?)?;
    Ok(Arc::new(guises))
}

/// The hosts whose TLS is ended here.
pub(super) fn intercepted(config: &Config) -> Result<Vec<Pattern>, StartError> {
    config.intercept.patterns().map_err(|why| {
        StartError::new(StartErrorKind::Config, format!("intercept.hosts: {why}"), "larder config show prints it")
    })
}

/// Sees to it that clients can be shown certificates for them.
pub(super) fn cover(guises: &Guises, intercepted: &[Pattern]) -> Result<(), StartError> {
    let hosts: Vec<String> = intercepted.iter().map(|pattern| pattern.host().to_owned()).collect();
    guises.authorities().cover(&hosts).map_err(not_intercepted)
}

fn not_intercepted(error: ServerError) -> StartError {
    let help = "its files are in ca/intercept below the data directory; or empty intercept.hosts";
    StartError::new(StartErrorKind::Config, format!("intercept: {error}"), help)
}

/// What clients of a running larder have to trust.
pub(super) fn trust_anchors(parts: &RunningParts) -> TrustAnchors {
    let config = parts.config.lock();
    let is_own = parts.certificates.is_some() && !config.server.tls.names.is_empty();
    // One that cannot be read is none that a client could be told to trust.
    let own = || std::fs::read_to_string(parts.dir.join("ca/ca.pem")).unwrap_or_default();
    let hosts = config.intercept.hosts.clone();
    let intercept = if hosts.is_empty() { String::new() } else { parts.guises.authorities().pem() };
    TrustAnchors { own: if is_own { own() } else { String::new() }, intercept, hosts }
}
