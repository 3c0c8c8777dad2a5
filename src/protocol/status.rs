//! The only place that picks a status for a failure. A failure is never turned into an absence.

use std::time::Duration;

use http::StatusCode;

use crate::cache::error::{Blame, CacheError};
use crate::model::kind::ErrorKind;
use crate::model::outcome::{Outcome, Reason};

/// The status for a kind of failure of ours.
pub(super) fn of_kind(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Busy | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt => StatusCode::BAD_GATEWAY,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What the client is told of a failure of the engine: status, text, pause before the next try.
pub(super) struct Verdict {
    pub status: StatusCode,
    pub kind: ErrorKind,
    pub outcome: Outcome,
    pub why: String,
    pub retry_after: Option<Duration>,
}

/// Judges a failure. The text names hosts that the client named itself, and no path or address of ours.
pub(super) fn of_error(error: &CacheError) -> Verdict {
    let kind = error.kind();
    let (status, reason) = match error.blame() {
        Blame::Upstream => (StatusCode::BAD_GATEWAY, Reason::Upstream),
        Blame::UpstreamSilent => (StatusCode::GATEWAY_TIMEOUT, Reason::Upstream),
        Blame::Load => (StatusCode::SERVICE_UNAVAILABLE, Reason::Upstream),
        Blame::Offline => (StatusCode::GATEWAY_TIMEOUT, Reason::Offline),
        Blame::Policy => (StatusCode::FORBIDDEN, Reason::Denied),
        Blame::Request | Blame::Remote | Blame::Ours => (of_kind(kind), Reason::Upstream),
    };
    let why = match error.blame() {
        Blame::Ours => "larder failed; its log says why".to_owned(),
        Blame::Remote => {
            "the bytes are kept in S3 alone, which larder cannot read now; see larder doctor there".to_owned()
        }
        Blame::Offline => "larder may not ask upstream, and nothing usable is stored".to_owned(),
        Blame::Upstream | Blame::UpstreamSilent | Blame::Load | Blame::Policy | Blame::Request => error.to_string(),
    };
    Verdict { status, kind, outcome: Outcome::Bypass(reason), why, retry_after: error.retry_after() }
}
