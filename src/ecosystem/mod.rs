//! How package managers ask: pure grammars, one file each. No async, no clock, no I/O, no state; imports `model` alone.
//!
//! To add one: a file here, a word in `ALL`, a test under `tests/clients/`, and `docs/ecosystems.md` made anew.

pub mod cargo;
pub mod go;
pub mod path;

use crate::model::kind::ErrorKind;
use crate::model::lookup::{About, Answer, Rejection, Request, Route};

/// A package manager's grammar. Given the same request it gives the same answer.
pub trait Ecosystem: Send + Sync + 'static {
    fn about(&self) -> &'static About;

    /// Describes what the request wants.
    ///
    /// *Errors*: `Invalid` for what the protocol has no place for, `NotFound` for what it would answer 404 to.
    fn route(&self, request: &Request<'_>) -> Result<Route, Rejection>;

    /// The error body that this ecosystem's clients show best. The status is chosen elsewhere.
    fn error_body(&self, kind: ErrorKind, why: &str) -> Answer;
}

/// Every ecosystem; mounts, config keys, hints, metrics and docs iterate over this.
pub static ALL: &[&dyn Ecosystem] = &[&cargo::Cargo, &go::Go];
