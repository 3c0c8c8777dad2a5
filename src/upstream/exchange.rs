//! One attempt: a request out, the head of its answer in, within a deadline. Knows no retries.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING};
use http::{Extensions, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use url::Url;

use super::fetch::{Ends, UpstreamError};
use super::headers::{HEAD_BYTES, head_bytes};
use super::network::Network;
use super::origin::{Origin, Scheme};
use super::payload::{Progress, SendBody};
use super::wire::{Proven, Reached};
use crate::model::hop;
use crate::model::lookup::Trust;

/// What to ask, but for the body.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) url: Url,
    pub(crate) origin: Origin,
    pub(crate) method: Method,
    /// As `headers::outgoing` made them.
    pub(crate) headers: HeaderMap,
    pub(crate) trust: Trust,
}

/// A head, and how the body behind it will end.
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    /// Hop-by-hop fields removed.
    pub(crate) headers: HeaderMap,
    pub(crate) len: Option<u64>,
    pub(crate) ends: Ends,
    /// None for answers that have no body by their nature.
    pub(crate) incoming: Option<Incoming>,
    pub(crate) reached: Option<IpAddr>,
}

/// Why there is no head.
pub(crate) struct Failed {
    pub(crate) error: UpstreamError,
    pub(crate) stale: Stale,
}

/// Whether a connection was at fault that had served before: the server may have closed it between two requests
/// (RFC 9112 §9.3.1), which says nothing about its health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stale {
    Yes,
    No,
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Failed {
        Failed { error, stale: Stale::No }
    }
}

/// Asks once.
///
/// *Errors*: `Refused`, `Unreachable`, `Silent`, `Untrusted`, `Protocol`, and what the sent body's source reports.
/// *Cancel*: the exchange is dropped, its connection closed or its stream reset.
pub(crate) async fn exchange(
    network: &Network,
    question: &Question,
    body: SendBody,
    progress: Option<Arc<Progress>>,
) -> Result<Head, Failed> {
    let request = request(network, question, body)?;
    // Refused before a connection in the pool could answer for it.
    network.dial.gate.judge(&question.origin.target, question.trust)?;
    let answer = network.pool(question.trust).request(request);
    let limit = match progress {
        None => network.settings.first_byte_deadline,
        Some(_) => network.settings.answer_deadline,
    };
    let host = question.origin.host();
    let answer = wait(answer, progress, limit)
        .await
        .ok_or_else(|| UpstreamError::Silent { host: host.clone(), limit })?
        .map_err(|error| failed(&host, &error))?;
    if let Some(proven) = answer.extensions().get::<Proven>() {
        proven.set();
    }
    Ok(head(network, question, answer)?)
}

/// Waits until nothing has moved for `limit`. None when time is up.
async fn wait<T>(answer: impl Future<Output = T>, progress: Option<Arc<Progress>>, limit: Duration) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut seen = Some(0);
    loop {
        if let Ok(answer) = tokio::time::timeout(limit, &mut answer).await {
            return Some(answer);
        }
        let mark = progress.as_ref()?.mark();
        if mark.is_some() && mark == seen {
            return None;
        }
        seen = mark;
    }
}

fn request(network: &Network, question: &Question, body: SendBody) -> Result<Request<SendBody>, UpstreamError> {
    let unfit =
        || UpstreamError::Refused { host: question.origin.host(), why: "the address cannot be sent".to_owned() };
    let uri: Uri = question.url.as_str().parse().map_err(|_| unfit())?;
    let mut headers = question.headers.clone();
    if question.trust == Trust::Configured
        && let Some((name, value)) = network.credentials.find(&question.origin)
        && !headers.contains_key(name)
    {
        headers.insert(name, value.clone());
    }
    if question.origin.scheme == Scheme::Http
        && let Some(proxy) = network.dial.proxies.route(&question.origin)
        && let Some(value) = &proxy.authorization
    {
        headers.insert(PROXY_AUTHORIZATION, value.clone());
    }
    // Some servers want a length even for nothing (RFC 9110 §8.6).
    if body.is_end_stream() && matches!(question.method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

fn head(network: &Network, question: &Question, answer: Response<Incoming>) -> Result<Head, UpstreamError> {
    let (mut parts, incoming) = answer.into_parts();
    let protocol = |why: &str| UpstreamError::Protocol { host: question.origin.host(), why: why.to_owned() };
    if head_bytes(&parts.headers) > HEAD_BYTES {
        return Err(protocol("its header fields are too large"));
    }
    match parts.status {
        StatusCode::SWITCHING_PROTOCOLS => return Err(protocol("it switched protocols unasked")),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            // To pass it on would ask the client for the credential it has for us.
            let plain = question.origin.scheme == Scheme::Http;
            return Err(match network.dial.proxies.route(&question.origin).filter(|_| plain) {
                Some(proxy) => UpstreamError::Unreachable {
                    host: proxy.target.host.to_string(),
                    why: "the proxy does not take our credential".to_owned(),
                },
                None => protocol("it asked for a proxy's credential"),
            });
        }
        _ => {}
    }
    // RFC 9110 §6.4.1: their Content-Length speaks of another body.
    let bodiless = question.method == Method::HEAD || matches!(parts.status.as_u16(), 204 | 304);
    let empty = bodiless || incoming.is_end_stream();
    let len = if empty { Some(0) } else { incoming.size_hint().exact() };
    let framed = parts.version == Version::HTTP_2 || len.is_some() || is_chunked(&parts.headers);
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 §6.3: the length is overridden, and whoever relied on it would be misled.
        parts.headers.remove(CONTENT_LENGTH);
    }
    hop::strip(&mut parts.headers);
    Ok(Head {
        status: parts.status,
        version: parts.version,
        headers: parts.headers,
        len,
        ends: if framed { Ends::Marked } else { Ends::OnClose },
        incoming: if empty { None } else { Some(incoming) },
        reached: parts.extensions.get::<Reached>().and_then(|reached| reached.0),
    })
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let last = headers.get_all(TRANSFER_ENCODING).iter().next_back().and_then(|value| value.to_str().ok());
    last.and_then(|value| value.rsplit(',').next()).is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
}

fn failed(host: &str, error: &legacy::Error) -> Failed {
    let mut extras = Extensions::new();
    if let Some(connection) = error.connect_info() {
        connection.get_extras(&mut extras);
    }
    let error = failure(host, error);
    let closed = matches!(error, UpstreamError::Unreachable { .. });
    let stale = if closed && extras.get::<Proven>().is_some_and(Proven::is_set) { Stale::Yes } else { Stale::No };
    Failed { error, stale }
}

/// What hyper's error means. Errors of the connector and of the sent body's source come through as they were.
fn failure(host: &str, error: &legacy::Error) -> UpstreamError {
    if let Some(ours) = find::<UpstreamError>(error) {
        return ours.clone();
    }
    let host = host.to_owned();
    match find::<hyper::Error>(error) {
        Some(cause) if cause.is_parse() || cause.is_parse_too_large() => {
            UpstreamError::Protocol { host, why: cause.to_string() }
        }
        Some(cause) if cause.is_incomplete_message() => {
            UpstreamError::Unreachable { host, why: "it closed the connection without an answer".to_owned() }
        }
        Some(cause) => UpstreamError::Unreachable { host, why: describe(cause) },
        None => UpstreamError::Unreachable { host, why: describe(error) },
    }
}

/// The message of an error and of what is behind it, once each.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// The first `T` in a chain of causes.
pub(crate) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
