//! Flipped bits, missing bytes, restarts.

use futures_util::StreamExt;

use super::*;
use crate::cache::scrub::Progress;
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};
use crate::store::fault::{EIO, Operation, Plan};

impl Bed {
    async fn place(&self, bytes: &[u8]) -> Place {
        self.index.find_place(&Digest::of(bytes)).await.expect("told").expect("a place")
    }

    async fn path(&self, bytes: &[u8]) -> std::path::PathBuf {
        let (digest, place) = (Digest::of(bytes).to_string(), self.place(bytes).await);
        match place.tier {
            TierName::Segment => self.dir.path().join(format!("segments/{:08}.seg", place.object)),
            TierName::File | TierName::Memory | TierName::S3 => {
                self.dir.path().join(format!("files/{}/{digest}.{}", &digest[..2], place.object))
            }
        }
    }

    /// Flips a bit of a blob on disk.
    async fn flip(&self, bytes: &[u8], at: usize) {
        let (path, place) = (self.path(bytes).await, self.place(bytes).await);
        let mut file = std::fs::read(&path).expect("a file");
        let start = match place.tier {
            TierName::Segment => {
                let found = file.windows(64).position(|window| window == &bytes[..64]);
                found.expect("the blob is in its segment")
            }
            TierName::File | TierName::Memory | TierName::S3 => 0,
        };
        file[start + at] ^= 1;
        std::fs::write(&path, file).expect("written");
    }

    async fn verify(&self) -> Progress {
        let steps: Vec<_> = self.cache.verify().collect().await;
        let mut all = Progress::default();
        for step in steps {
            let step = step.expect("it goes on");
            all.bad.extend(step.bad.iter().cloned());
            all = Progress { bad: all.bad, ..step };
        }
        all
    }
}

#[tokio::test]
async fn verify_sets_bad_blobs_aside_and_the_next_ask_heals_them() {
    for len in [1000, 2 * MIB] {
        let bed = Bed::new();
        let (good, bad) = (noise(1, len), noise(2, len));
        bed.upstream.answers("/good", [Script::ok(good.clone())]);
        bed.upstream.answers("/bad", [Script::ok(bad.clone())]);
        bed.fetch(&immutable("/good")).await;
        bed.fetch(&immutable("/bad")).await;
        let bed = bed.restart().await;
        bed.flip(&bad, len / 2).await;
        let found = bed.verify().await;
        assert_eq!((found.done, found.bad.len()), (2, 1));
        assert!(found.bad[0].set_aside && found.bad[0].digest == Digest::of(&bad).to_string());
        assert_eq!(bed.cache.counters().read().corrupt, 1);
        assert!(matches!(bed.fetch(&immutable("/good")).await.0, Outcome::Hit(_)));
        let (outcome, _, got) = bed.fetch(&immutable("/bad")).await;
        assert!(outcome == Outcome::Miss && got == bad);
        bed.cache.flush().await.expect("durable");
        assert!(bed.verify().await.bad.is_empty());
        let aside = std::fs::read_dir(bed.dir.path().join("bad")).expect("listed").count();
        assert_eq!(aside, 1);
    }
}

#[tokio::test]
async fn verify_sees_what_was_stored_a_moment_ago_and_ends_at_its_count() {
    let bed = Bed::new();
    for (at, len) in [100, 5_000, 200_000, 3 * MIB].into_iter().enumerate() {
        bed.upstream.answers("/a", [Script::ok(noise(at as u64, len))]);
        bed.fetch(&immutable("/a")).await;
        bed.upstream.answers(&format!("/{at}"), [Script::ok(noise(at as u64, len))]);
        bed.fetch(&immutable(&format!("/{at}"))).await;
    }
    let found = bed.verify().await;
    assert_eq!((found.done, found.of, found.bad.len()), (4, 4, 0));
}

#[tokio::test]
async fn verify_goes_on_past_what_cannot_be_read() {
    let bed = Bed::new();
    for at in 0..3 {
        bed.upstream.answers(&format!("/{at}"), [Script::ok(noise(at, 2 * MIB))]);
        bed.fetch(&immutable(&format!("/{at}"))).await;
    }
    let bed = bed.restart().await;
    bed.files.fail(Plan { only: Some(Operation::Open), after: 1, times: 1, code: EIO });
    let found = bed.verify().await;
    assert_eq!((found.done, found.bad.len()), (3, 1));
    assert!(!found.bad[0].set_aside);
    bed.files.mend();
    assert!(bed.verify().await.bad.is_empty());
}

