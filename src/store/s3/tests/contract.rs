//! What every bucket must do: run against the one in memory here, and against a real server by `tests/it/s3.rs`, which
//! takes this file as its own.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::api::*;

/// Everything, below a folder of its own.
pub async fn all(bucket: Arc<dyn Bucket>, clock: Arc<dyn Clock>) {
    let folder = probe_folder();
    objects(&*bucket, &folder).await;
    conditions(&*bucket, &folder).await;
    uploads(&*bucket, &folder).await;
    blobs_and_packs(bucket.clone(), clock, &folder).await;
    let left = bucket.list(&folder, None).await.expect("lists").objects;
    let names: Vec<String> = left.into_iter().map(|(name, _)| name).collect();
    assert_eq!(bucket.delete(names).await.expect("deletes"), []);
    assert_eq!(bucket.list(&folder, None).await.expect("lists").objects, []);
}

/// What is stored and read through packs, objects and ranges, on however bad a line.
pub async fn blobs_and_packs(bucket: Arc<dyn Bucket>, clock: Arc<dyn Clock>, folder: &str) {
    let settings = Settings { part_bytes: 5 << 20, multipart_from: 5 << 20, ..Settings::default() };
    let remote = Remote::new(bucket, &settings, clock).expect("settings that can be");
    blobs(&remote, folder).await;
    packs(&remote, folder).await;
}

/// Bytes that follow from a number.
pub fn pattern(seed: u8, len: usize) -> Bytes {
    let mut reader = blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof();
    let mut bytes = vec![0; len];
    reader.fill(&mut bytes);
    bytes.into()
}

async fn body(got: Option<Got>) -> Bytes {
    let (mut got, mut bytes) = (got.expect("it is there"), Vec::new());
    while let Some(chunk) = got.body.chunk().await {
        bytes.extend_from_slice(&chunk.expect("a whole body"));
    }
    bytes.into()
}

fn put(bytes: &Bytes, only: Only) -> Put {
    Put { bytes: bytes.clone(), seal: None, only }
}

async fn objects(bucket: &dyn Bucket, folder: &str) {
    let (name, bytes) = (format!("{folder}a"), pattern(1, 100_000));
    let past = Span::Part(ByteRange { start: 100_000, end: 100_001 });
    assert!(bucket.get(&name, Span::Whole).await.expect("asked").is_none());
    assert_eq!(bucket.head(&name).await.expect("asked"), None);
    let sealed = Put { seal: Some("what+it/is".into()), ..put(&bytes, Only::Always) };
    let tag = bucket.put(&name, sealed).await.expect("stored");
    assert_eq!(body(bucket.get(&name, Span::Whole).await.expect("asked")).await, bytes);
    let part = |start, end| Span::Part(ByteRange { start, end });
    for (span, expected) in [
        (part(0, 1), 0..1),
        (part(99_999, 100_000), 99_999..100_000),
        (part(5, 70_000), 5..70_000),
        (Span::Last(7), 99_993..100_000),
        (Span::Last(1_000_000), 0..100_000),
    ] {
        let got = bucket.get(&name, span).await.expect("asked");
        let stat = got.as_ref().map(|got| got.stat.clone()).expect("it is there");
        assert_eq!((stat.len, &stat.tag, stat.seal.as_deref()), (100_000, &tag, Some("what+it/is")), "{span:?}");
        assert_eq!(body(got).await, bytes.slice(expected), "{span:?}");
    }
    let none = bucket.get(&name, past).await;
    assert!(matches!(none, Err(S3Error::Damaged { .. })), "{none:?}");
    let head = bucket.head(&name).await.expect("asked").expect("it is there");
    assert_eq!(head, Stat { len: 100_000, tag, seal: Some("what+it/is".into()) });
    let other = format!("{folder}b/c");
    bucket.put(&other, put(&bytes, Only::Always)).await.expect("stored");
    let listed = |after: Option<String>| async move {
        let page = bucket.list(folder, after.as_deref()).await.expect("lists");
        assert!(!page.more);
        page.objects
    };
    assert_eq!(listed(None).await, [(name.clone(), 100_000), (other.clone(), 100_000)]);
    assert_eq!(listed(Some(name.clone())).await, [(other.clone(), 100_000)]);
    // What is not there is as good as deleted.
    assert_eq!(bucket.delete(vec![name.clone(), other, format!("{folder}none")]).await.expect("deletes"), []);
    assert!(bucket.get(&name, Span::Whole).await.expect("asked").is_none());
}

