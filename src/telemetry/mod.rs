//! The table of metrics, tracing set-up and the access log. Imports nothing of ours: labels come in as words.
