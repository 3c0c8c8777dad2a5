//! `kill -9` at any moment: what was acknowledged is there, nothing wrong is served, and it is back within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::alone;
use crate::support::machine::scratch;
use crate::support::seed::Chance;
use crate::support::server::Setup;
use crate::support::workload::{Found, Workload};

/// Cycles in one run; `LARDER_KILL_CYCLES` for a longer one.
fn cycles() -> u64 {
    std::env::var("LARDER_KILL_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
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
    for cycle in 0..cycles() {
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
