//! The authorities in whose name larder stands for other hosts. Each is constrained (RFC 5280 §4.2.1.10) to the hosts
//! that it was made for: its key, stolen, vouches for nothing else.
//!
//! A constraint cannot be widened in a certificate that clients trust already. So when the list grows, another authority
//! is made for what is new, and a host is vouched for by the oldest one that may: who trusts the first goes on with the
//! hosts it knows, and lacks only the new ones until it takes the second. They are kept when the list shrinks; larder
//! vouches for listed hosts alone, whatever its authorities may. One that ends within a year is followed by another in
//! the same way.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};

use super::ca::{CA_SPARE, CERTIFICATE_FILE, Ca, LEAF_LIFE, Leaf};
use super::error::ServerError;
use crate::runtime::aside::{Mode, replace_durably};
use crate::runtime::clock::Clock;

/// Where the authority for TLS with larder itself is, below the data directory, and its certificate.
pub const OWN: &str = "ca";
pub const OWN_CERTIFICATE: &str = "ca/ca.pem";
/// Where those for intercepted hosts are, numbered.
pub const INTERCEPT: &str = "ca/intercept";
/// The hosts that an authority was made for, one a line; beside its certificate and key.
const HOSTS_FILE: &str = "hosts";
/// More are a sign of a list that a program writes; clients would have to trust them all.
const AUTHORITIES_MAX: usize = 64;

/// All of them, the oldest first.
pub struct Authorities {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    known: ArcSwap<Vec<Arc<Authority>>>,
    making: Mutex<()>,
}

struct Authority {
    ca: Ca,
    hosts: Vec<String>,
}

impl Authorities {
    /// Opens those that are in `dir`, where there may be none.
    ///
    /// *Errors*: `Invalid` when files are there that cannot be used; they are never replaced.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Authorities, ServerError> {
        let known = ArcSwap::from_pointee(read(dir, &clock)?);
        Ok(Authorities { dir: dir.to_owned(), clock, known, making: Mutex::new(()) })
    }

    /// Sees to it that each of `hosts`, names or addresses, can be vouched for; a name stands for those below it too.
    /// Blocks: files are written when another authority has to be made.
    ///
    /// *Errors*: it cannot be made, or there would be too many.
    pub fn cover(&self, hosts: &[String]) -> Result<(), ServerError> {
        let _one_at_a_time = self.making.lock();
        let known = self.known.load_full();
        let lasting = |authority: &&Arc<Authority>| authority.ca.lasts(CA_SPARE);
        let may = |host: &String| known.iter().filter(lasting).any(|authority| authority.may_vouch_for(host));
        let mut new: Vec<String> = hosts.iter().filter(|host| !may(host)).cloned().collect();
        new.sort_unstable();
        new.dedup();
        if new.is_empty() {
            return Ok(());
        }
        if known.len() >= AUTHORITIES_MAX {
            let what = format!(
                "there are {AUTHORITIES_MAX} authorities in {}, and each was made for hosts that were new: move it away, \
                 and larder makes one for all; clients then have to trust that one",
                self.dir.display()
            );
            return Err(ServerError::Settings { what });
        }
        self.make(known.len() + 1, &new)?;
        self.known.store(Arc::new(read(&self.dir, &self.clock)?));
        Ok(())
    }

    /// Their certificates, for clients to trust; empty when there is none.
    pub fn pem(&self) -> String {
        self.known.load().iter().map(|authority| authority.ca.certificate_pem().to_owned()).collect()
    }

    /// A certificate for one host. None: no authority may vouch for it.
    pub(crate) fn issue(&self, host: &str) -> Option<Result<Leaf, ServerError>> {
        let known = self.known.load();
        let mut may = known.iter().filter(|authority| authority.may_vouch_for(host));
        // The newest is better than none: clients then say what is wrong.
        let newest = may.clone().next_back()?;
        let authority = may.find(|authority| authority.ca.lasts(LEAF_LIFE)).unwrap_or(newest);
        Some(authority.ca.issue_nameless(host))
    }

    /// Made beside its place and moved there: a crash leaves a whole one or none.
    fn make(&self, number: usize, hosts: &[String]) -> Result<(), ServerError> {
        let failed = |why: io::Error| ServerError::Certificate {
            what: "authority for intercepted hosts",
            path: self.dir.clone(),
            why: why.to_string(),
        };
        let part = self.dir.join(format!("part-{}", std::process::id()));
        if part.exists() {
            fs::remove_dir_all(&part).map_err(failed)?;
        }
        Ca::create_for(&part, &*self.clock, constraints(hosts))?;
        let lines: String = hosts.iter().map(|host| format!("{host}\n")).collect();
        replace_durably(&part.join(HOSTS_FILE), lines.as_bytes(), Mode::Exactly(0o644)).map_err(failed)?;
        fs::rename(&part, self.dir.join(number.to_string())).map_err(failed)?;
        fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

/// The certificates of all authorities of a data directory that are there: larder's own, then those for intercepted hosts.
pub fn certificate_files(data: &Path) -> impl Iterator<Item = PathBuf> {
    let intercept = data.join(INTERCEPT);
    let numbered = (1..).map(move |number: u32| intercept.join(format!("{number}/{CERTIFICATE_FILE}")));
    let own = Some(data.join(OWN_CERTIFICATE)).filter(|file| file.is_file());
    own.into_iter().chain(numbered.take_while(|file| file.is_file()))
}

/// The authority for TLS with larder itself, by the names that clients know it by; made for them where there is none.
///
/// *Errors*: as `open`; one that was made for other names, since clients would refuse what it vouches for.
pub fn own(dir: &Path, names: &[String], clock: Arc<dyn Clock>) -> Result<Ca, ServerError> {
    let subtrees: Vec<String> = names.iter().map(|name| name.trim_start_matches("*.").to_ascii_lowercase()).collect();
    let path = dir.join(HOSTS_FILE);
    let failed = |why: io::Error| ServerError::Certificate {
        what: "the names of the authority",
        path: path.clone(),
        why: why.to_string(),
    };
    if !Ca::is_in(dir) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let lines: String = subtrees.iter().map(|name| format!("{name}\n")).collect();
        replace_durably(&path, lines.as_bytes(), Mode::Exactly(0o644)).map_err(failed)?;
        Ca::create_for(dir, &*clock, constraints(&subtrees))?;
    }
    let ca = Ca::open_own(dir, clock)?;
    let made_for = match fs::read_to_string(&path) {
        Ok(lines) => lines,
        // An older larder made it, for any name.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ca),
        Err(error) => return Err(failed(error)),
    };
    match subtrees.iter().find(|name| !made_for.lines().any(|known| is_within(name, known))) {
        None => Ok(ca),
        Some(name) => {
            let what = format!(
                "{name} is not among the names that the authority in {} was made for ({}), and clients would refuse it: move \
                 its files ca.pem, key.pem and {HOSTS_FILE} away, and larder makes another, which clients then have to trust",
                dir.display(),
                made_for.lines().collect::<Vec<_>>().join(", ")
            );
            Err(ServerError::Settings { what })
        }
    }
}

