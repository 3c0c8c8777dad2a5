//! The table of metrics, tracing set-up and the access log. Imports nothing of ours: labels come in as words.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod redact;
pub mod stamp;
pub mod table;
