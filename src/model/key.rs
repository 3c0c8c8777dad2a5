//! What a cached answer is filed under: the cache key of RFC 9111 §2, in columns and never as one string.

use super::digest::Prefix;
use super::hex;
use super::realm::Scope;

/// All that could change the answer, but for the request headers named by `Vary`: those choose among the entries of a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub scope: Scope,
    /// The grammar that understands the path: an ecosystem's name, or `http` for RFC 9111 alone.
    pub ecosystem: &'static str,
    /// Scheme, host and port of the source, or the configured upstream's name.
    pub upstream: String,
    /// Path and query below the upstream.
    pub path: String,
    /// What else picks one of several answers, such as the identity that a private document belongs to. Mostly empty.
    pub variant: String,
}

/// A key as tables hold it: the first 16 bytes of a BLAKE3 hash over the length-prefixed columns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub Prefix);

impl Key {
    pub fn hash(&self) -> KeyHash {
        let mut hasher = blake3::Hasher::new();
        for column in [self.scope.as_str(), self.ecosystem, &self.upstream, &self.path, &self.variant] {
            hasher.update(&(column.len() as u64).to_le_bytes());
            hasher.update(column.as_bytes());
        }
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        KeyHash(prefix)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} {}{}", self.scope.as_str(), self.ecosystem, self.upstream, self.path)?;
        if self.variant.is_empty() { Ok(()) } else { write!(out, " [{}]", self.variant) }
    }
}

impl std::fmt::Display for KeyHash {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        hex::write(&self.0, out)
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "key:{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_do_not_run_into_each_other() {
        let key = |upstream: &str, path: &str| Key {
            scope: Scope::shared(),
            ecosystem: "go",
            upstream: upstream.into(),
            path: path.into(),
            variant: String::new(),
        };
        assert_ne!(key("a", "bc").hash(), key("ab", "c").hash());
        assert_eq!(key("a", "bc").hash(), key("a", "bc").hash());
    }

    #[test]
    fn scopes_share_no_key() {
        let key =
            |scope| Key { scope, ecosystem: "go", upstream: "a".into(), path: "b".into(), variant: String::new() };
        assert_ne!(key(Scope::shared()).hash(), key(Scope::named("branch")).hash());
    }
}
