//! Which addresses may be connected to: the pure half of the egress gate. Judges an address by what it leads to, so
//! forms that carry an IPv4 address inside an IPv6 one are judged by the inner one.
//!
//! Sources: the IANA special-purpose address registries (RFC 6890 and its successors), RFC 6052 (NAT64), RFC 3056
//! (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP), and what cloud vendors document for instance metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::settings::Purpose;
use crate::model::lookup::Trust;

/// What the operator allowed and forbade.
pub(crate) struct Policy {
    pub(crate) allow_private: Vec<IpNet>,
    pub(crate) deny: Vec<IpNet>,
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) purpose: Purpose,
}

/// The one objection that an operator can waive, by allowing the host.
pub(crate) const PRIVATE: &str = "the address is not public";

impl Policy {
    /// Whether a socket to `address` may be opened for a host that `trust` named. The reason is for the client's eyes.
    pub(crate) fn judge(&self, address: SocketAddr, trust: Trust) -> Result<(), &'static str> {
        let outer = address.ip();
        let within = |nets: &[IpNet], ip: &IpAddr| nets.iter().any(|net| net.contains(ip));
        let mut forms = vec![outer];
        if let IpAddr::V6(v6) = outer {
            forms.extend(embedded(v6).into_iter().flatten().map(IpAddr::V4));
        }
        for form in &forms {
            if within(&self.deny, form) {
                return Err("the address is denied");
            }
            match reach(*form) {
                Reach::Never(METADATA) if self.purpose == Purpose::OwnIdentity => return Ok(()),
                Reach::Never(why) => return Err(why),
                Reach::Public | Reach::Private => {}
            }
        }
        if self.own.iter().any(|own| is_own(own, address)) {
            return Err("the address is our own");
        }
        if self.purpose == Purpose::OwnIdentity {
            return Err("the address is no metadata service");
        }
        let private = forms.iter().any(|form| reach(*form) == Reach::Private);
        let allowed = trust != Trust::Client || forms.iter().any(|form| within(&self.allow_private, form));
        if private && !allowed { Err(PRIVATE) } else { Ok(()) }
    }

    /// Whether a connection from `local` to `peer` came back to a listener of ours that is bound to every address.
    pub(crate) fn is_loop(&self, local: IpAddr, peer: SocketAddr) -> bool {
        local == peer.ip() && self.own.iter().any(|own| own.ip().is_unspecified() && own.port() == peer.port())
    }
}

fn is_own(own: &SocketAddr, address: SocketAddr) -> bool {
    if own.port() != address.port() {
        return false;
    }
    let address = address.ip().to_canonical();
    if own.ip().is_unspecified() { address.is_loopback() } else { own.ip().to_canonical() == address }
}

/// How far an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    Public,
    /// Ours or a neighbour's network: for configured upstreams alone.
    Private,
    /// Nobody's upstream: refused whoever asks.
    Never(&'static str),
}

const METADATA: &str = "the address is a cloud metadata service";

fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

/// Whether `ip` is where a machine asks its cloud who it is.
pub(crate) fn is_metadata(ip: IpAddr) -> bool {
    reach(ip) == Reach::Never(METADATA)
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [169, 254, 169, 254]
        | [169, 254, 170, 2 | 23]
        | [100, 100, 100, 200]
        | [192, 0, 0, 192]
        | [168, 63, 129, 16] => Reach::Never(METADATA),
        [0, ..] => Reach::Never("the address is unspecified"),
        [169, 254, ..] => Reach::Never("the address is link-local"),
        [224..=239, ..] => Reach::Never("the address is multicast"),
        [240..=255, ..] => Reach::Never("the address is broadcast or reserved"),
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        // Special purpose: protocol assignments, documentation, the old 6to4 relay, benchmarks.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Reach::Private
        }
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let segments = ip.segments();
    if ip.is_unspecified() {
        return Reach::Never("the address is unspecified");
    }
    if ip.is_loopback() {
        return Reach::Private;
    }
    // AWS, Google Cloud; both within the unique local range.
    if matches!(segments, [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]) {
        return Reach::Never(METADATA);
    }
    match segments[0] {
        0xff00..=0xffff => Reach::Never("the address is multicast"),
        0xfe80..=0xfebf => Reach::Never("the address is link-local"),
        // The forms that carry an IPv4 address are as public as what they carry.
        0x2001 if segments[1] == 0 => Reach::Public,
        0x2001 if segments[1] == 0xdb8 || segments[1] < 0x200 => Reach::Private,
        0x3fff if segments[1] < 0x1000 => Reach::Private,
        0x2000..=0x3fff => Reach::Public,
        0x64 if segments[1..6] == [0xff9b, 0, 0, 0, 0] => Reach::Public,
        0 if segments[1..4] == [0, 0, 0] => Reach::Public,
        // Unique local, site-local, 64:ff9b:1::/48, discard-only, and all that is not global unicast.
        _ => Reach::Private,
    }
}

