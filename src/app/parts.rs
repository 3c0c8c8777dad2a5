//! The parts of a larder that serves, as those who steer it hold them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use super::adopted::Adopted;
use super::peers::Peers;
use crate::cache::Cache;
use crate::cache::remote::counters::Counted;
use crate::config::Config;
use crate::index::Index;
use crate::protocol::front::Front;
use crate::protocol::gate::Gate;
use crate::protocol::owner::OwnerKey;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::server::front::Server;
use crate::server::guise::Guises;
use crate::server::tls::Certificates;
use crate::store::Store;
use crate::store::s3::aws::AwsBucket;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream::client::Client;

pub(crate) struct RunningParts {
    pub dir: PathBuf,
    pub owner: OwnerKey,
    pub cache: Cache,
    pub store: Store,
    pub index: Index,
    /// None: nothing is shared.
    pub bucket: Option<Arc<AwsBucket>>,
    pub client: Client,
    pub peers: Peers,
    pub gate: Arc<Gate>,
    pub front: Mutex<Option<Arc<Front>>>,
    pub server: Mutex<Option<Server>>,
    pub certificates: Option<Arc<Certificates>>,
    pub guises: Arc<Guises>,
    pub metrics: Arc<Metrics>,
    pub log: Arc<AccessLog>,
    pub tasks: Tasks,
    pub clock: Arc<dyn Clock>,
    pub config: Mutex<Config>,
    pub adopted: Mutex<Vec<Adopted>>,
    pub offline: AtomicBool,
}

impl RunningParts {
    /// What was done with the bucket; nothing where there is none.
    pub(super) fn shared(&self) -> Counted {
        self.cache.bucket().map(|bucket| bucket.counters().read()).unwrap_or_default()
    }

    /// How long the longest waiting blob waits to be sent.
    pub(super) fn outbox_age(&self) -> Duration {
        self.index.outbox().oldest.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest))
    }

    /// Commits what was sealed and lets go of the data directory. Fills that still run are passed on and not kept.
    pub(super) async fn let_go(&self) {
        if let Err(error) = self.cache.save_usage().await {
            tracing::warn!(%error, "what was used last is not in the ledger");
        }
        let store = self.store.clone();
        // It waits for writes under way; should the pool be gone, so are they.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        self.index.close().await;
    }
}
