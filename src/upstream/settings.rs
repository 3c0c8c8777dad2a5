//! What an operator may choose about upstreams. Holds no secret: credentials are named by environment variable or file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::units;

/// Limits, deadlines, policy and credentials of the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Ask no upstream at all.
    pub offline: bool,
    /// The word by which this node knows its own requests in `Via`; random when not set.
    pub node_id: Option<String>,
    /// Offer HTTP/2 in the TLS handshake.
    pub http2: bool,
    #[serde(with = "units::duration")]
    pub resolve_deadline: Duration,
    /// For all addresses of a name together.
    #[serde(with = "units::duration")]
    pub connect_deadline: Duration,
    #[serde(with = "units::duration")]
    pub handshake_deadline: Duration,
    /// From the start of one attempt, connecting included, to the head of the answer.
    #[serde(with = "units::duration")]
    pub first_byte_deadline: Duration,
    /// From the ask to the head of its answer: queue, retries and redirects included.
    #[serde(with = "units::duration")]
    pub answer_deadline: Duration,
    /// How long an ask may wait for a free place at its host.
    #[serde(with = "units::duration")]
    pub queue_deadline: Duration,
    /// A body slower than this many bytes a second over a whole `rate_window` is given up.
    #[serde(with = "units::bytes")]
    pub minimum_rate: u64,
    #[serde(with = "units::duration")]
    pub rate_window: Duration,
    /// Exchanges at one time: with one host, and in all.
    pub requests_per_host: usize,
    pub requests: usize,
    /// Asks that may wait for one host; more are turned away.
    pub queue_per_host: usize,
    /// Idle connections kept to one host, and for how long.
    pub idle_per_host: usize,
    #[serde(with = "units::duration")]
    pub idle_connection: Duration,
    /// Hosts whose state is remembered.
    pub hosts: usize,
    /// CONNECT tunnels at one time.
    pub tunnels: usize,
    pub redirects: usize,
    /// Follow a redirect from https to http.
    pub allow_downgrade: bool,
    pub retry: RetrySettings,
    pub breaker: BreakerSettings,
    #[serde(with = "units::bytes")]
    pub http2_window: u64,
    #[serde(with = "units::bytes")]
    pub http1_buffer: u64,
    /// Networks that hosts named by clients may be in although they are not public.
    pub allow_private: Vec<IpNet>,
    /// Networks that nothing may be fetched from.
    pub deny: Vec<IpNet>,
    /// Ports that CONNECT may reach.
    pub connect_ports: Vec<u16>,
    /// Our own listeners: never fetched from.
    pub own_addresses: Vec<SocketAddr>,
    pub proxy: ProxySettings,
    /// Sent only to their origin, and only where the operator configured the upstream: a client that names the
    /// origin itself, or a redirect that leads there, gets no credential.
    pub credentials: Vec<CredentialSettings>,
    /// A netrc file to read; its entries are bound to `https://MACHINE`.
    pub netrc: Option<PathBuf>,
    /// Read the file that `NETRC` names, or `~/.netrc`.
    pub netrc_from_env: bool,
    /// Certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Trust the system's certificates.
    pub system_roots: bool,
    /// No operator's choice: what the client is made for.
    #[serde(skip)]
    pub purpose: Purpose,
}

/// Whom a client asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Purpose {
    #[default]
    Upstreams,
    /// Another larder, which speaks gRPC: HTTP/2 without asking, in the clear too.
    Peer,
    /// The metadata services that tell this machine who it is, and nobody else. Never on a stranger's word.
    OwnIdentity,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            offline: false,
            node_id: None,
            http2: true,
            resolve_deadline: Duration::from_secs(2),
            connect_deadline: Duration::from_secs(2),
            handshake_deadline: Duration::from_secs(5),
            first_byte_deadline: Duration::from_secs(10),
            answer_deadline: Duration::from_secs(30),
            queue_deadline: Duration::from_secs(15),
            minimum_rate: 1024,
            rate_window: Duration::from_secs(30),
            requests_per_host: 64,
            requests: 1024,
            queue_per_host: 1024,
            idle_per_host: 32,
            idle_connection: Duration::from_secs(60),
            hosts: 1024,
            tunnels: 1024,
            redirects: 10,
            allow_downgrade: false,
            retry: RetrySettings::default(),
            breaker: BreakerSettings::default(),
            http2_window: 16 << 20,
            http1_buffer: 512 << 10,
            allow_private: Vec::new(),
            deny: Vec::new(),
            connect_ports: vec![443],
            own_addresses: Vec::new(),
            proxy: ProxySettings::default(),
            credentials: Vec::new(),
            netrc: None,
            netrc_from_env: false,
            ca_file: None,
            system_roots: true,
            purpose: Purpose::Upstreams,
        }
    }
}

/// How often a failed exchange is repeated.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Attempts for one ask, the first included.
    pub attempts: u32,
    /// Retries that a host may be sent, as a percentage of its requests.
    pub percent: u32,
    /// Retries that a host may be sent beyond the percentage; grows back by one in ten seconds.
    pub reserve: u32,
    /// The first pause is random up to this; each later one up to twice as long.
    #[serde(with = "units::duration")]
    pub pause: Duration,
    #[serde(with = "units::duration")]
    pub longest_pause: Duration,
    /// How often one broken body is taken up again.
    pub resumes: u32,
}

