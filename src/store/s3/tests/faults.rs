//! Bytes that are wrong, cut or gone: never handed on, taken up again where that helps, named where it does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};

use super::contract::pattern;
use super::fake::{Fake, Fault};
use crate::model::digest::Digest;
use crate::model::place::Class;
use crate::model::range::ByteRange;
use crate::runtime::clock::SystemClock;
use crate::store::s3::bucket::Bucket;
use crate::store::s3::error::S3Error;
use crate::store::s3::pack::Packer;
use crate::store::s3::read::Wanted;
use crate::store::s3::remote::{Blob, Remote};
use crate::store::s3::settings::Settings;

pub fn remote(fake: &Arc<Fake>) -> Remote {
    let settings = Settings {
        part_bytes: 5 << 20,
        multipart_from: 5 << 20,
        in_flight_bytes: 64 << 20,
        hedge_percent: 0,
        ..Settings::default()
    };
    Remote::new(fake.clone(), &settings, SystemClock::new()).expect("settings that can be")
}

pub async fn stored(remote: &Remote, object: &str, bytes: &Bytes) -> Wanted {
    let (digest, len) = (Digest::of(bytes), bytes.len() as u64);
    remote.put_blob(object, &Blob { digest, class: Class::Trusted, len }, bytes).await.expect("stored");
    Wanted { object: object.to_owned(), digest, len }
}

/// What came, and the error at its end.
async fn read(remote: &Remote, wanted: &Wanted) -> (Vec<u8>, Option<S3Error>) {
    let mut bytes = Vec::new();
    let mut reader = match remote.blob(wanted.clone(), ByteRange::whole(wanted.len)).await {
        Ok(reader) => reader,
        Err(error) => return (bytes, Some(error)),
    };
    while let Some(chunk) = reader.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => {
                assert!(reader.next().await.is_none(), "nothing follows an error");
                return (bytes, Some(error));
            }
        }
    }
    (bytes, None)
}

#[tokio::test]
async fn no_flipped_bit_of_an_object_is_handed_on() {
    let (fake, bytes) = (Arc::new(Fake::default()), pattern(1, (7 << 20) + 9));
    let remote = remote(&fake);
    let wanted = stored(&remote, "a", &bytes).await;
    for bit in [0, 8 << 20, (8 << 20) - 1, (40 << 20) + 3, bytes.len() * 8 - 1] {
        fake.damage("a", |stored| stored[bit / 8] ^= 1 << (bit % 8));
        let (read, error) = read(&remote, &wanted).await;
        assert!(matches!(error, Some(S3Error::Damaged { .. })), "bit {bit}: {error:?}");
        assert!(bytes.starts_with(&read) && read.len() <= bit / 8, "bit {bit}");
        fake.damage("a", |stored| stored[bit / 8] ^= 1 << (bit % 8));
    }
    assert_eq!(read(&remote, &wanted).await, (bytes.to_vec(), None));
}

#[tokio::test]
async fn an_object_that_is_another_cut_or_gone_is_told_apart() {
    let (fake, bytes) = (Arc::new(Fake::default()), pattern(2, 2 << 20));
    let remote = remote(&fake);
    let wanted = stored(&remote, "a", &bytes).await;
    let another = Wanted { digest: Digest::of(b"another"), ..wanted.clone() };
    assert!(matches!(read(&remote, &another).await.1, Some(S3Error::Damaged { .. })));
    fake.damage("a", |stored| stored.truncate(1 << 20));
    assert!(matches!(read(&remote, &wanted).await.1, Some(S3Error::Damaged { .. })));
    fake.remove("a");
    assert!(matches!(read(&remote, &wanted).await.1, Some(S3Error::Gone { .. })));
    assert!(matches!(remote.footer("a").await, Err(S3Error::Gone { .. })));
    assert!(matches!(remote.packed("a", &wanted.digest, ByteRange::whole(5)).await, Err(S3Error::Gone { .. })));
}

#[tokio::test]
async fn what_breaks_on_the_way_is_taken_up_where_it_broke() {
    let (fake, bytes) = (Arc::new(Fake::default()), pattern(3, (6 << 20) + 1));
    let remote = remote(&fake);
    let wanted = stored(&remote, "a", &bytes).await;
    for faults in [
        vec![Fault::CutAfter(0)],
        vec![Fault::CutAfter((1 << 20) + 7)],
        vec![Fault::CutAfter(100), Fault::CutAfter(5), Fault::CutAfter(1 << 20)],
        vec![Fault::Flip(9)],
        vec![Fault::Flip((9 << 20) + 1)],
    ] {
        fake.fail_next(&faults);
        let (read, error) = read(&remote, &wanted).await;
        assert_eq!((Bytes::from(read), error), (bytes.clone(), None), "{faults:?}");
    }
    fake.fail_next(&[Fault::CutAfter(1); 40]);
    assert!(matches!(read(&remote, &wanted).await.1, Some(S3Error::Unavailable { .. })), "in the end it is given up");
}

