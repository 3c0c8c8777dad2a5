//! Certificates, put together: larder's own, and the authorities for hosts that it stands for.

use std::path::Path;
use std::sync::Arc;

use super::error::{StartError, StartErrorKind};
use super::parts::RunningParts;
use crate::config::Config;
use crate::protocol::api::TrustAnchors;
use crate::protocol::intercept::Pattern;
use crate::runtime::clock::{Clock, SystemClock};
use crate::server::error::ServerError;
use crate::server::guise::Guises;
use crate::server::tls::Certificates;
use crate::server::{authorities, ca, front};

/// Makes larder's own certificate authority in a data directory, if it is not there, and those for intercepted hosts.
///
/// *Errors*: no name is set for either; the directory cannot be written.
pub fn certificate_authority(dir: &Path, config: &Config) -> Result<(), StartError> {
    let clock = SystemClock::new();
    let names = &config.server.tls.names;
    if names.is_empty() && config.intercept.hosts.is_empty() && !ca::Ca::is_in(&dir.join(authorities::OWN)) {
        let message = "there is no name that an authority would vouch for";
        return Err(StartError::new(StartErrorKind::Config, message, "set server.tls.names, or intercept.hosts"));
    }
    if !names.is_empty() {
        authorities::own(&dir.join(authorities::OWN), names, clock.clone()).map_err(StartError::failed)?;
    }
    guises(config, dir, &(clock as Arc<dyn Clock>)).map(drop)
}

pub(super) fn certificates(
    config: &Config,
    dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<Certificates>>, StartError> {
    let wrong = |error: crate::server::error::ServerError| {
        let help =
            "server.tls.certificate and server.tls.key name PEM files; or set server.tls.names for larder's own CA";
        StartError::new(StartErrorKind::Config, format!("server.tls: {error}"), help)
    };
    if let Some(from_files) = front::certificates_from(&config.server).map_err(wrong)? {
        return Ok(Some(from_files));
    }
    let names = &config.server.tls.names;
    if names.is_empty() {
        return Ok(None);
    }
    let authority = authorities::own(&dir.join(authorities::OWN), names, clock.clone()).map(Arc::new).map_err(wrong)?;
    let issued = Certificates::from_ca(authority, names.clone(), clock.clone()).map_err(wrong)?;
    Ok(Some(Arc::new(issued)))
}

/// What is shown in their place. Makes an authority where one is missing for a host that is listed.
pub(super) fn guises(config: &Config, dir: &Path, clock: &Arc<dyn Clock>) -> Result<Arc<Guises>, StartError> {
    let guises = Guises::open(&dir.join(authorities::INTERCEPT), clock.clone()).map_err(not_intercepted)?;
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
    let own = || std::fs::read_to_string(parts.dir.join(authorities::OWN_CERTIFICATE)).unwrap_or_default();
    let hosts = config.intercept.hosts.clone();
    let intercept = if hosts.is_empty() { String::new() } else { parts.guises.authorities().pem() };
    TrustAnchors { own: if is_own { own() } else { String::new() }, intercept, hosts }
}
