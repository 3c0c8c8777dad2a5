//! Asking the places where a thing may be had, one after the other, as each allows going on to the next.
//!
//! An absence is told only when every place that was asked said so: where one of them failed, that failure is the
//! answer, since the thing may well be there. Go's own rule for GOPROXY lists is the same.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode};

use super::Inner;
use crate::model::key::Key;
use crate::model::lookup::{Fallback, Origin};
use crate::model::party::Party;
use crate::upstream::fetch::{FetchAsk, FetchBody, Fetched, Redirects, Resume, UpstreamError};

/// What each of them is asked.
#[derive(Clone)]
pub(super) struct Question {
    pub method: Method,
    pub headers: HeaderMap,
    pub redirects: Redirects,
    pub party: Party,
    /// What is asked for.
    pub cause: Arc<Key>,
}

impl Question {
    pub fn to(&self, origin: &Origin) -> FetchAsk {
        FetchAsk {
            method: self.method.clone(),
            url: origin.url.clone(),
            headers: self.headers.clone(),
            body: FetchBody::Empty,
            trust: origin.trust,
            resume: Resume::ByRange,
            redirects: self.redirects,
            party: self.party.clone(),
            cause: Some(self.cause.clone()),
        }
    }
}

impl Inner {
    /// The first good answer; else the last failure; else the absence.
    pub(super) async fn ask_in_turn(
        &self,
        origins: &[Origin],
        question: &Question,
    ) -> Result<(Fetched, Origin), UpstreamError> {
        let (mut failure, mut absence) = (None, None);
        for origin in origins {
            let fetched = self.fetch.fetch(question.to(origin)).await;
            let worth = worth(&fetched);
            let answer = fetched.map(|fetched| (fetched, origin.clone()));
            match worth {
                Worth::Good => return answer,
                Worth::Absence => absence = Some(answer),
                Worth::Failure => {
                    failure = Some(answer);
                    if origin.next == Fallback::OnAbsence {
                        break;
                    }
                }
            }
        }
        failure.or(absence).unwrap_or(Err(UpstreamError::Offline))
    }
}

enum Worth {
    Good,
    /// A definite one.
    Absence,
    Failure,
}

fn worth(fetched: &Result<Fetched, UpstreamError>) -> Worth {
    match fetched {
        Ok(fetched) if is_absence(fetched.status) => Worth::Absence,
        Ok(fetched) if fetched.status.is_success() || fetched.status.is_redirection() => Worth::Good,
        Ok(_) | Err(_) => Worth::Failure,
    }
}

fn is_absence(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}
