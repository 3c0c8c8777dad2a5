//! What an operator says of another larder that may be asked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::model::units;
use crate::upstream::settings::{SecretSource, SettingsError};

/// One table `[peers.NAME]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerSettings {
    /// Scheme, host and port.
    pub url: String,
    /// Its token, with the right to read.
    pub token: Option<SecretSource>,
    /// What the bytes go over, as the operator calls it; peers may share one. None: a link of its own.
    pub link: Option<String>,
    /// Who costs less is asked first.
    pub usd_per_gb: f64,
    /// Bytes that the link may carry in a day of UTC. None: any number.
    #[serde(with = "units::bytes_option")]
    pub max_bytes_per_day: Option<u64>,
    /// How long it may take over an answer, and keep still in the middle of a body.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Certificates (PEM) trusted beside the system's. None: those of `upstream`.
    pub ca_file: Option<PathBuf>,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings {
            url: String::new(),
            token: None,
            link: None,
            usd_per_gb: 0.0,
            max_bytes_per_day: None,
            timeout: Duration::from_secs(1),
            ca_file: None,
        }
    }
}

impl PeerSettings {
    /// Its address, if it and the rest can be right.
    ///
    /// *Errors*: what is wrong, and what would be right.
    pub fn check(&self, name: &str) -> Result<Url, SettingsError> {
        let wrong = |key, value: &str, why| SettingsError::Value { key, value: value.to_owned(), why };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        for (key, name) in [("peers", name), ("peers.link", self.link.as_deref().unwrap_or(name))] {
            if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
                return Err(wrong(key, name, "is made of 1 to 64 letters, digits, and - . _"));
            }
        }
        let address = |why| wrong("peers.url", &self.url, why);
        let url = Url::parse(&self.url).map_err(|_| address("is no address; write https://HOST:PORT/"))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Not shown: it holds a secret.
            return Err(wrong("peers.url", "(an address with a credential)", "name the token by peers.token instead"));
        }
        if !matches!(url.scheme(), "http" | "https") || url.path() != "/" || url.query().is_some() {
            return Err(address("is more or less than an origin; write https://HOST:PORT/"));
        }
        if url.scheme() == "http" && self.token.is_some() && !is_this_machine(&url) {
            return Err(address("would carry the token in the clear; write https"));
        }
        if !(0.0..=1e6).contains(&self.usd_per_gb) {
            return Err(wrong("peers.usd_per_gb", &self.usd_per_gb.to_string(), "is no price"));
        }
        if self.timeout < Duration::from_millis(10) || self.timeout > Duration::from_secs(60) {
            return Err(wrong("peers.timeout", &units::format_duration(self.timeout), "is between 10ms and 60s"));
        }
        Ok(url)
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Result<Url, String> {
        let settings: PeerSettings = toml::from_str(more).map_err(|why| why.to_string())?;
        settings.check("eu").map_err(|why| why.to_string())
    }

    #[test]
    fn a_peer_is_an_origin_a_price_and_a_bound() {
        let whole = "url = \"https://eu.example:7070\"\nlink = \"atlantic\"\nusd_per_gb = 0.02\ntimeout = \"2s\"\n\
                     max_bytes_per_day = \"10GB\"\ntoken = { file = \"/run/secrets/eu\" }";
        assert_eq!(read(whole).expect("reads").as_str(), "https://eu.example:7070/");
        assert!(read("url = \"http://127.0.0.1:7070/\"\ntoken = { env = \"T\" }").is_ok());
        for wrong in [
            "",
            "url = \"eu.example\"",
            "url = \"ftp://eu.example/\"",
            "url = \"https://eu.example/cache/\"",
            "url = \"http://eu.example/\"\ntoken = { env = \"T\" }",
            "url = \"https://eu.example/\"\nlink = \"a b\"",
            "url = \"https://eu.example/\"\nusd_per_gb = -1.0",
            "url = \"https://eu.example/\"\nusd_per_gb = nan",
            "url = \"https://eu.example/\"\ntimeout = \"1h\"",
            "url = \"https://eu.example/\"\nbudget = 1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let why = read("url = \"https://ci:hunter2@eu.example/\"").expect_err("a credential");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
