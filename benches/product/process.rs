//! What /proc says of a process: CPU time and memory, and children that end with us.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A child, killed when dropped.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM first: nginx's master then takes its workers with it.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..200 {
            if self.0.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command` and returns with what follows `prefix` on a line of its standard output.
pub fn start_and_read(mut command: Command, prefix: &str) -> (Running, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let found = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix(prefix).map(str::to_owned));
    // Keep reading, so that the child never waits for a full pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    let running = Running(child);
    let found = found.unwrap_or_else(|| panic!("{command:?} ended without: {prefix}"));
    (running, found.trim().to_owned())
}

/// USER_HZ, the same on every Linux that anyone runs (proc_pid_stat(5), time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process and its children that still run, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let (user, system) = user_and_system(pid);
    user + system
}

/// Both apart.
pub fn user_and_system(pid: u32) -> (f64, f64) {
    let (mut user, mut system) = ticks(pid);
    for child in children(pid) {
        let of_child = user_and_system(child);
        user += of_child.0;
        system += of_child.1;
    }
    (user, system)
}

fn ticks(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything: fields are counted after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
    (seconds(field(11)), seconds(field(12)))
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|one| one.parse().ok()).collect()
}

/// Resident memory in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// Looks at a process's memory every few milliseconds.
pub struct Peak {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    before: u64,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    pub fn watch(pid: u32) -> Peak {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, most) = (stop.clone(), most.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(resident(pid), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Peak { stop, most, before: resident(pid), thread: Some(thread) }
    }

    /// Growth since the start, in bytes, at its worst.
    pub fn growth(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watcher only reads");
        }
        self.most.load(Ordering::Relaxed).saturating_sub(self.before)
    }
}
