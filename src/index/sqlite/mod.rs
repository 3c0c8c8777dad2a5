//! The SQLite engine: two databases, `places.sqlite` and `catalog.sqlite`. WAL, synchronous=FULL, no mmap; all SQL
//! text stands in `sql.rs`, the migrations in `schema.rs`.

pub(super) mod catalog;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod ledger;
mod names;
pub(super) mod outbox;
pub(super) mod places;
pub(super) mod pool;
mod remote;
pub(super) mod schema;
pub(super) mod sql;
mod usage;
mod write;
