//! The SQLite engine: two databases, `places.sqlite` and `catalog.sqlite`. WAL, synchronous=FULL, no mmap; all SQL
//! text stands in `sql.rs`, the migrations in `schema.rs`.

pub mod catalog;
pub(super) mod codec;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub(super) mod ledger;
pub(super) mod places;
pub(super) mod pool;
pub(super) mod schema;
pub(super) mod sql;
pub(super) mod write;
