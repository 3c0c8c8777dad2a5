//! Who may read a blob. A digest is not a right: a blob is readable through an edge (realm, digest).

use std::sync::Arc;

/// A set of readers: the public, a private upstream, a scope, a repository.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Realm(Arc<str>);

impl Realm {
    /// What any caller that passed the gate may read.
    pub fn public() -> Realm {
        Realm(Arc::from("public"))
    }

    pub fn named(name: &str) -> Realm {
        Realm(Arc::from(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_public(&self) -> bool {
        &*self.0 == "public"
    }
}

/// A trust domain that may read or write keys.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Scope(Arc<str>);

impl Scope {
    /// The scope that upstream fills of public bytes go to; all may read it.
    pub fn shared() -> Scope {
        Scope(Arc::from("shared"))
    }

    pub fn named(name: &str) -> Scope {
        Scope(Arc::from(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
