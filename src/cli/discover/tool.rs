//! Asking an installed tool what it uses. Only where no file tells; never over the network.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Some tools start a runtime of their own; none needs longer.
const LIMIT: Duration = Duration::from_secs(20);
/// How long one may take to end once it has closed its output, and how often that is looked at.
const ENDING: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(1);
const OUTPUT_BYTES: u64 = 1 << 20;

/// Asks tools. A trait because an unpacked image has none that could be run.
pub trait AskTool: Sync {
    /// What the program prints. None when it is not installed, fails, or takes too long.
    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String>;
}

/// No tool may be asked.
pub struct NoTools;

impl AskTool for NoTools {
    fn ask(&self, _: &str, _: &[&str]) -> Option<String> {
        None
    }
}

/// The tools on this machine's `PATH`.
pub struct InstalledTools;

impl AskTool for InstalledTools {
    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let output = child.stdout.take()?;
        let (done, printed) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = output.take(OUTPUT_BYTES).read_to_string(&mut text);
            // Nobody waits any more for what comes too late.
            let _ = done.send(read.map(|_| text));
        });
        let text = printed.recv_timeout(LIMIT);
        // What has printed all is about to end.
        for _ in 0..ENDING.as_millis() / STEP.as_millis() {
            match (&text, child.try_wait().ok()?) {
                (Err(_), _) => break,
                (Ok(_), Some(status)) => return text.ok()?.ok().filter(|_| status.success()),
                (Ok(_), None) => std::thread::sleep(STEP),
            }
        }
        child.kill().ok()?;
        child.wait().ok()?;
        None
    }
}
