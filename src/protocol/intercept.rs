//! Interception: tunnels to hosts that the operator lists are ended here, so that what goes through them is cached like
//! all else. Off unless hosts are listed. Plain HTTP in a tunnel is answered too: nothing stands between it and us.
//!
//! A tunnel is entered only where the authority of the CONNECT is listed and the client's TLS names the same host (SNI,
//! RFC 6066 §3; an address is never sent there, so none must be). Where the two differ it is carried on unread: that is
//! what every host gets that is not listed, so nobody loses anything, and a certificate is never made for a name that
//! was not asked of us twice. The same holds for what is not HTTP, and for a client that has shown that it does not take
//! our certificate: a build goes on without the cache rather than not at all.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quick_cache::sync::Cache as Kept;
use serde::{Deserialize, Serialize};

use super::inside::{Opening, Reception};
use crate::model::party::Party;

/// How long a client that does not take our certificate is left alone.
const DOUBT: Duration = Duration::from_secs(600);
/// Clients and hosts that are remembered for that.
const DOUBTS_KEPT: usize = 4096;
/// Some clients say nothing and leave; others leave for reasons of their own, but hardly twice in a row.
const LEFT_MAX: u8 = 2;

/// `[intercept]` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Hosts whose TLS is ended here: `HOST`, `HOST:PORT`, or `*.HOST` for all below one.
    pub hosts: Vec<String>,
}

impl Settings {
    /// *Errors*: which one is none, and what to write instead.
    pub fn patterns(&self) -> Result<Vec<Pattern>, String> {
        self.hosts.iter().map(|text| Pattern::parse(text)).collect()
    }
}

/// Hosts that are listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// In lower case; an IPv6 address without brackets.
    host: String,
    /// Those below `host`, and not itself.
    below: bool,
    port: u16,
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, String> {
        let wrong = || format!("{text:?} is no host; write HOST, HOST:PORT or *.HOST");
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let url = url::Url::parse(&format!("https://{rest}/")).map_err(|_| wrong())?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !is_bare || rest.contains(['/', '@', '?', '#', '*']) {
            return Err(wrong());
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if below && (!host.contains('.') || host.parse::<std::net::IpAddr>().is_ok()) {
            return Err(format!("{text:?} stands for too much; name the hosts"));
        }
        Ok(Pattern { host, below, port: url.port().unwrap_or(443) })
    }

    /// The name or address that has to be vouched for.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn is(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let named = match self.below {
            true => host.strip_suffix(&*self.host).is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            false => host == self.host,
        };
        named && port == self.port
    }
}

/// Which tunnels are entered.
pub struct Intercept {
    listed: ArcSwap<Vec<Pattern>>,
    doubts: Kept<(Party, Box<str>), Doubt>,
}

/// A client that does not seem to take our certificate for a host.
#[derive(Clone, Copy, Default)]
struct Doubt {
    left: u8,
    /// Until when it is left alone, in the clock's `elapsed`.
    until: Option<Duration>,
}

/// What is done with a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passage {
    Enter { is_tls: bool },
    Around,
    End,
}

impl Intercept {
    pub fn new(listed: Vec<Pattern>) -> Intercept {
        Intercept { listed: ArcSwap::from_pointee(listed), doubts: Kept::new(DOUBTS_KEPT) }
    }

    /// Takes up a new list; tunnels that are open go on as they are.
    pub fn reload(&self, listed: Vec<Pattern>) {
        self.listed.store(Arc::new(listed));
    }

    fn lists(&self, host: &str, port: u16) -> bool {
        self.listed.load().iter().any(|pattern| pattern.is(host, port))
    }

    /// Whether what is in a tunnel is worth a look.
    pub(super) fn looks(&self, host: &str, port: u16, party: &Party, now: Duration) -> bool {
        let is_left_alone = || {
            let doubt = self.doubts.get(&(party.clone(), Box::from(host)));
            doubt.and_then(|doubt| doubt.until).is_some_and(|until| now < until)
        };
        port == 80 || self.lists(host, port) && !is_left_alone()
    }

    /// *Shape*: `host` and `port` of the CONNECT.
    pub(super) fn passage(&self, host: &str, port: u16, opening: &Opening) -> Passage {
        let is_listed = self.lists(host, port);
        match opening {
            Opening::Tls { name, speaks_http: true } if is_listed && is_same(name.as_deref(), host) => {
                Passage::Enter { is_tls: true }
            }
            Opening::Http { upgrades: false } if is_listed || port == 80 => Passage::Enter { is_tls: false },
            Opening::Nothing => Passage::End,
            Opening::Tls { .. } | Opening::Http { .. } | Opening::Other => Passage::Around,
        }
    }

