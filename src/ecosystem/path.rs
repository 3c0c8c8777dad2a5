//! What grammars share of paths: percent-decoding once, and the `@HOST` form that names an upstream in the path.
//!
//! `/@HOST[:PORT]/rest` means `https://HOST[:PORT]/rest`; `/@http:HOST:PORT/rest` and `/@https:HOST/rest` say the scheme.
//! A host named like this is the client's choice and carries `Trust::Client`. Without the form, the upstreams that the
//! operator configured are meant. A path whose decoded form could climb out of its base is refused, never repaired.

use http::Method;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::model::key::Key;
use crate::model::lookup::{Fallback, Origin, Origins, Rejection, Request, Trust, Upstream};
use crate::model::realm::Scope;

/// Longest path that is looked at, in bytes as sent.
const MAX_PATH_BYTES: usize = 4096;

/// What is written as `%XX` in a segment: all that a URL's path may not hold bare, and all that would end the segment.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A request's path, taken apart: where to ask, and for what.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the path named with `@`, as it is written in addresses that we make: `/@HOST`. None: what is configured.
    pub named: Option<String>,
    /// Decoded segments below the upstream's base; none is empty, `.` or `..`, none holds a slash, backslash or control.
    pub rest: Vec<String>,
    /// Base addresses. Empty when nothing is configured and nothing was named.
    upstreams: Vec<Upstream>,
}

impl Source {
    /// Takes a request apart.
    ///
    /// *Errors*: `Invalid` for methods other than GET and HEAD, for encodings that hide a separator or a climb, and for
    /// an `@` form that is no host.
    pub fn of(request: &Request<'_>) -> Result<Source, Rejection> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(Rejection::invalid("this mount is read with GET and HEAD alone"));
        }
        let mut rest = segments(request.path)?;
        let Some(form) = rest.first().and_then(|first| first.strip_prefix('@')) else {
            return Ok(Source { named: None, rest, upstreams: request.upstreams.to_vec() });
        };
        let url = named_upstream(form)?;
        rest.remove(0);
        let named = Some(format!("/{}", name_in_path(&url)));
        let upstreams = vec![Upstream { url, next: Fallback::OnAbsence, trust: Trust::Client }];
        Ok(Source { named, rest, upstreams })
    }

    /// The same of an address that a client named as it is. None: it has a query, or userinfo, or no sound path.
    pub fn at(url: &Url) -> Option<Source> {
        let is_plain = url.query().is_none() && url.username().is_empty() && url.password().is_none();
        let rest = segments(url.path()).ok().filter(|_| is_plain)?;
        let url = url.join("/").ok()?;
        Some(Source {
            named: None,
            rest,
            upstreams: vec![Upstream { url, next: Fallback::OnAbsence, trust: Trust::Client }],
        })
    }

    /// Whether there is nobody to ask.
    pub fn is_nowhere(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// Who named the upstreams: all of a list are of one kind.
    pub fn trust(&self) -> Trust {
        self.upstreams.first().map_or(Trust::Client, |upstream| upstream.trust)
    }

    /// The addresses of `below`, an encoded path that starts with a slash, in the order to be asked.
    pub fn origins(&self, below: &str) -> Origins {
        let listed = self.upstreams.iter().map(|upstream| {
            let mut url = upstream.url.clone();
            url.set_query(None);
            url.set_fragment(None);
            url.set_path(&format!("{}{below}", upstream.url.path().trim_end_matches('/')));
            Origin { url, next: upstream.next, trust: upstream.trust }
        });
        Origins::Listed(listed.collect())
    }

    /// What `below` is filed under.
    ///
    /// One upstream: scheme, host and port in the `upstream` column, the whole path in `path`, so that a base that was
    /// configured and the same base named in the path share what is kept. Several: the list as a whole, since the
    /// answer depends on all of them.
    pub fn key(&self, ecosystem: &'static str, below: &str) -> Key {
        let (upstream, path) = match self.upstreams.as_slice() {
            [only] => (authority(&only.url), format!("{}{below}", only.url.path().trim_end_matches('/'))),
            several => (several.iter().map(listed_as).collect::<String>(), below.to_owned()),
        };
        Key { scope: Scope::shared(), ecosystem, upstream, path, variant: String::new() }
    }
}