impl Authority {
    fn may_vouch_for(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| is_within(host, known))
    }
}

/// Whether a constraint to `subtree` permits `host`.
fn is_within(host: &str, subtree: &str) -> bool {
    if host == subtree {
        return true;
    }
    let below = host.strip_suffix(subtree).is_some_and(|front| front.ends_with('.'));
    below && subtree.parse::<IpAddr>().is_err()
}

/// *Shape*: in the order in which they were made.
fn read(dir: &Path, clock: &Arc<dyn Clock>) -> Result<Vec<Arc<Authority>>, ServerError> {
    let mut known = Vec::new();
    for number in 1..=AUTHORITIES_MAX {
        let dir = dir.join(number.to_string());
        if !dir.is_dir() {
            break;
        }
        let ca = Ca::open(&dir, clock.clone())?;
        let path = dir.join(HOSTS_FILE);
        let hosts = fs::read_to_string(&path).map_err(|why| ServerError::Certificate {
            what: "the hosts of an authority",
            path,
            why: why.to_string(),
        })?;
        known.push(Arc::new(Authority { ca, hosts: hosts.lines().map(str::to_owned).collect() }));
    }
    Ok(known)
}

/// To these hosts and to no address or name beside them. What a constraint does not mention, it permits: so each kind of
/// name is mentioned.
fn constraints(hosts: &[String]) -> NameConstraints {
    let permitted: Vec<GeneralSubtree> = hosts.iter().map(|host| subtree(host)).collect();
    let has = |wanted: fn(&GeneralSubtree) -> bool| permitted.iter().any(wanted);
    let mut excluded = Vec::new();
    if !has(|one| matches!(one, GeneralSubtree::DnsName(_))) {
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    if !has(|one| matches!(one, GeneralSubtree::IpAddress(_))) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded }
}

