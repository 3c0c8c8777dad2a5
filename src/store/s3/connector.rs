//! The SDK's way out: it signs and reads XML, larder opens the connections. So S3 is reached through the egress gate
//! and our TLS like any upstream, and the SDK brings no HTTP client, no TLS and no second crypto provider.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{HttpClient, RuntimeComponents};
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, ready};
use http_body_util::BodyExt;

use super::cost::{Meter, RequestKind};

/// Sends one HTTP request, once. The composition root makes it of the upstream client.
pub trait Exchange: Send + Sync + 'static {
    /// Answers once the head is there; a response of any status is Ok.
    fn exchange(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Answer>, NoAnswer>>;
}

/// The body of an answer.
pub type Answer = Pin<Box<dyn Stream<Item = Result<Bytes, NoAnswer>> + Send + Sync>>;

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoAnswer {
    pub why: String,
    pub again: Again,
}

/// Whether the same request may be answered when it is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    MayHelp,
    /// A policy, a setting or a certificate stands in the way.
    Helpless,
}

/// What the SDK takes for an HTTP client.
#[derive(Clone)]
pub(super) struct Connector {
    exchange: Arc<dyn Exchange>,
    /// None: what is asked is on no bill.
    meter: Option<Arc<Meter>>,
}

impl Connector {
    pub fn new(exchange: Arc<dyn Exchange>, meter: Option<Arc<Meter>>) -> Connector {
        Connector { exchange, meter }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Connector")
    }
}

impl HttpClient for Connector {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move { connector.send(request).await })
    }
}

impl Connector {
    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = request.into_parts();
        // What is sent is in memory already: a slice, no copy.
        let body = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
        if let Some(meter) = &self.meter {
            meter.count(RequestKind::of(&parts.method, parts.uri.query().unwrap_or_default()), body.len() as u64);
        }
        let answer = self.exchange.exchange(http::Request::from_parts(parts, body)).await;
        let answer = answer.map_err(|no| match no.again {
            Again::MayHelp => ConnectorError::io(no.into()),
            Again::Helpless => ConnectorError::user(no.into()),
        })?;
        let meter = self.meter;
        let answer = answer.map(|body| SdkBody::from_body_1_x(Metered { body, meter }));
        HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
    }
}

struct Metered {
    body: Answer,
    meter: Option<Arc<Meter>>,
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = NoAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, NoAnswer>>> {
        let this = self.get_mut();
        let next = ready!(this.body.as_mut().poll_next(context));
        if let (Some(Ok(bytes)), Some(meter)) = (&next, &this.meter) {
            meter.received(bytes.len() as u64);
        }
        Poll::Ready(next.map(|bytes| bytes.map(http_body::Frame::data)))
    }
}
