//! Header fields as a cache handles them: how a value and a list are read.
//!
//! *Source*: RFC 9110 §5.3, §5.6; RFC 9111 §3.1.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// A value as text; bytes outside of UTF-8 are replaced.
pub(crate) fn text(value: &HeaderValue) -> Cow<'_, str> {
    // Nearly always it is text, which this tells faster than the lossy reading does.
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(value.as_bytes()),
    }
}

/// Whether any of the fields is there: one look at each field for all names, where most requests have few fields.
pub(crate) fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

/// The field names of a comma-separated list.
pub(crate) fn names(list: &str) -> impl Iterator<Item = HeaderName> + '_ {
    list.split(',').filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
}

/// Splits at the commas that stand outside of quoted strings. Members are trimmed; empty ones are left out.
pub(crate) fn members(list: &str) -> Members<'_> {
    Members { rest: list }
}

/// The members of a list (RFC 9110 §5.6.1).
#[derive(Clone, Debug)]
pub(crate) struct Members<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while !self.rest.is_empty() {
            let end = member_end(self.rest);
            let member = self.rest[..end].trim_ascii();
            self.rest = self.rest.get(end + 1..).unwrap_or("");
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// Where the first member ends. A quote that nothing closes counts as any other character, so that it cannot hide
/// the members behind it.
fn member_end(list: &str) -> usize {
    if memchr::memchr(b'"', list.as_bytes()).is_none() {
        return memchr::memchr(b',', list.as_bytes()).unwrap_or(list.len());
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    if quoted { list.find(',').unwrap_or(list.len()) } else { list.len() }
}

/// Whether a quote stands open at the end.
pub(crate) fn is_torn(list: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in list.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_outside_of_quotes_alone() {
        let split = |list| members(list).collect::<Vec<_>>();
        assert_eq!(split(" a , \"b, c\",, d=\"\\\",\" ,"), ["a", "\"b, c\"", "d=\"\\\",\""]);
        assert_eq!(split("a=\"b, no-store"), ["a=\"b", "no-store"]);
        assert_eq!(split(""), [""; 0]);
    }
}
