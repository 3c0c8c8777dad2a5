//! HTTP dates (RFC 9110 §5.6.7): the three forms, strict in structure, names in any case.
//!
//! Strict, because an `Expires` that nearly looks like a date is one of the ways in which origins say "already
//! expired" (RFC 9111 §5.3), and a cache that guesses keeps such answers for years.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use http::header::{HeaderMap, HeaderName};

use crate::model::time::Timestamp;

/// Reads a date. None for anything but the three forms, or a year before 1970.
pub fn parse(text: &str) -> Option<Timestamp> {
    let instant = httpdate::parse_http_date(&recased(text)).ok()?;
    let secs = instant.duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(secs).ok().map(Timestamp::from_secs)
}

/// A field that must hold one date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateField {
    Absent,
    /// Present, but no date, or more than one line.
    Invalid,
    At(Timestamp),
}

impl DateField {
    pub fn of(headers: &HeaderMap, name: &HeaderName) -> DateField {
        let mut lines = headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (None, _) => DateField::Absent,
            (Some(_), Some(_)) => DateField::Invalid,
            (Some(line), None) => line.to_str().ok().and_then(parse).map_or(DateField::Invalid, DateField::At),
        }
    }

    pub fn at(self) -> Option<Timestamp> {
        match self {
            DateField::At(instant) => Some(instant),
            DateField::Absent | DateField::Invalid => None,
        }
    }
}

/// Writes each name as the grammar spells it: `THU, 18 aug` becomes `Thu, 18 Aug`, `gmt` becomes `GMT`.
fn recased(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let mut inside = false;
    let proper = text.bytes().all(|byte| {
        let fits = !byte.is_ascii_alphabetic() || byte.is_ascii_uppercase() != inside;
        inside = byte.is_ascii_alphabetic();
        fits
    });
    if proper {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for letter in text.chars() {
        out.push(if inside { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() });
        inside = letter.is_ascii_alphabetic();
    }
    if let Some(head) = out.strip_suffix("Gmt") {
        out = format!("{head}GMT");
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_mean_the_same_instant() {
        let instant = Some(Timestamp::from_secs(784_111_777));
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text), instant, "{text}");
        }
    }

    #[test]
    fn names_may_be_in_any_case() {
        let instant = parse("Thu, 18 Aug 2050 02:01:18 GMT");
        assert!(instant.is_some());
        for text in ["THU, 18 Aug 2050 02:01:18 GMT", "Thu, 18 AUG 2050 02:01:18 GMT", "thu, 18 aug 2050 02:01:18 gMT"]
        {
            assert_eq!(parse(text), instant, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_date_is_none() {
        for text in [
            "0",
            "",
            "-1",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
