//! Taking up a broken body where it ended: only with a validator that proves it is the same bytes, and only from an
//! answer that says exactly what we asked for (RFC 9110 §8.8.1, §13.1.5, §14.4, §15.3.7). Pure.

use std::time::Duration;

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{Method, StatusCode};

/// How a body can be continued.
#[derive(Clone)]
pub(crate) struct Plan {
    /// The field that the validator stands in, and the validator. None: a checksum of the whole proves it instead.
    validator: Option<(HeaderName, HeaderValue)>,
    coding: Option<HeaderValue>,
    /// The first byte of the representation that was asked for.
    base: u64,
    /// The last one, where a range was asked for; and the representation's length, where known.
    last: Option<u64>,
    total: Option<u64>,
}

/// A date only proves sameness when it lay this far back while the answer was made: clocks and file times are coarse.
const SETTLED: Duration = Duration::from_secs(60);

impl Plan {
    /// None when the body cannot be continued safely.
    pub(crate) fn of(
        method: &Method,
        asked: &HeaderMap,
        status: StatusCode,
        answer: &HeaderMap,
        len: Option<u64>,
    ) -> Option<Plan> {
        if *method != Method::GET || text(answer, &ACCEPT_RANGES) == Some("none") {
            return None;
        }
        let (base, last, total) = match status {
            StatusCode::OK => (0, None, len),
            StatusCode::PARTIAL_CONTENT if asked.contains_key(RANGE) => {
                let range = ContentRange::of(answer)?;
                if len.is_some_and(|len| len != range.last - range.first + 1) {
                    return None;
                }
                (range.first, Some(range.last), range.total)
            }
            _ => return None,
        };
        let validator = Some(strong(answer)?);
        Some(Plan { validator, coding: answer.get(CONTENT_ENCODING).cloned(), base, last, total })
    }

    /// For a whole body whose checksum is known, so that bytes of another one are found out at the end.
    pub(crate) fn under_a_sum(status: StatusCode, answer: &HeaderMap, len: Option<u64>) -> Option<Plan> {
        let coding = answer.get(CONTENT_ENCODING).cloned();
        let plan = Plan { validator: None, coding, base: 0, last: None, total: len };
        (status == StatusCode::OK && len.is_some()).then_some(plan)
    }

    /// The fields to ask with after `got` bytes.
    pub(crate) fn request(&self, asked: &HeaderMap, got: u64) -> Option<HeaderMap> {
        let mut headers = asked.clone();
        for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
            headers.remove(name);
        }
        let first = self.base.checked_add(got)?;
        let range = match self.last {
            Some(last) => format!("bytes={first}-{last}"),
            None => format!("bytes={first}-"),
        };
        headers.insert(RANGE, HeaderValue::from_str(&range).ok()?);
        headers.remove(IF_RANGE);
        if let Some((_, validator)) = &self.validator {
            headers.insert(IF_RANGE, validator.clone());
        }
        Some(headers)
    }

    /// How many bytes are to come when an answer continues the body; Err says why it does not.
    pub(crate) fn accept(
        &self,
        status: StatusCode,
        answer: &HeaderMap,
        len: Option<u64>,
        got: u64,
    ) -> Result<u64, &'static str> {
        if status != StatusCode::PARTIAL_CONTENT {
            return Err("it did not continue where it broke off");
        }
        let range = ContentRange::of(answer).ok_or("it did not say which range it sent")?;
        let same = self.validator.as_ref().is_none_or(|(field, validator)| match answer.get(field) {
            Some(value) => value == validator,
            // A 206 must repeat the ETag; a Last-Modified it may leave out.
            None => *field == LAST_MODIFIED,
        });
        if !same || answer.get(CONTENT_ENCODING) != self.coding.as_ref() {
            return Err("it changed meanwhile");
        }
        let whole_to = self.last.or(self.total.and_then(|total| total.checked_sub(1)));
        let ends_right = match whole_to {
            Some(last) => range.last == last,
            None => range.total == Some(range.last.saturating_add(1)),
        };
        let totals_agree = match (self.total, range.total) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        let left = range.last - range.first + 1;
        if range.first != self.base.saturating_add(got) || !ends_right || !totals_agree {
            return Err("it sent another range than was asked for");
        }
        if len.is_some_and(|len| len != left) { Err("its length and its range disagree") } else { Ok(left) }
    }
}

