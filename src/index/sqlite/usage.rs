//! Usage by day in `catalog.sqlite`.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params};

use super::sql;
use super::write::Changing;
use crate::index::catalog::UsageAsk;
use crate::index::error::IndexError;
use crate::model::usage::{Counter, Counts, Link, UsageKey, UsageRow, UsageSum};

impl Changing<'_> {
    /// Adds to the rows. Returns how many had no room of their own.
    pub(super) fn add_usage(&self, rows: &[UsageRow], rows_max: u64, oldest_day: u32) -> Result<u64, IndexError> {
        self.transaction.prepare_cached(sql::USAGE_EXPIRE)?.execute([oldest_day])?;
        let mut days: HashMap<u32, u64> = HashMap::new();
        let mut folded = 0;
        for row in rows.iter().filter(|row| row.key.day >= oldest_day) {
            if self.add_to(&row.key, &row.counts)? {
                continue;
            }
            let known = match days.entry(row.key.day) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => new.insert(self.usage_rows(row.key.day)?),
            };
            if *known < rows_max {
                *known += 1;
                self.put_usage(&row.key, &row.counts)?;
                continue;
            }
            folded += 1;
            let key = row.key.folded();
            if !self.add_to(&key, &row.counts)? {
                self.put_usage(&key, &row.counts)?;
            }
        }
        Ok(folded)
    }

    fn usage_rows(&self, day: u32) -> Result<u64, IndexError> {
        let rows: i64 = self.transaction.prepare_cached(sql::USAGE_ROWS)?.query_row([day], |row| row.get(0))?;
        Ok(rows as u64)
    }

    /// False when there is no such row.
    fn add_to(&self, key: &UsageKey, counts: &Counts) -> Result<bool, IndexError> {
        let changed = self.transaction.prepare_cached(sql::USAGE_ADD)?.execute(bound(key, counts))?;
        Ok(changed > 0)
    }

    fn put_usage(&self, key: &UsageKey, counts: &Counts) -> Result<(), IndexError> {
        self.transaction.prepare_cached(sql::USAGE_PUT)?.execute(bound(key, counts))?;
        Ok(())
    }
}

fn bound(key: &UsageKey, counts: &Counts) -> impl rusqlite::Params {
    let text = |text: &str| Value::Text(text.to_owned());
    let UsageKey { day, label, ecosystem, upstream, scope, tier, link } = key;
    let names = [text(label), text(ecosystem), text(upstream), text(scope), text(tier), text(link.name())];
    let counts = counts.0.map(|count| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)));
    rusqlite::params_from_iter(std::iter::once(Value::Integer(i64::from(*day))).chain(names).chain(counts))
}

/// What was used, summed.
pub(super) fn usage(connection: &Connection, ask: &UsageAsk) -> Result<Vec<UsageSum>, IndexError> {
    let mut statement = connection.prepare_cached(sql::USAGE)?;
    let asked = params![ask.first_day, ask.last_day, ask.by.name(), ask.limit as i64];
    let sums = statement.query_map(asked, read_sum)?;
    Ok(sums.collect::<Result<_, _>>()?)
}

fn read_sum(row: &Row<'_>) -> rusqlite::Result<UsageSum> {
    let mut counts = Counts::default();
    for counter in Counter::ALL {
        let total: f64 = row.get(2 + counter as usize)?;
        // It was summed of numbers that are not negative, and a float above the largest number becomes that.
        counts.count(counter, total as u64);
    }
    Ok(UsageSum { name: row.get(0)?, link: Link::of_name(row.get_ref(1)?.as_str()?), counts })
}
