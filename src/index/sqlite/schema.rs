//! The schemas, as lists of migrations. A list is only ever appended to: what stands has run on someone's disk.
//!
//! `user_version` counts the migrations that a database has seen. Steps here must be quick, since they run before
//! the index opens; work on rows belongs to `format.rs`, which runs in the background.

/// digest → place, with what the table in memory needs and eviction reads. `sums`: see `codec::encode_sums`. Then what
/// waits to be remote.
pub(in crate::index) const PLACES: &[&str] = &[
    "
    CREATE TABLE blobs (
        digest BLOB NOT NULL PRIMARY KEY,
        tier INTEGER NOT NULL,
        object INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        len INTEGER NOT NULL,
        class INTEGER NOT NULL,
        used INTEGER NOT NULL,
        hits INTEGER NOT NULL,
        sums BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE outbox (
        digest BLOB NOT NULL PRIMARY KEY, since INTEGER NOT NULL, len INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX outbox_by_since ON outbox (since, digest);
",
];

/// Keys and all that hangs on them. `entries_by_body` covers what the table loads, in the order of the places. Then the
/// objects of the bucket, whose numbers are never used twice, and what is in them.
pub(in crate::index) const CATALOG: &[&str] = &[
    "
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY,
        hash BLOB NOT NULL,
        vary BLOB NOT NULL,
        seq INTEGER NOT NULL,
        body BLOB,
        scope TEXT NOT NULL,
        ecosystem TEXT NOT NULL,
        upstream TEXT NOT NULL,
        path TEXT NOT NULL,
        variant TEXT NOT NULL,
        writer TEXT NOT NULL,
        refs BLOB NOT NULL,
        head BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX entries_by_key ON entries (hash, vary);
    CREATE INDEX entries_by_body ON entries (body, hash);
    CREATE INDEX entries_by_path ON entries (scope, ecosystem, upstream, path);
    CREATE INDEX entries_by_writer ON entries (writer);
    CREATE TABLE refs (
        digest BLOB NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (digest, entry)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sums (
        algorithm INTEGER NOT NULL, sum BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (algorithm, sum, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE realms (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE edges (
        digest BLOB NOT NULL, realm INTEGER NOT NULL, PRIMARY KEY (digest, realm)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE feed (
        seq INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (seq, hash)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE builds (
        id INTEGER PRIMARY KEY,
        label TEXT NOT NULL UNIQUE,
        started INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        lines INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        dropped INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX builds_by_update ON builds (updated);
    CREATE TABLE lines (
        build INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        url TEXT NOT NULL,
        hash BLOB NOT NULL,
        digest BLOB,
        sums BLOB NOT NULL,
        outcome TEXT NOT NULL,
        tier TEXT NOT NULL,
        time INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        ms INTEGER NOT NULL,
        PRIMARY KEY (build, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX lines_by_digest ON lines (digest) WHERE digest IS NOT NULL;
",
    "
    CREATE TABLE objects (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        bytes INTEGER NOT NULL,
        blobs INTEGER NOT NULL,
        written INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE remote (
        digest BLOB NOT NULL PRIMARY KEY,
        object INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        len INTEGER NOT NULL,
        class INTEGER NOT NULL,
        sums BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE usage_days (
        day INTEGER NOT NULL,
        label TEXT NOT NULL,
        ecosystem TEXT NOT NULL,
        upstream TEXT NOT NULL,
        scope TEXT NOT NULL,
        tier TEXT NOT NULL,
        link TEXT NOT NULL,
        requests INTEGER NOT NULL,
        hits INTEGER NOT NULL,
        timed_hits INTEGER NOT NULL,
        served_bytes INTEGER NOT NULL,
        saved_bytes INTEGER NOT NULL,
        saved_ms INTEGER NOT NULL,
        fetches INTEGER NOT NULL,
        fetched_bytes INTEGER NOT NULL,
        s3_put INTEGER NOT NULL,
        s3_part INTEGER NOT NULL,
        s3_list INTEGER NOT NULL,
        s3_get INTEGER NOT NULL,
        s3_head INTEGER NOT NULL,
        s3_delete INTEGER NOT NULL,
        s3_sent_bytes INTEGER NOT NULL,
        s3_received_bytes INTEGER NOT NULL,
        disk_kib_s INTEGER NOT NULL,
        s3_kib_s INTEGER NOT NULL,
        PRIMARY KEY (day, label, ecosystem, upstream, scope, tier, link)
    ) STRICT, WITHOUT ROWID;
",
];
