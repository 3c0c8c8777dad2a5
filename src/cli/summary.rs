//! What a build's end says about the cache.

use crate::model::units::rounded_bytes;
use serde::Deserialize;

use super::out;

/// What `GET /api/v1/stats` tells, of all or of one build.
#[derive(Deserialize, Debug, Default, Clone)]
#[serde(default)]
pub(crate) struct Stats {
    pub build: Option<String>,
    pub requests: u64,
    /// Requests that stored bytes answered: `Outcome::saved_a_fetch`.
    pub hits: u64,
    pub bytes_served: u64,
    pub bytes_from_upstream: u64,
    pub bytes_saved: u64,
    pub seconds_saved: f64,
    /// What of that other larders asked for.
    pub for_larders: Passed,
    /// What an agent fetched without its server.
    pub bytes_around_server: u64,
    /// By ecosystem, outcome and tier.
    pub rows: Vec<Row>,
    /// Hosts whose bytes went through unseen.
    pub tunnelled: Vec<Tunnelled>,
    /// Hosts for which the build's tools did not take larder's certificate.
    pub distrusted: Vec<Distrusted>,
    pub store: Option<Store>,
    /// None: no bucket is shared.
    pub s3: Option<Shared>,
    pub offline: bool,
}

#[derive(Deserialize, Debug, Default, Clone, Copy)]
#[serde(default)]
pub(crate) struct Passed {
    pub requests: u64,
    pub bytes_from_upstream: u64,
    pub bytes_saved: u64,
}

/// What came of a build, as the larder that it used tells it and the one behind that.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    pub here: Stats,
    pub behind: Behind,
}

#[derive(Debug, Default, Clone)]
pub(crate) enum Behind {
    /// It is no agent.
    #[default]
    Nobody,
    /// A server that does not answer.
    Lost,
    Said(Box<Stats>),
}

#[derive(Deserialize, Debug, Default, Clone)]
#[serde(default)]
pub(crate) struct Row {
    pub ecosystem: String,
    pub outcome: String,
    pub tier: String,
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
}

#[derive(Deserialize, Debug, Default, Clone, PartialEq)]
#[serde(default)]
pub(crate) struct Tunnelled {
    pub host: String,
    pub connections: u64,
    pub bytes: u64,
}

#[derive(Deserialize, Debug, Default, Clone, PartialEq)]
#[serde(default)]
pub(crate) struct Distrusted {
    pub host: String,
    pub why: String,
}

#[derive(Deserialize, Debug, Default, Clone)]
#[serde(default)]
pub(crate) struct Store {
    pub bytes: u64,
    pub budget_bytes: u64,
    pub free_bytes: u64,
    pub objects: u64,
    pub memory_bytes: u64,
}

/// The bucket that machines share, as the server stands to it.
#[derive(Deserialize, Debug, Default, Clone)]
#[serde(default)]
pub(crate) struct Shared {
    pub waiting_blobs: u64,
    pub waiting_bytes: u64,
    pub waiting_seconds: u64,
    pub shed: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub usd: f64,
}

impl Told {
    pub fn since(&self, before: &Told) -> Told {
        let behind = match (&self.behind, &before.behind) {
            (Behind::Said(now), Behind::Said(then)) => Behind::Said(Box::new(now.since(then))),
            (now, _) => now.clone(),
        };
        Told { here: self.here.since(&before.here), behind }
    }

    /// The lines at a build's end; `unseen` is what to say where no request came.
    pub fn lines(&self, label: &str, unseen: &str) -> Vec<String> {
        let (all, rest) = match &self.behind {
            Behind::Nobody => (self.here.clone(), None),
            Behind::Lost => {
                let more = "the server is lost, and what it did is not counted";
                (self.here.clone(), Some(self.shares(None, more)))
            }
            Behind::Said(server) => {
                let any = self.here.bytes_saved + server.bytes_saved + self.here.bytes_around_server > 0;
                (self.here.before(server), any.then(|| self.shares(Some(server), "")))
            }
        };
        let mut lines = all.lines(label, unseen);
        if let Some(rest) = rest {
            lines.insert(1, rest);
        }
        lines
    }

