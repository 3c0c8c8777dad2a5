//! What the process says of itself: tracing to standard error, as text or JSON, redacted. Requests are the access
//! log's.

use std::io;

use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::redact::Redacting;

/// How much is said, and in which form.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,larder::upstream=debug`.
    pub level: String,
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { level: "info".to_owned(), format: Format::Text }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log level `{level}` is not one: {why}")]
    Level { level: String, why: String },
    #[error("the log was set up twice")]
    Twice,
}

/// Changes the level while the process runs.
#[derive(Clone)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogLevel {
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        self.filter.reload(filter).map_err(|why| LogError::Level { level: level.to_owned(), why: why.to_string() })
    }
}

/// Sets the process's log up, once.
///
/// *Errors*: an unknown level, or a log that is set up already.
pub fn init(settings: &Settings) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
    let lines = match settings.format {
        Format::Text => {
            tracing_subscriber::fmt::layer().with_writer(Stderr).with_ansi(false).with_target(false).boxed()
        }
        Format::Json => tracing_subscriber::fmt::layer().with_writer(Stderr).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| LogError::Twice)?;
    Ok(LogLevel { filter: handle })
}

/// Whether `level` can be used, for checking a configuration.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(|_| ())
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(level).map_err(|why| LogError::Level { level: level.to_owned(), why: why.to_string() })
}

struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Redacting<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Redacting(io::stderr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_level_is_refused_with_its_name() {
        let error = check_level("larder=loud").expect_err("no such level");
        assert!(error.to_string().contains("larder=loud"), "{error}");
        assert!(check_level("info,larder::upstream=debug").is_ok());
    }
}
