//! The part of a request that caching decisions look at.

use http::Method;
use http::header::{HeaderMap, HeaderName};

use super::rules::Wishes;
use crate::model::party::Party;

/// A request's head, with what the engine knows about it.
#[derive(Clone, Copy, Debug)]
pub struct AskHead<'a> {
    pub method: &'a Method,
    /// As the client sent them, hop-by-hop fields removed.
    pub headers: &'a HeaderMap,
    pub forward: Forward<'a>,
    pub authorized: Authorized,
    /// None: nobody in particular.
    pub asker: Option<&'a Party>,
}

/// Which of the client's fields reach upstream. One that does not cannot change the answer, whatever `Vary` says.
#[derive(Clone, Copy, Debug)]
pub enum Forward<'a> {
    All,
    Only(&'a [HeaderName]),
}

/// Whether upstream is sent a credential of the client's (RFC 9111 §3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authorized {
    /// No credential, or the key belongs to its identity alone, so that nobody else can find the answer.
    No,
    /// A credential, and a key that others may ask for too.
    Yes,
}

impl<'a> AskHead<'a> {
    /// A request without a credential whose fields all reach upstream.
    pub fn new(method: &'a Method, headers: &'a HeaderMap) -> AskHead<'a> {
        AskHead { method, headers, forward: Forward::All, authorized: Authorized::No, asker: None }
    }

    pub fn wishes(&self) -> Wishes {
        Wishes::of(self.headers)
    }

    /// Whether the field, if the client sent it, reaches upstream.
    pub(crate) fn sends(&self, name: &str) -> bool {
        match self.forward {
            Forward::All => true,
            Forward::Only(names) => names.iter().any(|forwarded| forwarded.as_str() == name),
        }
    }
}
