//! Documents that only grow: while upstream cannot be asked, the beginning of a later form that is stored stands in for
//! an earlier one that is not.

use std::sync::Arc;

use super::Inner;
use super::error::CacheError;
use super::served::{Ask, Part, Served};
use crate::index::catalog::PrefixAsk;
use crate::model::entry::Entry;
use crate::model::lookup::StandIn;
use crate::model::outcome::{Forwarded, Outcome};
use crate::model::range::ByteRange;
use crate::upstream::fetch::UpstreamError;

/// Later forms that are looked at.
const FORMS_MAX: usize = 300;

impl Inner {
    /// Answers in upstream's place.
    ///
    /// *Errors*: `error` when nothing can stand in.
    pub(super) async fn stand_in(self: &Arc<Inner>, ask: &Ask<'_>, error: UpstreamError) -> Result<Served, CacheError> {
        let Some(stand_in) = &ask.lookup.stand_in else { return Err(error.into()) };
        let key = super::terms::keyed(ask);
        let forms = self.index.by_prefix(PrefixAsk {
            scope: &key.scope,
            ecosystem: key.ecosystem,
            upstream: &key.upstream,
            prefix: &stand_in.prefix,
            from: "",
            limit: FORMS_MAX,
        });
        for entry in forms.await? {
            if entry.key.variant == key.variant
                && let Some(served) = self.beginning(&entry, stand_in).await?
            {
                tracing::info!(%key, %error, "upstream failed, the beginning of a later form stands in");
                return Ok(served);
            }
        }
        Err(error.into())
    }

    async fn beginning(self: &Arc<Inner>, entry: &Entry, stand_in: &StandIn) -> Result<Option<Served>, CacheError> {
        let Some(digest) = entry.body.filter(|_| entry.status == 200 && entry.len >= stand_in.bytes) else {
            return Ok(None);
        };
        let range = ByteRange { start: 0, end: stand_in.bytes };
        let Some((body, _)) = self.open(&digest, range).await? else { return Ok(None) };
        let mut headers = entry.headers.clone();
        // They name the later form.
        headers.remove(http::header::ETAG);
        headers.remove(http::header::LAST_MODIFIED);
        Ok(Some(Served {
            status: 200,
            headers,
            len: Some(stand_in.bytes),
            part: Part::Whole,
            body,
            outcome: Outcome::Stale,
            forwarded: Forwarded::default(),
            age: None,
            key: None,
            source: Some(entry.key.clone()),
            digest: None,
            fetch_ms: entry.fetch_ms,
        }))
    }
}
