//! The servers we fetch from: one pooled client behind one egress gate. Keeps nothing.

pub mod fetch;
