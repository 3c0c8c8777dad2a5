//! HTTP dates (RFC 9110 §5.6.7): the three forms, strict in structure, names in any case.
//!
//! Strict, because an `Expires` that nearly looks like a date is one of the ways in which origins say "already
//! expired" (RFC 9111 §5.3), and a cache that guesses keeps such answers for years.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName};

use crate::model::time::Timestamp;

/// Reads a date. None for anything but the three forms, or a year before 1970.
pub fn parse(text: &str) -> Option<Timestamp> {
    if let Some(instant) = text.as_bytes().try_into().ok().and_then(fixed) {
        return Some(instant);
    }
    let instant = httpdate::parse_http_date(&recased(text)).ok()?;
    let secs = instant.duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(secs).ok().map(Timestamp::from_secs)
}

/// Writes a date in the preferred form. What lies before 1970 is written as its first second.
pub fn format(instant: Timestamp) -> String {
    let millis = u64::try_from(instant.0).unwrap_or_default();
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis))
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

/// The preferred form in its own spelling, by arithmetic alone: each hit is judged by its `Date`. None: look closer.
fn fixed(text: &[u8; "Sun, 06 Nov 1994 08:49:37 GMT".len()]) -> Option<Timestamp> {
    const WEEKDAYS: &[u8; 21] = b"SunMonTueWedThuFriSat";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    const DAYS_BEFORE: [i64; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
    const MARKS: [(usize, u8); 8] =
        [(3, b','), (4, b' '), (7, b' '), (11, b' '), (16, b' '), (19, b':'), (22, b':'), (25, b' ')];
    if !text.ends_with(b"GMT") || MARKS.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = &text[range];
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit.wrapping_sub(b'0')));
        digits.iter().all(u8::is_ascii_digit).then_some(value)
    };
    let month = MONTHS.chunks_exact(3).position(|month| *month == text[8..11])?;
    let (day, year) = (number(5..7)?, number(12..16)?);
    let (hour, minute, second) = (number(17..19)?, number(20..22)?, number(23..25)?);
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let is_leap = leaps(year) > leaps(year - 1);
    let leap_day = i64::from(is_leap && month > 1);
    let length = DAYS_BEFORE[month + 1] - DAYS_BEFORE[month] + i64::from(is_leap && month == 1);
    if year < 1970 || day < 1 || day > length || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = 365 * (year - 1970) + leaps(year - 1) - leaps(1969) + DAYS_BEFORE[month] + leap_day + day - 1;
    let weekday = usize::try_from((days + 4) % 7).ok()?;
    let fits = WEEKDAYS[3 * weekday..3 * weekday + 3] == text[..3];
    fits.then(|| Timestamp::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
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
    fn both_ways_of_reading_agree() {
        let read = |text: &str| {
            let instant = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some(Timestamp::from_secs(i64::try_from(instant.as_secs()).ok()?))
        };
        let mut secs = 0;
        while secs < 253_402_300_800 {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(secs));
            let exact: &[u8; 29] = text.as_bytes().try_into().expect("29 bytes");
            assert_eq!(fixed(exact), read(&text), "{text}");
            assert!(fixed(exact).is_some(), "{text}");
            // Some thirteen days and a bit: every month, every hour, every leap year.
            secs += 1_150_007;
        }
        for text in [
            "Sun, 29 Feb 1900 00:00:00 GMT",
            "Mon, 29 Feb 2100 00:00:00 GMT",
            "Fri, 31 Apr 2020 00:00:00 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:60 GMT",
            "Sun, 06 Nov 19x4 08:49:37 GMT",
        ] {
            assert_eq!(fixed(text.as_bytes().try_into().expect("29 bytes")), None, "{text}");
            assert_eq!(read(text), None, "{text}");
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
