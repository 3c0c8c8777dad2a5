//! Opens wires: through the gate, perhaps through an outbound proxy, perhaps with TLS. hyper's pool calls it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{HOST, PROXY_AUTHORIZATION, VIA};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use super::fetch::UpstreamError;
use super::gate::Gate;
use super::headers::Node;
use super::origin::{Origin, Scheme, Target};
use super::proxy::{Proxies, Proxy};
use super::tls::{Offer, Tls};
use super::wire::{Reached, Spoken, Tunnel, Wire};
use crate::model::lookup::Trust;
use crate::runtime::tasks::Tasks;

/// All that is needed to open a wire.
pub(crate) struct Dial {
    pub(crate) gate: Gate,
    pub(crate) proxies: Proxies,
    pub(crate) tls: Tls,
    pub(crate) node: Node,
    pub(crate) tasks: Tasks,
    pub(crate) handshake_deadline: Duration,
    /// For a proxy's answer to CONNECT: it connects in its turn.
    pub(crate) tunnel_deadline: Duration,
}

/// What a proxy says to CONNECT.
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// None: it refuses.
    pub(crate) tunnel: Option<Tunnel>,
}

/// A `Dial` for hosts that `trust` named. Each trust has its own pool: a connection to a private address that a
/// configured upstream may use is never lent to a request whose host a client named.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) dial: Arc<Dial>,
    pub(crate) trust: Trust,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Wire;
    type Error = UpstreamError;
    type Future = BoxFuture<'static, Result<Wire, UpstreamError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Connector { dial, trust } = self.clone();
        Box::pin(async move {
            let origin = origin(&uri).ok_or_else(|| UpstreamError::Refused {
                host: uri.host().unwrap_or_default().to_owned(),
                why: "the address names no http or https host".into(),
            })?;
            dial.wire(&origin, trust).await
        })
    }
}

fn origin(uri: &Uri) -> Option<Origin> {
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let target = Target::parse(uri.host()?, uri.port_u16().unwrap_or(scheme.default_port()))?;
    Some(Origin { scheme, target })
}

impl Dial {
    /// Whether a way to `origin` may be opened, without opening one.
    pub(crate) async fn judge(&self, origin: &Origin, trust: Trust) -> Result<(), UpstreamError> {
        match self.proxies.route(origin) {
            None => self.gate.passed(&origin.target, trust).await.map(drop),
            Some(_) => self.gate.judge_for_proxy(&origin.target, trust).await,
        }
    }

    /// A wire on which HTTP is spoken with `origin`.
    async fn wire(&self, origin: &Origin, trust: Trust) -> Result<Wire, UpstreamError> {
        let proxy = self.proxies.route(origin);
        match (origin.scheme, proxy) {
            (Scheme::Http, None) => {
                let (io, reached) = self.direct(&origin.target, trust).await?;
                Ok(Wire::new(io, Spoken::Http1, reached))
            }
            (Scheme::Http, Some(proxy)) => {
                self.gate.judge_for_proxy(&origin.target, trust).await?;
                Ok(Wire::new(self.proxy_io(proxy).await?, Spoken::ToProxy, Reached(None)))
            }
            (Scheme::Https, _) => {
                let (io, reached) = self.tunnel(origin, trust).await?;
                let (io, http2) = self.handshake(Offer::Web, &origin.target, io).await?;
                Ok(Wire::new(Box::new(io), if http2 { Spoken::Http2 } else { Spoken::Http1 }, reached))
            }
        }
    }

    /// Plain bytes to `origin`'s host and port, through the proxy that its scheme uses.
    pub(crate) async fn tunnel(&self, origin: &Origin, trust: Trust) -> Result<(Tunnel, Reached), UpstreamError> {
        match self.proxies.route(origin) {
            None => self.direct(&origin.target, trust).await,
            Some(proxy) => {
                self.gate.judge_for_proxy(&origin.target, trust).await?;
                let io = self.proxy_io(proxy).await?;
                Ok((self.ask_tunnel(io, proxy, &origin.target).await?, Reached(None)))
            }
        }
    }

    async fn direct(&self, target: &Target, trust: Trust) -> Result<(Tunnel, Reached), UpstreamError> {
        let io = self.gate.connect(target, trust).await?;
        let reached = Reached(io.peer_addr().ok().map(|peer| peer.ip().to_canonical()));
        Ok((Box::new(io), reached))
    }

    /// The same through a proxy that is not the settings', which is shown `fields` too.
    pub(crate) async fn tunnel_by(
        &self,
        proxy: &Proxy,
        fields: HeaderMap,
        target: &Target,
    ) -> Result<Said, UpstreamError> {
        let io = self.proxy_io(proxy).await?;
        self.asked_tunnel(io, proxy, fields, target).await
    }

    async fn proxy_io(&self, proxy: &Proxy) -> Result<Tunnel, UpstreamError> {
        // The operator named it, so it may be private; it is still judged.
        let io: Tunnel = Box::new(self.gate.connect(&proxy.target, Trust::Configured).await?);
        match proxy.scheme {
            Scheme::Http => Ok(io),
            Scheme::Https => Ok(Box::new(self.handshake(Offer::Proxy, &proxy.target, io).await?.0)),
        }
    }

    async fn handshake(
        &self,
        offer: Offer,
        target: &Target,
        io: Tunnel,
    ) -> Result<(impl super::wire::Duplex + use<>, bool), UpstreamError> {
        let limit = self.handshake_deadline;
        let handshake = tokio::time::timeout(limit, self.tls.handshake(offer, target, io)).await;
        handshake.unwrap_or_else(|_| Err(UpstreamError::Silent { host: target.host.to_string(), limit }))
    }

    /// CONNECT (RFC 9110 §9.3.6). Challenges are never answered: the credential goes along or the proxy says no.
    async fn ask_tunnel(&self, io: Tunnel, proxy: &Proxy, target: &Target) -> Result<Tunnel, UpstreamError> {
        let unreachable = |why: String| UpstreamError::Unreachable { host: proxy.target.host.to_string(), why };
        let said = self.asked_tunnel(io, proxy, HeaderMap::new(), target).await?;
        said.tunnel.ok_or_else(|| match said.status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => unreachable("the proxy does not take our credential".into()),
            status => unreachable(format!("the proxy answered {status} for {}", target.host)),
        })
    }

    async fn asked_tunnel(
        &self,
        io: Tunnel,
        proxy: &Proxy,
        fields: HeaderMap,
        target: &Target,
    ) -> Result<Said, UpstreamError> {
        let unreachable = |why: String| UpstreamError::Unreachable { host: proxy.target.host.to_string(), why };
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(target.to_string())
            .header(HOST, target.to_string())
            .header(VIA, self.node.via());
        if let Some(authorization) = &proxy.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let mut request = request.body(Empty::<Bytes>::new()).map_err(|error| unreachable(error.to_string()))?;
        request.headers_mut().extend(fields);
        let ask = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
            self.tasks.spawn("proxy tunnel", async move {
                // The asker sees a failure as the end of its exchange.
                let _ = connection.with_upgrades().await;
            });
            sender.send_request(request).await
        };
        let limit = self.tunnel_deadline;
        let mut answer = tokio::time::timeout(limit, ask)
            .await
            .map_err(|_| UpstreamError::Silent { host: proxy.target.host.to_string(), limit })?
            .map_err(|error| unreachable(error.to_string()))?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        if !status.is_success() {
            return Ok(Said { status, headers, tunnel: None });
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| unreachable(error.to_string()))?;
        Ok(Said { status, headers, tunnel: Some(Box::new(TokioIo::new(upgraded))) })
    }
}
