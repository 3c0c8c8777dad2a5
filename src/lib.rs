//! larder: one warm cache for everything a build fetches, makes and ships.
//!
//! The modules below stand in the order of the floors, top first. Imports run downwards only and peers on one
//! floor never import each other; `tests/tidy` holds the table. `docs/ARCHITECTURE.md` has the invariants and
//! walks one request through the house.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;

pub mod cli;

pub mod app;

pub mod config;

pub mod server;

pub mod protocol;

pub mod cache;

pub mod index;
pub mod store;
pub mod upstream;

pub mod ecosystem;
pub mod runtime;

pub mod model;
pub mod telemetry;
