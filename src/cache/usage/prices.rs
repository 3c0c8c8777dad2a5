//! What things cost, and what counts come to. Pure: the same counts under other prices are another sum.
//!
//! Defaults are list prices (AWS, us-east-1). A GB is 2^30 bytes and a month 730 hours, as that bill has it.

use serde::{Deserialize, Serialize};

use crate::model::usage::{Counter, Counts, Link};
use crate::store::s3::cost::{self, RequestKind};

const GB: f64 = (1_u64 << 30) as f64;
const KIB: f64 = 1024.0;
const MONTH_SECONDS: f64 = 730.0 * 3600.0;

/// The price table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    pub currency: String,
    /// For keeping a GB for a month.
    pub disk_gb_month: f64,
    pub s3_gb_month: f64,
    /// Of S3.
    pub requests: cost::Prices,
    pub transfer_gb: Transfer,
}

impl Default for Prices {
    fn default() -> Prices {
        Prices {
            currency: "USD".to_owned(),
            disk_gb_month: 0.0,
            s3_gb_month: 0.023,
            requests: cost::Prices::default(),
            transfer_gb: Transfer::default(),
        }
    }
}

/// For a GB that comes in, and for one that goes out, over each link that has a price. One table, so that who writes one
/// price keeps the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transfer {
    pub loopback_in: f64,
    pub loopback_out: f64,
    pub private_in: f64,
    pub private_out: f64,
    pub zone_in: f64,
    pub zone_out: f64,
    pub region_in: f64,
    pub region_out: f64,
    pub internet_in: f64,
    pub internet_out: f64,
    pub nat_in: f64,
    pub nat_out: f64,
}

impl Default for Transfer {
    fn default() -> Transfer {
        Transfer {
            loopback_in: 0.0,
            loopback_out: 0.0,
            private_in: 0.0,
            private_out: 0.0,
            zone_in: 0.01,
            zone_out: 0.01,
            region_in: 0.02,
            region_out: 0.02,
            internet_in: 0.0,
            internet_out: 0.09,
            nat_in: 0.045,
            nat_out: 0.045,
        }
    }
}

impl Transfer {
    /// In and out. None: nobody knows over which link.
    pub fn of(&self, link: Link) -> Option<(f64, f64)> {
        Some(match link {
            Link::Loopback => (self.loopback_in, self.loopback_out),
            Link::Private => (self.private_in, self.private_out),
            Link::Zone => (self.zone_in, self.zone_out),
            Link::Region => (self.region_in, self.region_out),
            Link::Internet => (self.internet_in, self.internet_out),
            Link::Nat => (self.nat_in, self.nat_out),
            Link::Unknown => return None,
        })
    }
}

/// What was paid, in the currency of the prices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    pub transfer: f64,
    pub requests: f64,
    pub storage: f64,
}

/// What counts come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bill {
    pub spent: Spent,
    /// For the transfer that hits made needless.
    pub saved: f64,
    /// Bytes among all these that have no price, since nobody knows over which link they went.
    pub unpriced_bytes: u64,
}

impl Prices {
    /// *Errors*: which price is none.
    pub fn check(&self) -> Result<(), String> {
        let of_requests = [self.requests.put_per_1000, self.requests.get_per_1000];
        let single = [self.disk_gb_month, self.s3_gb_month].into_iter().chain(of_requests);
        let of_links = Link::ALL.into_iter().filter_map(|link| self.transfer_gb.of(link));
        for price in single.chain(of_links.flat_map(|(received, sent)| [received, sent])) {
            if !price.is_finite() || price < 0.0 {
                return Err(format!("{price} is no price; write a number that is not negative"));
            }
        }
        let is_word = !self.currency.is_empty() && self.currency.bytes().all(|byte| byte.is_ascii_graphic());
        if is_word { Ok(()) } else { Err("the currency is one word, such as USD".to_owned()) }
    }

    /// What the counts of one link come to.
    pub fn bill(&self, link: Link, counts: &Counts) -> Bill {
        let of = |counter| counts.of(counter) as f64;
        let known = self.transfer_gb.of(link);
        let (received, sent) = known.unwrap_or_default();
        let came = of(Counter::FetchedBytes) + of(Counter::S3ReceivedBytes);
        let went = of(Counter::ServedBytes) + of(Counter::S3SentBytes);
        let storage = of(Counter::DiskKibSeconds) * self.disk_gb_month + of(Counter::S3KibSeconds) * self.s3_gb_month;
        let spent = Spent {
            transfer: (came * received + went * sent) / GB,
            requests: self.requests.cost(|kind| counts.of(counter(kind))),
            storage: storage * KIB / GB / MONTH_SECONDS,
        };
        let saved = of(Counter::SavedBytes) * received / GB;
        let bytes = [
            Counter::FetchedBytes,
            Counter::S3ReceivedBytes,
            Counter::ServedBytes,
            Counter::S3SentBytes,
            Counter::SavedBytes,
        ];
        let unpriced = bytes.into_iter().map(|counter| counts.of(counter)).fold(0, u64::saturating_add);
        Bill { spent, saved, unpriced_bytes: if known.is_none() { unpriced } else { 0 } }
    }
}

