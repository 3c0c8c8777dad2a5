//! Cache-Control, read: what an answer allows (`Rules`) and what a client wishes (`Wishes`).
//!
//! Restrictions are read generously and permissions strictly: `no-store = x` still forbids, `max-age= 60` still
//! counts as a lifetime that nobody can rely on. A number that is invalid, or that is given twice with two values,
//! makes an answer stale (RFC 9111 §4.2.1 leaves that choice).
//!
//! *Source*: RFC 9111 §5.2, §5.4; RFC 5861; RFC 8246; RFC 9213.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};

use super::fields::{has_any, is_torn, members, names, text};
use super::targeted::{self, Value};
use crate::model::entry::ADDED_FIELDS;
use crate::model::hop;

/// The field that answers are targeted at shared caches with.
const TARGETED: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The longest name of a directive that is known here.
const LONGEST_NAME: usize = "stale-while-revalidate".len();

/// Longest span that is told apart from eternity: 2^31 seconds (RFC 9111 §1.2.2).
const LONGEST_SECS: u64 = 1 << 31;

/// A directive that takes seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Span {
    #[default]
    Absent,
    /// Present without a usable number, or twice with different ones.
    Invalid,
    Of(Duration),
}

impl Span {
    pub fn get(self) -> Option<Duration> {
        match self {
            Span::Of(span) => Some(span),
            Span::Absent | Span::Invalid => None,
        }
    }

    pub fn is_present(self) -> bool {
        self != Span::Absent
    }

    fn note(&mut self, found: Span) {
        *self = if *self == Span::Absent || *self == found { found } else { Span::Invalid };
    }
}

/// What the directives of an answer say. Those of a valid `CDN-Cache-Control` stand in for all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    pub no_store: bool,
    /// Without a list of fields, that is for the whole answer.
    pub no_cache: bool,
    /// Without a list of fields.
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    pub immutable: bool,
    pub max_age: Span,
    pub s_maxage: Span,
    pub stale_while_revalidate: Span,
    pub stale_if_error: Span,
    /// From `CDN-Cache-Control`: `Cache-Control` and `Expires` are not asked.
    pub targeted: bool,
    /// Whether there was any directive.
    pub any: bool,
}

impl Rules {
    pub fn of(headers: &HeaderMap) -> Rules {
        if let Some(rules) = Rules::targeted(headers) {
            return rules;
        }
        let mut rules = Rules::default();
        let mut torn = false;
        for line in headers.get_all(header::CACHE_CONTROL) {
            let line = text(line);
            torn |= is_torn(&line);
            members(&line).for_each(|member| rules.note(&Directive::of(member)));
        }
        if torn && rules.any {
            rules.max_age = Span::Invalid;
        }
        rules
    }

    /// Whether serving a stale answer is forbidden (RFC 9111 §4.2.4). `s-maxage` includes `proxy-revalidate`.
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_present()
    }

    /// Whether the answer says itself how long it lives.
    pub fn has_lifetime(&self) -> bool {
        self.max_age.is_present() || self.s_maxage.is_present()
    }

    fn note(&mut self, directive: &Directive<'_>) {
        self.any = true;
        match directive.word(&mut [0; LONGEST_NAME]) {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache |= directive.fields().is_none(),
            "private" => self.private |= directive.fields().is_none(),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "no-transform" => self.no_transform = true,
            "immutable" => self.immutable = true,
            "max-age" => self.max_age.note(directive.seconds()),
            "s-maxage" => self.s_maxage.note(directive.seconds()),
            "stale-while-revalidate" => self.stale_while_revalidate.note(directive.seconds()),
            "stale-if-error" => self.stale_if_error.note(directive.seconds()),
            _ => {}
        }
    }

    /// None when there is no such field or it is invalid, wrong types of known directives included.
    fn targeted(headers: &HeaderMap) -> Option<Rules> {
        let mut lines = headers.get_all(TARGETED).iter().peekable();
        lines.peek()?;
        let joined = lines.map(|line| text(line).into_owned()).collect::<Vec<_>>().join(",");
        let mut rules = Rules { targeted: true, any: true, ..Rules::default() };
        for (name, value) in targeted::parse(&joined)? {
            let span = match name {
                "max-age" => &mut rules.max_age,
                "s-maxage" => &mut rules.s_maxage,
                "stale-while-revalidate" => &mut rules.stale_while_revalidate,
                "stale-if-error" => &mut rules.stale_if_error,
                _ => {
                    // A list of fields comes as a string, and counts as the plain form: the stricter reading.
                    let restricts = matches!(name, "no-store" | "no-cache" | "private");
                    if value == Value::True || restricts {
                        rules.note(&Directive { name, value: None, spaced: false });
                    }
                    continue;
                }
            };
            let Value::Integer(secs) = value else { return None };
            *span = u64::try_from(secs).map_or(Span::Invalid, of_secs);
        }
        Some(rules)
    }
}

