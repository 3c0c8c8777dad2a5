//! What health checks of containers and load balancers ask: whether a larder takes requests, and nothing of upstreams, which
//! may be dead while larder goes on.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::client::Client;
use super::failure::{FAILED, Failure};
use super::out;
use super::where_at::{ConfigArgs, block_on};

/// Within what health checks commonly allow.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks the larder at `url`, or of this machine.
///
/// *Errors*: it is not ready, or does not say so in time. The code is always 1: others mean something to who checks.
pub(crate) fn ready(at: &ConfigArgs, url: Option<&str>) -> Result<(), Failure> {
    let asked = (|| {
        let here = at.here(None)?;
        let address = url.map_or_else(|| here.own_address(), str::to_owned);
        let client = here.client(&address)?;
        block_on(ask(&client))?;
        out::line(&format!("{} is ready", client.address()));
        Ok(())
    })();
    asked.map_err(|failure: Failure| Failure { code: FAILED, ..failure })
}

async fn ask(client: &Client) -> Result<(), Failure> {
    let asked = client.send(Method::GET, "/readyz", HeaderMap::new(), Bytes::new());
    let not_ready = |why: String| {
        let help = "see its log; `larder doctor` without --probe looks further";
        Failure::failed(format!("{} is not ready: {why}", client.address()), help)
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(response)) if response.status().is_success() => Ok(()),
        Ok(Ok(response)) => Err(not_ready(format!("it answers {}", response.status().as_u16()))),
        Ok(Err(error)) => Err(Failure::from(error)),
        Err(_) => Err(not_ready(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}
