//! Which hosts clients may name, in a path or a request line: upstreams are learned by policy, never compiled in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::model::lookup::{Expect, Lookup, Origin, Origins, Route, Trust};
use crate::model::party::{Party, is_loopback};

/// How hosts that clients name are taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// Public hosts for clients on this machine, `ask` for all others.
    #[default]
    Auto,
    /// Configured and allowed hosts alone.
    Listed,
    /// Others wait for `larder upstream allow`.
    Ask,
    /// Any public host.
    Public,
}

/// `[upstreams]` in the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub learn: Learn,
    /// Hosts that any client may name, as `host` or `host:port`.
    pub allow: Vec<String>,
}

/// The policy, and who waits to be allowed.
pub struct Hosts {
    state: RwLock<State>,
    /// Rises after each change of whom to trust.
    version: AtomicU64,
}

struct State {
    learn: Learn,
    listed: BTreeSet<String>,
    allowed: BTreeSet<String>,
    /// Hosts of configured and adopted upstreams.
    adopted: BTreeSet<String>,
    pending: BTreeMap<String, Pending>,
    /// Hosts that were ever pending.
    came: u64,
}

/// A host that waits to be allowed.
struct Pending {
    asked: u64,
    /// Who asked first.
    by: Party,
    /// Rises from host to host.
    came: u64,
}

/// Where a client sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nearness {
    Loopback,
    Elsewhere,
}

impl Nearness {
    pub fn of(addr: IpAddr) -> Nearness {
        if is_loopback(addr) { Nearness::Loopback } else { Nearness::Elsewhere }
    }
}

impl Hosts {
    const PENDING_MAX: usize = 1000;
    /// The longest name that there can be, with a port.
    const HOST_MAX_BYTES: usize = 253 + ":65535".len();

    pub fn new(settings: &Settings, allowed: impl IntoIterator<Item = String>) -> Hosts {
        let state = State {
            learn: settings.learn,
            listed: settings.allow.iter().map(|host| host.to_ascii_lowercase()).collect(),
            allowed: allowed.into_iter().collect(),
            adopted: BTreeSet::new(),
            pending: BTreeMap::new(),
            came: 0,
        };
        Hosts { state: RwLock::new(state), version: AtomicU64::new(0) }
    }

    /// Whether a client may have us ask `host`.
    pub(super) fn may_ask(&self, host: &str, nearness: Nearness) -> bool {
        let state = self.state.read();
        match state.learn {
            Learn::Public => true,
            Learn::Auto => nearness == Nearness::Loopback || state.knows(host),
            Learn::Listed | Learn::Ask => state.knows(host),
        }
    }

    /// Writes down a host that was asked for and has to wait. Where there are too many, the party that named the most
    /// loses its oldest: nobody can push out what others wait for.
    pub(super) fn must_wait(&self, host: &str, by: &Party) {
        let mut state = self.state.write();
        if state.learn == Learn::Listed || host.len() > Hosts::HOST_MAX_BYTES {
            return;
        }
        if let Some(pending) = state.pending.get_mut(host) {
            pending.asked += 1;
            return;
        }
        state.came += 1;
        let pending = Pending { asked: 1, by: by.share(), came: state.came };
        state.pending.insert(host.to_owned(), pending);
        if state.pending.len() > Hosts::PENDING_MAX {
            state.forget_one();
        }
    }

    /// How far a host that a client named is trusted: as if configured, once an operator listed, allowed or adopted it.
    pub(super) fn trust(&self, host: &str) -> Trust {
        if self.state.read().knows(host) { Trust::Configured } else { Trust::Client }
    }

    /// Trusts hosts that a client named like configured ones where an operator vouched for them.
    pub(super) fn settle(&self, lookup: &mut Lookup) {
        if let Expect::InDocument { document, .. } | Expect::Beside { document, .. } = &mut lookup.expect {
            self.settle(document);
        }
        match &mut lookup.origins {
            Origins::Listed(origins) => self.settle_each(origins),
            Origins::SumOf { thing, otherwise, .. } => {
                self.settle(thing);
                self.settle_each(otherwise);
            }
            Origins::InDocument { document, derive } => {
                self.settle(document);
                // Whoever may name the document may name what it names.
                if let Origins::Listed(origins) = &document.origins
                    && origins.iter().all(|origin| origin.trust == Trust::Configured)
                {
                    derive.trust = Trust::Configured;
                }
            }
            // What stands behind it was settled before it was put there.
            Origins::Through { .. } => {}
        }
    }

    /// The same for every lookup of a route.
    pub(super) fn settle_route(&self, route: &mut Route) {
        match route {
            Route::Cached(lookup) => self.settle(lookup),
            Route::Generation(generation) => self.settle(&mut generation.document),
            Route::Member(member) => {
                self.settle(&mut member.plain);
                member.by.iter_mut().for_each(|named| self.settle(&mut named.document));
            }
            Route::Generated(_) | Route::PassThrough(_) | Route::NoUpstream => {}
        }
    }

    fn settle_each(&self, origins: &mut [Origin]) {
        for origin in origins.iter_mut().filter(|origin| origin.trust == Trust::Client) {
            if let Some(host) = host_of(&origin.url) {
                origin.trust = self.trust(&host);
            }
        }
    }

