//! Who holds which generation of an archive (`model::lookup::Generation`), and what names mean to it.
//!
//! A client asks for the generation and for what it names in one go, mostly on one connection. So what a connection was
//! handed last counts; on a new one, what its address was handed last; else what is stored, which was handed out last
//! to somebody. Nothing of this outlives the process, nor has to.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use quick_cache::sync::Cache as Kept;

use super::front::{Answered, Front, Visit};
use super::package::ask;
use super::parent::ByName;
use crate::cache::error::CacheError;
use crate::cache::served::{Ask, Part, Served, ServedBody};
use crate::model::digest::Digest;
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::{Generation, Lookup, Member, Named};
use crate::model::outcome::Outcome;

/// How long a client may take from a generation to the last of what it names.
const HELD_FOR: Duration = Duration::from_secs(30 * 60);
const HELD_MAX: usize = 16 << 10;
const ARCHIVES_MAX: usize = 4 << 10;

/// What clients were handed. Bounded: the least used goes first.
pub struct Handed {
    held: Kept<(SocketAddr, KeyHash), (Digest, Duration)>,
    /// Upstream and path of archives of which a generation was handed out.
    archives: Kept<(Box<str>, Box<str>), ()>,
    /// The generation that was handed out last.
    last: Kept<KeyHash, Digest>,
}

impl Default for Handed {
    fn default() -> Handed {
        Handed { held: Kept::new(HELD_MAX), archives: Kept::new(ARCHIVES_MAX), last: Kept::new(ARCHIVES_MAX) }
    }
}

impl Handed {
    fn note(&self, to: SocketAddr, key: KeyHash, digest: Digest, now: Duration) {
        for to in [to, any_port(to)] {
            self.held.insert((to, key), (digest, now));
        }
    }

    fn by(&self, by: SocketAddr, key: KeyHash, now: Duration) -> Option<Digest> {
        let held = [by, any_port(by)].into_iter().find_map(|by| self.held.get(&(by, key)));
        held.filter(|(_, at)| now.saturating_sub(*at) < HELD_FOR).map(|(digest, _)| digest)
    }

    fn saw(&self, upstream: &str, archive: &str) {
        self.archives.insert((upstream.into(), archive.into()), ());
    }

    /// Whether a generation was handed out of an archive that this is in.
    pub(super) fn knows_archive_of(&self, key: &Key) -> bool {
        let mut path = key.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/') {
            if self.archives.get(&(Box::from(key.upstream.as_str()), Box::from(above))).is_some() {
                return true;
            }
            path = above;
        }
        false
    }
}

/// What stands for all connections of an address.
fn any_port(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), 0)
}

/// Whether upstream may be asked for a generation that is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asking {
    Allowed,
    No,
}

impl Front {
    /// Hands out a generation, and notes to whom.
    pub(super) async fn generation(
        &self,
        visit: &Visit<'_>,
        generation: &Generation,
        at: usize,
    ) -> Result<Answered, CacheError> {
        if let Some(host) = self.unknown_host(visit, &generation.document) {
            return Ok(self.host_must_wait(visit, &host, at));
        }
        let document = self.through(visit, &generation.document, ByName::Own);
        let asked = ask(visit, &document).ok_or(CacheError::Abandoned)?;
        let mut served = self.cache.serve(&asked).await?;
        if let Some(key) = served.key.filter(|_| served.status == 200) {
            self.handed.saw(&generation.document.key.upstream, &generation.archive);
            let came = matches!(served.outcome, Outcome::Miss | Outcome::Coalesced | Outcome::Peer);
            if let Some(digest) = version(&mut served, visit, &generation.document).await? {
                if came && self.handed.last.get(&key) != Some(digest) {
                    // Before it is handed out: what it names is asked for right after.
                    let below = format!("{}/", generation.archive);
                    self.cache.invalidate_below(&generation.document.key, &below, generation.may_replace).await?;
                }
                self.handed.last.insert(key, digest);
                self.handed.note(visit.peer.addr, key, digest, self.observers.clock.elapsed());
            }
        }
        Ok(Answered::of_served(served, &visit.method, at))
    }

