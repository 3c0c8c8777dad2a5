//! larder as its users start it: the binary, a configuration file, a data directory, and nothing of our environment.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Ask, Reply, get};
use super::wait_until;

/// The binary under test.
pub const LARDER: &str = env!("CARGO_BIN_EXE_larder");

/// Lets clients name upstreams on loopback: 127.0.0.1 alone, so that the rest of 127.0.0.0/8 stands for what is forbidden.
pub const LOOPBACK_UPSTREAMS: &str = r#"
[upstreams]
learn = "public"

[upstream]
allow_private = ["127.0.0.1/32"]

[server.limits]
connections_per_address = 5000
"#;

/// Where a server listens that is started again on its own port: no other test's sockets are given one there meanwhile.
pub const AGAIN: &str = "127.0.0.7:0";

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Setup {
    pub dir: PathBuf,
    pub data: PathBuf,
    pub config: String,
    pub listen: String,
    pub binary: PathBuf,
    /// Words before the binary, such as `ip netns exec NAME`.
    pub within: Vec<String>,
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
}

impl Setup {
    /// A server whose files are below `dir`, with upstreams on 127.0.0.1 allowed.
    pub fn below(dir: &Path) -> Setup {
        Setup {
            dir: dir.to_owned(),
            data: dir.join("data"),
            config: LOOPBACK_UPSTREAMS.to_owned(),
            listen: "127.0.0.1:0".into(),
            binary: LARDER.into(),
            within: Vec::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
        }
    }

    pub fn config(mut self, more: &str) -> Setup {
        self.config.push_str(more);
        self
    }

    /// Without the permission for upstreams on loopback.
    pub fn default_policy(mut self) -> Setup {
        self.config.clear();
        self
    }

    pub fn data(mut self, data: &Path) -> Setup {
        self.data = data.to_owned();
        self
    }

    pub fn listen(mut self, listen: &str) -> Setup {
        self.listen = listen.to_owned();
        self
    }

    pub fn argument(mut self, argument: &str) -> Setup {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Setup {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn within(mut self, words: &[&str]) -> Setup {
        self.within = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    fn command(&self) -> Command {
        std::fs::create_dir_all(&self.dir).expect("the scratch directory can be made");
        let config = self.dir.join("larder.toml");
        std::fs::write(&config, &self.config).expect("the configuration can be written");
        let mut words = self.within.clone();
        words.push(self.binary.display().to_string());
        // With a wrapper the PATH is still empty for larder: the wrapper is named by its full path.
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve").arg("--config").arg(&config);
        command.args(["--listen", &self.listen]).arg("--data").arg(&self.data).args(&self.arguments);
        command.env_clear().env("PATH", "").env("HOME", "").envs(self.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts and waits for the listening line.
    #[track_caller]
    pub fn start(&self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(why) => panic!("the server did not start: {why}"),
        }
    }

    /// *Errors*: it ended instead of listening; the text is all that it printed.
    pub fn try_start(&self) -> Result<Server, String> {
        let begin = Instant::now();
        let mut child = self.command().spawn().map_err(|why| format!("{}: {why}", self.binary.display()))?;
        let said = Arc::new(Mutex::new(String::new()));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (ready, listening) = std::sync::mpsc::sync_channel(1);
        let readers = [
            collect(stdout, said.clone(), move |line| {
                if let Some(addr) = line.strip_prefix("listening on http://") {
                    // Only the first line counts; later ones find the channel full or closed.
                    let _ = ready.try_send((addr.trim().to_owned(), begin.elapsed()));
                }
            }),
            collect(stderr, said.clone(), |_| {}),
        ];
        let mut server = Server { child, addr: ([127, 0, 0, 1], 0).into(), said, started_in: Duration::ZERO, readers };
        match listening.recv_timeout(Duration::from_secs(20)) {
            Ok((addr, took)) => {
                server.addr = addr.parse().map_err(|_| format!("not an address: {addr}"))?;
                server.started_in = took;
                Ok(server)
            }
            Err(_) => {
                // It ended, or hangs: either way it is not wanted any more.
                let _ = server.child.kill();
                let status = server.wait();
                server.wait_heard();
                Err(format!("{status}\n{}", server.said()))
            }
        }
    }

    /// Runs `serve` where it is expected to end by itself, as with a bad configuration.
    pub fn run_to_end(&self, limit: Duration) -> Ended {
        end_of(self.command(), limit)
    }
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    addr: SocketAddr,
    said: Arc<Mutex<String>>,
    /// From spawning to the listening line.
    pub started_in: Duration,
    readers: [std::thread::JoinHandle<()>; 2],
}

impl Server {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn get(&self, target: impl Into<String>) -> Reply {
        get(self.addr, target)
    }

    /// All that it printed so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stats(&self) -> serde_json::Value {
        let reply = self.get("/api/v1/stats");
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(reply.bytes()).expect("stats are JSON")
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        super::machine::resident(self.pid())
    }

    /// Returns once all that is visible is durable: `POST /api/v1/flush`.
    #[track_caller]
    pub fn flush(&self) {
        let reply = Ask::get("/api/v1/flush").method("POST").must(self.addr);
        assert!((200..300).contains(&reply.status), "flush: {} {}", reply.status, reply.text());
    }

    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.wait();
    }

    /// Sends SIGTERM; the process goes on until it has drained.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Stops it where it is: its socket still accepts, and nothing is answered. Killed when dropped, as ever.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a pid is not 0");
        rustix::process::kill_process(pid, signal).expect("our own child takes signals");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("our own child can be waited for")
    }

    /// All that it said before it ended is read.
    fn wait_heard(&self) {
        wait_until(Duration::from_secs(2), "the output is read", || self.readers.iter().all(|one| one.is_finished()));
    }

    /// Waits at most `limit`; None when it still runs.
    pub fn wait_at_most(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Stops as an operator would, and insists on a clean end.
    #[track_caller]
    pub fn stop(mut self) {
        self.terminate();
        let status = self.wait_at_most(Duration::from_secs(20));
        assert!(status.is_some_and(|status| status.success()), "SIGTERM ended with {status:?}");
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        wait_until(Duration::from_secs(10), "/readyz answers 200", || self.get("/readyz").status == 200);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.wait_heard();
            eprintln!("--- the server at {} said:\n{}---", self.addr, self.said());
        }
    }
}

fn collect(
    from: impl BufRead + Send + 'static,
    into: Arc<Mutex<String>>,
    mut each: impl FnMut(&str) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in from.lines().map_while(Result::ok) {
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            // A server in a loop of errors must not eat the test's memory.
            if into.len() < 1 << 20 {
                writeln!(into, "{line}").expect("writing to a String cannot fail");
            }
            drop(into);
            each(&line);
        }
    })
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// None: killed after the limit.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `command` to its end; kills it after `limit`.
pub fn end_of(mut command: Command, limit: Duration) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let drain = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            // What was read before an error is what there is.
            let _ = pipe.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        })
    };
    let stdout = drain(Box::new(child.stdout.take().expect("stdout is piped")));
    let stderr = drain(Box::new(child.stderr.take().expect("stderr is piped")));
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().expect("our own child can be waited for") {
            Some(status) => break Some(status),
            None if begin.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ended { code: status.and_then(|status| status.code()), stdout: text(stdout), stderr: text(stderr) }
}
