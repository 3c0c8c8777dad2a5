//! Between two larders: where the other one has what is asked for here, and what it is told beside an answer. The agent of
//! `larder run` asks its server first, for the same thing below the server's own mounts, so that the two mean the same by it.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use quick_cache::sync::Cache as Kept;
use url::Url;

use super::front::{Answered, Front, Visit};
use super::label;
use super::reply::ReplyBody;
use super::status::Verdict;
use crate::cache::relay::Look;
use crate::ecosystem::path::name_in_path;
use crate::model::hop;
use crate::model::kind::ErrorKind;
use crate::model::lookup::{Expect, Fallback, Lookup, Origin, Origins, Trust};
use crate::model::party::Party;

/// Builds of which it is remembered whom they trust.
const BUILDS_KEPT: usize = 1000;

/// By what a thing is asked for at the parent.
#[derive(Clone, Copy, Debug)]
pub(super) enum ByName<'a> {
    /// As the client asks for it here: path and query, starting with a slash.
    Asked(&'a str),
    /// As a forward proxy sees the address.
    Proxied(&'a Url),
    /// By the lookup's own address.
    Own,
}

/// Who is to make use of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Client,
    /// Another larder: it keeps what upstream sent, and rewrites at its own door.
    Larder,
}

/// The larder that this one stands before.
pub struct Parent {
    /// Ends in a slash.
    base: Url,
    /// Builds, and whether their tools trust its authority.
    trusting: Kept<String, bool>,
    /// There was a build whose tools do not.
    is_doubted: AtomicBool,
}

impl Parent {
    pub fn new(base: Url) -> Parent {
        Parent { base, trusting: Kept::new(BUILDS_KEPT), is_doubted: AtomicBool::new(false) }
    }

    /// Where an address itself is at the parent: as its forward proxy sees it.
    pub(super) fn mirror_of(url: &Url) -> String {
        format!("/{}/{}", url.scheme(), &url[url::Position::BeforeHost..url::Position::AfterQuery])
    }

    /// Where what a client asks for here is at the parent.
    pub(super) fn origin(&self, visit: &Visit<'_>, asked: &str) -> Option<Origin> {
        self.at(visit.party.build(), asked)
    }

    fn put(&self, lookup: &mut Lookup, label: Option<&str>, asked: Option<&str>) {
        match &mut lookup.expect {
            Expect::InDocument { document, .. } | Expect::Beside { document, .. } => self.put(document, label, None),
            Expect::Nothing | Expect::Sum(_) | Expect::Exactly { .. } | Expect::Sniff(_) => {}
        }
        match &mut lookup.origins {
            Origins::InDocument { document, .. } | Origins::SumOf { thing: document, .. } => {
                self.put(document, label, None);
            }
            Origins::Listed(_) | Origins::Through { .. } => {}
        }
        let alias = lookup.alias.as_ref().map(|alias| named(lookup.key.ecosystem, alias));
        let asked = match (asked.map(str::to_owned).or(alias), &lookup.origins) {
            (Some(asked), _) => asked,
            (None, Origins::Listed(origins) | Origins::SumOf { otherwise: origins, .. }) => match origins.first() {
                Some(origin) => named(lookup.key.ecosystem, &origin.url),
                None => return,
            },
            (None, Origins::InDocument { .. } | Origins::Through { .. }) => return,
        };
        if let Some(parent) = self.at(label, &asked) {
            let rest = std::mem::replace(&mut lookup.origins, Origins::Listed(Vec::new()));
            lookup.origins = Origins::Through { parent: Box::new(parent), rest: Box::new(rest) };
        }
    }

    fn at(&self, label: Option<&str>, asked: &str) -> Option<Origin> {
        let base = self.base.as_str().trim_end_matches('/');
        let label = label.map(label::in_path).unwrap_or_default();
        let url = Url::parse(&format!("{base}{label}{asked}")).ok()?;
        Some(Origin { url, next: Fallback::OnFailure, trust: Trust::Configured })
    }
}

