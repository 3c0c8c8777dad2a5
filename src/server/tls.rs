//! Who we are to TLS clients: a certificate that can be replaced while connections go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use super::ca::{Ca, LEAF_LIFE};
use super::error::ServerError;
use super::seal::provider;
use crate::model::time::Timestamp;
use crate::runtime::clock::Clock;

/// How often it is looked at whether our own certificate has to be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// The certificate in use, and where the next one comes from.
pub struct Certificates {
    current: ArcSwap<CertifiedKey>,
    source: Source,
}

enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Own { ca: Arc<Ca>, names: Vec<String>, renew_at: ArcSwap<Timestamp>, clock: Arc<dyn Clock> },
}

impl Certificates {
    /// *Errors*: `Invalid` when a file cannot be read or the two do not fit.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Certificates, ServerError> {
        let current = ArcSwap::from_pointee(load(certificate, key)?);
        Ok(Certificates { current, source: Source::Files { certificate: certificate.into(), key: key.into() } })
    }

    /// A certificate for `names` from our own authority. Keep it alive with `keep_renewed`.
    pub fn from_ca(ca: Arc<Ca>, names: Vec<String>, clock: Arc<dyn Clock>) -> Result<Certificates, ServerError> {
        let current = ArcSwap::from_pointee(issue(&ca, &names)?);
        let renew_at = ArcSwap::from_pointee(renewal_after(clock.now()));
        Ok(Certificates { current, source: Source::Own { ca, names, renew_at, clock } })
    }

    /// Reads the files again, or issues a new certificate. New handshakes use it; open connections go on.
    ///
    /// *Errors*: as for the constructors; the certificate in use stays.
    pub fn reload(&self) -> Result<(), ServerError> {
        let next = match &self.source {
            Source::Files { certificate, key } => load(certificate, key)?,
            Source::Own { ca, names, renew_at, clock } => {
                let next = issue(ca, names)?;
                renew_at.store(Arc::new(renewal_after(clock.now())));
                next
            }
        };
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Renews our own certificate in time, for ever. Returns at once for files: the operator reloads those.
    pub async fn keep_renewed(&self) {
        let Source::Own { .. } = &self.source else { return };
        loop {
            tokio::time::sleep(RENEWAL_CHECK).await;
            self.renew_if_due();
        }
    }

    fn renew_if_due(&self) {
        let Source::Own { renew_at, clock, .. } = &self.source else { return };
        if clock.now() >= **renew_at.load()
            && let Err(error) = self.reload()
        {
            tracing::error!(%error, "our own certificate could not be renewed");
        }
    }

    #[cfg(test)]
    pub(crate) fn current_chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().cert.clone()
    }

    pub(crate) fn acceptor(self: Arc<Certificates>) -> Result<TlsAcceptor, ServerError> {
        Ok(TlsAcceptor::from(Arc::new(base_config(self)?)))
    }
}

/// How handshakes are done, whoever we are.
pub(crate) fn base_config(certificates: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, ServerError> {
    let failed = |why: rustls::Error| ServerError::Tls { why: why.to_string() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets keep sessions at the client: resumption costs us no memory.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Certificates")
    }
}

fn renewal_after(now: Timestamp) -> Timestamp {
    now.plus(LEAF_LIFE / 2)
}

fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, ServerError> {
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |why: String| ServerError::Certificate { what, path, why }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
        .map_err(|why| failed("certificate", certificate)(why.to_string()))?;
    if chain.is_empty() {
        return Err(failed("certificate", certificate)("no certificate in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|why| failed("private key", key)(why.to_string()))?;
    certified(chain, private).map_err(|why| failed("private key", key)(why.to_string()))
}

fn issue(ca: &Ca, names: &[String]) -> Result<CertifiedKey, ServerError> {
    let leaf = ca.issue(names)?;
    certified(leaf.chain, leaf.key).map_err(|why| ServerError::Tls { why: why.to_string() })
}

pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let certified = CertifiedKey::from_der(chain, key, &provider())?;
    match certified.keys_match() {
        // Whether they match cannot always be told; then the handshake tells.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(why) => Err(why),
    }
}
