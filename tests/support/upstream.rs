//! An upstream that does what it is told, wrong things above all: truncates, lies, drips, hangs, dies. It speaks raw
//! TCP, counts and remembers every request, and makes bodies from seeds.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::read_line;
use super::resource::{Fault, Ranges, Resource};

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(at, _)| at == name).map(|(_, value)| value.as_str())
    }
}

/// A listening upstream; it ends with this value.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    resources: Mutex<HashMap<String, Resource>>,
    log: Mutex<Vec<Seen>>,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    dead: AtomicBool,
    gate: Mutex<Gate>,
    moved: Condvar,
}

/// Who waits at `Fault::Hold`, and who may go on.
#[derive(Default)]
struct Gate {
    held: HashMap<String, usize>,
    released: HashMap<String, bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    pub fn start() -> Upstream {
        Upstream::start_on("127.0.0.1:0")
    }

    /// Listens on an address of the loopback range.
    pub fn start_on(addr: &str) -> Upstream {
        let listener = TcpListener::bind(addr).expect("a loopback port is free");
        let upstream = Upstream {
            addr: listener.local_addr().expect("a listener has an address"),
            shared: Arc::new(Shared::default()),
        };
        upstream.accept(listener);
        upstream
    }

    fn accept(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if shared.dead.load(Ordering::SeqCst) {
                    return;
                }
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                if let Ok(again) = stream.try_clone() {
                    lock(&shared.connections).push(again);
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A broken connection is what many tests are about.
                    let _ = converse(&shared, &stream);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The path below which larder mirrors this upstream.
    pub fn mirror(&self, path: &str) -> String {
        format!("/http/{}{path}", self.addr)
    }

    pub fn put(&self, path: &str, resource: Resource) {
        lock(&self.shared.resources).insert(path.to_owned(), resource);
    }

    /// Changes what stands at a path.
    pub fn change(&self, path: &str, change: impl FnOnce(Resource) -> Resource) {
        let mut resources = lock(&self.shared.resources);
        let resource = resources.remove(path).expect("something stands there");
        resources.insert(path.to_owned(), change(resource));
    }

    pub fn remove(&self, path: &str) {
        lock(&self.shared.resources).remove(path);
    }

    /// Every request for `path` so far.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        lock(&self.shared.log).iter().filter(|seen| seen.target == path).cloned().collect()
    }

    pub fn all_seen(&self) -> Vec<Seen> {
        lock(&self.shared.log).clone()
    }

    /// Requests of any method for `path` so far.
    pub fn count(&self, path: &str) -> usize {
        self.seen(path).len()
    }

    pub fn forget_log(&self) {
        lock(&self.shared.log).clear();
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many exchanges wait at `Fault::Hold` for `path`.
    pub fn held(&self, path: &str) -> usize {
        lock(&self.shared.gate).held.get(path).copied().unwrap_or(0)
    }

    /// Lets every exchange for `path` go on, now and later.
    pub fn release(&self, path: &str) {
        lock(&self.shared.gate).released.insert(path.to_owned(), true);
        self.shared.moved.notify_all();
    }

    /// Refuses connections and cuts those that stand.
    pub fn die(&self) {
        if !self.shared.dead.swap(true, Ordering::SeqCst) {
            // Wakes the acceptor, which then drops its listener.
            let _ = TcpStream::connect(self.addr);
            self.cut();
            while TcpStream::connect(self.addr).is_ok() {
                std::thread::yield_now();
            }
        }
    }

    /// Cuts every connection that stands.
    pub fn cut(&self) {
        for stream in lock(&self.shared.connections).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again on the same port.
    pub fn revive(&self) {
        if self.shared.dead.swap(false, Ordering::SeqCst) {
            self.accept(TcpListener::bind(self.addr).expect("the port is still ours"));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let held: Vec<String> = lock(&self.shared.gate).held.keys().cloned().collect();
        for path in held {
            self.release(&path);
        }
        self.die();
    }
}

fn converse(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some(seen) = read_request(&mut reader)? else { return Ok(()) };
        lock(&shared.log).push(seen.clone());
        let (resource, fault) = {
            let mut resources = lock(&shared.resources);
            match resources.get_mut(&seen.target) {
                None => (None, Fault::None),
                Some(resource) => {
                    let fault = resource.script.pop_front().unwrap_or_else(|| resource.always.clone());
                    (Some(resource.clone()), fault)
                }
            }
        };
        let exchange = Exchange { shared, stream, seen: &seen };
        let go_on = match resource {
            None => exchange.simple(404, &[], b"nothing here\n")?,
            Some(resource) => exchange.answer(&resource, fault)?,
        };
        if !go_on {
            return Ok(());
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Seen>> {
    let Ok(line) = read_line(reader) else { return Ok(None) };
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
    // As a proxy is asked, which may be what it plays.
    let path = target.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let target = path.unwrap_or(target).to_owned();
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let seen = Seen { method, target, headers };
    if let Some(length) = seen.header("content-length").and_then(|text| text.parse::<u64>().ok()) {
        io::copy(&mut reader.take(length), &mut io::sink())?;
    } else if seen.header("transfer-encoding").is_some() {
        loop {
            let size = u64::from_str_radix(read_line(reader)?.trim(), 16).map_err(io::Error::other)?;
            io::copy(&mut reader.take(size), &mut io::sink())?;
            read_line(reader)?;
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(seen))
}

/// One request being answered.
struct Exchange<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    seen: &'a Seen,
}

impl Exchange<'_> {
    /// Whether the connection may go on.
    fn answer(&self, resource: &Resource, fault: Fault) -> io::Result<bool> {
        let len = resource.len();
        match &fault {
            Fault::Status(status, headers) => return self.simple(*status, headers, b"as the script says\n"),
            Fault::Close => return Ok(false),
            Fault::Garbage => {
                self.write(b"\0\x01\x02 this is not HTTP\r\n\r\n")?;
                return Ok(false);
            }
            Fault::Silent => {
                self.hold()?;
                return Ok(false);
            }
            _ => {}
        }
        if self.is_current(resource) {
            return self.simple(304, &resource.headers, b"");
        }
        let (status, from, to) = match self.wanted(resource) {
            Some((from, to)) if from < len => (206, from, to.min(len)),
            Some(_) => return self.simple(416, &[("content-range", format!("bytes */{len}"))], b""),
            None => (200, 0, len),
        };
        let announced = match fault {
            Fault::TooShort(more) => to - from + more,
            _ => to - from,
        };
        let mut head = head_of(status, &resource.headers);
        if status == 206 {
            head += &format!("content-range: bytes {from}-{}/{len}\r\n", to - 1);
        }
        head += &match fault {
            Fault::ChunkedCut(_) => "transfer-encoding: chunked\r\n\r\n".to_owned(),
            _ => format!("content-length: {announced}\r\n\r\n"),
        };
        self.write(head.as_bytes())?;
        if self.seen.method == "HEAD" {
            return Ok(true);
        }
        self.body(resource, &fault, from, to)
    }

    fn body(&self, resource: &Resource, fault: &Fault, from: u64, to: u64) -> io::Result<bool> {
        match *fault {
            Fault::Truncate(after) => self.send(resource, from, to.min(from + after), fault).map(|()| false),
            Fault::Reset(after) => {
                self.send(resource, from, to.min(from + after), fault)?;
                rustix::net::sockopt::set_socket_linger(self.stream, Some(Duration::ZERO))?;
                Ok(false)
            }
            Fault::TooShort(_) => self.send(resource, from, to, fault).map(|()| false),
            Fault::TooLong(more) => self.send(resource, from, to + more, fault).map(|()| true),
            Fault::ChunkedCut(after) => {
                let bytes = (to - from).min(after);
                self.write(format!("{bytes:x}\r\n").as_bytes())?;
                self.send(resource, from, from + bytes, fault)?;
                self.write(b"\r\n")?;
                Ok(false)
            }
            Fault::Hold(after) => {
                let stop = to.min(from + after);
                self.send(resource, from, stop, fault)?;
                self.hold()?;
                self.send(resource, stop, to, fault).map(|()| true)
            }
            _ => self.send(resource, from, to, fault).map(|()| true),
        }
    }

    fn send(&self, resource: &Resource, from: u64, to: u64, fault: &Fault) -> io::Result<()> {
        let piece = if let Fault::Drip(bytes, _) = fault { *bytes } else { 256 << 10 };
        let mut chunk = vec![0; piece.min(usize::try_from(to - from).unwrap_or(piece)).max(1)];
        let mut at = from;
        while at < to {
            let take = (to - at).min(chunk.len() as u64) as usize;
            resource.read(at, &mut chunk[..take]);
            if let Fault::Corrupt(wrong) = *fault
                && (at..at + take as u64).contains(&wrong)
            {
                chunk[(wrong - at) as usize] ^= 1;
            }
            self.write(&chunk[..take])?;
            at += take as u64;
            if let Fault::Drip(_, pause) = fault {
                std::thread::sleep(*pause);
            }
        }
        Ok(())
    }

    /// Waits for `Upstream::release`, or for the upstream's death.
    fn hold(&self) -> io::Result<()> {
        let path = &self.seen.target;
        let mut gate = lock(&self.shared.gate);
        *gate.held.entry(path.clone()).or_default() += 1;
        while !gate.released.get(path).copied().unwrap_or(false) {
            if self.shared.dead.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let (again, _) =
                self.shared.moved.wait_timeout(gate, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner);
            gate = again;
        }
        Ok(())
    }

    fn is_current(&self, resource: &Resource) -> bool {
        let own = |name: &str| resource.headers.iter().find(|(at, _)| *at == name).map(|(_, value)| value.as_str());
        match (self.seen.header("if-none-match"), own("etag")) {
            (Some(asked), Some(etag)) => asked.split(',').any(|one| one.trim() == etag),
            (None, _) => self.seen.header("if-modified-since").is_some_and(|asked| own("last-modified") == Some(asked)),
            _ => false,
        }
    }

    /// The range asked for, as from and to; None when all is to be sent.
    fn wanted(&self, resource: &Resource) -> Option<(u64, u64)> {
        if resource.ranges == Ranges::Ignored {
            return None;
        }
        let etag = resource.headers.iter().find(|(at, _)| *at == "etag").map(|(_, value)| value.as_str());
        if self.seen.header("if-range").is_some_and(|asked| Some(asked) != etag) {
            return None;
        }
        let (from, to) = self.seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let to = if to.is_empty() { u64::MAX } else { to.parse::<u64>().ok()? + 1 };
        Some((from.parse().ok()?, to))
    }

    fn simple(&self, status: u16, headers: &[(&'static str, String)], body: &[u8]) -> io::Result<bool> {
        let mut head = head_of(status, headers);
        if status == 304 {
            head += "\r\n";
            return self.write(head.as_bytes()).map(|()| true);
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        self.write(head.as_bytes())?;
        if self.seen.method != "HEAD" {
            self.write(body)?;
        }
        Ok(true)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(bytes)
    }
}

/// The beginning of an answer's head, of now unless the fields say another time.
fn head_of(status: u16, headers: &[(&'static str, String)]) -> String {
    let mut head = format!("HTTP/1.1 {status} As Told\r\n");
    if headers.iter().all(|(name, _)| *name != "date") {
        head += &format!("date: {}\r\n", httpdate::fmt_http_date(std::time::SystemTime::now()));
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head
}