impl Front {
    /// Notes whether a build's tools trust the authority of the larder before this one.
    pub(super) fn trusts(&self, build: &str, trusts: bool) {
        if let Some(parent) = &self.parent {
            parent.trusting.insert(build.to_owned(), trusts);
            parent.is_doubted.fetch_or(!trusts, Ordering::Relaxed);
        }
    }

    /// Whether a larder that carries a tunnel may look into it: not where a tool would be shown what it does not trust.
    pub(super) fn look(&self, party: &Party) -> Look {
        let trusts = |parent: &Parent| match party.build() {
            Some(build) => parent.trusting.get(build) == Some(true),
            // Python sends no user name without a password: it may be any of them.
            None => !parent.trusting.is_empty() && !parent.is_doubted.load(Ordering::Relaxed),
        };
        if self.parent.as_ref().is_some_and(trusts) { Look::Allowed } else { Look::Declined }
    }

    /// Tells another larder who answers.
    pub(super) fn signed(&self, mut answered: Answered, asker: Asker) -> Answered {
        if asker == Asker::Larder {
            answered.response.headers_mut().insert(hop::ANSWERS, self.instance.clone());
        }
        answered
    }

    /// The lookup with the parent, if there is one, before its origins and those of its documents.
    pub(super) fn through<'a>(&self, visit: &Visit<'_>, lookup: &'a Lookup, by: ByName<'_>) -> Cow<'a, Lookup> {
        let Some(parent) = &self.parent else { return Cow::Borrowed(lookup) };
        let mut lookup = lookup.clone();
        match by {
            ByName::Asked(asked) => parent.put(&mut lookup, visit.party.build(), Some(asked)),
            ByName::Proxied(url) => parent.put(&mut lookup, visit.party.build(), Some(&Parent::mirror_of(url))),
            ByName::Own => parent.put(&mut lookup, visit.party.build(), None),
        }
        Cow::Owned(lookup)
    }
}

/// Tells the asker of a failure when to come again, and another larder what not to get elsewhere.
pub(super) fn add_advice(response: &mut Response<ReplyBody>, verdict: &Verdict) {
    let busy = (response.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5));
    let headers = response.headers_mut();
    if let Some(pause) = verdict.retry_after.or(busy) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
    }
    if verdict.kind == ErrorKind::Corrupt {
        headers.insert(hop::CORRUPT, HeaderValue::from_static("1"));
    }
}

/// The path of an address below an ecosystem's mount.
fn named(ecosystem: &str, url: &Url) -> String {
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    match ecosystem {
        "http" => Parent::mirror_of(url),
        mount => format!("/{mount}/{}{path}", name_in_path(url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(base: &str) -> Parent {
        Parent::new(Url::parse(base).expect("an address"))
    }

    #[test]
    fn what_is_asked_for_is_asked_for_there_by_the_same_name() {
        let at = |base: &str, label, asked: &str| parent(base).at(label, asked).expect("an origin").url.to_string();
        assert_eq!(
            at("http://cache:7070/", None, "/go/@h.example/m/@v/list"),
            "http://cache:7070/go/@h.example/m/@v/list"
        );
        assert_eq!(
            at("https://cache/base/", Some("pr-4"), "/https/h.example/a%2Fb//c?q=1"),
            "https://cache/base/~pr-4/https/h.example/a%2Fb//c?q=1"
        );
    }

    #[test]
    fn documents_are_named_by_their_own_address() {
        let named = |ecosystem, url| super::named(ecosystem, &Url::parse(url).expect("an address"));
        assert_eq!(named("cargo", "https://h.example/index/config.json"), "/cargo/@h.example/index/config.json");
        assert_eq!(named("cargo", "http://h.example:81/a?b"), "/cargo/@http:h.example:81/a?b");
        assert_eq!(named("http", "http://h.example:81/a?b"), "/http/h.example:81/a?b");
    }
}
