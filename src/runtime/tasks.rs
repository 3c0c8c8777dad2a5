//! Named background tasks, counted and drained at shutdown.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Spawns tasks that must finish, and waits for them at the end.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    running: AtomicUsize,
    idle: Notify,
    stop: watch::Sender<bool>,
}

impl Tasks {
    pub fn new() -> Tasks {
        let inner = Inner { running: AtomicUsize::new(0), idle: Notify::new(), stop: watch::Sender::new(false) };
        Tasks { inner: Arc::new(inner) }
    }

    /// Runs `task` to its end, whoever asked for it. `name` is shown when shutdown has to wait for it.
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.running.fetch_add(1, Ordering::AcqRel);
        let guard = Running { inner: self.inner.clone(), name };
        tokio::spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Tasks under way.
    pub fn running(&self) -> usize {
        self.inner.running.load(Ordering::Acquire)
    }

    /// Resolves when shutdown begins.
    ///
    /// *Cancel*: nothing is lost.
    pub async fn stopping(&self) {
        let mut stop = self.inner.stop.subscribe();
        // An error means the sender is gone, and with it the process's reason to go on.
        let _ = stop.wait_for(|stopping| *stopping).await;
    }

    pub fn is_stopping(&self) -> bool {
        *self.inner.stop.borrow()
    }

    /// Tells every task that shutdown began.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Waits until no task runs, at most `grace`. Returns how many were left.
    pub async fn drain(&self, grace: Duration) -> usize {
        let idle = async {
            loop {
                let notified = self.inner.idle.notified();
                if self.running() == 0 {
                    return;
                }
                notified.await;
            }
        };
        // The count below tells whether the time ran out.
        let _ = tokio::time::timeout(grace, idle).await;
        self.running()
    }
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks::new()
    }
}

struct Running {
    inner: Arc<Inner>,
    name: &'static str,
}

impl Drop for Running {
    fn drop(&mut self) {
        tracing::trace!(task = self.name, "task ended");
        if self.inner.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_what_runs() {
        let tasks = Tasks::new();
        let stopping = tasks.clone();
        tasks.spawn("waits", async move { stopping.stopping().await });
        assert_eq!(tasks.running(), 1);
        tasks.stop();
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
    }
}
