//! What every engine of the catalog must do. Generic, so that each engine runs the same suite.

mod remote;
mod usage;

use std::sync::Arc;

use super::catalog::{Catalog, Change, Keep, Named, PrefixAsk, Put};
use super::error::IndexError;
use super::sqlite::catalog::SqliteCatalog;
use super::testing::{entry, put, sha256};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::entry::Entry;
use crate::model::key::KeyHash;
use crate::model::realm::{Realm, Scope};

/// What the engine under test must keep: it is opened with these bounds.
const KEEP: Keep = Keep { variants: VARIANTS, feed: FEED };
const VARIANTS: usize = 4;
const FEED: u64 = 64;

/// Runs every contract, each on a fresh catalog. The guard lives as long as its catalog.
async fn every_contract<G>(mut fresh: impl FnMut() -> (Arc<dyn Catalog>, G)) {
    let (catalog, _guard) = fresh();
    entries_come_back_whole(&catalog).await;
    let (catalog, _guard) = fresh();
    equal_vary_replaces_and_others_stay(&catalog).await;
    let (catalog, _guard) = fresh();
    variants_are_bounded(&catalog).await;
    let (catalog, _guard) = fresh();
    a_conflict_leaves_everything_as_it_was(&catalog).await;
    let (catalog, _guard) = fresh();
    forgotten_keys_are_gone(&catalog).await;
    let (catalog, _guard) = fresh();
    a_sum_without_an_edge_is_absent(&catalog).await;
    let (catalog, _guard) = fresh();
    prefixes_end_where_they_end(&catalog).await;
    let (catalog, _guard) = fresh();
    the_feed_follows_commits(&catalog).await;
    remote::every_contract(&mut fresh).await;
    usage::every_contract(&mut fresh).await;
}

/// Changes to keys that belong together.
#[derive(Default, Clone)]
struct Batch {
    puts: Vec<Put>,
    forgets: Vec<KeyHash>,
    sums: Vec<(Checksum, Digest)>,
    edges: Vec<(Realm, Digest)>,
}

async fn commit(catalog: &Arc<dyn Catalog>, batch: Batch) -> Result<u64, IndexError> {
    let catalog = catalog.clone();
    let write = move || {
        let named = Named {
            seq: None,
            forgets: &batch.forgets,
            puts: batch.puts.iter().map(|put| (&*put.entry, put.expected)).collect(),
            sums: batch.sums.clone(),
            edges: &batch.edges,
        };
        catalog.write(&[Change::Named(named)]).map(|written| written.seq)
    };
    tokio::task::spawn_blocking(write).await.expect("it does not panic")
}

fn puts(entries: impl IntoIterator<Item = Entry>) -> Batch {
    Batch { puts: entries.into_iter().map(put).collect(), ..Batch::default() }
}

fn varied(path: &str, value: &str, body: &[u8]) -> Entry {
    Entry { vary: vec![("accept".into(), Some(value.into()))], ..entry(path, Some(body)) }
}

async fn one(catalog: &Arc<dyn Catalog>, key: KeyHash) -> Vec<Entry> {
    catalog.lookup(&[key]).await.expect("reads").pop().expect("one answer for one key")
}

async fn entries_come_back_whole(catalog: &Arc<dyn Catalog>) {
    let mut stored = entry("a", Some(b"a"));
    stored.headers.append("x-one", http::HeaderValue::from_static("1"));
    stored.headers.append("x-one", http::HeaderValue::from_static("2"));
    stored.refs = vec![Digest::of(b"r"), Digest::of(b"s")];
    stored.writer = Arc::from("build 7");
    stored.valid = false;
    let bodiless = entry("b", None);
    let seq = commit(catalog, puts([stored.clone(), bodiless.clone()])).await.expect("commits");
    let found = catalog.lookup(&[bodiless.hash, KeyHash([9; 16]), stored.hash]).await.expect("reads");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 1]);
    let back = &found[2][0];
    assert_eq!((&*back.key, back.hash, back.status, back.seq), (&*stored.key, stored.hash, 200, seq));
    assert_eq!((&back.headers, &back.refs, &back.writer), (&stored.headers, &stored.refs, &stored.writer));
    assert_eq!((back.body, back.len, back.valid, &back.realm), (stored.body, stored.len, false, &stored.realm));
    assert_eq!(found[0][0].body, None);
}

async fn equal_vary_replaces_and_others_stay(catalog: &Arc<dyn Catalog>) {
    let key = entry("a", None).hash;
    commit(catalog, puts([varied("a", "gzip", b"1")])).await.expect("commits");
    commit(catalog, puts([varied("a", "br", b"2")])).await.expect("commits");
    let last = commit(catalog, puts([varied("a", "gzip", b"3")])).await.expect("commits");
    let found = one(catalog, key).await;
    let bodies: Vec<_> = found.iter().map(|entry| entry.body).collect();
    assert_eq!(bodies, [Some(Digest::of(b"3")), Some(Digest::of(b"2"))], "newest first");
    assert_eq!(found[0].seq, last);
}

async fn variants_are_bounded(catalog: &Arc<dyn Catalog>) {
    for n in 0..VARIANTS + 3 {
        commit(catalog, puts([varied("a", &n.to_string(), b"x")])).await.expect("commits");
    }
    let found = one(catalog, entry("a", None).hash).await;
    assert_eq!(found.len(), VARIANTS);
    assert!(found.iter().all(|entry| entry.seq > 3), "the oldest went");
}

