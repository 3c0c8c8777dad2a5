//! The egress gate, the only door to a socket: resolves a name once, judges every address, connects to those that
//! passed and to nothing else (invariant 13). Through an outbound proxy it judges the name, and the proxy's address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use url::Host;

use super::address::{PRIVATE, Policy};
use super::fetch::UpstreamError;
use super::origin::Target;
use super::resolve::{ADDRESSES, Resolve};
use super::settings::Settings;
use crate::model::lookup::Trust;

pub(crate) struct Gate {
    policy: Policy,
    resolver: Arc<dyn Resolve>,
    resolve_deadline: Duration,
    connect_deadline: Duration,
}

/// Pause before the next address is tried beside those that have not answered (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Names of metadata services: refused whoever asks, since a proxy would resolve them for us.
const METADATA_NAMES: [&str; 5] =
    ["metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"];

/// Ends of names that no public host has (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`).
const PRIVATE_NAMES: [&str; 9] =
    ["localhost", "local", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa"];

impl Gate {
    pub(crate) fn new(settings: &Settings, resolver: Arc<dyn Resolve>) -> Gate {
        let policy = Policy {
            allow_private: settings.allow_private.clone(),
            deny: settings.deny.clone(),
            own: settings.own_addresses.clone(),
            purpose: settings.purpose,
        };
        let (resolve_deadline, connect_deadline) = (settings.resolve_deadline, settings.connect_deadline);
        Gate { policy, resolver, resolve_deadline, connect_deadline }
    }

    /// Judges what can be judged without asking anybody: literal addresses and names that are never upstreams.
    pub(crate) fn judge(&self, target: &Target, trust: Trust) -> Result<(), UpstreamError> {
        let verdict = match literal(target) {
            Some(address) => self.policy.judge(address, trust),
            None if METADATA_NAMES.contains(&bare(&target.name()).as_str()) => {
                Err("the name is a cloud metadata service")
            }
            None => Ok(()),
        };
        verdict.map_err(|why| refused(target, why))
    }

    /// Judges a name that a proxy will resolve. For one that a client chose, what our own resolver says counts too,
    /// and a name that only a private network has is refused: the proxy may stand in one.
    ///
    /// *Cancel*: nothing is left.
    pub(crate) async fn judge_for_proxy(&self, target: &Target, trust: Trust) -> Result<(), UpstreamError> {
        self.judge(target, trust)?;
        if literal(target).is_some() || trust != Trust::Client {
            return Ok(());
        }
        let name = bare(&target.name());
        let private = |end: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if !name.contains('.') || PRIVATE_NAMES.iter().any(|end| private(end)) {
            return Err(refused(target, "the name is not public"));
        }
        // Behind a proxy the outside's names are often unknown: no answer is no objection.
        let addresses = self.resolve(target).await.unwrap_or_default();
        match addresses.into_iter().find_map(|address| self.policy.judge(address, trust).err()) {
            Some(why) => Err(refused(target, why)),
            None => Ok(()),
        }
    }

    /// The addresses of `target` that may be connected to, at least one.
    ///
    /// *Errors*: `Refused` when none may be reached; `Unreachable` when the name is not resolved.
    pub(crate) async fn passed(&self, target: &Target, trust: Trust) -> Result<Vec<SocketAddr>, UpstreamError> {
        self.judge(target, trust)?;
        let addresses = self.resolve(target).await?;
        let (mut passed, mut objection) = (Vec::new(), "the name has no address");
        for address in addresses {
            match self.policy.judge(address, trust) {
                Ok(()) => passed.push(address),
                Err(why) => objection = why,
            }
        }
        if passed.is_empty() { Err(refused(target, objection)) } else { Ok(passed) }
    }

    /// Opens a socket to an address of `target` that passed.
    ///
    /// *Errors*: `Refused` when no address may be reached; `Unreachable` when none answered in time.
    /// *Cancel*: what was being opened is closed.
    pub(crate) async fn connect(&self, target: &Target, trust: Trust) -> Result<TcpStream, UpstreamError> {
        let passed = self.passed(target, trust).await?;
        let unreachable = |why: String| UpstreamError::Unreachable { host: target.host.to_string(), why };
        let stream = tokio::time::timeout(self.connect_deadline, connect_any(&passed))
            .await
            .map_err(|_| unreachable(format!("no connection within {:?}", self.connect_deadline)))?
            .map_err(|error| unreachable(error.to_string()))?;
        // A listener on every address is also reached by this machine's own: only the open socket shows that.
        if let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr())
            && self.policy.is_loop(local.ip(), peer)
        {
            return Err(refused(target, "the address is our own"));
        }
        // Without it small requests wait for acknowledgements; a failure costs speed alone.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, UpstreamError> {
        if let Some(address) = literal(target) {
            return Ok(vec![address]);
        }
        let name = target.name();
        let unreachable = |why: String| UpstreamError::Unreachable { host: name.clone(), why };
        let mut addresses = tokio::time::timeout(self.resolve_deadline, self.resolver.resolve(&name, target.port))
            .await
            .map_err(|_| unreachable(format!("its name was not resolved within {:?}", self.resolve_deadline)))?
            .map_err(|error| unreachable(error.to_string()))?;
        addresses.truncate(ADDRESSES);
        // Whatever a resolver does about ports, the one that was asked for is the one connected to.
        addresses.iter_mut().for_each(|address| address.set_port(target.port));
        Ok(addresses)
    }
}

/// Tries each address a little after the one before, and keeps the first that answers.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied();
    let mut trying = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    loop {
        let next = waiting.next();
        let more = next.is_some();
        if let Some(address) = next {
            trying.push(TcpStream::connect(address));
        }
        if trying.is_empty() {
            return Err(last);
        }
        tokio::select! {
            answer = trying.next() => match answer {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => {}
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

fn literal(target: &Target) -> Option<SocketAddr> {
    match target.host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(SocketAddr::from((address, target.port))),
        Host::Ipv6(address) => Some(SocketAddr::from((address, target.port))),
    }
}

fn bare(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn refused(target: &Target, why: &str) -> UpstreamError {
    let host = target.host.to_string();
    let why = match (why, target.port) {
        (PRIVATE, 80 | 443) => format!("{why}; if it may be asked: larder upstream allow {host}"),
        (PRIVATE, port) => format!("{why}; if it may be asked: larder upstream allow {host}:{port}"),
        (why, _) => why.to_owned(),
    };
    UpstreamError::Refused { host, why }
}