/// What a client asks of caches. Absent directives wish nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    pub no_cache: bool,
    pub no_store: bool,
    pub only_if_cached: bool,
    /// The oldest answer that is welcome. An invalid number counts as 0.
    pub max_age: Option<Duration>,
    pub min_fresh: Option<Duration>,
    /// How long past its lifetime an answer is still welcome; `Duration::MAX` when no number was given.
    pub max_stale: Option<Duration>,
    pub stale_if_error: Option<Duration>,
}

impl Wishes {
    pub fn of(headers: &HeaderMap) -> Wishes {
        let mut wishes = Wishes::default();
        if !has_any(headers, &[header::CACHE_CONTROL, header::PRAGMA]) {
            return wishes;
        }
        if !headers.contains_key(header::CACHE_CONTROL) {
            // HTTP/1.0 (RFC 9111 §5.4)
            wishes.no_cache = pragma_no_cache(headers);
            return wishes;
        }
        for line in headers.get_all(header::CACHE_CONTROL) {
            members(&text(line)).for_each(|member| wishes.note(&Directive::of(member)));
        }
        wishes
    }

    fn note(&mut self, directive: &Directive<'_>) {
        let least = |known: Option<Duration>, new: Option<Duration>| match (known, new) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
        let span = directive.seconds().get();
        match directive.word(&mut [0; LONGEST_NAME]) {
            "no-cache" => self.no_cache = true,
            "no-store" => self.no_store = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => self.max_age = least(self.max_age, Some(span.unwrap_or(Duration::ZERO))),
            "min-fresh" => self.min_fresh = self.min_fresh.max(span),
            "max-stale" if directive.value.is_none() => self.max_stale = least(self.max_stale, Some(Duration::MAX)),
            "max-stale" => self.max_stale = least(self.max_stale, span),
            "stale-if-error" => self.stale_if_error = least(self.stale_if_error, span),
            _ => {}
        }
    }
}

/// Whether `Pragma: no-cache` stands there.
pub fn pragma_no_cache(headers: &HeaderMap) -> bool {
    let is = |line| members(&text(line)).any(|member| member.eq_ignore_ascii_case("no-cache"));
    headers.get_all(header::PRAGMA).iter().any(is)
}

/// The fields of an answer that are stored: end-to-end ones, less those that `private="…"` and `no-cache="…"` name.
///
/// A shared cache must not store the first (RFC 9111 §5.2.2.7) and must not use the second without validation
/// (§5.2.2.4); leaving out both serves both.
pub(crate) fn stored_fields(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    // Each copy that is served gets a few fields more. Without the room for them it would be laid out anew each time.
    kept.reserve(ADDED_FIELDS);
    hop::strip(&mut kept);
    for name in listed_fields(headers) {
        if !hop::is_guarded(&name) {
            kept.remove(name);
        }
    }
    kept
}

/// The fields that `private="…"` and `no-cache="…"` name.
pub(crate) fn listed_fields(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut listed = Vec::new();
    for line in headers.get_all(header::CACHE_CONTROL) {
        for member in members(&text(line)) {
            let directive = Directive::of(member);
            if directive.name.eq_ignore_ascii_case("private") || directive.name.eq_ignore_ascii_case("no-cache") {
                listed.extend(directive.fields().into_iter().flat_map(names));
            }
        }
    }
    listed
}

/// One directive as it stands on the line.
struct Directive<'a> {
    name: &'a str,
    /// Without its quotes.
    value: Option<&'a str>,
    /// Space stood around the `=`, which no grammar allows.
    spaced: bool,
}

impl<'a> Directive<'a> {
    fn of(member: &'a str) -> Directive<'a> {
        let Some(equals) = memchr::memchr(b'=', member.as_bytes()) else {
            return Directive { name: member, value: None, spaced: false };
        };
        let (name, value) = (&member[..equals], &member[equals + 1..]);
        let (bare_name, bare_value) = (name.trim_ascii(), value.trim_ascii());
        let spaced = bare_name.len() < name.len() || bare_value.len() < value.len();
        let (name, value) = (bare_name, bare_value);
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Directive { name, value: Some(inner.unwrap_or(value)), spaced }
    }

    /// The name in lower case; empty for one that is longer than any that is known.
    fn word<'b>(&self, room: &'b mut [u8; LONGEST_NAME]) -> &'b str {
        let Some(word) = room.get_mut(..self.name.len()) else { return "" };
        word.copy_from_slice(self.name.as_bytes());
        word.make_ascii_lowercase();
        std::str::from_utf8(word).unwrap_or_default()
    }

    fn seconds(&self) -> Span {
        match self.value {
            Some(digits) if !self.spaced && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                of_secs(digits.parse().unwrap_or(u64::MAX))
            }
            _ => Span::Invalid,
        }
    }

    /// The list of fields, where there is one that names any.
    fn fields(&self) -> Option<&'a str> {
        self.value.filter(|list| names(list).next().is_some())
    }
}

