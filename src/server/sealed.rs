//! A TLS stream whose bodies are sealed straight from where they lie into a buffer of the thread, and written from there
//! many records at a time: rustls' own way has a copy and an allocation for each record. What a socket does not take is kept
//! with its connection: of large writes within a bound for all of them, beyond it of small ones; an idle connection keeps
//! nothing.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::seal::{RECORD, Sealer, beneath, room};

/// What is written at once, in bytes, to a reader that takes it. Each write wakes the reader, and more than this is no
/// longer in the cache when it is written.
const LARGE: usize = 512 << 10;
/// The same for one that did not take all of the last, and for everybody while much is kept for slow readers.
pub(crate) const SMALL: usize = 128 << 10;
/// What is kept for all slow readers beyond which none gets large writes, in bytes.
const KEPT_BUDGET: usize = 16 << 20;
/// Less than this is left to rustls.
const LEAST: usize = 2 * RECORD;
/// Buffers of a thread: TLS within a tunnel within TLS needs two.
const BUFFERS: usize = 2;

/// What is kept for slow readers.
static KEPT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct Sealed<T> {
    stream: TlsStream<T>,
    /// Void when rustls has other keys.
    sealer: Weak<Mutex<Sealer>>,
    kept: Kept,
    is_slow: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Sealed<T> {
    /// After a handshake.
    pub fn new(mut stream: TlsStream<T>, sealer: Weak<Mutex<Sealer>>) -> Sealed<T> {
        stream.get_mut().1.set_buffer_limit(Some(SMALL));
        Sealed { stream, sealer, kept: Kept::default(), is_slow: false }
    }

    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.rest() {
            let sent = ready!(poll_some(self.stream.get_mut().0, cx, rest))?;
            self.kept.went(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_seal(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_kept(cx))?;
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let Some(sealer) = (all >= LEAST).then(|| self.sealer.upgrade()).flatten() else {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        };
        // It was sealed before what comes now.
        if self.stream.get_ref().1.wants_write() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        let most = if self.is_slow || KEPT.load(Relaxed) >= KEPT_BUDGET { SMALL } else { LARGE };
        // What a head makes a body of round length larger by is no write of its own.
        let most = if all <= most + RECORD { most + RECORD } else { most };
        let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; room(LARGE + RECORD)]);
        let (sealing, is_worn) = {
            let mut sealer = sealer.lock();
            (sealer.seal(slices, most, &mut buffer), sealer.is_worn())
        };
        let written = sealing.map_err(io::Error::other).and_then(|sealing| {
            self.send(cx, &buffer[..sealing.sealed])?;
            Ok(sealing.taken)
        });
        FREE.with_borrow_mut(|free| {
            if free.len() < BUFFERS {
                free.push(buffer);
            }
        });
        if is_worn {
            self.stream.get_mut().1.refresh_traffic_keys().map_err(io::Error::other)?;
        }
        Poll::Ready(written)
    }

    /// Writes what the socket takes, and keeps the rest.
    fn send(&mut self, cx: &mut Context<'_>, mut sealed: &[u8]) -> io::Result<()> {
        while !sealed.is_empty() {
            let Poll::Ready(sent) = poll_some(self.stream.get_mut().0, cx, sealed) else { break };
            sealed = &sealed[sent?..];
        }
        self.is_slow = !sealed.is_empty();
        self.kept.keep(sealed);
        Ok(())
    }
}

fn poll_some<T: AsyncWrite + Unpin>(to: &mut T, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        sent => Poll::Ready(Ok(sent)),
    }
}

/// Sealed bytes that a socket did not take.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    sent: usize,
}

