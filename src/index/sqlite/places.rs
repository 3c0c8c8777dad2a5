//! `places.sqlite`: digest to place in this node's own tiers. Always local, whatever engine the catalog has.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::sql;
use crate::index::codec;
use crate::index::error::IndexError;
use crate::index::table::{Minutes, Use};
use crate::model::checksum::Checksum;
use crate::model::digest::{Digest, Prefix};
use crate::model::place::{Class, Place, TierName};

/// A row of the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub digest: Digest,
    pub place: Place,
    pub class: Class,
    pub used: Use,
    pub sums: Vec<Checksum>,
}

/// What a new place met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::index) enum Written {
    /// There was no row; it names the new place.
    New,
    /// The row named this place already.
    Here,
    /// It took the row from this place.
    Replaced(Place),
    /// The row stays with this one.
    Kept(Place),
}

pub(in crate::index) fn find(connection: &Connection, digest: &Digest) -> Result<Option<Located>, IndexError> {
    let mut statement = connection.prepare_cached(sql::PLACE)?;
    Ok(statement.query_row([digest.as_bytes()], read).optional()?.flatten())
}

/// Rows of the digests that start with each prefix, in the order of the prefixes.
pub(in crate::index) fn find_prefixes(
    connection: &Connection,
    prefixes: &[Prefix],
) -> Result<Vec<Located>, IndexError> {
    let mut statement = connection.prepare_cached(sql::PLACES_BETWEEN)?;
    let mut found = Vec::with_capacity(prefixes.len());
    for prefix in prefixes {
        let (first, last) = bounds(prefix);
        for row in statement.query_map([first, last], read)? {
            found.extend(row?);
        }
    }
    Ok(found)
}

