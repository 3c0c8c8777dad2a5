//! One line for each request. A line is made in a buffer of its thread, appended to a bounded shared one, and written
//! by a thread of its own; when that is behind, lines are dropped and counted: a slow disk slows no request.
//!
//! Query strings are not logged: they carry signatures and tokens.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::stamp;

/// The writer is woken at this many bytes, or each second.
const FLUSH_BYTES: usize = 64 << 10;
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Where lines go, and in which form.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `off`, `stdout`, `stderr`, or the path of a file that is appended to.
    pub target: Target,
    pub format: Format,
    /// Lines that wait for the writer, in bytes; beyond it they are dropped.
    pub buffer_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { target: Target::Off, format: Format::Text, buffer_bytes: 1 << 20 }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Target {
    Off,
    Stdout,
    Stderr,
    File(PathBuf),
}

impl From<String> for Target {
    fn from(text: String) -> Target {
        match text.as_str() {
            "" | "off" => Target::Off,
            "stdout" => Target::Stdout,
            "stderr" => Target::Stderr,
            _ => Target::File(PathBuf::from(text)),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        match target {
            Target::Off => "off".to_owned(),
            Target::Stdout => "stdout".to_owned(),
            Target::Stderr => "stderr".to_owned(),
            Target::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `key=value` pairs.
    Text,
    /// One object a line.
    Json,
}

/// What is said of one request.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Milliseconds since the Unix epoch, at the end of the answer.
    pub epoch_ms: i64,
    pub peer: SocketAddr,
    /// The build that asked, when it named itself.
    pub build: Option<&'a str>,
    pub method: &'a str,
    /// Without the query; everything from a `?` on is left out here all the same.
    pub path: &'a str,
    pub status: u16,
    /// This and the next two: words of ours, written as they are.
    pub outcome: &'static str,
    pub tier: &'static str,
    pub ecosystem: &'static str,
    pub bytes: u64,
    pub micros: u64,
    /// In hexadecimal, written as it is.
    pub digest: Option<&'a str>,
}

/// Takes lines from any thread.
pub struct AccessLog {
    queue: Option<Arc<Queue>>,
    format: Format,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
    closed: bool,
    reopen: bool,
}

impl AccessLog {
    /// Opens the target and starts the writer.
    ///
    /// *Errors*: the file cannot be opened for appending.
    pub fn open(settings: &Settings) -> io::Result<AccessLog> {
        let sink: Sink = match &settings.target {
            Target::Off => return Ok(AccessLog::off()),
            Target::Stdout => Sink::Stream(Box::new(io::stdout())),
            Target::Stderr => Sink::Stream(Box::new(io::stderr())),
            Target::File(path) => Sink::File { file: append_to(path)?, path: path.clone() },
        };
        AccessLog::start(sink, settings.format, settings.buffer_bytes)
    }

    pub fn off() -> AccessLog {
        AccessLog { queue: None, format: Format::Text, writer: Mutex::new(None) }
    }

    fn start(sink: Sink, format: Format, limit: usize) -> io::Result<AccessLog> {
        let queue = Arc::new(Queue { waiting: Mutex::default(), wake: Condvar::new(), limit });
        let for_writer = queue.clone();
        let writer =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || for_writer.write_out(sink))?;
        Ok(AccessLog { queue: Some(queue), format, writer: Mutex::new(Some(writer)) })
    }

    /// Whether a line would go anywhere; ask before gathering its fields.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Appends one line. Never blocks on the target.
    pub fn write(&self, line: &Line<'_>) {
        thread_local! {
            static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(queue) = &self.queue else { return };
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            match self.format {
                Format::Text => text(scratch, line),
                Format::Json => json(scratch, line),
            }
            queue.append(scratch);
        });
    }

