//! Every SQL statement of the SQLite engine. Each is run by a test of the file that uses it; `prepares` below holds
//! that all of them fit the schema.

/// Set on every connection. One page cache for all would need mmap or shared cache: each has a small one instead.
pub(in crate::index) const PRAGMAS_WRITE: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 4000;
    PRAGMA journal_size_limit = 67108864;
    PRAGMA cache_size = -8192;
    PRAGMA mmap_size = 0;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
    PRAGMA busy_timeout = 10000;";
pub(in crate::index) const PRAGMAS_READ: &str = "
    PRAGMA query_only = ON;
    PRAGMA cache_size = -2048;
    PRAGMA mmap_size = 0;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
    PRAGMA busy_timeout = 10000;";
pub(in crate::index) const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

// places.sqlite

pub(in crate::index) const PLACE: &str =
    "SELECT digest, tier, object, offset, len, class, used, hits, sums FROM blobs WHERE digest = ?1";
pub(in crate::index) const PLACES_BETWEEN: &str =
    "SELECT digest, tier, object, offset, len, class, used, hits, sums FROM blobs WHERE digest BETWEEN ?1 AND ?2";
pub(in crate::index) const PLACES_AFTER: &str =
    "SELECT digest, tier, object, offset, len, class, used, hits, sums FROM blobs
     WHERE digest > ?1 ORDER BY digest LIMIT ?2";
pub(in crate::index) const PLACES_IN: &str =
    "SELECT digest, tier, object, offset, len, class, used, hits, sums FROM blobs
     WHERE tier = ?1 AND object = ?2 ORDER BY offset";
pub(in crate::index) const PLACES_ALL: &str =
    "SELECT digest, tier, object, offset, len, class, used, hits, sums FROM blobs ORDER BY digest";
pub(in crate::index) const PLACE_PUT: &str =
    "INSERT INTO blobs (digest, tier, object, offset, len, class, used, hits, sums) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8)
     ON CONFLICT (digest) DO UPDATE SET tier = ?2, object = ?3, offset = ?4, len = ?5, class = ?6, used = ?7, sums = ?8";
pub(in crate::index) const PLACE_SUMS: &str = "UPDATE blobs SET sums = ?2 WHERE digest = ?1";
pub(in crate::index) const PLACE_DROP: &str =
    "DELETE FROM blobs WHERE digest = ?1 AND tier = ?2 AND object = ?3 AND offset = ?4 RETURNING sums";
pub(in crate::index) const PLACE_MOVE: &str = "UPDATE blobs SET tier = ?5, object = ?6, offset = ?7, len = ?8
     WHERE digest = ?1 AND tier = ?2 AND object = ?3 AND offset = ?4";
pub(in crate::index) const USE_SAVE: &str = "UPDATE blobs SET used = ?3, hits = ?4 WHERE digest BETWEEN ?1 AND ?2";

pub(in crate::index) const OUTBOX: &str =
    "SELECT blobs.digest, tier, object, offset, blobs.len, class, used, hits, sums, since
     FROM outbox CROSS JOIN blobs ON blobs.digest = outbox.digest ORDER BY since, outbox.digest LIMIT ?1";
pub(in crate::index) const OUTBOX_ADD: &str = "INSERT OR IGNORE INTO outbox (digest, since, len) VALUES (?1, ?2, ?3)";
pub(in crate::index) const OUTBOX_DROP: &str = "DELETE FROM outbox WHERE digest = ?1 RETURNING len";
pub(in crate::index) const OUTBOX_HAS: &str = "SELECT 1 FROM outbox WHERE digest = ?1";
pub(in crate::index) const OUTBOX_OLDEST: &str = "SELECT since FROM outbox ORDER BY since LIMIT 1";
pub(in crate::index) const OUTBOX_COUNT: &str = "SELECT count(*), coalesce(sum(len), 0) FROM outbox";

// catalog.sqlite: entries

pub(in crate::index) const ENTRIES: &str =
    "SELECT hash, seq, body, scope, ecosystem, upstream, path, variant, writer, refs, head FROM entries
     WHERE hash = ?1 ORDER BY seq DESC";
pub(in crate::index) const ENTRIES_BY_PREFIX: &str =
    "SELECT hash, seq, body, scope, ecosystem, upstream, path, variant, writer, refs, head FROM entries
     WHERE scope = ?1 AND ecosystem = ?2 AND upstream = ?3 AND path >= ?4 AND path < ?5 ORDER BY path, seq DESC LIMIT ?6";