fn subtree(host: &str) -> GeneralSubtree {
    match host.parse() {
        Ok(IpAddr::V4(address)) => GeneralSubtree::IpAddress(CidrSubnet::V4(address.octets(), [0xff; 4])),
        Ok(IpAddr::V6(address)) => GeneralSubtree::IpAddress(CidrSubnet::V6(address.octets(), [0xff; 16])),
        Err(_) => GeneralSubtree::DnsName(host.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::runtime::clock::{ManualClock, SystemClock};

    fn open(dir: &Path) -> Authorities {
        Authorities::open(dir, SystemClock::new()).expect("opens")
    }

    fn names(hosts: &[&str]) -> Vec<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    #[test]
    fn a_list_that_grows_adds_an_authority_and_keeps_the_old_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("intercept");
        let authorities = open(&dir);
        assert_eq!(authorities.pem(), "");
        authorities.cover(&names(&["a.example", "b.example"])).expect("makes one");
        let first = authorities.pem();
        authorities.cover(&names(&["b.example", "x.a.example"])).expect("has it");
        assert_eq!(authorities.pem(), first, "nothing is new");
        authorities.cover(&names(&["a.example", "c.example"])).expect("makes another");
        assert!(authorities.pem().starts_with(&first) && authorities.pem().len() > first.len());
        // A restart finds them as they were, and who they may vouch for.
        let again = open(&dir);
        assert_eq!(again.pem(), authorities.pem());
        assert!(again.issue("x.a.example").is_some_and(|leaf| leaf.is_ok()));
        assert!(again.issue("other.example").is_none() && again.issue("aa.example").is_none());
        for number in ["1", "2"] {
            let mode = fs::metadata(dir.join(number).join("key.pem")).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn an_authority_is_followed_by_another_a_year_before_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::at(SystemClock::new().now());
        let open = || Authorities::open(dir.path(), clock.clone()).expect("opens");
        let year = Duration::from_secs(365 * 86_400);
        let host = names(&["a.example"]);
        let authorities = open();
        authorities.cover(&host).expect("makes one");
        let first = authorities.pem();
        let issued_by = |authorities: &Authorities| {
            let leaf = authorities.issue("a.example").expect("may").expect("issues");
            let pem = authorities.pem();
            let all = CertificateDer::pem_slice_iter(pem.as_bytes()).map(|one| one.expect("PEM"));
            all.collect::<Vec<_>>().iter().position(|one| *one == leaf.chain[1]).expect("is one of them")
        };
        clock.advance(8 * year);
        authorities.cover(&host).expect("has it");
        assert_eq!(authorities.pem(), first);
        clock.advance(year);
        let authorities = open();
        authorities.cover(&host).expect("makes another");
        assert!(authorities.pem().starts_with(&first) && authorities.pem().len() > first.len());
        assert_eq!(issued_by(&authorities), 0, "clients have a year to take the second");
        clock.advance(year);
        assert_eq!(issued_by(&authorities), 1);
        assert_eq!(issued_by(&open()), 1);
    }

    #[test]
    fn our_own_authority_is_for_its_names_and_an_older_one_for_any() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = |hosts: &[&str]| own(dir.path(), &names(hosts), SystemClock::new());
        let made = own(&["a.example", "127.0.0.1"]).expect("makes one");
        own(&["127.0.0.1", "x.a.example", "*.A.example"]).expect("they are within");
        let refused = own(&["a.example", "b.example"]).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            refused.starts_with("b.example is not among") && refused.contains("(a.example, 127.0.0.1)"),
            "{refused}"
        );
        // One that was made before there were lists.
        fs::remove_file(dir.path().join(HOSTS_FILE)).expect("removes");
        assert_eq!(own(&["b.example"]).expect("goes on").certificate_pem(), made.certificate_pem());
    }

    #[test]
    fn a_lost_list_is_an_error_and_no_new_authority() {
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path()).cover(&names(&["a.example"])).expect("makes one");
        fs::remove_file(dir.path().join("1").join(HOSTS_FILE)).expect("removes");
        assert!(Authorities::open(dir.path(), SystemClock::new()).is_err());
    }

    #[test]
    fn an_address_is_within_itself_alone() {
        assert!(is_within("10.0.0.1", "10.0.0.1") && is_within("x.a.example", "a.example"));
        assert!(!is_within("1.10.0.0.1", "10.0.0.1") && !is_within("ba.example", "a.example"));
        assert!(!is_within("a.example", "x.a.example"));
    }
}