#[tokio::test]
async fn a_flipped_bit_is_never_served_and_heals_at_the_next_ask() {
    for len in [1000, 100_000, 3 * MIB] {
        let bed = Bed::new();
        let bytes = noise(3, len);
        bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
        bed.fetch(&immutable("/a")).await;
        let bed = bed.restart().await;
        bed.flip(&bytes, len - 10).await;
        let (got, error) = drain(bed.get(&immutable("/a")).await.expect("an answer")).await;
        assert!(got == bytes || error.is_some() && got.len() < len, "{} of {len} bytes", got.len());
        until(|| bed.cache.counters().read().corrupt == 1 && bed.tasks.running() <= 1).await;
        let (_, _, got) = bed.fetch(&immutable("/a")).await;
        assert!(got == bytes);
        assert_eq!(bed.upstream.asks("/a"), 2);
        assert!(matches!(bed.fetch(&immutable("/a")).await.0, Outcome::Hit(_)));
    }
}

#[tokio::test]
async fn bytes_that_are_gone_are_fetched_anew_and_stay() {
    for len in [1000, 3 * MIB] {
        let bed = Bed::new();
        let bytes = noise(4, len);
        bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
        bed.fetch(&immutable("/a")).await;
        let bed = bed.restart().await;
        std::fs::remove_file(bed.path(&bytes).await).expect("removed");
        let (outcome, _, got) = bed.fetch(&immutable("/a")).await;
        assert!(outcome == Outcome::Miss && got == bytes);
        bed.cache.flush().await.expect("durable");
        assert!(matches!(bed.fetch(&immutable("/a")).await.0, Outcome::Hit(_)));
        assert_eq!(bed.upstream.asks("/a"), 2);
    }
}

#[tokio::test]
async fn a_restart_keeps_what_was_stored() {
    let bed = Bed::new();
    let bodies: Vec<Bytes> = (0..20).map(|seed| noise(seed, 1 + seed as usize * 37_000)).collect();
    for (at, bytes) in bodies.iter().enumerate() {
        bed.upstream.answers(&format!("/{at}"), [Script::ok(bytes.clone())]);
        bed.fetch(&immutable(&format!("/{at}"))).await;
    }
    let before = bed.store.usage().disk_bytes();
    let bed = bed.restart().await;
    assert_eq!(bed.store.usage().disk_bytes(), before);
    assert!(!bed.index.all_leased(), "nothing was promised");
    for (at, bytes) in bodies.iter().enumerate() {
        let (outcome, _, got) = bed.fetch(&immutable(&format!("/{at}"))).await;
        assert!(matches!(outcome, Outcome::Hit(_)) && got == bytes);
    }
    assert_eq!(bed.upstream.asked().len(), bodies.len());
}

#[tokio::test]
async fn a_fill_that_was_cut_by_the_end_leaves_nothing() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(5, 2 * MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(MIB, &gate), Script::ok(bytes.clone())]);
    let served = bed.get(&immutable("/a")).await.expect("an answer");
    gate.reached().await;
    drop(served);
    assert_eq!(bed.kept(&immutable("/a")).await, 0);
    gate.open();
    until(|| bed.cache.fills() == 0).await;
    let bed = bed.restart().await;
    let left = std::fs::read_dir(bed.dir.path().join("tmp")).expect("listed").count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_file_that_nothing_names_is_swept_and_the_named_ones_stay() {
    let bed = Bed::new();
    let bytes = noise(7, 2 * MIB);
    bed.upstream.answers("/kept", [Script::ok(bytes.clone())]);
    bed.fetch(&immutable("/kept")).await;
    bed.index.flush().await.expect("durable");
    let bed = bed.restart().await;
    let named = bed.path(&bytes).await;
    // What a crash between the publication of a file and the commit of its place leaves.
    let orphan = noise(8, 2 * MIB);
    let digest = Digest::of(&orphan).to_string();
    let shelf = bed.dir.path().join(format!("files/{}", &digest[..2]));
    std::fs::create_dir_all(&shelf).expect("made");
    let place = bed.place(&bytes).await;
    let left = shelf.join(format!("{digest}.{}", place.object));
    std::fs::copy(&named, &left).expect("copied");
    assert_eq!(bed.cache.inner.sweep_unnamed().await, 1);
    assert!(!left.exists() && named.exists());
    let (outcome, _, got) = bed.fetch(&immutable("/kept")).await;
    assert!(matches!(outcome, Outcome::Hit(_)) && got == bytes);
}
