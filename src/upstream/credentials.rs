//! The operator's credentials, each bound to one origin. Shown nowhere: no type here has Debug.
//!
//! Follows RFC 6454 for what an origin is and the netrc format as curl and ftp(1) read it. `default` entries are not
//! used: they would go to every host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use url::Url;

use super::origin::{Origin, Scheme, Target};
use super::secret::Secret;
use super::settings::{CredentialSettings, Settings, SettingsError};

pub(crate) struct Credentials {
    by_origin: HashMap<Origin, (HeaderName, HeaderValue)>,
}

impl Credentials {
    /// Reads all that the settings name. What is configured wins over netrc.
    pub(crate) fn load(settings: &Settings) -> Result<Credentials, SettingsError> {
        let mut by_origin = HashMap::new();
        for path in netrc_files(settings) {
            let wrong = |why: String| SettingsError::Netrc { path: path.clone(), why };
            let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
            for machine in parse_netrc(&text) {
                let Some(target) = Target::parse(&machine.name, 443) else { continue };
                let value = machine.password.basic(&machine.login);
                let value = value.ok_or_else(|| wrong(format!("the entry of {} cannot be sent", machine.name)))?;
                by_origin.insert(Origin { scheme: Scheme::Https, target }, (AUTHORIZATION, value));
            }
        }
        for credential in &settings.credentials {
            let wrong = |why: String| SettingsError::Credential { origin: credential.origin.clone(), why };
            let origin = bare_origin(&credential.origin)
                .ok_or_else(|| SettingsError::Credential { origin: "an entry".into(), why: BARE.into() })?;
            by_origin.insert(origin, field(credential).map_err(wrong)?);
        }
        Ok(Credentials { by_origin })
    }

    /// With one more.
    pub(crate) fn and(mut self, more: Option<(Origin, HeaderName, HeaderValue)>) -> Credentials {
        self.by_origin.extend(more.map(|(origin, name, value)| (origin, (name, value))));
        self
    }

    pub(crate) fn find(&self, origin: &Origin) -> Option<&(HeaderName, HeaderValue)> {
        self.by_origin.get(origin)
    }
}

const BARE: &str = "origin must be scheme, host and port alone, such as https://packages.example.test";

fn bare_origin(text: &str) -> Option<Origin> {
    let url = Url::parse(text).ok()?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    if bare && anonymous { Origin::of(&url) } else { None }
}

fn field(settings: &CredentialSettings) -> Result<(HeaderName, HeaderValue), String> {
    let CredentialSettings { origin: _, bearer, user, password, header, value } = settings;
    let unfit = || "the secret has characters that a header field cannot have".to_owned();
    match (bearer, user, password, header, value) {
        (Some(bearer), None, None, None, None) => {
            Ok((AUTHORIZATION, Secret::read(bearer)?.bearer().ok_or_else(unfit)?))
        }
        (None, Some(user), Some(password), None, None) => {
            Ok((AUTHORIZATION, Secret::read(password)?.basic(user).ok_or_else(unfit)?))
        }
        (None, None, None, Some(header), Some(value)) => {
            let name = header.parse().map_err(|_| "header is not a field name".to_owned())?;
            Ok((name, Secret::read(value)?.plain().ok_or_else(unfit)?))
        }
        _ => Err("give bearer, or user and password, or header and value".to_owned()),
    }
}

fn netrc_files(settings: &Settings) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = settings.netrc.iter().cloned().collect();
    if settings.netrc_from_env && files.is_empty() {
        let named = std::env::var_os("NETRC").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".netrc"));
        files.extend(named.or_else(home).filter(|path| path.exists()));
    }
    files
}

pub(super) struct Machine {
    name: String,
    pub(super) login: String,
    password: Secret,
}

/// Entries of `machine`, each complete with login and password; macros and accounts are skipped.
pub(super) fn parse_netrc(text: &str) -> Vec<Machine> {
    let mut machines = Vec::new();
    let mut open: Option<String> = None;
    let (mut login, mut password) = (String::new(), None);
    let mut words = netrc_words(text).into_iter();
    let mut close = |name: Option<String>, login: &mut String, password: &mut Option<String>| {
        let login = std::mem::take(login);
        if let (Some(name), Some(password)) = (name, password.take()) {
            machines.push(Machine { name, login, password: Secret::new(password) });
        }
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => {
                close(open.take(), &mut login, &mut password);
                open = words.next();
            }
            "default" => close(open.take(), &mut login, &mut password),
            "login" => login = words.next().unwrap_or_default(),
            "password" => password = words.next(),
            "account" => drop(words.next()),
            _ => {}
        }
    }
    close(open.take(), &mut login, &mut password);
    machines
}

