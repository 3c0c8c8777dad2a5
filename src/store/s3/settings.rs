//! What an operator may set of the bucket. Holds no secret: credentials come by the SDK's chain.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::S3Error;
use super::pack::DATA_MAX;
use crate::model::units;

const MIB: u64 = 1 << 20;
/// S3 takes no smaller part but the last.
pub(super) const PART_MIN: u64 = 5 * MIB;
/// The largest chunk by which an object is checked must find room.
const IN_FLIGHT_MIN: u64 = 64 * MIB;

/// The `[store.s3]` table of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// None: there is no S3.
    pub bucket: Option<String>,
    /// Put before all names.
    pub prefix: String,
    /// None: what environment, profile or instance say.
    pub region: Option<String>,
    /// None: that of AWS for the region.
    pub endpoint: Option<String>,
    /// The bucket in the path and not in the host.
    pub path_style: bool,
    /// As AWS's own tools write it; wins over the chain. None: environment, `~/.aws`, roles.
    pub credentials_file: Option<PathBuf>,
    /// Which part of it. None: what the environment says, or `default`.
    pub profile: Option<String>,
    /// None: the bucket's default.
    pub storage_class: Option<String>,
    pub encryption: Encryption,
    /// The key of KMS, and nothing without it. None: the account's default.
    pub kms_key: Option<String>,
    pub checksum: Checksum,
    /// Times a request is sent, the first included.
    pub attempts: u32,
    /// For a request with all its repetitions, the body of an answer excepted.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
    /// Blobs from this on are sent in parts.
    #[serde(with = "units::bytes")]
    pub multipart_from: u64,
    #[serde(with = "units::bytes")]
    pub part_bytes: u64,
    /// Parts of one blob under way at a time.
    pub parallel: usize,
    /// Bytes of all reads and uploads that may be in memory.
    #[serde(with = "units::bytes")]
    pub in_flight_bytes: u64,
    /// A read without an answer for so long, and for longer than most, is asked a second time.
    #[serde(with = "units::duration")]
    pub hedge_after: Duration,
    /// Reads asked a second time, as a percentage of all.
    pub hedge_percent: u32,
    /// Small blobs are gathered into an object until they are so many bytes…
    #[serde(with = "units::bytes")]
    pub pack_bytes: u64,
    /// …or the first of them has waited so long.
    #[serde(with = "units::duration")]
    pub pack_delay: Duration,
    /// What may wait here to be sent. None: half of the store's budget.
    #[serde(with = "units::bytes_option")]
    pub outbox_max_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            bucket: None,
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style: false,
            credentials_file: None,
            profile: None,
            storage_class: None,
            encryption: Encryption::Bucket,
            kms_key: None,
            checksum: Checksum::Crc32c,
            attempts: 4,
            deadline: Duration::from_secs(60),
            multipart_from: 16 * MIB,
            part_bytes: 8 * MIB,
            parallel: 6,
            in_flight_bytes: 128 * MIB,
            hedge_after: Duration::from_millis(150),
            hedge_percent: 2,
            pack_bytes: 16 * MIB,
            pack_delay: Duration::from_secs(5),
            outbox_max_bytes: None,
        }
    }
}

/// How objects are encrypted at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// As the bucket does by default.
    Bucket,
    /// By keys of S3 (SSE-S3).
    S3,
    /// By a key of KMS (SSE-KMS).
    Kms,
}

/// The checksum that is sent with an upload, for S3 to check and to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    Crc32c,
    Sha256,
}

impl Settings {
    /// *Errors*: `Settings`, which key is wrong and what to write instead.
    pub fn check(&self) -> Result<(), S3Error> {
        let wrong = |why: &str| Err(S3Error::Settings { why: why.to_owned() });
        let plain = |one: char| one.is_ascii_alphanumeric() || "-_./".contains(one);
        if self.prefix.starts_with('/') || self.prefix.contains("//") || !self.prefix.chars().all(plain) {
            return wrong("prefix: write letters, digits and - _ . / and begin with none of the slashes");
        }
        if self.bucket.as_ref().is_some_and(|bucket| bucket.is_empty() || !bucket.chars().all(plain)) {
            return wrong("bucket: write its name alone, without s3:// and slashes");
        }
        if self.endpoint.as_ref().is_some_and(|endpoint| !is_endpoint(endpoint)) {
            return wrong("endpoint: write an address such as https://s3.example:9000, without a user or a path");
        }
        if !(PART_MIN..=64 * MIB).contains(&self.part_bytes) {
            return wrong("part_bytes: S3 takes no part below 5MiB, larder none above 64MiB");
        }
        if self.multipart_from > IN_FLIGHT_MIN {
            return wrong("multipart_from: at most 64MiB");
        }
        if self.in_flight_bytes < IN_FLIGHT_MIN {
            return wrong("in_flight_bytes: at least 64MiB");
        }
        if !(MIB..=DATA_MAX).contains(&self.pack_bytes) {
            return wrong("pack_bytes: 1MiB to 64MiB");
        }
        if self.parallel == 0 || self.attempts == 0 {
            return wrong("parallel, attempts: at least 1");
        }
        Ok(())
    }
}

fn is_endpoint(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    plain && matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.has_host()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_the_key_that_is_wrong() {
        assert_eq!(Settings::default().check(), Ok(()));
        type Change = fn(&mut Settings);
        let wrong: [(Change, &str); 9] = [
            (|settings| settings.bucket = Some("s3://larder".into()), "bucket"),
            (|settings| settings.prefix = "/a".into(), "prefix"),
            (|settings| settings.prefix = "a b".into(), "prefix"),
            (|settings| settings.endpoint = Some("s3.example".into()), "endpoint"),
            (|settings| settings.endpoint = Some("https://user:hunter2@s3.example".into()), "endpoint"),
            (|settings| settings.part_bytes = MIB, "part_bytes"),
            (|settings| settings.in_flight_bytes = MIB, "in_flight_bytes"),
            (|settings| settings.pack_bytes = 65 * MIB, "pack_bytes"),
            (|settings| settings.parallel = 0, "parallel"),
        ];
        for (change, key) in wrong {
            let mut settings = Settings::default();
            change(&mut settings);
            let error = settings.check().expect_err(key).to_string();
            assert!(error.starts_with(key) && !error.contains("hunter2"), "{error}");
        }
    }
}