/// Splits a path and decodes each segment once.
///
/// *Shape*: no empty segment; a path of `/` alone gives none.
pub fn segments(path: &str) -> Result<Vec<String>, Rejection> {
    let Some(below) = path.strip_prefix('/') else { return Err(Rejection::invalid("a path starts with a slash")) };
    if path.len() > MAX_PATH_BYTES {
        return Err(Rejection::invalid("the path is longer than 4096 bytes"));
    }
    if below.is_empty() {
        return Ok(Vec::new());
    }
    below.split('/').map(segment).collect()
}

/// Joins decoded segments to an encoded path: `/a/b`; nothing for no segments.
pub fn join<'a>(segments: impl IntoIterator<Item = &'a str>) -> String {
    segments.into_iter().fold(String::new(), |mut path, segment| {
        path.push('/');
        path.extend(utf8_percent_encode(segment, SEGMENT));
        path
    })
}

/// Writes an upstream as the path form names it, without the slash: `@HOST`, `@HOST:PORT`, `@http:HOST:PORT`.
pub fn name_in_path(url: &Url) -> String {
    let scheme = if url.scheme() == "https" { "" } else { "http:" };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("@{scheme}{host}{port}")
}

fn segment(raw: &str) -> Result<String, Rejection> {
    let complete = raw.split('%').skip(1).all(|after| after.get(..2).is_some_and(is_hex));
    if !complete {
        return Err(Rejection::invalid("a percent sign in the path is not followed by two hexadecimal digits"));
    }
    let Ok(text) = percent_decode_str(raw).decode_utf8() else {
        return Err(Rejection::invalid("the path is not UTF-8"));
    };
    if text.is_empty() {
        return Err(Rejection::invalid("the path has an empty segment"));
    }
    if text == "." || text == ".." {
        return Err(Rejection::invalid("the path climbs"));
    }
    if text.chars().any(|char| matches!(char, '/' | '\\') || char.is_control()) {
        return Err(Rejection::invalid("the path hides a separator or a control character"));
    }
    Ok(text.into_owned())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn named_upstream(form: &str) -> Result<Url, Rejection> {
    const WRONG: &str = "an upstream in the path is written @HOST, @HOST:PORT or @http:HOST:PORT";
    let (scheme, host) = match (form.strip_prefix("https:"), form.strip_prefix("http:")) {
        (Some(host), _) => ("https", host),
        (None, Some(host)) => ("http", host),
        (None, None) => ("https", form),
    };
    let bare = host.strip_prefix('[').map_or(host, |inside| inside.split(']').next().unwrap_or(inside));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if bare.is_empty() || bare.starts_with(':') && bare == host || !bare.bytes().all(plain) {
        return Err(Rejection::invalid(WRONG));
    }
    let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| Rejection::invalid(WRONG))?;
    let bare_authority = url.username().is_empty() && url.password().is_none() && url.host_str().is_some();
    if !bare_authority || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(Rejection::invalid(WRONG));
    }
    Ok(url)
}

