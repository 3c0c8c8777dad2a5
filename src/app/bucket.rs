//! The bucket of the settings, reached through the upstream client: one egress gate, one TLS, one set of trusted
//! certificates and proxies for all that goes out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Request, Response};
use url::Url;

use super::error::{StartError, StartErrorKind};
use crate::cache::remote::Bucket;
use crate::cache::remote::outbox::Pace;
use crate::config::Config;
use crate::index::Index;
use crate::model::lookup::Trust;
use crate::model::party::Party;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::store::s3::aws::AwsBucket;
use crate::store::s3::bucket::{Bucket as _, Only, Put};
use crate::store::s3::connector::{Again, Answer, Exchange, NoAnswer};
use crate::store::s3::error::S3Error;
use crate::store::s3::names::probe_folder;
use crate::store::s3::remote::Remote;
use crate::store::s3::settings::Settings as S3Settings;
use crate::upstream::address::is_metadata;
use crate::upstream::client::Client;
use crate::upstream::fetch::{Fetch, FetchAsk, FetchBody, Fetched, Redirects, Resume, UpstreamError};
use crate::upstream::settings::{BreakerSettings, ProxySettings, Purpose, RetrySettings, Settings};

/// A body above this is sent in pieces, so that it is seen to move.
const PIECE: usize = 64 << 10;
/// Those of the operator's machine who ask for credentials wait no longer for a service that is not there.
const METADATA_PATIENCE: Duration = Duration::from_secs(1);

/// Makes the bucket that the settings name. None: they name none.
///
/// *Errors*: settings that cannot be carried out. Nothing is asked of S3.
pub async fn open(config: &Config, clock: Arc<dyn Clock>, tasks: Tasks) -> Result<Option<AwsBucket>, StartError> {
    let settings = &config.store.s3;
    let refused = |error: S3Error| {
        let help = "see [store.s3] of the configuration";
        StartError::new(StartErrorKind::Config, format!("store.s3: {error}"), help)
    };
    let client = |settings| Client::new(settings, clock.clone(), tasks.clone()).map_err(StartError::failed);
    let objects = Arc::new(Door { client: client(of_objects(&config.upstream))?, identity: None });
    let identity = Some(client(of_identity(&config.upstream))?);
    let identities = Arc::new(Door { client: objects.client.clone(), identity });
    AwsBucket::new(settings, objects, identities).await.map_err(refused)
}

/// The fact that tells which bucket it is.
const KNOWN: &str = "s3.bucket";
/// A start waits no longer for an answer.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Where a bucket is whose endpoint is not set, as the ledger's links may name it.
const AWS: &str = "s3.amazonaws.com";
/// What slow clients may hold in memory of what is read for them alone.
const RELAYED_BYTES: u64 = 64 << 20;

/// The bucket as the engine uses it.
///
/// *Errors*: settings that cannot be carried out.
pub(super) fn shared(
    bucket: &Arc<AwsBucket>,
    settings: &S3Settings,
    clock: &Arc<dyn Clock>,
) -> Result<Bucket, StartError> {
    let tier = |settings| Remote::new(bucket.clone(), settings, clock.clone()).map_err(StartError::failed);
    let relayed = S3Settings { in_flight_bytes: RELAYED_BYTES, ..settings.clone() };
    let pace = Pace { pack_bytes: settings.pack_bytes, pack_delay: settings.pack_delay };
    let endpoint = settings.endpoint.as_deref().and_then(|text| Url::parse(text).ok());
    let host = endpoint.as_ref().and_then(Url::host_str).unwrap_or(AWS).to_owned();
    Ok(Bucket::new(tier(settings)?, tier(&relayed)?, pace).billed(bucket.meter().clone(), host))
}

