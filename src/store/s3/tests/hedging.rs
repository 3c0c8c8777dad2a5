//! Reads that begin late, under tokio's clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::contract::pattern;
use super::fake::{Fake, Fault};
use super::faults::stored;
use crate::model::range::ByteRange;
use crate::runtime::clock::{Clock, TokioClock};
use crate::store::s3::remote::Remote;
use crate::store::s3::settings::Settings;

const LATE: Duration = Duration::from_secs(9);

fn remote(fake: &Arc<Fake>, percent: u32, clock: &Arc<TokioClock>) -> Remote {
    let settings = Settings { part_bytes: 5 << 20, hedge_percent: percent, ..Settings::default() };
    Remote::new(fake.clone(), &settings, clock.clone()).expect("settings that can be")
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_asked_for_again_within_the_budget() {
    let (fake, clock) = (Arc::new(Fake::default()), TokioClock::start());
    let remote = remote(&fake, 10, &clock);
    let bytes = pattern(1, 1000);
    let wanted = stored(&remote, "a", &bytes).await;
    let read = || async {
        let began = clock.elapsed();
        let reader = remote.blob(wanted.clone(), ByteRange::whole(wanted.len)).await.expect("opens");
        let read: Vec<Bytes> = reader.try_collect().await.expect("whole");
        assert_eq!(read.concat(), bytes);
        clock.elapsed() - began
    };
    // Nothing is saved up as yet.
    fake.fail_next(&[Fault::Late(LATE)]);
    assert_eq!(read().await, LATE);
    for _ in 0..200 {
        assert_eq!(read().await, Duration::ZERO);
    }
    let before = fake.gets.load(Ordering::Relaxed);
    fake.fail_next(&[Fault::Late(LATE)]);
    let took = read().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(fake.gets.load(Ordering::Relaxed) - before, 2);
    // When all are late, asking again does not help, and stays within its percentage.
    *fake.latency.lock() = LATE;
    let before = fake.gets.load(Ordering::Relaxed);
    for _ in 0..100 {
        read().await;
    }
    let gets = fake.gets.load(Ordering::Relaxed) - before;
    assert!(gets <= 100 + 20 + 10, "{gets} requests for 100 reads");
}

#[tokio::test(start_paused = true)]
async fn parts_travel_side_by_side() {
    let (fake, clock) = (Arc::new(Fake::default()), TokioClock::start());
    let remote = remote(&fake, 0, &clock);
    let bytes = pattern(2, 35 << 20);
    let wanted = stored(&remote, "a", &bytes).await;
    *fake.latency.lock() = Duration::from_secs(1);
    let began = clock.elapsed();
    let reader = remote.blob(wanted.clone(), ByteRange::whole(wanted.len)).await.expect("opens");
    let read: Vec<Bytes> = reader.try_collect().await.expect("whole");
    assert!(read.concat() == bytes);
    // Seven parts: the first, which tells what the object is; then six at once, as the settings allow.
    assert_eq!(clock.elapsed() - began, Duration::from_secs(2));
}
