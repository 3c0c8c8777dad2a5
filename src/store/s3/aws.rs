//! The bucket over AWS's SDK: signatures, credentials, XML, repetition with backoff. Connections are ours (`connector`).

use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{ConfigLoader, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier, ServerSideEncryption,
    StorageClass,
};
use aws_sdk_s3::{Client, Config};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::bucket::{Body, Bucket, Got, Only, Page, Part, Put, Span, Stat, Tag, Upload, UploadId};
use super::connector::{Connector, Exchange};
use super::cost::Meter;
use super::error::S3Error;
use super::refusal::{Asked, HEAD, no_more, why};
use super::settings::{Checksum, Encryption, Settings};

/// A bucket of S3, or of a server that speaks it.
pub struct AwsBucket {
    client: Client,
    bucket: String,
    prefix: String,
    settings: Settings,
    meter: Arc<Meter>,
}

/// The field of metadata that holds a seal.
const SEAL: &str = "larder-seal";
const TYPE: &str = "application/octet-stream";
/// Bytes a second, shared by all that is sent at a time: below it uploads begin anew for ever.
const SLOW_LINE: u64 = 16 << 10;
/// The region of servers that have none.
const ANY_REGION: &str = "us-east-1";

impl AwsBucket {
    /// Finds region and credentials by the SDK's chain: environment, profile, web identity, container, instance. None:
    /// the settings name no bucket. Objects go by `objects`, what the chain asks goes by `identities`.
    ///
    /// *Errors*: `Settings`. Credentials are looked for with the first request.
    pub async fn new(
        settings: &Settings,
        objects: Arc<dyn Exchange>,
        identities: Arc<dyn Exchange>,
    ) -> Result<Option<AwsBucket>, S3Error> {
        let identities = Connector::new(identities, None);
        let mut chain = aws_config::defaults(BehaviorVersion::latest()).http_client(identities.clone());
        if let Some(profile) = &settings.profile {
            chain = chain.profile_name(profile);
        }
        if let Some(path) = &settings.credentials_file {
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
            let asking = ProviderConfig::without_region().with_http_client(identities);
            let mut provider = ProfileFileCredentialsProvider::builder().configure(&asking).profile_files(files);
            if let Some(profile) = &settings.profile {
                provider = provider.profile_name(profile);
            }
            chain = chain.credentials_provider(provider.build());
        }
        AwsBucket::found(settings, objects, chain).await
    }

    async fn found(
        settings: &Settings,
        objects: Arc<dyn Exchange>,
        mut chain: ConfigLoader,
    ) -> Result<Option<AwsBucket>, S3Error> {
        settings.check()?;
        if settings.kms_key.is_some() && settings.encryption != Encryption::Kms {
            return Err(S3Error::Settings { why: "kms_key: needs encryption = \"kms\"".to_owned() });
        }
        let Some(bucket) = settings.bucket.clone() else { return Ok(None) };
        let region = settings.region.clone().or_else(|| settings.endpoint.as_ref().map(|_| ANY_REGION.to_owned()));
        if let Some(region) = region {
            chain = chain.region(Region::new(region));
        }
        let found = chain.load().await;
        let meter = Arc::new(Meter::default());
        let client = Client::from_conf(config(settings, &found, Connector::new(objects, Some(meter.clone()))));
        let mut prefix = settings.prefix.clone();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(Some(AwsBucket { client, bucket, prefix, settings: settings.clone(), meter }))
    }

    /// With this key and secret, or with none to be found.
    #[cfg(test)]
    pub(super) async fn signing_as(
        settings: &Settings,
        objects: Arc<dyn Exchange>,
        credential: Option<(&'static str, &'static str)>,
    ) -> Result<Option<AwsBucket>, S3Error> {
        use aws_credential_types::provider::error::CredentialsError;
        use aws_credential_types::{Credentials, credential_fn::provide_credentials_fn};
        let chain = aws_config::defaults(BehaviorVersion::latest()).http_client(Connector::new(objects.clone(), None));
        let chain = chain.credentials_provider(provide_credentials_fn(move || async move {
            let (key, secret) = credential.ok_or(CredentialsError::not_loaded("nothing is set"))?;
            Ok(Credentials::new(key, secret, None, None, "test"))
        }));
        AwsBucket::found(settings, objects, chain).await
    }

