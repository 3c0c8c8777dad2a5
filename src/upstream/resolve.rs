//! Names to addresses. A trait because tests flip the answers between two questions.

use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;

/// Looks a name up. The gate judges what comes back and connects to nothing else.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, in the order to try them. The caller sets the deadline.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver (files, DNS, what nsswitch says), on tokio's blocking pool.
pub struct SystemResolver;

/// More addresses than this of one name are not tried.
pub(crate) const ADDRESSES: usize = 16;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.take(ADDRESSES).collect()) })
    }
}
