//! What the pages of `docs/use/` share: their larder, what tools are told of it, and the lines that all end with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use crate::cli::discover::{Found, Surroundings, tool::NoTools};
use crate::cli::point;
use crate::cli::tools::{Client, Purpose, Settings, settings_of};

/// The larder of the pages.
pub(super) const SERVER: &str = "http://larder.example:7070";
pub(super) const MADE: &str = "Made by `larder docs` from what `larder env` prints; do not edit.";

pub(super) fn see() -> String {
    format!(
        "## See that it works\n\n```sh\nlarder doctor {SERVER}\nlarder stats --server {SERVER}\n```\n\n\
         The first fetches something of each ecosystem, cold then warm. The second counts hits: the build's second run has \
         them.\n"
    )
}

/// What tools are told on a machine that has nothing and names no upstream.
pub(super) fn sample(tools: &[&str]) -> Settings {
    with_client(|client| settings_of(client, &|word| tools.contains(&word)))
}

pub(super) fn with_client<T>(then: impl FnOnce(&Client<'_>) -> T) -> T {
    let nowhere = Path::new("/dev/null");
    let around = Surroundings::new(nowhere, nowhere, BTreeMap::new(), &NoTools);
    let server = Url::parse(SERVER).expect("is an address");
    let found: Vec<Found> = point::unnamed(&server);
    let (purpose, overlays) = (Purpose::Print, PathBuf::from("/larder"));
    then(&Client { labelled: server.clone(), server, label: None, found: &found, around: &around, purpose, overlays })
}