    /// What was asked so far, for the bill.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn name<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.prefix.as_str())
    }

    fn asked<'a>(&'a self, doing: &'static str, name: &'a str) -> Asked<'a> {
        Asked { doing, name, bucket: &self.bucket }
    }

    fn algorithm(&self) -> ChecksumAlgorithm {
        match self.settings.checksum {
            Checksum::Crc32c => ChecksumAlgorithm::Crc32C,
            Checksum::Sha256 => ChecksumAlgorithm::Sha256,
        }
    }

    fn storage_class(&self) -> Option<StorageClass> {
        self.settings.storage_class.as_deref().map(StorageClass::from)
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        match self.settings.encryption {
            Encryption::Bucket => None,
            Encryption::S3 => Some(ServerSideEncryption::Aes256),
            Encryption::Kms => Some(ServerSideEncryption::AwsKms),
        }
    }

    /// For what has a body to send: the deadline, and what the body takes on a slow line.
    fn unhurried(&self, bytes: usize) -> Builder {
        let sending = Duration::from_secs(bytes as u64 / SLOW_LINE);
        let patience = TimeoutConfig::builder().operation_timeout(self.settings.deadline + sending).build();
        Builder::new().timeout_config(patience)
    }

    async fn put_one(&self, name: &str, object: Put) -> Result<Tag, S3Error> {
        let (absent, tag) = conditions(&object.only);
        let mut request = self.client.put_object().bucket(&self.bucket).key(self.key(name));
        if let Some(seal) = object.seal {
            request = request.metadata(SEAL, seal);
        }
        let patience = self.unhurried(object.bytes.len());
        let sent = request
            .set_if_none_match(absent)
            .set_if_match(tag)
            .content_type(TYPE)
            .checksum_algorithm(self.algorithm())
            .set_storage_class(self.storage_class())
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.settings.kms_key.clone())
            .body(ByteStream::from(object.bytes))
            .customize()
            .config_override(patience)
            .send();
        let stored = sent.await.map_err(|error| self.asked("a put", name).failed(error))?;
        Ok(Tag(stored.e_tag.unwrap_or_default()))
    }

    async fn get_one(&self, name: &str, span: Span) -> Result<Option<Got>, S3Error> {
        let range = match span {
            Span::Whole => None,
            Span::Part(range) => Some(format!("bytes={}-{}", range.start, range.end.saturating_sub(1))),
            Span::Last(bytes) => Some(format!("bytes=-{bytes}")),
        };
        let asked = range.is_some();
        let sent = self.client.get_object().bucket(&self.bucket).key(self.key(name)).set_range(range).send();
        let got = match sent.await {
            Ok(got) => got,
            Err(error) => return self.asked("a get", name).absent_or_failed(error),
        };
        let cut = |why: &str| S3Error::Unavailable { doing: "a get", why: why.to_owned() };
        let len = match (&got.content_range, asked) {
            (Some(range), _) => whole_len(range).ok_or_else(|| cut("its range cannot be read"))?,
            (None, true) if matches!(span, Span::Part(_)) => return Err(cut("it sent the whole object for a range")),
            (None, _) => length(got.content_length),
        };
        let stat = Stat { len, tag: Tag(got.e_tag.unwrap_or_default()), seal: seal_in(got.metadata.as_ref()) };
        let left = length(got.content_length);
        Ok(Some(Got { stat, body: body(got.body, left) }))
    }

    async fn list_one(&self, folder: &str, after: Option<&str>) -> Result<Page, S3Error> {
        let after = after.map(|after| self.key(after));
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(folder));
        let listed = request.set_start_after(after).send().await;
        let listed = listed.map_err(|error| self.asked("a listing", folder).failed(error))?;
        let more = listed.is_truncated.unwrap_or(false);
        let objects = listed.contents.unwrap_or_default().into_iter().filter_map(|object| {
            let name = self.name(object.key.as_deref()?)?.to_owned();
            Some((name, length(object.size)))
        });
        Ok(Page { objects: objects.collect(), more })
    }

    async fn delete_all(&self, names: Vec<String>) -> Result<Vec<(String, String)>, S3Error> {
        let failed = |why: &dyn std::error::Error| S3Error::Unavailable { doing: "a delete", why: why.to_string() };
        let mut objects = Vec::with_capacity(names.len());
        for name in &names {
            objects.push(ObjectIdentifier::builder().key(self.key(name)).build().map_err(|error| failed(&error))?);
        }
        let delete =
            Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(|error| failed(&error))?;
        let sent = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .checksum_algorithm(self.algorithm())
            .delete(delete)
            .send()
            .await;
        let left = sent.map_err(|error| self.asked("a delete", "what was listed").failed(error))?;
        let left = left.errors.unwrap_or_default().into_iter().map(|error| {
            let name = error.key.as_deref().and_then(|key| self.name(key)).unwrap_or_default().to_owned();
            (name, error.code.unwrap_or_default())
        });
        Ok(left.collect())
    }

    async fn begin_one(&self, name: &str, seal: Option<&str>) -> Result<UploadId, S3Error> {
        let mut request = self.client.create_multipart_upload().bucket(&self.bucket).key(self.key(name));
        if let Some(seal) = seal {
            request = request.metadata(SEAL, seal);
        }
        let sent = request
            .content_type(TYPE)
            .checksum_algorithm(self.algorithm())
            .set_storage_class(self.storage_class())
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.settings.kms_key.clone())
            .send();
        let begun = sent.await.map_err(|error| self.asked("beginning an upload", name).failed(error))?;
        let without = || S3Error::Unavailable { doing: "beginning an upload", why: "it has no name for it".to_owned() };
        begun.upload_id.map(UploadId).ok_or_else(without)
    }

    async fn send_part(&self, upload: &Upload, number: u16, bytes: Bytes) -> Result<Part, S3Error> {
        let patience = self.unhurried(bytes.len());
        let sent = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(&upload.name))
            .upload_id(&upload.id.0)
            .part_number(i32::from(number))
            .checksum_algorithm(self.algorithm())
            .body(ByteStream::from(bytes))
            .customize()
            .config_override(patience)
            .send();
        let part = sent.await.map_err(|error| self.asked("sending a part", &upload.name).failed(error))?;
        let checksum = match self.settings.checksum {
            Checksum::Crc32c => part.checksum_crc32_c,
            Checksum::Sha256 => part.checksum_sha256,
        };
        Ok(Part { number, tag: Tag(part.e_tag.unwrap_or_default()), checksum })
    }

    async fn complete_one(&self, upload: &Upload, parts: Vec<Part>, only: Only) -> Result<Tag, S3Error> {
        let (absent, tag) = conditions(&only);
        let parts = parts.into_iter().map(|part| {
            let sent = CompletedPart::builder().part_number(i32::from(part.number)).e_tag(part.tag.0);
            match self.settings.checksum {
                Checksum::Crc32c => sent.set_checksum_crc32_c(part.checksum),
                Checksum::Sha256 => sent.set_checksum_sha256(part.checksum),
            }
            .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(&upload.name))
            .upload_id(&upload.id.0)
            .set_if_none_match(absent)
            .set_if_match(tag)
            .multipart_upload(parts)
            .send();
        let stored = sent.await.map_err(|error| self.asked("completing an upload", &upload.name).failed(error))?;
        Ok(Tag(stored.e_tag.unwrap_or_default()))
    }

    async fn abort_one(&self, upload: &Upload) -> Result<(), S3Error> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(&upload.name));
        match request.upload_id(&upload.id.0).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.asked("aborting an upload", &upload.name).absent_or_failed(error).map(|_: Option<()>| ())
            }
        }
    }

    async fn unfinished_in(&self, folder: &str) -> Result<Vec<Upload>, S3Error> {
        let sent = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(self.key(folder)).send().await;
        let listed = sent.map_err(|error| self.asked("a listing of uploads", folder).failed(error))?;
        let uploads = listed.uploads.unwrap_or_default().into_iter().filter_map(|upload| {
            let name = self.name(upload.key.as_deref()?)?.to_owned();
            Some(Upload { name, id: UploadId(upload.upload_id?) })
        });
        Ok(uploads.collect())
    }
}

