//! larder's own certificate authority, for build containers that are told to trust it: made once, kept in the data
//! directory, used for short-lived certificates of the names that clients reach us by.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SerialNumber, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

use super::error::ServerError;
use crate::model::hex;
use crate::model::time::Timestamp;
use crate::runtime::aside::{Mode, replace_durably};
use crate::runtime::clock::{Clock, random_bytes};

/// How long the authority is valid.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Before an authority ends, so long must clients have to take another.
pub(crate) const CA_SPARE: Duration = Duration::from_secs(365 * 86_400);

/// How long what it issues is valid.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Clocks of clients may be behind ours.
const BACKDATED: Duration = Duration::from_secs(3600);

const KEY_FILE: &str = "key.pem";
pub(crate) const CERTIFICATE_FILE: &str = "ca.pem";

/// The authority: its certificate and key.
pub struct Ca {
    certificate: CertificateDer<'static>,
    pem: String,
    /// When its certificate ends.
    ends: Timestamp,
    issuer: Issuer<'static, KeyPair>,
    clock: Arc<dyn Clock>,
}

/// A certificate with its key. The key was made for it and is kept nowhere else.
pub struct Leaf {
    /// The certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Ca {
    /// Whether there is one in `dir`.
    pub(crate) fn is_in(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists()
    }

    /// Opens larder's own authority in `dir`.
    ///
    /// *Errors*: as `open`.
    pub(crate) fn open_own(dir: &Path, clock: Arc<dyn Clock>) -> Result<Ca, ServerError> {
        let ca = Ca::open(dir, clock)?;
        if !ca.lasts(CA_SPARE) {
            let help = "move its folder away and start again, and have clients trust the new one (`larder ca print`)";
            tracing::warn!(dir = %dir.display(), help, "larder's own authority ends within a year");
        }
        Ok(ca)
    }

    /// Makes an authority in `dir` that may vouch for some names alone. The key's file is readable by its owner alone.
    ///
    /// *Errors*: its files cannot be written.
    pub(crate) fn create_for(dir: &Path, clock: &dyn Clock, names: NameConstraints) -> Result<(), ServerError> {
        create(dir, clock, names)
    }

    /// Opens the authority in `dir`.
    ///
    /// *Errors*: `Invalid` when it is not there or cannot be used.
    pub(crate) fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Ca, ServerError> {
        let key_path = dir.join(KEY_FILE);
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |why: String| ServerError::Certificate { what, path, why }
        };
        let read = |what, path: &PathBuf| fs::read_to_string(path).map_err(|why| failed(what, path)(why.to_string()));
        let key = KeyPair::from_pem(&read("authority key", &key_path)?)
            .map_err(|why| failed("authority key", &key_path)(why.to_string()))?;
        let pem = read("authority certificate", &certificate_path)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|why| failed("authority certificate", &certificate_path)(why.to_string()))?;
        let ends = end(&certificate).map_err(failed("authority certificate", &certificate_path))?;
        let issuer = Issuer::new(authority(&key), key);
        Ok(Ca { certificate, pem, ends, issuer, clock })
    }

    /// Whether it is valid for so long from now on.
    pub(crate) fn lasts(&self, long: Duration) -> bool {
        self.clock.now().plus(long) < self.ends
    }

    /// The authority's certificate, for clients to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for host names and addresses, valid for `LEAF_LIFE`.
    pub fn issue(&self, names: &[String]) -> Result<Leaf, ServerError> {
        // Clients take a common name that looks like a host for one, which a constraint to addresses does not allow.
        let host = names.iter().find(|name| name.parse::<std::net::IpAddr>().is_err());
        self.issue_as(names, host.map_or("larder", String::as_str))
    }

    /// Issues a certificate for one host, whose name may be longer than a subject's common name can be.
    pub(crate) fn issue_nameless(&self, host: &str) -> Result<Leaf, ServerError> {
        self.issue_as(&[host.to_owned()], "intercepted by larder")
    }

    fn issue_as(&self, names: &[String], common_name: &str) -> Result<Leaf, ServerError> {
        let failed = |why: rcgen::Error| ServerError::Issue { names: names.join(", "), why: why.to_string() };
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        set_validity(&mut params, &*self.clock, LEAF_LIFE);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from_slice(&serial()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(Leaf { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) })
    }
}

/// What identifies the authority follows from its key alone, so that it can be rebuilt without reading its
/// certificate.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let fingerprint = blake3::hash(key.public_key_raw());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "larder");
    params.distinguished_name.push(DnType::CommonName, format!("larder {}", hex::encode(&fingerprint.as_bytes()[..4])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn end(certificate: &CertificateDer<'_>) -> Result<Timestamp, String> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).map_err(|why| why.to_string())?;
    Ok(Timestamp::from_secs(read.validity().not_after.timestamp()))
}

fn create(dir: &Path, clock: &dyn Clock, constraints: NameConstraints) -> Result<(), ServerError> {
    let failed = |why: String| ServerError::Certificate { what: "authority", path: dir.to_owned(), why };
    let generated = |why: rcgen::Error| failed(why.to_string());
    let written = |why: io::Error| failed(why.to_string());
    let key = KeyPair::generate().map_err(generated)?;
    let mut params = authority(&key);
    set_validity(&mut params, clock, CA_LIFE);
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(constraints);
    let certificate = params.self_signed(&key).map_err(generated)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(written)?;
    // The key last: where it is, the certificate is too.
    replace_durably(&dir.join(CERTIFICATE_FILE), certificate.pem().as_bytes(), Mode::Exactly(0o644))
        .map_err(written)?;
    replace_durably(&dir.join(KEY_FILE), key.serialize_pem().as_bytes(), Mode::Exactly(0o600)).map_err(written)
}

/// From an hour ago, `life` in all.
fn set_validity(params: &mut CertificateParams, clock: &dyn Clock, life: Duration) {
    let since_epoch = Duration::from_millis(u64::try_from(clock.now().0).unwrap_or(0));
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch.saturating_sub(BACKDATED);
    params.not_after = params.not_before + life;
}

fn serial() -> [u8; 16] {
    let mut serial = random_bytes::<16>();
    // A serial number is positive (RFC 5280, section 4.1.2.2).
    serial[0] &= 0x7f;
    serial
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::authorities::own;
    use super::*;
    use crate::runtime::clock::SystemClock;

    #[test]
    fn the_authority_outlives_a_restart_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("ca");
        let first = own(&dir, &[], SystemClock::new()).expect("makes one");
        let again = own(&dir, &[], SystemClock::new()).expect("opens it");
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        let mode = fs::metadata(dir.join(KEY_FILE)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_key_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        own(dir.path(), &[], SystemClock::new()).expect("makes one");
        fs::write(dir.path().join(KEY_FILE), "nonsense").expect("writes");
        assert!(own(dir.path(), &[], SystemClock::new()).is_err());
        assert_eq!(fs::read_to_string(dir.path().join(KEY_FILE)).expect("reads"), "nonsense");
    }
}
