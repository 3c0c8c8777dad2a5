//! Certificates in the forms that clients keep them in: PEM, JKS and PKCS #12 (RFC 7292).
//!
//! JKS is written and read here, for trusted certificates alone: the format is not specified, but Java's source
//! (`sun.security.provider.JavaKeyStore`) is what it is. Java 8 and later read it without being told, and its
//! certificates without a password. PKCS #12 is the work of a library.
//!
//! Tried with keytool and java 17, and openssl 3.

use base64::Engine;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use sha1::{Digest, Sha1};

/// What Java's own stores are locked with. Certificates are no secret: a password is there because the formats have one.
pub(crate) const PASSWORD: &str = "changeit";

const JKS_MAGIC: u32 = 0xfeed_feed;
const JKS_VERSION: u32 = 2;
const JKS_TRUSTED: u32 = 2;
/// Mixed into the sum at the end of a JKS.
const WHITENER: &[u8] = b"Mighty Aphrodite";
/// The sum at the end of a JKS.
const SUM_BYTES: usize = 20;
/// Certificates that are taken from a store, at most.
const READ_MAX: u32 = 10_000;

/// A certificate by its DER bytes.
pub(crate) type Der = Vec<u8>;

/// Why a store cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("pkcs #12: {0}")]
    Pkcs12(#[from] p12_keystore::error::Error),
    #[error("jks: {0}")]
    Jks(&'static str),
}

/// PEM blocks, one after the other (RFC 7468).
pub(crate) fn pem(certificates: &[Der]) -> String {
    let mut out = String::new();
    for der in certificates {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

/// A store that Java trusts every certificate of.
pub(crate) fn pkcs12(certificates: &[Der], password: &str) -> Result<Vec<u8>, StoreError> {
    let mut store = KeyStore::new();
    for (at, der) in certificates.iter().enumerate() {
        store.add_entry(&alias(at), KeyStoreEntry::Certificate(Certificate::from_der(der)?));
    }
    Ok(store.writer(password).write()?)
}

/// A store that Java trusts every certificate of.
pub(crate) fn jks(certificates: &[Der], password: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [JKS_MAGIC, JKS_VERSION, u32::try_from(certificates.len()).unwrap_or(u32::MAX)] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    for (at, der) in certificates.iter().enumerate() {
        out.extend_from_slice(&JKS_TRUSTED.to_be_bytes());
        text(&mut out, &alias(at));
        // When it was put in: no matter, and the same certificates make the same file.
        out.extend_from_slice(&0_u64.to_be_bytes());
        text(&mut out, "X.509");
        out.extend_from_slice(&u32::try_from(der.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(der);
    }
    let sum = jks_sum(&out, password);
    out.extend_from_slice(&sum);
    out
}

/// The certificates that a Java store trusts: JKS, or PKCS #12 that is locked with `password`.
pub(crate) fn trusted(store: &[u8], password: &str) -> Result<Vec<Der>, StoreError> {
    if store.starts_with(&JKS_MAGIC.to_be_bytes()) {
        return read_jks(store);
    }
    let store = KeyStore::from_pkcs12(store, password, Pkcs12ImportPolicy::Relaxed)?;
    let certificates = store.entries().filter_map(|(_, entry)| match entry {
        KeyStoreEntry::Certificate(certificate) => Some(certificate.as_der().to_vec()),
        KeyStoreEntry::PrivateKeyChain(_) | KeyStoreEntry::Secret(_) => None,
    });
    Ok(certificates.collect())
}

fn read_jks(store: &[u8]) -> Result<Vec<Der>, StoreError> {
    let mut rest = Rest(store.get(..store.len().saturating_sub(SUM_BYTES)).unwrap_or_default());
    rest.number()?;
    if rest.number()? != JKS_VERSION {
        return Err(StoreError::Jks("a version that is not known"));
    }
    let entries = rest.number()?;
    let mut certificates = Vec::new();
    for _ in 0..entries.min(READ_MAX) {
        if rest.number()? != JKS_TRUSTED {
            return Err(StoreError::Jks("it holds a private key; name a store of trusted certificates alone"));
        }
        rest.text()?;
        rest.take(8)?;
        rest.text()?;
        let len = rest.number()?;
        certificates.push(rest.take(len as usize)?.to_vec());
    }
    Ok(certificates)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(StoreError::Jks("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, StoreError> {
        let bytes = self.take(4)?.try_into().map_err(|_| StoreError::Jks("it is cut short"))?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Result<(), StoreError> {
        let len = self.take(2)?.try_into().map(u16::from_be_bytes);
        let len = len.map_err(|_| StoreError::Jks("it is cut short"))?;
        self.take(usize::from(len)).map(drop)
    }
}

fn alias(at: usize) -> String {
    format!("larder-{at}")
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn jks_sum(bytes: &[u8], password: &str) -> [u8; SUM_BYTES] {
    let mut sum = Sha1::new();
    for unit in password.encode_utf16() {
        sum.update(unit.to_be_bytes());
    }
    sum.update(WHITENER);
    sum.update(bytes);
    sum.finalize().into()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    fn two() -> Vec<Der> {
        let make = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.self_signed(&key).expect("a certificate").der().to_vec()
        };
        vec![make("a.example"), make("b.example")]
    }

    fn sorted(mut all: Vec<Der>) -> Vec<Der> {
        all.sort();
        all
    }

    #[test]
    fn what_is_written_is_read_back() {
        let two = two();
        assert_eq!(trusted(&jks(&two, PASSWORD), PASSWORD).expect("a store"), two);
        let store = pkcs12(&two, PASSWORD).expect("a store");
        assert_eq!(sorted(trusted(&store, PASSWORD).expect("a store")), sorted(two.clone()));
        assert!(trusted(&store, "other").is_err());
        let text = pem(&two);
        let read: Vec<Der> =
            CertificateDer::pem_slice_iter(text.as_bytes()).map(|one| one.expect("PEM").to_vec()).collect();
        assert_eq!(read, two);
    }

    #[test]
    fn a_store_that_is_cut_or_strange_is_an_error_and_no_panic() {
        let store = jks(&two(), PASSWORD);
        for end in 0..store.len() - SUM_BYTES {
            assert!(trusted(&store[..end], PASSWORD).is_err() || end < 4 + SUM_BYTES, "{end}");
        }
        let mut key = store;
        key[15] = 1;
        assert!(trusted(&key, PASSWORD).is_err());
    }
}
