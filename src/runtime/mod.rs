//! What keeps the process going: time, tasks, shutdown. Knows nothing of what the tasks do.

pub mod clock;
pub mod durable;
pub mod pace;
pub mod tasks;
