//! The probe finds out what a bucket does, and leaves nothing behind.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::fake::Fake;
use crate::runtime::clock::SystemClock;
use crate::store::s3::bucket::*;
use crate::store::s3::error::S3Error;
use crate::store::s3::probe::{Abilities, Holds, probe};
use crate::store::s3::settings::Settings;

/// A bucket that overwrites whatever the condition, or deletes nothing.
struct Odd {
    fake: Arc<Fake>,
    keeps_conditions: bool,
    deletes: bool,
}

impl Bucket for Odd {
    fn put<'a>(&'a self, name: &'a str, object: Put) -> BoxFuture<'a, Result<Tag, S3Error>> {
        let only = if self.keeps_conditions { object.only } else { Only::Always };
        self.fake.put(name, Put { only, ..object })
    }

    fn get<'a>(&'a self, name: &'a str, span: Span) -> BoxFuture<'a, Result<Option<Got>, S3Error>> {
        self.fake.get(name, span)
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, S3Error>> {
        self.fake.head(name)
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page, S3Error>> {
        self.fake.list(folder, after)
    }

    fn delete(&self, names: Vec<String>) -> BoxFuture<'_, Result<Vec<(String, String)>, S3Error>> {
        if self.deletes {
            return self.fake.delete(names);
        }
        let left = names.into_iter().map(|name| (name, "AccessDenied".to_owned())).collect();
        Box::pin(std::future::ready(Ok(left)))
    }

    fn begin<'a>(&'a self, name: &'a str, seal: Option<&'a str>) -> BoxFuture<'a, Result<UploadId, S3Error>> {
        self.fake.begin(name, seal)
    }

    fn part<'a>(&'a self, upload: &'a Upload, number: u16, bytes: Bytes) -> BoxFuture<'a, Result<Part, S3Error>> {
        self.fake.part(upload, number, bytes)
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: Vec<Part>, only: Only) -> BoxFuture<'a, Result<Tag, S3Error>> {
        self.fake.complete(upload, parts, only)
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> BoxFuture<'a, Result<(), S3Error>> {
        self.fake.abort(upload)
    }

    fn unfinished<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<Upload>, S3Error>> {
        self.fake.unfinished(folder)
    }
}

#[tokio::test]
async fn a_bucket_is_told_from_one_that_overwrites_and_nothing_is_left() {
    for (keeps_conditions, holds) in [(true, Holds::Yes), (false, Holds::No)] {
        let fake = Arc::new(Fake::default());
        let odd = Odd { fake: fake.clone(), keeps_conditions, deletes: true };
        let found = probe(Arc::new(odd), &Settings::default(), SystemClock::new()).await.expect("it stores and reads");
        assert_eq!(found, Abilities { if_absent: holds, if_same: holds, lists_at_once: Holds::Yes });
        assert_eq!(fake.names(), [""; 0]);
        assert_eq!(fake.unfinished("").await, Ok(Vec::new()));
    }
}

#[tokio::test]
async fn a_bucket_that_deletes_nothing_will_not_do() {
    let odd = Odd { fake: Arc::default(), keeps_conditions: true, deletes: false };
    let refused = probe(Arc::new(odd), &Settings::default(), SystemClock::new()).await;
    assert!(matches!(refused, Err(S3Error::Denied { doing: "a delete", .. })), "{refused:?}");
}
