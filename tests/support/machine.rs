//! What tests take from the machine: scratch directories, small and breakable disks, namespaces without a way out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A directory of its own for a test, gone afterwards.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("larder-test-").tempdir().expect("the system has room for scratch files")
}

/// Where what was downloaded once is kept between runs, outside of the repository.
pub fn kept() -> PathBuf {
    let at = std::env::var_os("LARDER_TEST_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").expect("HOME or LARDER_TEST_CACHE is set")).join(".cache/larder-tests")
    });
    std::fs::create_dir_all(&at).expect("the tests' cache can be made");
    at
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that needs root can run. In CI it must; elsewhere it says in one line that it could not.
#[track_caller]
pub fn root_or_say(what: &str) -> bool {
    if is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{what} needs root, and CI must run it");
    println!("could not run: {what} needs root");
    false
}

/// Runs a command that must work.
#[track_caller]
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|why| panic!("{words:?}: {why}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {} {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("VmRSS is a number") << 10
}

/// A file system that is mounted as long as this lives.
pub struct Mounted {
    pub at: PathBuf,
    device: String,
}

/// What to mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    Ext4,
    Xfs,
}

impl Disk {
    pub const fn name(self) -> &'static str {
        match self {
            Disk::Ext4 => "ext4",
            Disk::Xfs => "xfs",
        }
    }
}

impl Mounted {
    /// Memory that ends after `bytes`.
    pub fn tmpfs(dir: &Path, bytes: u64) -> Mounted {
        let at = dir.join(format!("small-{}", number()));
        std::fs::create_dir_all(&at).expect("a mount point can be made");
        let at_text = at.display().to_string();
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={bytes}"), "larder-test", &at_text]);
        Mounted { at, device: "larder-test".into() }
    }

    /// A loop-mounted disk of its own.
    pub fn disk(dir: &Path, disk: Disk, bytes: u64) -> Mounted {
        let image = dir.join(format!("{}-{}.img", disk.name(), number()));
        let file = std::fs::File::create(&image).expect("an image can be made");
        file.set_len(bytes).expect("an image can be sparse");
        let image = image.display().to_string();
        match disk {
            Disk::Ext4 => run(&["mkfs.ext4", "-q", "-F", &image]),
            Disk::Xfs => run(&["mkfs.xfs", "-q", "-f", &image]),
        };
        let at = dir.join(format!("disk-{}", number()));
        std::fs::create_dir_all(&at).expect("a mount point can be made");
        let device = run(&["losetup", "--find", "--show", &image]).trim().to_owned();
        let mounted = Mounted { at, device };
        mounted.mount();
        mounted
    }

    fn mount(&self) {
        run(&["mount", &self.device, &self.at.display().to_string()]);
    }

    /// The power goes: nothing that was not synced reaches the disk. Every process below must have been killed, or be
    /// killed before `restore`.
    pub fn cut_power(&self) {
        run(&["xfs_io", "-x", "-c", "shutdown", &self.at.display().to_string()]);
    }

    /// The power comes back: unmount, mount, let the journal be replayed.
    pub fn restore(&self) {
        run(&["umount", &self.at.display().to_string()]);
        // A process in a mount namespace of its own, as `ip netns exec` makes one, has a copy of the mount.
        let name = self.device.trim_start_matches("/dev/");
        let is_there = || ["ext4", "xfs"].iter().any(|kind| Path::new("/sys/fs").join(kind).join(name).exists());
        super::wait_until(Duration::from_secs(120), "nobody else has the disk mounted", || !is_there());
        self.mount();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A mount that is still busy is detached at once and goes when its last user does.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        if self.device.starts_with("/dev/loop") {
            let _ = Command::new("losetup").args(["-d", &self.device]).output();
        }
    }
}

/// A network namespace with loopback and nothing else.
pub struct Island {
    pub name: String,
}

impl Island {
    pub fn new() -> Island {
        let name = format!("larder-{}-{}", std::process::id(), number());
        run(&["ip", "netns", "add", &name]);
        let island = Island { name };
        run(&["ip", "-n", &island.name, "link", "set", "lo", "up"]);
        island
    }

    /// The words before a command that make it run here. The first is a full path, since servers get no PATH.
    pub fn words(&self) -> Vec<String> {
        let ip = run(&["sh", "-c", "command -v ip"]).trim().to_owned();
        [&ip, "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
