//! What every engine must do about the bucket: objects, what is in them, and what that keeps.

use std::sync::Arc;

use super::{Batch, commit, one, puts};
use crate::index::catalog::{Catalog, Change, Found, Opened, Remote, RemoteBlob};
use crate::index::error::IndexError;
use crate::index::testing::{entry, sha256};
use crate::model::checksum::Checksum;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::model::realm::Realm;
use crate::model::time::Timestamp;

const AT: Timestamp = Timestamp(1_000);

/// Runs each on a fresh catalog. The guard lives as long as its catalog.
pub(super) async fn every_contract<G>(fresh: &mut impl FnMut() -> (Arc<dyn Catalog>, G)) {
    let (catalog, _guard) = fresh();
    objects_are_numbered_once(&catalog).await;
    let (catalog, _guard) = fresh();
    a_blob_is_said_to_be_in_one_object(&catalog).await;
    let (catalog, _guard) = fresh();
    what_is_remote_keeps_what_hangs_on_it(&catalog).await;
    let (catalog, _guard) = fresh();
    sums_learned_later_are_known_of_the_remote_copy(&catalog).await;
}

fn blob(bytes: &[u8], offset: u32) -> RemoteBlob {
    let (digest, sums) = (Digest::of(bytes), vec![sha256(bytes)]);
    RemoteBlob { digest, class: Class::Trusted, offset, len: bytes.len() as u64, sums }
}

fn remote(object: u32, bytes: &[u8], offset: u32) -> Remote {
    let place = Place { tier: TierName::S3, object, offset, len: bytes.len() as u64 };
    Remote { place, class: Class::Trusted, sums: vec![sha256(bytes)] }
}

/// Runs on a thread where a write may block.
async fn write(
    catalog: &Arc<dyn Catalog>,
    work: impl FnOnce(&dyn Catalog) -> Result<Vec<Found>, IndexError> + Send + 'static,
) -> Found {
    let catalog = catalog.clone();
    let done = tokio::task::spawn_blocking(move || work(&*catalog)).await.expect("it does not panic");
    done.expect("commits").pop().expect("of each change")
}

async fn put(catalog: &Arc<dyn Catalog>, name: &'static str, blobs: Vec<RemoteBlob>) -> u32 {
    let found = write(catalog, move |catalog| {
        let change = Change::Remote { name, bytes: 100, at: AT, blobs: &blobs };
        Ok(catalog.write(&[change])?.found)
    });
    found.await.object.expect("an object has a number")
}

async fn lose(catalog: &Arc<dyn Catalog>, seq: u64, bytes: &[u8], object: u32, whole: bool) -> Found {
    let change = Change::Lost { seq, digest: Digest::of(bytes), object, whole };
    write(catalog, move |catalog| Ok(catalog.write(&[change])?.found)).await
}

async fn drop_here(catalog: &Arc<dyn Catalog>, seq: u64, blobs: Vec<(Digest, Vec<Checksum>)>) -> Found {
    write(catalog, move |catalog| Ok(catalog.write(&[Change::Dropped { seq, blobs: &blobs }])?.found)).await
}

async fn known(catalog: &Arc<dyn Catalog>, bytes: &[u8]) -> Option<Remote> {
    catalog.remote(vec![Digest::of(bytes)]).await.expect("reads").pop().expect("of each digest")
}

async fn objects_are_numbered_once(catalog: &Arc<dyn Catalog>) {
    let one = put(catalog, "v1/pack/one", vec![blob(b"1", 0)]).await;
    let two = put(catalog, "v1/pack/two", vec![blob(b"2", 0)]).await;
    assert_ne!(one, two);
    assert_eq!(put(catalog, "v1/pack/one", vec![blob(b"1", 0)]).await, one, "said twice it is the same");
    assert_eq!(catalog.object(two).await.expect("reads").as_deref(), Some("v1/pack/two"));
    assert_eq!(catalog.object(one.max(two) + 1).await.expect("reads"), None);
    assert_eq!(known(catalog, b"2").await, Some(remote(two, b"2", 0)));
}

async fn a_blob_is_said_to_be_in_one_object(catalog: &Arc<dyn Catalog>) {
    let large =
        RemoteBlob { class: Class::Document, offset: u32::MAX, len: 1 << 40, sums: Vec::new(), ..blob(b"3", 0) };
    let first = put(catalog, "first", vec![blob(b"2", 7), blob(b"1", 0), large]).await;
    let asked = [b"3", b"9", b"1", b"2"].map(|bytes| Digest::of(bytes)).to_vec();
    let found = catalog.remote(asked).await.expect("reads");
    let place = Place { tier: TierName::S3, object: first, offset: u32::MAX, len: 1 << 40 };
    let large = Remote { place, class: Class::Document, sums: Vec::new() };
    assert_eq!(found, [Some(large), None, Some(remote(first, b"1", 0)), Some(remote(first, b"2", 7))]);
    // Without its sums: those known stay known.
    let second = put(catalog, "second", vec![RemoteBlob { sums: Vec::new(), ..blob(b"1", 4) }]).await;
    assert_eq!(known(catalog, b"1").await, Some(remote(second, b"1", 4)));
    lose(catalog, 1, b"1", first, true).await;
    assert_eq!(known(catalog, b"1").await, Some(remote(second, b"1", 4)), "it is in another one by now");
    lose(catalog, 2, b"1", second, true).await;
    assert_eq!(known(catalog, b"1").await, None);
    assert_eq!(known(catalog, b"2").await, Some(remote(first, b"2", 7)));
}

