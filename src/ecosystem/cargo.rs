//! Cargo
use crate::model::kind::ErrorKind;
use crate::model::lookup::{About, Answer, Rejection, Request, Route};

/// Cargo
pub struct Cargo;

impl super::Ecosystem for Cargo {
    fn about(&self) -> &'static About {
        &About {
            name: "cargo",
            title: "",
            spec: "",
            immutable: "",
            mutable: "",
            without_upstream: ErrorKind::Unavailable,
        }
    }
    fn route(&self, _: &Request<'_>) -> Result<Route, Rejection> {
        Err(Rejection::not_found("nothing"))
    }
    fn error_body(&self, _: ErrorKind, _: &str) -> Answer {
        Answer { status: 500, content_type: "text/plain", headers: Vec::new(), body: bytes::Bytes::new() }
    }
}
