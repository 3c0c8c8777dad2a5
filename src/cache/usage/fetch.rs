//! Fetches, counted where they leave the engine: whatever is fetched, and whoever waits for it, stands in the ledger.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use url::Url;

use super::{Row, Usage};
use crate::model::key::Key;
use crate::model::lookup::Trust;
use crate::model::outcome::{Outcome, Reason};
use crate::model::usage::NONE;
use crate::upstream::fetch::{Carrier, Fetch, FetchAsk, Fetched, Opened, Tunnel, TunnelAsk, UpstreamError};

/// The way upstream, with a meter on it.
pub(in crate::cache) struct Metered {
    pub inner: Arc<dyn Fetch>,
    pub usage: Arc<Usage>,
}

impl Metered {
    fn meter(&self, build: Option<&str>, cause: Option<&Key>, host: &str, reached: Option<IpAddr>) -> Arc<AtomicU64> {
        self.usage.fetching(&Row {
            day: 0,
            label: build.unwrap_or(NONE),
            ecosystem: cause.map_or(NONE, |key| key.ecosystem),
            upstream: cause.map_or(host, |key| &key.upstream),
            scope: cause.map_or(NONE, |key| key.scope.as_str()),
            tier: Outcome::Miss.tier(),
            link: self.usage.in_force.load().links.of(host, reached),
        })
    }
}

impl Fetch for Metered {
    fn fetch(&self, ask: FetchAsk) -> BoxFuture<'_, Result<Fetched, UpstreamError>> {
        let (cause, party) = (ask.cause.clone(), ask.party.clone());
        Box::pin(async move {
            let fetched = self.inner.fetch(ask).await?;
            let host = fetched.url.host_str().unwrap_or_default();
            let meter = self.meter(party.build(), cause.as_deref(), host, fetched.reached);
            Ok(Fetched { body: fetched.body.metered(meter), ..fetched })
        })
    }

    fn tunnel<'a>(&'a self, ask: TunnelAsk<'a>) -> BoxFuture<'a, Result<Opened, UpstreamError>> {
        Box::pin(async move {
            let opened = self.inner.tunnel(ask).await?;
            match opened.carrier {
                Carrier::Ourselves => {}
                // It counts the tunnel, or what is asked in it.
                Carrier::Parent => return Ok(opened),
            }
            let received = self.usage.fetching(&Row {
                day: 0,
                label: ask.party.build().unwrap_or(NONE),
                ecosystem: "tunnel",
                upstream: ask.host,
                scope: NONE,
                tier: Outcome::Bypass(Reason::Tunnel).tier(),
                link: self.usage.in_force.load().links.of(ask.host, opened.reached),
            });
            Ok(Opened { io: Box::new(MeteredTunnel { io: opened.io, received }), ..opened })
        })
    }

    fn judge<'a>(&'a self, url: &'a Url, trust: Trust) -> BoxFuture<'a, Result<(), UpstreamError>> {
        self.inner.judge(url, trust)
    }

    fn bytes_around_parent(&self, build: &str) -> u64 {
        self.inner.bytes_around_parent(build)
    }
}

/// A tunnel that counts what comes out of it.
struct MeteredTunnel {
    io: Tunnel,
    received: Arc<AtomicU64>,
}

impl AsyncRead for MeteredTunnel {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        this.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredTunnel {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
