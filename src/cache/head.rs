//! HEAD where nothing fresh is stored: it passes through, and its answer speaks about what is stored.
//!
//! *Source*: RFC 9111 §4.3.5.

use std::sync::Arc;

use super::error::CacheError;
use super::policy::validate::{self, HeadSays};
use super::served::{Ask, Served};
use super::terms::head_of;
use super::{Inner, decide};
use crate::index::Ack;
use crate::index::catalog::Put;
use crate::index::record::Record;
use crate::model::entry::{Candidates, Entry};
use crate::model::outcome::{Outcome, Reason};

impl Inner {
    /// Passes a HEAD on; what is stored is freshened, marked as out of date, or stands in during an outage.
    pub(super) async fn relay_head(
        self: &Arc<Inner>,
        ask: &Ask<'_>,
        stored: &Candidates,
    ) -> Result<Served, CacheError> {
        let requested_at = self.clock.now();
        let relayed = self.relay(ask, Reason::Method).await;
        let head = head_of(ask);
        let Some(at) = decide::selected(&head, stored, &ask.lookup.freshness) else { return relayed };
        let entry = &stored[at];
        let received_at = self.clock.now();
        let failed = match &relayed {
            Ok(served) => decide::is_outage(served.status),
            Err(error) => matches!(error, CacheError::Upstream(_)),
        };
        if failed
            && decide::stale_if_error(entry, &ask.lookup.freshness, &head, received_at)
            && let Some(served) = self.from_store(ask, entry, Some(Outcome::Stale)).await?
        {
            return Ok(served);
        }
        let served = relayed?;
        let says = validate::head_says(entry, &head, served.status, &served.headers, requested_at, received_at);
        let entry = match says {
            HeadSays::Nothing => return Ok(served),
            HeadSays::Fresh(entry) => *entry,
            HeadSays::Outdated => Entry { valid: false, ..(**entry).clone() },
        };
        let put = Put { entry: Arc::new(entry), expected: None };
        self.index.record(Record { entries: vec![put], ..Record::default() }, Ack::Visible).await?;
        Ok(served)
    }
}
