//! What `Authorization` and `Proxy-Authorization` hold: a token of ours in any of its forms, a build label, or somebody
//! else's credential (RFC 9110 §11, RFC 7617).

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::label::{self, label_of};
use super::token::Token;

/// As lenient as any upstream: what one of them would read as a token of ours must not be handed to it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a credential header holds.
pub(super) enum Credential {
    None,
    /// A token of ours, perhaps with a label.
    Ours(Token, Option<String>),
    /// Ours, but not whole.
    Mistyped,
    /// Basic with a user name and no password.
    Label(String),
    /// Somebody else's.
    Other,
}

/// The header is there twice.
#[derive(Debug)]
pub(super) struct Ambiguous;

impl Credential {
    pub fn is_ours(&self) -> bool {
        matches!(self, Credential::Ours(..) | Credential::Mistyped)
    }
}

/// Reads a header that a credential comes in.
///
/// *Errors*: it is there twice.
pub(super) fn credential(headers: &HeaderMap, name: &HeaderName) -> Result<Credential, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(Credential::None) };
    // Which one upstream would heed is anyone's guess, and ours must not slip through behind another.
    if values.next().is_some() {
        return Err(Ambiguous);
    }
    // Neither a field nor a user name need be UTF-8, and what stands beside a token of ours does not make it another's.
    let text = String::from_utf8_lossy(value.as_bytes());
    let text = text.trim();
    let (scheme, rest) = text.split_once([' ', '\t']).unwrap_or(("", text));
    if scheme.eq_ignore_ascii_case("basic") {
        return Ok(basic(rest.trim(), name));
    }
    Ok(if Token::is_ours(rest.trim()) { ours(rest.trim(), None) } else { Credential::Other })
}

fn ours(text: &str, user: Option<&str>) -> Credential {
    match Token::parse(text) {
        Some(token) => Credential::Ours(token, user.and_then(label_of).map(str::to_owned)),
        None => Credential::Mistyped,
    }
}

fn basic(encoded: &str, name: &HeaderName) -> Credential {
    let Ok(pair) = LENIENT.decode(encoded) else { return Credential::Other };
    let pair = String::from_utf8_lossy(&pair);
    // A label may hold colons, a token never does.
    if let Some((user, password)) = pair.rsplit_once(':')
        && Token::is_ours(password)
    {
        return ours(password, Some(user));
    }
    let (user, password) = pair.split_once(':').unwrap_or((&pair, ""));
    if Token::is_ours(user) {
        return ours(user, None);
    }
    if !password.is_empty() {
        return Credential::Other;
    }
    // Labels stand in the addresses of proxies alone in another form. Elsewhere that may be a secret for upstream.
    let label = if *name == PROXY_AUTHORIZATION { label::of_user(user) } else { label_of(user).map(str::to_owned) };
    label.map_or(Credential::Other, Credential::Label)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use http::header::{AUTHORIZATION, HeaderValue};

    use super::*;

    fn found(value: &[u8]) -> Credential {
        found_in(AUTHORIZATION, value)
    }

    fn found_in(name: HeaderName, value: &[u8]) -> Credential {
        let value = HeaderValue::from_bytes(value).expect("a value");
        credential(&HeaderMap::from_iter([(name.clone(), value)]), &name).expect("it is there once")
    }

    #[test]
    fn a_secret_that_is_encoded_is_not_decoded_to_a_label() {
        let value = format!("Basic {}", STANDARD.encode("team%3A42:"));
        assert!(matches!(found(value.as_bytes()), Credential::Other));
        let shown = found_in(PROXY_AUTHORIZATION, value.as_bytes());
        assert!(matches!(shown, Credential::Label(label) if label == "team:42"));
    }

    #[test]
    fn a_token_beside_bytes_that_are_not_utf_8_is_still_ours() {
        let token = Token::generate().reveal();
        let latin = STANDARD.encode([b"m\xfcller:", token.as_bytes()].concat());
        assert!(matches!(found(format!("Basic {latin}").as_bytes()), Credential::Ours(_, None)));
        for slip in [&b"\xe9"[..], "é".as_bytes()] {
            let bearer = [b"Bearer ", token.as_bytes(), slip].concat();
            assert!(matches!(found(&bearer), Credential::Mistyped), "sent on as somebody else's");
        }
        assert!(matches!(found(b"Basic \xe9"), Credential::Other));
    }
}
