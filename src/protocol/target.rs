//! Addresses that clients name in a request line or behind a mirror's path: parsed once, then remembered, since builds
//! ask for the same ones again and again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwapOption;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use url::Url;

use super::again::Ready;
use super::forward;
use super::hosts::{Hosts, host_of};
use crate::ecosystem;
use crate::model::key::KeyHash;
use crate::model::lookup::{Lookup, Recognised, Route};

/// Memory for remembered addresses, roughly, in bytes.
const KEPT_BYTES: u64 = 16 << 20;
/// What one takes beside its text, which is in it so many times: mostly the headers of its last answer.
const OVERHEAD: u64 = 2048;
const COPIES: u64 = 5;
/// The same of one that an ecosystem recognised, whose lookup may have others in it.
const OVERHEAD_RECOGNISED: u64 = 6144;
const COPIES_RECOGNISED: u64 = 20;
/// Longer ones are parsed each time.
const LONGEST: usize = 2 << 10;

/// An address that can be fetched.
pub(super) struct Target {
    pub url: Url,
    /// As policy names it: `host` or `host:port`.
    pub host: String,
    pub lookup: Lookup,
    /// Of the lookup's key.
    pub hash: KeyHash,
    /// The version of the policy that its trust was settled by.
    policy: u64,
    /// What a plain request for it was answered with last.
    ready: ArcSwapOption<Ready>,
    /// What an ecosystem takes it for.
    pub recognition: Option<Recognition>,
}

/// An address that an ecosystem recognised.
pub(super) struct Recognition {
    /// Index of the ecosystem's metric label.
    pub at: usize,
    pub recognised: Recognised,
    /// Of the lookup's key, where the route is one.
    pub hash: Option<KeyHash>,
    /// Set when it turned out to be something else.
    pub mistaken: AtomicBool,
}

/// The addresses that were asked for last. Bounded.
pub struct Targets {
    known: Cache<Box<str>, Arc<Target>, Weigh>,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Box<str>, Arc<Target>> for Weigh {
    fn weight(&self, raw: &Box<str>, target: &Arc<Target>) -> u64 {
        match target.recognition {
            Some(_) => OVERHEAD_RECOGNISED + COPIES_RECOGNISED * raw.len() as u64,
            None => OVERHEAD + COPIES * raw.len() as u64,
        }
    }
}

impl Default for Targets {
    fn default() -> Targets {
        let items = usize::try_from(KEPT_BYTES / OVERHEAD).unwrap_or(usize::MAX);
        Targets { known: Cache::with_weighter(items, KEPT_BYTES, Weigh) }
    }
}

impl Targets {
    /// An absolute address, as a proxy is sent it. None: it is none that can be fetched.
    pub(super) fn absolute(&self, raw: &str, hosts: &Hosts) -> Option<Arc<Target>> {
        self.of(raw, hosts, |raw| Url::parse(raw).ok())
    }

    /// A path with its query that a mirror is asked for: `/https/HOST/PATH`.
    pub(super) fn mirrored(&self, raw: &str, hosts: &Hosts) -> Option<Arc<Target>> {
        self.of(raw, hosts, mirrored)
    }

    /// An address that was asked for before, written the same way.
    pub(super) fn known(&self, raw: &str, hosts: &Hosts) -> Option<Arc<Target>> {
        self.known.get(raw).filter(|known| known.policy == hosts.version())
    }

    /// *Shape*: what `parse` makes of `raw` depends on nothing else; a mirror's path begins with a slash, so that the
    /// two kinds are not mixed up.
    fn of(&self, raw: &str, hosts: &Hosts, parse: fn(&str) -> Option<Url>) -> Option<Arc<Target>> {
        let policy = hosts.version();
        if let Some(known) = self.known(raw, hosts) {
            return Some(known);
        }
        let target = Arc::new(Target::new(parse(raw)?, hosts, policy)?);
        if raw.len() <= LONGEST {
            self.known.insert(raw.into(), target.clone());
        }
        Some(target)
    }
}

impl Target {
    pub(super) fn ready(&self) -> arc_swap::Guard<Option<Arc<Ready>>> {
        self.ready.load()
    }

