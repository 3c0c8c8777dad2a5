//! Requests to S3 by kind, what they moved, and what that costs: counted where they are sent, repetitions included, since
//! each is on the bill.

use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use serde::{Deserialize, Serialize};

/// What a request asks for, as the bill tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RequestKind {
    Put,
    /// A part of an upload; beginning and completing one too.
    Part,
    List,
    Get,
    Head,
    /// Deleting and aborting: free.
    Delete,
}

impl RequestKind {
    pub const ALL: [RequestKind; 6] = [
        RequestKind::Put,
        RequestKind::Part,
        RequestKind::List,
        RequestKind::Get,
        RequestKind::Head,
        RequestKind::Delete,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            RequestKind::Put => "put",
            RequestKind::Part => "part",
            RequestKind::List => "list",
            RequestKind::Get => "get",
            RequestKind::Head => "head",
            RequestKind::Delete => "delete",
        }
    }

    /// The kind of an S3 request.
    pub(super) fn of(method: &Method, query: &str) -> RequestKind {
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match *method {
            Method::PUT if has("uploadId") => RequestKind::Part,
            Method::PUT => RequestKind::Put,
            Method::POST if has("delete") => RequestKind::Delete,
            Method::POST => RequestKind::Part,
            Method::DELETE => RequestKind::Delete,
            Method::HEAD => RequestKind::Head,
            Method::GET if has("list-type") || has("uploads") => RequestKind::List,
            _ => RequestKind::Get,
        }
    }
}

/// Counters of one bucket.
#[derive(Default)]
pub struct Meter {
    requests: [AtomicU64; RequestKind::ALL.len()],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// What they stood at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Used {
    requests: [u64; RequestKind::ALL.len()],
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// What a thousand requests cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// PUT, POST and LIST.
    pub put_per_1000: f64,
    /// GET and HEAD.
    pub get_per_1000: f64,
}

impl Default for Prices {
    fn default() -> Prices {
        Prices { put_per_1000: 0.005, get_per_1000: 0.0004 }
    }
}

impl Meter {
    pub(super) fn count(&self, kind: RequestKind, sent: u64) {
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn used(&self) -> Used {
        Used {
            requests: RequestKind::ALL.map(|kind| self.requests[kind as usize].load(Ordering::Relaxed)),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Used {
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.requests[kind as usize]
    }

    pub fn requests(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// In the currency of the prices.
    pub fn cost(&self, prices: &Prices) -> f64 {
        prices.cost(|kind| self.of(kind))
    }
}

impl Prices {
    /// What so many requests of each kind cost.
    pub fn cost(&self, requests: impl Fn(RequestKind) -> u64) -> f64 {
        let cost = |kind| {
            let each = match kind {
                RequestKind::Put | RequestKind::Part | RequestKind::List => self.put_per_1000,
                RequestKind::Get | RequestKind::Head => self.get_per_1000,
                RequestKind::Delete => 0.0,
            };
            requests(kind) as f64 * each / 1000.0
        };
        RequestKind::ALL.into_iter().map(cost).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_as_the_bill_does() {
        for (method, query, kind) in [
            (Method::PUT, "x-id=PutObject", RequestKind::Put),
            (Method::PUT, "x-id=UploadPart&partNumber=1&uploadId=a", RequestKind::Part),
            (Method::POST, "uploads", RequestKind::Part),
            (Method::POST, "uploadId=a", RequestKind::Part),
            (Method::POST, "delete", RequestKind::Delete),
            (Method::DELETE, "uploadId=a", RequestKind::Delete),
            (Method::GET, "list-type=2&prefix=a", RequestKind::List),
            (Method::GET, "uploads&prefix=delete", RequestKind::List),
            (Method::GET, "x-id=GetObject", RequestKind::Get),
            (Method::HEAD, "", RequestKind::Head),
        ] {
            assert_eq!(RequestKind::of(&method, query), kind, "{method} {query}");
        }
    }

    #[test]
    fn a_million_of_each_costs_what_the_list_says() {
        let meter = Meter::default();
        for kind in RequestKind::ALL {
            (0..1000).for_each(|_| meter.count(kind, 2));
        }
        let used = meter.used();
        assert_eq!((used.requests(), used.sent_bytes), (6000, 12_000));
        let cost = used.cost(&Prices::default());
        assert!((cost - (3.0 * 0.005 + 2.0 * 0.0004)).abs() < 1e-9, "{cost}");
    }
}
