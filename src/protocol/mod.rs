//! One file per conversation; beside them the gate, the reply and the status table. Touches no store, index or upstream.

mod again;
pub mod api;
mod connect;
mod credential;
mod enter;
mod form;
mod forward;
pub mod front;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod gate;
pub mod generation;
mod grants;
pub mod hop;
pub mod hosts;
mod inside;
pub mod intercept;
pub mod label;
mod ledger;
mod mount;
mod node;
pub mod observe;
pub mod owner;
pub mod package;
mod page;
pub mod parent;
mod recognised;
pub mod reply;
mod status;
pub mod target;
pub mod token;
pub mod upload;

use std::future::{Future, Ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::Either;

pub use self::again::{Fields, Packages, Repeated};
pub use self::inside::{Inside, Opening, Reception, Replayed, TunnelServer};

/// Who sent a request, as far as the connection tells.
#[derive(Clone)]
pub struct Peer {
    pub addr: SocketAddr,
    /// The address of ours that was connected to.
    pub local: SocketAddr,
    pub tls: bool,
    pub http2: bool,
    /// The tunnel of ours that the connection goes through.
    pub inside: Option<Arc<Inside>>,
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An answer that is there, or one that is waited for. Most are there: they need no future on the heap.
pub type Answering<'a> =
    Either<Ready<http::Response<reply::ReplyBody>>, BoxFuture<'a, http::Response<reply::ReplyBody>>>;

/// Answers requests. The server knows one; which conversation a request belongs to is decided behind it.
///
/// *Shape*: who makes a tunnel of a request keeps its extensions until the tunnel ends.
/// *Cancel*: the future is dropped when the client hangs up.
pub trait Mount: Send + Sync + 'static {
    fn serve<'a>(&'a self, request: http::Request<hyper::body::Incoming>, peer: &'a Arc<Peer>) -> Answering<'a>;

    /// Judges the head of an HTTP/1.1 request for `again`. None: requests with such fields are for `serve` alone.
    fn acquaint(&self, _head: &[u8], _peer: &Peer) -> Option<Fields> {
        None
    }

    /// The whole answer to a request for `target` with fields that `acquaint` judged for the same peer, if `serve` gave
    /// it before and would again. None: `serve` has to be asked.
    fn again(&self, _target: &str, _fields: &mut Fields, _peer: &Peer) -> Option<Repeated> {
        None
    }

    /// An answer of `again` has ended after so many bytes of its body.
    fn sent_again(&self, _answer: &Repeated, _peer: &Peer, _bytes: u64) {}
}
