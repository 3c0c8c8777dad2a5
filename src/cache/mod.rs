//! The engine: lookup, decide, coalesce, fill, evict, scrub, ledger.
