//! One small request for each ecosystem that has something which all its mirrors have, cold then warm: what
//! `larder doctor URL` times. An archive of apt's or a Maven repository need have nothing in particular.

use std::sync::Arc;
use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Method};
use serde::Serialize;

use super::client::{Client, ClientError};
use super::discover::Found;
use crate::ecosystem::{self, path};
use crate::runtime::clock::{Clock, SystemClock};

/// Something small and mutable that most mirrors of the ecosystem have.
const PATHS: [(&str, &str); 2] = [("cargo", "se/rd/serde"), ("go", "github.com/pkg/errors/@v/list")];

/// What came of an ecosystem's probe.
#[derive(Serialize, Debug)]
pub(crate) struct Probe {
    pub ecosystem: &'static str,
    pub path: String,
    pub cold: Timing,
    pub warm: Timing,
}

#[derive(Serialize, Debug)]
pub(crate) struct Timing {
    pub status: u16,
    pub seconds: f64,
    pub bytes: usize,
    pub cache_status: Option<String>,
    /// Why there was no answer, or none of use.
    pub error: Option<String>,
}

impl Probe {
    pub fn works(&self) -> bool {
        self.cold.status == 200 && self.warm.status == 200
    }
}

/// Probes each ecosystem through `client`, by the upstream that this machine uses where it is known.
pub(crate) async fn probe(client: &Client, found: &[Found]) -> Vec<Probe> {
    let clock = SystemClock::new();
    let mut probes = Vec::new();
    for about in ecosystem::ALL.iter().map(|ecosystem| ecosystem.about()) {
        let Some((_, below)) = PATHS.iter().find(|(name, _)| *name == about.name) else { continue };
        let known = found.iter().find(|found| found.ecosystem == about.name && found.name.is_empty());
        let path = match known.and_then(|found| found.urls.first()) {
            Some((url, _)) => {
                let base = url.path().trim_end_matches('/');
                format!("/{}/{}{base}/{below}", about.name, path::name_in_path(url))
            }
            None => format!("/{}/{below}", about.name),
        };
        let cold = timed(client, &path, Probed::Cold, &clock).await;
        let warm = timed(client, &path, Probed::Warm, &clock).await;
        probes.push(Probe { ecosystem: about.name, path, cold, warm });
    }
    probes
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probed {
    /// Upstream is asked, whatever is kept.
    Cold,
    Warm,
}

async fn timed(client: &Client, path: &str, probed: Probed, clock: &Arc<dyn Clock>) -> Timing {
    let start = clock.elapsed();
    let asked = async {
        let mut headers = HeaderMap::new();
        if probed == Probed::Cold {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let response = client.send(Method::GET, path, headers, bytes::Bytes::new()).await?;
        let cache_status =
            response.headers().get("cache-status").and_then(|value| value.to_str().ok()).map(super::out::plain);
        let status = response.status().as_u16();
        let body = client.collect(response).await?;
        let error = (status != 200).then(|| reason(&body));
        Ok::<_, ClientError>((status, body.len(), cache_status, error))
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), asked).await;
    let seconds = (clock.elapsed() - start).as_secs_f64();
    match answer {
        Ok(Ok((status, bytes, cache_status, error))) => Timing { status, seconds, bytes, cache_status, error },
        Ok(Err(error)) => Timing { status: 0, seconds, bytes: 0, cache_status: None, error: Some(error.to_string()) },
        Err(_) => Timing { status: 0, seconds, bytes: 0, cache_status: None, error: Some("no end in time".to_owned()) },
    }
}

/// The first line of a refusal.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    super::out::plain(text.lines().next().unwrap_or("no reason given"))
}
