//! The token files as the gate reads them: what each token grants, found by its keyed hash, and whether a file was written
//! again since.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::label::{NO_LABEL, label_of};
use super::token::{Line, Right, Salt, Token, TokenError, TokenFile};
use crate::model::hex;
use crate::model::realm::Scope;
use crate::model::time::Timestamp;

/// What one file grants.
pub(super) struct Grants {
    path: PathBuf,
    stamp: Option<Stamp>,
    salt: Option<Salt>,
    /// By the first bytes of the hash. A hash is keyed, so that its bytes tell a guesser nothing.
    by_hash: HashMap<[u8; 8], Vec<Arc<Grant>>>,
}

/// Tells whether a file was written again.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    inode: u64,
    len: u64,
    modified_ns: i128,
}

/// A token that the files name.
pub(super) struct Grant {
    hash: [u8; 32],
    pub name: Arc<str>,
    pub right: Right,
    pub ends: Option<Timestamp>,
    pub label: Arc<str>,
    pub scope: Scope,
}

impl Grants {
    pub fn read(path: &Path) -> Result<Grants, TokenError> {
        // Before the text, so that a change in between is seen the next time.
        let stamp = stamp(path);
        let read = TokenFile::read(path)?;
        let mut file = Grants { path: path.to_owned(), stamp, salt: None, by_hash: HashMap::new() };
        if let Some(read) = read {
            file.salt = Some(read.salt);
            for line in &read.lines {
                if let Some(grant) = Grant::of(line) {
                    let mut first = [0; 8];
                    first.copy_from_slice(&grant.hash[..8]);
                    file.by_hash.entry(first).or_default().push(Arc::new(grant));
                }
            }
        }
        Ok(file)
    }

    /// *Errors*: as `read`.
    pub fn read_again(&self) -> Result<Grants, TokenError> {
        Grants::read(&self.path)
    }

    pub fn has_changed(&self) -> bool {
        stamp(&self.path) != self.stamp
    }

    pub fn is_missing(&self) -> bool {
        self.stamp.is_none()
    }

    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    pub fn find(&self, token: &Token) -> Option<Arc<Grant>> {
        let hash = token.hash(self.salt.as_ref()?);
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        let among = self.by_hash.get(&first)?;
        among.iter().find(|grant| bool::from(grant.hash.ct_eq(&hash))).cloned()
    }
}

impl Grant {
    /// None: the line grants nothing. `TokenFile::read` has checked its parts.
    fn of(line: &Line) -> Option<Grant> {
        let mut hash = [0; 32];
        hex::decode(&line.hash, &mut hash)?;
        Some(Grant {
            hash,
            name: Arc::from(line.name.as_str()),
            right: line.right()?,
            ends: line.ends().ok()?,
            label: Arc::from(line.label.as_deref().and_then(label_of).unwrap_or(NO_LABEL)),
            scope: line.scope.as_deref().map_or_else(Scope::shared, Scope::named),
        })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Some(Stamp { inode: meta.ino(), len: meta.len(), modified_ns })
}
