//! Whether the directory is still this store's to change. What has entered is finished before `close` returns.

use parking_lot::{RwLock, RwLockReadGuard};

use super::error::StoreError;

#[derive(Default)]
pub(super) struct Door {
    closed: RwLock<bool>,
}

impl Door {
    /// To be held while a segment, a name or a mark is changed.
    ///
    /// *Errors*: `Full` once it is closed: bytes are passed on and not kept.
    pub fn enter(&self) -> Result<RwLockReadGuard<'_, bool>, StoreError> {
        // Whoever is inside may enter again, also past a `close` that waits.
        let closed = self.closed.read_recursive();
        if *closed { Err(StoreError::Full { why: "the data directory was let go" }) } else { Ok(closed) }
    }

    pub fn close(&self) {
        *self.closed.write() = true;
    }
}
