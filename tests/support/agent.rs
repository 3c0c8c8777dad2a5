//! `larder run` with its agent before a server, held open as long as a test wants to ask it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::client::{Reply, get};
use super::server::{Ended, LARDER};

/// A build that does nothing until it is told to end.
pub struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    said: BufReader<std::process::ChildStdout>,
    addr: SocketAddr,
}

/// `larder run` before a server that it may trust, with its own data below `dir` and nothing of our environment's proxies.
pub fn larder_run(dir: &Path, server: &str) -> Command {
    let mut command = Command::new(LARDER);
    command.args(["run", "--trust-plain-http", "--server", server, "--data"]).arg(dir.join("agent"));
    as_user(&mut command, dir);
    command
}

/// A user of its own, without settings.
pub fn as_user(command: &mut Command, dir: &Path) {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    for name in ["LARDER_SERVER", "LARDER_TOKEN", "LARDER_LABEL", "LARDER_CONFIG"] {
        command.env_remove(name);
    }
    let home = dir.join("home");
    std::fs::create_dir_all(&home).expect("scratch can be written");
    command.env("HOME", &home).env("XDG_CONFIG_HOME", home.join("config")).current_dir(dir);
}

impl Agent {
    #[track_caller]
    pub fn before(dir: &Path, server: &str) -> Agent {
        let mut command = larder_run(dir, server);
        command.args(["--label", "b1"]);
        Agent::of(command)
    }

    /// Of a whole `larder run`, but for its command.
    #[track_caller]
    pub fn of(mut command: Command) -> Agent {
        command.args(["--", "sh", "-c", "echo $LARDER_SERVER; exec sh"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("larder starts");
        let stdin = child.stdin.take();
        let mut said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("stdout is read");
        let Some(addr) = line.trim().strip_prefix("http://").and_then(|addr| addr.parse().ok()) else {
            let mut why = String::new();
            child.stderr.take().expect("stderr is piped").read_to_string(&mut why).expect("stderr is read");
            panic!("no agent: {line}{why}");
        };
        Agent { child, stdin, said, addr }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[track_caller]
    pub fn get(&self, target: impl Into<String>) -> Reply {
        get(self.addr, target)
    }

    /// A step of the build, in a shell: its code and what it printed.
    #[track_caller]
    pub fn step(&mut self, script: &str) -> (i32, String) {
        const END: &str = "the step has ended with ";
        let stdin = self.stdin.as_mut().expect("the build has not ended");
        writeln!(stdin, "{{ {script}\n}} 2>&1 </dev/null; code=$?; echo; echo {END}$code").expect("the shell reads");
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line).expect("stdout is read");
            assert!(read > 0, "the shell is gone: {said}");
            if let Some(code) = line.trim_end().strip_prefix(END) {
                said.pop();
                return (code.parse().expect("a code"), said);
            }
            said.push_str(&line);
        }
    }

    /// Lets the build end.
    pub fn end(mut self) -> Ended {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let mut pipe = self.child.stderr.take().expect("stderr is piped");
        pipe.read_to_string(&mut stderr).expect("stderr is read");
        self.said.read_to_string(&mut stdout).expect("stdout is read");
        let code = self.child.wait().expect("our own child can be waited for").code();
        Ended { code, stdout, stderr }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its command ends with its input, and it with its command.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Empties a client. What an agent in it writes as it ends is waited for.
pub fn emptied(home: &Path) {
    let gone = || std::fs::remove_dir_all(home).is_ok() || !home.exists();
    super::wait_until(std::time::Duration::from_secs(30), "the client is emptied", gone);
}
