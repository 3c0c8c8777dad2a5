//! go through larder: the client's own list with each address replaced.

use super::{Client, Purpose, Settings, asked_directly, is_private};
use crate::cli::discover::{address, go};

/// `direct`, `off` and the signs between stay as they are. In print each address of larder's is followed by `|`, which go
/// follows on any error, and the one that it stands for.
pub(super) fn settings(client: &Client<'_>) -> Settings {
    let Some(found) = client.found("go") else { return Settings::default() };
    let Some(list) = found.settings.get("GOPROXY") else { return Settings::default() };
    if is_private(found) {
        return Settings { notes: vec![asked_directly("go", found)], ..Settings::default() };
    }
    let mut server = client.labelled.clone();
    if let Some((label, token)) =
        client.label.as_ref().filter(|_| client.token().is_some() && server.scheme() == "https")
    {
        // Cannot fail: the address has a host.
        let _ = server.set_username(label);
        let _ = server.set_password(Some(token));
    }
    let through = |item: &str| {
        let (url, _) = address(item)?;
        let ours = client.through(&server, "go", &url);
        // What leads here already stands for nothing else.
        let is_other = url.origin() != client.server.origin();
        match client.purpose {
            Purpose::Print if is_other => Some(format!("{ours}|{}", item.trim_end_matches('/'))),
            Purpose::Print | Purpose::Command => Some(ours),
        }
    };
    let list = go::write_list(&go::list_items(list), through);
    Settings { env: vec![("GOPROXY".into(), list)], ..Settings::default() }
}

/// Hosts that go turns to itself when larder is gone.
pub(super) fn fallbacks(client: &Client<'_>) -> Vec<String> {
    let found = client.found("go").filter(|_| client.purpose == Purpose::Print);
    let urls = found.into_iter().flat_map(|found| &found.urls);
    let others = urls.filter(|(url, _)| url.origin() != client.server.origin());
    others.filter_map(|(url, _)| url.host_str().map(str::to_owned)).collect()
}