/// Words of a netrc file: separated by white space, `"quoted"` with backslashes, comments and macros left out.
fn netrc_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut letters = line.chars().peekable();
        loop {
            while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
            let Some(first) = letters.peek().copied() else { break };
            let starts_line = words.is_empty() || line.trim_start().starts_with('#');
            if first == '#' && starts_line {
                break;
            }
            let word = if first == '"' { quoted(&mut letters) } else { bare(&mut letters) };
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word);
        }
    }
    words
}

fn bare(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace()) {
        word.push(letter);
    }
    word
}

fn quoted(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut word = String::new();
    letters.next();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => word.extend(letters.next()),
            letter => word.push(letter),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::upstream::settings::SecretSource;

    fn origin(text: &str) -> Origin {
        Origin::of(&Url::parse(text).expect("a url")).expect("an origin")
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn empty(origin: &str) -> CredentialSettings {
        let (bearer, user, password, header, value) = (None, None, None, None, None);
        CredentialSettings { origin: origin.into(), bearer, user, password, header, value }
    }

    #[test]
    fn a_credential_is_found_for_its_origin_alone() {
        let secret = file("canary\n");
        let source = || Some(SecretSource::File(secret.path().to_owned()));
        let settings = Settings {
            credentials: vec![
                CredentialSettings { bearer: source(), ..empty("https://a.test") },
                CredentialSettings { user: Some("u".into()), password: source(), ..empty("https://a.test:8443") },
                CredentialSettings { header: Some("x-key".into()), value: source(), ..empty("http://b.test") },
            ],
            ..Settings::default()
        };
        let credentials = Credentials::load(&settings).expect("loads");
        let found = |url: &str| credentials.find(&origin(url)).map(|(name, value)| (name.as_str(), value.as_bytes()));
        assert_eq!(found("https://a.test/x"), Some(("authorization", b"Bearer canary".as_slice())));
        assert_eq!(found("https://a.test:8443"), Some(("authorization", b"Basic dTpjYW5hcnk=".as_slice())));
        assert_eq!(found("http://b.test"), Some(("x-key", b"canary".as_slice())));
        for url in ["http://a.test", "https://b.test", "https://a.test.", "https://x.a.test", "https://a.test:444"] {
            assert_eq!(found(url), None, "{url}");
        }
    }

    #[test]
    fn unfit_credentials_are_refused_without_showing_them() {
        let secret = file("canary\x01");
        let source = || Some(SecretSource::File(secret.path().to_owned()));
        for credential in [
            CredentialSettings { bearer: source(), ..empty("https://a.test") },
            CredentialSettings { bearer: source(), ..empty("https://u:canary@a.test") },
            CredentialSettings { bearer: source(), ..empty("https://a.test/path") },
            CredentialSettings { user: Some("u".into()), ..empty("https://a.test") },
            CredentialSettings { bearer: Some(SecretSource::Env("LARDER_NO_SUCH".into())), ..empty("https://a.test") },
        ] {
            let settings = Settings { credentials: vec![credential], ..Settings::default() };
            let Err(error) = Credentials::load(&settings) else { panic!("must be refused") };
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn netrc_entries_are_bound_to_https() {
        let netrc = file(
            "# a comment\nmachine a.test login me password \"pa ss\\\"\"\nmacdef init\nmachine evil.test login x password x\n\n\
             machine b.test\n  login you\n  account n\n  password #hash\ndefault login d password d\n",
        );
        let settings = Settings { netrc: Some(netrc.path().to_owned()), ..Settings::default() };
        let credentials = Credentials::load(&settings).expect("loads");
        let found = |url: &str| credentials.find(&origin(url)).map(|(_, value)| value.as_bytes().to_vec());
        assert_eq!(found("https://a.test"), Secret::new("pa ss\"".into()).basic("me").map(|v| v.as_bytes().to_vec()));
        assert_eq!(found("https://b.test"), Secret::new("#hash".into()).basic("you").map(|v| v.as_bytes().to_vec()));
        for url in ["http://a.test", "https://a.test:8443", "https://evil.test", "https://other.test"] {
            assert_eq!(found(url), None, "{url}");
        }
    }
}