/// Up to `limit` rows with a digest after `after`, in order.
pub(in crate::index) fn after(
    connection: &Connection,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Located>, IndexError> {
    let mut statement = connection.prepare_cached(sql::PLACES_AFTER)?;
    let start = after.map_or(&[][..], |digest| digest.as_bytes());
    let rows = statement.query_map(params![start, limit as i64], read)?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// All rows in one object of a tier, by offset.
pub(in crate::index) fn within(
    connection: &Connection,
    tier: TierName,
    object: u32,
) -> Result<Vec<Located>, IndexError> {
    let mut statement = connection.prepare_cached(sql::PLACES_IN)?;
    let rows = statement.query_map(params![tier as u8, object], read)?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Writes a place unless one of an equal or better class stands; sums are merged either way.
pub(in crate::index) fn put(connection: &Connection, new: &Located) -> Result<Written, IndexError> {
    let standing = find(connection, &new.digest)?;
    let Some(standing) = standing else {
        write(connection, new, &codec::encode_sums(&new.sums))?;
        return Ok(Written::New);
    };
    let sums = codec::encode_sums(standing.sums.iter().chain(&new.sums));
    let better = crate::index::table::rank(new.class) > crate::index::table::rank(standing.class);
    if standing.place != new.place && better {
        write(connection, new, &sums)?;
        return Ok(Written::Replaced(standing.place));
    }
    if sums != codec::encode_sums(&standing.sums) {
        connection.prepare_cached(sql::PLACE_SUMS)?.execute(params![new.digest.as_bytes(), sums])?;
    }
    Ok(if standing.place == new.place { Written::Here } else { Written::Kept(standing.place) })
}

/// Adds sums to a row, so that they go when it goes; nothing where there is no row.
pub(in crate::index) fn add_sum(connection: &Connection, digest: &Digest, sum: &Checksum) -> Result<(), IndexError> {
    let Some(standing) = find(connection, digest)? else { return Ok(()) };
    if !standing.sums.contains(sum) {
        let sums = codec::encode_sums(standing.sums.iter().chain([sum]));
        connection.prepare_cached(sql::PLACE_SUMS)?.execute(params![digest.as_bytes(), sums])?;
    }
    Ok(())
}

fn write(connection: &Connection, new: &Located, sums: &[u8]) -> Result<(), IndexError> {
    let Place { tier, object, offset, len } = new.place;
    connection.prepare_cached(sql::PLACE_PUT)?.execute(params![
        new.digest.as_bytes(),
        tier as u8,
        object,
        offset,
        len as i64,
        new.class as u8,
        new.used.last.number(),
        sums
    ])?;
    Ok(())
}

/// Drops the row if it still names `place`; returns the sums it had.
pub(in crate::index) fn drop_if(
    connection: &Connection,
    digest: &Digest,
    place: &Place,
) -> Result<Option<Vec<Checksum>>, IndexError> {
    let mut statement = connection.prepare_cached(sql::PLACE_DROP)?;
    let asked = params![digest.as_bytes(), place.tier as u8, place.object, place.offset];
    let sums: Option<Vec<u8>> = statement.query_row(asked, |row| row.get(0)).optional()?;
    Ok(sums.map(|sums| codec::decode_sums(&sums)))
}

/// Gives the row another place if it still names `from`.
pub(in crate::index) fn move_if(
    connection: &Connection,
    digest: &Digest,
    from: &Place,
    to: &Place,
) -> Result<bool, IndexError> {
    let changed = connection.prepare_cached(sql::PLACE_MOVE)?.execute(params![
        digest.as_bytes(),
        from.tier as u8,
        from.object,
        from.offset,
        to.tier as u8,
        to.object,
        to.offset,
        to.len as i64
    ])?;
    Ok(changed > 0)
}

/// Writes use times, best in the order of the prefixes.
pub(in crate::index) fn save_uses(connection: &Connection, uses: &[(Prefix, Use)]) -> Result<(), IndexError> {
    let mut statement = connection.prepare_cached(sql::USE_SAVE)?;
    for (prefix, used) in uses {
        let (first, last) = bounds(prefix);
        statement.execute(params![first, last, used.last.number(), used.hits])?;
    }
    Ok(())
}

/// Calls `see` with every row in the order of the digests until it returns false.
pub(in crate::index) fn each(
    connection: &Connection,
    mut see: impl FnMut(&Row<'_>) -> Result<bool, IndexError>,
) -> Result<(), IndexError> {
    let mut statement = connection.prepare(sql::PLACES_ALL)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !see(row)? {
            break;
        }
    }
    Ok(())
}

/// A row as the statements select it; None when it holds what this version does not know.
pub(in crate::index) fn read(row: &Row<'_>) -> rusqlite::Result<Option<Located>> {
    let Some((digest, place, class, used)) = read_light(row)? else { return Ok(None) };
    let sums = codec::decode_sums(row.get_ref(8)?.as_blob().unwrap_or_default());
    Ok(Some(Located { digest, place, class, used, sums }))
}

/// The row without its sums: nothing is allocated.
pub(in crate::index) fn read_light(row: &Row<'_>) -> rusqlite::Result<Option<(Digest, Place, Class, Use)>> {
    let digest = row.get_ref(0)?.as_blob().ok().and_then(Digest::from_slice);
    let tier = TierName::from_code(row.get(1)?);
    let class = Class::from_code(row.get(5)?);
    let (Some(digest), Some(tier), Some(class)) = (digest, tier, class) else { return Ok(None) };
    let len = u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0);
    let place = Place { tier, object: row.get(2)?, offset: row.get(3)?, len };
    let used = Use { last: Minutes::from_number(row.get(6)?), hits: row.get(7)? };
    Ok(Some((digest, place, class, used)))
}

/// The first 16 bytes of the SHA-256 in a row's sums.
pub(in crate::index) fn sha256_prefix(row: &Row<'_>) -> rusqlite::Result<Option<Prefix>> {
    let sums = row.get_ref(8)?.as_blob().unwrap_or_default();
    let is_sha256 = sums.first() == Some(&codec::algorithm_code(crate::model::checksum::Algorithm::Sha256));
    Ok(sums.get(1..17).filter(|_| is_sha256).and_then(|prefix| prefix.try_into().ok()))
}

fn bounds(prefix: &Prefix) -> ([u8; Digest::LEN], [u8; Digest::LEN]) {
    let (mut first, mut last) = ([0; Digest::LEN], [0xff; Digest::LEN]);
    first[..16].copy_from_slice(prefix);
    last[..16].copy_from_slice(prefix);
    (first, last)
}
