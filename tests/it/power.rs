//! Power cuts on real file systems: what was acknowledged is on the disk. A build whose syncs do nothing must fail here,
//! or the test proves nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::alone;
use crate::support::machine::{Disk, Mounted, root_or_say, scratch};
use crate::support::seed::Chance;
use crate::support::server::{LARDER, Setup};
use crate::support::workload::{Found, Workload};

/// Cuts on each file system; `LARDER_POWER_CUTS` for more.
fn cuts() -> u64 {
    std::env::var("LARDER_POWER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// A server and its disk, again and again without power.
struct Bench {
    dir: tempfile::TempDir,
    disk: Mounted,
    binary: PathBuf,
    workload: Workload,
    chance: Chance,
}

impl Bench {
    fn new(disk: Disk, binary: &Path, seed: u64) -> Bench {
        let dir = scratch();
        let mounted = Mounted::disk(dir.path(), disk, 1 << 30);
        let mut chance = Chance::from_seed(seed);
        let workload = Workload::new(chance.next());
        Bench { dir, disk: mounted, binary: binary.to_owned(), workload, chance }
    }

    /// Traffic, an acknowledgement, more traffic, the cut; then what came back. Err: it did not even start again.
    fn cut(&mut self, cycle: u64) -> Result<Found, String> {
        let mut setup = Setup::below(self.dir.path()).data(&self.disk.at.join("data"));
        setup.binary.clone_from(&self.binary);
        let mut found = Found::default();
        let server = setup.try_start()?;
        self.workload.begin_life();
        let mut span = |most: u64| Duration::from_micros(5_000 + self.chance.below(most));
        let (before, after) = (span(60_000), span(60_000));
        found.wrong += self.workload.traffic_for(server.addr(), 4, cycle << 1, before);
        self.workload.acknowledge(&server);
        found.wrong += self.workload.traffic_for(server.addr(), 4, cycle << 1 | 1, after);
        self.disk.cut_power();
        server.kill();
        self.disk.restore();
        self.workload.upstream.die();
        let server = setup.try_start();
        if let Ok(server) = &server {
            found.add(self.workload.check(server, &mut self.chance, 80));
        }
        self.workload.upstream.revive();
        server.map(|server| {
            server.kill();
            found
        })
    }
}

fn survives(disk: Disk) {
    if !root_or_say("cutting the power of a loop-mounted disk") {
        return;
    }
    let _alone = alone();
    let seed = Chance::announced(&format!("power cuts on {}", disk.name())).next();
    let mut bench = Bench::new(disk, LARDER.as_ref(), seed);
    let mut all = Found::default();
    for cycle in 0..cuts() {
        let found = bench.cut(cycle).unwrap_or_else(|why| panic!("cut {cycle}: it did not start: {why}"));
        assert!(found.is_clean(), "cut {cycle} on {}: {found:?}", disk.name());
        all.add(found);
    }
    println!("{} cuts on {}: {all:?}", cuts(), disk.name());
    assert!(all.acknowledged > 0, "nothing was ever acknowledged");
}

#[test]
fn power_cuts_on_ext4_lose_nothing_acknowledged() {
    survives(Disk::Ext4);
}

#[test]
fn power_cuts_on_xfs_lose_nothing_acknowledged() {
    survives(Disk::Xfs);
}

/// `tests/run` builds it beside the real one, with the hidden feature `no-fsync`.
fn without_fsync() -> PathBuf {
    let beside = Path::new(LARDER).with_file_name("larder-no-fsync");
    let path = std::env::var_os("LARDER_NO_FSYNC").map_or(beside, PathBuf::from);
    assert!(path.is_file(), "{} is missing: tests/run builds it", path.display());
    path
}

#[test]
fn a_build_without_fsync_fails_the_power_cuts() {
    if !root_or_say("cutting the power of a loop-mounted disk") {
        return;
    }
    let _alone = alone();
    let binary = without_fsync();
    for disk in [Disk::Ext4, Disk::Xfs] {
        let mut bench = Bench::new(disk, &binary, 1);
        let caught = (0..20).any(|cycle| !bench.cut(cycle).is_ok_and(|found| found.is_clean()));
        assert!(caught, "twenty cuts on {} did not notice that nothing was ever synced", disk.name());
    }
}
