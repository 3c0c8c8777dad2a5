//! Following a fill: every byte, at any pace, whatever becomes of the writer, within bounded memory.

use std::os::unix::fs::FileExt;

use bytes::Bytes;
use tokio::sync::watch;

use super::super::fault::{ENOSPC, Operation, Plan};
use super::super::layout::{BLOCK, CHUNK};
use super::super::{Intent, Partial, StoreError};
use super::{Bed, get_all, noise, until};
use crate::model::kind::ErrorKind;
use crate::model::place::Class;

fn intent() -> Intent {
    Intent { len: None, class: Class::Trusted, sums: Vec::new() }
}

async fn read_all(partial: &Partial, step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < partial.written() {
        let part = partial.read(bytes.len() as u64, step).await.expect("readable");
        assert!(!part.is_empty() && part.len() <= step.min(CHUNK));
        bytes.extend_from_slice(&part);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_see_every_byte_while_it_comes() {
    for (len, cold) in [(300, false), (64 * 1024, false), (CHUNK, true), (5 * CHUNK + 77, false), (3 * CHUNK, true)] {
        let bed = Bed::new();
        bed.files.cold(cold);
        let store = bed.open();
        let bytes = noise(len as u64, len);
        let mut writer = store.writer(intent()).expect("room");
        let (news, _) = watch::channel(false);
        let followers: Vec<_> = [1000, 65_536, 200_000, BLOCK, usize::MAX]
            .map(|step| {
                let (partial, mut news) = (writer.partial(), news.subscribe());
                #[allow(clippy::disallowed_methods, reason = "a test's own follower")]
                tokio::spawn(async move {
                    let mut read = Vec::new();
                    loop {
                        let done = *news.borrow_and_update();
                        while (read.len() as u64) < partial.written() {
                            read.extend_from_slice(&partial.read(read.len() as u64, step).await.expect("readable"));
                        }
                        if done {
                            return read;
                        }
                        news.changed().await.expect("the writer lives");
                    }
                })
            })
            .into_iter()
            .collect();
        let mut rest = Bytes::from(bytes.clone());
        // Such as are collected, and such as are taken as they come.
        for size in [7777, 500, 40_000, 1, 300_000].into_iter().cycle() {
            writer.write(rest.split_to(rest.len().min(size))).await.expect("written");
            news.send_replace(false);
            if rest.is_empty() {
                break;
            }
        }
        let partial = writer.partial();
        let blob = writer.seal(&[], None).await.expect("sealed");
        news.send_replace(true);
        for follower in followers {
            assert!(follower.await.expect("ran") == bytes);
        }
        assert!(read_all(&partial, BLOCK).await == bytes, "also after the seal");
        assert!(get_all(&store, &blob).await.expect("readable") == bytes);
    }
}

#[tokio::test]
async fn followers_go_on_after_the_writer_is_gone() {
    let bed = Bed::new();
    let store = bed.open();
    for len in [500, 4 * CHUNK + 99] {
        let bytes = noise(1, len);
        let mut writer = store.writer(intent()).expect("room");
        writer.write(Bytes::copy_from_slice(&bytes)).await.expect("written");
        let partial = writer.partial();
        drop(writer);
        until(|| bed.names("tmp").is_empty()).await;
        assert!(read_all(&partial, 50_000).await == bytes);
        assert!(store.usage().disk_bytes() > 0, "an unlinked file takes room while it is read");
        drop(partial);
        until(|| store.usage().disk_bytes() == 0).await;
    }
}

#[tokio::test]
async fn a_full_disk_stops_the_writer_and_not_its_followers() {
    for pieces in 0..4 {
        let bed = Bed::new();
        let store = bed.open();
        let bytes = noise(2, 40 * CHUNK);
        bed.files.fail(Plan { only: Some(Operation::Write), after: pieces, times: u64::MAX, code: ENOSPC });
        let mut writer = store.writer(intent()).expect("room");
        let partial = writer.partial();
        let mut failed = None;
        for chunk in bytes.chunks(50_000) {
            if let Err(error) = writer.write(Bytes::copy_from_slice(chunk)).await {
                failed = Some(error);
                break;
            }
        }
        assert!(matches!(failed, Some(StoreError::Full { .. })), "{failed:?}");
        assert!(matches!(writer.write(Bytes::from_static(b"x")).await, Err(StoreError::Full { .. })));
        let taken = partial.written() as usize;
        assert!(read_all(&partial, BLOCK).await == bytes[..taken]);
        assert!(matches!(writer.seal(&[], None).await, Err(StoreError::Full { .. })));
        bed.files.mend();
        assert!(read_all(&partial, 1 << 14).await == bytes[..taken], "also after the failure");
        drop(partial);
        until(|| bed.names("tmp").is_empty() && store.usage().disk_bytes() == 0).await;
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_temporary_file_is_not_followed() {
    let bed = Bed::new();
    let store = bed.open();
    let mut writer = store.writer(intent()).expect("room");
    for _ in 0..2 {
        writer.write(Bytes::from(vec![0; 3 * CHUNK])).await.expect("written");
        writer.rest().await.expect("landed");
    }
    let path = bed.dir.path().join("tmp").join(&bed.names("tmp")[0]);
    let file = std::fs::File::options().write(true).open(&path).expect("there");
    file.write_all_at(&[1], BLOCK as u64 + 5).expect("written");
    let partial = writer.partial();
    assert_eq!(partial.read(CHUNK as u64, BLOCK).await.expect("unharmed").len(), BLOCK);
    for at in [0, BLOCK as u64, CHUNK as u64 - 1] {
        assert_eq!(partial.read(at, 1).await.expect_err("flipped").kind(), ErrorKind::Internal);
    }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("on Linux");
    let line = text.lines().find(|line| line.starts_with("VmRSS")).expect("told");
    line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[tokio::test]
async fn a_thousand_followers_hold_128_kib_each() {
    let bed = Bed::new();
    let store = bed.open();
    let mut writer = store.writer(intent()).expect("room");
    let bytes = Bytes::from(noise(3, 16 << 20));
    let before = resident_bytes();
    for chunk in bytes.chunks(2 * CHUNK) {
        writer.write(Bytes::copy_from_slice(chunk)).await.expect("written");
    }
    let mut held = Vec::new();
    for follower in 0..1000_u64 {
        let partial = writer.partial();
        let at = follower * 16_000;
        let part = partial.read(at, usize::MAX).await.expect("readable");
        assert!(part.len() <= CHUNK);
        assert!(part == bytes.slice(at as usize..at as usize + part.len()));
        held.push((partial, part));
    }
    let grown = resident_bytes().saturating_sub(before);
    // Other tests run beside this one: the fill itself holds half a mebibyte.
    assert!(grown <= (64 << 20) + 1000 * BLOCK as u64, "grown by {grown}");
}
