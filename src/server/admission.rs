//! Who may come in: how many connections at once, how many from one address, how many requests from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::settings::Limits;
use crate::model::party::neighbourhood;

/// The porter.
pub(crate) struct Admission {
    permits: Arc<Semaphore>,
    per_address: u32,
    rate: Option<i64>,
    addresses: Mutex<HashMap<IpAddr, Address>>,
}

struct Address {
    connections: u32,
    bucket: Option<Arc<Bucket>>,
}

/// Requests that an address may still make. Refilled by the watch, so that taking one is a subtraction.
pub(crate) struct Bucket {
    tokens: AtomicI64,
}

/// A connection that came in; its places are free again when this is dropped.
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    address: IpAddr,
    pub bucket: Option<Arc<Bucket>>,
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    pub fn new(limits: &Limits) -> Arc<Admission> {
        Arc::new(Admission {
            permits: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            per_address: limits.connections_per_address,
            rate: limits.requests_per_second.map(i64::from),
            addresses: Mutex::default(),
        })
    }

    /// Waits until one more connection may be accepted.
    ///
    /// *Cancel*: nothing is taken.
    pub async fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// *Shape*: None when the address has as many connections as it may have.
    pub fn admit(self: &Arc<Admission>, from: IpAddr, permit: OwnedSemaphorePermit) -> Option<Admitted> {
        let address = neighbourhood(from);
        let mut addresses = self.addresses.lock();
        let fresh = || Address { connections: 0, bucket: self.rate.map(|rate| Arc::new(Bucket::full(rate))) };
        let known = addresses.entry(address).or_insert_with(fresh);
        if known.connections >= self.per_address {
            return None;
        }
        known.connections += 1;
        Some(Admitted { admission: self.clone(), address, bucket: known.bucket.clone(), _permit: permit })
    }

    /// Adds a second's worth of requests to every address. Forgets those that are gone and owe nothing.
    pub fn refill(&self) {
        let Some(rate) = self.rate else { return };
        self.addresses.lock().retain(|_, address| {
            let full = address.bucket.as_ref().is_none_or(|bucket| bucket.refill(rate));
            address.connections > 0 || !full
        });
    }
}

impl Bucket {
    fn full(rate: i64) -> Bucket {
        Bucket { tokens: AtomicI64::new(burst(rate)) }
    }

    /// Takes one request. False: too many.
    pub fn take(&self) -> bool {
        if self.tokens.fetch_sub(1, Relaxed) > 0 {
            return true;
        }
        self.tokens.fetch_add(1, Relaxed);
        false
    }

    /// Whether the bucket is full now.
    fn refill(&self, rate: i64) -> bool {
        let before = self.tokens.fetch_add(rate, Relaxed);
        let over = before + rate - burst(rate);
        if over > 0 {
            self.tokens.fetch_sub(over, Relaxed);
        }
        over >= 0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut addresses = self.admission.addresses.lock();
        if let Some(address) = addresses.get_mut(&self.address) {
            address.connections -= 1;
            if address.connections == 0 && address.bucket.is_none() {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Two seconds' worth may come at once.
fn burst(rate: i64) -> i64 {
    rate.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(limits: Limits) -> Arc<Admission> {
        Admission::new(&limits)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn an_address_has_so_many_connections_and_no_more() {
        let admission = admission(Limits { connections_per_address: 2, ..Limits::default() });
        let first = admission.admit(address("2001:db8::1"), admission.permit().await);
        let second = admission.admit(address("2001:db8::2"), admission.permit().await);
        assert!(first.is_some() && second.is_some());
        assert!(admission.admit(address("2001:db8::3"), admission.permit().await).is_none());
        assert!(admission.admit(address("2001:db8:0:1::3"), admission.permit().await).is_some());
        drop(first);
        assert!(admission.admit(address("2001:db8::3"), admission.permit().await).is_some());
    }

    #[tokio::test]
    async fn a_mapped_address_is_the_address_itself() {
        let admission = admission(Limits { connections_per_address: 1, ..Limits::default() });
        let _held = admission.admit(address("::ffff:10.0.0.1"), admission.permit().await).expect("first");
        assert!(admission.admit(address("10.0.0.1"), admission.permit().await).is_none());
    }

    #[tokio::test]
    async fn the_rate_outlives_the_connection_and_is_forgotten_when_full() {
        let admission = admission(Limits { requests_per_second: Some(3), ..Limits::default() });
        let from = address("10.0.0.1");
        let admitted = admission.admit(from, admission.permit().await).expect("in");
        let taken = (0..10).filter(|_| admitted.bucket.as_ref().is_some_and(|bucket| bucket.take())).count();
        assert_eq!(taken, 6);
        drop(admitted);
        let again = admission.admit(from, admission.permit().await).expect("in");
        assert!(!again.bucket.as_ref().is_some_and(|bucket| bucket.take()));
        drop(again);
        admission.refill();
        admission.refill();
        assert_eq!(admission.addresses.lock().len(), 0);
    }
}
