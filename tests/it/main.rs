//! larder from outside: the binary, real sockets, upstreams that misbehave, disks that fail, clients that people use.
//! One program, since each links for a while.

#![allow(clippy::disallowed_methods, reason = "tests look at the real clock")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod again;
mod agent;
mod agent_archives;
mod agent_tunnels;
mod apt_client;
mod apt_intercepted;
mod attacks;
mod bad_days;
mod bad_surroundings;
mod cargo_client;
mod cargo_token;
mod certificates;
mod clock;
mod containers;
mod disk;
mod docker;
mod doctor;
mod fills;
mod generations;
mod go_client;
mod golden;
mod hits;
mod hostile;
mod image;
mod install;
mod instruments;
mod intercept;
mod intercept_clients;
mod jvm_clients;
mod jvm_intercepted;
mod kill;
mod ledger;
mod life;
mod lines;
mod names;
mod pages;
mod peers;
mod power;
mod recognised;
mod refusals;
mod s3;
mod s3_days;
mod s3_shared;
mod tool_pages;
mod trust;
mod unusable;
mod upstream_faults;
