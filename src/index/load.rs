//! Filling the table at start, in the background: places, keys and edges in the order of the digests, read side by side.
//!
//! All are read as they stood when the index was opened. What changes while they read is remembered
//! under the order lock (`core::Late`) and wins.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::catalog::{Cursors, Names, Remote, Rows};
use super::core::Core;
use super::error::IndexError;
use super::open::OnPlace;
use super::record::seat_of;
use super::sqlite::{outbox, places, pool, sql};
use super::table::{Blob, Use};
use crate::model::digest::{Digest, Prefix};
use crate::model::key::KeyHash;
use crate::model::realm::Realm;

/// No digest comes after it.
const LAST: Digest = Digest::from_bytes([0xff; Digest::LEN]);

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

/// What is read side by side.
struct Merging<'a> {
    core: &'a Core,
    keys: Cursor<'a, KeyHash>,
    edges: Cursor<'a, Realm>,
    group: Group,
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
    fn estimate(&self, with_remote: bool) -> Result<(u64, u64), IndexError> {
        let pragma = |name| self.places.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
        let local = u64::try_from(bytes).unwrap_or(0) / ROW_BYTES;
        let remote = self.names.as_ref().filter(|_| with_remote).map_or(Ok(0), |names| names.remote())?;
        let blobs = local.max(remote);
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
        for (digest, realm) in late.edges.into_iter().filter(|(digest, _)| !late.bereft.contains(digest)) {
            core.table.add_realm(&digest, &realm);
        }
        // Who reads these by now is for the catalog to say.
        for digest in &late.bereft {
            core.table.make_unsure(digest);
        }
        for (digest, sum) in late.sums {
            core.table.add_sum(&digest, sum);
        }
        for blob in late.remote.iter().filter(|blob| !late.dropped.contains(&(blob.digest, blob.place))) {
            seat_late(core, blob);
        }
    }
    core.loaded.send_replace(true);
}

fn seat_late(core: &Core, blob: &Blob) {
    match core.table.get(&blob.digest).map(|seat| seat.place) {
        Some(standing) if standing.tier.is_local() => {}
        Some(standing) => drop(core.table.move_if(&blob.digest, &standing, &blob.place)),
        // Its edges were read before it had a seat.
        None => drop(core.table.put_unsure(blob)),
    }
}

fn fill(core: &Core, snapshot: Snapshot, on_place: &mut OnPlace) -> Result<(), IndexError> {
    if core.outbox.is_in_use() {
        core.outbox.count(&outbox::measure(&snapshot.places)?);
    }
    let (blobs, keys) = snapshot.estimate(core.outbox.is_open())?;
    core.table.reserve(blobs, keys);
    let Snapshot { places, names } = snapshot;
    let mut merge = |cursors: Cursors<'_>| merge(core, &places, cursors, on_place);
    match names {
        Some(mut names) => names.read(&mut merge),
        None => {
            let (mut bodies, mut edges, mut remote) = (std::iter::empty(), std::iter::empty(), std::iter::empty());
            let bodiless = &mut std::iter::empty();
            merge(Cursors { bodies: &mut bodies, edges: &mut edges, bodiless, remote: &mut remote })
        }
    }
}

fn merge(core: &Core, places: &Connection, cursors: Cursors<'_>, on_place: &mut OnPlace) -> Result<(), IndexError> {
    let mut nothing = std::iter::empty();
    // What is in a bucket that nobody can ask counts as absent.
    let mut remote = Cursor::new(if core.outbox.is_open() { cursors.remote } else { &mut nothing })?;
    let (keys, edges) = (Cursor::new(cursors.bodies)?, Cursor::new(cursors.edges)?);
    let mut merging = Merging { core, keys, edges, group: Group::default() };
    places::each(places, |row| {
        let Some((digest, place, class, used)) = places::read_light(row)? else { return Ok(true) };
        remote.upto(&digest, |of, remote| if *of == digest { Ok(()) } else { merging.seat_remote(of, &remote) })?;
        on_place(&digest, &place, class);
        let blob = Blob { digest: digest.prefix(), sha256: places::sha256_prefix(row)?, place, class, used };
        merging.seat(&digest, blob)?;
        Ok(!core.stopping.load(Ordering::Acquire))
    })?;
    remote.upto(&LAST, |of, remote| merging.seat_remote(of, &remote))?;
    let Merging { mut keys, mut group, .. } = merging;
    keys.upto(&LAST, |body, key| {
        group.keys.push((key, Some(body.prefix())));
        Ok(())
    })?;
    for key in cursors.bodiless {
        group.keys.push((key?, None));
        if group.keys.len() >= GROUP {
            group.seat(core);
        }
    }
    group.seat(core);
    Ok(())
}

impl Merging<'_> {
    /// With the keys and edges of the blob.
    fn seat(&mut self, digest: &Digest, blob: Blob) -> Result<(), IndexError> {
        let (prefix, group) = (blob.digest, &mut self.group);
        group.blobs.push((*digest, blob));
        // Keys before this digest name blobs without a place: known all the same, whoever asks finds a miss.
        self.keys.upto(digest, |body, key| {
            group.keys.push((key, Some(body.prefix())));
            Ok(())
        })?;
        self.edges.upto(digest, |of, realm| {
            if of == digest {
                group.edges.push((prefix, realm));
            }
            Ok(())
        })?;
        if group.blobs.len() >= GROUP || group.keys.len() >= GROUP {
            group.seat(self.core);
        }
        Ok(())
    }

    fn seat_remote(&mut self, digest: &Digest, remote: &Remote) -> Result<(), IndexError> {
        if self.core.stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        self.seat(digest, seat_of(digest, &remote.sums, remote.place, remote.class, Use::default()))
    }
}

impl Group {
    fn seat(&mut self, core: &Core) {
        let order = core.order.lock();
        for (digest, blob) in self.blobs.drain(..) {
            if !order.has_dropped(&digest, &blob.place) {
                core.table.put(&blob);
            }
        }
        for (digest, realm) in self.edges.drain(..).filter(|(digest, _)| !order.is_bereft(digest)) {
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
    fn upto(
        &mut self,
        digest: &Digest,
        mut see: impl FnMut(&Digest, T) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        while let Some((at, found)) = self.next.take_if(|(at, _)| *at <= *digest) {
            see(&at, found)?;
            self.next = self.rows.next().transpose()?;
        }
        Ok(())
    }
}
