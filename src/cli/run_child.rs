//! The build's own command: its streams are ours, signals go on to it, and its code is the one that comes back.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;

/// As shells have it.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Runs a command to its end.
///
/// *Errors*: it could not be started; the code is then that of a shell.
///
/// *Cancel*: the command goes on.
pub(crate) async fn run_child(command: &[OsString], env: &[(String, String)]) -> Result<u8, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("no command was given", "larder run -- COMMAND"));
    };
    let mut heard = Heard::new()?;
    let pairs = env.iter().map(|(name, value)| (name, value));
    let mut child = Command::new(program).args(arguments).envs(pairs).spawn().map_err(|error| {
        let (code, help) = match error.kind() {
            std::io::ErrorKind::NotFound => (NOT_FOUND, "see whether it is installed and on PATH"),
            _ => (NOT_RUN, "see whether it is a program that this user may execute"),
        };
        let message = format!("{} cannot be started: {error}", program.to_string_lossy());
        Failure { code, ..Failure::failed(message, help) }
    })?;
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(code(ended.map_err(|error| {
                Failure::failed(format!("the command's end was not seen: {error}"), "run it again")
            })?)),
            signal = heard.next() => pass_on(&child, signal),
        }
    }
}

/// The command's own code; 128 and the signal's number where a signal ended it.
fn code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn pass_on(child: &Child, signal: Signal) {
    // A terminal has sent these to the command too.
    if matches!(signal, Signal::INT | Signal::QUIT) && std::io::stdin().is_terminal() {
        return;
    }
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended this moment; then there is nobody to tell.
        let _ = kill_process(pid, signal);
    }
}

struct Heard {
    each: Vec<(Signal, tokio::signal::unix::Signal)>,
}

impl Heard {
    fn new() -> Result<Heard, Failure> {
        let kinds = [
            (Signal::TERM, SignalKind::terminate()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::HUP, SignalKind::hangup()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
        ];
        let each: std::io::Result<Vec<_>> = kinds.into_iter().map(|(name, kind)| Ok((name, signal(kind)?))).collect();
        let each =
            each.map_err(|error| Failure::failed(format!("signals cannot be heard: {error}"), "see ulimit -a"))?;
        Ok(Heard { each })
    }

    /// *Cancel*: loses nothing.
    async fn next(&mut self) -> Signal {
        let waits = self.each.iter_mut().map(|(name, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *name
            })
        });
        futures_util::future::select_all(waits).await.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str) -> Result<u8, Failure> {
        let command = ["sh", "-c", script].map(OsString::from);
        run_child(&command, &[("LARDER_TEST".to_owned(), "7".to_owned())]).await
    }

    #[tokio::test]
    async fn the_code_is_the_commands_own() {
        assert_eq!(sh("exit 0").await.expect("runs"), 0);
        assert_eq!(sh("exit $LARDER_TEST").await.expect("runs"), 7);
        assert_eq!(sh("kill -TERM $$").await.expect("runs"), 143);
    }

    #[tokio::test]
    async fn what_cannot_be_started_has_a_shells_code() {
        let missing = run_child(&["/nonexistent/command".into()], &[]).await.expect_err("is not there");
        assert_eq!(missing.code, 127);
        let directory = run_child(&["/".into()], &[]).await.expect_err("is a directory");
        assert_eq!(directory.code, 126);
    }
}