impl Default for RetrySettings {
    fn default() -> RetrySettings {
        RetrySettings {
            attempts: 3,
            percent: 10,
            reserve: 10,
            pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(2),
            resumes: 10,
        }
    }
}

/// When a host that fails is left alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures in a row that open it: of requests without an answer, or of bodies.
    pub failures: u32,
    /// How long it stays open before one request may try; doubled each time that fails.
    #[serde(with = "units::duration")]
    pub rest: Duration,
    #[serde(with = "units::duration")]
    pub longest_rest: Duration,
    /// The longest `Retry-After` that is obeyed.
    #[serde(with = "units::duration")]
    pub longest_retry_after: Duration,
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings {
            failures: 5,
            rest: Duration::from_secs(5),
            longest_rest: Duration::from_secs(60),
            longest_retry_after: Duration::from_secs(600),
        }
    }
}

/// The proxy that upstreams are reached through.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxySettings {
    /// Read `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in lower then upper case.
    pub from_env: bool,
    /// For http upstreams; wins over the environment. Without user and password: those go below.
    pub http: Option<String>,
    pub https: Option<String>,
    /// Comma-separated hosts, domains, addresses and networks that are reached directly; wins over the environment.
    pub none: Option<String>,
    pub user: Option<String>,
    pub password: Option<SecretSource>,
}

impl Default for ProxySettings {
    fn default() -> ProxySettings {
        ProxySettings { from_env: true, http: None, https: None, none: None, user: None, password: None }
    }
}

/// One credential and the origin (scheme, host, port) that it goes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSettings {
    pub origin: String,
    /// Sent as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretSource>,
    /// With `password`: sent as `Authorization: Basic …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretSource>,
    /// With `value`: a field of another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<SecretSource>,
}

/// Where a secret is read from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// `{ env = "NAME" }`
    Env(String),
    /// `{ file = "PATH" }`; one newline at the end is dropped.
    File(PathBuf),
}

/// Settings that cannot be carried out. For the operator's eyes: names files and variables, never their contents.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettingsError {
    #[error("certificates in {path}: {why}")]
    Certificates { path: PathBuf, why: String },
    #[error("TLS cannot be set up: {why}")]
    Tls { why: String },
    #[error("credential for {origin}: {why}")]
    Credential { origin: String, why: String },
    #[error("netrc file {path}: {why}")]
    Netrc { path: PathBuf, why: String },
    #[error("outbound proxy: {why}")]
    Proxy { why: String },
    #[error("{key} = {value}: {why}")]
    Value { key: &'static str, value: String, why: &'static str },
}

impl Settings {
    /// Refuses numbers that would make the client useless.
    pub fn check(&self) -> Result<(), SettingsError> {
        let positive = [
            ("requests_per_host", self.requests_per_host),
            ("requests", self.requests),
            ("hosts", self.hosts),
            ("retry.attempts", self.retry.attempts as usize),
            ("breaker.failures", self.breaker.failures as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(SettingsError::Value { key, value: value.to_string(), why: "must be at least 1" });
            }
        }
        // hyper's own floor is 8 KiB; below it, it panics. HTTP/2 windows are 31 bits.
        let between = [
            ("http1_buffer", self.http1_buffer, 8 << 10, 64 << 20),
            ("http2_window", self.http2_window, 65_535, (1 << 31) - 1),
        ];
        for (key, value, least, most) in between {
            if value < least || value > most {
                let value = units::format_bytes(value);
                return Err(SettingsError::Value { key, value, why: "is out of bounds" });
            }
        }
        if self.rate_window.is_zero() {
            return Err(SettingsError::Value { key: "rate_window", value: "0s".into(), why: "must be longer" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_documented_and_unknown_keys_are_refused() {
        let text = r#"
            first_byte_deadline = "3s"
            http2_window = "1MiB"
            allow_private = ["10.0.0.0/8"]
            [retry]
            attempts = 2
            [[credentials]]
            origin = "https://packages.example.test"
            user = "ci"
            password = { file = "/run/secrets/ci" }
            [[credentials]]
            origin = "https://other.example.test:8443"
            bearer = { env = "OTHER_TOKEN" }
        "#;
        let settings: Settings = toml::from_str(text).expect("reads");
        assert_eq!(settings.first_byte_deadline, Duration::from_secs(3));
        assert_eq!(settings.http2_window, 1 << 20);
        assert_eq!(settings.retry.attempts, 2);
        assert_eq!(settings.credentials.len(), 2);
        settings.check().expect("good");
        assert!(toml::from_str::<Settings>("first_bite_deadline = \"3s\"").is_err());
        let again = toml::to_string(&settings).expect("writes");
        toml::from_str::<Settings>(&again).expect("reads what it writes");
    }

    #[test]
    fn useless_numbers_are_refused() {
        assert!(Settings { requests_per_host: 0, ..Settings::default() }.check().is_err());
        assert!(Settings { http1_buffer: 10, ..Settings::default() }.check().is_err());
        assert!(Settings { http2_window: 1 << 31, ..Settings::default() }.check().is_err());
    }
}