/// Scheme, host and port; never userinfo.
fn authority(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// One member of a list, in Go's notation: the sign after it says when the next is asked.
fn listed_as(upstream: &Upstream) -> String {
    let sign = match upstream.next {
        Fallback::OnAbsence => ',',
        Fallback::OnFailure => '|',
    };
    format!("{}{}{sign}", authority(&upstream.url), upstream.url.path())
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::ask;
    use super::*;

    fn source(path: &str, bases: &[&str]) -> Result<Source, Rejection> {
        ask(path, bases, Source::of)
    }

    #[test]
    fn a_path_is_decoded_once() {
        let decoded = |path| segments(path).expect("is a path");
        assert_eq!(decoded("/a%21b/c+d/%252e%252e"), ["a!b", "c+d", "%2e%2e"]);
        assert_eq!(join(decoded("/a%21b/c%20d/%252e").iter().map(String::as_str)), "/a!b/c%20d/%252e");
        assert!(decoded("/").is_empty());
    }

    #[test]
    fn what_hides_a_climb_is_refused() {
        let wrong = [
            "",
            "a",
            "//",
            "/a//b",
            "/a/",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/a",
            "/.%2E/a",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/%",
            "/%4",
            "/%zz",
            "/%ff",
            "/a/%2e",
        ];
        for path in wrong {
            assert!(segments(path).is_err(), "{path}");
        }
        assert!(segments(&format!("/{}", "a".repeat(MAX_PATH_BYTES))).is_err());
    }

    #[test]
    fn an_upstream_may_stand_in_the_path() {
        for (path, base, name) in [
            ("/@go.example/m", "https://go.example/", "/@go.example"),
            ("/%40go.example/m", "https://go.example/", "/@go.example"),
            ("/@GO.example:443/m", "https://go.example/", "/@go.example"),
            ("/@go.example:8443/m", "https://go.example:8443/", "/@go.example:8443"),
            ("/@https:go.example/m", "https://go.example/", "/@go.example"),
            ("/@http:go.example:81/m", "http://go.example:81/", "/@http:go.example:81"),
            ("/@[2001:db8::1]:8443/m", "https://[2001:db8::1]:8443/", "/@[2001:db8::1]:8443"),
            ("/@http:[2001:db8::1]/m", "http://[2001:db8::1]/", "/@http:[2001:db8::1]"),
        ] {
            let source = source(path, &["https://other.example/"]).expect(path);
            assert_eq!(source.named.as_deref(), Some(name), "{path}");
            assert_eq!(source.rest, ["m"]);
            assert_eq!(source.trust(), Trust::Client);
            let Origins::Listed(origins) = source.origins("/m") else { panic!("{path}") };
            assert_eq!(origins[0].url.as_str(), format!("{base}m"));
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for path in [
            "/@/m",
            "/@user@go.example/m",
            "/@user:secret@go.example/m",
            "/@go.example:/m/..",
            "/@:80/m",
            "/@go.example:99999/m",
            "/@ftp:go.example/m",
            "/@http:/m",
            "/@[::1/m",
            "/@[::1]x/m",
            "/@go example/m",
            "/@go.example%3fq/m",
            "/@go.example%23f/m",
            "/@g\u{f6}.example/m",
        ] {
            assert!(source(path, &[]).is_err(), "{path}");
        }
    }

    #[test]
    fn a_base_in_the_path_and_the_same_one_configured_share_a_key() {
        let named = source("/@go.example/base/m", &[]).expect("is a path");
        let configured = source("/m", &["https://go.example/base/"]).expect("is a path");
        let key = configured.key("go", "/m");
        assert_eq!(key, named.key("go", "/base/m"));
        assert_eq!((key.upstream.as_str(), key.path.as_str()), ("https://go.example", "/base/m"));
    }

    #[test]
    fn lists_are_told_apart_and_show_no_secret() {
        let one = source("/m", &["https://u:secret@a.example/x/"]).expect("is a path").key("go", "/m");
        let two = source("/m", &["https://u:secret@a.example/x/", "https://b.example/"]).expect("is a path");
        assert_eq!(two.key("go", "/m").upstream, "https://a.example/x/,https://b.example/,");
        assert_ne!(one, two.key("go", "/m"));
        assert!(!format!("{one} {}", two.key("go", "/m")).contains("secret"));
    }

    #[test]
    fn only_reading_is_routed() {
        let refused = ask("/m", &[], |request| {
            Source::of(&Request { method: &Method::PUT, headers: request.headers, ..*request }).is_err()
        });
        assert!(refused);
    }
}