async fn what_is_remote_keeps_what_hangs_on_it(catalog: &Arc<dyn Catalog>) {
    let (here, there) = (Digest::of(b"here"), Digest::of(b"there"));
    let sums = [sha256(b"here"), sha256(b"there")];
    let realms = [Realm::public()];
    let batch = Batch {
        sums: vec![(sums[0], here), (sums[1], there)],
        edges: vec![(Realm::public(), here), (Realm::public(), there)],
        ..puts([entry("here", Some(b"here")), entry("there", Some(b"there"))])
    };
    let seq = commit(catalog, batch).await.expect("commits");
    let object = put(catalog, "object", vec![blob(b"there", 3)]).await;
    let keys = [entry("here", None).hash, entry("there", None).hash];
    let found = drop_here(catalog, seq + 1, vec![(there, vec![sums[1]]), (here, vec![sums[0]])]).await;
    assert_eq!(found.keys, [(keys[0], false)]);
    assert_eq!(found.remote, [(there, remote(object, b"there", 3))]);
    assert_eq!(catalog.resolve(&realms, &sums).await.expect("reads"), [None, Some(there)]);
    assert_eq!((one(catalog, keys[0]).await.len(), one(catalog, keys[1]).await.len()), (0, 1));
    // A node that has it here loses the remote copy alone.
    let found = lose(catalog, seq + 2, b"there", object, false).await;
    assert_eq!((found.keys, known(catalog, b"there").await), (vec![], None));
    assert_eq!(catalog.resolve(&realms, &sums).await.expect("reads"), [None, Some(there)]);
    let object = put(catalog, "another", vec![blob(b"there", 0)]).await;
    let found = lose(catalog, seq + 3, b"there", object, true).await;
    assert_eq!(found.keys, [(keys[1], false)]);
    assert_eq!(catalog.resolve(&realms, &sums).await.expect("reads"), [None, None]);
    assert!(!catalog.readable(realms.to_vec(), there).await.expect("reads"));
    assert_eq!(catalog.changes(seq, 9).await.expect("reads"), [(seq + 1, keys[0]), (seq + 3, keys[1])]);
}

async fn sums_learned_later_are_known_of_the_remote_copy(catalog: &Arc<dyn Catalog>) {
    let digest = Digest::of(b"a");
    let bare = RemoteBlob { sums: Vec::new(), ..blob(b"a", 0) };
    let object = put(catalog, "object", vec![bare]).await;
    commit(catalog, Batch { sums: vec![(sha256(b"a"), digest)], ..Batch::default() }).await.expect("commits");
    assert_eq!(known(catalog, b"a").await, Some(remote(object, b"a", 0)));
    // They go with it.
    commit(catalog, Batch { edges: vec![(Realm::public(), digest)], ..Batch::default() }).await.expect("commits");
    let realms = [Realm::public()];
    assert_eq!(catalog.resolve(&realms, &[sha256(b"a")]).await.expect("reads"), [Some(digest)]);
    lose(catalog, 9, b"a", object, true).await;
    commit(catalog, Batch { edges: vec![(Realm::public(), digest)], ..Batch::default() }).await.expect("commits");
    assert_eq!(catalog.resolve(&realms, &[sha256(b"a")]).await.expect("reads"), [None]);
}

/// What one opening left, the next one reads in the order of the digests.
pub(in crate::index) async fn what_is_remote_is_read_when_opened(mut open: impl FnMut() -> Opened) {
    let opened = open();
    assert!(opened.names.is_none(), "there is nothing to load");
    let blobs: Vec<RemoteBlob> = (0..20_u8).map(|n| blob(&[n], u32::from(n))).collect();
    let object = put(&opened.catalog, "object", blobs).await;
    lose(&opened.catalog, 1, &[3], object, true).await;
    opened.catalog.close();
    drop(opened);
    let read = move |mut opened: Opened| {
        let mut found = Vec::new();
        let mut names = opened.names.take().expect("something to load");
        assert!(names.remote().expect("counts") >= 19);
        let mut with = |cursors: crate::index::catalog::Cursors<'_>| {
            found = cursors.remote.collect::<Result<Vec<_>, _>>()?;
            Ok(())
        };
        names.read(&mut with).expect("reads");
        opened.catalog.close();
        found
    };
    let opened = open();
    let found = tokio::task::spawn_blocking(move || read(opened)).await.expect("it does not panic");
    let stays = (0..20_u8).filter(|n| *n != 3);
    let mut expected: Vec<_> = stays.map(|n| (Digest::of(&[n]), remote(object, &[n], u32::from(n)))).collect();
    expected.sort_unstable_by_key(|(digest, _)| *digest);
    assert_eq!(found, expected);
}