async fn a_conflict_leaves_everything_as_it_was(catalog: &Arc<dyn Catalog>) {
    let first = commit(catalog, puts([entry("a", Some(b"1"))])).await.expect("commits");
    let expecting = |expected| Put { entry: Arc::new(entry("a", Some(b"2"))), expected: Some(expected) };
    let batch = Batch { puts: vec![put(entry("b", Some(b"b"))), expecting(first + 7)], ..Batch::default() };
    let error = commit(catalog, batch).await.expect_err("is refused");
    assert!(matches!(error, IndexError::Conflict), "{error}");
    assert!(one(catalog, entry("b", None).hash).await.is_empty(), "the batch is whole or not at all");
    commit(catalog, Batch { puts: vec![expecting(first)], ..Batch::default() }).await.expect("the version is right");
    assert_eq!(one(catalog, entry("a", None).hash).await[0].body, Some(Digest::of(b"2")));
    let new = Put { entry: Arc::new(entry("new", None)), expected: Some(0) };
    commit(catalog, Batch { puts: vec![new], ..Batch::default() }).await.expect("0: nothing stands there");
}

async fn forgotten_keys_are_gone(catalog: &Arc<dyn Catalog>) {
    let key = entry("a", None).hash;
    commit(catalog, puts([varied("a", "1", b"1"), varied("a", "2", b"2")])).await.expect("commits");
    commit(catalog, Batch { forgets: vec![key, KeyHash([7; 16])], ..Batch::default() }).await.expect("commits");
    assert!(one(catalog, key).await.is_empty());
    // Forgets come before puts.
    let batch = Batch { forgets: vec![key], ..puts([entry("a", None)]) };
    commit(catalog, batch).await.expect("commits");
    assert_eq!(one(catalog, key).await.len(), 1);
}

async fn a_sum_without_an_edge_is_absent(catalog: &Arc<dyn Catalog>) {
    let (sum, digest) = (sha256(b"a"), Digest::of(b"a"));
    let (mine, theirs) = (Realm::named("mine"), Realm::named("theirs"));
    commit(catalog, Batch { sums: vec![(sum, digest)], ..Batch::default() }).await.expect("commits");
    let ask = [sha256(b"b"), sum];
    assert_eq!(catalog.resolve(std::slice::from_ref(&mine), &ask).await.expect("reads"), [None, None]);
    commit(catalog, Batch { edges: vec![(theirs.clone(), digest)], ..Batch::default() }).await.expect("commits");
    assert_eq!(catalog.resolve(std::slice::from_ref(&mine), &ask).await.expect("reads"), [None, None]);
    assert_eq!(catalog.resolve(&[mine.clone(), theirs.clone()], &ask).await.expect("reads"), [None, Some(digest)]);
    commit(catalog, Batch { edges: vec![(mine.clone(), digest)], ..Batch::default() }).await.expect("commits");
    let asked = vec![Digest::of(b"b"), digest];
    assert_eq!(catalog.readers(asked).await.expect("reads"), [vec![], vec![mine, theirs]]);
}

async fn prefixes_end_where_they_end(catalog: &Arc<dyn Catalog>) {
    let paths = ["a/1", "a/2", "a/\u{10FFFE}", "a", "b/1", "A/1"];
    commit(catalog, puts(paths.map(|path| entry(path, None)))).await.expect("commits");
    let scope = Scope::shared();
    let ask = PrefixAsk {
        scope: &scope,
        ecosystem: "go",
        upstream: "https://upstream.test",
        prefix: "a/",
        from: "",
        limit: 10,
    };
    let found = catalog.by_prefix(ask).await.expect("reads");
    let found: Vec<_> = found.iter().map(|entry| entry.key.path.as_str()).collect();
    assert_eq!(found, ["a/1", "a/2", "a/\u{10FFFE}"]);
    assert_eq!(catalog.by_prefix(PrefixAsk { limit: 1, ..ask }).await.expect("reads").len(), 1);
    assert_eq!(catalog.by_prefix(PrefixAsk { from: "a/2", ..ask }).await.expect("reads").len(), 2);
    assert_eq!(catalog.by_prefix(PrefixAsk { from: "A", ..ask }).await.expect("reads").len(), 3);
    assert!(catalog.by_prefix(PrefixAsk { upstream: "other", ..ask }).await.expect("reads").is_empty());
    assert_eq!(catalog.by_prefix(PrefixAsk { prefix: "", ..ask }).await.expect("reads").len(), 6);
}

async fn the_feed_follows_commits(catalog: &Arc<dyn Catalog>) {
    let first = commit(catalog, puts((0..5).map(|n| entry(&format!("a{n}"), None)))).await.expect("commits");
    let second = commit(catalog, puts([entry("b", None)])).await.expect("commits");
    assert!(second > first);
    let all = catalog.changes(0, 100).await.expect("reads");
    assert_eq!(all.len(), 6);
    assert_eq!(all[5], (second, entry("b", None).hash));
    let page = catalog.changes(0, 2).await.expect("reads");
    assert_eq!(page.len(), 5, "a commit is never split");
    assert_eq!(catalog.changes(first, 2).await.expect("reads").len(), 1);
    for n in 0..FEED * 2 {
        commit(catalog, puts([entry(&n.to_string(), None)])).await.expect("commits");
    }
    let error = catalog.changes(first, 100).await.expect_err("is too long ago");
    let IndexError::Behind { floor, .. } = error else { panic!("{error}") };
    let rest = catalog.changes(floor, 1000).await.expect("reads");
    assert!(rest.len() as u64 >= FEED && rest.len() as u64 <= FEED + FEED / 4, "{}", rest.len());
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    every_contract(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = SqliteCatalog::open_whole(&dir.path().join("catalog.sqlite"), 2, KEEP).expect("opens");
        (opened.catalog, dir)
    })
    .await;
    let dir = tempfile::tempdir().expect("a directory");
    let open = || SqliteCatalog::open_whole(&dir.path().join("catalog.sqlite"), 2, KEEP).expect("opens");
    remote::what_is_remote_is_read_when_opened(open).await;
}
