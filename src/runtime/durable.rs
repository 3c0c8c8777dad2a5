//! Something written that is not yet safe from a power cut. The store makes them, the index's writer syncs them
//! in groups before it commits the rows that name them: bytes before places, places before keys.

use std::io;
use std::sync::Arc;

/// An object with unsynced bytes.
pub trait Unsynced: Send + Sync + 'static {
    /// Two handles with the same number need one sync.
    fn object(&self) -> u64;
    /// Makes all that was written to the object so far durable, its name included. Blocks.
    ///
    /// *Errors*: a failed sync condemns what it covered; it is never repeated and believed.
    fn sync(&self) -> io::Result<()>;
}

pub type Dirty = Arc<dyn Unsynced>;
