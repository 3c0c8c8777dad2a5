//! From memory to the catalog's rows, and what those rows tell after a start.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::prices::counter;
use super::{CELLS_MAX, UNSAVED_MAX, Usage, day_of};
use crate::cache::error::CacheError;
use crate::cache::{Cache, Inner};
use crate::index::Index;
use crate::index::catalog::UsageAsk;
use crate::index::error::IndexError;
use crate::index::usage::AddedUsage;
use crate::model::place::TierName;
use crate::model::usage::{Counter, Counts, Dimension, Link, NONE, UsageKey, UsageRow, UsageSum};
use crate::store::s3::cost::{RequestKind, Used};

/// The tier of what is kept on disk.
const DISK: &str = "disk";

/// The row of what no request alone caused.
fn of_tier(day: u32, tier: &str, link: Link) -> UsageKey {
    let none = || NONE.to_owned();
    UsageKey { day, label: none(), ecosystem: none(), upstream: none(), scope: none(), tier: tier.to_owned(), link }
}

impl Cache {
    pub fn usage(&self) -> &Usage {
        &self.inner.usage
    }

    /// Makes durable what was counted.
    ///
    /// *Errors*: the index's; it is tried again later.
    /// *Cancel*: it is made durable all the same.
    pub async fn save_usage(&self) -> Result<(), CacheError> {
        let (done, told) = oneshot::channel();
        let inner = self.inner.clone();
        // Half of it done would be lost, or counted twice.
        self.inner.tasks.spawn("usage", async move {
            // Who asked may have gone.
            let _ = done.send(inner.save_usage().await);
        });
        told.await.map_err(|_| CacheError::Abandoned)?
    }
}

impl Inner {
    /// Adds to the rows of the day until shutdown. The last of it is added by who closes the index.
    pub(in crate::cache) async fn keep_usage(self: Arc<Inner>) {
        loop {
            let pause = self.usage.in_force.load().settings.save_every;
            tokio::select! { () = tokio::time::sleep(pause) => {}, () = self.tasks.stopping() => return }
            if let Err(error) = self.save_usage().await {
                tracing::warn!(%error, "what was used could not be added to the ledger; it is tried again");
            }
        }
    }

    async fn save_usage(&self) -> Result<(), CacheError> {
        if let Some(bill) = self.bucket.as_ref().and_then(|bucket| bucket.bill.as_ref()) {
            self.usage.bill(&bill.meter.used(), &bill.host);
        }
        let kept = self.store.usage().disk_bytes();
        Ok(self.usage.save(&self.index, kept).await?)
    }
}

impl Usage {
    /// *Errors*: nothing is lost but for an engine that took the rows and could not say so.
    /// *Cancel*: what was on its way is lost, or not.
    pub(super) async fn save(&self, index: &Index, disk_bytes: u64) -> Result<(), IndexError> {
        let _saving = self.saving.lock().await;
        self.learn(index).await?;
        let today = day_of(self.clock.now());
        self.gather(today, disk_bytes);
        let rows: Vec<UsageRow> = self.unsaved.lock().drain().map(|(key, counts)| UsageRow { key, counts }).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let settings = self.settings();
        let oldest_day = (today + 1).saturating_sub(settings.keep_days);
        let added = AddedUsage { rows: rows.clone(), rows_max: settings.rows_max, oldest_day };
        match index.add_usage(added).await {
            Ok(folded) => {
                self.folded.fetch_add(folded, Ordering::Relaxed);
                self.note_moved(&rows);
                Ok(())
            }
            Err(error) => {
                let mut unsaved = self.unsaved.lock();
                for UsageRow { key, counts } in rows {
                    self.counts_of(&mut unsaved, key, UNSAVED_MAX).add(&counts);
                }
                Err(error)
            }
        }
    }