pub(in crate::index) const ENTRY_OF_VARY: &str = "SELECT id, seq, refs FROM entries WHERE hash = ?1 AND vary = ?2";
pub(in crate::index) const ENTRY_ANY: &str = "SELECT 1 FROM entries WHERE hash = ?1 LIMIT 1";
pub(in crate::index) const ENTRY_LAST: &str = "SELECT max(id) FROM entries";
pub(in crate::index) const ENTRY_INSERT: &str =
    "INSERT INTO entries (hash, vary, seq, body, scope, ecosystem, upstream, path, variant, writer, refs, head)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
pub(in crate::index) const ENTRY_UPDATE: &str =
    "UPDATE entries SET seq = ?2, body = ?3, writer = ?4, refs = ?5, head = ?6 WHERE id = ?1";
pub(in crate::index) const ENTRIES_SURPLUS: &str =
    "SELECT id, refs FROM entries WHERE hash = ?1 ORDER BY seq DESC LIMIT -1 OFFSET ?2";
pub(in crate::index) const ENTRY_DELETE: &str = "DELETE FROM entries WHERE id = ?1";
pub(in crate::index) const ENTRIES_FORGET: &str = "DELETE FROM entries WHERE hash = ?1 RETURNING id, refs";
pub(in crate::index) const ENTRIES_OF_BODY: &str = "DELETE FROM entries WHERE body = ?1 RETURNING id, refs, hash";
pub(in crate::index) const KEYS_OF_WRITER: &str = "SELECT DISTINCT hash FROM entries WHERE writer = ?1 LIMIT ?2";
pub(in crate::index) const KEYS_BY_PREFIX: &str = "SELECT DISTINCT hash FROM entries
     WHERE scope = ?1 AND ecosystem = ?2 AND upstream = ?3 AND path >= ?4 AND path < ?5 LIMIT ?6";
pub(in crate::index) const KEYS_WITH_BODY: &str =
    "SELECT body, hash FROM entries INDEXED BY entries_by_body WHERE body IS NOT NULL ORDER BY body";
pub(in crate::index) const KEYS_WITHOUT_BODY: &str =
    "SELECT hash FROM entries INDEXED BY entries_by_body WHERE body IS NULL";

// catalog.sqlite: references, sums, edges, the feed, facts

pub(in crate::index) const REF_ADD: &str = "INSERT OR IGNORE INTO refs (digest, entry) VALUES (?1, ?2)";
pub(in crate::index) const REF_DROP: &str = "DELETE FROM refs WHERE digest = ?1 AND entry = ?2";
pub(in crate::index) const REF_KEYS: &str =
    "SELECT DISTINCT entries.hash FROM refs JOIN entries ON entries.id = refs.entry WHERE refs.digest = ?1 LIMIT ?2";
pub(in crate::index) const SUM_ADD: &str = "INSERT OR IGNORE INTO sums (algorithm, sum, digest) VALUES (?1, ?2, ?3)";
pub(in crate::index) const SUM_DROP: &str = "DELETE FROM sums WHERE algorithm = ?1 AND sum = ?2 AND digest = ?3";
pub(in crate::index) const SUM_DIGESTS: &str = "SELECT digest FROM sums WHERE algorithm = ?1 AND sum = ?2";
pub(in crate::index) const REALM_ID: &str = "SELECT id FROM realms WHERE name = ?1";
pub(in crate::index) const REALM_ADD: &str = "INSERT INTO realms (name) VALUES (?1)";
pub(in crate::index) const REALMS: &str = "SELECT id, name FROM realms";
pub(in crate::index) const EDGE_ADD: &str = "INSERT OR IGNORE INTO edges (digest, realm) VALUES (?1, ?2)";
pub(in crate::index) const EDGES_DROP: &str = "DELETE FROM edges WHERE digest = ?1";
pub(in crate::index) const EDGES_OF: &str = "SELECT realm FROM edges WHERE digest = ?1";
pub(in crate::index) const READERS: &str =
    "SELECT name FROM edges JOIN realms ON realms.id = edges.realm WHERE digest = ?1 ORDER BY name";
pub(in crate::index) const EDGES_ALL: &str = "SELECT digest, realm FROM edges ORDER BY digest";
pub(in crate::index) const FEED_ADD: &str = "INSERT OR IGNORE INTO feed (seq, hash) VALUES (?1, ?2)";
pub(in crate::index) const FEED_AFTER: &str = "SELECT seq, hash FROM feed WHERE seq > ?1 ORDER BY seq, hash LIMIT ?2";
pub(in crate::index) const FEED_OF: &str = "SELECT seq, hash FROM feed WHERE seq = ?1 ORDER BY hash";
pub(in crate::index) const FEED_PRUNE: &str = "DELETE FROM feed WHERE seq <= ?1";
pub(in crate::index) const META: &str = "SELECT value FROM meta WHERE name = ?1";
pub(in crate::index) const META_RAISE: &str = "INSERT INTO meta (name, value) VALUES (?1, ?2)
     ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)";
