//! A connection within a tunnel: what a mount asks of the server that carries the tunnel, and what it tells it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, Uri, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::BoxFuture;
use super::hosts::without_port;

/// The server, as far as it looks into tunnels. It is among the extensions of each CONNECT.
pub trait TunnelServer: Send + Sync {
    /// Looks at what a client begins with. Nothing of it is lost.
    fn look(&self, io: Upgraded) -> BoxFuture<'_, (Opening, Replayed)>;

    /// Serves what comes through the tunnel like any connection, by the mount that made the tunnel.
    ///
    /// *Cancel*: the connection is cut.
    fn serve(&self, io: Replayed, inside: Arc<Inside>) -> BoxFuture<'_, Reception>;
}

/// What a client begins with in a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// A TLS handshake for this name; `speaks_http`: it would be content with a version of HTTP, and with what we have.
    Tls { name: Option<String>, speaks_http: bool },
    /// HTTP in the clear; `upgrades`: it asks for something else at once.
    Http { upgrades: bool },
    /// Something else, or nothing for a while.
    Other,
    /// The end.
    Nothing,
}

/// What became of a connection within a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reception {
    /// There were requests, or it was us who ended it.
    Whole,
    /// The client said that it does not take our certificate.
    Distrusted { alert: String },
    /// The client left after it saw our certificate and before it asked for anything.
    Left,
    /// There was no handshake for another reason.
    Failed { why: String },
}

/// Whose inside a connection is.
pub struct Inside {
    is_tls: bool,
    host: Box<str>,
    port: u16,
    base: Box<str>,
    /// What told of the CONNECT who asks.
    heeded: HeaderMap,
}

impl Inside {
    /// *Shape*: `host` in lower case, an IPv6 address between brackets.
    pub(super) fn new(is_tls: bool, host: &str, port: u16, heeded: HeaderMap) -> Inside {
        let (scheme, usual) = if is_tls { ("https", 443) } else { ("http", 80) };
        let base = if port == usual { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") };
        Inside { is_tls, host: host.into(), port, base: base.into(), heeded }
    }

    /// The name or address that is vouched for. None: TLS is not spoken.
    pub fn vouched(&self) -> Option<&str> {
        self.is_tls.then(|| self.host.trim_start_matches('[').trim_end_matches(']'))
    }

    /// `https://HOST`, with its port where that is not the usual one.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn heeded(&self) -> &HeaderMap {
        &self.heeded
    }

    /// Whether a request is for the host that the tunnel leads to.
    pub(super) fn agrees<B>(&self, request: &Request<B>) -> bool {
        let uri = request.uri();
        let is_path = request.method() != Method::CONNECT && uri.path().starts_with('/');
        let scheme = uri.scheme_str().is_none_or(|scheme| self.base.split(':').next() == Some(scheme));
        let authority = uri.authority().is_none_or(|authority| self.is_named(authority.as_str()));
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.all(|host| host.to_str().is_ok_and(|host| self.is_named(host)));
        is_path && scheme && authority && host
    }

    fn is_named(&self, authority: &str) -> bool {
        let host = without_port(authority);
        let port = match authority[host.len()..].strip_prefix(':') {
            Some(port) => port.parse().ok(),
            None => Some(if self.is_tls { 443 } else { 80 }),
        };
        host.eq_ignore_ascii_case(&self.host) && port == Some(self.port)
    }

    /// Makes a path the whole address that it stands for.
    pub(super) fn complete(&self, uri: &mut Uri) {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // One that cannot be written so was none before.
        if let Ok(whole) = Uri::try_from(format!("{}{path}", self.base)) {
            *uri = whole;
        }
    }
}

/// A stream of which something was read ahead.
pub struct Replayed {
    first: Bytes,
    io: TokioIo<Upgraded>,
}

impl Replayed {
    pub fn new(first: Bytes, io: TokioIo<Upgraded>) -> Replayed {
        Replayed { first, io }
    }
}

impl AsyncRead for Replayed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let len = this.first.len().min(buf.remaining());
        buf.put_slice(&this.first[..len]);
        this.first.advance(len);
        if this.first.is_empty() {
            this.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, host: Option<&str>) -> Request<()> {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn only_the_host_of_the_tunnel_is_asked_within_it() {
        let usual = Inside::new(true, "a.example", 443, HeaderMap::new());
        for (uri, host) in [
            ("/x", Some("a.example")),
            ("/x", Some("A.EXAMPLE:443")),
            ("https://a.example/x", None),
            ("https://a.example/x", Some("a.example")),
            ("/", None),
        ] {
            assert!(usual.agrees(&asked(uri, host)), "{uri} {host:?}");
        }
        for (uri, host) in [
            ("/x", Some("b.example")),
            ("/x", Some("a.example:80")),
            ("/x", Some("a.example:8443")),
            ("/x", Some("a.example:")),
            ("/x", Some("u@a.example")),
            ("http://a.example/x", None),
            ("https://b.example/x", None),
            ("https://a.example/x", Some("b.example")),
            ("https://u@a.example/x", None),
        ] {
            assert!(!usual.agrees(&asked(uri, host)), "{uri} {host:?}");
        }
        let odd = Inside::new(false, "[::1]", 8080, HeaderMap::new());
        assert!(odd.agrees(&asked("/x", Some("[::1]:8080"))) && !odd.agrees(&asked("/x", Some("[::1]"))));
        assert_eq!((odd.base(), odd.vouched()), ("http://[::1]:8080", None));
        assert_eq!(Inside::new(true, "[::1]", 443, HeaderMap::new()).vouched(), Some("::1"));
        assert!(!usual.agrees(&Request::options("*").body(()).expect("a request")));
        assert!(!usual.agrees(&Request::connect("a.example:443").body(()).expect("a request")));
    }

    #[test]
    fn a_path_becomes_a_whole_address() {
        let inside = Inside::new(true, "a.example", 8443, HeaderMap::new());
        for (path, whole) in [
            ("/x?y=1", "https://a.example:8443/x?y=1"),
            ("https://A.example:8443/x", "https://a.example:8443/x"),
            ("/https/b.example/", "https://a.example:8443/https/b.example/"),
        ] {
            let mut uri = path.parse().expect("an address");
            inside.complete(&mut uri);
            assert_eq!(uri.to_string(), whole);
        }
    }
}
