//! Filling the table at start, in the background: three cursors in the order of the digests, read side by side.
//!
//! All three read the state of the databases when the index was opened. What changes while they read is remembered
//! under the order lock (`core::Late`) and wins.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, Row, Rows};

use super::core::Core;
use super::error::IndexError;
use super::open::OnPlace;
use super::sqlite::{catalog, places, pool, sql};
use super::table::Blob;
use crate::model::digest::{Digest, Prefix};
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

/// Blobs put into the table under one taking of the order lock.
const GROUP: usize = 256;

/// Bytes of a row of the places with its share of half-filled pages, at most: so many rows there are at least.
const ROW_BYTES: u64 = 150;

/// Connections that hold the state of the databases at the time of opening.
pub(super) struct Snapshot {
    places: Connection,
    catalog: Connection,
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
    rows: Rows<'a>,
    next: Option<(Digest, T)>,
    read: Read<T>,
}

/// Reads a row; None when it holds what this version does not know.
type Read<T> = fn(&Row<'_>) -> rusqlite::Result<Option<(Digest, T)>>;

impl Snapshot {
    /// Takes the snapshot. None when there is nothing to load.
    pub(super) fn take(places: &Path, catalog: &Path) -> Result<Option<Snapshot>, IndexError> {
        let snapshot = Snapshot { places: pool::open_reader(places)?, catalog: pool::open_reader(catalog)? };
        // A deferred transaction begins with its first read.
        snapshot.places.execute_batch("BEGIN")?;
        snapshot.catalog.execute_batch("BEGIN")?;
        let any_places = snapshot.places.prepare(sql::PLACES_ALL)?.exists([])?;
        let any_keys = snapshot.catalog.prepare(sql::KEYS_WITH_BODY)?.exists([])?
            || snapshot.catalog.prepare(sql::KEYS_WITHOUT_BODY)?.exists([])?;
        Ok((any_places || any_keys).then_some(snapshot))
    }

    /// Blobs and keys there are at least, nearly: counting them would read everything once more.
    fn estimate(&self) -> Result<(u64, u64), IndexError> {
        let pragma = |name| self.places.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
        let blobs = u64::try_from(bytes).unwrap_or(0) / ROW_BYTES;
        let keys: Option<i64> = self.catalog.query_row(sql::ENTRY_LAST, [], |row| row.get(0))?;
        Ok((blobs, keys.and_then(|keys| u64::try_from(keys).ok()).unwrap_or(0).min(blobs)))
    }
}

/// Loads everything, tells `on_place` of every place, and declares the table complete.
pub(super) fn load(core: &Arc<Core>, snapshot: &Snapshot, on_place: &mut OnPlace) {
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

fn fill(core: &Core, snapshot: &Snapshot, on_place: &mut OnPlace) -> Result<(), IndexError> {
    let (blobs, keys) = snapshot.estimate()?;
    core.table.reserve(blobs, keys);
    let realms = catalog::realms(&snapshot.catalog)?;
    let mut key_statement = snapshot.catalog.prepare(sql::KEYS_WITH_BODY)?;
    let mut edge_statement = snapshot.catalog.prepare(sql::EDGES_ALL)?;
    let mut keys = Cursor::new(key_statement.query([])?, read_key)?;
    let mut edges = Cursor::new(edge_statement.query([])?, read_edge)?;
    let mut group = Group::default();
    places::each(&snapshot.places, |row| {
        let Some((digest, place, class, used)) = places::read_light(row)? else { return Ok(true) };
        on_place(&digest, &place, class);
        let prefix = digest.prefix();
        let blob = Blob { digest: prefix, sha256: places::sha256_prefix(row)?, place, class, used };
        group.blobs.push((digest, blob));
        // Keys before this digest name blobs without a place: known all the same, whoever asks finds a miss.
        keys.upto(&digest, |body, key| group.keys.push((key, Some(body.prefix()))))?;
        edges.upto(&digest, |of, realm| {
            if *of == digest {
                group.edges.extend(realms.get(&realm).map(|realm| (prefix, realm.clone())));
            }
        })?;
        if group.blobs.len() >= GROUP || group.keys.len() >= GROUP {
            group.seat(core);
        }
        Ok(!core.stopping.load(Ordering::Acquire))
    })?;
    keys.upto(&Digest::from_bytes([0xff; Digest::LEN]), |body, key| group.keys.push((key, Some(body.prefix()))))?;
    let mut bodiless = snapshot.catalog.prepare(sql::KEYS_WITHOUT_BODY)?;
    let mut rows = bodiless.query([])?;
    while let Some(row) = rows.next()? {
        group.keys.push((KeyHash(row.get(0)?), None));
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

impl<'a, T: Copy> Cursor<'a, T> {
    fn new(rows: Rows<'a>, read: Read<T>) -> Result<Cursor<'a, T>, IndexError> {
        let mut cursor = Cursor { rows, next: None, read };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Skips rows that cannot be read.
    fn advance(&mut self) -> Result<(), IndexError> {
        self.next = None;
        while let Some(row) = self.rows.next()? {
            self.next = (self.read)(row)?;
            if self.next.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Gives all up to and with `digest` to `see`.
    fn upto(&mut self, digest: &Digest, mut see: impl FnMut(&Digest, T)) -> Result<(), IndexError> {
        while let Some((at, found)) = self.next.filter(|(at, _)| at <= digest) {
            see(&at, found);
            self.advance()?;
        }
        Ok(())
    }
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<Option<(Digest, KeyHash)>> {
    let digest = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice);
    let hash = row.get_ref(1)?.as_blob().ok().and_then(|hash| hash.try_into().ok());
    Ok(digest.zip(hash.map(KeyHash)))
}

fn read_edge(row: &Row<'_>) -> rusqlite::Result<Option<(Digest, i64)>> {
    let digest = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice);
    let realm = row.get(1)?;
    Ok(digest.map(|digest| (digest, realm)))
}
