//! What the tests that look at larder from outside share: a server to start and kill, an upstream that misbehaves on
//! demand, a client that hashes all it gets. Bodies follow from seeds, so nothing is stored to compare with. Blocking
//! and threaded on purpose: what proves an asynchronous server should not share its runtime.

pub mod agent;
pub mod apt;
pub mod archive;
pub mod body;
pub mod build;
pub mod client;
pub mod debian;
pub mod line;
pub mod machine;
pub mod maven;
pub mod pages;
pub mod promises;
pub mod registry;
pub mod resource;
pub mod s3;
pub mod seed;
pub mod server;
pub mod tls;
pub mod upstream;
pub mod workload;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tests that load the machine take this, so that they do not starve each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until `done` says yes. Panics with `what` after `limit`.
pub fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "waited {limit:?} for this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
