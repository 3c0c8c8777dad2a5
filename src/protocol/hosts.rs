//! Which hosts clients may name, in a path or a request line: upstreams are learned by policy, never compiled in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::model::lookup::{Expect, Lookup, Origins, Trust};

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
    pending: BTreeMap<String, u64>,
}

/// Where a client sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nearness {
    Loopback,
    Elsewhere,
}

impl Nearness {
    pub fn of(addr: IpAddr) -> Nearness {
        if addr.to_canonical().is_loopback() { Nearness::Loopback } else { Nearness::Elsewhere }
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

    /// Writes down a host that was asked for and has to wait.
    pub(super) fn must_wait(&self, host: &str) {
        let mut state = self.state.write();
        if state.learn == Learn::Listed || host.len() > Hosts::HOST_MAX_BYTES {
            return;
        }
        if let Some(asked) = state.pending.get_mut(host) {
            *asked += 1;
        } else if state.pending.len() < Hosts::PENDING_MAX {
            state.pending.insert(host.to_owned(), 1);
        }
    }

    /// How far a host that a client named is trusted: as if configured, once an operator listed, allowed or adopted it.
    pub(super) fn trust(&self, host: &str) -> Trust {
        if self.state.read().knows(host) { Trust::Configured } else { Trust::Client }
    }

    /// Trusts hosts that a client named like configured ones where an operator vouched for them.
    pub(super) fn settle(&self, lookup: &mut Lookup) {
        if let Expect::InDocument { document, .. } = &mut lookup.expect {
            self.settle(document);
        }
        match &mut lookup.origins {
            Origins::Listed(origins) => {
                for origin in origins.iter_mut().filter(|origin| origin.trust == Trust::Client) {
                    if let Some(host) = host_of(&origin.url) {
                        origin.trust = self.trust(&host);
                    }
                }
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
        self.state.read().pending.iter().map(|(host, asked)| (host.clone(), *asked)).collect()
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
        hosts.must_wait("new.example");
        assert_eq!(hosts.pending(), [("new.example".to_owned(), 1)]);
        hosts.allow("NEW.example");
        assert!(hosts.may_ask("new.example", Nearness::Elsewhere));
        assert!(hosts.pending().is_empty());
    }

    #[test]
    fn listed_means_listed() {
        let hosts = hosts(Learn::Listed);
        assert!(hosts.may_ask("listed.example", Nearness::Elsewhere));
        assert!(!hosts.may_ask("new.example", Nearness::Loopback));
        hosts.must_wait("new.example");
        assert!(hosts.pending().is_empty());
    }
}
