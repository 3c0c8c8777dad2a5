//! Where a request says which build it belongs to.

use std::sync::Arc;

use http::{HeaderMap, Uri, header};

use super::gate::{Caller, NO_LABEL, label_of};

/// Takes a build label out of a path, for clients that can carry it nowhere else: `/~LABEL/go/...`.
pub(super) fn take_path_label(uri: &mut Uri) -> Option<Arc<str>> {
    let (label, rest) = split_label(uri.path_and_query()?.as_str())?;
    let label = Arc::from(label_of(label)?);
    *uri = Uri::try_from(rest).ok()?;
    Some(label)
}

/// A target's build label, as written, and what follows it.
pub(super) fn split_label(target: &str) -> Option<(&str, &str)> {
    let rest = target.strip_prefix("/~")?;
    Some(rest.split_at(rest.find('/')?))
}

/// The build label at the end of a User-Agent, for clients whose User-Agent can be set: `cargo larder/LABEL`.
pub(super) fn agent_label(headers: &HeaderMap) -> Option<Arc<str>> {
    let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
    let (_, label) = agent.rsplit_once(" larder/")?;
    label_of(label).map(Arc::from)
}

/// The build that a caller named; None for the label that all others share.
pub(super) fn build_label(caller: &Caller) -> Option<Arc<str>> {
    (&*caller.label != NO_LABEL).then(|| caller.label.clone())
}
