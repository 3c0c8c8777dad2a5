//! Entries for the fuzz targets: addresses in a request line or behind a mirror's path, and credentials.

use http::{HeaderMap, HeaderValue, Uri, header};

use super::credential::{Credential, credential};
use super::hosts::without_port;
use super::hosts::{Hosts, Settings, host_of};
use super::label;
use super::mount::split_mount;
use super::target::Targets;
use super::token::Token;

/// What policy judges must be what would be asked, and one address must be one key in both its forms.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    without_port(text);
    let (targets, hosts) = (Targets::default(), Hosts::new(&Settings::default(), []));
    for target in [targets.absolute(text, &hosts), targets.mirrored(text, &hosts)].into_iter().flatten() {
        let url = &target.url;
        assert!(matches!(url.scheme(), "http" | "https") && url.fragment().is_none(), "{url}");
        assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        assert_eq!(host_of(url).as_deref(), Some(target.host.as_str()), "{url}");
        assert!(!target.host.contains(['/', '@', '?', '#', '\\', ' ']), "{}", target.host);
        let again = targets.absolute(url.as_str(), &hosts).expect("an address that was taken once");
        assert_eq!((again.hash, &again.host), (target.hash, &target.host), "{url}");
    }
    let Ok(mut uri) = text.parse::<Uri>() else { return };
    if let Some(label) = label::take_from_path(&mut uri) {
        assert!(!label.is_empty() && !label.contains('/'), "{label}");
    }
    let (mount, rest) = split_mount(uri.path());
    assert!(!mount.contains('/') && rest.starts_with('/'), "{mount} {rest}");
}

/// A token of ours is recognised in every form it comes in, so that it never travels on as somebody else's.
pub fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(token) = Token::parse(&text) {
        assert!(token.reveal().eq_ignore_ascii_case(&text));
        assert!(Token::is_ours(&text));
    }
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let Ok(found) = credential(&headers, &header::AUTHORIZATION) else { return };
    let bearer = text.trim().strip_prefix("Bearer ").is_some_and(|rest| Token::is_ours(rest.trim()));
    assert!(!bearer || found.is_ours(), "{text}");
    if let Credential::Label(label) | Credential::Ours(_, Some(label)) = found {
        assert!(!label.is_empty() && label.is_ascii() && !label.contains(char::is_control), "{label}");
    }
}
