//! Which link bytes go over, by the address or the name of the other end.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::usage::Link;

/// What is at the other end of each link: networks, addresses, and hosts, each as HOST or *.HOST for all below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub loopback: Vec<Place>,
    pub private: Vec<Place>,
    pub zone: Vec<Place>,
    pub region: Vec<Place>,
    pub internet: Vec<Place>,
    pub nat: Vec<Place>,
}

impl Default for Settings {
    fn default() -> Settings {
        let nets = |nets: &[&str]| nets.iter().filter_map(|net| net.parse().ok()).collect();
        Settings {
            loopback: nets(&["127.0.0.0/8", "::1/128"]),
            // RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291.
            private: nets(&[
                "10.0.0.0/8",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "100.64.0.0/10",
                "169.254.0.0/16",
                "fc00::/7",
                "fe80::/10",
            ]),
            zone: Vec::new(),
            region: Vec::new(),
            internet: nets(&["0.0.0.0/0", "::/0"]),
            nat: Vec::new(),
        }
    }
}

impl Settings {
    fn by_link(&self) -> [(Link, &[Place]); Link::COUNT - 1] {
        [
            (Link::Loopback, &self.loopback),
            (Link::Private, &self.private),
            (Link::Zone, &self.zone),
            (Link::Region, &self.region),
            (Link::Internet, &self.internet),
            (Link::Nat, &self.nat),
        ]
    }
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    Network(IpNet),
    Host(String),
    /// All hosts below it.
    Below(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Place::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Place::Network(address.into()));
        }
        let below = text.strip_prefix("*.");
        let name = below.unwrap_or(text).trim_end_matches('.').to_ascii_lowercase();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_number = name.rsplit('.').next().is_some_and(|end| end.bytes().all(|byte| byte.is_ascii_digit()));
        if name.is_empty() || !name.bytes().all(fits) || is_number {
            return Err(format!("{text:?} is no network, address or host; write 10.1.0.0/16, HOST or *.HOST"));
        }
        Ok(if below.is_some() { Place::Below(name) } else { Place::Host(name) })
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Place, String> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        match place {
            Place::Network(network) => network.to_string(),
            Place::Host(name) => name,
            Place::Below(name) => format!("*.{name}"),
        }
    }
}

/// The settings, in the order in which they are looked at.
pub struct Links {
    /// The longest first; of networks alike, the one of the dearer link.
    networks: Vec<(IpNet, Link)>,
    hosts: Vec<(Place, Link)>,
}

impl Links {
    pub fn new(settings: &Settings) -> Links {
        let (mut networks, mut hosts) = (Vec::new(), Vec::new());
        for (link, places) in settings.by_link() {
            for place in places {
                match place {
                    Place::Network(network) => networks.push((*network, link)),
                    Place::Host(_) | Place::Below(_) => hosts.push((place.clone(), link)),
                }
            }
        }
        networks.sort_by_key(|(network, link)| std::cmp::Reverse((network.prefix_len(), *link)));
        hosts.sort_by_key(|(place, link)| std::cmp::Reverse((length(place), *link)));
        Links { networks, hosts }
    }

    pub fn of_address(&self, address: IpAddr) -> Link {
        let address = address.to_canonical();
        let found = self.networks.iter().find(|(network, _)| network.contains(&address));
        found.map_or(Link::Unknown, |(_, link)| *link)
    }

    /// What the settings say of a host by its name, which goes before what its address says.
    pub fn of_host(&self, host: &str) -> Option<Link> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_it = |place: &Place| match place {
            Place::Host(name) => *name == host,
            Place::Below(name) => host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Place::Network(_) => false,
        };
        self.hosts.iter().find(|(place, _)| is_it(place)).map(|(_, link)| *link)
    }

    /// *Shape*: `reached` is None where a proxy stands between.
    pub fn of(&self, host: &str, reached: Option<IpAddr>) -> Link {
        let by_name = self.of_host(host);
        by_name.unwrap_or_else(|| reached.map_or(Link::Unknown, |address| self.of_address(address)))
    }
}

/// Whole names go before the domains that they are in, longer domains before shorter ones.
fn length(place: &Place) -> (bool, usize) {
    match place {
        Place::Network(_) => (false, 0),
        Place::Host(name) => (true, name.len()),
        Place::Below(name) => (false, name.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(texts: &[&str]) -> Vec<Place> {
        texts.iter().map(|text| text.parse().expect("a place")).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn every_address_has_a_link_without_any_settings() {
        let links = Links::new(&Settings::default());
        for (text, link) in [
            ("127.0.0.1", Link::Loopback),
            ("127.9.9.9", Link::Loopback),
            ("::1", Link::Loopback),
            ("::ffff:127.0.0.1", Link::Loopback),
            ("10.1.2.3", Link::Private),
            ("172.31.0.1", Link::Private),
            ("172.32.0.1", Link::Internet),
            ("192.168.1.1", Link::Private),
            ("100.64.0.1", Link::Private),
            ("fd00::1", Link::Private),
            ("fe80::1", Link::Private),
            ("192.0.2.1", Link::Internet),
            ("2001:db8::1", Link::Internet),
            ("::ffff:10.0.0.1", Link::Private),
        ] {
            assert_eq!(links.of_address(address(text)), link, "{text}");
        }
        assert_eq!(links.of("upstream.example", None), Link::Unknown, "a proxy stands between");
        assert_eq!(links.of("upstream.example", Some(address("192.0.2.1"))), Link::Internet);
    }

    #[test]
    fn the_longest_network_wins_and_of_two_alike_the_dearer_link() {
        let settings = Settings {
            zone: places(&["10.1.0.0/16"]),
            region: places(&["10.2.0.0/16", "10.1.9.0/24"]),
            nat: places(&["0.0.0.0/0"]),
            ..Settings::default()
        };
        let links = Links::new(&settings);
        for (text, link) in [
            ("10.1.0.1", Link::Zone),
            ("10.1.9.1", Link::Region),
            ("10.2.0.1", Link::Region),
            ("10.3.0.1", Link::Private),
            ("192.0.2.1", Link::Nat),
            ("2001:db8::1", Link::Internet),
        ] {
            assert_eq!(links.of_address(address(text)), link, "{text}");
        }
    }

    #[test]
    fn a_name_goes_before_an_address_and_the_nearest_name_before_others() {
        let settings = Settings {
            region: places(&["*.example", "mirror.inner.example"]),
            zone: places(&["*.Inner.Example."]),
            ..Settings::default()
        };
        let links = Links::new(&settings);
        let reached = Some(address("127.0.0.1"));
        for (host, link) in [
            ("a.example", Link::Region),
            ("example", Link::Loopback),
            ("notexample", Link::Loopback),
            ("a.inner.example", Link::Zone),
            ("MIRROR.inner.example.", Link::Region),
            ("b.mirror.inner.example", Link::Zone),
        ] {
            assert_eq!(links.of(host, reached), link, "{host}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "*", "*.", "10.0.0.0/33", "a b", "http://a", "a:80", "1.2.3", "300.1.1.1"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
        for (text, written) in [("10.1.2.3/16", "10.1.0.0/16"), ("10.1.2.3", "10.1.2.3/32"), ("*.A.b", "*.a.b")] {
            assert_eq!(String::from(text.parse::<Place>().expect("a place")), written);
        }
    }
}