    /// Changes with the policy. Read it before what depends on it.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.write());
        self.version.fetch_add(1, Ordering::Release);
        changed
    }

    /// Takes up the hosts of configured and adopted upstreams.
    pub fn adopt(&self, hosts: impl IntoIterator<Item = String>) {
        self.change(|state| state.adopted = hosts.into_iter().collect());
    }

    /// Allows a host from now on. Returns all that were allowed this way, to be kept.
    pub(super) fn allow(&self, host: &str) -> Vec<String> {
        let host = host.to_ascii_lowercase();
        self.change(|state| {
            state.pending.remove(&host);
            state.allowed.insert(host);
            state.allowed.iter().cloned().collect()
        })
    }

    /// Hosts that wait, and how often each was asked for.
    pub(super) fn pending(&self) -> Vec<(String, u64)> {
        self.state.read().pending.iter().map(|(host, pending)| (host.clone(), pending.asked)).collect()
    }

    /// Hosts that were listed or allowed.
    pub(super) fn allowed(&self) -> Vec<String> {
        let state = self.state.read();
        state.listed.union(&state.allowed).cloned().collect()
    }

    /// Takes up new settings; what was allowed stays.
    pub fn reload(&self, settings: &Settings) {
        self.change(|state| {
            state.learn = settings.learn;
            state.listed = settings.allow.iter().map(|host| host.to_ascii_lowercase()).collect();
        });
    }
}

impl State {
    /// Forgets the oldest pending host of those who named the most. Of several such, of those who named theirs last.
    fn forget_one(&mut self) {
        let mut parties: HashMap<&Party, (usize, u64)> = HashMap::new();
        for pending in self.pending.values() {
            let (named, last) = parties.entry(&pending.by).or_default();
            (*named, *last) = (*named + 1, pending.came.max(*last));
        }
        let Some((greedy, _)) = parties.into_iter().max_by_key(|(_, named)| *named) else { return };
        let theirs = self.pending.iter().filter(|(_, pending)| pending.by == *greedy);
        if let Some(oldest) = theirs.min_by_key(|(_, pending)| pending.came).map(|(host, _)| host.clone()) {
            self.pending.remove(&oldest);
        }
    }

    /// Whether an operator vouched for the host.
    fn knows(&self, host: &str) -> bool {
        self.listed.contains(host) || self.allowed.contains(host) || self.adopted.contains(host)
    }
}

/// `host` or `host:port`, as policy lists name it.
pub(crate) fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?.to_ascii_lowercase();
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// The host of an authority; an IPv6 address keeps its brackets.
pub(super) fn without_port(host: &str) -> &str {
    match memchr::memrchr(b':', host.as_bytes()) {
        Some(at) if !host.as_bytes()[at..].contains(&b']') => &host[..at],
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(learn: Learn) -> Hosts {
        Hosts::new(&Settings { learn, allow: vec!["Listed.example".into()] }, [])
    }

    #[test]
    fn strangers_wait_until_they_are_allowed() {
        let hosts = hosts(Learn::Auto);
        assert!(hosts.may_ask("new.example", Nearness::Loopback));
        assert!(!hosts.may_ask("new.example", Nearness::Elsewhere));
        hosts.must_wait("new.example", &party(1));
        assert_eq!(hosts.pending(), [("new.example".to_owned(), 1)]);
        hosts.allow("NEW.example");
        assert!(hosts.may_ask("new.example", Nearness::Elsewhere));
        assert!(hosts.pending().is_empty());
    }

    fn party(at: u32) -> Party {
        Party::of(std::net::Ipv4Addr::from(0xc000_0200 + at).into(), None)
    }

    #[test]
    fn a_flood_of_names_pushes_out_its_own() {
        let hosts = hosts(Learn::Ask);
        for at in 0..3 {
            hosts.must_wait(&format!("{at}.wanted.example"), &party(1));
        }
        for at in 0..2 * Hosts::PENDING_MAX {
            hosts.must_wait(&format!("{at}.flood.example"), &party(2));
        }
        hosts.must_wait("late.example", &party(3));
        let pending: BTreeMap<String, u64> = hosts.pending().into_iter().collect();
        assert_eq!(pending.len(), Hosts::PENDING_MAX);
        for wanted in ["0.wanted.example", "2.wanted.example", "late.example", "1999.flood.example"] {
            assert!(pending.contains_key(wanted), "{wanted}");
        }
        assert!(!pending.contains_key("0.flood.example"));
    }

    #[test]
    fn a_flood_from_many_networks_does_not_push_out_who_came_before() {
        let hosts = hosts(Learn::Ask);
        hosts.must_wait("wanted.example", &party(0));
        for at in 0..2 * Hosts::PENDING_MAX {
            let at = u32::try_from(at).expect("few");
            hosts.must_wait(&format!("{at}.flood.example"), &party(1 + at));
        }
        assert!(hosts.pending().iter().any(|(host, _)| host == "wanted.example"));
    }

    #[test]
    fn listed_means_listed() {
        let hosts = hosts(Learn::Listed);
        assert!(hosts.may_ask("listed.example", Nearness::Elsewhere));
        assert!(!hosts.may_ask("new.example", Nearness::Loopback));
        hosts.must_wait("new.example", &party(1));
        assert!(hosts.pending().is_empty());
    }
}
