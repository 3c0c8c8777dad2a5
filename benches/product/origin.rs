//! The upstream of the benches: made-up bodies, kept in memory and written by hand, as fast as asked or held to a rate.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// `/LEN/NAME` is LEN bytes that repeat after 4 MiB and begin where the path says: no two names are one blob.
pub struct Origin {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    pattern: Vec<u8>,
    requests: AtomicUsize,
    /// Bytes a second for each connection; 0: as fast as it goes.
    rate: AtomicU64,
    tls: Mutex<Option<Arc<ServerConfig>>>,
}

const PATTERN: usize = 4 << 20;

pub fn pattern() -> Vec<u8> {
    let mut pattern = vec![0; PATTERN];
    blake3::Hasher::new().update(b"benches").finalize_xof().fill(&mut pattern);
    pattern
}

/// Has what is accepted here sent as larder sends on loopback: an origin whose timers of BBR wake the receiver would be
/// measured too.
pub fn send_unpaced(listener: impl AsFd) {
    // Where the system has no such choice nothing is paced.
    let _ = rustix::net::sockopt::set_tcp_congestion(listener, "reno");
}

impl Origin {
    pub fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        send_unpaced(&listener);
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            pattern: pattern(),
            requests: AtomicUsize::new(0),
            rate: AtomicU64::new(0),
            tls: Mutex::default(),
        });
        std::thread::spawn({
            let shared = shared.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let shared = shared.clone();
                    // A client that goes away ends its conversation.
                    std::thread::spawn(move || drop(shared.accept(stream)));
                }
            }
        });
        Origin { addr, shared }
    }

    /// From here on TLS is spoken too, and told by the first byte.
    pub fn with_tls(self, config: Arc<ServerConfig>) -> Origin {
        *self.shared.tls.lock().expect("nobody panics with it") = Some(config);
        self
    }

    pub fn path(&self, len: u64, name: &str) -> String {
        format!("/{len}/{name}")
    }

    /// The same object through larder's mirror.
    pub fn mirror(&self, len: u64, name: &str) -> String {
        format!("/http/{}{}", self.addr, self.path(len, name))
    }

    /// BLAKE3 of an object's bytes.
    pub fn digest(&self, len: u64, name: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let (mut at, mut left) = (beginning(&self.path(len, name)), len as usize);
        while left > 0 {
            let take = left.min(PATTERN - at);
            hasher.update(&self.shared.pattern[at..at + take]);
            (at, left) = (0, left - take);
        }
        hasher.finalize()
    }

    pub fn hold_to(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

/// Where in the pattern an object begins.
fn beginning(path: &str) -> usize {
    let [a, b, c, d, ..] = *blake3::hash(path.as_bytes()).as_bytes();
    u32::from_le_bytes([a, b, c, d]) as usize % PATTERN
}

impl Shared {
    fn accept(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        stream.peek(&mut first)?;
        let tls = self.tls.lock().expect("nobody panics with it").clone();
        match tls.filter(|_| first == [0x16]) {
            Some(config) => {
                let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
                self.converse(StreamOwned::new(session, stream))
            }
            None => self.converse(stream),
        }
    }

    fn converse(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line)?;
            }
            self.requests.fetch_add(1, Ordering::SeqCst);
            let len: u64 = path.split('/').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
            let etag = blake3::hash(path.as_bytes()).to_hex();
            let head = format!(
                "HTTP/1.1 200 OK\r\ndate: {}\r\ncontent-type: application/octet-stream\r\ncontent-length: {len}\r\n\
                 cache-control: max-age=31536000\r\netag: \"{}\"\r\n\r\n",
                httpdate::fmt_http_date(std::time::SystemTime::now()),
                &etag[..16]
            );
            reader.get_mut().write_all(head.as_bytes())?;
            self.body(reader.get_mut(), beginning(&path), len)?;
            reader.get_mut().flush()?;
        }
    }

    fn body(&self, stream: &mut impl Write, from: usize, len: u64) -> std::io::Result<()> {
        let rate = self.rate.load(Ordering::SeqCst);
        let (begin, mut sent) = (Instant::now(), 0);
        while sent < len {
            let at = (from + (sent % PATTERN as u64) as usize) % PATTERN;
            let piece = if rate > 0 { 256 << 10 } else { PATTERN };
            let take = piece.min(PATTERN - at).min(usize::try_from(len - sent).unwrap_or(usize::MAX));
            stream.write_all(&self.pattern[at..at + take])?;
            sent += take as u64;
            if rate > 0 {
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        Ok(())
    }
}
