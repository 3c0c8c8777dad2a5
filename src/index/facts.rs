//! Small persisted facts: the node's id, adopted upstreams. All of them are in memory, so there are few.

use bytes::Bytes;

use super::Index;
use super::error::IndexError;
use super::writer::queue::Work;

/// Bytes of one fact, and of all together.
const FACT_MAX: usize = 1 << 20;
const FACTS_MAX: usize = 16 << 20;

impl Index {
    /// The fact under a name.
    pub fn get_fact(&self, name: &str) -> Option<Bytes> {
        self.core.facts.read().get(name).cloned()
    }

    /// Facts whose names start with `prefix`, by name.
    pub fn facts(&self, prefix: &str) -> Vec<(String, Bytes)> {
        let facts = self.core.facts.read();
        let from = facts.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        from.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Keeps a fact; durable on return.
    ///
    /// *Errors*: `TooLarge` above 1 MiB, or 16 MiB for all facts together.
    pub async fn put_fact(&self, name: &str, value: Bytes) -> Result<(), IndexError> {
        let others =
            self.core.facts.read().iter().filter(|(known, _)| *known != name).map(|(_, value)| value.len()).sum();
        let too_large = |max| IndexError::TooLarge { name: name.to_owned(), bytes: value.len(), max };
        if value.len() > FACT_MAX {
            return Err(too_large(FACT_MAX));
        }
        if value.len() > FACTS_MAX.saturating_sub(others) {
            return Err(too_large(FACTS_MAX.saturating_sub(others)));
        }
        self.change_fact(name, Some(value)).await
    }

    /// Drops a fact; durable on return.
    pub async fn drop_fact(&self, name: &str) -> Result<(), IndexError> {
        self.change_fact(name, None).await
    }

    /// The writer changes what is in memory once the row is committed: no failed fact is ever told.
    async fn change_fact(&self, name: &str, value: Option<Bytes>) -> Result<(), IndexError> {
        let room = self.core.queue.room(name.len() + value.as_ref().map_or(0, Bytes::len)).await?;
        self.core.queue.ask(Work::Fact { name: name.to_owned(), value }, room).await.map(drop)
    }
}
