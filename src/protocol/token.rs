//! larder's own tokens: their text, and the file that holds their keyed hashes. A token is shown once, when it is made;
//! the file lets nobody in.
//!
//! The text is `lrd_`, 256 random bits in hex, and four bytes of checksum, so that a scanner finds leaked ones and a
//! slip of the hand is told from a wrong token.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::hex;
use crate::model::kind::ErrorKind;
use crate::model::time::Timestamp;
use crate::runtime::aside::{Aside, Mode};
use crate::runtime::clock::random_bytes;

/// What every token begins with.
pub const PREFIX: &str = "lrd_";
const TEXT_LEN: usize = PREFIX.len() + 64 + 8;

/// What a caller may do. Each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read, and fill by reading.
    Read,
    /// Store what clients make.
    Write,
    /// Change what is kept and from where.
    Admin,
}

impl Right {
    pub const ALL: [Right; 3] = [Right::Read, Right::Write, Right::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "admin",
        }
    }
}

impl FromStr for Right {
    type Err = String;

    fn from_str(text: &str) -> Result<Right, String> {
        let found = Right::ALL.into_iter().find(|right| right.name() == text);
        found.ok_or_else(|| format!("{text:?} is no right; there is read, write and admin"))
    }
}

/// A token in clear. Never shown by `Debug`.
#[derive(Clone, Copy)]
pub struct Token([u8; 32]);

impl Token {
    pub fn generate() -> Token {
        Token(random_bytes())
    }

    /// Whether `text` claims to be one of ours, well-formed or not.
    pub fn is_ours(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Reads a token. None: not ours, or a slip of the hand.
    pub fn parse(text: &str) -> Option<Token> {
        let body = text.strip_prefix(PREFIX).filter(|_| text.len() == TEXT_LEN && text.is_ascii())?;
        let (mut secret, mut sum) = ([0; 32], [0; 4]);
        hex::decode(&body[..64], &mut secret)?;
        hex::decode(&body[64..], &mut sum)?;
        (sum == checksum(&secret)).then_some(Token(secret))
    }

    /// The text to hand out, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}{}", hex::encode(&self.0), hex::encode(&checksum(&self.0)))
    }

    /// What a file keyed by `salt` holds of this token.
    pub fn hash(&self, salt: &Salt) -> [u8; 32] {
        *blake3::keyed_hash(&salt.0, &self.0).as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(…)")
    }
}

fn checksum(secret: &[u8; 32]) -> [u8; 4] {
    let mut sum = [0; 4];
    sum.copy_from_slice(&blake3::derive_key("larder token checksum", secret)[..4]);
    sum
}

/// The key of a file's hashes.
#[derive(Clone, Copy)]
pub struct Salt([u8; 32]);

impl Salt {
    fn parse(text: &str) -> Option<Salt> {
        let mut salt = [0; 32];
        hex::decode(text.trim(), &mut salt)?;
        Some(Salt(salt))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Salt(…)")
    }
}

/// A token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{file}: {error}", file = file.display())]
    Io { file: PathBuf, error: io::Error },
    #[error("{file}: {why}", file = file.display())]
    Invalid { file: PathBuf, why: String },
}

impl TokenError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            TokenError::Io { .. } => ErrorKind::Unavailable,
            TokenError::Invalid { .. } => ErrorKind::Invalid,
        }
    }
}

/// A token as the file keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// What `token list` and `token revoke` call it.
    pub name: String,
    pub hash: String,
    pub rights: Vec<Right>,
    /// None: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<toml::value::Datetime>,
    /// The build label of callers that give none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The scope that it reads and writes; shared when none is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl Line {
    /// The greatest right that it carries.
    pub fn right(&self) -> Option<Right> {
        self.rights.iter().copied().max()
    }

    /// When it ends. *Errors*: the date lacks a day or an offset.
    pub fn ends(&self) -> Result<Option<Timestamp>, String> {
        let Some(expires) = self.expires else { return Ok(None) };
        let wrong = || format!("token {:?}: expires must be like 2027-01-31T00:00:00Z", self.name);
        timestamp(&expires).map(Some).ok_or_else(wrong)
    }
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Present in a file that is the same on every node; else the key stands in a file beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    #[serde(default)]
    token: Vec<Line>,
}

/// Where the key of the hashes stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keyed {
    /// In the file: it may be copied to every node.
    ByItself,
    /// In `token.key` beside it: the file alone tells nothing.
    ByNeighbour,
}