pub(in crate::index) const FACT_PUT: &str =
    "INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
pub(in crate::index) const FACT_DROP: &str = "DELETE FROM facts WHERE name = ?1";
pub(in crate::index) const FACTS: &str = "SELECT name, value FROM facts";

// catalog.sqlite: the bucket

/// Saying it twice gives the same number.
pub(in crate::index) const OBJECT_PUT: &str =
    "INSERT INTO objects (name, bytes, blobs, written) VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes, blobs = excluded.blobs RETURNING number";
pub(in crate::index) const OBJECT_NAME: &str = "SELECT name FROM objects WHERE number = ?1";
pub(in crate::index) const OBJECT_BLOBS: &str = "SELECT coalesce(sum(blobs), 0) FROM objects";
pub(in crate::index) const REMOTE: &str =
    "SELECT digest, object, offset, len, class, sums FROM remote WHERE digest = ?1";
pub(in crate::index) const REMOTE_ALL: &str =
    "SELECT digest, object, offset, len, class, sums FROM remote ORDER BY digest";
pub(in crate::index) const REMOTE_PUT: &str =
    "INSERT INTO remote (digest, object, offset, len, class, sums) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (digest) DO UPDATE SET object = ?2, offset = ?3, len = ?4, class = ?5, sums = ?6";
pub(in crate::index) const REMOTE_SUMS: &str = "UPDATE remote SET sums = ?2 WHERE digest = ?1";
pub(in crate::index) const REMOTE_DROP: &str = "DELETE FROM remote WHERE digest = ?1 AND object = ?2 RETURNING sums";

// catalog.sqlite: the ledger of builds

pub(in crate::index) const BUILD: &str = "SELECT id, lines FROM builds WHERE label = ?1";
pub(in crate::index) const BUILD_ADD: &str =
    "INSERT INTO builds (label, started, updated, lines, bytes, dropped) VALUES (?1, ?2, ?2, 0, 0, 0)";
pub(in crate::index) const BUILD_COUNT: &str =
    "UPDATE builds SET updated = max(updated, ?2), lines = lines + 1, bytes = bytes + ?3 WHERE id = ?1";
pub(in crate::index) const BUILD_DROPPED: &str = "UPDATE builds SET dropped = dropped + 1 WHERE id = ?1";
pub(in crate::index) const BUILDS: &str =
    "SELECT label, started, updated, lines, bytes, dropped FROM builds ORDER BY updated DESC, id DESC LIMIT ?1";
pub(in crate::index) const BUILDS_SURPLUS: &str = "SELECT id FROM builds WHERE updated < ?1
     UNION SELECT id FROM (SELECT id FROM builds ORDER BY updated DESC, id DESC LIMIT -1 OFFSET ?2)";
pub(in crate::index) const BUILD_DROP: &str = "DELETE FROM builds WHERE id = ?1";
pub(in crate::index) const LINE_ADD: &str =
    "INSERT INTO lines (build, seq, url, hash, digest, sums, outcome, tier, time, bytes, ms)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
pub(in crate::index) const LINES: &str =
    "SELECT seq, url, hash, digest, sums, outcome, tier, time, bytes, ms FROM lines
     WHERE build = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
pub(in crate::index) const LINES_DROP: &str = "DELETE FROM lines WHERE build = ?1";
pub(in crate::index) const LINE_NAMES: &str = "SELECT 1 FROM lines WHERE digest = ?1 LIMIT 1";

// catalog.sqlite: usage by day

pub(in crate::index) const USAGE_ADD: &str = "UPDATE usage_days SET
     requests = requests + ?8, hits = hits + ?9, timed_hits = timed_hits + ?10,
     served_bytes = served_bytes + ?11, saved_bytes = saved_bytes + ?12, saved_ms = saved_ms + ?13,
     fetches = fetches + ?14, fetched_bytes = fetched_bytes + ?15, s3_put = s3_put + ?16,
     s3_part = s3_part + ?17, s3_list = s3_list + ?18, s3_get = s3_get + ?19, s3_head = s3_head + ?20,
     s3_delete = s3_delete + ?21, s3_sent_bytes = s3_sent_bytes + ?22,
     s3_received_bytes = s3_received_bytes + ?23, disk_kib_s = disk_kib_s + ?24, s3_kib_s = s3_kib_s + ?25
     WHERE day = ?1 AND label = ?2 AND ecosystem = ?3 AND upstream = ?4 AND scope = ?5 AND tier = ?6 AND link = ?7";
