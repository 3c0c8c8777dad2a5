//! Load that costs next to nothing: blocking sockets, a head read by hand, bodies thrown away inside the kernel with
//! MSG_TRUNC. Small objects are left to wrk.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

/// What a load brought.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub p99: Duration,
    /// CPU seconds of the server.
    pub cpu: f64,
}

impl Measured {
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    pub fn cpu_per_request(&self) -> f64 {
        self.cpu / self.requests.max(1) as f64
    }

    pub fn cpu_per_gb(&self) -> f64 {
        self.cpu / (self.bytes.max(1) as f64 / 1e9)
    }
}

/// Asks for `path` over and over on so many connections.
pub fn bodies(to: SocketAddr, path: &str, connections: usize, span: Duration) -> Measured {
    let each = || {
        let (mut connection, path) = (Connection::open(to).expect("the server accepts"), path.to_owned());
        Box::new(move || connection.get(&path).expect("a whole answer").body) as Box<dyn FnMut() -> u64 + Send>
    };
    over_and_over((0..connections).map(|_| each()).collect(), span)
}

/// Runs each over and over, beside the others; they return the bytes of one body.
pub fn over_and_over(all: Vec<Box<dyn FnMut() -> u64 + Send>>, span: Duration) -> Measured {
    let begin = Instant::now();
    let workers: Vec<_> = all
        .into_iter()
        .map(|mut once| {
            std::thread::spawn(move || {
                let (mut took, mut bytes) = (Vec::new(), 0);
                while begin.elapsed() < span {
                    let start = Instant::now();
                    bytes += once();
                    took.push(start.elapsed());
                }
                (took, bytes)
            })
        })
        .collect();
    let (mut took, mut bytes) = (Vec::new(), 0);
    for worker in workers {
        let (some, more) = worker.join().expect("a worker panicked");
        took.extend(some);
        bytes += more;
    }
    let seconds = begin.elapsed().as_secs_f64();
    took.sort_unstable();
    let p99 = took.get(took.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
    Measured { requests: took.len() as u64, bytes, seconds, p99, cpu: 0.0 }
}

/// wrk, for what is too small for one thread a connection.
pub fn wrk(to: SocketAddr, path: &str, span: Duration) -> Measured {
    let seconds = (span.as_secs_f64().ceil() as u64).max(1);
    let output = Command::new("wrk")
        .args(["-t1", "-c32", "--latency", &format!("-d{seconds}s"), &format!("http://{to}{path}")])
        .output()
        .expect("wrk is installed: tests/setup --benches");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |word: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(word));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or_else(|| panic!("wrk said\n{text}")).to_owned()
    };
    assert!(!text.contains("Non-2xx"), "errors under load:\n{text}");
    let rate: f64 = after("Requests/sec:").parse().expect("a number");
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")).expect("a count").0;
    let requests: u64 = requests.parse().expect("a number");
    Measured { requests, bytes: 0, seconds: requests as f64 / rate, p99: wrk_time(&after("99%")), cpu: 0.0 }
}

/// `1.23ms` and its like.
fn wrk_time(text: &str) -> Duration {
    let split = text.find(|one: char| one.is_ascii_alphabetic()).unwrap_or(text.len());
    let value: f64 = text[..split].parse().expect("a number");
    let unit = match &text[split..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        _ => 1.0,
    };
    Duration::from_secs_f64(value * unit)
}

/// A keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    to: SocketAddr,
    sink: Vec<MaybeUninit<u8>>,
}

/// An answer whose body was thrown away.
pub struct Answer {
    pub status: u16,
    pub body: u64,
    /// From sending to the head's first byte, and to the body's.
    pub first_byte: Duration,
}

impl Connection {
    pub fn open(to: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Connection { stream, to, sink: vec![MaybeUninit::uninit(); 4 << 20] })
    }

    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let start = Instant::now();
        self.ask(path)?;
        let head = self.head()?;
        let mut first_byte = start.elapsed();
        let mut left = head.length - head.early;
        let mut fresh = head.early == 0;
        while left > 0 {
            let take = left.min(self.sink.len() as u64) as usize;
            // The kernel drops the bytes instead of copying them (tcp(7)).
            let (_, dropped) = recv(&self.stream, &mut self.sink[..take], RecvFlags::TRUNC)?;
            if dropped == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if std::mem::take(&mut fresh) {
                first_byte = start.elapsed();
            }
            left -= dropped as u64;
        }
        Ok(Answer { status: head.status, body: head.length, first_byte })
    }

    /// Like `get`, for an oracle: every body byte goes through `hasher`.
    pub fn get_hashed(&mut self, path: &str, hasher: &mut blake3::Hasher) -> io::Result<u64> {
        self.get_into(path, &mut vec![0; 64 << 10], |some| {
            hasher.update(some);
        })
    }

    /// Like `get`, by a client that takes its bytes.
    pub fn get_read(&mut self, path: &str, buffer: &mut [u8]) -> io::Result<u64> {
        self.get_into(path, buffer, |_| {})
    }

    /// The body itself, behind what `body` holds.
    pub fn get_bytes(&mut self, path: &str, body: &mut Vec<u8>) -> io::Result<u64> {
        self.get_into(path, &mut vec![0; 64 << 10], |some| body.extend_from_slice(some))
    }

    fn get_into(&mut self, path: &str, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> io::Result<u64> {
        self.ask(path)?;
        let head = self.head_into(buffer)?;
        take(&buffer[head.end..head.end + head.early as usize]);
        let mut left = head.length - head.early;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            let some = self.stream.read(&mut buffer[..most])?;
            if some == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            take(&buffer[..some]);
            left -= some as u64;
        }
        Ok(head.length)
    }

    fn ask(&mut self, path: &str) -> io::Result<()> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.to).as_bytes())
    }

    fn head(&mut self) -> io::Result<Head> {
        self.head_into(&mut [0; 8 << 10])
    }

    fn head_into(&mut self, buffer: &mut [u8]) -> io::Result<Head> {
        let mut have = 0;
        loop {
            let some = self.stream.read(&mut buffer[have..])?;
            if some == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            have += some;
            if let Some(at) = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n") {
                return Head::parse(&buffer[..at], at + 4, (have - at - 4) as u64);
            }
        }
    }
}

struct Head {
    status: u16,
    length: u64,
    /// Where the body starts in what was read, and how much of it was read along.
    end: usize,
    early: u64,
}

impl Head {
    fn parse(bytes: &[u8], end: usize, early: u64) -> io::Result<Head> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        let status = text.get(9..12).and_then(|text| text.parse().ok());
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        match (status, length) {
            (Some(status @ 200..=299), Some(length)) => Ok(Head { status, length, end, early }),
            _ => Err(io::Error::other(format!("not an answer to measure: {text}"))),
        }
    }
}