    /// What the agent did beside its server.
    fn shares(&self, server: Option<&Stats>, more: &str) -> String {
        let own = rounded_bytes(self.here.bytes_saved);
        let mut parts = vec![format!("{own} came from this machine's own store")];
        parts.extend(server.map(|server| format!("{} from the server's", rounded_bytes(server.bytes_saved))));
        if self.here.bytes_around_server > 0 {
            parts.push(format!("{} fetched around the server", rounded_bytes(self.here.bytes_around_server)));
        }
        let parts = parts.join(", ");
        if more.is_empty() { parts } else { format!("{parts}; {more}") }
    }
}

impl Stats {
    /// What was added since `before`, for a label that was used before.
    pub fn since(&self, before: &Stats) -> Stats {
        let tunnelled = self.tunnelled.iter().filter_map(|now| {
            let then = before.tunnelled.iter().find(|then| then.host == now.host).cloned().unwrap_or_default();
            let connections = now.connections.saturating_sub(then.connections);
            let bytes = now.bytes.saturating_sub(then.bytes);
            (connections + bytes > 0).then(|| Tunnelled { host: now.host.clone(), connections, bytes })
        });
        Stats {
            requests: self.requests.saturating_sub(before.requests),
            hits: self.hits.saturating_sub(before.hits),
            bytes_served: self.bytes_served.saturating_sub(before.bytes_served),
            bytes_from_upstream: self.bytes_from_upstream.saturating_sub(before.bytes_from_upstream),
            bytes_saved: self.bytes_saved.saturating_sub(before.bytes_saved),
            seconds_saved: (self.seconds_saved - before.seconds_saved).max(0.0),
            for_larders: Passed {
                requests: self.for_larders.requests.saturating_sub(before.for_larders.requests),
                bytes_from_upstream: self
                    .for_larders
                    .bytes_from_upstream
                    .saturating_sub(before.for_larders.bytes_from_upstream),
                bytes_saved: self.for_larders.bytes_saved.saturating_sub(before.for_larders.bytes_saved),
            },
            bytes_around_server: self.bytes_around_server.saturating_sub(before.bytes_around_server),
            tunnelled: tunnelled.collect(),
            distrusted: self.distrusted.iter().filter(|now| !before.distrusted.contains(now)).cloned().collect(),
            ..self.clone()
        }
    }

    /// What a build got that had an agent, which this is of, before a server: a hit of either saved a fetch. What the
    /// server was not asked for by the agent came through a tunnel, or from a container: the agent did not see it.
    fn before(&self, server: &Stats) -> Stats {
        let passed = &server.for_larders;
        let requests = self.requests + server.requests.saturating_sub(passed.requests);
        let from_upstream = self.bytes_from_upstream.saturating_sub(passed.bytes_saved);
        let mut tunnelled = server.tunnelled.clone();
        for own in &self.tunnelled {
            match tunnelled.iter_mut().find(|one| one.host == own.host) {
                Some(one) => {
                    one.connections += own.connections;
                    one.bytes += own.bytes;
                }
                None => tunnelled.push(own.clone()),
            }
        }
        Stats {
            requests,
            hits: requests.min(self.hits + server.hits),
            bytes_saved: self.bytes_saved + server.bytes_saved,
            seconds_saved: self.seconds_saved + server.seconds_saved,
            bytes_from_upstream: from_upstream + server.bytes_from_upstream.saturating_sub(passed.bytes_from_upstream),
            tunnelled,
            distrusted: self.distrusted.iter().chain(&server.distrusted).cloned().collect(),
            ..self.clone()
        }
    }