/// What a count of S3 requests is called.
pub fn counter(kind: RequestKind) -> Counter {
    match kind {
        RequestKind::Put => Counter::S3Put,
        RequestKind::Part => Counter::S3Part,
        RequestKind::List => Counter::S3List,
        RequestKind::Get => Counter::S3Get,
        RequestKind::Head => Counter::S3Head,
        RequestKind::Delete => Counter::S3Delete,
    }
}

impl Bill {
    pub fn add(&mut self, other: &Bill) {
        self.spent.transfer += other.spent.transfer;
        self.spent.requests += other.spent.requests;
        self.spent.storage += other.spent.storage;
        self.saved += other.saved;
        self.unpriced_bytes = self.unpriced_bytes.saturating_add(other.unpriced_bytes);
    }
}

impl Spent {
    pub fn total(&self) -> f64 {
        self.transfer + self.requests + self.storage
    }
}

/// How many GB were kept for a month, or twice as many for half of it.
pub fn gb_months(kib_seconds: u64) -> f64 {
    kib_seconds as f64 * KIB / GB / MONTH_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_GB: u64 = 1 << 30;

    fn counts(of: &[(Counter, u64)]) -> Counts {
        let mut counts = Counts::default();
        of.iter().for_each(|(counter, amount)| counts.count(*counter, *amount));
        counts
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn a_gb_costs_what_its_link_and_its_way_cost() {
        let prices = Prices::default();
        let in_and_out = counts(&[(Counter::FetchedBytes, ONE_GB), (Counter::ServedBytes, 10 * ONE_GB)]);
        for (link, transfer) in [
            (Link::Loopback, 0.0),
            (Link::Private, 0.0),
            (Link::Zone, 0.01 + 0.1),
            (Link::Region, 0.02 + 0.2),
            (Link::Internet, 0.9),
            (Link::Nat, 0.045 + 0.45),
            (Link::Unknown, 0.0),
        ] {
            let bill = prices.bill(link, &in_and_out);
            assert!(near(bill.spent.total(), transfer), "{link:?}: {bill:?}");
            let unpriced = if link == Link::Unknown { 11 * ONE_GB } else { 0 };
            assert_eq!((bill.saved, bill.unpriced_bytes), (0.0, unpriced), "{link:?}");
        }
    }

    #[test]
    fn what_hits_made_needless_is_saved_and_not_spent() {
        let bill = Prices::default().bill(Link::Nat, &counts(&[(Counter::SavedBytes, 100 * ONE_GB)]));
        assert!(near(bill.saved, 4.5) && near(bill.spent.total(), 0.0), "{bill:?}");
        let unknown = Prices::default().bill(Link::Unknown, &counts(&[(Counter::SavedBytes, 7)]));
        assert_eq!((unknown.saved, unknown.unpriced_bytes), (0.0, 7));
    }

    #[test]
    fn s3_is_paid_by_request_and_by_gb_and_month() {
        let prices = Prices::default();
        let requests = counts(&[
            (Counter::S3Put, 1_000_000),
            (Counter::S3Part, 1000),
            (Counter::S3List, 1000),
            (Counter::S3Get, 1_000_000),
            (Counter::S3Head, 1000),
            (Counter::S3Delete, 1_000_000),
        ]);
        let bill = prices.bill(Link::Private, &requests);
        assert!(near(bill.spent.requests, 5.0 + 0.005 + 0.005 + 0.4 + 0.0004), "{bill:?}");
        // 100 GB for half a month.
        let half = (100 << 20) * 365 * 3600;
        let bill = prices.bill(Link::Private, &counts(&[(Counter::S3KibSeconds, half)]));
        assert!(near(bill.spent.storage, 1.15) && near(gb_months(half), 50.0), "{bill:?}");
        let disk = counts(&[(Counter::DiskKibSeconds, half)]);
        assert!(near(prices.bill(Link::Loopback, &disk).spent.storage, 0.0));
        let dear = Prices { disk_gb_month: 0.08, ..prices };
        assert!(near(dear.bill(Link::Loopback, &disk).spent.storage, 4.0));
        let moved = counts(&[(Counter::S3SentBytes, ONE_GB), (Counter::S3ReceivedBytes, 2 * ONE_GB)]);
        assert!(near(dear.bill(Link::Region, &moved).spent.transfer, 0.06));
    }

    #[test]
    fn bills_add_up() {
        let prices = Prices::default();
        let some = counts(&std::array::from_fn::<_, { Counter::COUNT }, _>(|at| (Counter::ALL[at], 1 << 33)));
        let mut twice = some;
        twice.add(&some);
        let mut sum = prices.bill(Link::Nat, &some);
        sum.add(&prices.bill(Link::Nat, &some));
        let whole = prices.bill(Link::Nat, &twice);
        assert!(near(sum.spent.total(), whole.spent.total()) && near(sum.saved, whole.saved));
        assert!(sum.spent.total() > 0.0 && sum.saved > 0.0);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        Prices::default().check().expect("list prices");
        for wrong in [-0.01, f64::NAN, f64::INFINITY] {
            let transfer_gb = Transfer { nat_out: wrong, ..Transfer::default() };
            assert!(Prices { transfer_gb, ..Prices::default() }.check().is_err());
            assert!(Prices { s3_gb_month: wrong, ..Prices::default() }.check().is_err());
        }
        for wrong in ["", "US dollars"] {
            assert!(Prices { currency: wrong.to_owned(), ..Prices::default() }.check().is_err(), "{wrong:?}");
        }
    }
}
