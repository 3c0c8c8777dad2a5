//! Listeners, TLS, limits, drain; (host, path) to mount. Knows no protocol's name.

pub mod authorities;
pub mod ca;
pub mod counters;
pub mod error;
pub mod front;
pub mod guise;
pub mod handover;
pub mod settings;
pub mod systemd;
pub mod tls;

mod admission;
mod connection;
pub mod framing;
mod guarded;
mod lane;
mod pulse;
mod seal;
mod sealed;
mod service;
mod session;
mod tunnels;
mod watch;

#[cfg(test)]
mod tests;
