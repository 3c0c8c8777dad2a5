//! A small server that does to each request what a script says, byte by byte. Bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::runtime::tasks::Tasks;

/// What to do next on a connection.
#[derive(Clone)]
pub(super) enum Act {
    Send(Vec<u8>),
    Sleep(Duration),
    /// Ends the connection in good order, or with a reset.
    Close,
    Reset,
    /// Keeps it open and says nothing more.
    Hold,
    /// Passes bytes to and fro another address from here on.
    Splice(SocketAddr),
}

pub(super) fn send(text: &str) -> Act {
    Act::Send(text.as_bytes().to_vec())
}

/// A complete answer with a length.
pub(super) fn answer(status: &str, fields: &str, body: &[u8]) -> Vec<Act> {
    let mut bytes = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{fields}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    vec![Act::Send(bytes)]
}

pub(super) fn ok(body: &str) -> Vec<Act> {
    answer("200 OK", "", body.as_bytes())
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

type Script = dyn Fn(&str, usize) -> Vec<Act> + Send + Sync;

const CONNECTIONS: usize = 512;
const REQUEST_BYTES: usize = 1 << 20;

impl Server {
    /// Answers the nth request (from 0, over all connections), given as text, by `script`.
    pub(super) async fn start(script: impl Fn(&str, usize) -> Vec<Act> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Server { address, seen: Arc::default(), connections: Arc::default() };
        let (seen, connections) = (server.seen.clone(), server.connections.clone());
        let script: Arc<Script> = Arc::new(script);
        let tasks = Tasks::new();
        tasks.clone().spawn("fault server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                    return;
                }
                let (script, seen) = (script.clone(), seen.clone());
                tasks.spawn("fault connection", async move {
                    talk(stream, &*script, &seen).await;
                });
            }
        });
        server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request so far: head and body as text.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn talk(mut stream: TcpStream, script: &Script, seen: &Mutex<Vec<String>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let nth = {
            let mut seen = seen.lock();
            seen.push(request.clone());
            seen.len() - 1
        };
        for act in script(&request, nth) {
            match act {
                Act::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Act::Sleep(time) => tokio::time::sleep(time).await,
                Act::Close => return,
                Act::Reset => {
                    // With no time to linger, closing is a reset.
                    let _ = stream.set_zero_linger();
                    return;
                }
                Act::Hold => std::future::pending().await,
                Act::Splice(address) => {
                    let Ok(mut other) = TcpStream::connect(address).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
                    return;
                }
            }
        }
    }
}

/// One request with its body; None at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            let whole = if head.contains("transfer-encoding: chunked") {
                text[end..].find("0\r\n\r\n").map(|at| end + at + 5)
            } else {
                Some(end + 4 + length.unwrap_or(0))
            };
            if let Some(whole) = whole.filter(|whole| buffer.len() >= *whole) {
                buffer.drain(..whole);
                return Some(text[..whole].to_owned());
            }
        }
        if buffer.len() > REQUEST_BYTES || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The least of an HTTP/2 server, in raw frames: sends `frames` for the first stream once its request came.
pub(super) async fn raw_http2(mut stream: impl AsyncRead + AsyncWrite + Unpin, frames: &[u8]) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    let mut preface = [0; 24];
    let begun = stream.read_exact(&mut preface).await.is_ok() && stream.write_all(&SETTINGS).await.is_ok();
    assert!(begun && preface.starts_with(b"PRI * HTTP/2.0"));
    let mut answered = false;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        let reply: &[u8] = match head[3] {
            1 if !answered => {
                answered = true;
                frames
            }
            4 if head[4] == 0 => &SETTINGS_ACK,
            _ => &[],
        };
        if stream.write_all(reply).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// One HTTP/2 frame.
pub(super) fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}
