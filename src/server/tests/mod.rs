//! The front door, tried from outside: raw bytes against a listener whose mount records what it sees.

mod drain;
mod framing;
mod handover;
mod http2;
mod limits;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::front::{Doors, Server};
use super::settings::{Limits, Settings};
use crate::protocol::reply::ReplyBody;
use crate::protocol::{Answering, Mount, Peer};
use crate::runtime::tasks::Tasks;

/// Longer than any test takes; a test that reaches it hangs.
const HANG: Duration = Duration::from_secs(20);

/// Records each request and answers by its path.
pub struct Recorder {
    seen: Mutex<Vec<String>>,
    changed: Notify,
    /// `/slow` waits until this is true.
    gate: watch::Sender<bool>,
    tasks: Tasks,
}

impl Recorder {
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }

    pub async fn seen_count(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.seen.lock().len() >= count {
                return;
            }
            changed.await;
        }
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        self.seen.lock().push(format!("{} {}", request.method(), request.uri()));
        self.changed.notify_waiters();
        if request.method() == Method::CONNECT {
            return self.tunnel(request);
        }
        match request.uri().path() {
            "/slow" => {
                let _ = self.gate.subscribe().wait_for(|open| *open).await;
                reply(StatusCode::OK, "slow")
            }
            "/early" => reply(StatusCode::FORBIDDEN, "no"),
            "/big" => Response::new(ReplyBody::full(Bytes::from(vec![b'x'; BIG]))),
            _ => match request.into_body().collect().await {
                Ok(_) => reply(StatusCode::OK, "ok"),
                Err(_) => reply(StatusCode::BAD_REQUEST, "body"),
            },
        }
    }

    /// Sends back what comes.
    fn tunnel(&self, mut request: Request<Incoming>) -> Response<ReplyBody> {
        if request.uri().host() == Some("refused") {
            return reply(StatusCode::FORBIDDEN, "no");
        }
        let upgrade = hyper::upgrade::on(&mut request);
        self.tasks.spawn("echo", async move {
            let Ok(stream) = upgrade.await else { return };
            let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            drop(request);
        });
        Response::new(ReplyBody::empty())
    }
}

impl Mount for Recorder {
    fn serve<'a>(&'a self, request: Request<Incoming>, _: &'a Arc<Peer>) -> Answering<'a> {
        Answering::Right(Box::pin(self.answer(request)))
    }
}

/// The length of `/big`: more than sockets hold.
pub const BIG: usize = 32 << 20;

fn reply(status: StatusCode, text: &'static str) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::full(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// A running server.
pub struct Running {
    pub server: Server,
    pub recorder: Arc<Recorder>,
    pub tasks: Tasks,
}

impl Running {
    pub fn addr(&self) -> SocketAddr {
        self.server.addresses()[0]
    }
}

pub fn start(limits: Limits) -> Running {
    start_with(limits, Doors::default())
}

pub fn start_with(limits: Limits, doors: Doors) -> Running {
    let tasks = Tasks::new();
    let (gate, tasks_of_mount) = (watch::Sender::new(false), tasks.clone());
    let recorder = Arc::new(Recorder { seen: Mutex::default(), changed: Notify::new(), gate, tasks: tasks_of_mount });
    let settings = Settings { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], limits, ..Settings::default() };
    let server = Server::bind(&settings, doors, tasks.clone(), recorder.clone()).expect("binds");
    let running = server.clone();
    tasks.spawn("server", async move { running.run().await });
    Running { server, recorder, tasks }
}

/// Fails the test instead of hanging.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, work).await.expect("ends")
}

pub async fn connect(addr: SocketAddr) -> TcpStream {
    soon(TcpStream::connect(addr)).await.expect("connects")
}

/// Sends bytes and reads until the server closes. A reset after the answer counts as closing.
pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let stream = connect(addr).await;
    let (mut read, mut write) = stream.into_split();
    let send = async {
        // The server may close before all is sent.
        let _ = write.write_all(bytes).await;
    };
    let mut got = Vec::new();
    let receive = async {
        let _ = read.read_to_end(&mut got).await;
    };
    soon(async { tokio::join!(send, receive) }).await;
    got
}

/// The statuses of the answers in `bytes`.
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("HTTP/1.").skip(1);
    lines.filter_map(|line| line.get(2..5).and_then(|status| status.parse().ok())).collect()
}
