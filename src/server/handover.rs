//! A restart that refuses no connection: the successor gets the listening sockets themselves, over a Unix socket in
//! the data directory. While nobody accepts, connections wait in the kernel's queue of those sockets.
//!
//! The order: the successor asks (`larder handover 1`), gets the sockets, and says `go`; the predecessor stops
//! accepting, lets go of the data directory, and says `released`; the successor opens the directory and accepts. The
//! predecessor sends what it is still sending, and ends. A successor that fails before `go` has changed nothing.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, SendAncillaryBuffer, SendAncillaryMessage, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};

use super::error::ServerError;
use super::front::Server;
use crate::runtime::os;

const SOCKET_FILE: &str = "control.sock";
const ASK: &str = "larder handover 1";
const GO: &str = "go";
const RELEASED: &str = "released";

/// The most listening sockets that are handed over.
const MAX_SOCKETS: usize = 64;

/// How long the other side may take for a line that needs no work.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running server's end: waits for a successor.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    handed_over: bool,
}

impl Control {
    /// Listens in the data directory, which the caller owns by its lock.
    pub fn listen(dir: &Path) -> Result<Control, ServerError> {
        let path = dir.join(SOCKET_FILE);
        let listen = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = os::at_short_path(dir, SOCKET_FILE, |path| UnixListener::bind(path))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => Ok(Control { listener, path, handed_over: false }),
            Err(source) => Err(ServerError::Handover { path, source }),
        }
    }

    /// Waits for a successor and hands over to it: `server` accepts no more, `release` lets go of the data directory,
    /// then the successor is told. Resolves when that is done; what is left is to drain the server and end.
    ///
    /// *Cancel*: before a successor said `go`, nothing has changed.
    pub async fn hand_over<F, R>(mut self, server: &Server, release: R)
    where
        F: Future<Output = ()>,
        R: FnOnce() -> F,
    {
        let mut successor = loop {
            match self.successor(server).await {
                Ok(successor) => break successor,
                Err(error) => tracing::warn!(%error, "a successor gave up; serving on"),
            }
        };
        self.handed_over = true;
        server.stop_accepting();
        server.finish();
        release().await;
        if let Err(error) = successor.write_all(format!("{RELEASED}\n").as_bytes()).await {
            tracing::warn!(%error, "the successor went away after the sockets were handed to it");
        }
    }

    /// A successor that has the sockets and said `go`.
    async fn successor(&self, server: &Server) -> io::Result<UnixStream> {
        let (mut stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if uid != 0 && uid != rustix::process::getuid().as_raw() {
            return Err(io::Error::other(format!("user {uid} may not take over")));
        }
        expect_line(&mut stream, ASK, PATIENCE).await?;
        send_sockets(&stream, &server.sockets()).await?;
        expect_line(&mut stream, GO, PATIENCE).await?;
        Ok(stream)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // After a handover the file is the successor's.
        if !self.handed_over {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The successor's end: the sockets are here, the predecessor still serves.
pub struct Takeover {
    sockets: Vec<TcpListener>,
    stream: UnixStream,
    path: PathBuf,
}

impl Takeover {
    /// Asks a running server for its sockets.
    ///
    /// *Shape*: None when none runs on this data directory.
    pub async fn ask(dir: &Path) -> Result<Option<Takeover>, ServerError> {
        let path = dir.join(SOCKET_FILE);
        let failed = |source| ServerError::Handover { path: path.clone(), source };
        let connected = os::at_short_path(dir, SOCKET_FILE, |path| std::os::unix::net::UnixStream::connect(path));
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let take = async {
            stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(stream)?;
            stream.write_all(format!("{ASK}\n").as_bytes()).await?;
            let sockets = within(PATIENCE, receive_sockets(&stream)).await?;
            Ok((stream, sockets))
        };
        let (stream, sockets) = take.await.map_err(failed)?;
        Ok(Some(Takeover { sockets, stream, path }))
    }

    /// Has the predecessor stop accepting and let go of the data directory, which may take it up to `patience`.
    /// Connections queue from here on until the sockets are accepted from.
    ///
    /// *Errors*: the predecessor died or took too long. The sockets are lost with the error; the data directory's lock
    /// tells when it may be opened.
    pub async fn release(mut self, patience: Duration) -> Result<Vec<TcpListener>, ServerError> {
        let released = async {
            self.stream.write_all(format!("{GO}\n").as_bytes()).await?;
            expect_line(&mut self.stream, RELEASED, patience).await
        };
        match released.await {
            Ok(()) => Ok(self.sockets),
            Err(source) => Err(ServerError::Handover { path: self.path, source }),
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads one line, byte by byte: nothing after it may be taken.
async fn expect_line(stream: &mut UnixStream, wanted: &str, patience: Duration) -> io::Result<()> {
    let read = async {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await? {
                b'\n' if line == wanted.as_bytes() => return Ok(()),
                b'\n' => break,
                byte => line.push(byte),
            }
            if line.len() > wanted.len() {
                break;
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("expected `{wanted}`")))
    };
    within(patience, read).await
}

async fn send_sockets(stream: &UnixStream, sockets: &[Arc<tokio::net::TcpListener>]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
    if fds.len() > MAX_SOCKETS {
        return Err(io::Error::other(format!("{} listening sockets, {MAX_SOCKETS} at most", fds.len())));
    }
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(stream, &[IoSlice::new(b"!")], &mut control, os::SEND).map_err(io::Error::from)
    };
    stream.async_io(Interest::WRITABLE, send).await.map(|_| ())
}

async fn receive_sockets(stream: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let got = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, os::RECEIVE)?;
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 || fds.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(fds) }
    };
    let fds = stream.async_io(Interest::READABLE, receive).await?;
    fds.into_iter().map(checked).collect()
}

fn checked(fd: OwnedFd) -> io::Result<TcpListener> {
    os::keep_from_children(&fd)?;
    if !os::is_listening(&fd)? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what was handed over does not listen"));
    }
    let listener = TcpListener::from(fd);
    listener.local_addr()?;
    Ok(listener)
}