/// A strong ETag, or a Last-Modified that is old enough to be as good.
fn strong(answer: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
    let mut etags = answer.get_all(ETAG).iter();
    if let (Some(etag), None) = (etags.next(), etags.next()) {
        let bytes = etag.as_bytes();
        if bytes.len() >= 2 && bytes.starts_with(b"\"") && bytes.ends_with(b"\"") {
            return Some((ETAG, etag.clone()));
        }
    }
    let date = |name: &HeaderName| httpdate::parse_http_date(text(answer, name)?).ok();
    let age = date(&DATE)?.duration_since(date(&LAST_MODIFIED)?).ok()?;
    if age >= SETTLED { Some((LAST_MODIFIED, answer.get(LAST_MODIFIED)?.clone())) } else { None }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// `bytes FIRST-LAST/TOTAL`
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn of(headers: &HeaderMap) -> Option<ContentRange> {
        let mut values = headers.get_all(CONTENT_RANGE).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let (range, total) = value.to_str().ok()?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.trim().split_once('-')?;
        let number = |text: &str| {
            if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse::<u64>().ok() } else { None }
        };
        let total = if total.trim() == "*" { None } else { Some(number(total.trim())?) };
        let (first, last) = (number(first)?, number(last)?);
        let sound = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
        sound.then_some(ContentRange { first, last, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        map
    }

    fn plan(answer: &[(&str, &str)], len: Option<u64>) -> Option<Plan> {
        Plan::of(&Method::GET, &HeaderMap::new(), StatusCode::OK, &map(answer), len)
    }

    const LATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn only_strong_validators_make_a_plan() {
        assert!(plan(&[("etag", "\"a\"")], Some(9)).is_some());
        assert!(plan(&[("etag", "W/\"a\"")], Some(9)).is_none());
        assert!(plan(&[("etag", "a")], Some(9)).is_none());
        assert!(plan(&[], Some(9)).is_none());
        assert!(plan(&[("etag", "\"a\""), ("accept-ranges", "none")], Some(9)).is_none());
        assert!(plan(&[LATE, ("last-modified", "Sun, 06 Nov 1994 08:48:00 GMT")], None).is_some());
        assert!(plan(&[LATE, ("last-modified", "Sun, 06 Nov 1994 08:49:30 GMT")], None).is_none());
        assert!(plan(&[("last-modified", "Sun, 06 Nov 1994 08:48:00 GMT")], None).is_none());
    }

    #[test]
    fn an_answer_continues_only_when_all_of_it_fits() {
        let plan = plan(&[("etag", "\"a\"")], Some(100)).expect("a plan");
        let accept = |status: u16, fields: &[(&str, &str)], len| {
            plan.accept(StatusCode::from_u16(status).expect("a status"), &map(fields), len, 40).ok()
        };
        let good = [("etag", "\"a\""), ("content-range", "bytes 40-99/100")];
        assert_eq!(accept(206, &good, Some(60)), Some(60));
        assert_eq!(accept(206, &good, None), Some(60));
        assert_eq!(accept(206, &good, Some(59)), None);
        assert_eq!(accept(200, &good, Some(60)), None);
        for fields in [
            [("etag", "\"b\""), ("content-range", "bytes 40-99/100")],
            [("etag", "\"a\""), ("content-range", "bytes 41-99/100")],
            [("etag", "\"a\""), ("content-range", "bytes 40-98/100")],
            [("etag", "\"a\""), ("content-range", "bytes 40-99/101")],
            [("etag", "\"a\""), ("content-range", "bytes 40-99/99")],
            [("etag", "\"a\""), ("content-range", "bytes 99-40/100")],
            [("etag", "\"a\""), ("content-range", "items 40-99/100")],
            [("x", "y"), ("content-range", "bytes 40-99/100")],
        ] {
            assert_eq!(accept(206, &fields, None), None, "{fields:?}");
        }
        let coded = [("etag", "\"a\""), ("content-range", "bytes 40-99/100"), ("content-encoding", "gzip")];
        assert_eq!(accept(206, &coded, None), None);
    }

    #[test]
    fn under_a_sum_any_validator_will_do_and_the_range_must_fit() {
        let answer = map(&[("etag", "W/\"a\"")]);
        let plan = Plan::under_a_sum(StatusCode::OK, &answer, Some(100)).expect("a plan");
        assert_eq!(plan.request(&map(&[]), 40).expect("headers"), map(&[("range", "bytes=40-")]));
        let accept =
            |range: &str| plan.accept(StatusCode::PARTIAL_CONTENT, &map(&[("content-range", range)]), None, 40).ok();
        assert_eq!(
            (accept("bytes 40-99/100"), accept("bytes 40-99/101"), accept("bytes 41-99/100")),
            (Some(60), None, None)
        );
        assert!(Plan::under_a_sum(StatusCode::OK, &answer, None).is_none());
    }

    #[test]
    fn a_range_is_continued_within_itself() {
        let asked = map(&[("range", "bytes=10-19"), ("if-none-match", "\"x\""), ("accept", "*/*")]);
        let answer = map(&[("etag", "\"a\""), ("content-range", "bytes 10-19/100")]);
        let plan = Plan::of(&Method::GET, &asked, StatusCode::PARTIAL_CONTENT, &answer, Some(10)).expect("a plan");
        let request = plan.request(&asked, 4).expect("headers");
        assert_eq!(request, map(&[("range", "bytes=14-19"), ("accept", "*/*"), ("if-range", "\"a\"")]));
        let more = map(&[("etag", "\"a\""), ("content-range", "bytes 14-19/*")]);
        assert_eq!(plan.accept(StatusCode::PARTIAL_CONTENT, &more, Some(6), 4), Ok(6));
        assert!(Plan::of(&Method::HEAD, &asked, StatusCode::PARTIAL_CONTENT, &answer, Some(10)).is_none());
    }

    #[test]
    fn a_body_of_unknown_length_is_continued_to_its_end() {
        let plan = plan(&[("etag", "\"a\"")], None).expect("a plan");
        let accept = |range: &str| {
            let fields = map(&[("etag", "\"a\""), ("content-range", range)]);
            plan.accept(StatusCode::PARTIAL_CONTENT, &fields, None, 40).ok()
        };
        assert_eq!(accept("bytes 40-99/100"), Some(60));
        assert_eq!(accept("bytes 40-99/*"), None);
        assert_eq!(accept("bytes 40-98/100"), None);
    }
}
