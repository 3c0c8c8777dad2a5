//! Where a request goes: scheme, host and port (RFC 6454). What credentials and breakers are bound to.

use std::fmt;

use url::{Host, Url};

/// Host and port of a socket to open. The host is parsed as the URL standard says, so that `0x7f.1` is already
/// `127.0.0.1` here and what is judged is what would be connected to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
}

impl Target {
    /// Parses a host as a client wrote it; IPv6 with or without brackets.
    pub(crate) fn parse(host: &str, port: u16) -> Option<Target> {
        if let Ok(address) = host.parse() {
            return Some(Target { host: Host::Ipv6(address), port });
        }
        let host = Host::parse(host).ok()?;
        if let Host::Domain(name) = &host
            && (name.len() > 253 || name.trim_matches('.').is_empty())
        {
            return None;
        }
        Some(Target { host, port })
    }

    /// The name without brackets, as a resolver or a certificate has it.
    pub(crate) fn name(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    pub(crate) target: Target,
}

impl Origin {
    /// None unless `url` is http or https and names a host.
    pub(crate) fn of(url: &Url) -> Option<Origin> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let host = url.host()?.to_owned();
        let port = url.port().unwrap_or(scheme.default_port());
        Some(Origin { scheme, target: Target { host, port } })
    }

    /// The host, with the port where it is not the scheme's own: how errors and statistics name it.
    pub(crate) fn host(&self) -> String {
        if self.target.port == self.scheme.default_port() {
            self.target.host.to_string()
        } else {
            self.target.to_string()
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(out, "{scheme}://{}", self.host())
    }
}
