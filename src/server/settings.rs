//! What the operator may set of the front door. Defaults follow `docs/ARCHITECTURE.md`, invariant 9.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ServerError;
use crate::model::units;

/// Where larder listens, and what it puts up with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Addresses to listen on. Each speaks HTTP/1.1, HTTP/2 and, when `tls` is set, TLS, told apart by the first bytes.
    pub listen: Vec<SocketAddr>,
    pub tls: Tls,
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 7070));
        Settings { listen: vec![loopback], tls: Tls::default(), limits: Limits::default() }
    }
}

/// How clients are shown who we are. Nothing set: no TLS.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM chain, the server's own certificate first. Read again on a reload.
    pub certificate: Option<PathBuf>,
    /// PEM private key.
    pub key: Option<PathBuf>,
    /// Without files: names and addresses for which larder's own certificate authority issues a certificate.
    pub names: Vec<String>,
}

/// Bounds on what clients may use up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Request line and headers together.
    #[serde(with = "units::bytes")]
    pub header_bytes: u64,
    pub headers: usize,
    #[serde(with = "units::bytes")]
    pub target_bytes: u64,
    /// From a request's first byte to the end of its headers (HTTP/1).
    #[serde(with = "units::duration")]
    pub header_read: Duration,
    /// How long a connection may be silent between requests.
    #[serde(with = "units::duration")]
    pub idle: Duration,
    /// How long a CONNECT tunnel may carry no byte in either direction.
    #[serde(with = "units::duration")]
    pub tunnel_idle: Duration,
    #[serde(with = "units::duration")]
    pub tls_handshake: Duration,
    /// After this a connection takes no further request.
    #[serde(with = "units::duration")]
    pub connection_life: Duration,
    /// Connections open at once; further ones wait unaccepted.
    pub connections: usize,
    /// Connections open at once from one IPv4 address or IPv6 /64; further ones are closed.
    pub connections_per_address: u32,
    /// Requests a second from one address, on average. None: any number.
    pub requests_per_second: Option<u32>,
    /// Bytes a second that a body must move, in either direction, averaged over `slow_body_window`.
    #[serde(with = "units::bytes")]
    pub slow_body_bytes: u64,
    #[serde(with = "units::duration")]
    pub slow_body_window: Duration,
    pub http2: Http2,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header_bytes: 32 << 10,
            headers: 100,
            target_bytes: 8 << 10,
            header_read: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(600),
            tls_handshake: Duration::from_secs(5),
            connection_life: Duration::from_secs(3600),
            connections: 20_000,
            connections_per_address: 8192,
            requests_per_second: None,
            slow_body_bytes: 1 << 10,
            slow_body_window: Duration::from_secs(30),
            http2: Http2::default(),
        }
    }
}

/// Bounds of HTTP/2 connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http2 {
    pub streams: u32,
    #[serde(with = "units::bytes")]
    pub header_list_bytes: u64,
    /// Streams reset by the peer before we looked at them (CVE-2023-44487).
    pub pending_resets: usize,
    /// Streams that the peer made us reset (CVE-2025-8671).
    pub local_resets: usize,
    /// Bytes buffered for a stream that the peer does not take.
    #[serde(with = "units::bytes")]
    pub send_buffer_bytes: u64,
    #[serde(with = "units::bytes")]
    pub frame_bytes: u64,
    /// Receive windows of all connections together; each gets its part at accept, between 1 and 16 MiB.
    #[serde(with = "units::bytes")]
    pub window_budget_bytes: u64,
}

impl Default for Http2 {
    fn default() -> Http2 {
        Http2 {
            streams: 128,
            header_list_bytes: 16 << 10,
            pending_resets: 20,
            local_resets: 256,
            send_buffer_bytes: 64 << 10,
            frame_bytes: 256 << 10,
            window_budget_bytes: 64 << 20,
        }
    }
}

impl Http2 {
    /// The receive window of a connection and of each of its streams, when `connections` are open.
    pub fn window(&self, connections: u64) -> u32 {
        let window = (self.window_budget_bytes / connections.max(1)).clamp(1 << 20, 16 << 20);
        u32::try_from(window).unwrap_or(1 << 20)
    }
}

impl Settings {
    /// *Errors*: `Invalid`, with the name of what cannot be.
    pub fn check(&self) -> Result<(), ServerError> {
        let invalid = |what: &str| Err(ServerError::Settings { what: what.to_owned() });
        let limits = &self.limits;
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return invalid("tls.certificate and tls.key go together");
        }
        if self.tls.certificate.is_some() && !self.tls.names.is_empty() {
            return invalid("tls.names is for a certificate of our own: leave it out beside tls.certificate");
        }
        if !(8 << 10..=1 << 20).contains(&limits.header_bytes) {
            return invalid("limits.header_bytes must be between 8KiB and 1MiB");
        }
        if limits.headers == 0 || limits.headers > 1000 {
            return invalid("limits.headers must be between 1 and 1000");
        }
        if limits.connections == 0 || limits.connections_per_address == 0 {
            return invalid("limits.connections and limits.connections_per_address must be at least 1");
        }
        if limits.tunnel_idle < Duration::from_secs(1) {
            return invalid("limits.tunnel_idle must be at least 1s");
        }
        if !(16 << 10..=(1 << 24) - 1).contains(&limits.http2.frame_bytes) {
            return invalid("limits.http2.frame_bytes must be between 16KiB and 16MiB less one byte");
        }
        if limits.http2.streams == 0 || limits.requests_per_second == Some(0) {
            return invalid("limits.http2.streams and limits.requests_per_second must be at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_read_back() {
        let settings = Settings::default();
        assert!(settings.check().is_ok());
        let text = toml::to_string(&settings).expect("writes");
        assert_eq!(toml::from_str::<Settings>(&text).expect("reads"), settings);
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        assert!(toml::from_str::<Settings>("lisen = []").is_err());
        for wrong in [
            "[tls]\nkey = \"k\"",
            "[limits]\nheader_bytes = 10",
            "[limits]\nconnections = 0",
            "[limits.http2]\nframe_bytes = 1",
            "[limits]\nrequests_per_second = 0",
        ] {
            let settings: Settings = toml::from_str(wrong).expect("reads");
            assert!(settings.check().is_err(), "{wrong}");
        }
    }

    #[test]
    fn windows_share_one_budget() {
        let http2 = Http2::default();
        assert_eq!(http2.window(0), 16 << 20);
        assert_eq!(http2.window(4), 16 << 20);
        assert_eq!(http2.window(16), 4 << 20);
        assert_eq!(http2.window(20_000), 1 << 20);
    }
}
