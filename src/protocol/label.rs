//! How a request names its build: by its credential, in its path, or at the end of its User-Agent.

use std::sync::Arc;

use http::{HeaderMap, Uri, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::token::Token;

/// The label of callers that give none.
pub const NO_LABEL: &str = "default";
const MAX_BYTES: usize = 64;
/// What a label may hold and a segment of a path may not.
const IN_A_PATH: &AsciiSet = &CONTROLS.add(b'/').add(b'#').add(b'%').add(b'?');

/// The beginning of a path that counts a request for a build: `/~LABEL`.
pub fn in_path(label: &str) -> String {
    format!("/~{}", utf8_percent_encode(label, IN_A_PATH))
}

/// Takes a build label out of a path, for clients that can carry it nowhere else: `/~LABEL/go/...`.
pub(super) fn take_from_path(uri: &mut Uri) -> Option<Arc<str>> {
    let (label, rest) = split(uri.path_and_query()?.as_str())?;
    let label = percent_decode_str(label).decode_utf8().ok()?;
    let label = Arc::from(label_of(&label)?);
    *uri = Uri::try_from(rest).ok()?;
    Some(label)
}

/// A target's build label, as written, and what follows it.
pub(super) fn split(target: &str) -> Option<(&str, &str)> {
    let rest = target.strip_prefix("/~")?;
    Some(rest.split_at(rest.find('/')?))
}

/// The build label at the end of a User-Agent, for clients whose User-Agent can be set: `cargo larder/LABEL`.
pub(super) fn of_agent(headers: &HeaderMap) -> Option<Arc<str>> {
    let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
    let (_, label) = agent.rsplit_once(" larder/")?;
    label_of(label).map(Arc::from)
}

/// A label that may stand in a log, a metric's page and a path. None: it may not.
pub fn label_of(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+@#=".contains(&byte);
    let fits = !text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(plain);
    (fits && !Token::is_ours(text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_is_no_segment_travels_in_one() {
        for label in ["pr-42", "feature/x#2", "a.b:c@d+e=f"] {
            let mut uri = Uri::try_from(format!("{}/go/m?q=1", in_path(label))).expect("a target");
            assert_eq!(take_from_path(&mut uri).as_deref(), Some(label));
            assert_eq!(uri, "/go/m?q=1");
        }
        let mut uri = Uri::from_static("/~a%0Ab/go/m");
        assert_eq!((take_from_path(&mut uri), uri.path()), (None, "/~a%0Ab/go/m"));
    }
}
