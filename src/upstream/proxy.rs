//! The outbound proxy: which one, for which host. Follows what curl and Go do with `http_proxy` and its kin.

use http::header::HeaderValue;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::origin::{Origin, Scheme, Target};
use super::secret::Secret;
use super::settings::{ProxySettings, SettingsError};

/// A proxy and our credential there. No Debug: it holds the credential.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) scheme: Scheme,
    pub(crate) target: Target,
    pub(crate) authorization: Option<HeaderValue>,
}

pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

/// A member of `no_proxy`.
enum Direct {
    All,
    Net(IpNet),
    /// The name itself and what is below it; a port restricts.
    Domain(String, Option<u16>),
    Address(std::net::IpAddr, Option<u16>),
}

impl Proxies {
    /// `env` reads an environment variable; the settings win over it.
    pub(crate) fn load(
        settings: &ProxySettings,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Proxies, SettingsError> {
        let env = |name: &str| {
            let read = |name: &str| env(name).filter(|value| !value.trim().is_empty());
            if settings.from_env { read(name).or_else(|| read(&name.to_ascii_uppercase())) } else { None }
        };
        // A CGI gateway puts a request's `Proxy` field into HTTP_PROXY (CVE-2016-5385): there, only lower case counts.
        let gateway = env("request_method").is_some();
        let env = |name: &str| env(name).filter(|_| !(gateway && name == "http_proxy"));
        let all = || env("all_proxy");
        let http = configured(settings, settings.http.as_deref())?.or_else(|| from_env(env("http_proxy").or_else(all)));
        let https =
            configured(settings, settings.https.as_deref())?.or_else(|| from_env(env("https_proxy").or_else(all)));
        let none = settings.none.clone().or_else(|| env("no_proxy")).unwrap_or_default();
        let direct = none.split([',', ' ']).filter_map(|entry| parse_direct(entry.trim())).collect();
        Ok(Proxies { http, https, direct })
    }

    /// The proxy on the way to `origin`; None to go directly. Loopback is always reached directly.
    pub(crate) fn route(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = match origin.scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }?;
        let loopback = match &origin.target.host {
            Host::Domain(name) => matches!(name.trim_end_matches('.'), "localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        let direct = loopback || self.direct.iter().any(|entry| entry.covers(&origin.target));
        if direct { None } else { Some(proxy) }
    }
}

impl Direct {
    fn covers(&self, target: &Target) -> bool {
        let address = match &target.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some((*address).into()),
            Host::Ipv6(address) => Some(address.to_canonical()),
        };
        match self {
            Direct::All => true,
            Direct::Net(net) => address.is_some_and(|address| net.contains(&address)),
            Direct::Address(own, port) => address == Some(*own) && port.is_none_or(|port| port == target.port),
            Direct::Domain(domain, port) => {
                let Host::Domain(name) = &target.host else { return false };
                let name = name.trim_end_matches('.');
                let below =
                    name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && port.is_none_or(|port| port == target.port)
            }
        }
    }
}

fn parse_direct(entry: &str) -> Option<Direct> {
    if entry == "*" {
        return Some(Direct::All);
    }
    if let Ok(net) = entry.parse() {
        return Some(Direct::Net(net));
    }
    if let Ok(address) = entry.trim_start_matches('[').trim_end_matches(']').parse() {
        return Some(Direct::Address(address, None));
    }
    if let Ok(address) = entry.parse::<std::net::SocketAddr>() {
        return Some(Direct::Address(address.ip(), Some(address.port())));
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let name = name.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
    if name.is_empty() { None } else { Some(Direct::Domain(name, port)) }
}

fn configured(settings: &ProxySettings, text: Option<&str>) -> Result<Option<Proxy>, SettingsError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = |why: String| SettingsError::Proxy { why };
    let (mut proxy, userinfo) = parse_proxy(text).map_err(|why| wrong(why.to_owned()))?;
    if userinfo.is_some() {
        return Err(wrong("write user and password under their own keys, not into the address".to_owned()));
    }
    proxy.authorization = match (&settings.user, &settings.password) {
        (Some(user), Some(password)) => Secret::read(password).map_err(wrong)?.basic(user),
        (None, None) => None,
        _ => return Err(wrong("user and password go together".to_owned())),
    };
    Ok(Some(proxy))
}

fn from_env(text: Option<String>) -> Option<Proxy> {
    match parse_proxy(text?.trim()) {
        Ok((mut proxy, userinfo)) => {
            proxy.authorization = userinfo;
            Some(proxy)
        }
        Err(why) => {
            tracing::warn!(why, "the proxy named by the environment is not used");
            None
        }
    }
}

/// Reads `[http[s]://][user[:password]@]host[:port]`. The error never shows the text, which may hold a password.
fn parse_proxy(text: &str) -> Result<(Proxy, Option<HeaderValue>), &'static str> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme).map_err(|_| "a proxy is written http://host:port")?;
    let origin = Origin::of(&url).ok_or("only http and https proxies are known, no SOCKS")?;
    // A proxy's own port, where none is given, is 1080 for curl and 80 for Go; the scheme's is the less surprising.
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let userinfo = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        let password = Secret::new(decode(url.password().unwrap_or_default()));
        Some(password.basic(&decode(url.username())).ok_or("the proxy's password cannot be sent")?)
    };
    Ok((Proxy { scheme: origin.scheme, target: origin.target, authorization: None }, userinfo))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(env: &[(&str, &str)], url: &str) -> Option<String> {
        let read = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let proxies = Proxies::load(&ProxySettings::default(), read).expect("loads");
        let origin = Origin::of(&Url::parse(url).expect("a url")).expect("an origin");
        proxies.route(&origin).map(|proxy| proxy.target.to_string())
    }

    #[test]
    fn variables_are_read_in_both_cases_and_lower_wins() {
        let p = |text: &str| Some(text.to_owned());
        assert_eq!(
            route(&[("http_proxy", "http://a.test:1"), ("HTTP_PROXY", "b.test:2")], "http://x.test"),
            p("a.test:1")
        );
        assert_eq!(route(&[("HTTPS_PROXY", "b.test:2")], "https://x.test"), p("b.test:2"));
        assert_eq!(route(&[("HTTPS_PROXY", "b.test:2")], "http://x.test"), None);
        assert_eq!(route(&[("all_proxy", "c.test:3")], "http://x.test"), p("c.test:3"));
        assert_eq!(route(&[("http_proxy", "a.test"), ("ALL_PROXY", "c.test:3")], "https://x.test"), p("c.test:3"));
        assert_eq!(route(&[("https_proxy", "")], "https://x.test"), None);
        assert_eq!(route(&[("HTTP_PROXY", "a.test:1"), ("REQUEST_METHOD", "GET")], "http://x.test"), None);
        assert_eq!(route(&[("all_proxy", "socks5://c.test:3")], "http://x.test"), None);
    }

    #[test]
    fn no_proxy_is_obeyed() {
        let none = "corp.test, .dotted.test,10.0.0.0/8,192.168.1.1,only.test:8080,[fd00::1]";
        let env = [("all_proxy", "proxy.test:3128"), ("no_proxy", none)];
        for url in [
            "https://corp.test",
            "https://a.corp.test.",
            "https://dotted.test",
            "https://a.dotted.test",
            "http://10.1.2.3",
            "http://192.168.1.1",
            "http://only.test:8080",
            "http://[fd00::1]",
            "http://localhost",
            "http://127.0.0.1:9",
            "http://[::1]",
        ] {
            assert_eq!(route(&env, url), None, "{url}");
        }
        for url in ["https://notcorp.test", "http://11.0.0.1", "http://only.test", "https://corp.test.evil.test"] {
            assert_eq!(route(&env, url), Some("proxy.test:3128".into()), "{url}");
        }
        assert_eq!(route(&[("all_proxy", "p.test:1"), ("NO_PROXY", "*")], "http://x.test"), None);
    }

    #[test]
    fn userinfo_becomes_a_credential_and_is_never_shown() {
        let read = |name: &str| (name == "http_proxy").then(|| "http://us%40er:p%3Ass@p.test:1".to_owned());
        let proxies = Proxies::load(&ProxySettings::default(), read).expect("loads");
        let value = proxies.http.and_then(|proxy| proxy.authorization).expect("a credential");
        assert_eq!(Some(&value), Secret::new("p:ss".into()).basic("us@er").as_ref());
        assert!(value.is_sensitive());
        let settings = ProxySettings { https: Some("http://u:canary@p.test".into()), ..ProxySettings::default() };
        let Err(error) = Proxies::load(&settings, |_| None) else { panic!("must be refused") };
        assert!(!format!("{error:?} {error}").contains("canary"));
    }
}
