//! Whether the configured bucket will do, found out by using it.

use std::sync::Arc;

use super::{Check, State};
use crate::app::bucket;
use crate::cache::usage::prices::Prices;
use crate::cli::out;
use crate::cli::where_at::Here;
use crate::model::units::rounded_bytes;
use crate::runtime::clock::{Clock, SystemClock};
use crate::runtime::tasks::Tasks;
use crate::store::s3::aws::AwsBucket;
use crate::store::s3::probe::{Abilities, Holds, probe};

/// None: no bucket is configured.
pub(super) async fn check(here: &Here) -> Option<Check> {
    let config = &here.loaded.config;
    let settings = &config.store.s3;
    let name = settings.bucket.as_ref()?;
    let clock = SystemClock::new();
    let opened = bucket::open(config, clock.clone(), Tasks::new()).await;
    let bucket = match opened {
        Ok(bucket) => Arc::new(bucket?),
        Err(error) => return Some(Check::new("s3", State::Broken, error.to_string(), "see `larder config default`")),
    };
    let began = clock.elapsed();
    Some(match probe(bucket.clone(), settings, clock.clone()).await {
        Ok(found) => judged(name, &found, &spent(&bucket, &config.ledger.prices, &*clock, began)),
        Err(error) => {
            let help = "the text above names the remedy; docs/config.md, [store.s3]";
            Check::new("s3", State::Broken, format!("{name}: {error}"), help)
        }
    })
}

fn judged(name: &str, found: &Abilities, spent: &str) -> Check {
    let lacks: Vec<&str> = [
        (found.if_absent, "overwrites what was to be put only where nothing is"),
        (found.if_same, "overwrites what was to be put only over a known object"),
        (found.lists_at_once, "does not list at once what it stored"),
    ]
    .into_iter()
    .filter_map(|(holds, lack)| (holds == Holds::No).then_some(lack))
    .collect();
    if lacks.is_empty() {
        let what = format!("{name} stores, reads, lists and deletes; conditions hold; {spent}");
        return Check::new("s3", State::Ok, what, "");
    }
    let help = "one larder can use it; for several take a server that keeps conditions, as AWS and SeaweedFS do";
    Check::new("s3", State::Warn, format!("{name} {}; {spent}", lacks.join(" and ")), help)
}

/// What the probe took.
fn spent(bucket: &AwsBucket, prices: &Prices, clock: &dyn Clock, began: std::time::Duration) -> String {
    let used = bucket.meter().used();
    let took = clock.elapsed().saturating_sub(began).as_secs_f64();
    format!(
        "{} with {} in {}, {:.6} {}",
        out::count(used.requests(), "request", "requests"),
        rounded_bytes(used.sent_bytes + used.received_bytes),
        out::seconds(took),
        used.cost(&prices.requests),
        prices.currency
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_overwrites_is_told_with_what_it_is_good_for() {
        let all = Abilities { if_absent: Holds::Yes, if_same: Holds::Yes, lists_at_once: Holds::Yes };
        assert_eq!(judged("a", &all, "1 request").state, State::Ok);
        let check = judged("a", &Abilities { if_absent: Holds::No, ..all }, "1 request");
        assert_eq!(check.state, State::Warn);
        assert!(check.what.contains("overwrites") && check.help.is_some_and(|help| help.contains("one larder")));
    }
}
