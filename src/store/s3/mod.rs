//! Blobs in a bucket of S3: the tier that machines share. Small ones travel in packs, large ones are objects of their
//! own; all bytes are checked before they are handed on. Knows no keys and no index, and opens no socket (`connector`).

pub mod aws;
pub mod bucket;
pub mod connector;
pub mod cost;
pub mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hedge;
pub mod names;
pub mod pack;
pub mod probe;
pub mod read;
mod refusal;
pub mod remote;
pub mod seal;
pub mod settings;
#[cfg(test)]
pub(crate) mod tests;
pub mod upload;
