//! CONNECT (RFC 9110 §9.3.6): tunnelled and metered. The bytes are opaque, so nothing is cached; what goes this way is
//! shown to the build as traffic around the cache.

use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::front::{Answered, Front, Visit, build_label};
use super::reply::{self, ReplyBody};
use crate::model::outcome::{Outcome, Reason};

const TUNNEL: Outcome = Outcome::Bypass(Reason::Tunnel);
/// Copy buffer of each direction of a tunnel, in bytes.
const COPY_BYTES: usize = 64 << 10;

impl Front {
    pub(super) async fn connect(&self, mut visit: Visit<'_>) -> Answered {
        let at = self.http_label() + 1;
        let Some((host, port)) = target(&visit) else {
            let why = "CONNECT takes HOST:PORT and nothing else\n";
            return Answered::made(reply::text(StatusCode::BAD_REQUEST, TUNNEL, why), TUNNEL, at);
        };
        let listed = if port == 443 { host.clone() } else { format!("{host}:{port}") };
        if !self.hosts.may_ask(&listed, visit.nearness()) {
            return self.host_must_wait(&listed, at);
        }
        let Some(upgrade) = visit.extensions.remove::<OnUpgrade>() else {
            let why = "this connection cannot be turned into a tunnel\n";
            return Answered::made(reply::text(StatusCode::BAD_REQUEST, TUNNEL, why), TUNNEL, at);
        };
        let mut upstream = match self.cache.tunnel(&host, port, self.hosts.trust(&listed)).await {
            Ok(upstream) => upstream,
            Err(error) => return self.failed(&error, at),
        };
        let (observers, tasks) = (self.observers.clone(), self.tasks.clone());
        let label: Option<Arc<str>> = build_label(&visit.caller);
        self.tasks.spawn("tunnel", async move {
            let Ok(upgraded) = upgrade.await else { return };
            let mut client = TokioIo::new(upgraded);
            let copy = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, COPY_BYTES, COPY_BYTES);
            let (up, down) = tokio::select! {
                copied = copy => copied.unwrap_or_default(),
                () = tasks.stopping() => (0, 0),
            };
            // Either side may be gone already; the bytes were counted.
            let _ = client.shutdown().await;
            observers.tunnelled(label.as_ref(), &host, up + down);
        });
        let response: Response<ReplyBody> = Response::new(ReplyBody::empty());
        Answered::made(response, TUNNEL, at)
    }
}

/// Host and port of an authority-form target. A port must be given.
fn target(visit: &Visit<'_>) -> Option<(String, u16)> {
    let authority = visit.uri.authority()?;
    if visit.uri.scheme().is_some() || authority.as_str().contains('@') {
        return None;
    }
    Some((authority.host().to_ascii_lowercase(), authority.port_u16()?))
}