/// A file of tokens.
#[derive(Debug)]
pub struct TokenFile {
    pub path: PathBuf,
    pub salt: Salt,
    pub keyed: Keyed,
    pub lines: Vec<Line>,
}

impl TokenFile {
    /// Reads a file. `Ok(None)`: there is none.
    ///
    /// *Errors*: unreadable, not TOML, a wrong line; the message has no secret.
    pub fn read(path: &Path) -> Result<Option<TokenFile>, TokenError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TokenError::Io { file: path.to_owned(), error }),
        };
        let invalid = |why: String| TokenError::Invalid { file: path.to_owned(), why };
        // The error's own text would show the line, and a line holds a hash.
        let document: Document = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
            invalid(format!("line {line}: {}", error.message().replace('\n', ", ")))
        })?;
        let (salt, keyed) = match &document.salt {
            Some(salt) => (Salt::parse(salt), Keyed::ByItself),
            None => (neighbour(path)?, Keyed::ByNeighbour),
        };
        let salt = salt.ok_or_else(|| match keyed {
            Keyed::ByItself => invalid("salt must be 64 hex digits".to_owned()),
            Keyed::ByNeighbour => invalid("has no salt, and the token.key beside it is gone".to_owned()),
        })?;
        for line in &document.token {
            line.ends().map_err(invalid)?;
            if hex::decode(&line.hash, &mut [0; 32]).is_none() {
                return Err(invalid(format!("token {:?}: hash must be 64 hex digits", line.name)));
            }
        }
        Ok(Some(TokenFile { path: path.to_owned(), salt, keyed, lines: document.token }))
    }

    /// Reads a file, or begins a new one.
    ///
    /// *Errors*: as `read`.
    pub fn read_or_new(path: &Path, keyed: Keyed) -> Result<TokenFile, TokenError> {
        if let Some(file) = TokenFile::read(path)? {
            return Ok(file);
        }
        let salt = match keyed {
            Keyed::ByItself => Salt(random_bytes()),
            Keyed::ByNeighbour => match neighbour(path)? {
                Some(salt) => salt,
                None => begin_neighbour(path)?,
            },
        };
        Ok(TokenFile { path: path.to_owned(), salt, keyed, lines: Vec::new() })
    }

    /// Writes the file anew, for the owner's eyes alone.
    ///
    /// *Errors*: the disk's. The old file then still stands.
    pub fn write(&self) -> Result<(), TokenError> {
        let salt = match self.keyed {
            Keyed::ByItself => Some(hex::encode(&self.salt.0)),
            Keyed::ByNeighbour => None,
        };
        let document = Document { salt, token: self.lines.clone() };
        let text = toml::to_string(&document)
            .map_err(|error| TokenError::Invalid { file: self.path.clone(), why: error.to_string() })?;
        let head = "# larder's tokens, as keyed hashes. `larder token` writes this; a running larder reads it again.\n";
        replace(&self.path, &format!("{head}{text}")).map_err(|error| TokenError::Io { file: self.path.clone(), error })
    }
}

