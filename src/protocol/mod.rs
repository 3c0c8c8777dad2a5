//! One file per conversation; beside them the gate, the reply and the status table. Touches no store, index or upstream.
