//! The sections that belong to no single folder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::model::lookup::{Fallback, Trust, Upstream};
use crate::telemetry::access_log;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    pub dir: Option<PathBuf>,
}

/// One ecosystem's sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ecosystem {
    pub upstreams: Vec<String>,
    pub next: Next,
}

/// When the next upstream in a list is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Next {
    #[default]
    Absence,
    Failure,
}

impl Ecosystem {
    /// The upstreams, parsed.
    ///
    /// *Errors*: which address is wrong, and what to write instead.
    pub fn upstreams(&self) -> Result<Vec<Upstream>, String> {
        let next = match self.next {
            Next::Absence => Fallback::OnAbsence,
            Next::Failure => Fallback::OnFailure,
        };
        self.upstreams.iter().map(|text| Ok(Upstream { url: base(text)?, next, trust: Trust::Configured })).collect()
    }
}

/// Reads the base address of an upstream; its path ends in `/`.
pub(crate) fn base(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|_| format!("{text:?} is no address; write https://HOST/PATH/"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("{text:?} is not http or https; write https://HOST/PATH/"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().unwrap_or_default();
        return Err(format!("the address for {host} holds a credential; move it to netrc or [upstream] credentials"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
    pub access: Option<PathBuf>,
}

impl Log {
    /// Where the access log goes, and how it is written.
    pub fn access_log(&self) -> access_log::Settings {
        let target = match &self.access {
            Some(path) => access_log::Target::from(path.to_string_lossy().into_owned()),
            None => access_log::Target::Off,
        };
        let format = match self.format {
            LogFormat::Text => access_log::Format::Text,
            LogFormat::Json => access_log::Format::Json,
        };
        access_log::Settings { target, format, ..access_log::Settings::default() }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: LogFormat::Text, access: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_an_address_without_a_credential() {
        let read = |text: &str| Ecosystem { upstreams: vec![text.to_owned()], next: Next::Absence }.upstreams();
        let upstreams = read("https://mirror.example/go").expect("reads");
        assert_eq!(upstreams[0].url.as_str(), "https://mirror.example/go/");
        for text in ["mirror.example", "file:///srv", "ftp://mirror.example/"] {
            assert!(read(text).is_err(), "{text}");
        }
        let why = read("https://ci:hunter2@mirror.example/").expect_err("a credential");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
