//! What keeps the process going: time, tasks, shutdown, and the seam to the operating system. Knows nothing of what the tasks do.

pub mod aside;
pub mod clock;
pub mod durable;
/// The one seam to the operating system beyond what every Unix has.
#[cfg_attr(all(target_os = "linux", not(feature = "portable")), path = "os/linux.rs")]
#[cfg_attr(any(not(target_os = "linux"), feature = "portable"), path = "os/portable.rs")]
pub mod os;
#[cfg(test)]
#[path = "os/contract.rs"]
mod os_contract;
pub mod pace;
pub mod tasks;
