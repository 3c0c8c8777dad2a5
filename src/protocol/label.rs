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

/// In how many forms a user name is looked at: as the label is, as `as_user` writes it, and as an address has that.
const ENCODED: usize = 3;

/// The beginning of a path that counts a request for a build: `/~LABEL`.
pub fn in_path(label: &str) -> String {
    format!("/~{}", utf8_percent_encode(label, IN_A_PATH))
}

/// A label as the user name of a credential without a token: a colon would end it (RFC 7617).
pub fn as_user(label: &str) -> String {
    label.replace(':', "%3A")
}

/// The label that a user name without a token is. Some clients show it as it stands in the address of their proxy, and
/// some put that in a form of its own first.
pub(super) fn of_user(user: &str) -> Option<String> {
    let mut user = user.to_owned();
    for _ in 0..ENCODED {
        match label_of(&user) {
            Some(label) => return Some(label.to_owned()),
            None => user = percent_decode_str(&user).decode_utf8().ok()?.into_owned(),
        }
    }
    None
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
        for user in ["team/a:42", "team/a%3A42", "team%2Fa%253A42"] {
            assert_eq!(of_user(user).as_deref(), Some("team/a:42"), "{user}");
        }
        for user in ["", "a b", "a%0Ab", "a%", "%6crd_x"] {
            assert_eq!(of_user(user), None, "{user}");
        }
        assert_eq!(of_user(&as_user("a:b")).as_deref(), Some("a:b"));
        let mut uri = Uri::from_static("/~a%0Ab/go/m");
        assert_eq!((take_from_path(&mut uri), uri.path()), (None, "/~a%0Ab/go/m"));
    }
}
