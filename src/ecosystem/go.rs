//! Go
use crate::model::kind::ErrorKind;
use crate::model::lookup::{About, Answer, Rejection, Request, Route};

/// Go
pub struct Go;

impl super::Ecosystem for Go {
    fn about(&self) -> &'static About {
        &About { name: "go", title: "", spec: "", immutable: "", mutable: "", without_upstream: ErrorKind::Unavailable }
    }
    fn route(&self, _: &Request<'_>) -> Result<Route, Rejection> {
        Err(Rejection::not_found("nothing"))
    }
    fn error_body(&self, _: ErrorKind, _: &str) -> Answer {
        Answer { status: 500, content_type: "text/plain", headers: Vec::new(), body: bytes::Bytes::new() }
    }
}