async fn conditions(bucket: &dyn Bucket, folder: &str) {
    let (name, old, new) = (format!("{folder}only"), pattern(2, 10), pattern(3, 10));
    let exists = |stored: Result<Tag, S3Error>| assert!(matches!(stored, Err(S3Error::Exists { .. })), "{stored:?}");
    let first = bucket.put(&name, put(&old, Only::IfAbsent)).await.expect("it was absent");
    exists(bucket.put(&name, put(&new, Only::IfAbsent)).await);
    exists(bucket.put(&name, put(&new, Only::IfTag(Tag("\"no such tag\"".into())))).await);
    assert_eq!(body(bucket.get(&name, Span::Whole).await.expect("asked")).await, old);
    let second = bucket.put(&name, put(&new, Only::IfTag(first.clone()))).await.expect("its tag was known");
    assert_ne!(first, second);
    exists(bucket.put(&name, put(&old, Only::IfTag(first))).await);
    assert_eq!(body(bucket.get(&name, Span::Whole).await.expect("asked")).await, new);
    // Of many who are first, one is.
    let name = format!("{folder}race");
    let racing = (0..16).map(|seed| {
        let name = name.clone();
        async move { bucket.put(&name, put(&pattern(seed, 10), Only::IfAbsent)).await.is_ok() }
    });
    let won = futures_util::future::join_all(racing).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
}

async fn uploads(bucket: &dyn Bucket, folder: &str) {
    let (name, bytes) = (format!("{folder}parts"), pattern(4, (5 << 20) + 3));
    let begin = || async {
        let id = bucket.begin(&name, Some("sealed")).await.expect("begins");
        Upload { name: name.clone(), id }
    };
    let upload = begin().await;
    assert!(bucket.unfinished(folder).await.expect("lists").contains(&upload));
    let mut parts = Vec::new();
    for (number, part) in [(1, bytes.slice(..5 << 20)), (2, bytes.slice(5 << 20..))] {
        parts.push(bucket.part(&upload, number, part).await.expect("sent"));
    }
    assert!(bucket.get(&name, Span::Whole).await.expect("asked").is_none(), "before it is complete");
    bucket.complete(&upload, parts.clone(), Only::IfAbsent).await.expect("completes");
    let got = bucket.get(&name, Span::Whole).await.expect("asked");
    assert_eq!(got.as_ref().and_then(|got| got.stat.seal.clone()).as_deref(), Some("sealed"));
    assert_eq!(body(got).await, bytes);
    let second = begin().await;
    let part = bucket.part(&second, 1, bytes.slice(..10)).await.expect("sent");
    let stored = bucket.complete(&second, vec![part], Only::IfAbsent).await;
    assert!(matches!(stored, Err(S3Error::Exists { .. })), "{stored:?}");
    bucket.abort(&second).await.expect("aborts");
    bucket.abort(&second).await.expect("twice too");
    assert_eq!(bucket.unfinished(folder).await.expect("lists"), []);
    assert_eq!(body(bucket.get(&name, Span::Whole).await.expect("asked")).await, bytes);
}

async fn blobs(remote: &Remote, folder: &str) {
    for (seed, len) in [(5, 1), (6, 300_000), (7, 1 << 20), (8, (11 << 20) + 5)] {
        let bytes = pattern(seed, len);
        let digest = Digest::of(&bytes);
        let object = format!("{folder}blob-{seed}");
        let blob = Blob { digest, class: Class::Trusted, len: len as u64 };
        remote.put_blob(&object, &blob, &bytes).await.expect("stored");
        remote.put_blob(&object, &blob, &bytes).await.expect("the same again is as good as stored");
        let other = Blob { digest: Digest::of(b"other"), class: Class::Trusted, len: 5 };
        let again = remote.put_blob(&object, &other, &Bytes::from_static(b"other")).await;
        assert!(matches!(again, Err(S3Error::Exists { .. })), "{again:?}");
        let (len, half) = (len as u64, len as u64 / 2);
        for (start, end) in [(0, len), (half, len), (0, half + 1), (half, half + 1)] {
            let wanted = Wanted { object: object.clone(), digest, len };
            let reader = remote.blob(wanted, ByteRange { start, end }).await.expect("opens");
            let read: Vec<Bytes> = reader.try_collect().await.expect("whole");
            assert_eq!(read.concat(), bytes.slice(start as usize..end as usize), "{seed}: {start} to {end}");
        }
    }
}

async fn packs(remote: &Remote, folder: &str) {
    // So many that the footer does not fit into the first look at the end.
    let blobs: Vec<Bytes> =
        (0..1200_u32).map(|at| Bytes::from(format!("blob {at}").repeat(at as usize % 9 + 1))).collect();
    let mut packer = Packer::default();
    for blob in &blobs {
        assert_eq!(packer.push(Digest::of(blob), Class::Untrusted, blob), Pushed::Packed);
    }
    let object = format!("{folder}pack");
    let stored = remote.put_pack(&object, packer, b"records", 42).await.expect("stored").expect("not empty");
    let footer = remote.footer(&object).await.expect("reads");
    assert_eq!(footer, stored);
    assert_eq!((&footer.records[..], footer.sequence, footer.entries.len()), (&b"records"[..], 42, blobs.len()));
    for (entry, blob) in footer.entries.iter().zip(&blobs).step_by(100) {
        assert_eq!(&remote.packed(&object, &entry.digest, entry.range).await.expect("reads"), blob);
    }
    let wrong = remote.packed(&object, &Digest::of(b"another"), footer.entries[0].range).await;
    assert!(matches!(wrong, Err(S3Error::Damaged { .. })), "{wrong:?}");
}