/// The key beside a file. `Ok(None)`: there is none.
fn neighbour(path: &Path) -> Result<Option<Salt>, TokenError> {
    let key = path.with_file_name("token.key");
    match std::fs::read_to_string(&key) {
        Ok(text) => match Salt::parse(&text) {
            Some(salt) => Ok(Some(salt)),
            None => Err(TokenError::Invalid { file: key, why: "must be 64 hex digits".to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TokenError::Io { file: key, error }),
    }
}

fn begin_neighbour(path: &Path) -> Result<Salt, TokenError> {
    let key = path.with_file_name("token.key");
    let salt = Salt(random_bytes());
    replace(&key, &format!("{}\n", hex::encode(&salt.0))).map_err(|error| TokenError::Io { file: key, error })?;
    Ok(salt)
}

/// Puts `text` in place of a file at once, readable by the owner alone.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut aside = Aside::new(path, Mode::Exactly(0o600))?;
    aside.file().write_all(text.as_bytes())?;
    // Who runs a command as root is not who serves.
    let (ours, owner) = (aside.file().metadata()?, std::fs::metadata(dir)?);
    if ours.uid() == 0 && owner.uid() != 0 {
        std::os::unix::fs::fchown(aside.file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    aside.put_durably()
}

/// An instant as TOML writes it, in UTC, to the second.
pub fn datetime(at: Timestamp) -> toml::value::Datetime {
    let (days, second) = (at.as_secs().div_euclid(86_400), at.as_secs().rem_euclid(86_400));
    // Days to a date in the Gregorian calendar, after H. Hinnant, "chrono-compatible low-level date algorithms".
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    toml::value::Datetime {
        date: Some(toml::value::Date { year: year as u16, month: month as u8, day: day as u8 }),
        time: Some(toml::value::Time {
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: Some((second % 60) as u8),
            nanosecond: None,
        }),
        offset: Some(toml::value::Offset::Z),
    }
}

/// The instant of a date with an offset, or of a bare date at midnight UTC. None: neither.
pub fn timestamp(at: &toml::value::Datetime) -> Option<Timestamp> {
    let date = at.date?;
    let (hour, minute, second) = match (at.time, at.offset) {
        (Some(time), Some(_)) => (time.hour, time.minute, time.second.unwrap_or(0)),
        (None, None) => (0, 0, 0),
        _ => return None,
    };
    let offset_minutes = match at.offset {
        Some(toml::value::Offset::Custom { minutes }) => i64::from(minutes),
        Some(toml::value::Offset::Z) | None => 0,
    };
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let year_of_era = year.rem_euclid(400);
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = era * 146_097 + of_era - 719_468;
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Some(Timestamp::from_secs(days * 86_400 + seconds - offset_minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_slip_is_seen() {
        let token = Token::generate();
        let text = token.reveal();
        assert!(text.starts_with("lrd_") && text.len() == TEXT_LEN, "{text}");
        assert_eq!(Token::parse(&text).expect("reads").0, token.0);
        let slip = if text.ends_with('0') { '1' } else { '0' };
        let slipped = format!("{}{slip}", &text[..text.len() - 1]);
        assert!(Token::parse(&slipped).is_none() && Token::is_ours(&slipped));
        for text in ["", "lrd_", "lrd_é", "ghp_0123", &text[..TEXT_LEN - 1], &format!("{text}0")] {
            assert!(Token::parse(text).is_none(), "{text}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn a_file_keyed_by_itself_works_on_every_node() {
        let (here, there) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let token = Token::generate();
        for keyed in [Keyed::ByItself, Keyed::ByNeighbour] {
            let path = here.path().join(format!("{keyed:?}.toml"));
            let mut file = TokenFile::read_or_new(&path, keyed).expect("begins");
            file.lines.push(Line {
                name: "ci".into(),
                hash: hex::encode(&token.hash(&file.salt)),
                rights: vec![Right::Read],
                expires: Some(datetime(Timestamp::from_secs(1_800_000_000))),
                label: None,
                scope: None,
            });
            file.write().expect("writes");
            let mode = std::fs::metadata(&path).expect("there").mode();
            assert_eq!(mode & 0o777, 0o600);
            let copy = there.path().join(path.file_name().expect("a name"));
            std::fs::copy(&path, &copy).expect("copies");
            match (keyed, TokenFile::read(&copy)) {
                (Keyed::ByItself, Ok(Some(read))) => {
                    assert_eq!(hex::encode(&token.hash(&read.salt)), read.lines[0].hash);
                }
                (Keyed::ByNeighbour, Err(error)) => assert_eq!(error.kind(), ErrorKind::Invalid),
                (keyed, other) => panic!("{keyed:?}: {other:?}"),
            }
            assert!(!std::fs::read_to_string(&path).expect("reads").contains(&token.reveal()[4..68]));
        }
    }

    #[test]
    fn a_wrong_file_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens.toml");
        for text in
            ["salt = \"abc\"\n", "[[token]]\nname = \"a\"\nhash = \"beef\"\nrights = []\n", "[[token]]\nhush = 1\n"]
        {
            std::fs::write(&path, text).expect("writes");
            let error = TokenFile::read(&path).expect_err(text).to_string();
            assert!(!error.contains("beef") && !error.contains('\n'), "{error}");
        }
        assert!(TokenFile::read(&dir.path().join("none.toml")).expect("no error").is_none());
    }

    #[test]
    fn dates_and_instants_agree() {
        for (text, secs) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2027-03-01T00:00:00Z", 1_803_859_200),
        ] {
            let read: toml::value::Datetime = text.parse().expect("a date");
            assert_eq!(timestamp(&read), Some(Timestamp::from_secs(secs)), "{text}");
            assert_eq!(datetime(Timestamp::from_secs(secs)).to_string(), text);
        }
        let east: toml::value::Datetime = "1970-01-01T02:00:00+02:00".parse().expect("a date");
        assert_eq!(timestamp(&east), Some(Timestamp(0)));
        let local: toml::value::Datetime = "1970-01-01T02:00:00".parse().expect("a date");
        assert_eq!(timestamp(&local), None);
    }
}