fn config(settings: &Settings, found: &SdkConfig, objects: Connector) -> Config {
    let retry = RetryConfig::standard()
        .with_max_attempts(settings.attempts)
        .with_initial_backoff(Duration::from_millis(100))
        .with_max_backoff(Duration::from_secs(10));
    let mut config = Builder::from(found)
        .http_client(objects)
        .force_path_style(settings.path_style)
        .retry_config(retry)
        .timeout_config(TimeoutConfig::builder().operation_timeout(settings.deadline).build())
        // The upstream client gives up a body that stalls.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Whatever the environment says: with `WhenRequired` no put has one.
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        // All that is read is checked by sums of ours.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    config.build()
}

impl Bucket for AwsBucket {
    fn put<'a>(&'a self, name: &'a str, object: Put) -> BoxFuture<'a, Result<Tag, S3Error>> {
        Box::pin(self.put_one(name, object))
    }

    fn get<'a>(&'a self, name: &'a str, span: Span) -> BoxFuture<'a, Result<Option<Got>, S3Error>> {
        Box::pin(self.get_one(name, span))
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, S3Error>> {
        Box::pin(async move {
            match self.client.head_object().bucket(&self.bucket).key(self.key(name)).send().await {
                Ok(found) => {
                    let seal = seal_in(found.metadata.as_ref());
                    let tag = Tag(found.e_tag.unwrap_or_default());
                    Ok(Some(Stat { len: length(found.content_length), tag, seal }))
                }
                Err(error) => self.asked(HEAD, name).absent_or_failed(error),
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page, S3Error>> {
        Box::pin(self.list_one(folder, after))
    }

    fn delete(&self, names: Vec<String>) -> BoxFuture<'_, Result<Vec<(String, String)>, S3Error>> {
        Box::pin(self.delete_all(names))
    }

    fn begin<'a>(&'a self, name: &'a str, seal: Option<&'a str>) -> BoxFuture<'a, Result<UploadId, S3Error>> {
        Box::pin(self.begin_one(name, seal))
    }

    fn part<'a>(&'a self, upload: &'a Upload, number: u16, bytes: Bytes) -> BoxFuture<'a, Result<Part, S3Error>> {
        Box::pin(self.send_part(upload, number, bytes))
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: Vec<Part>, only: Only) -> BoxFuture<'a, Result<Tag, S3Error>> {
        Box::pin(self.complete_one(upload, parts, only))
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> BoxFuture<'a, Result<(), S3Error>> {
        Box::pin(self.abort_one(upload))
    }

    fn unfinished<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<Upload>, S3Error>> {
        Box::pin(self.unfinished_in(folder))
    }
}

/// If-None-Match and If-Match.
fn conditions(only: &Only) -> (Option<String>, Option<String>) {
    match only {
        Only::Always => (None, None),
        Only::IfAbsent => (Some("*".to_owned()), None),
        Only::IfTag(tag) => (None, Some(tag.0.clone())),
    }
}

fn length(told: Option<i64>) -> u64 {
    told.and_then(|told| u64::try_from(told).ok()).unwrap_or(0)
}

/// The length behind the slash of a `Content-Range`.
fn whole_len(range: &str) -> Option<u64> {
    range.rsplit_once('/')?.1.parse().ok()
}

fn seal_in(metadata: Option<&std::collections::HashMap<String, String>>) -> Option<String> {
    metadata.and_then(|fields| fields.get(SEAL)).cloned()
}

/// An answer's body, which is over only when all `left` bytes have come.
fn body(bytes: ByteStream, left: u64) -> Body {
    let cut = |left: u64| Err(no_more(format!("{left} bytes are missing")));
    Body::new(stream::unfold((bytes, Some(left)), move |(mut bytes, left)| async move {
        let left = left?;
        match bytes.next().await {
            Some(Ok(chunk)) => match left.checked_sub(chunk.len() as u64) {
                Some(left) => Some((Ok(chunk), (bytes, Some(left)))),
                None => Some((Err(no_more("it sent more than it announced".to_owned())), (bytes, None))),
            },
            Some(Err(error)) => Some((Err(no_more(why(&error))), (bytes, None))),
            None if left > 0 => Some((cut(left), (bytes, None))),
            None => None,
        }
    }))
}
