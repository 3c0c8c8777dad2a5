//! Entry for the fuzz targets: what framing lets through, hyper must cut into the same requests. Where two readers of
//! one connection disagree about where a body ends, a request can be smuggled past one of them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::{Framing, State};

const HEAD_BYTES: usize = 4 << 10;

/// A request that was read to its end: the bytes of its body, without the framing of chunks.
type Ended = usize;

/// Compares the two readers. How the bytes are cut must not matter either.
pub fn framing(bytes: &[u8]) {
    let allowed = Framing::new(HEAD_BYTES).scan(bytes).map_or_else(|allowed| allowed, |()| bytes.len());
    let (ours, passed) = followed(bytes);
    assert!(allowed <= passed, "whole: {allowed}, byte by byte: {passed}");
    let theirs = understood(&bytes[..allowed]);
    assert!(ours.starts_with(&theirs), "framing saw {ours:?}, hyper {theirs:?}");
}

/// The requests as framing sees them, and how many bytes it let through one by one.
fn followed(bytes: &[u8]) -> (Vec<Ended>, usize) {
    let mut framing = Framing::new(HEAD_BYTES);
    let (mut ended, mut body) = (Vec::new(), 0);
    for (at, byte) in bytes.iter().enumerate() {
        let before = framing.state;
        if framing.scan(std::slice::from_ref(byte)).is_err() {
            return (ended, at);
        }
        body += usize::from(matches!(before, State::Body { .. } | State::Chunk { .. }));
        let is_end = match framing.state {
            State::RequestLine => matches!(before, State::Fields | State::Body { .. }),
            State::Last | State::Tunnel => framing.state != before,
            _ => false,
        };
        if is_end {
            ended.push(std::mem::take(&mut body));
        }
    }
    (ended, bytes.len())
}

/// The requests as hyper sees them, up to the first that it refuses or that is cut off.
fn understood(bytes: &[u8]) -> Vec<Ended> {
    let ended = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let ended = ended.clone();
        async move {
            if let Ok(body) = request.into_body().collect().await {
                ended.borrow_mut().push(body.to_bytes().len());
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let io = TokioIo::new(tokio::io::join(bytes, tokio::io::sink()));
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The end of the bytes is not the end of the connection: what was pipelined is answered.
    let served = builder.header_read_timeout(None).half_close(true).serve_connection(io, service);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // What hyper refuses is no finding: then nobody is misled.
    let _ = runtime.block_on(served);
    ended.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readers_see_whole_requests() {
        let length = b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for (bytes, ended) in [(&length[..], &[3, 0][..]), (chunked, &[3]), (&chunked[..60], &[])] {
            assert_eq!((followed(bytes), understood(bytes)), ((ended.to_vec(), bytes.len()), ended.to_vec()));
        }
    }
}
