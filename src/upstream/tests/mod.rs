//! Tests against servers that misbehave.