    /// What a name means to the asker. None: no generation that it may hold says so.
    pub(super) async fn meant(
        &self,
        visit: &Visit<'_>,
        member: &Member,
        asking: Asking,
    ) -> Result<Option<Lookup>, CacheError> {
        let meant = |document: &Bytes, named: &Named| (member.meant)(document, &named.name, &member.plain);
        let now = self.observers.clock.elapsed();
        let asks = member.by.iter().filter_map(|named| Some((named, ask(visit, &named.document)?)));
        let asks: Vec<_> = asks.collect();
        for (named, asked) in &asks {
            let held = self.handed.by(visit.peer.addr, self.cache.key_of(asked), now);
            if let Some(digest) = held
                && let Some(document) = self.cache.version(&digest, named.document.max_bytes).await?
            {
                return Ok(meant(&document, named));
            }
        }
        for (named, asked) in &asks {
            if let Some(document) = self.cache.kept(asked).await?
                && let Some(lookup) = meant(&document, named)
            {
                return Ok(Some(lookup));
            }
        }
        for (named, asked) in asks.iter().filter(|_| asking == Asking::Allowed) {
            let document = self.through(visit, &named.document, ByName::Own);
            let served = self.cache.serve(&Ask { lookup: &document, ..asked.clone() }).await?;
            if served.status == 200 {
                return Ok(meant(&served.into_bytes(named.document.max_bytes).await?, named));
            }
        }
        Ok(None)
    }
}

/// Which version an answer is. One that comes from upstream just now is waited for: it is known by its bytes.
async fn version(served: &mut Served, visit: &Visit<'_>, document: &Lookup) -> Result<Option<Digest>, CacheError> {
    if served.digest.is_some() || served.part != Part::Whole || visit.method != Method::GET {
        return Ok(served.digest);
    }
    let body = std::mem::replace(&mut served.body, ServedBody::Empty).into_bytes(document.max_bytes).await?;
    let digest = Digest::of(&body);
    served.len = Some(body.len() as u64);
    served.body = ServedBody::Bytes(body);
    Ok(Some(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::realm::Scope;

    const SECOND: Duration = Duration::from_secs(1);

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn key(path: &str) -> Key {
        let upstream = "http://deb.example".to_owned();
        Key { scope: Scope::shared(), ecosystem: "apt", upstream, path: path.into(), variant: String::new() }
    }

    #[test]
    fn a_connection_holds_what_it_was_handed_whatever_others_get() {
        let (handed, release) = (Handed::default(), key("/dists/s/InRelease").hash());
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        handed.note(client(1), release, old, SECOND);
        handed.note(client(2), release, new, SECOND);
        assert_eq!(handed.by(client(1), release, SECOND), Some(old));
        assert_eq!(handed.by(client(2), release, SECOND), Some(new));
        assert_eq!(handed.by(client(3), release, SECOND), Some(new), "the last of its address");
        assert_eq!(handed.by(client(1), release, SECOND + HELD_FOR), None);
        assert_eq!(handed.by(SocketAddr::from(([192, 0, 2, 2], 1)), release, SECOND), None);
        assert_eq!(handed.by(client(1), key("/dists/t/InRelease").hash(), SECOND), None);
    }

    #[test]
    fn an_archive_is_known_once_a_generation_of_it_was_handed_out() {
        let handed = Handed::default();
        handed.saw("http://deb.example", "/debian");
        assert!(handed.knows_archive_of(&key("/debian/pool/h/hello_1_all.deb")));
        for other in ["/debian-security/pool/h/hello_1_all.deb", "/pool/hello_1_all.deb", "/debian"] {
            assert!(!handed.knows_archive_of(&key(other)), "{other}");
        }
        handed.saw("http://deb.example", "");
        assert!(handed.knows_archive_of(&key("/pool/hello_1_all.deb")));
    }
}
