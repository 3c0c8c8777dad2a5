//! Who asks, as far as callers can be told apart without a credential: to share places out, and not to hand one caller
//! what was made for another. No right comes with it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Callers who cannot be told apart: of one network, and calling themselves alike.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Party {
    /// An IPv4 address, or an IPv6 /64.
    network: IpAddr,
    build: Option<Arc<str>>,
}

impl Party {
    pub fn of(addr: IpAddr, build: Option<&Arc<str>>) -> Party {
        Party { network: neighbourhood(addr), build: build.cloned() }
    }

    /// What it calls its build.
    pub fn build(&self) -> Option<&str> {
        self.build.as_deref()
    }

    /// Those with whom it shares what is shared out. A network is one, whatever its callers call themselves: otherwise
    /// each could be as many as it likes. On this machine, where addresses tell nobody apart and nobody is a
    /// stranger, a build is one.
    pub fn share(&self) -> Party {
        match self.network.is_loopback() {
            true => Party { network: Ipv4Addr::LOCALHOST.into(), build: self.build.clone() },
            false => Party { network: self.network, build: None },
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.network, self.build.as_deref().unwrap_or("-"))
    }
}

/// Whether it is this machine, however IPv6 writes it.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What counts as one address: an IPv4 address, or an IPv6 /64, which one subscriber has all of.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_one_share_whatever_it_calls_itself() {
        let party = |from: &str, build: &str| Party::of(from.parse().expect("an address"), Some(&Arc::from(build)));
        let share = |from: &str, build: &str| party(from, build).share();
        assert_eq!(share("192.0.2.1", "a"), share("::ffff:192.0.2.1", "b"));
        assert_eq!(share("2001:db8::1", "a"), share("2001:db8::2", "b"));
        assert_ne!(share("2001:db8::1", "a"), share("2001:db8:0:1::1", "a"));
        assert_ne!(share("127.0.0.1", "a"), share("127.0.0.1", "b"));
        assert_eq!(share("127.0.0.1", "a"), share("::1", "a"));
        assert_ne!(party("192.0.2.1", "a"), party("192.0.2.1", "b"));
    }
}
