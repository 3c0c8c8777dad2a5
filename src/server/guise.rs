//! Certificates in which larder stands for other hosts: minted when a host is first asked for, kept for the next
//! handshake, renewed before they end. Bounded.

use std::path::Path;
use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio_rustls::rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, ServerConfig};

use super::authorities::Authorities;
use super::ca::{LEAF_LIFE, Leaf};
use super::error::ServerError;
use super::tls::{base_config, certified};
use crate::model::time::Timestamp;
use crate::runtime::clock::Clock;

/// Hosts whose certificates are kept.
const KEPT: usize = 1000;

/// What larder shows in the place of other hosts.
pub struct Guises {
    authorities: Authorities,
    kept: Cache<Box<str>, Arc<Guise>>,
    base: ServerConfig,
    clock: Arc<dyn Clock>,
}

struct Guise {
    config: Arc<ServerConfig>,
    renew_at: Timestamp,
}

impl Guises {
    /// *Errors*: as `Authorities::open`.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Guises, ServerError> {
        let authorities = Authorities::open(dir, clock.clone())?;
        let mut base = base_config(Arc::new(Nobody))?;
        base.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Guises { authorities, kept: Cache::new(KEPT), base, clock })
    }

    /// Where the certificates come from.
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// How to shake hands as `host`.
    ///
    /// *Errors*: `Internal`; no authority may vouch for it.
    pub(crate) fn config(&self, host: &str) -> Result<Arc<ServerConfig>, ServerError> {
        let now = self.clock.now();
        if let Some(known) = self.kept.get(host).filter(|known| now < known.renew_at) {
            return Ok(known.config.clone());
        }
        let leaf = self.authorities.issue(host).unwrap_or_else(|| {
            Err(ServerError::Issue { names: host.to_owned(), why: "no authority may vouch for it".to_owned() })
        })?;
        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(shown(leaf)?));
        let config = Arc::new(config);
        let guise = Guise { config: config.clone(), renew_at: now.plus(LEAF_LIFE / 2) };
        self.kept.insert(host.into(), Arc::new(guise));
        Ok(config)
    }
}

fn shown(leaf: Leaf) -> Result<CertifiedKey, ServerError> {
    certified(leaf.chain, leaf.key).map_err(|why| ServerError::Tls { why: why.to_string() })
}

/// Stands in a configuration that is never used as it is.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::{ManualClock, SystemClock};

    #[test]
    fn ten_thousand_names_keep_a_thousand_certificates() {
        let dir = tempfile::tempdir().expect("a directory");
        let guises = Guises::open(dir.path(), SystemClock::new()).expect("opens");
        guises.authorities().cover(&["names.example".to_owned()]).expect("makes one");
        for at in 0..10_000 {
            guises.config(&format!("{at}.names.example")).expect("issues");
        }
        assert!(guises.kept.len() <= KEPT, "{}", guises.kept.len());
        assert!(guises.config("elsewhere.example").is_err(), "nobody may vouch for it");
    }

    #[test]
    fn a_certificate_is_kept_and_renewed_at_half_its_life() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::at(SystemClock::new().now());
        let guises = Guises::open(dir.path(), clock.clone()).expect("opens");
        guises.authorities().cover(&["a.example".to_owned()]).expect("makes one");
        let first = guises.config("a.example").expect("issues");
        assert!(Arc::ptr_eq(&first, &guises.config("a.example").expect("is kept")));
        clock.advance(LEAF_LIFE / 2);
        assert!(!Arc::ptr_eq(&first, &guises.config("a.example").expect("issues")));
    }
}
