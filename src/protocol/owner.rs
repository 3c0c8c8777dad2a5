//! Who owns a data directory: a key in a file that its user alone can read. The process that serves the directory proves by
//! it that it does: it answers a challenge. Else whoever has a port that larder had, or would have, would pass for it.
//!
//! The key itself never leaves its file. A proof holds for one challenge and one port: who passes a challenge on to the real
//! one gets a proof for that one's port.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use http::{HeaderMap, HeaderName};
use subtle::ConstantTimeEq;

use super::mount::is_api;
use super::token::replace;
use crate::model::hex;
use crate::runtime::clock::random_bytes;

/// The request's field that holds the challenge: 32 random bytes in hex.
pub const CHALLENGE: HeaderName = HeaderName::from_static("larder-challenge");
/// The request's field that holds what the API of a builds' larder wants: `OwnerKey::pass`.
pub const PASS: HeaderName = HeaderName::from_static("larder-owner");
/// What is said to who shows none.
pub(super) const WANTED: &str = "this larder is for its user's builds: only commands of that user may ask for this\n";
const FILE: &str = "owner.key";

/// The key of a data directory. Never shown by `Debug`.
#[derive(Clone, Copy)]
pub struct OwnerKey([u8; 32]);

impl OwnerKey {
    /// Reads the key of `dir`. `Ok(None)`: it has none that can be believed, since nobody served it, or others can read it.
    ///
    /// *Errors*: it belongs to another user, and so does what serves there.
    pub fn read(dir: &Path) -> io::Result<Option<OwnerKey>> {
        let path = dir.join(FILE);
        let meta = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta?,
        };
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("{FILE} is another user's")));
        }
        let mut key = [0; 32];
        let text = std::fs::read_to_string(&path)?;
        let is_whole = meta.mode() & 0o077 == 0 && hex::decode(text.trim(), &mut key).is_some();
        Ok(is_whole.then_some(OwnerKey(key)))
    }

    /// Reads the key, or makes one in the place of what cannot be believed. For who holds the directory's lock.
    ///
    /// *Errors*: the disk's.
    pub fn read_or_make(dir: &Path) -> io::Result<OwnerKey> {
        if let Ok(Some(key)) = OwnerKey::read(dir) {
            return Ok(key);
        }
        let key = OwnerKey(random_bytes());
        replace(&dir.join(FILE), &format!("{}\n", hex::encode(&key.0)))?;
        Ok(key)
    }

    /// What answers `challenge` on a connection to `port`. None: that is no challenge.
    pub fn proof(&self, challenge: &[u8], port: u16) -> Option<String> {
        let mut asked = [0; 34];
        hex::decode(std::str::from_utf8(challenge).ok()?, &mut asked[..32])?;
        asked[32..].copy_from_slice(&port.to_be_bytes());
        let key = blake3::derive_key("larder 2026 proof of a data directory's owner", &self.0);
        Some(hex::encode(blake3::keyed_hash(&key, &asked).as_bytes()))
    }

    /// What its owner's commands show to a larder that has proven that it is theirs. It proves nothing in its turn.
    pub fn pass(&self) -> String {
        hex::encode(&blake3::derive_key("larder 2026 pass of a data directory's owner", &self.0))
    }

    /// Whether a request holds that.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        headers.get(PASS).is_some_and(|shown| shown.as_bytes().ct_eq(self.pass().as_bytes()).into())
    }

    /// Whether `answer` proves that who gave it knows the key.
    pub fn is_proven(&self, challenge: &str, port: u16, answer: &str) -> bool {
        let expected = self.proof(challenge.as_bytes(), port);
        expected.is_some_and(|expected| expected.as_bytes().ct_eq(answer.as_bytes()).into())
    }
}

/// Whether the larder of one user's builds answers nobody else there: all of the API, but that it is there.
pub(super) fn is_guarded(path: &str) -> bool {
    is_api(path) && path != "/api/v1/health"
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("OwnerKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_proof_is_for_one_challenge_at_one_port_by_one_key() {
        let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        assert!(OwnerKey::read(dir.path()).expect("no error").is_none());
        let key = OwnerKey::read_or_make(dir.path()).expect("makes one");
        let read = OwnerKey::read(dir.path()).expect("is ours").expect("is there");
        let challenge = hex::encode(&random_bytes::<32>());
        let proof = key.proof(challenge.as_bytes(), 7070).expect("a challenge");
        assert!(read.is_proven(&challenge, 7070, &proof));
        assert!(!read.is_proven(&challenge, 7071, &proof), "passed on from another port");
        assert!(!read.is_proven(&hex::encode(&random_bytes::<32>()), 7070, &proof));
        let stranger = OwnerKey::read_or_make(other.path()).expect("makes one");
        assert!(!read.is_proven(&challenge, 7070, &stranger.proof(challenge.as_bytes(), 7070).expect("a challenge")));
        assert!(key.proof(b"short", 7070).is_none() && key.proof(&challenge.as_bytes()[2..], 7070).is_none());
        let shown = |pass: String| HeaderMap::from_iter([(PASS, pass.parse().expect("a value"))]);
        assert!(key.is_shown(&shown(read.pass())) && !key.is_shown(&shown(proof.clone())));
        assert!(!key.is_shown(&shown(stranger.pass())) && !key.is_shown(&HeaderMap::new()));
        assert!(!proof.contains(&hex::encode(&key.0)) && format!("{key:?}") == "OwnerKey(…)");
    }

    #[test]
    fn a_key_that_others_can_read_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = OwnerKey::read_or_make(dir.path()).expect("makes one");
        let file = dir.path().join(FILE);
        let mode = || std::fs::metadata(&file).expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("is ours");
        assert!(OwnerKey::read(dir.path()).expect("is ours").is_none());
        let fresh = OwnerKey::read_or_make(dir.path()).expect("makes one");
        assert!(fresh.0 != key.0 && mode() == 0o600);
        assert_eq!(OwnerKey::read_or_make(dir.path()).expect("keeps it").0, fresh.0);
    }
}
