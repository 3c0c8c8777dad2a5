//! The words of the house: plain data, parsed once at the edge. No I/O, no async, no clock, and no import of ours.

pub mod checksum;
pub mod credential;
pub mod digest;
pub mod entry;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod hex;
pub mod hop;
pub mod key;
pub mod kind;
pub mod lookup;
pub mod node;
pub mod outcome;
pub mod party;
pub mod place;
pub mod range;
pub mod realm;
pub mod time;
pub mod units;
pub mod usage;