/// The IPv4 addresses that `ip` may lead to.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let segments = ip.segments();
    let at = |index: usize| v4(segments[index], segments[index + 1]);
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // Compatible (::a.b.c.d), mapped (::ffff:a.b.c.d), translated (::ffff:0:a.b.c.d).
        [0, 0, 0, 0, ..] => [Some(at(6)), None],
        // NAT64, well-known prefix; local prefix, whose shortest form puts the address at its end.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => [Some(at(6)), None],
        [0x2002, ..] => [Some(at(1)), None],
        // Teredo: the server, and the client inverted.
        [0x2001, 0, ..] => [Some(at(2)), Some(v4(!segments[6], !segments[7]))],
        // ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [Some(at(6)), None],
        _ => [None, None],
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(ip: &str, trust: Trust, policy: &Policy) -> Result<(), &'static str> {
        policy.judge(SocketAddr::new(ip.parse().expect("an address"), 443), trust)
    }

    fn open() -> Policy {
        Policy { allow_private: Vec::new(), deny: Vec::new(), own: Vec::new(), purpose: Purpose::Upstreams }
    }

    const NEVER: [&str; 26] = [
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.1.1",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "ff02::1",
        "fe80::1",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
        "2001:0:a9fe:a9fe::1",
    ];

    const PRIVATE: [&str; 30] = [
        "10.0.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "::1",
        "fc00::1",
        "fdff::1",
        "fec0::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.1.2.3",
        "::127.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:a00:1::1",
        "2001:0:808:808::f5ff:fffe",
        "2606:4700::5efe:10.0.0.1",
    ];

    #[test]
    fn what_is_nobodys_upstream_is_refused_whoever_asks() {
        let everything =
            Policy { allow_private: vec!["0.0.0.0/0".parse().expect("net"), "::/0".parse().expect("net")], ..open() };
        for ip in NEVER {
            assert!(judge(ip, Trust::Configured, &everything).is_err(), "{ip}");
            assert!(judge(ip, Trust::Client, &everything).is_err(), "{ip}");
            assert!(judge(ip, Trust::Build, &everything).is_err(), "{ip}");
        }
    }

    #[test]
    fn private_addresses_are_for_configured_upstreams_alone() {
        for ip in PRIVATE {
            assert_eq!(judge(ip, Trust::Client, &open()), Err("the address is not public"), "{ip}");
            assert_eq!(judge(ip, Trust::Configured, &open()), Ok(()), "{ip}");
            assert_eq!(judge(ip, Trust::Build, &open()), Ok(()), "{ip}");
        }
        let ours = Policy { allow_private: vec!["10.0.0.0/8".parse().expect("net")], ..open() };
        assert_eq!(judge("10.1.2.3", Trust::Client, &ours), Ok(()));
        assert_eq!(judge("::ffff:10.1.2.3", Trust::Client, &ours), Ok(()));
        assert!(judge("192.168.0.1", Trust::Client, &ours).is_err());
    }

    #[test]
    fn our_own_identity_is_asked_of_metadata_services_and_nobody_else() {
        let own = || Policy { purpose: Purpose::OwnIdentity, ..open() };
        for ip in ["169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"] {
            assert_eq!(judge(ip, Trust::Configured, &own()), Ok(()), "{ip}");
            assert!(is_metadata(ip.parse().expect("an address")));
        }
        for ip in ["169.254.1.1", "1.1.1.1", "127.0.0.1", "10.0.0.1", "::1", "fe80::1"] {
            assert!(judge(ip, Trust::Configured, &own()).is_err(), "{ip}");
        }
        let denied = Policy { deny: vec!["169.254.0.0/16".parse().expect("net")], ..own() };
        assert!(judge("169.254.169.254", Trust::Configured, &denied).is_err());
    }

    #[test]
    fn public_addresses_pass() {
        for ip in
            ["1.1.1.1", "8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8"]
        {
            assert_eq!(judge(ip, Trust::Client, &open()), Ok(()), "{ip}");
        }
        let without = Policy { deny: vec!["8.8.0.0/16".parse().expect("net")], ..open() };
        assert!(judge("8.8.8.8", Trust::Configured, &without).is_err());
        assert!(judge("::ffff:8.8.8.8", Trust::Configured, &without).is_err());
    }

    #[test]
    fn our_own_listeners_are_never_asked() {
        let own = |text: &str| Policy { own: vec![text.parse().expect("an address")], ..open() };
        assert!(judge("10.0.0.1", Trust::Configured, &own("10.0.0.1:443")).is_err());
        assert!(judge("::ffff:10.0.0.1", Trust::Configured, &own("10.0.0.1:443")).is_err());
        assert!(judge("127.0.0.1", Trust::Configured, &own("0.0.0.0:443")).is_err());
        assert!(judge("127.0.0.2", Trust::Configured, &own("[::]:443")).is_err());
        assert_eq!(judge("10.0.0.1", Trust::Configured, &own("10.0.0.1:8443")), Ok(()));
        let peer: SocketAddr = "10.0.0.1:443".parse().expect("an address");
        assert!(own("0.0.0.0:443").is_loop(peer.ip(), peer));
        assert!(!own("0.0.0.0:443").is_loop("10.0.0.2".parse().expect("an address"), peer));
    }
}