pub(in crate::index) const USAGE_PUT: &str =
    "INSERT INTO usage_days (day, label, ecosystem, upstream, scope, tier, link,
     requests, hits, timed_hits, served_bytes, saved_bytes, saved_ms, fetches, fetched_bytes, s3_put,
     s3_part, s3_list, s3_get, s3_head, s3_delete, s3_sent_bytes, s3_received_bytes, disk_kib_s, s3_kib_s)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
     ?22, ?23, ?24, ?25)";
pub(in crate::index) const USAGE_ROWS: &str = "SELECT count(*) FROM usage_days WHERE day = ?1";
pub(in crate::index) const USAGE_EXPIRE: &str = "DELETE FROM usage_days WHERE day < ?1";
/// Sums are read as floats, which do not overflow; up to 2^53 they are exact.
pub(in crate::index) const USAGE: &str = "SELECT
     CASE ?3 WHEN 'day' THEN CAST(day AS TEXT) WHEN 'label' THEN label WHEN 'ecosystem' THEN ecosystem
     WHEN 'upstream' THEN upstream WHEN 'scope' THEN scope WHEN 'tier' THEN tier ELSE link END AS name, link,
     total(requests), total(hits), total(timed_hits), total(served_bytes), total(saved_bytes),
     total(saved_ms), total(fetches), total(fetched_bytes), total(s3_put), total(s3_part),
     total(s3_list), total(s3_get), total(s3_head), total(s3_delete), total(s3_sent_bytes),
     total(s3_received_bytes), total(disk_kib_s), total(s3_kib_s)
     FROM usage_days WHERE day BETWEEN ?1 AND ?2 GROUP BY 1, 2
     ORDER BY total(served_bytes + fetched_bytes) DESC, name, link LIMIT ?4";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::sqlite::{pool, schema};

    #[test]
    fn statements_of_places_prepare() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = pool::open_writer(&dir.path().join("places.sqlite"), schema::PLACES).expect("opens");
        for statement in [
            PLACE,
            PLACES_BETWEEN,
            PLACES_AFTER,
            PLACES_IN,
            PLACES_ALL,
            PLACE_PUT,
            PLACE_SUMS,
            PLACE_DROP,
            PLACE_MOVE,
            USE_SAVE,
            OUTBOX,
            OUTBOX_ADD,
            OUTBOX_DROP,
            OUTBOX_HAS,
            OUTBOX_OLDEST,
            OUTBOX_COUNT,
        ] {
            places.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    #[test]
    fn statements_of_the_catalog_prepare() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = pool::open_writer(&dir.path().join("catalog.sqlite"), schema::CATALOG).expect("opens");
        for statement in [
            ENTRIES,
            ENTRIES_BY_PREFIX,
            ENTRY_OF_VARY,
            ENTRY_ANY,
            ENTRY_LAST,
            ENTRY_INSERT,
            ENTRY_UPDATE,
            ENTRIES_SURPLUS,
            ENTRY_DELETE,
            ENTRIES_FORGET,
            ENTRIES_OF_BODY,
            KEYS_OF_WRITER,
            KEYS_BY_PREFIX,
            KEYS_WITH_BODY,
            KEYS_WITHOUT_BODY,
            REF_ADD,
            REF_DROP,
            REF_KEYS,
            SUM_ADD,
            SUM_DROP,
            SUM_DIGESTS,
            REALM_ID,
            REALM_ADD,
            REALMS,
            EDGE_ADD,
            EDGES_DROP,
            EDGES_OF,
            READERS,
            EDGES_ALL,
            FEED_ADD,
            FEED_AFTER,
            FEED_OF,
            FEED_PRUNE,
            META,
            META_RAISE,
            FACT_PUT,
            FACT_DROP,
            FACTS,
            OBJECT_PUT,
            OBJECT_NAME,
            OBJECT_BLOBS,
            REMOTE,
            REMOTE_ALL,
            REMOTE_PUT,
            REMOTE_SUMS,
            REMOTE_DROP,
            BUILD,
            BUILD_ADD,
            BUILD_COUNT,
            BUILD_DROPPED,
            BUILDS,
            BUILDS_SURPLUS,
            BUILD_DROP,
            LINE_ADD,
            LINES,
            LINES_DROP,
            LINE_NAMES,
            USAGE_ADD,
            USAGE_PUT,
            USAGE_ROWS,
            USAGE_EXPIRE,
            USAGE,
        ] {
            catalog.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }
}
