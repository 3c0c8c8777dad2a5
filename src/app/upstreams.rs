//! Upstreams: those that the configuration names, and in the place of those that are missing the adopted ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adopted::{Adopted, check, keep_adopted};
use super::error::{StartError, StartErrorKind};
use super::parts::RunningParts;
use crate::config::Config;
use crate::ecosystem;
use crate::model::lookup::{Trust, Upstream};
use crate::protocol::hosts::host_of;
use crate::protocol::package::Upstreams;

impl RunningParts {
    /// The configured upstreams, and for ecosystems without any the adopted ones.
    pub(crate) fn upstreams(&self, config: &Config) -> Result<Upstreams, StartError> {
        let mut configured = BTreeMap::new();
        for one in ecosystem::ALL {
            let name = one.about().name;
            let listed = match config.ecosystem.get(name) {
                Some(settings) => settings.upstreams().map_err(|why| {
                    let help = "larder init prints what this machine's tools use";
                    StartError::new(StartErrorKind::Config, format!("ecosystem.{name}.upstreams: {why}"), help)
                })?,
                None => Vec::new(),
            };
            let adopted = self.adopted.lock();
            let found = adopted.iter().filter(|found| found.ecosystem == name && found.name.is_empty());
            let found = found.filter_map(|found| {
                let url = url::Url::parse(&found.url).ok()?;
                Some(Upstream { url, next: found.fallback(), trust: Trust::Configured })
            });
            let upstreams: Vec<_> = if listed.is_empty() { found.collect() } else { listed };
            configured.insert(name, upstreams);
        }
        Ok(Upstreams::new(ecosystem::ALL, configured))
    }

    /// Hosts that clients may name as if they were configured: those of all upstreams, and what was adopted for tools
    /// that have no mount, such as apt's mirrors.
    pub(crate) fn vouched(&self, config: &Config, upstreams: &Upstreams) -> Vec<String> {
        let mut hosts = upstreams.hosts();
        let adopted = self.adopted.lock();
        // What the configuration names stands in the place of what was adopted.
        let adopted = adopted.iter().filter(|one| !config.ecosystem.contains_key(&one.ecosystem));
        hosts.extend(adopted.filter_map(|one| host_of(&url::Url::parse(&one.url).ok()?)));
        hosts
    }

    /// Adopts upstreams: those of the same ecosystems are replaced.
    pub(super) async fn adopt(&self, found: Vec<Adopted>) -> Result<Vec<String>, String> {
        for one in &found {
            check(one)?;
        }
        let all = {
            let mut adopted = self.adopted.lock();
            adopted.retain(|one| !found.iter().any(|new| new.ecosystem == one.ecosystem));
            adopted.extend(found.iter().cloned());
            adopted.clone()
        };
        keep_adopted(&self.index, &all).await?;
        let config = self.config.lock().clone();
        let upstreams = self.upstreams(&config).map_err(|error| error.to_string())?;
        if let Some(front) = &*self.front.lock() {
            front.hosts.adopt(self.vouched(&config, &upstreams));
            front.upstreams.store(Arc::new(upstreams));
        }
        Ok(found.iter().map(|one| format!("{} from {}", one.ecosystem, one.url)).collect())
    }
}
