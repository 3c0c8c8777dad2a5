//! On whose behalf an exchange is made, as far as places are shared out: who takes much must leave some for others. No
//! right comes with it.

use std::net::IpAddr;
use std::sync::Arc;

/// A number of callers who are counted as one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Party {
    /// All that come from one IPv4 address or IPv6 /64.
    Network(IpAddr),
    /// A build on this machine, where addresses tell nobody apart and nobody is a stranger.
    Build(Arc<str>),
}

impl Party {
    /// *Shape*: `build` is what the caller calls itself, which counts on loopback alone: elsewhere a caller could be
    /// as many as it likes.
    pub fn of(addr: IpAddr, build: Option<&Arc<str>>) -> Party {
        match build {
            Some(build) if addr.to_canonical().is_loopback() => Party::Build(build.clone()),
            Some(_) | None => Party::Network(neighbourhood(addr)),
        }
    }
}

/// What counts as one address: an IPv4 address, or an IPv6 /64, which one subscriber has all of.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_one_party_whatever_it_calls_itself() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        let party = |from: &str, build| Party::of(address(from), build);
        assert_eq!(party("192.0.2.1", Some(&one)), party("::ffff:192.0.2.1", Some(&other)));
        assert_eq!(party("2001:db8::1", None), party("2001:db8::2", Some(&one)));
        assert_ne!(party("2001:db8::1", None), party("2001:db8:0:1::1", None));
        assert_ne!(party("127.0.0.1", Some(&one)), party("127.0.0.1", Some(&other)));
        assert_eq!(party("127.0.0.1", Some(&one)), party("::1", Some(&one)));
    }
}
