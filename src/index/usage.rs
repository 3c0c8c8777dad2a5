//! What was used by day, for the ledger: rows that only ever grow, kept for a while.

use super::Index;
use super::catalog::UsageAsk;
use super::error::IndexError;
use super::writer::queue::Work;
use crate::model::usage::{UsageRow, UsageSum};

/// What a row holds beside its names, roughly, in bytes.
const ROW_BYTES: usize = 256;

/// Rows to add, and what is kept of those that stand.
pub struct AddedUsage {
    pub rows: Vec<UsageRow>,
    /// Rows of their own that a day may have.
    pub rows_max: u64,
    /// Days before it are dropped.
    pub oldest_day: u32,
}

impl Index {
    /// Adds to the rows of usage; durable on return. Returns how many had no room of their own.
    ///
    /// *Errors*: nothing was added, but for `Unreachable`, when nobody knows.
    /// *Cancel*: they are added or not, all or none.
    pub async fn add_usage(&self, added: AddedUsage) -> Result<u64, IndexError> {
        let names = |row: &UsageRow| row.key.label.len() + row.key.upstream.len() + row.key.scope.len();
        let room = self.core.queue.room(added.rows.iter().map(|row| ROW_BYTES + names(row)).sum()).await?;
        let done = self.core.queue.ask(Work::Usage(Box::new(added)), room).await?;
        Ok(done.changed)
    }

    /// What was used, summed by one dimension and link.
    pub async fn usage(&self, ask: UsageAsk) -> Result<Vec<UsageSum>, IndexError> {
        self.core.catalog.usage(ask).await
    }
}
