//! Asking an installed tool what it uses. Only where no file tells; never over the network.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Some tools start a runtime of their own; none needs longer.
const LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);
const OUTPUT_BYTES: u64 = 1 << 20;

/// Asks tools. A trait because an unpacked image has none that could be run.
pub trait AskTool {
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
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.take(OUTPUT_BYTES).read_to_string(&mut text).ok().map(|_| text)
        });
        let steps = LIMIT.as_millis() / STEP.as_millis();
        for _ in 0..steps {
            if let Some(status) = child.try_wait().ok()? {
                return status.success().then(|| reader.join().ok().flatten()).flatten();
            }
            std::thread::sleep(STEP);
        }
        child.kill().ok()?;
        child.wait().ok()?;
        None
    }
}
