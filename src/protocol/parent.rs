//! Where the larder that this one stands before has what is asked for here. The agent of `larder run` asks its server
//! first, for the same thing below the server's own mounts, so that the two mean the same by it.

use std::borrow::Cow;

use url::Url;

use super::front::{Front, Visit};
use super::label;
use crate::ecosystem::path::name_in_path;
use crate::model::lookup::{Expect, Fallback, Lookup, Origin, Origins, Trust};

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

/// The mounts of the larder that this one stands before.
pub struct ParentMounts {
    /// Ends in a slash.
    base: Url,
}

impl ParentMounts {
    pub fn new(base: Url) -> ParentMounts {
        ParentMounts { base }
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
    /// The lookup with the parent, if there is one, before its origins and those of its documents.
    pub(super) fn through<'a>(&self, visit: &Visit<'_>, lookup: &'a Lookup, by: ByName<'_>) -> Cow<'a, Lookup> {
        let Some(parent) = &self.parent else { return Cow::Borrowed(lookup) };
        let mut lookup = lookup.clone();
        match by {
            ByName::Asked(asked) => parent.put(&mut lookup, visit.party.build(), Some(asked)),
            ByName::Proxied(url) => parent.put(&mut lookup, visit.party.build(), Some(&ParentMounts::mirror_of(url))),
            ByName::Own => parent.put(&mut lookup, visit.party.build(), None),
        }
        Cow::Owned(lookup)
    }
}

/// The path of an address below an ecosystem's mount.
fn named(ecosystem: &str, url: &Url) -> String {
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    match ecosystem {
        "http" => ParentMounts::mirror_of(url),
        mount => format!("/{mount}/{}{path}", name_in_path(url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(base: &str) -> ParentMounts {
        ParentMounts::new(Url::parse(base).expect("an address"))
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
