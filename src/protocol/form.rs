//! Which conversation a request belongs to, by the form of its target (RFC 9112 §3.2) and the host that it names; what
//! right that takes, and what nobody is answered.

use std::net::IpAddr;

use http::header::{self, UPGRADE};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::front::Front;
use super::gate::{Door, Right};
use super::hosts::without_port;
use super::mount::is_api;
use super::node::is_node;
use super::{Peer, owner, page};

/// Which conversation a request belongs to.
pub(super) enum Form {
    Connect,
    Forward,
    /// Origin form, under one of our names.
    Ours,
    /// For the host of the tunnel that it came through.
    Inside,
    Misdirected,
}

impl Form {
    pub(super) fn door(&self) -> Door {
        match self {
            Form::Connect | Form::Forward => Door::Proxy,
            Form::Ours | Form::Misdirected => Door::Origin,
            Form::Inside => Door::Tunnel,
        }
    }
}

impl Front {
    /// What nobody is answered, whatever right it has.
    pub(super) fn unwelcome(&self, request: &Request<Incoming>, form: &Form) -> Option<(StatusCode, &'static str)> {
        if request.headers().contains_key(header::VIA) && self.control.is_looping(request.headers()) {
            return Some((StatusCode::LOOP_DETECTED, "this request has been here before\n"));
        }
        let is_for_owner = self.embedded && matches!(form, Form::Ours) && owner::is_guarded(request.uri().path());
        if is_for_owner && !self.owner.is_shown(request.headers()) {
            return Some((StatusCode::FORBIDDEN, owner::WANTED));
        }
        let from_a_page = match form {
            Form::Ours if is_command(request) => page::is_any(request.headers()),
            Form::Ours => page::is_foreign(request),
            Form::Inside if is_upgrade(request.headers()) => {
                let why = "no WebSocket or other upgrade passes here: take this host out of intercept.hosts\n";
                return Some((StatusCode::NOT_IMPLEMENTED, why));
            }
            Form::Forward | Form::Connect | Form::Inside | Form::Misdirected => false,
        };
        from_a_page.then_some((StatusCode::FORBIDDEN, "web pages are not answered here\n"))
    }

    pub(super) fn form<B>(&self, request: &Request<B>, peer: &Peer) -> Form {
        if let Some(inside) = &peer.inside {
            return if inside.agrees(request) { Form::Inside } else { Form::Misdirected };
        }
        if request.method() == Method::CONNECT {
            return Form::Connect;
        }
        let host = match request.uri().host() {
            Some(host) => host,
            None => match request.headers().get(header::HOST).and_then(|host| host.to_str().ok()) {
                Some(host) => without_port(host),
                None if request.version() == http::Version::HTTP_10 => return Form::Ours,
                None => return Form::Misdirected,
            },
        };
        let port = request.uri().port_u16();
        let is_proxy_form = request.uri().scheme().is_some() && request.version() <= http::Version::HTTP_11;
        if is_proxy_form {
            return if self.is_ours(host) && port == Some(peer.local.port()) { Form::Ours } else { Form::Forward };
        }
        if self.is_ours(host) { Form::Ours } else { Form::Misdirected }
    }

    /// IP literals cannot be rebound, so any of them is as good as ours.
    pub(super) fn is_ours(&self, host: &str) -> bool {
        if host.eq_ignore_ascii_case("localhost") || host.is_empty() {
            return true;
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        literal.parse::<IpAddr>().is_ok() || self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// Reads and fills need `read`; what changes upstream or us needs more. Of the API, readers see what this lists.
pub(super) fn needed_right(request: &Request<Incoming>, form: &Form) -> Right {
    let path = request.uri().path();
    match form {
        Form::Ours if is_command(request) => Right::Admin,
        Form::Ours if is_api(path) => {
            let open =
                matches!(path, "/api/v1/health" | "/api/v1/stats" | "/api/v1/ca") || path.starts_with("/api/v1/blobs/");
            if open { Right::Read } else { Right::Admin }
        }
        // Its questions are posted, and change nothing.
        Form::Ours if is_node(path) => Right::Read,
        Form::Ours | Form::Forward if !is_safe(request.method()) => Right::Write,
        // Within a tunnel a reader may do what it could through an unread one: `generic_unsafe` lends it no credential.
        Form::Ours | Form::Forward | Form::Connect | Form::Inside | Form::Misdirected => Right::Read,
    }
}

fn is_command(request: &Request<Incoming>) -> bool {
    is_api(request.uri().path()) && !is_safe(request.method())
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request asks for a protocol that we do not speak. HTTP/2 in the clear may be declined by going on.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    asked.any(|value| value.split(',').any(|one| !one.trim().eq_ignore_ascii_case("h2c")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_in_the_clear_is_declined_and_other_upgrades_refused() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, http::HeaderValue::from_static(value));
            is_upgrade(&headers)
        };
        assert!(with("websocket") && with("h2c, websocket") && !with("h2c") && !is_upgrade(&HeaderMap::new()));
    }
}
