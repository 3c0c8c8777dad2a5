//! `GET /api/v1/stats?days=30&by=label`: what the ledger says of the last days, with what it cost and saved.

use http::StatusCode;

use super::api::{ApiResult, bad_request, internal, json, query};
use super::front::{Front, Visit};
use crate::cache::usage::report::LINES_MAX;
use crate::model::usage::Dimension;

/// Rows of an answer, unless it is asked for others.
const LINES: usize = 50;
/// A hundred years.
const DAYS_MAX: u32 = 36_525;

impl Front {
    pub(super) async fn usage(&self, visit: &Visit<'_>, days: &str) -> ApiResult {
        let days: u32 = days
            .parse()
            .ok()
            .filter(|days| (1..=DAYS_MAX).contains(days))
            .ok_or_else(|| bad_request(format!("{days:?} is no number of days; write ?days=30")))?;
        let by = match query(visit, "by") {
            None => Dimension::Day,
            Some(name) => Dimension::of_name(&name).ok_or_else(|| {
                let names = Dimension::ALL.map(Dimension::name).join(", ");
                bad_request(format!("nothing is counted by {name:?}; there is: {names}"))
            })?,
        };
        let lines = match query(visit, "limit") {
            None => LINES,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=LINES_MAX).contains(limit))
                .ok_or_else(|| bad_request(format!("limit: a number from 1 to {LINES_MAX}")))?,
        };
        let report = self.cache.usage_report(days, by, lines).await.map_err(internal)?;
        Ok(json(StatusCode::OK, &report))
    }
}
