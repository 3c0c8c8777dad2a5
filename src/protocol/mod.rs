//! One file per conversation; beside them the gate, the reply and the status table. Touches no store, index or upstream.

pub mod gate;
pub mod token;
