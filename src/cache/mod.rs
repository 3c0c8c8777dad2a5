//! The engine: lookup, decide, coalesce, fill, evict, scrub, ledger.

pub mod decide;
pub mod policy;