fn of_secs(secs: u64) -> Span {
    Span::Of(Duration::from_secs(secs.min(LONGEST_SECS)))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::headers;
    use super::*;

    fn rules(lines: &[&str]) -> Rules {
        let fields: Vec<(&str, &str)> = lines.iter().map(|line| ("cache-control", *line)).collect();
        Rules::of(&headers(&fields))
    }

    fn secs(secs: u64) -> Span {
        Span::Of(Duration::from_secs(secs))
    }

    #[test]
    fn lifetimes_are_digits_perhaps_in_quotes() {
        for (line, span) in [
            ("max-age=3600", secs(3600)),
            ("MaX-aGe=3600", secs(3600)),
            ("max-age=003600", secs(3600)),
            ("max-age=\"3600\"", secs(3600)),
            ("foobar, max-age=3600", secs(3600)),
            ("max-age=99999999999999999999999", secs(LONGEST_SECS)),
            ("max-age=3600, max-age=3600", secs(3600)),
            ("max-age=3600, max-age=1800", Span::Invalid),
            ("max-age='3600'", Span::Invalid),
            ("max-age=-3600", Span::Invalid),
            ("max-age=3600.0", Span::Invalid),
            ("max-age=a3600", Span::Invalid),
            ("max-age=3600a", Span::Invalid),
            ("max-age =3600", Span::Invalid),
            ("max-age= 3600", Span::Invalid),
            ("max-age=", Span::Invalid),
            ("max-age", Span::Invalid),
            ("foo", Span::Absent),
        ] {
            assert_eq!(rules(&[line]).max_age, span, "{line}");
        }
    }

    #[test]
    fn what_stands_in_another_directives_quotes_says_nothing() {
        for line in ["extension=\"max-age=3600\", max-age=1", "max-age=1, extension=\"no-store, max-age=3600\""] {
            assert_eq!(rules(&[line]).max_age, secs(1), "{line}");
            assert!(!rules(&[line]).no_store);
        }
    }

    #[test]
    fn a_torn_quote_hides_no_restriction_and_grants_no_lifetime() {
        let rules = rules(&["a=\"b, no-store, max-age=60"]);
        assert!(rules.no_store);
        assert_eq!(rules.max_age, Span::Invalid);
    }

    #[test]
    fn lines_add_up() {
        let rules = rules(&["max-age=3600", "s-maxage=1, No-StOrE"]);
        assert_eq!((rules.max_age, rules.s_maxage, rules.no_store), (secs(3600), secs(1), true));
    }

    #[test]
    fn a_list_of_fields_narrows_private_and_no_cache() {
        let narrow = rules(&["private=\"a\", no-cache=\"b, c\""]);
        assert!(!narrow.private && !narrow.no_cache);
        for line in
            ["private, no-cache", "private=\"\", no-cache=\"\"", "private=\"a\", private, no-cache=, no-cache=b"]
        {
            let wide = rules(&[line]);
            assert!(wide.private && wide.no_cache, "{line}");
        }
    }

    #[test]
    fn the_targeted_field_stands_in_for_the_others() {
        let rules = |targeted| Rules::of(&headers(&[("cache-control", "no-store"), ("cdn-cache-control", targeted)]));
        let valid = rules("max-age=10");
        assert!(valid.targeted && !valid.no_store);
        assert_eq!(valid.max_age, secs(10));
        assert!(rules("private=\"a\"").private);
        assert_eq!(rules("max-age=-1").max_age, Span::Invalid);
        for invalid in ["max-age=10, &&&", "max-age=\"10\"", "", "MAX-AGE=10", "max-age =10"] {
            assert!(rules(invalid).no_store, "{invalid}");
        }
    }

    #[test]
    fn wishes_are_read_to_the_clients_favour() {
        let wishes = |line| Wishes::of(&headers(&[("cache-control", line)]));
        let span = |secs| Some(Duration::from_secs(secs));
        assert_eq!(wishes("max-age=5, max-age=9").max_age, span(5));
        assert_eq!(wishes("max-age=x").max_age, span(0));
        assert_eq!(wishes("max-stale").max_stale, Some(Duration::MAX));
        assert_eq!(wishes("max-stale=7").max_stale, span(7));
        assert_eq!(wishes("max-stale=x").max_stale, None);
        assert_eq!(wishes("min-fresh=3").min_fresh, span(3));
        assert!(wishes("only-if-cached").only_if_cached);
    }

    #[test]
    fn pragma_counts_where_cache_control_is_missing() {
        assert!(Wishes::of(&headers(&[("pragma", "foo, No-Cache")])).no_cache);
        assert!(!Wishes::of(&headers(&[("pragma", "no-cache"), ("cache-control", "foo")])).no_cache);
        assert!(!Wishes::of(&headers(&[("pragma", "foo")])).no_cache);
    }

    #[test]
    fn fields_that_private_and_no_cache_name_are_not_stored() {
        let fields = headers(&[
            ("cache-control", "private=\"a, etag\", max-age=5, no-cache=b"),
            ("a", "1"),
            ("b", "2"),
            ("etag", "\"3\""),
        ]);
        let kept = stored_fields(&fields);
        assert!(!kept.contains_key("a") && !kept.contains_key("b"));
        assert!(kept.contains_key("etag") && kept.contains_key("cache-control"));
    }
}
