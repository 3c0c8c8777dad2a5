//! larder from outside: the binary, real sockets, upstreams that misbehave, disks that fail, clients that people use.
//! One program, since each links for a while.

#![allow(clippy::disallowed_methods, reason = "tests look at the real clock")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod again;
mod agent;
mod attacks;
mod cargo_client;
mod disk;
mod fills;
mod go_client;
mod golden;
mod hits;
mod hostile;
mod instruments;
mod kill;
mod life;
mod names;
mod power;
mod refusals;
mod upstream_faults;
