//! Text that must not be seen. Has neither Debug nor Display, so that no log, error or page can show it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::settings::SecretSource;

/// A password, token or the like.
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Reads it from where the operator said. The error names the place, never the content.
    pub(crate) fn read(source: &SecretSource) -> Result<Secret, String> {
        let text = match source {
            SecretSource::Env(name) => {
                std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?
            }
            SecretSource::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned()
            }
        };
        if text.is_empty() { Err("the secret is empty".to_owned()) } else { Ok(Secret(text)) }
    }

    /// The value as it stands. None when it cannot stand in a header field.
    pub(crate) fn plain(&self) -> Option<HeaderValue> {
        sensitive(&self.0)
    }

    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        sensitive(&format!("Bearer {}", self.0))
    }

    /// Basic authentication (RFC 7617) of `user` with this password.
    pub(crate) fn basic(&self, user: &str) -> Option<HeaderValue> {
        sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", self.0))))
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
