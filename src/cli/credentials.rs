//! Credentials that stood in addresses, kept for the server: one file for each origin in the data directory, readable by
//! its owner alone, and the lines of the configuration that name the files. Nothing of a credential is printed, not even
//! its user: some hosts take a token there.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use toml::Value;

use super::discover::{Found, Secret};
use super::failure::Failure;
use super::out;
use crate::runtime::aside::{Mode, replace};

/// Below the data directory.
const FOLDER: &str = "credentials";

/// Keeps them, the first one of each origin, and tells what the configuration must say.
///
/// *Errors*: the directory or file that could not be made.
pub(crate) fn keep(data: &Path, found: &[Found]) -> Result<String, Failure> {
    let mut secrets: BTreeMap<&str, (&Secret, &str)> = BTreeMap::new();
    for found in found {
        for secret in &found.secrets {
            secrets.entry(&secret.origin).or_insert((secret, &found.from));
        }
    }
    let dir = data.join(FOLDER);
    let mut lines = String::new();
    for (origin, (secret, from)) in secrets {
        let name = origin.replace("://", "-").replace(|one: char| !one.is_ascii_alphanumeric() && one != '.', "-");
        let file = dir.join(name);
        write(&dir, &file, secret).map_err(|error| {
            Failure::failed(
                format!("{}: the credential for {origin} cannot be kept: {error}", file.display()),
                "run it as the user that owns the data directory, or name that with LARDER_DATA_DIR",
            )
        })?;
        out::note(&format!("the credential for {origin} in {} is kept in {}", out::plain(from), file.display()));
        lines.push_str(&format!(
            "\n# Was found in {}.\n[[upstream.credentials]]\norigin = {}\nheader = \"authorization\"\nvalue = {{ file = {} }}\n",
            out::plain(from),
            Value::String(origin.to_owned()),
            Value::String(file.display().to_string()),
        ));
    }
    Ok(lines)
}

fn write(dir: &Path, file: &Path, secret: &Secret) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // RFC 7617, as a tool would have sent it.
    let words = STANDARD.encode(format!("{}:{}", secret.user, secret.password));
    replace(file, format!("Basic {words}\n").as_bytes(), Mode::Exactly(0o600))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::parse;

    #[test]
    fn a_credential_goes_to_a_file_of_its_owner_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let found = |url: &str| Found::one("pypi", "", "pip.conf\n[x]".into(), url).expect("is an address");
        let all = [
            found("https://to:ken@a.example:81/x"),
            found("https://other:one@a.example:81/y"),
            found("https://b.example"),
        ];
        for _ in 0..2 {
            let lines = keep(&data, &all).expect("can be kept");
            assert!(!lines.contains("to:") && !lines.contains("ken@") && lines.matches("[[").count() == 1, "{lines}");
            let config = parse("it", &lines).expect("reads");
            assert_eq!(config.upstream.credentials[0].origin, "https://a.example:81");
        }
        let file = data.join("credentials/https-a.example-81");
        assert_eq!(std::fs::read_to_string(&file).expect("is there"), "Basic dG86a2Vu\n");
        let mode = |path: &Path| path.metadata().expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&data.join("credentials"))), (0o600, 0o700));
        assert_eq!(std::fs::read_dir(data.join("credentials")).expect("is there").count(), 1);
    }
}
