//! Parts of bodies, from the store and from fills under way.

use http::header::RANGE;

use super::*;

#[tokio::test]
async fn a_range_is_served_while_the_fill_runs() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(1, 3 * MIB), Gate::new());
    bed.upstream.answers("/a", [Script::ok(bytes.clone()).gate(2 * MIB, &gate)]);
    let lookup = immutable("/a");
    let client = Client::default().with(RANGE, "bytes=1000-1048575");
    let mut served = client.get(&bed, &lookup).await.expect("an answer");
    assert!(is_part(&served, 1000, MIB as u64));
    let mut read = Vec::new();
    let safe = MIB - 1000 - (16 << 10);
    read_some(&mut served, &mut read, safe).await;
    assert!(read == bytes[1000..MIB - (16 << 10)]);
    gate.reached().await;
    let early =
        std::future::poll_fn(|context| std::task::Poll::Ready(served.body.poll_chunk(context).is_ready())).await;
    assert!(!early, "its end must wait until the whole is verified");
    gate.open();
    read_some(&mut served, &mut read, usize::MAX).await;
    assert!(read == bytes[1000..MIB]);
    assert_eq!(bed.upstream.asks("/a"), 1);
}

#[tokio::test]
async fn a_small_range_far_ahead_is_relayed() {
    let bed = Bed::new();
    let (bytes, gate) = (noise(2, 20 * MIB), Gate::new());
    let script = Script::ok(bytes.clone()).gate(MIB, &gate);
    bed.upstream.answers("/a", [script, Script::ok("a part")]);
    let lookup = immutable("/a");
    let first = bed.get(&lookup).await.expect("an answer");
    gate.reached().await;
    let client = Client::default().with(RANGE, "bytes=19000000-19000099");
    let served = client.get(&bed, &lookup).await.expect("an answer");
    assert_eq!(served.outcome, Outcome::Bypass(crate::model::outcome::Reason::Range));
    let asked = bed.upstream.asked();
    assert_eq!(asked[1].field(RANGE), Some("bytes=19000000-19000099"));
    gate.open();
    let (got, error) = drain(first).await;
    assert!(error.is_none() && got == bytes);
}

#[tokio::test]
async fn ranges_of_stored_blobs_are_right() {
    for len in [1000, 100_000, 2 * MIB] {
        let bed = Bed::new();
        let bytes = noise(3, len);
        bed.upstream.answers("/a", [Script::ok(bytes.clone())]);
        let lookup = immutable("/a");
        bed.fetch(&lookup).await;
        for (range, start, end) in [("bytes=0-0", 0, 1), ("bytes=-7", len - 7, len), ("bytes=500-", 500, len)] {
            let served = Client::default().with(RANGE, range).get(&bed, &lookup).await.expect("an answer");
            assert!(is_part(&served, start as u64, end as u64), "{range} of {len}");
            let (got, error) = drain(served).await;
            assert!(error.is_none() && got == bytes[start..end]);
        }
        let served = Client::default().with(RANGE, "bytes=9999999-").get(&bed, &lookup).await.expect("an answer");
        assert_eq!(served.part, Part::Unsatisfiable);
    }
}