    /// Moves all that was counted to what waits to be added.
    fn gather(&self, today: u32, disk_bytes: u64) {
        let mut unsaved = self.unsaved.lock();
        for shard in &self.shards {
            let counted = std::mem::take(&mut *shard.lock());
            for (key, mut counts) in counted {
                let saved = std::mem::take(&mut counts.0[Counter::SavedBytes as usize]);
                if saved > 0 {
                    let link = self.seen.lock().get(&key.upstream).copied().unwrap_or(Link::Unknown);
                    let key = UsageKey { link, ..key.clone() };
                    self.counts_of(&mut unsaved, key, UNSAVED_MAX).count(Counter::SavedBytes, saved);
                }
                self.counts_of(&mut unsaved, key, UNSAVED_MAX).add(&counts);
            }
        }
        self.fetches.lock().retain(|key, fetching| {
            // Found out before its bytes are taken: those that come between are taken the next time.
            let has_ended = Arc::get_mut(&mut fetching.bytes).is_some();
            let (count, bytes) = (fetching.count.swap(0, Ordering::Relaxed), fetching.bytes.swap(0, Ordering::Relaxed));
            if count + bytes > 0 {
                let key = UsageKey { day: today, ..key.clone() };
                let counts = self.counts_of(&mut unsaved, key, UNSAVED_MAX);
                counts.count(Counter::Fetches, count);
                counts.count(Counter::FetchedBytes, bytes);
            }
            !has_ended
        });
        let kept = self.kept(disk_bytes);
        if kept > 0 {
            let key = of_tier(today, DISK, Link::Loopback);
            self.counts_of(&mut unsaved, key, UNSAVED_MAX).count(Counter::DiskKibSeconds, kept);
        }
    }

    /// Counts what a bucket was asked since this was called last.
    fn bill(&self, used: &Used, host: &str) {
        let before = std::mem::replace(&mut *self.billed.lock(), *used);
        let mut counts = Counts::default();
        for kind in RequestKind::ALL {
            counts.count(counter(kind), used.of(kind).saturating_sub(before.of(kind)));
        }
        counts.count(Counter::S3SentBytes, used.sent_bytes.saturating_sub(before.sent_bytes));
        counts.count(Counter::S3ReceivedBytes, used.received_bytes.saturating_sub(before.received_bytes));
        if counts == Counts::default() {
            return;
        }
        let link = self.in_force.load().links.of(host, host.parse().ok());
        let key = of_tier(day_of(self.clock.now()), TierName::S3.name(), link);
        self.counts_of(&mut self.unsaved.lock(), key, UNSAVED_MAX).add(&counts);
    }

    /// What is kept, times how long it has been since this was asked last, in KiB times seconds.
    fn kept(&self, disk_bytes: u64) -> u64 {
        let now = self.clock.elapsed();
        let passed = now.saturating_sub(std::mem::replace(&mut *self.looked.lock(), now));
        let kib_millis = u128::from(disk_bytes / 1024) * passed.as_millis();
        u64::try_from(kib_millis / 1000).unwrap_or(u64::MAX)
    }

    fn note_moved(&self, rows: &[UsageRow]) {
        for UsageRow { key, counts } in rows {
            let moved = &self.moved[key.link as usize];
            moved.served.fetch_add(counts.of(Counter::ServedBytes), Ordering::Relaxed);
            moved.fetched.fetch_add(counts.of(Counter::FetchedBytes), Ordering::Relaxed);
            moved.saved.fetch_add(counts.of(Counter::SavedBytes), Ordering::Relaxed);
        }
    }

    /// Over which links upstreams were reached before this start.
    async fn learn(&self, index: &Index) -> Result<(), IndexError> {
        if self.has_learnt.load(Ordering::Relaxed) {
            return Ok(());
        }
        let ask = UsageAsk { first_day: 0, last_day: u32::MAX, by: Dimension::Upstream, limit: CELLS_MAX };
        let mut best: std::collections::HashMap<String, (u64, Link)> = std::collections::HashMap::new();
        for UsageSum { name, link, counts } in index.usage(ask).await? {
            let fetches = counts.of(Counter::Fetches);
            let known = best.entry(name).or_insert((0, Link::Unknown));
            if fetches > known.0 {
                *known = (fetches, link);
            }
        }
        let mut seen = self.seen.lock();
        for (upstream, (fetches, link)) in best {
            // What was seen since the start is newer.
            if fetches > 0 && seen.len() < CELLS_MAX {
                seen.entry(upstream).or_insert(link);
            }
        }
        self.has_learnt.store(true, Ordering::Relaxed);
        Ok(())
    }
}
