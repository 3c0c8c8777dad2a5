//! One small request for each ecosystem, cold then warm: what `larder doctor URL` times. It is for something that all
//! mirrors of the ecosystem have; an archive of apt's need have nothing in particular but the suites of those who use it.

use std::sync::Arc;
use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Method};
use serde::Serialize;

use super::client::{Client, ClientError};
use super::discover::Found;
use super::tools;
use super::upstream::Upstreams;
use crate::ecosystem::{self, path};
use crate::model::lookup::About;
use crate::runtime::clock::{Clock, SystemClock};

/// What came of all ecosystems.
#[derive(Default, Debug)]
pub(crate) struct Probes {
    pub probed: Vec<Probe>,
    pub not_probed: Vec<NotProbed>,
}

#[derive(Serialize, Debug)]
pub(crate) struct NotProbed {
    pub ecosystem: &'static str,
    pub why: String,
}

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

/// Probes each ecosystem through `client`, by the upstream that this machine uses, else by the server's own. `listed`: what
/// the server has. None: it does not tell, and is asked all the same.
pub(crate) async fn probe(client: &Client, found: &[Found], listed: Option<&Upstreams>) -> Probes {
    let clock = SystemClock::new();
    let mut probes = Probes::default();
    for about in ecosystem::ALL.iter().map(|ecosystem| ecosystem.about()) {
        match path_of(about, found, listed) {
            Ok(path) => {
                let cold = timed(client, &path, Probed::Cold, &clock).await;
                let warm = timed(client, &path, Probed::Warm, &clock).await;
                probes.probed.push(Probe { ecosystem: about.name, path, cold, warm });
            }
            Err(why) => probes.not_probed.push(NotProbed { ecosystem: about.name, why }),
        }
    }
    probes
}

/// What is asked for.
///
/// *Errors*: why nothing can be.
fn path_of(about: &About, found: &[Found], listed: Option<&Upstreams>) -> Result<String, String> {
    let About { name, probe, .. } = about;
    let known = found.iter().find(|found| found.ecosystem == *name && found.name.is_empty());
    let told = known.and_then(|found| found.settings.get("release")).map(String::as_str);
    let below = told.or(*probe);
    let has = |listed: &Upstreams| listed.upstreams.iter().any(|one| one.ecosystem == *name && one.state != "pending");
    let is_listed = listed.is_none_or(has);
    match (known, below) {
        (Some(found), _) if tools::is_private(found) => Err(tools::asked_directly(name, found)),
        (Some(found), None) => Err(format!("{} tells nothing that is there for certain", found.from)),
        (Some(found), Some(below)) => {
            let url = found.urls.first().map(|(url, _)| url).ok_or("it has no address")?;
            let base = url.path().trim_end_matches('/');
            Ok(format!("/{name}/{}{base}/{below}", path::name_in_path(url)))
        }
        (None, Some(below)) if is_listed => Ok(format!("/{name}/{below}")),
        (None, None) if is_listed => {
            Err(format!("this machine has no sources of {name}, which would tell what is there"))
        }
        (None, _) => Err(format!("neither this machine's tools nor the server have an upstream for {name}")),
    }
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

#[cfg(test)]
mod tests {
    use super::super::upstream::Listed;
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_the_machine_or_the_server_has() {
        let about =
            |name: &str| ecosystem::ALL.iter().map(|one| one.about()).find(|about| about.name == name).expect("known");
        let path = |name: &str, found: Option<&Found>, listed: &[&str]| {
            let of = |name: &&str| Listed { ecosystem: (*name).into(), state: "adopted".into(), ..Listed::default() };
            let listed = Upstreams { upstreams: listed.iter().map(of).collect() };
            path_of(about(name), found.map(std::slice::from_ref).unwrap_or_default(), Some(&listed))
        };
        let mut apt = Found::one("apt", "", "/etc/apt/x".into(), "http://apt.example:81/debian").expect("an address");
        assert!(path("apt", Some(&apt), &[]).is_err_and(|why| why.contains("/etc/apt/x")));
        apt.settings.insert("release", "dists/s/InRelease".into());
        assert_eq!(path("apt", Some(&apt), &[]).as_deref(), Ok("/apt/@http:apt.example:81/debian/dists/s/InRelease"));
        assert!(path("apt", None, &["apt"]).is_err_and(|why| why.contains("no sources of apt")));
        assert!(path("apt", None, &["go"]).is_err_and(|why| why.contains("upstream for apt")));
        assert_eq!(path("go", None, &["go"]).as_deref(), Ok("/go/github.com/pkg/errors/@v/list"));
        assert!(path("go", Some(&apt), &[]).is_err_and(|why| why.contains("upstream for go")));
        // A server tells an admin alone what it has.
        assert_eq!(path_of(about("go"), &[], None).as_deref(), Ok("/go/github.com/pkg/errors/@v/list"));
        // What would be refused for want of a credential says nothing of larder.
        apt.settings.insert("token", "yes".into());
        assert!(path("apt", Some(&apt), &[]).is_err_and(|why| why.contains("credential for apt.example")));
    }
}
