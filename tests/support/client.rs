//! A client that hashes everything it gets, and one that sends any bytes whatever. HTTP/1.1 by hand: a library would
//! forgive what a test must see.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Bodies up to here are kept as well as hashed.
const KEPT: usize = 1 << 20;

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Ask {
    pub fn get(target: impl Into<String>) -> Ask {
        Ask { method: "GET".into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn method(mut self, method: &str) -> Ask {
        self.method = method.into();
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Ask {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn range(self, range: &str) -> Ask {
        self.header("range", format!("bytes={range}"))
    }

    /// Sends on a connection of its own and reads the answer to its end.
    ///
    /// *Errors*: no connection, or no head. A body that breaks off is not an error but `clean: false`.
    pub fn send(&self, to: SocketAddr) -> io::Result<Reply> {
        self.open(to)?.finish()
    }

    /// Like `send`, for a server that must answer.
    #[track_caller]
    pub fn must(&self, to: SocketAddr) -> Reply {
        self.send(to).unwrap_or_else(|why| panic!("{} {} got no answer: {why}", self.method, self.target))
    }

    /// Sends, and reads no further than the answer's head.
    pub fn open(&self, to: SocketAddr) -> io::Result<Open> {
        let mut stream = connect(to)?;
        stream.write_all(&self.wire(to))?;
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        let (status, headers) = read_head(&mut reader)?;
        let framing = Framing::of(&self.method, status, &headers);
        Ok(Open { reader, status, headers, framing, hasher: blake3::Hasher::new(), len: 0, kept: Vec::new() })
    }

    fn wire(&self, to: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("host: {to}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.body.is_empty() || self.method == "PUT" || self.method == "POST" {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head += "connection: close\r\n\r\n";
        let mut wire = head.into_bytes();
        wire.extend_from_slice(&self.body);
        wire
    }
}

pub fn get(to: SocketAddr, target: impl Into<String>) -> Reply {
    Ask::get(target).must(to)
}

/// An answer whose head is here and whose body is being read.
pub struct Open {
    reader: BufReader<TcpStream>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    framing: Framing,
    hasher: blake3::Hasher,
    pub len: u64,
    kept: Vec<u8>,
}

impl Open {
    /// Reads at least `want` bytes of a body of known length, or fails.
    pub fn read_some(&mut self, want: u64) -> io::Result<()> {
        let Framing::Length(total) = self.framing else {
            return Err(io::Error::other("the body has no announced length"));
        };
        let goal = (self.len + want).min(total);
        while self.len < goal {
            if self.take(goal - self.len)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<Reply> {
        let clean = self.read_body().is_ok();
        Ok(Reply {
            status: self.status,
            headers: self.headers,
            digest: self.hasher.finalize(),
            len: self.len,
            kept: self.kept,
            clean,
        })
    }

    fn read_body(&mut self) -> io::Result<()> {
        match self.framing {
            Framing::None => Ok(()),
            Framing::Length(total) => self.read_some(total - self.len),
            Framing::UntilClose => {
                while self.take(u64::MAX)? > 0 {}
                Ok(())
            }
            Framing::Chunked => self.read_chunks(),
        }
    }

    fn read_chunks(&mut self) -> io::Result<()> {
        loop {
            let line = read_line(&mut self.reader)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                while !read_line(&mut self.reader)?.is_empty() {}
                return Ok(());
            }
            let goal = self.len + size;
            while self.len < goal {
                if self.take(goal - self.len)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            read_line(&mut self.reader)?;
        }
    }

    fn take(&mut self, most: u64) -> io::Result<usize> {
        let ready = self.reader.fill_buf()?;
        let take = usize::try_from(most).unwrap_or(usize::MAX).min(ready.len());
        let bytes = &ready[..take];
        self.hasher.update(bytes);
        let room = KEPT.saturating_sub(self.kept.len()).min(take);
        self.kept.extend_from_slice(&bytes[..room]);
        self.len += take as u64;
        self.reader.consume(take);
        Ok(take)
    }
}

/// A whole answer, or as much of it as came.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// BLAKE3 of all body bytes that came.
    pub digest: blake3::Hash,
    pub len: u64,
    kept: Vec<u8>,
    /// Whether the body ended as its framing said it would.
    pub clean: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text; of a long one the first MiB.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.kept
    }

    pub fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or("(no Cache-Status)")
    }

    /// A complete answer with these bytes.
    #[track_caller]
    pub fn assert_is(&self, status: u16, digest: blake3::Hash) {
        assert_eq!(self.status, status, "{} {}", self.cache_status(), self.text());
        assert!(self.clean, "the body broke off after {} bytes", self.len);
        assert_eq!(self.digest, digest, "wrong bytes: {} of them, {}", self.len, self.cache_status());
    }
}

enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    fn of(method: &str, status: u16, headers: &[(String, String)]) -> Framing {
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::None;
        }
        if header(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        match header(headers, "content-length").and_then(|text| text.parse().ok()) {
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(at, _)| at.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A connection with time limits.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `bytes` as they are, then returns all that comes back until the server closes or says nothing for `quiet`.
/// The flag tells whether it closed.
pub fn raw(to: SocketAddr, bytes: &[u8], quiet: Duration) -> (Vec<u8>, bool) {
    let mut stream = connect(to).expect("the server accepts connections");
    stream.set_read_timeout(Some(quiet)).expect("a time limit can be set");
    // A server may close before it has read everything: then writing fails, and what it said is still to be read.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return (answer, true),
            Ok(some) => answer.extend_from_slice(&chunk[..some]),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return (answer, false),
            Err(_) => return (answer, true),
        }
    }
}

/// The status line's number, if `answer` starts with one.
pub fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// Reads a status line and fields; interim answers are skipped.
fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    loop {
        let line = read_line(reader)?;
        let status =
            status_of(line.as_bytes()).ok_or_else(|| io::Error::other(format!("not a status line: {line}")))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(reader)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("not a field: {line}")))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        if status >= 200 {
            return Ok((status, headers));
        }
    }
}

/// A line without its end.
pub fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.take(1 << 20).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(io::Error::other)
}