    /// `unseen`: what to say where no request came.
    fn lines(&self, label: &str, unseen: &str) -> Vec<String> {
        if self.requests == 0 && self.tunnelled.is_empty() && self.distrusted.is_empty() {
            return vec![format!("build {label}: {unseen}")];
        }
        let mut lines = vec![format!(
            "build {label}: {} of {}, {} and {} saved, {} fetched",
            out::count(self.hits, "hit", "hits"),
            out::count(self.requests, "request", "requests"),
            rounded_bytes(self.bytes_saved),
            out::seconds(self.seconds_saved),
            rounded_bytes(self.bytes_from_upstream),
        )];
        if !self.tunnelled.is_empty() {
            let mut hosts = self.tunnelled.clone();
            hosts.sort_by_key(|host| std::cmp::Reverse(host.bytes));
            let named: Vec<String> = hosts
                .iter()
                .take(8)
                .map(|host| format!("{} ({})", out::plain(&host.host), rounded_bytes(host.bytes)))
                .collect();
            let rest = hosts.len().saturating_sub(8);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            let bytes = rounded_bytes(hosts.iter().map(|host| host.bytes).sum());
            lines.push(format!(
                "{bytes} tunnelled, not cached: {}{more}; a server keeps what comes from hosts that its intercept.hosts lists",
                named.join(", ")
            ));
        }
        for one in self.distrusted.iter().take(8) {
            let (host, why) = (out::plain(&one.host), out::plain(&one.why));
            lines.push(format!(
                "{host} was not cached: a tool does not trust larder's authority ({why}); what each tool reads: larder ca \
                 tools; for one that trusts nothing but its own, take {host} out of intercept.hosts"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_what_was_saved_and_what_went_around() {
        let before = Stats { requests: 10, hits: 9, bytes_saved: 1 << 20, seconds_saved: 1.0, ..Stats::default() };
        let around = Tunnelled { host: "files.example".into(), connections: 2, bytes: 14 << 20 };
        let after = Stats {
            requests: 250,
            hits: 240,
            bytes_saved: 183 << 20,
            seconds_saved: 42.0,
            bytes_from_upstream: 2048,
            tunnelled: vec![around],
            ..Stats::default()
        };
        assert_eq!(
            after.since(&before).lines("b1", "no request seen"),
            [
                "build b1: 231 hits of 240 requests, 182 MiB and 41 s saved, 2.0 KiB fetched",
                "14 MiB tunnelled, not cached: files.example (14 MiB); a server keeps what comes from hosts that its \
                 intercept.hosts lists"
            ]
        );
        assert_eq!(after.since(&after).lines("b1", "no request seen"), ["build b1: no request seen"]);
    }

    #[test]
    fn what_agent_and_server_did_is_told_apart_and_counted_once() {
        let around = |bytes| vec![Tunnelled { host: "files.example".into(), connections: 1, bytes }];
        let passed = Passed { requests: 4, bytes_from_upstream: 1 << 20, bytes_saved: 2 << 20 };
        let here = Stats {
            requests: 10,
            hits: 5,
            bytes_saved: 5 << 20,
            bytes_from_upstream: 4 << 20,
            bytes_around_server: 1 << 20,
            tunnelled: around(1 << 20),
            ..Stats::default()
        };
        // Of its requests six came through a tunnel that it looked into.
        let server = Stats {
            requests: 10,
            hits: 3,
            bytes_saved: 3 << 20,
            bytes_from_upstream: 2 << 20,
            for_larders: passed,
            tunnelled: around(2 << 20),
            ..Stats::default()
        };
        let told = |behind| Told { here: here.clone(), behind }.since(&Told::default()).lines("b1", "no request seen");
        assert_eq!(
            told(Behind::Said(Box::new(server))),
            [
                "build b1: 8 hits of 16 requests, 8.0 MiB and 0 s saved, 3.0 MiB fetched",
                "5.0 MiB came from this machine's own store, 3.0 MiB from the server's, 1.0 MiB fetched around the server",
                "3.0 MiB tunnelled, not cached: files.example (3.0 MiB); a server keeps what comes from hosts that its \
                 intercept.hosts lists"
            ]
        );
        assert_eq!(
            told(Behind::Lost)[1],
            "5.0 MiB came from this machine's own store, 1.0 MiB fetched around the server; the server is lost, and \
             what it did is not counted"
        );
        assert_eq!(told(Behind::Nobody).len(), 2);
    }
}
