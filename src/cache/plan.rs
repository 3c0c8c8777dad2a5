//! What a fill is to do, and that its end is told.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::Inner;
use super::coalesce::{Flight, FlightId, Stage};
use super::error::CacheError;
use super::policy::ask::AskHead;
use super::served::Ask;
use super::terms::{ask_head, redirects, upstream_fields};
use crate::model::entry::{Candidates, Entry};
use crate::model::key::{Key, KeyHash};
use crate::model::lookup::{Freshness, Lookup};
use crate::model::party::Party;
use crate::model::place::Class;
use crate::model::realm::Realm;
use crate::upstream::fetch::Redirects;

/// All that a fill needs; it outlives the request that started it.
pub(super) struct FillPlan {
    pub lookup: Lookup,
    pub key: Arc<Key>,
    pub id: FlightId,
    /// The client's method and fields: storing depends on them.
    pub method: Method,
    pub client_headers: HeaderMap,
    /// What goes upstream: fields of the key, or of `Vary`.
    pub request: HeaderMap,
    /// The stored answer to be confirmed, and the conditions that ask for it.
    pub confirm: Option<(Arc<Entry>, HeaderMap)>,
    pub stored: Candidates,
    pub realm: Realm,
    pub writer: Arc<str>,
    pub redirects: Redirects,
    /// The first asker's.
    pub party: Party,
}

impl FillPlan {
    /// For an ask. `confirm`: the stored answer that upstream is asked about.
    pub(super) fn of(
        ask: &Ask<'_>,
        key: Key,
        hash: KeyHash,
        stored: Candidates,
        confirm: Option<(Arc<Entry>, HeaderMap)>,
    ) -> FillPlan {
        let realm = match &ask.identity {
            Some(identity) => Realm::named(&format!("{} {identity}", key.upstream)),
            None => Realm::public(),
        };
        FillPlan {
            realm,
            key: Arc::new(key),
            id: FlightId { key: hash, identity: ask.identity.clone() },
            method: Method::GET,
            client_headers: ask.headers.clone(),
            request: upstream_fields(ask),
            lookup: ask.lookup.clone(),
            confirm,
            stored,
            writer: ask.label.clone(),
            redirects: redirects(&ask.lookup.freshness),
            party: ask.party.clone(),
        }
    }

    pub(super) fn ask_head(&self) -> AskHead<'_> {
        AskHead { asker: Some(&self.party), ..ask_head(&self.method, &self.client_headers, &self.lookup) }
    }

    pub(super) fn class(&self) -> Class {
        match self.lookup.freshness {
            Freshness::Immutable => Class::Trusted,
            Freshness::Revalidate { .. } => Class::Document,
            Freshness::Http => Class::Trusted,
        }
    }
}

/// Publishes a failure if the fill ends without a word.
pub(super) struct Ending {
    cache: Arc<Inner>,
    id: FlightId,
    pub flight: Arc<Flight>,
}

impl Ending {
    pub fn new(cache: Arc<Inner>, id: FlightId, flight: Arc<Flight>) -> Ending {
        Ending { cache, id, flight }
    }

    pub fn publish(&self, stage: Stage) {
        self.flight.publish(stage);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.cache.flights.land(&self.id, &self.flight);
        if !self.flight.is_ended() {
            self.flight.publish(Stage::Failed(CacheError::Abandoned));
        }
    }
}