/// The bucket, tried. None: none is named.
///
/// *Errors*: those of `open` and `try_writing`.
pub(super) async fn writable(
    config: &Config,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Option<Arc<AwsBucket>>, StartError> {
    let Some(bucket) = open(config, clock.clone(), tasks.clone()).await? else { return Ok(None) };
    let bucket = Arc::new(bucket);
    try_writing(&bucket, tasks).await?;
    Ok(Some(bucket))
}

/// What is said to be in the bucket is in this one: another would be taken for one that lost everything.
///
/// *Errors*: it was another, and holds something.
pub(super) async fn known(settings: &S3Settings, index: &Index) -> Result<(), StartError> {
    let Some(bucket) = &settings.bucket else { return Ok(()) };
    // The same one may be reached by another endpoint.
    let now = format!("{bucket}/{}", settings.prefix);
    match index.get_fact(KNOWN) {
        Some(before) if before != now.as_bytes() => {
            let before = String::from_utf8_lossy(&before).into_owned();
            let what = format!("store.s3 names {now}, and what this data directory knows to be in S3 is in {before}");
            let help = "set it back, or start on another data directory with --data DIR";
            Err(StartError::new(StartErrorKind::Config, what, help))
        }
        Some(_) => Ok(()),
        None => index.put_fact(KNOWN, now.into()).await.map_err(StartError::failed),
    }
}

/// Asks by writing: a bucket that may only be read would be found out when much waits for it. One that does not answer may
/// do so later.
///
/// *Errors*: what does not get better by itself: there is no such bucket, or it may not be written to.
async fn try_writing(bucket: &Arc<AwsBucket>, tasks: &Tasks) -> Result<(), StartError> {
    let name = format!("{}start", probe_folder());
    let put = Put { bytes: Bytes::from_static(b"larder was here"), seal: None, only: Only::Always };
    let tried = tokio::time::timeout(START_PATIENCE, bucket.put(&name, put)).await;
    match tried {
        Ok(Ok(_)) => {
            let bucket = bucket.clone();
            tasks.spawn("probe", async move {
                // What is left of it costs next to nothing.
                let _ = bucket.delete(vec![name]).await;
            });
        }
        Ok(Err(error @ (S3Error::NoBucket { .. } | S3Error::Denied { .. }))) => {
            let help = "larder doctor tries all that is needed of a bucket";
            return Err(StartError::new(StartErrorKind::Config, format!("store.s3: {error}"), help));
        }
        Ok(Err(error)) => tracing::warn!(%error, "S3 does not answer as yet: what is to be sent waits here"),
        Err(_) => tracing::warn!("S3 does not answer as yet: what is to be sent waits here"),
    }
    Ok(())
}

/// The SDK repeats, and reading resumes: here each request is sent once. There is no other bucket to go to, and many reads
/// at once see the same line break, so it is left alone later and for less. Being offline is about upstreams.
fn of_objects(upstream: &Settings) -> Settings {
    Settings {
        offline: false,
        retry: RetrySettings { attempts: 1, resumes: 0, ..upstream.retry.clone() },
        breaker: BreakerSettings {
            failures: upstream.breaker.failures.saturating_mul(4),
            rest: Duration::from_secs(1),
            longest_rest: Duration::from_secs(10),
            ..upstream.breaker.clone()
        },
        ..upstream.clone()
    }
}

fn of_identity(upstream: &Settings) -> Settings {
    Settings {
        purpose: Purpose::OwnIdentity,
        connect_deadline: METADATA_PATIENCE,
        proxy: ProxySettings { from_env: false, ..ProxySettings::default() },
        credentials: Vec::new(),
        netrc: None,
        netrc_from_env: false,
        ..of_objects(upstream)
    }
}

struct Door {
    client: Client,
    /// For what asks metadata services. None: nobody does.
    identity: Option<Client>,
}

impl Door {
    fn client_for(&self, url: &Url) -> Client {
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        let identity = self.identity.as_ref().filter(|_| literal.is_some_and(is_metadata));
        identity.unwrap_or(&self.client).clone()
    }
}

impl Exchange for Door {
    fn exchange(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Answer>, NoAnswer>> {
        let (parts, bytes) = request.into_parts();
        let Ok(url) = Url::parse(&parts.uri.to_string()) else {
            let why = "its address cannot be right".to_owned();
            return Box::pin(std::future::ready(Err(NoAnswer { why, again: Again::Helpless })));
        };
        let client = self.client_for(&url);
        let ask = FetchAsk {
            method: parts.method,
            url,
            headers: parts.headers,
            body: body(bytes),
            trust: Trust::Configured,
            resume: Resume::Never,
            redirects: Redirects::PassOn,
            party: Party::of(std::net::Ipv4Addr::LOCALHOST.into(), None),
            cause: None,
        };
        Box::pin(async move { client.fetch(ask).await.map(answer).map_err(|error| none(&error)) })
    }
}

fn body(bytes: Bytes) -> FetchBody {
    if bytes.len() <= PIECE {
        return FetchBody::Bytes(bytes);
    }
    let len = Some(bytes.len() as u64);
    let pieces = stream::unfold(bytes, |mut left| async move {
        let piece = left.split_to(left.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok(piece), left))
    });
    FetchBody::Stream { len, body: Box::pin(pieces) }
}

fn answer(fetched: Fetched) -> Response<Answer> {
    let Fetched { status, headers, mut body, .. } = fetched;
    let chunks = stream::poll_fn(move |context| body.poll_chunk(context).map_err(|error| none(&error)));
    let mut answer = Response::new(Box::pin(chunks) as Answer);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

fn none(error: &UpstreamError) -> NoAnswer {
    let again = match error {
        UpstreamError::Refused { .. }
        | UpstreamError::Untrusted { .. }
        | UpstreamError::Redirects { .. }
        | UpstreamError::Offline
        | UpstreamError::SourceBroke { .. } => Again::Helpless,
        UpstreamError::Unreachable { .. }
        | UpstreamError::Silent { .. }
        | UpstreamError::Truncated { .. }
        | UpstreamError::Slow { .. }
        | UpstreamError::Protocol { .. }
        | UpstreamError::Resting { .. }
        | UpstreamError::Crowded { .. } => Again::MayHelp,
    };
    NoAnswer { why: error.to_string(), again }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::SystemClock;

    #[tokio::test]
    async fn only_who_asks_for_an_identity_reaches_metadata_services() {
        let client = |settings| Client::new(settings, SystemClock::new(), Tasks::new()).expect("settings that can be");
        let upstream = Settings { connect_deadline: Duration::from_millis(1), ..Settings::default() };
        let objects = client(of_objects(&upstream));
        let door = |identity| Door { client: objects.clone(), identity };
        let get = |url: &str| Request::get(url).body(Bytes::new()).expect("a request");
        for url in ["http://169.254.169.254/latest/api/token", "http://[fd00:ec2::254]/latest/api/token"] {
            let refused = door(None).exchange(get(url)).await.err().expect("refused");
            assert_eq!(refused.again, Again::Helpless, "{url}: {refused}");
            let address = Url::parse(url).expect("a URL");
            let identity = Settings { deny: vec!["0.0.0.0/0".parse().expect("a net")], ..of_identity(&upstream) };
            let judged = client(of_identity(&upstream)).judge(&address, Trust::Configured).await;
            assert!(judged.is_ok(), "{url}: {judged:?}");
            assert!(
                client(identity).judge(&"http://127.0.0.1/".parse().expect("a URL"), Trust::Configured).await.is_err()
            );
            let chosen = door(Some(client(of_identity(&upstream)))).client_for(&address);
            assert!(chosen.judge(&address, Trust::Configured).await.is_ok(), "{url}");
        }
        let chosen =
            door(Some(client(of_identity(&upstream)))).client_for(&"http://127.0.0.1/".parse().expect("a URL"));
        assert!(chosen.judge(&"http://127.0.0.1/".parse().expect("a URL"), Trust::Configured).await.is_ok());
    }
}
