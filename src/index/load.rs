//! Filling the table at start, in the background: places, keys and edges in the order of the digests, read side by side.
//!
//! All are read as they stood when the index was opened. What changes while they read is remembered
//! under the order lock (`core::Late`) and wins.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::catalog::{Cursors, Names, Rows};
use super::core::Core;
use super::error::IndexError;
use super::open::OnPlace;
use super::sqlite::{places, pool, sql};
use super::table::Blob;
use crate::model::digest::{Digest, Prefix};
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

/// Blobs put into the table under one taking of the order lock.
const GROUP: usize = 256;

/// Bytes of a row of the places with its share of half-filled pages, at most: so many rows there are at least.
const ROW_BYTES: u64 = 150;

/// Places, keys and edges as they stood at the time of opening.
pub(super) struct Snapshot {
    places: Connection,
    names: Option<Box<dyn Names>>,
}

/// What goes into the table at once.
#[derive(Default)]
struct Group {
    blobs: Vec<(Digest, Blob)>,
    keys: Vec<(KeyHash, Option<Prefix>)>,
    edges: Vec<(Prefix, Realm)>,
}

/// One thing by digest, read one ahead.
struct Cursor<'a, T> {
    rows: Rows<'a, (Digest, T)>,
    next: Option<(Digest, T)>,
}

impl Snapshot {
    /// Takes the snapshot. None when there is nothing to load.
    pub(super) fn take(places: &Path, names: Option<Box<dyn Names>>) -> Result<Option<Snapshot>, IndexError> {
        let places = pool::open_reader(places)?;
        // A deferred transaction begins with its first read.
        places.execute_batch("BEGIN")?;
        let any = names.is_some() || places.prepare(sql::PLACES_ALL)?.exists([])?;
        Ok(any.then_some(Snapshot { places, names }))
    }

    /// Blobs and keys there are at least, nearly: counting them would read everything once more.
    fn estimate(&self) -> Result<(u64, u64), IndexError> {
        let pragma = |name| self.places.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
        let blobs = u64::try_from(bytes).unwrap_or(0) / ROW_BYTES;
        let keys = self.names.as_ref().map_or(Ok(0), |names| names.keys())?;
        Ok((blobs, keys.min(blobs)))
    }
}

/// Loads everything, tells `on_place` of every place, and declares the table complete.
pub(super) fn load(core: &Arc<Core>, snapshot: Snapshot, on_place: &mut OnPlace) {
    let loaded = fill(core, snapshot, on_place);
    if let Err(error) = loaded {
        tracing::error!(%error, "the table could not be loaded: every look-up goes to the databases");
        core.table.set_partial();
    }
    if core.stopping.load(Ordering::Acquire) {
        return;
    }
    let mut order = core.order.lock();
    if let Some(late) = order.loading.take() {
        for (digest, realm) in late.edges {
            core.table.add_realm(&digest, &realm);
        }
        for (digest, sum) in late.sums {
            core.table.add_sum(&digest, sum);
        }
    }
    core.loaded.send_replace(true);
}

fn fill(core: &Core, snapshot: Snapshot, on_place: &mut OnPlace) -> Result<(), IndexError> {
    let (blobs, keys) = snapshot.estimate()?;
    core.table.reserve(blobs, keys);
    let Snapshot { places, names } = snapshot;
    let mut merge = |cursors: Cursors<'_>| merge(core, &places, cursors, on_place);
    match names {
        Some(mut names) => names.read(&mut merge),
        None => {
            let (mut bodies, mut edges) = (std::iter::empty(), std::iter::empty());
            merge(Cursors { bodies: &mut bodies, edges: &mut edges, bodiless: &mut std::iter::empty() })
        }
    }
}

fn merge(core: &Core, places: &Connection, cursors: Cursors<'_>, on_place: &mut OnPlace) -> Result<(), IndexError> {
    let mut keys = Cursor::new(cursors.bodies)?;
    let mut edges = Cursor::new(cursors.edges)?;
    let mut group = Group::default();
    places::each(places, |row| {
        let Some((digest, place, class, used)) = places::read_light(row)? else { return Ok(true) };
        on_place(&digest, &place, class);
        let prefix = digest.prefix();
        let blob = Blob { digest: prefix, sha256: places::sha256_prefix(row)?, place, class, used };
        group.blobs.push((digest, blob));
        // Keys before this digest name blobs without a place: known all the same, whoever asks finds a miss.
        keys.upto(&digest, |body, key| group.keys.push((key, Some(body.prefix()))))?;
        edges.upto(&digest, |of, realm| {
            if *of == digest {
                group.edges.push((prefix, realm));
            }
        })?;
        if group.blobs.len() >= GROUP || group.keys.len() >= GROUP {
            group.seat(core);
        }
        Ok(!core.stopping.load(Ordering::Acquire))
    })?;
    keys.upto(&Digest::from_bytes([0xff; Digest::LEN]), |body, key| group.keys.push((key, Some(body.prefix()))))?;
    for key in cursors.bodiless {
        group.keys.push((key?, None));
        if group.keys.len() >= GROUP {
            group.seat(core);
        }
    }
    group.seat(core);
    Ok(())
}

impl Group {
    fn seat(&mut self, core: &Core) {
        let order = core.order.lock();
        for (digest, blob) in self.blobs.drain(..) {
            if !order.has_dropped(&digest, &blob.place) {
                core.table.put(&blob);
            }
        }
        for (digest, realm) in self.edges.drain(..) {
            core.table.add_realm(&digest, &realm);
        }
        for (key, body) in self.keys.drain(..) {
            if !order.has_changed(&key) {
                core.table.name(&key.0, body.as_ref());
            }
        }
    }
}

impl<'a, T> Cursor<'a, T> {
    fn new(rows: Rows<'a, (Digest, T)>) -> Result<Cursor<'a, T>, IndexError> {
        let next = rows.next().transpose()?;
        Ok(Cursor { rows, next })
    }

    /// Gives all up to and with `digest` to `see`.
    fn upto(&mut self, digest: &Digest, mut see: impl FnMut(&Digest, T)) -> Result<(), IndexError> {
        while let Some((at, found)) = self.next.take_if(|(at, _)| *at <= *digest) {
            see(&at, found);
            self.next = self.rows.next().transpose()?;
        }
        Ok(())
    }
}
