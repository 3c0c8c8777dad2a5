//! What goes out to S3 and what its answers mean, over a server whose answers are written down.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use parking_lot::Mutex;

use crate::model::range::ByteRange;
use crate::runtime::clock::{Clock, TokioClock};
use crate::store::s3::aws::AwsBucket;
use crate::store::s3::bucket::{Bucket, Only, Put, Span, Tag, Upload, UploadId};
use crate::store::s3::connector::{Again, Answer, Exchange, NoAnswer};
use crate::store::s3::cost::{Prices, RequestKind};
use crate::store::s3::error::S3Error;
use crate::store::s3::settings::{Checksum, Encryption, Settings};

type Said = Result<Response<&'static str>, NoAnswer>;

/// Answers as told, and remembers what it was asked. Beyond what it was told it has no answer.
#[derive(Default)]
struct Told {
    answers: Mutex<VecDeque<Said>>,
    asked: Mutex<Vec<Request<Bytes>>>,
}

impl Told {
    fn of(answers: impl IntoIterator<Item = Said>) -> Arc<Told> {
        Arc::new(Told { answers: Mutex::new(answers.into_iter().collect()), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<Request<Bytes>> {
        std::mem::take(&mut *self.asked.lock())
    }
}

impl Exchange for Told {
    fn exchange(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Answer>, NoAnswer>> {
        self.asked.lock().push(request);
        let none = || Err(NoAnswer { why: "connection refused".into(), again: Again::MayHelp });
        let answer = self.answers.lock().pop_front().unwrap_or_else(none);
        let body = |text: &'static str| -> Answer { Box::pin(stream::iter([Ok(Bytes::from_static(text.as_bytes()))])) };
        Box::pin(std::future::ready(answer.map(|answer| answer.map(body))))
    }
}

fn answer(status: u16, body: &'static str) -> Said {
    Ok(Response::builder().status(status).header("content-length", body.len()).body(body).expect("an answer"))
}

fn error(status: u16, code: &str) -> Said {
    answer(status, format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>").leak())
}

async fn bucket(told: &Arc<Told>, settings: Settings) -> AwsBucket {
    let settings = Settings { bucket: Some("larder".into()), endpoint: Some("http://s3.test".into()), ..settings };
    let bucket = AwsBucket::signing_as(&settings, told.clone(), Some(("key", "hunter2"))).await;
    bucket.expect("settings that can be").expect("a bucket is named")
}

fn put(only: Only) -> Put {
    Put { bytes: Bytes::from_static(b"larder"), seal: Some("c2VhbA".into()), only }
}

fn header(request: &Request<Bytes>, name: &str) -> String {
    request.headers().get(name).map_or_else(String::new, |value| value.to_str().expect("text").to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_put_carries_checksum_condition_class_and_encryption() {
    let told = Told::of((0..3).map(|_| answer(200, "")));
    let settings = Settings {
        prefix: "ci/cache".into(),
        path_style: true,
        storage_class: Some("STANDARD_IA".into()),
        encryption: Encryption::Kms,
        kms_key: Some("alias/larder".into()),
        ..Settings::default()
    };
    bucket(&told, settings.clone()).await.put("v1/a", put(Only::IfAbsent)).await.expect("stored");
    let sent = told.asked().remove(0);
    assert_eq!(sent.uri().path(), "/larder/ci/cache/v1/a");
    for (name, value) in [
        ("x-amz-checksum-crc32c", "xalQgQ=="),
        ("if-none-match", "*"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "alias/larder"),
        ("x-amz-meta-larder-seal", "c2VhbA"),
    ] {
        assert_eq!(header(&sent, name), value, "{name}");
    }
    // The body's own hash is part of what is signed: a server that checks signatures checks it.
    let sha256 = crate::model::hex::encode(&<sha2::Sha256 as sha2::Digest>::digest(b"larder"));
    assert_eq!(header(&sent, "x-amz-content-sha256"), sha256);
    assert!(!format!("{sent:?}").contains("hunter2"));
    let settings = Settings { checksum: Checksum::Sha256, encryption: Encryption::S3, kms_key: None, ..settings };
    let settings = Settings { path_style: false, prefix: String::new(), ..settings };
    bucket(&told, settings).await.put("a", put(Only::IfTag(Tag("\"1\"".into())))).await.expect("stored");
    let sent = told.asked().remove(0);
    assert_eq!((sent.uri().host(), sent.uri().path()), (Some("larder.s3.test"), "/a"));
    assert_eq!(header(&sent, "if-match"), "\"1\"");
    assert_eq!(header(&sent, "x-amz-server-side-encryption"), "AES256");
    assert_eq!(header(&sent, "x-amz-checksum-sha256").len(), 44);
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_asked_again_and_each_time_is_on_the_bill() {
    let told = Told::of([error(503, "SlowDown"), error(500, "InternalError"), answer(200, "")]);
    let bucket = bucket(&told, Settings::default()).await;
    let clock = TokioClock::start();
    bucket.put("a", put(Only::Always)).await.expect("at the third time");
    assert!(clock.elapsed() < std::time::Duration::from_secs(5));
    let used = bucket.meter().used();
    assert_eq!((used.of(RequestKind::Put), used.requests(), used.sent_bytes), (3, 3, 18));
    assert!((used.cost(&Prices::default()) - 0.000_015).abs() < 1e-12);
    // Four times by default, then it is told.
    let refused = bucket.get("a", Span::Whole).await.expect_err("nobody answers");
    assert!(refused.to_string().contains("connection refused"), "{refused}");
    assert_eq!(bucket.meter().used().of(RequestKind::Get), 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_end_is_given_up_after_its_deadline() {
    struct Silent;
    impl Exchange for Silent {
        fn exchange(&self, _: Request<Bytes>) -> BoxFuture<'static, Result<Response<Answer>, NoAnswer>> {
            Box::pin(std::future::pending())
        }
    }
    let settings =
        Settings { bucket: Some("larder".into()), endpoint: Some("http://s3.test".into()), ..Settings::default() };
    let bucket = AwsBucket::signing_as(&settings, Arc::new(Silent), Some(("key", "secret"))).await;
    let bucket = bucket.expect("settings that can be").expect("a bucket is named");
    let clock = TokioClock::start();
    let silent = bucket.get("a", Span::Whole).await.expect_err("nobody answers");
    assert!(matches!(silent, S3Error::Unavailable { .. }), "{silent:?}");
    assert_eq!(clock.elapsed().as_secs(), settings.deadline.as_secs());
}

#[tokio::test(start_paused = true)]
async fn each_refusal_names_its_remedy() {
    for (said, expected) in [
        (error(404, "NoSuchBucket"), "the bucket larder does not exist here: make it, or mend bucket"),
        (error(403, "AccessDenied"), "allow s3:GetObject"),
        (error(403, "InvalidAccessKeyId"), "the access key is not known there"),
        (error(403, "SignatureDoesNotMatch"), "the secret key is not that of the access key"),
        (error(400, "ExpiredToken"), "the session's token is over"),
        (error(301, "PermanentRedirect"), "the bucket is in another region: set [store.s3] region"),
        (error(400, "AuthorizationHeaderMalformed"), "the bucket is in another region: set [store.s3] region"),
        (error(400, "InvalidStorageClass"), "mend [store.s3] storage_class"),
        (error(400, "KMS.NotFoundException"), "see [store.s3] kms_key"),
        (error(412, "PreconditionFailed"), "a is there already, or another one"),
        (error(409, "ConditionalRequestConflict"), "another writer was at a at the same moment"),
        (error(400, "Odd"), "S3 answered 400 Odd to a put: so it is"),
    ] {
        // As often as it may be asked.
        let again: Vec<Said> = (0..4).map(|_| said.clone()).collect();
        let bucket = bucket(&Told::of(again), Settings::default()).await;
        let refused = bucket.put("a", put(Only::IfAbsent)).await.expect_err(expected).to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    let skewed = Told::of((0..4).map(|_| error(403, "RequestTimeTooSkewed")));
    let refused = bucket(&skewed, Settings::default()).await.put("a", put(Only::Always)).await;
    assert_eq!(refused, Err(S3Error::Skewed));
    let slow = Told::of((0..4).map(|_| error(503, "SlowDown")));
    let refused = bucket(&slow, Settings::default()).await.put("a", put(Only::Always)).await;
    assert_eq!(refused, Err(S3Error::Slow { doing: "a put" }));
}

#[tokio::test(start_paused = true)]
async fn only_what_is_surely_absent_is_absent() {
    let none = [error(404, "NoSuchKey"), answer(404, "")];
    let bucket_ = bucket(&Told::of(none), Settings::default()).await;
    assert!(bucket_.get("a", Span::Whole).await.expect("answered").is_none());
    assert_eq!(bucket_.head("a").await, Ok(None));
    let upload = Upload { name: "a".into(), id: UploadId("1".into()) };
    let gone = bucket(&Told::of([error(404, "NoSuchUpload")]), Settings::default()).await;
    assert_eq!(gone.abort(&upload).await, Ok(()));
    for said in
        [error(404, "NoSuchBucket"), error(403, "AccessDenied"), error(400, "Odd"), answer(403, ""), answer(404, "")]
    {
        let refusing = bucket(&Told::of((0..4).map(|_| said.clone())), Settings::default()).await;
        assert!(refusing.get("a", Span::Whole).await.is_err(), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_is_believed_only_as_a_range() {
    let whole = Ok(Response::builder().header("content-length", "6").body("larder").expect("an answer"));
    let short = Response::builder().status(206).header("content-range", "bytes 1-4/6").header("content-length", "4");
    let short = Ok(short.body("ard").expect("an answer"));
    let bucket = bucket(&Told::of([whole, short]), Settings::default()).await;
    let span = Span::Part(ByteRange { start: 1, end: 5 });
    assert!(matches!(bucket.get("a", span).await, Err(S3Error::Unavailable { .. })));
    let mut got = bucket.get("a", span).await.expect("answered").expect("it is there");
    assert_eq!(got.stat.len, 6);
    assert_eq!(got.body.chunk().await, Some(Ok(Bytes::from_static(b"ard"))));
    assert!(matches!(got.body.chunk().await, Some(Err(S3Error::Unavailable { .. }))), "a byte is missing");
    assert_eq!(got.body.chunk().await, None);
}

#[tokio::test(start_paused = true)]
async fn without_a_credential_it_says_where_one_may_be() {
    let told = Told::of([]);
    let settings =
        Settings { bucket: Some("larder".into()), endpoint: Some("http://s3.test".into()), ..Settings::default() };
    let bucket = AwsBucket::signing_as(&settings, told.clone(), None).await;
    let bucket = bucket.expect("settings that can be").expect("a bucket is named");
    let refused = bucket.get("a", Span::Whole).await.expect_err("unsigned").to_string();
    assert!(refused.contains("set AWS_ACCESS_KEY_ID"), "{refused}");
    assert_eq!(told.asked().len(), 0);
}

#[tokio::test]
async fn no_bucket_is_no_s3() {
    let told = Told::of([]);
    let keyed = Settings { kms_key: Some("alias/larder".into()), ..Settings::default() };
    let refused = AwsBucket::new(&keyed, told.clone(), told.clone()).await.err().expect("a key for nothing");
    assert!(refused.to_string().starts_with("kms_key: needs encryption"), "{refused}");
    let none = AwsBucket::new(&Settings::default(), told.clone(), told.clone()).await;
    assert!(none.expect("settings that can be").is_none());
    assert!(stream::iter(told.asked()).next().await.is_none());
}
