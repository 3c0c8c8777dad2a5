//! What another larder asks of this one: what is kept under keys, and bytes by their digest (`proto/larder/node/v1`).
//!
//! Nothing here asks anybody else, so that larders which know each other cannot send a question around. A digest is not a
//! right: what is lent is what the public realm may read, to callers whom the gate lets read.
//!
//! *Source*: gRPC over HTTP/2, without compression. The status stands in trailers, or beside the head where no message
//! comes before it.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::front::{Answered, Front, Visit};
use super::mount::split_mount;
use super::reply::ReplyBody;
use super::upload::Upload;
use crate::cache::error::CacheError;
use crate::cache::lend::Part;
use crate::cache::served::ServedBody;
use crate::model::digest::Digest;
use crate::model::key::KeyHash;
use crate::model::node::{
    self, Code, DescribeRequest, DescribeResponse, FindRequest, FindResponse, Frames, ReadRequest,
};
use crate::model::outcome::Outcome;
use crate::model::range::ByteRange;
use crate::model::realm::Realm;

/// The largest question, in bytes.
const QUESTION_MAX_BYTES: usize = 16 << 10;

/// Why there is no answer.
struct Refused(Code, &'static str);

impl Refused {
    fn invalid(why: &'static str) -> Refused {
        Refused(Code::InvalidArgument, why)
    }
}

impl From<CacheError> for Refused {
    fn from(error: CacheError) -> Refused {
        tracing::warn!(%error, "a question of another larder failed");
        Refused(Code::Internal, "see the log there")
    }
}

/// Whether a path is of this service.
pub(super) fn is_node(path: &str) -> bool {
    split_mount(path).0 == node::SERVICE
}

impl Front {
    pub(super) async fn node(&self, visit: Visit<'_>, body: Upload<Incoming>) -> Answered {
        let response = self.node_answer(&visit, body).await;
        let response = response.unwrap_or_else(|Refused(code, why)| answered(code, why, ServedBody::Empty));
        Answered::made(response, Outcome::Generated, self.api_label())
    }

    async fn node_answer(&self, visit: &Visit<'_>, body: Upload<Incoming>) -> Result<Response<ReplyBody>, Refused> {
        if visit.version != Version::HTTP_2 || visit.method != Method::POST {
            return Err(Refused::invalid("this is gRPC: POST over HTTP/2"));
        }
        let body = Limited::new(body, QUESTION_MAX_BYTES).collect().await;
        let body = body.map_err(|_| Refused::invalid("the question broke off, or is too large"))?.to_bytes();
        let path = visit.uri.path();
        match path.strip_prefix('/').and_then(|path| path.strip_prefix(node::SERVICE)?.strip_prefix('/')) {
            Some(node::DESCRIBE) => {
                question::<DescribeRequest>(&body)?;
                Ok(one(&self.introduced()))
            }
            Some(node::FIND) => Ok(one(&self.find(&question(&body)?).await?)),
            Some(node::READ) => self.read(&question(&body)?).await,
            _ => Err(Refused(Code::Unimplemented, "no such method; this larder may be older than the one that asks")),
        }
    }

    fn introduced(&self) -> DescribeResponse {
        DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            region: self.region.clone(),
            key_form: node::KEY_FORM,
        }
    }

    async fn find(&self, asked: &FindRequest) -> Result<FindResponse, Refused> {
        if asked.keys.len() > node::KEYS_MAX {
            return Err(Refused::invalid("more than 64 keys"));
        }
        let keys: Option<Vec<KeyHash>> =
            asked.keys.iter().map(|key| Some(KeyHash(key.as_ref().try_into().ok()?))).collect();
        let keys = keys.ok_or(Refused::invalid("a key is 16 bytes"))?;
        Ok(FindResponse { found: self.cache.lendable(&keys, &[Realm::public()]).await? })
    }

    async fn read(&self, asked: &ReadRequest) -> Result<Response<ReplyBody>, Refused> {
        let digest = Digest::from_slice(&asked.digest).ok_or(Refused::invalid("a digest is 32 bytes"))?;
        let absent = Refused(Code::NotFound, "no such blob for this caller");
        let limit = Some(asked.limit).filter(|limit| *limit > 0).unwrap_or(u64::MAX);
        let range = ByteRange { start: asked.offset, end: asked.offset.saturating_add(limit) };
        match self.cache.lend(&digest, range, &[Realm::public()]).await? {
            Part::Absent => Err(absent),
            Part::Outside => Err(Refused::invalid("the offset is past the end")),
            Part::Here(body) => Ok(answered(Code::Ok, "", pieces(body))),
        }
    }
}

fn question<M: prost::Message + Default>(body: &[u8]) -> Result<M, Refused> {
    let mut frames = Frames::up_to(QUESTION_MAX_BYTES);
    frames.push(body);
    let message = frames.take().ok().flatten().filter(|_| frames.end().is_ok());
    message.ok_or(Refused::invalid("not one message of this method"))
}

/// The bytes of a blob, as messages.
fn pieces(mut body: ServedBody) -> ServedBody {
    let chunks = stream::poll_fn(move |context| body.poll_chunk(context));
    let framed = chunks.flat_map(|chunk| {
        let (mut chunk, error) = match chunk {
            Ok(chunk) => (chunk, None),
            Err(error) => (Bytes::new(), Some(error)),
        };
        let mut messages = Vec::with_capacity(2);
        while !chunk.is_empty() {
            let data = chunk.split_to(chunk.len().min(node::PIECE));
            messages.push(Ok(node::piece_head(data.len())));
            messages.push(Ok(data));
        }
        messages.extend(error.map(Err));
        stream::iter(messages)
    });
    ServedBody::Stream(framed.boxed())
}

fn one(message: &impl prost::Message) -> Response<ReplyBody> {
    answered(Code::Ok, "", ServedBody::Bytes(node::framed(message)))
}

/// An answer that ends with `code`.
fn answered(code: Code, why: &'static str, body: ServedBody) -> Response<ReplyBody> {
    let mut ending = HeaderMap::new();
    ending.insert(HeaderName::from_static(node::STATUS), HeaderValue::from(code as u16));
    if !why.is_empty() {
        ending.insert(HeaderName::from_static(node::MESSAGE), HeaderValue::from_static(why));
    }
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(node::CONTENT_TYPE));
    let mut response = match body {
        ServedBody::Empty => {
            let mut response = Response::new(ReplyBody::empty());
            *response.headers_mut() = ending;
            response
        }
        body => Response::new(ReplyBody::with_trailers(body, ending)),
    };
    response.headers_mut().extend([content_type]);
    response
}
