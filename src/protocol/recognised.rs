//! Addresses of a forward proxy that an ecosystem's grammar knows (`Ecosystem::recognise`): answered by its rules, from the
//! keys that its mount fills too, where that can be proven. Whatever cannot stays under RFC 9111.
//!
//! What is asked for with a credential, a cookie or `no-store` is not looked at here: a shared fill would leave them out.

use std::sync::atomic::Ordering;

use http::{HeaderMap, Method, header};
use url::Url;

use super::forward;
use super::front::{Answered, Front, Visit};
use super::generation::Asking;
use super::parent::ByName;
use super::target::{Recognition, Target};
use crate::cache::error::CacheError;
use crate::cache::served::{Ask, Served};
use crate::ecosystem;
use crate::model::credential;
use crate::model::lookup::{Evidence, Lookup, Route};
use crate::model::outcome::{Outcome, Reason};

impl Front {
    /// What the ecosystem's key has, if that may be given at once.
    pub(super) fn recognised_at_once<'a>(&self, visit: &'a Visit<'_>, target: &'a Target) -> Option<(Ask<'a>, usize)> {
        let recognition =
            target.recognition.as_ref().filter(|recognition| !recognition.mistaken.load(Ordering::Relaxed))?;
        match (&recognition.recognised.route, recognition.hash) {
            (Route::Cached(lookup), Some(hash)) if !is_personal(&visit.headers) => {
                Some((visit.ask(lookup, hash, &target.url, None), recognition.at))
            }
            _ => None,
        }
    }

    /// Answers by the ecosystem's rules. None: RFC 9111 has to do.
    pub(super) async fn recognised(&self, visit: &Visit<'_>, target: &Target) -> Option<Answered> {
        let recognition =
            target.recognition.as_ref().filter(|recognition| !recognition.mistaken.load(Ordering::Relaxed))?;
        if visit.method != Method::GET || is_personal(&visit.headers) {
            return None;
        }
        match self.by_its_rules(visit, target, recognition).await {
            Ok(Some(answered)) if is_refused(&answered) => None,
            Ok(answered) => answered,
            // The same thing may be stored under its plain address. Another generation's index is not the same thing.
            Err(CacheError::Upstream(_)) if matches!(recognition.recognised.route, Route::Cached(_)) => None,
            Err(error) if self.is_for_the_build(&error) => None,
            Err(error) => Some(self.failed(&error, recognition.at)),
        }
    }

    /// The lookup that a plain GET of an address would be.
    pub(super) async fn addressed(&self, visit: &Visit<'_>, url: &Url) -> Result<Lookup, CacheError> {
        let recognised = ecosystem::recognise(url).map(|(_, recognised)| (recognised.route, recognised.evidence));
        Ok(match recognised {
            Some((Route::Generation(generation), _)) => generation.document,
            Some((Route::Member(member), _)) => {
                self.meant(visit, &member, Asking::No).await?.unwrap_or_else(|| forward::lookup(url))
            }
            Some((Route::Cached(lookup), Evidence::InItself)) => *lookup,
            Some((Route::Cached(lookup), Evidence::BelowGeneration)) if self.handed.knows_archive_of(&lookup.key) => {
                *lookup
            }
            Some(_) | None => forward::lookup(url),
        })
    }

    async fn by_its_rules(
        &self,
        visit: &Visit<'_>,
        target: &Target,
        recognition: &Recognition,
    ) -> Result<Option<Answered>, CacheError> {
        match (&recognition.recognised.route, recognition.recognised.evidence) {
            (Route::Generation(generation), _) => self.generation(visit, generation, recognition.at).await.map(Some),
            (Route::Member(member), _) => match self.meant(visit, member, Asking::No).await? {
                Some(lookup) => {
                    let lookup = &*self.through(visit, &lookup, ByName::Own);
                    let served = self.cache.serve(&visit.ask(lookup, lookup.key.hash(), &target.url, None)).await?;
                    Ok(Some(Answered::of_served(served, &visit.method, recognition.at)))
                }
                None => Ok(None),
            },
            (Route::Cached(lookup), Evidence::BelowGeneration) if !self.handed.knows_archive_of(&lookup.key) => {
                Ok(None)
            }
            (Route::Cached(lookup), Evidence::InItself | Evidence::BelowGeneration) => {
                let lookup = &*self.through(visit, lookup, ByName::Proxied(&target.url));
                let served = self.cache.serve(&visit.ask(lookup, lookup.key.hash(), &target.url, None)).await?;
                recognition.mistaken.store(is_mistake(&served), Ordering::Relaxed);
                Ok(Some(Answered::of_served(served, &visit.method, recognition.at)))
            }
            (Route::Generated(_) | Route::PassThrough(_) | Route::NoUpstream, _) => Ok(None),
        }
    }
}

/// Whether the answer may depend on who asks, or nothing of it may be kept.
fn is_personal(headers: &HeaderMap) -> bool {
    let forbids = |value: &header::HeaderValue| memchr::memmem::find(value.as_bytes(), b"no-store").is_some();
    credential::is_shown(headers)
        || headers.contains_key(header::COOKIE)
        || headers.get_all(header::CACHE_CONTROL).iter().any(forbids)
}

/// Whether upstream may want to know more of the client than a shared fill tells.
fn is_refused(answered: &Answered) -> bool {
    matches!(answered.response.status().as_u16(), 401 | 403)
}

/// Whether there was an answer that is not what the address looks like.
fn is_mistake(served: &Served) -> bool {
    served.outcome == Outcome::Bypass(Reason::Unproven) && served.status == 200
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_of_its_asker_is_left_to_rfc_9111() {
        let told = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, header::HeaderValue::from_static(value));
            is_personal(&headers)
        };
        for (name, value) in
            [("authorization", "Basic x"), ("cookie", "a=b"), ("private-token", "x"), ("cache-control", "a, no-store")]
        {
            assert!(told(name, value), "{name}");
        }
        assert!(!told("cache-control", "max-age=0") && !told("user-agent", "Debian APT-HTTP/1.3"));
    }
}
