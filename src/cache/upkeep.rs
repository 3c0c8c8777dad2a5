//! What runs beside the requests: eviction when a class nears its budget, the sweep of what a crash left, the scrub.

use std::sync::Arc;
use std::time::Duration;

use super::error::CacheError;
use super::{Cache, Inner};

const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Cache {
    /// Starts the upkeep.
    pub fn maintain(&self) {
        let (inner, tasks) = (self.inner.clone(), self.inner.tasks.clone());
        self.inner.tasks.spawn("eviction", async move {
            tokio::select! { () = inner.keep_within_budget() => {}, () = tasks.stopping() => {} }
        });
        let (inner, tasks) = (self.inner.clone(), self.inner.tasks.clone());
        self.inner.tasks.spawn("scrub", async move {
            tokio::select! { () = inner.scrub_for_ever() => {}, () = tasks.stopping() => {} }
        });
        if self.inner.bucket.is_some() {
            let (inner, tasks) = (self.inner.clone(), self.inner.tasks.clone());
            self.inner.tasks.spawn("uploads", async move {
                // What is under way is begun anew by the next start.
                tokio::select! { () = inner.upload_for_ever() => {}, () = tasks.stopping() => {} }
            });
        }
        self.inner.tasks.spawn("ledger", self.inner.clone().keep_usage());
        let store = self.inner.store.clone();
        self.inner.tasks.spawn("sweep", async move {
            let swept = tokio::task::spawn_blocking(move || store.sweep_temporary()).await.unwrap_or(0);
            if swept > 0 {
                tracing::info!(swept, "removed what unfinished fills had left");
            }
        });
    }

    /// Waits for fills under way, at most for `patience`.
    pub async fn drain(&self, patience: Duration) {
        let idle = async {
            while self.fills() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // The index commits whatever was sealed; a fill that is cut leaves nothing.
        let _ = tokio::time::timeout(patience, idle).await;
    }

    /// Parts of bodies that wait for somebody to go on with them.
    pub fn parked(&self) -> usize {
        self.inner.parked.len()
    }

    /// Makes durable what is visible. Tells how many answers were visible since this was asked last and are kept no more,
    /// since their bytes or rows could not be made so.
    ///
    /// *Errors*: the index's.
    pub async fn flush(&self) -> Result<u64, CacheError> {
        self.inner.index.flush().await?;
        Ok(self.inner.index.taken_back())
    }
}

impl Inner {
    async fn keep_within_budget(self: &Arc<Inner>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.parked.expire(self.clock.elapsed()).drop_and_wait().await;
            self.remove_superseded().await;
            self.evict_when_high().await;
        }
    }
}
