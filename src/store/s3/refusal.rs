//! What S3's refusals mean, and what an operator does about each.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::connector::NoAnswer;
use super::error::{Flaw, S3Error};

/// What was asked, for the text of its failure.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub doing: &'static str,
    pub name: &'a str,
    pub bucket: &'a str,
}

/// What a head is called.
pub(super) const HEAD: &str = "a head";

/// An answer that broke off.
pub(super) fn no_more(why: String) -> S3Error {
    S3Error::Unavailable { doing: "reading an object", why }
}

impl Asked<'_> {
    /// Ok(None) where the failure is that there is no such object.
    pub fn absent_or_failed<T, E>(&self, error: SdkError<E, HttpResponse>) -> Result<Option<T>, S3Error>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match (error.raw_response().map(|raw| raw.status().as_u16()), error.code()) {
            (Some(404), Some("NoSuchKey" | "NoSuchUpload")) => Ok(None),
            // A head's answer has no body to say so. Any other without one may be that of somebody who stands before S3.
            (Some(404), Some("NotFound") | None) if self.doing == HEAD => Ok(None),
            _ => Err(self.failed(error)),
        }
    }

    pub fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> S3Error
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let doing = self.doing;
        let Some(status) = error.raw_response().map(|raw| raw.status().as_u16()) else {
            return match find::<CredentialsError>(&error) {
                Some(why) => S3Error::NoCredential { why: causes(why) },
                None => S3Error::Unavailable { doing, why: why(&error) },
            };
        };
        let code = error.code().unwrap_or_default().to_owned();
        let object = self.name.to_owned();
        match (status, code.as_str()) {
            (_, "NoSuchBucket") => S3Error::NoBucket { bucket: self.bucket.to_owned() },
            // Shorter than it was.
            (416, _) => S3Error::Damaged { object, flaw: Flaw::Damaged("it ends before what was asked for") },
            (412, _) => S3Error::Exists { object },
            (409, "ConditionalRequestConflict" | "OperationAborted") => S3Error::Contended { object },
            (_, "RequestTimeTooSkewed" | "RequestExpired") => S3Error::Skewed,
            (503 | 429, _) | (_, "SlowDown") => S3Error::Slow { doing },
            _ => match remedy(status, &code) {
                Some(remedy) => S3Error::Denied { doing, code: worded(status, code), remedy },
                None => {
                    let message = error.message().unwrap_or_default().chars().take(300).collect();
                    S3Error::Answered { doing, status, code, message }
                }
            },
        }
    }
}

/// What to do about a refusal. None: it is none.
fn remedy(status: u16, code: &str) -> Option<&'static str> {
    Some(match (status, code) {
        (301 | 307, _)
        | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
            "the bucket is in another region: set [store.s3] region, or endpoint"
        }
        (_, "InvalidAccessKeyId") => "the access key is not known there: see the credential, and the endpoint",
        (_, "SignatureDoesNotMatch") => "the secret key is not that of the access key: see the credential",
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => "the session's token is over: get a new one",
        (_, "InvalidStorageClass") => "mend [store.s3] storage_class",
        (_, code) if code.starts_with("KMS") => "see [store.s3] kms_key, and the key's policy",
        (401 | 403, _) => {
            "allow s3:GetObject, PutObject, DeleteObject, AbortMultipartUpload on its objects and s3:ListBucket, \
             ListBucketMultipartUploads on the bucket"
        }
        _ => return None,
    })
}

fn worded(status: u16, code: String) -> String {
    if code.is_empty() { status.to_string() } else { code }
}

/// What became of a request, without the layers of the SDK around it.
pub(super) fn why(error: &(dyn Error + 'static)) -> String {
    find::<NoAnswer>(error).map_or_else(|| causes(error), ToString::to_string)
}

/// The first `T` in a chain of causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The message of an error and of what is behind it, once each.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
