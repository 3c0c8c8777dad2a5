//! TLS to upstreams: the system's trust store and the operator's own certificates. A certificate that does not fit is
//! never overlooked; there is no switch for it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::fetch::UpstreamError;
use super::origin::Target;
use super::settings::{Settings, SettingsError};
use super::wire::Tunnel;

pub(crate) struct Tls {
    /// Offers HTTP/2 and HTTP/1.1.
    web: TlsConnector,
    /// Offers HTTP/1.1 alone: for proxies.
    proxy: TlsConnector,
}

/// Which protocols the handshake offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offer {
    Web,
    Proxy,
}

impl Tls {
    pub(crate) fn new(settings: &Settings) -> Result<Tls, SettingsError> {
        let roots = Arc::new(roots(settings)?);
        let web: &[&[u8]] = if settings.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        Ok(Tls { web: connector(roots.clone(), web)?, proxy: connector(roots, &[b"http/1.1"])? })
    }

    /// Shakes hands over `io`. True when the peer chose HTTP/2.
    pub(crate) async fn handshake(
        &self,
        offer: Offer,
        target: &Target,
        io: Tunnel,
    ) -> Result<(TlsStream<Tunnel>, bool), UpstreamError> {
        let host = target.host.to_string();
        let name = target.name();
        let name = ServerName::try_from(name.strip_suffix('.').unwrap_or(&name).to_owned())
            .map_err(|_| UpstreamError::Refused { host: host.clone(), why: "no certificate can name it".into() })?;
        let connector = match offer {
            Offer::Web => &self.web,
            Offer::Proxy => &self.proxy,
        };
        let stream = connector.connect(name, io).await.map_err(|error| failure(host, &error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, http2))
    }
}

fn failure(host: String, error: &io::Error) -> UpstreamError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(why)) => {
            UpstreamError::Untrusted { host, why: format!("its certificate: {why}") }
        }
        Some(why) => UpstreamError::Unreachable { host, why: format!("TLS: {why}") },
        None => UpstreamError::Unreachable { host, why: format!("TLS: {error}") },
    }
}

fn connector(roots: Arc<RootCertStore>, protocols: &[&[u8]]) -> Result<TlsConnector, SettingsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::Tls { why: error.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(settings: &Settings) -> Result<RootCertStore, SettingsError> {
    let mut roots = RootCertStore::empty();
    if settings.system_roots {
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(%error, "certificates of the system could not be read");
        }
        // Stores hold certificates that are no authorities: those are passed over.
        roots.add_parsable_certificates(native.certs);
    }
    if let Some(path) = &settings.ca_file {
        add_file(&mut roots, path).map_err(|why| SettingsError::Certificates { path: path.clone(), why })?;
    }
    if roots.is_empty() {
        tracing::warn!("no certificate authority is trusted: https upstreams cannot be reached");
    }
    Ok(roots)
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        count += 1;
    }
    if count == 0 { Err("no certificate in it".to_owned()) } else { Ok(()) }
}
