//! Other larders beside this one, and what their links carried today: kept by the index, so that a restart begins no new day.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::error::{StartError, StartErrorKind};
use crate::config::Config;
use crate::index::Index;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::upstream::peer::link::Link;
use crate::upstream::peer::settings::PeerSettings;
use crate::upstream::peer::{Peer, Sibling};

/// Names of facts begin so; the link's name follows.
const FACT: &str = "link-bytes/";
/// What a crash may forget of a day.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// All of them, in the order in which they are asked.
#[derive(Clone, Default)]
pub(super) struct Peers {
    pub siblings: Vec<Arc<Sibling>>,
    pub links: Vec<Arc<Link>>,
}

impl Peers {
    /// Opens no socket.
    ///
    /// *Errors*: settings that cannot be carried out.
    pub fn new(config: &Config, index: &Index, clock: &Arc<dyn Clock>, tasks: &Tasks) -> Result<Peers, StartError> {
        let mut links: BTreeMap<String, Arc<Link>> = BTreeMap::new();
        let mut siblings = Vec::new();
        for (name, settings) in by_price(config) {
            let link = settings.link.as_ref().unwrap_or(name);
            let link = links.entry(link.clone()).or_insert_with(|| restored(link, index, clock)).clone();
            let made = Sibling::new(name, settings.clone(), &config.upstream, link, clock.clone(), tasks.clone());
            siblings.push(made.map_err(|error| {
                let help = "see [peers] in `larder config default`";
                StartError::new(StartErrorKind::Config, format!("peers.{name}: {error}"), help)
            })?);
        }
        Ok(Peers { siblings, links: links.into_values().collect() })
    }

    pub fn as_asked(&self) -> Vec<Arc<dyn Peer>> {
        self.siblings.iter().map(|one| one.clone() as Arc<dyn Peer>).collect()
    }

    pub fn set_offline(&self, offline: bool) {
        self.siblings.iter().for_each(|one| one.set_offline(offline));
    }

    /// Finds out who they are, and keeps what the links carry.
    pub fn maintain(&self, index: &Index, tasks: &Tasks) {
        if self.siblings.is_empty() {
            return;
        }
        for one in &self.siblings {
            let (one, stopping) = (one.clone(), tasks.clone());
            tasks.spawn("meet a peer", async move {
                tokio::select! { () = one.introduce() => {}, () = stopping.stopping() => {} }
            });
        }
        let (peers, index, stopping) = (self.clone(), index.clone(), tasks.clone());
        tasks.spawn("peers' links", async move {
            let mut kept = vec![(0, 0); peers.links.len()];
            while !stopping.is_stopping() {
                tokio::select! { () = tokio::time::sleep(KEEP_EVERY) => {}, () = stopping.stopping() => {} }
                peers.keep(&index, &mut kept).await;
            }
        });
    }

    async fn keep(&self, index: &Index, kept: &mut [(i64, u64)]) {
        for (link, kept) in self.links.iter().zip(kept) {
            let (day, bytes) = link.came_today();
            if *kept == (day, bytes) || bytes == 0 {
                continue;
            }
            let fact = format!("{FACT}{}", link.name());
            match index.put_fact(&fact, format!("{day} {bytes}").into()).await {
                Ok(()) => *kept = (day, bytes),
                Err(error) => tracing::warn!(%error, link = link.name(), "what a link carried today is not kept"),
            }
        }
    }
}

/// The cheapest first; the name decides between equals.
fn by_price(config: &Config) -> Vec<(&String, &PeerSettings)> {
    let mut peers: Vec<_> = config.peers.iter().collect();
    peers.sort_by(|(_, one), (_, other)| one.usd_per_gb.total_cmp(&other.usd_per_gb));
    peers
}

fn restored(name: &str, index: &Index, clock: &Arc<dyn Clock>) -> Arc<Link> {
    let link = Link::new(name, clock.clone());
    let fact = index.get_fact(&format!("{FACT}{name}"));
    let text = fact.as_deref().and_then(|fact| std::str::from_utf8(fact).ok());
    let numbers = text.and_then(|text| text.split_once(' '));
    if let Some((Ok(day), Ok(bytes))) = numbers.map(|(day, bytes)| (day.parse(), bytes.parse())) {
        link.restore(day, bytes);
    }
    link
}
