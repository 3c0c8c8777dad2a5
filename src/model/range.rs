//! Byte ranges (RFC 9110 §14) as asked and as resolved against a length.

/// A resolved, non-empty or whole range of a body: `start..end`, end exclusive, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    pub const fn whole(len: u64) -> ByteRange {
        ByteRange { start: 0, end: len }
    }

    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// One range as a client asked it, before the length is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeSpec {
    /// `first-last`, last inclusive; None means up to the end.
    From { first: u64, last: Option<u64> },
    /// The last `n` bytes.
    Suffix(u64),
}

/// What a `Range` header turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// No header, another unit, several ranges, or nonsense: RFC 9110 §14.2 lets a server ignore it and send all.
    Whole,
    One(RangeSpec),
}

/// A resolved range, or why there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    Whole,
    Part(ByteRange),
    /// Starts past the end: 416.
    Unsatisfiable,
}

impl Asked {
    /// Parses the value of a `Range` header.
    pub fn parse(value: Option<&str>) -> Asked {
        let Some(spec) = value.and_then(|value| value.trim().strip_prefix("bytes=")) else { return Asked::Whole };
        let Some((first, last)) = spec.trim().split_once('-') else { return Asked::Whole };
        let (first, last) = (first.trim(), last.trim());
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        match (first.is_empty(), last.is_empty()) {
            (true, true) => Asked::Whole,
            (true, false) => number(last).map_or(Asked::Whole, |n| Asked::One(RangeSpec::Suffix(n))),
            (false, true) => {
                number(first).map_or(Asked::Whole, |first| Asked::One(RangeSpec::From { first, last: None }))
            }
            (false, false) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => Asked::One(RangeSpec::From { first, last: Some(last) }),
                _ => Asked::Whole,
            },
        }
    }

    /// Resolves against a body of `len` bytes.
    pub fn resolve(self, len: u64) -> Resolved {
        let Asked::One(spec) = self else { return Resolved::Whole };
        let range = match spec {
            RangeSpec::From { first, last } => {
                ByteRange { start: first, end: last.map_or(len, |last| last.saturating_add(1)).min(len) }
            }
            RangeSpec::Suffix(n) => ByteRange { start: len.saturating_sub(n), end: len },
        };
        if range.start >= range.end { Resolved::Unsatisfiable } else { Resolved::Part(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(value: &str, len: u64) -> Resolved {
        Asked::parse(Some(value)).resolve(len)
    }

    #[test]
    fn ranges_resolve_as_rfc_9110_says() {
        let part = |start, end| Resolved::Part(ByteRange { start, end });
        assert_eq!(resolve("bytes=0-4", 10), part(0, 5));
        assert_eq!(resolve("bytes=5-", 10), part(5, 10));
        assert_eq!(resolve("bytes=-3", 10), part(7, 10));
        assert_eq!(resolve("bytes=-30", 10), part(0, 10));
        assert_eq!(resolve("bytes=8-30", 10), part(8, 10));
        assert_eq!(resolve("bytes=0-99999999999999999999", 10), part(0, 10));
    }

    #[test]
    fn range_past_the_end_is_unsatisfiable() {
        assert_eq!(resolve("bytes=10-", 10), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=-0", 10), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=0-0", 0), Resolved::Unsatisfiable);
    }

    #[test]
    fn nonsense_is_ignored() {
        for value in ["bytes=4-2", "bytes=-", "items=0-1", "bytes=0-1,3-4", "bytes=a-b", "bytes=+1-2", ""] {
            assert_eq!(resolve(value, 10), Resolved::Whole, "{value}");
        }
    }
}