#[tokio::test]
async fn whatever_the_dice_say_all_that_is_handed_on_is_right() {
    let bytes = pattern(4, (12 << 20) + 77);
    let (mut whole, seeds) = (0, 60);
    for seed in 0..seeds {
        let fake = Arc::new(Fake::default());
        let remote = remote(&fake);
        let wanted = stored(&remote, "a", &bytes).await;
        fake.roll((seed + 1_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (read, error) = read(&remote, &wanted).await;
        assert!(bytes.starts_with(&read), "seed {seed}");
        assert_eq!(error.is_none(), read.len() == bytes.len(), "seed {seed}");
        whole += u32::from(error.is_none());
    }
    assert!(whole > 10 && u64::from(whole) < seeds, "the dice are no dice: {whole} of {seeds}");
}

#[tokio::test]
async fn a_damaged_pack_is_told_and_its_other_blobs_are_read() {
    let fake = Arc::new(Fake::default());
    let remote = remote(&fake);
    let blobs = [pattern(5, 1000), pattern(6, 2000)];
    let mut packer = Packer::default();
    for blob in &blobs {
        packer.push(Digest::of(blob), Class::Trusted, blob);
    }
    let footer = remote.put_pack("p", packer, b"", 1).await.expect("stored").expect("not empty");
    let [first, second] = [footer.entries[0], footer.entries[1]];
    fake.fail_next(&[Fault::Flip(3)]);
    assert_eq!(remote.packed("p", &first.digest, first.range).await.expect("asked twice"), blobs[0]);
    fake.fail_next(&[Fault::CutAfter(3)]);
    assert_eq!(remote.packed("p", &first.digest, first.range).await.expect("asked twice"), blobs[0]);
    fake.damage("p", |stored| stored[5] ^= 1);
    let read = remote.packed("p", &first.digest, first.range).await;
    assert!(matches!(read, Err(S3Error::Damaged { .. })), "{read:?}");
    assert_eq!(remote.packed("p", &second.digest, second.range).await.expect("unharmed"), blobs[1]);
    fake.damage("p", |stored| stored.truncate(stored.len() - 1));
    assert!(matches!(remote.footer("p").await, Err(S3Error::Damaged { .. })));
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_finds_its_own_object() {
    let fake = Arc::new(Fake::default());
    let remote = remote(&fake);
    for len in [1000, 6 << 20] {
        fake.lose_next_answers(1);
        let bytes = pattern(9, len);
        let wanted = stored(&remote, &format!("blob-{len}"), &bytes).await;
        assert_eq!(read(&remote, &wanted).await, (bytes.to_vec(), None));
    }
    let mut packer = Packer::default();
    packer.push(Digest::of(b"a"), Class::Trusted, b"a");
    fake.lose_next_answers(1);
    assert!(remote.put_pack("pack", packer, b"", 1).await.is_ok());
    let mut other = Packer::default();
    other.push(Digest::of(b"b"), Class::Trusted, b"b");
    assert!(matches!(remote.put_pack("pack", other, b"", 1).await, Err(S3Error::Exists { .. })));
    assert_eq!(fake.unfinished("").await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_source_that_is_not_what_its_digest_says_is_not_stored() {
    let fake = Arc::new(Fake::default());
    let remote = remote(&fake);
    for len in [1000, 6 << 20] {
        let bytes = pattern(7, len);
        let blob = Blob { digest: Digest::of(b"another"), class: Class::Trusted, len: len as u64 };
        let sent = remote.put_blob("a", &blob, &bytes).await;
        assert!(matches!(sent, Err(S3Error::Source { .. })), "{sent:?}");
        let short = Blob { digest: Digest::of(&bytes), len: len as u64 + 1, ..blob };
        assert!(matches!(remote.put_blob("a", &short, &bytes).await, Err(S3Error::Source { .. })));
    }
    let huge = Blob { digest: Digest::of(b""), class: Class::Trusted, len: u64::MAX };
    assert!(matches!(remote.put_blob("a", &huge, &Bytes::new()).await, Err(S3Error::TooLarge { .. })));
    assert_eq!(fake.names(), [""; 0]);
}

#[tokio::test]
async fn all_readers_together_keep_to_one_budget() {
    let (fake, bytes) = (Arc::new(Fake::default()), pattern(8, 40 << 20));
    let remote = remote(&fake);
    let wanted = stored(&remote, "a", &bytes).await;
    let open = || remote.blob(wanted.clone(), ByteRange::whole(wanted.len));
    // They are begun and left: what is under way for them stays in memory.
    let mut readers = Vec::new();
    while let Some(opened) = open().now_or_never() {
        let mut reader = opened.expect("opens");
        reader.next().now_or_never().flatten().expect("a first chunk").expect("a right one");
        readers.push(reader);
    }
    let asked = fake.asked.load(Ordering::Relaxed);
    assert!(asked > 50 << 20 && asked <= 64 << 20, "{asked} bytes for {} readers", readers.len());
    let waiting = open();
    drop(readers);
    let read: Vec<Bytes> = waiting.await.expect("opens").try_collect().await.expect("whole");
    assert_eq!(Digest::of(&read.concat()), wanted.digest);
}