impl Kept {
    fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            KEPT.fetch_add(bytes.len(), Relaxed);
            *self = Kept { bytes: bytes.to_vec(), sent: 0 };
        }
    }

    fn rest(&self) -> Option<&[u8]> {
        self.bytes.get(self.sent..).filter(|rest| !rest.is_empty())
    }

    fn went(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent == self.bytes.len() {
            *self = Kept::default();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes.len(), Relaxed);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Sealed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        beneath(|| Pin::new(&mut this.stream).poll_read(cx, buf))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sealed<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        beneath(|| this.poll_seal(cx, &[IoSlice::new(bytes)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        beneath(|| this.poll_seal(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_kept(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_kept(cx))?;
        // Nothing may follow the alert that it sends.
        this.sealer = Weak::new();
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_rustls::client::TlsStream as ClientStream;
    use tokio_rustls::rustls::crypto::aws_lc_rs::{cipher_suite as suites, default_provider};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::runtime::clock::SystemClock;
    use crate::server::authorities::own;
    use crate::server::seal::shaking;
    use crate::server::tls::Certificates;

    /// Both ends' parts in a handshake.
    fn parties(suite: SupportedCipherSuite) -> (TlsAcceptor, Arc<ClientConfig>) {
        let dir = tempfile::tempdir().expect("a directory");
        let names = vec!["localhost".to_owned()];
        let ca = Arc::new(own(dir.path(), &names, SystemClock::new()).expect("an authority"));
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).expect("a certificate");
        roots.add(root).expect("a root");
        let certificates = Certificates::from_ca(ca, names, SystemClock::new()).expect("a certificate");
        let mut provider = default_provider();
        provider.cipher_suites = vec![suite];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(certificates).acceptor().expect("an acceptor"), Arc::new(config))
    }

    fn localhost() -> ServerName<'static> {
        ServerName::try_from("localhost").expect("a name")
    }

    /// Both ends of a connection whose pipe holds so many bytes.
    async fn pair(suite: SupportedCipherSuite, pipe: usize) -> (Sealed<DuplexStream>, ClientStream<DuplexStream>) {
        let (near, far) = duplex(pipe);
        let (acceptor, config) = parties(suite);
        let connector = TlsConnector::from(config);
        let (server, client) = tokio::join!(shaking(acceptor.accept(near)), connector.connect(localhost(), far));
        (Sealed::new(server.0.expect("shakes hands"), server.1), client.expect("shakes hands"))
    }

    /// No two places within reach of each other look the same.
    fn body(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8 ^ (at / 251 % 253) as u8).collect()
    }

    #[tokio::test]
    async fn bytes_arrive_as_they_were_written_whoever_seals() {
        let ours = [suites::TLS13_AES_256_GCM_SHA384, suites::TLS13_AES_128_GCM_SHA256];
        let theirs = [suites::TLS13_CHACHA20_POLY1305_SHA256, suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        for (suite, is_ours) in ours.map(|suite| (suite, true)).into_iter().chain(theirs.map(|suite| (suite, false))) {
            for pipe in [1 << 10, 100_000, 8 << 20] {
                let (mut server, mut client) = pair(suite, pipe).await;
                assert_eq!(server.sealer.upgrade().is_some(), is_ours, "{suite:?}");
                let lens = [
                    1,
                    300,
                    RECORD,
                    LEAST,
                    LEAST - 1,
                    3 * RECORD + 7,
                    5,
                    LARGE + 1,
                    LARGE + RECORD,
                    0,
                    (1 << 20) + 280,
                    40_000,
                ];
                let all = body(lens.iter().sum());
                let wanted = all.clone();
                let writing = async move {
                    let mut rest = &all[..];
                    for len in lens {
                        let (piece, after) = rest.split_at(len);
                        // In parts, as a head, a body and an end come.
                        let (mut head, mut tail) = piece.split_at(len / 7);
                        while !head.is_empty() || !tail.is_empty() {
                            let slices = [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)];
                            let some = server.write_vectored(&slices).await.expect("writes");
                            let of_head = some.min(head.len());
                            (head, tail) = (&head[of_head..], &tail[some - of_head..]);
                        }
                        rest = after;
                    }
                    server.shutdown().await.expect("ends");
                };
                let mut got = Vec::new();
                let ((), read) = tokio::join!(writing, client.read_to_end(&mut got));
                read.expect("a whole stream, with its end");
                assert!(got == wanted, "{suite:?} through {pipe}");
            }
        }
    }

    #[tokio::test]
    async fn keys_that_rustls_changes_are_not_used_on() {
        let (mut server, mut client) = pair(suites::TLS13_AES_256_GCM_SHA384, 8 << 20).await;
        let sent = body(200_000);
        for _ in 0..3 {
            server.write_all(&sent).await.expect("writes");
            server.stream.get_mut().1.refresh_traffic_keys().expect("new keys");
            assert!(server.sealer.upgrade().is_none(), "the old one went with its key");
        }
        server.flush().await.expect("writes");
        let mut got = vec![0; 3 * sent.len()];
        client.read_exact(&mut got).await.expect("all of it");
        assert!(got.chunks(sent.len()).all(|one| one == sent));
    }

    #[tokio::test]
    async fn keys_changed_beneath_a_handshake_are_not_its_own() {
        for suite in [suites::TLS13_AES_256_GCM_SHA384, suites::TLS13_CHACHA20_POLY1305_SHA256] {
            let (server, mut client) = pair(suites::TLS13_AES_256_GCM_SHA384, 8 << 20).await;
            let (acceptor, config) = parties(suite);
            let wanted = body(3 * RECORD);
            let serving = async {
                let (stream, sealer) = shaking(acceptor.accept(server)).await;
                let mut inside = Sealed::new(stream.expect("shakes hands"), sealer);
                inside.write_all(&wanted).await.expect("writes");
                inside.flush().await.expect("writes");
                // The tunnel stays as long as it is read from.
                inside
            };
            let asking = async {
                let mut inside = ClientConnection::new(config, localhost()).expect("a client");
                let mut got = vec![0; wanted.len()];
                let mut have = 0;
                while have < got.len() {
                    let mut sent = Vec::new();
                    while inside.wants_write() {
                        inside.write_tls(&mut sent).expect("is written to memory");
                    }
                    client.get_mut().1.refresh_traffic_keys().expect("new keys");
                    client.write_all(&sent).await.expect("writes");
                    client.flush().await.expect("writes");
                    let mut read = [0; 4096];
                    let len = client.read(&mut read).await.expect("reads");
                    let mut rest = &read[..len];
                    while !rest.is_empty() {
                        inside.read_tls(&mut rest).expect("is read from memory");
                        inside.process_new_packets().expect("records of this connection");
                        have += inside.reader().read(&mut got[have..]).unwrap_or(0);
                    }
                }
                got
            };
            let (_inside, got) = tokio::join!(serving, asking);
            assert!(got == wanted, "{suite:?}");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_small_writes_and_an_idle_connection_keeps_nothing() {
        let (mut server, mut client) = pair(suites::TLS13_AES_256_GCM_SHA384, 8 << 10).await;
        let sent = body(2 << 20);
        let mut first = server.write(&sent).await.expect("is taken");
        assert_eq!(first, LARGE);
        let mut got = vec![0; sent.len()];
        for _ in 0..3 {
            let reading = client.read_exact(&mut got[..first]);
            let (flushed, read) = tokio::join!(server.flush(), reading);
            flushed.expect("writes");
            read.expect("reads");
            assert_eq!(server.kept.bytes.capacity(), 0);
            first = server.write(&sent).await.expect("is taken");
            assert_eq!(first, SMALL);
            assert!(server.kept.bytes.len() <= room(SMALL));
        }
    }
}