    /// Remembers how a client took our certificate. True: it is left alone from now on.
    pub(super) fn learn(&self, host: &str, party: &Party, reception: &Reception, now: Duration) -> bool {
        let key = (party.clone(), Box::from(host));
        let left = match reception {
            Reception::Distrusted { .. } => LEFT_MAX,
            Reception::Left => self.doubts.get(&key).unwrap_or_default().left.saturating_add(1),
            Reception::Whole => {
                self.doubts.remove(&key);
                return false;
            }
            Reception::Failed { .. } => return false,
        };
        let until = (left >= LEFT_MAX).then(|| now + DOUBT);
        self.doubts.insert(key, Doubt { left, until });
        until.is_some()
    }
}

/// Whether TLS names the host that the tunnel was asked for.
fn is_same(name: Option<&str>, host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    match name {
        Some(name) => name.eq_ignore_ascii_case(host) && !literal,
        None => literal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intercept(hosts: &[&str]) -> Intercept {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Intercept::new(Settings { hosts }.patterns().expect("hosts"))
    }

    fn tls(name: Option<&str>) -> Opening {
        Opening::Tls { name: name.map(str::to_owned), speaks_http: true }
    }

    const ENTER: Passage = Passage::Enter { is_tls: true };

    #[test]
    fn only_listed_hosts_are_entered() {
        let some = intercept(&["a.example", "b.example:8443", "*.c.example", "10.0.0.1", "[::1]:8443"]);
        for (host, port) in
            [("a.example", 443), ("b.example", 8443), ("x.c.example", 443), ("10.0.0.1", 443), ("[::1]", 8443)]
        {
            assert!(some.lists(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("a.example", 8443),
            ("x.a.example", 443),
            ("b.example", 443),
            ("c.example", 443),
            (".c.example", 443),
            ("xc.example", 443),
            ("a.example.", 443),
            ("1.10.0.0.1", 443),
        ] {
            assert!(!some.lists(host, port), "{host}:{port}");
            assert_eq!(some.passage(host, port, &tls(Some(host))), Passage::Around, "{host}:{port}");
        }
        assert!(!intercept(&[]).lists("a.example", 443));
    }

    #[test]
    fn both_names_must_agree() {
        let some = intercept(&["a.example", "b.example", "10.0.0.1"]);
        assert_eq!(some.passage("a.example", 443, &tls(Some("A.example"))), ENTER);
        assert_eq!(some.passage("10.0.0.1", 443, &tls(None)), ENTER);
        for (host, name) in [
            ("a.example", None),
            ("a.example", Some("b.example")),
            ("a.example", Some("other.example")),
            ("other.example", Some("a.example")),
            ("10.0.0.1", Some("a.example")),
            ("10.0.0.1", Some("10.0.0.1")),
        ] {
            assert_eq!(some.passage(host, 443, &tls(name)), Passage::Around, "{host} {name:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_carried_unread() {
        let some = intercept(&["a.example"]);
        let strange = Opening::Tls { name: Some("a.example".into()), speaks_http: false };
        for opening in [strange, Opening::Other, Opening::Http { upgrades: true }] {
            assert_eq!(some.passage("a.example", 443, &opening), Passage::Around, "{opening:?}");
        }
        assert_eq!(some.passage("a.example", 443, &Opening::Nothing), Passage::End);
        let plain = Opening::Http { upgrades: false };
        assert_eq!(some.passage("a.example", 443, &plain), Passage::Enter { is_tls: false });
        assert_eq!(some.passage("other.example", 80, &plain), Passage::Enter { is_tls: false });
        assert_eq!(some.passage("other.example", 80, &tls(Some("other.example"))), Passage::Around);
        assert_eq!(some.passage("other.example", 443, &plain), Passage::Around);
    }

    #[test]
    fn a_list_that_stands_for_too_much_is_refused() {
        for wrong in ["*", "*.*", "*.com", "a.example/x", "https://a.example", "u@a.example", "", "*.10.0.0.1", "a b"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Pattern::parse("A.Example").expect("a host").host(), "a.example");
    }

    #[test]
    fn who_does_not_take_the_certificate_is_left_alone_for_a_while() {
        let some = intercept(&["a.example"]);
        let (one, other) = (Party::of([127, 0, 0, 1].into(), None), Party::of([192, 0, 2, 1].into(), None));
        let at = Duration::from_secs;
        let looks = |party: &Party, now| some.looks("a.example", 443, party, at(now));
        assert!(some.learn("a.example", &one, &Reception::Distrusted { alert: "unknown_ca".into() }, at(0)));
        assert!(!looks(&one, 1) && looks(&other, 1) && looks(&one, 600));
        // Who leaves without a word is asked twice; who asks for anything in between took it.
        assert!(!some.learn("a.example", &other, &Reception::Left, at(0)));
        assert!(looks(&other, 1));
        assert!(!some.learn("a.example", &other, &Reception::Whole, at(1)));
        assert!(!some.learn("a.example", &other, &Reception::Left, at(2)));
        assert!(some.learn("a.example", &other, &Reception::Left, at(3)));
        assert!(!looks(&other, 4));
    }
}