    /// Lines that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.queue.as_ref().map_or(0, |queue| queue.waiting.lock().dropped)
    }

    /// Opens the file anew, after it was rotated.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.waiting.lock().reopen = true;
            queue.wake.notify_one();
        }
    }

    /// Writes what waits and ends the writer. Later lines are dropped.
    pub fn close(&self) {
        if let Some(queue) = &self.queue {
            queue.waiting.lock().closed = true;
            queue.wake.notify_one();
        }
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has said so; there is nothing left to write.
            let _ = writer.join();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    fn append(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        let before = waiting.lines.len();
        if waiting.closed || before + line.len() > self.limit {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        let crossed = before < FLUSH_BYTES && waiting.lines.len() >= FLUSH_BYTES;
        drop(waiting);
        if crossed {
            self.wake.notify_one();
        }
    }

    fn write_out(&self, mut sink: Sink) {
        let mut taken = Vec::new();
        loop {
            let mut waiting = self.waiting.lock();
            if waiting.lines.len() < FLUSH_BYTES && !waiting.closed && !waiting.reopen {
                self.wake.wait_for(&mut waiting, FLUSH_EVERY);
            }
            std::mem::swap(&mut waiting.lines, &mut taken);
            let (closed, reopen) = (waiting.closed, std::mem::take(&mut waiting.reopen));
            drop(waiting);
            if let Err(error) = sink.write(&taken) {
                // The log cannot log of itself: the lines are gone, and counted as such.
                let lines = taken.iter().filter(|byte| **byte == b'\n').count();
                self.waiting.lock().dropped += lines as u64;
                tracing::warn!(%error, lines, "access log lines lost");
            }
            taken.clear();
            taken.shrink_to(2 * FLUSH_BYTES);
            if reopen && let Err(error) = sink.reopen() {
                tracing::warn!(%error, "access log not reopened; the old file is written on");
            }
            if closed {
                return;
            }
        }
    }
}

enum Sink {
    Stream(Box<dyn Write + Send>),
    File { file: File, path: PathBuf },
}

impl Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stream(stream) => stream.write_all(lines).and_then(|()| stream.flush()),
            Sink::File { file, .. } => file.write_all(lines),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Sink::File { file, path } = self {
            *file = append_to(path)?;
        }
        Ok(())
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn text(out: &mut Vec<u8>, line: &Line<'_>) {
    out.extend_from_slice(&stamp::rfc3339(line.epoch_ms));
    out.extend_from_slice(b" peer=");
    address(out, line.peer);
    if let Some(build) = line.build {
        out.extend_from_slice(b" build=");
        quoted(out, build);
    }
    out.extend_from_slice(b" method=");
    plain(out, line.method);
    out.extend_from_slice(b" path=");
    quoted(out, without_query(line.path));
    out.extend_from_slice(b" status=");
    number(out, u64::from(line.status));
    for (name, word) in [(" outcome=", line.outcome), (" tier=", line.tier), (" ecosystem=", line.ecosystem)] {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(b" bytes=");
    number(out, line.bytes);
    out.extend_from_slice(b" micros=");
    number(out, line.micros);
    if let Some(digest) = line.digest {
        out.extend_from_slice(b" digest=");
        out.extend_from_slice(digest.as_bytes());
    }
    out.push(b'\n');
}

fn json(out: &mut Vec<u8>, line: &Line<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(&stamp::rfc3339(line.epoch_ms));
    out.extend_from_slice(b"\",\"peer\":\"");
    address(out, line.peer);
    out.push(b'"');
    let words = [
        (",\"build\":", line.build),
        (",\"method\":", Some(line.method)),
        (",\"path\":", Some(without_query(line.path))),
        (",\"outcome\":", Some(line.outcome)),
        (",\"tier\":", Some(line.tier)),
        (",\"ecosystem\":", Some(line.ecosystem)),
        (",\"digest\":", line.digest),
    ];
    for (name, word) in words {
        if let Some(word) = word {
            out.extend_from_slice(name.as_bytes());
            quoted(out, word);
        }
    }
    for (name, value) in
        [(",\"status\":", u64::from(line.status)), (",\"bytes\":", line.bytes), (",\"micros\":", line.micros)]
    {
        out.extend_from_slice(name.as_bytes());
        number(out, value);
    }
    out.extend_from_slice(b"}\n");
}

/// As `Display` writes it, without the detour for IPv4.
fn address(out: &mut Vec<u8>, peer: SocketAddr) {
    let SocketAddr::V4(peer) = peer else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{peer}");
        return;
    };
    for (at, octet) in peer.ip().octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        number(out, u64::from(octet));
    }
    out.push(b':');
    number(out, u64::from(peer.port()));
}

