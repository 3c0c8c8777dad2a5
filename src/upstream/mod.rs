//! The servers we fetch from: one pooled client behind one egress gate. Keeps nothing.
//!
//! An ask goes `client` (redirects, deadlines) → `hosts` (queue, breaker, retry budget) → `exchange` (one attempt) →
//! a pooled connection that `connect` opened through `gate`. The answer's body is a `body::Download`, which checks
//! the framing and takes a broken body up again where `resume` says that it may.

pub(crate) mod address;
mod body;
mod breaker;
pub mod client;
mod connect;
mod credentials;
mod exchange;
pub mod fetch;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gate;
mod headers;
pub mod hosts;
mod network;
mod origin;
pub mod parent;
mod payload;
pub mod peer;
mod proxy;
mod redirect;
pub mod resolve;
pub(crate) mod resume;
mod retry;
mod secret;
pub mod settings;
mod tls;
pub mod wire;

#[cfg(test)]
mod tests;
