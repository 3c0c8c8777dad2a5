//! The one place that tells what failed and what to do next.

use std::process::ExitCode;

use crate::app::error::{StartError, StartErrorKind};
use crate::config::ConfigError;
use crate::protocol::gate::GateError;
use crate::protocol::token::TokenError;

/// Failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or configuration.
pub(crate) const USAGE: u8 = 2;

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One line, lower case, no full stop.
    pub message: String,
    /// What to do next. None: the message says it.
    pub help: Option<String>,
    pub code: u8,
}

impl Failure {
    pub fn failed(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { message: message.into(), help: Some(help.into()), code: FAILED }
    }

    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { message: message.into(), help: Some(help.into()), code: USAGE }
    }

    /// What standard error is told.
    pub fn text(&self) -> String {
        match &self.help {
            Some(help) => format!("error: {}\nhelp: {help}\n", self.message),
            None => format!("error: {}\n", self.message),
        }
    }

    /// The same in one line, for what goes on without it.
    pub fn line(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.clone(),
        }
    }

    pub fn report(&self) -> ExitCode {
        super::out::error(&self.text());
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure { message: error.to_string(), help: None, code: USAGE }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        let code = match error.kind {
            StartErrorKind::Config => USAGE,
            StartErrorKind::InUse | StartErrorKind::Failed => FAILED,
        };
        let help = Some(error.help).filter(|help| !help.is_empty());
        Failure { message: error.message, help, code }
    }
}

/// Wrong usage, in one line, and one that shows the right one.
impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Failure {
        let text = error.to_string();
        // First what is wrong, then in any number: values, tips, the usage.
        let mut parts = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        let first = parts.next().unwrap_or_default();
        let (message, values) = match first.split_once(" [possible values: ") {
            Some((message, values)) => (message.to_owned(), Some(values.trim_end_matches(']').to_owned())),
            None => (first, None),
        };
        let mut help: Vec<String> = values.map(|values| format!("there is: {values}")).into_iter().collect();
        for part in parts {
            if let Some(tip) = part.strip_prefix("tip: ") {
                help.extend(tip.split(" tip: ").map(str::to_owned));
            } else if let Some(usage) = part.strip_prefix("Usage: ") {
                help.push(usage.to_owned());
            }
        }
        help.push("more with --help".to_owned());
        Failure::usage(message.trim_start_matches("error: "), help.join("; "))
    }
}

impl From<GateError> for Failure {
    fn from(error: GateError) -> Failure {
        Failure::usage(error.to_string(), error.help())
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Failure {
        let help = match &error {
            TokenError::Io { .. } => "give this user the right to read and write it, or name another with --file",
            TokenError::Invalid { .. } => "mend the file, or move it away and create its tokens anew",
        };
        let code = if matches!(error, TokenError::Io { .. }) { FAILED } else { USAGE };
        Failure { message: error.to_string(), help: Some(help.to_owned()), code }
    }
}