fn without_query(path: &str) -> &str {
    memchr::memchr2(b'?', b'#', path.as_bytes()).map_or(path, |end| &path[..end])
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A token of HTTP; anything else is quoted, so that no client writes lines of its own.
fn plain(out: &mut Vec<u8>, word: &str) {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    if !word.is_empty() && word.bytes().all(fits) {
        out.extend_from_slice(word.as_bytes());
    } else {
        quoted(out, word);
    }
}

/// A JSON string, which logfmt reads too.
fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if !text.bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x7f)) {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 | 0x7f => {
                let hex = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> Line<'_> {
        Line {
            epoch_ms: 1_735_689_600_123,
            peer: "10.0.0.1:555".parse().expect("an address"),
            build: Some("ci \"7\""),
            method: "GET",
            path,
            status: 200,
            outcome: "hit",
            tier: "memory",
            ecosystem: "cargo",
            bytes: 1024,
            micros: 90,
            digest: None,
        }
    }

    #[test]
    fn a_line_of_text() {
        let mut out = Vec::new();
        text(&mut out, &line("/a\nb?token=secret"));
        let wanted = "2025-01-01T00:00:00.123Z peer=10.0.0.1:555 build=\"ci \\\"7\\\"\" method=GET \
                      path=\"/a\\u000ab\" status=200 outcome=hit tier=memory ecosystem=cargo bytes=1024 micros=90\n";
        assert_eq!(String::from_utf8_lossy(&out), wanted);
    }

    #[test]
    fn a_line_of_json_reads_back() {
        let mut out = Vec::new();
        json(&mut out, &Line { digest: Some("b3:00"), ..line("/\u{1}\"\\é?q") });
        let read: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
        assert_eq!(read["path"], "/\u{1}\"\\é");
        assert_eq!(read["build"], "ci \"7\"");
        assert_eq!(read["status"], 200);
        assert_eq!(read["digest"], "b3:00");
    }

    /// Blocks in the first write until it is told to go on.
    struct Stuck {
        gate: Arc<(Mutex<bool>, Condvar)>,
        entered: std::sync::mpsc::Sender<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !bytes.is_empty() {
                let _ = self.entered.send(());
            }
            let mut open = self.gate.0.lock();
            while !*open {
                self.gate.1.wait(&mut open);
            }
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_is_behind() {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (entered, is_stuck) = std::sync::mpsc::channel();
        let sink = Sink::Stream(Box::new(Stuck { gate: gate.clone(), entered, written: written.clone() }));
        let log = AccessLog::start(sink, Format::Text, 1000).expect("starts a thread");
        log.write(&line("/first"));
        is_stuck.recv().expect("the writer took the first line");
        for _ in 0..100 {
            log.write(&line("/later"));
        }
        let dropped = log.dropped();
        assert!((90..100).contains(&dropped), "{dropped}");
        *gate.0.lock() = true;
        gate.1.notify_all();
        log.close();
        let lines = written.lock().iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(lines, 101 - dropped);
        log.write(&line("/after the end"));
        assert_eq!(log.dropped(), dropped + 1);
    }

    #[test]
    fn a_rotated_file_is_reopened() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let settings = Settings { target: Target::File(path.clone()), ..Settings::default() };
        let log = AccessLog::open(&settings).expect("opens");
        log.write(&line("/one"));
        std::fs::rename(&path, dir.path().join("access.log.1")).expect("rotates");
        log.reopen();
        // The writer thread makes the file; what follows lands in it or, if it came first, in the old one.
        log.close();
        assert!(path.exists());
        let old = std::fs::read_to_string(dir.path().join("access.log.1")).expect("reads");
        assert_eq!(old.lines().count(), 1);
    }

    #[test]
    fn targets_read_from_words_and_paths() {
        let settings: Settings = toml::from_str("target = \"stdout\"\nformat = \"json\"").expect("reads");
        assert_eq!((settings.target, settings.format), (Target::Stdout, Format::Json));
        assert_eq!(Target::from("/var/log/x".to_owned()), Target::File("/var/log/x".into()));
        assert!(!AccessLog::open(&Settings::default()).expect("off").is_on());
    }
}
