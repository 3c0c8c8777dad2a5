//! What an operator may set of the store, and the limits that come of it on this volume.

use serde::{Deserialize, Serialize};

use super::files::Space;
use super::layout::{CHUNK, SEAL};
use super::s3;
use crate::model::place::Class;
use crate::model::units;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// The `[store]` table of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Room for copies of small blobs in memory.
    #[serde(with = "units::bytes")]
    pub memory_bytes: u64,
    /// Blobs above this are never copied to memory.
    #[serde(with = "units::bytes")]
    pub memory_max_blob: u64,
    /// Blobs up to this go to a segment, larger ones get a file. At most 256 KiB.
    #[serde(with = "units::bytes")]
    pub segment_border: u64,
    /// A segment is closed at this size. At most 1 GiB; made smaller when the budget is.
    #[serde(with = "units::bytes")]
    pub segment_bytes: u64,
    /// Room on the volume. None: 20 % of it, at most 50 GiB.
    #[serde(with = "units::bytes_option")]
    pub max_bytes: Option<u64>,
    /// Share of the volume that is always left free.
    pub min_free_percent: u8,
    /// Share of the budget for mutable documents.
    pub documents_percent: u8,
    /// Share of the budget for what untrusted scopes filled.
    pub untrusted_percent: u8,
    /// Files kept open. At most half of what the process may open.
    pub descriptors: usize,
    /// The bucket that machines share.
    pub s3: s3::settings::Settings,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            memory_bytes: 256 * MIB,
            memory_max_blob: MIB,
            segment_border: 64 * 1024,
            segment_bytes: 256 * MIB,
            max_bytes: None,
            min_free_percent: 5,
            documents_percent: 10,
            untrusted_percent: 20,
            descriptors: 4096,
            s3: s3::settings::Settings::default(),
        }
    }
}

/// What the settings come to on a given volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub border: u64,
    pub segment_bytes: u64,
    pub total_bytes: u64,
    /// Kept back for moving survivors out of a segment.
    pub reserve_bytes: u64,
    /// By class.
    pub budgets: [u64; Class::ALL.len()],
    pub min_free_bytes: u64,
    pub descriptors: usize,
}

impl Limits {
    pub fn of(settings: &Settings, volume: Space) -> Limits {
        let total_bytes = settings.max_bytes.unwrap_or_else(|| (volume.total / 5).min(50 * GIB));
        let border = settings.segment_border.min(CHUNK as u64);
        let fitting = (total_bytes / 32).max(MIB);
        let segment_bytes = settings.segment_bytes.min(fitting).clamp(border + 2 * SEAL as u64, GIB);
        let reserve_bytes = (2 * segment_bytes).min(total_bytes / 8);
        let open = total_bytes - reserve_bytes;
        let share = |percent: u8| percent_of(open, percent);
        let documents = share(settings.documents_percent);
        let untrusted = share(settings.untrusted_percent).min(open - documents);
        Limits {
            border,
            segment_bytes,
            total_bytes,
            reserve_bytes,
            budgets: Class::ALL.map(|class| match class {
                Class::Trusted => open - documents - untrusted,
                Class::Untrusted => untrusted,
                Class::Document => documents,
            }),
            min_free_bytes: percent_of(volume.total, settings.min_free_percent),
            descriptors: settings.descriptors.min(allowed_descriptors() / 2).max(16),
        }
    }
}

fn percent_of(bytes: u64, percent: u8) -> u64 {
    bytes / 100 * u64::from(percent.min(100)) + bytes % 100 * u64::from(percent.min(100)) / 100
}

fn allowed_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_budget_is_a_fifth_of_the_volume_at_most_50_gib() {
        let of = |total| Limits::of(&Settings::default(), Space { total, free: total });
        assert_eq!(of(100 * GIB).total_bytes, 20 * GIB);
        assert_eq!(of(1000 * GIB).total_bytes, 50 * GIB);
        assert_eq!(of(1000 * GIB).reserve_bytes, 512 * MIB);
        assert_eq!(of(100 * GIB).min_free_bytes, 5 * GIB);
    }

    #[test]
    fn classes_and_reserve_share_the_budget_without_rest() {
        for max in [MIB, 10 * MIB, GIB, 77 * GIB + 13] {
            let settings = Settings { max_bytes: Some(max), ..Settings::default() };
            let limits = Limits::of(&settings, Space { total: max, free: max });
            assert_eq!(limits.budgets.iter().sum::<u64>() + limits.reserve_bytes, max);
        }
        let greedy = Settings { documents_percent: 90, untrusted_percent: 90, ..Settings::default() };
        let limits = Limits::of(&greedy, Space { total: GIB, free: GIB });
        assert_eq!(limits.budgets[Class::Trusted as usize], 0);
    }
}
