//! `kill -9` at any moment: what was acknowledged is there, nothing wrong is served, and it is back within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::alone;
use crate::support::machine::scratch;
use crate::support::promises::Promises;
use crate::support::seed::Chance;
use crate::support::server::Setup;
use crate::support::workload::{Found, Workload};

/// Cycles in one run; `LARDER_KILL_CYCLES` for a longer one.
fn cycles(usual: u64) -> u64 {
    std::env::var("LARDER_KILL_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A check stops the upstream: only each so many cycles, so that the breaker does not set the pace.
const CHECK_EACH: u64 = 6;

#[test]
fn three_hundred_kills_lose_nothing_acknowledged() {
    let _alone = alone();
    let mut chance = Chance::announced("kill -9");
    let dir = scratch();
    let setup = Setup::below(dir.path());
    let mut workload = Workload::new(chance.next());
    let (mut found, mut wrong, mut starts) = (Found::default(), 0, Vec::new());
    for cycle in 0..cycles(300) {
        let server = setup.start();
        starts.push(server.started_in);
        workload.begin_life();
        let addr = server.addr();
        if cycle % 3 == 2 {
            wrong += workload.traffic_for(addr, 4, cycle, Duration::from_micros(chance.below(60_000)));
            workload.acknowledge(&server);
        }
        let span = Duration::from_micros(2_000 + chance.below(120_000));
        let stop = AtomicBool::new(false);
        wrong += std::thread::scope(|scope| {
            let traffic = scope.spawn(|| workload.traffic(addr, 4, cycle | 1 << 30, &stop));
            std::thread::sleep(span);
            // Killed under load: requests, fills, syncs and commits are on their way.
            server.kill();
            stop.store(true, Ordering::Relaxed);
            traffic.join().expect("the traffic did not panic")
        });
        if cycle % CHECK_EACH == CHECK_EACH - 1 {
            workload.upstream.die();
            let server = setup.start();
            starts.push(server.started_in);
            found.add(workload.check(&server, &mut chance, 60));
            // And once more killed while it reads and repairs.
            server.kill();
            workload.upstream.revive();
        }
        assert!(wrong == 0 && found.is_clean(), "cycle {cycle}: {wrong} wrong answers under load, {found:?}");
    }
    starts.sort();
    let (usual, slowest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    println!("{} starts, usually {usual:?}, at most {slowest:?}; {found:?}", starts.len());
    assert!(found.acknowledged > 0 && workload.acknowledged() > 0, "nothing was ever acknowledged");
    // One start in twenty may meet a busy machine.
    let most = starts[starts.len() * 19 / 20];
    assert!(most < Duration::from_secs(1), "restart takes {most:?}");
}

/// How long a server may take to promise something.
const PATIENCE: Duration = Duration::from_secs(60);

/// Segments that are full after a few blobs, whatever the budget is.
const SMALL_SEGMENTS: &str = "\n[store]\nsegment_bytes = 262144\n";

#[test]
fn killed_right_after_its_word_it_keeps_it() {
    let _alone = alone();
    let mut chance = Chance::announced("kill -9 after an acknowledgement");
    let dir = scratch();
    let setup = Setup::below(dir.path()).config(SMALL_SEGMENTS);
    let cut_off = setup.clone().argument("--offline");
    let promises = Promises::new(chance.next());
    for cycle in 0..cycles(60) {
        let server = setup.start();
        promises.begin_life();
        let (addr, stop) = (server.addr(), AtomicBool::new(false));
        let (enough, pause) = (1 + chance.below(12), Duration::from_micros(chance.below(300)));
        std::thread::scope(|scope| {
            scope.spawn(|| promises.traffic(addr, 4, cycle, &stop));
            let (asked, mut promised) = (Instant::now(), None);
            // Looking again at once: a sleep would be longer than what is to be hit.
            while promised.is_none_or(|at: Instant| at.elapsed() < pause) && asked.elapsed() < PATIENCE {
                promised = promised.or((promises.made() >= enough).then(Instant::now));
                std::thread::yield_now();
            }
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        // Starts that end before they have begun to be of use.
        for _ in 0..chance.below(3) {
            let server = setup.start();
            std::thread::sleep(Duration::from_micros(chance.below(3_000)));
            server.kill();
        }
        let server = cut_off.start();
        let lost = promises.check(&server, &mut chance);
        server.kill();
        assert!(lost.is_empty() && promises.wrong() == 0, "cycle {cycle}: {} wrong, {lost:#?}", promises.wrong());
    }
    println!("{} promises kept", promises.len());
}
