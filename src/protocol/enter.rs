//! A tunnel whose inside is looked at: entered, and served like any connection, where `intercept` says so; else carried on
//! unread, or ended. The client hears that it is open before anyone upstream does.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Response};
use hyper::upgrade::OnUpgrade;

use super::Peer;
use super::connect::carry_unless_silent;
use super::credential::credential;
use super::front::{Answered, Front, Visit};
use super::gate::{Caller, Denied, Door, Right, Strip};
use super::inside::{Inside, TunnelServer};
use super::intercept::Passage;
use super::reply::ReplyBody;
use crate::cache::relay::TunnelAsk;
use crate::model::hop;
use crate::model::outcome::Outcome;
use crate::telemetry::table::Name;

/// What told of a CONNECT who asks, before it was taken out.
#[derive(Clone)]
pub(super) struct Heeded(pub HeaderMap);

impl Front {
    /// The server, where the inside of this tunnel is worth a look.
    pub(super) fn looks_inside(&self, visit: &Visit<'_>, host: &str, port: u16) -> Option<Arc<dyn TunnelServer>> {
        let now = self.observers.clock.elapsed();
        let is_worth = !visit.headers.contains_key(hop::UNREAD) && self.intercept.looks(host, port, &visit.party, now);
        if is_worth { visit.extensions.get::<Arc<dyn TunnelServer>>().cloned() } else { None }
    }

    /// Opens a tunnel whose inside is looked at.
    pub(super) fn enter(
        &self,
        visit: Visit<'_>,
        upgrade: OnUpgrade,
        server: Arc<dyn TunnelServer>,
        (host, port): (String, u16),
        listed: &str,
    ) -> Answered {
        let (intercept, observers, tasks) = (self.intercept.clone(), self.observers.clone(), self.tasks.clone());
        let (cache, trust, idle) = (self.cache.clone(), self.hosts.trust(listed), self.tunnel_idle);
        let (label, look, party) = (visit.caller.build_label(), self.look(&visit.party), visit.party);
        let heeded = visit.extensions.get::<Heeded>().map(|heeded| heeded.0.clone()).unwrap_or_default();
        // What the server put there counts the tunnel as under way.
        let kept = visit.extensions;
        self.tasks.spawn("looked into tunnel", async move {
            let mut around = None;
            let work = async {
                let Ok(client) = upgrade.await else { return };
                let (opening, client) = server.look(client).await;
                match intercept.passage(&host, port, &opening) {
                    Passage::Enter { is_tls } => {
                        let inside = Arc::new(Inside::new(is_tls, &host, port, heeded));
                        observers.metrics.add(Name::InterceptedConnections, 1);
                        let reception = server.serve(client, inside).await;
                        tracing::debug!(%host, ?reception, "a tunnel that was entered has ended");
                        let now = observers.clock.elapsed();
                        if is_tls && intercept.learn(&host, &party, &reception, now) {
                            observers.distrusted(label.as_ref(), &host, &reception);
                        }
                    }
                    Passage::Around => {
                        match cache.tunnel(TunnelAsk { host: &host, port, trust, party: &party, look }).await {
                            Ok(upstream) => {
                                tracing::debug!(%host, ?opening, "a tunnel to a listed host is carried unread");
                                let meter = observers.metered(label.as_ref(), &host, upstream.carrier);
                                around = Some((meter.clone(), upstream.carrier));
                                carry_unless_silent(client, upstream.io, &meter, idle).await;
                            }
                            Err(error) => tracing::warn!(%host, %error, "a tunnel that was opened leads nowhere"),
                        }
                    }
                    Passage::End => {}
                }
            };
            tokio::select! { () = work => {}, () = tasks.stopping() => {} }
            if let Some((meter, carrier)) = around {
                observers.tunnelled(label.as_ref(), &host, &meter, carrier);
            }
            drop(kept);
        });
        // No request of a build: those come through it.
        Answered::made(Response::new(ReplyBody::empty()), Outcome::Generated, self.api_label())
    }

    /// Lets a caller in. Within a tunnel it is the one of the CONNECT, who is judged anew each time: tokens end.
    pub(super) fn admitted(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        needs: Right,
        door: Door,
    ) -> Result<Caller, Denied> {
        let Some(inside) = &peer.inside else { return self.gate.admit(headers, &peer.addr, needs, door) };
        let caller = self.gate.admit(inside.heeded(), &peer.addr, needs, door)?;
        // A token of ours means nothing in there, and must not go on to the host.
        let authorization = credential(headers, &AUTHORIZATION)?.is_ours();
        Ok(Caller { strip: Strip { authorization, proxy_authorization: true }, ..caller })
    }
}
