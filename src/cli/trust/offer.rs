//! What a server offers its clients to trust, whether it may be believed, and what an agent's builds remember of it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use url::Url;

use crate::cli::client::{Client, ClientError};
use crate::cli::failure::Failure;
use crate::cli::keystore::Der;
use crate::runtime::aside::{Mode, replace};

/// What a server's authorities are kept in, in the directory of its agent.
const KNOWN: &str = "authorities.json";

/// What a server says that its clients have to trust.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Offer {
    own: String,
    intercept: String,
    pub hosts: Vec<String>,
}

impl Offer {
    /// As tools need it that are led to larder at `address`: over plain HTTP none of them sees its own certificate.
    pub fn at(mut self, address: &Url) -> Offer {
        if address.scheme() == "http" {
            self.own.clear();
        }
        self
    }

    /// Every authority, as DER.
    pub fn certificates(&self) -> Vec<Der> {
        let both = format!("{}{}", self.own, self.intercept);
        CertificateDer::pem_slice_iter(both.as_bytes()).filter_map(|one| Some(one.ok()?.to_vec())).collect()
    }
}

/// Whether the user said that an authority may be believed which came over a network in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consent {
    Given,
    Missing,
}

/// Asks a server what its clients have to trust. None: nothing, or it is too old to know.
///
/// *Errors*: it does not answer; the answer came in the clear, and there is no consent.
pub(crate) async fn offered(client: &Client, consent: Consent) -> Result<Option<Offer>, Failure> {
    let offer: Offer = match client.get("/api/v1/ca").await {
        Ok(offer) => offer,
        Err(ClientError::Status { status: 404, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if offer.certificates().is_empty() {
        return Ok(None);
    }
    if client.base.scheme() == "http" && client.owner.is_none() && consent == Consent::Missing {
        let message = format!(
            "the authority of {} came over plain HTTP: whoever is on the way, or has that port, could have \
             put its own in its place",
            client.address()
        );
        let help = "use https://; or take it there by `larder ca print` and trust it as you do others; or, where the \
                    network can be trusted, say --trust-plain-http";
        return Err(Failure::failed(message, help));
    }
    Ok(Some(offer))
}

/// What the server behind an agent offered last, from the agent's directory.
pub(crate) fn known(agent: &Path) -> Option<Offer> {
    let offer: Offer = serde_json::from_slice(&fs::read(agent.join(KNOWN)).ok()?).ok()?;
    Some(offer).filter(|offer| !offer.certificates().is_empty())
}

/// Keeps that, for builds that find the server lost. What is not kept is not trusted then, and that is all.
pub(crate) fn remember(agent: &Path, offered: Option<&Offer>) {
    if known(agent).as_ref() != offered {
        let text = serde_json::to_vec(&offered).unwrap_or_default();
        let _ = replace(&agent.join(KNOWN), &text, Mode::Usual);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::certificates;
    use super::*;
    use crate::cli::keystore;

    #[test]
    fn only_who_speaks_tls_with_larder_needs_its_own_authority() {
        let pem = |name: &str| keystore::pem(&certificates(&[name]));
        let offer = Offer { own: pem("own.example"), intercept: pem("files.example"), hosts: Vec::new() };
        let count = |url: &str| offer.clone().at(&Url::parse(url).expect("an address")).certificates().len();
        assert_eq!((count("http://127.0.0.1:1/"), count("https://cache.example/")), (1, 2));
    }
}