    pub(super) fn set_ready(&self, ready: Ready) {
        self.ready.store(Some(Arc::new(ready)));
    }

    fn new(mut url: Url, hosts: &Hosts, policy: u64) -> Option<Target> {
        url.set_fragment(None);
        let is_named = url.host_str().is_some_and(|host| !host.is_empty());
        let is_clear = url.username().is_empty() && url.password().is_none();
        if !is_named || !is_clear || !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let host = host_of(&url)?;
        let mut lookup = forward::lookup(&url);
        hosts.settle(&mut lookup);
        let hash = lookup.key.hash();
        let recognition = ecosystem::recognise(&url).map(|(at, recognised)| Recognition::new(at, recognised, hosts));
        Some(Target { url, host, lookup, hash, policy, ready: ArcSwapOption::empty(), recognition })
    }
}

impl Recognition {
    fn new(at: usize, mut recognised: Recognised, hosts: &Hosts) -> Recognition {
        hosts.settle_route(&mut recognised.route);
        let hash = match &recognised.route {
            Route::Cached(lookup) => Some(lookup.key.hash()),
            Route::Generation(_)
            | Route::Member(_)
            | Route::Generated(_)
            | Route::PassThrough(_)
            | Route::NoUpstream => None,
        };
        Recognition { at, recognised, hash, mistaken: AtomicBool::new(false) }
    }
}

fn mirrored(raw: &str) -> Option<Url> {
    let (scheme, rest) = raw.strip_prefix('/')?.split_once('/')?;
    let rest = rest.trim_start_matches('/');
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    if authority.contains('@') {
        return None;
    }
    Url::parse(&format!("{scheme}://{rest}")).ok()
}

#[cfg(test)]
mod tests {
    use super::super::hosts::{Learn, Settings};
    use super::*;
    use crate::model::lookup::{Origins, Trust};

    fn hosts() -> Hosts {
        Hosts::new(&Settings { learn: Learn::Public, ..Settings::default() }, [])
    }

    #[test]
    fn both_forms_of_an_address_are_one_key() {
        let (targets, hosts) = (Targets::default(), hosts());
        let absolute = targets.absolute("http://a.example:8080/x?y=1", &hosts).expect("can be fetched");
        let mirrored = targets.mirrored("/http/a.example:8080/x?y=1", &hosts).expect("can be fetched");
        assert_eq!((absolute.hash, absolute.host.as_str()), (mirrored.hash, "a.example:8080"));
        let again = targets.mirrored("/http/a.example:8080/x?y=1", &hosts).expect("can be fetched");
        assert!(Arc::ptr_eq(&mirrored, &again));
    }

    #[test]
    fn what_cannot_be_fetched_is_none() {
        let (targets, hosts) = (Targets::default(), hosts());
        for raw in ["/http/", "/http", "/https/u@h/x", "/https//", "/http/?a"] {
            assert!(targets.mirrored(raw, &hosts).is_none(), "{raw}");
        }
        for raw in ["ftp://h/x", "http://u:p@h/x", "http://u@h/", "x"] {
            assert!(targets.absolute(raw, &hosts).is_none(), "{raw}");
        }
        assert!(targets.mirrored("/https/h?mail=a@b", &hosts).is_some());
    }

    #[test]
    fn a_change_of_policy_reaches_remembered_addresses() {
        let (targets, hosts) = (Targets::default(), hosts());
        let trust = || match &targets.absolute("http://a.example/", &hosts).expect("can be fetched").lookup.origins {
            Origins::Listed(origins) => origins[0].trust,
            Origins::InDocument { .. } | Origins::SumOf { .. } | Origins::Through { .. } => {
                unreachable!("an address is listed")
            }
        };
        assert_eq!(trust(), Trust::Client);
        hosts.allow("a.example");
        assert_eq!(trust(), Trust::Configured);
    }
}
