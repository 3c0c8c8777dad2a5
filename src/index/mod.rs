//! What exists and where: places, catalog, use. Opens no blob files.

pub mod catalog;
pub mod error;
