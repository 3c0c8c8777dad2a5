//! What reads proxy variables, and JVMs, which read properties alone.

use super::{Client, Settings, go};
use crate::protocol::label;

/// The proxy variables; what the client had in `no_proxy` stays in it. larder itself is asked directly, but where a token
/// is needed and TLS is not spoken: the proxy's credential is then the one way in which every tool can show it. So are
/// the hosts that a tool turns to when larder is gone.
pub(super) fn settings(client: &Client<'_>) -> Settings {
    let mut proxy = client.server.clone();
    proxy.set_path("");
    if let Some((label, token)) = &client.label {
        // Beside a token a colon is told from the one behind the label. What stands for it is put in an address's form too.
        let user = if token.is_empty() { label::as_user(label).replace('%', "%25") } else { label.clone() };
        // Cannot fail: the address has a host.
        let _ = proxy.set_username(&user);
        let _ = proxy.set_password(Some(token).filter(|token| !token.is_empty()).map(String::as_str));
    }
    let mut proxy = proxy.as_str().trim_end_matches('/').to_owned();
    if client.label.is_some() && client.token().is_none() {
        // Where there is no password at all, git asks a terminal for it.
        proxy = proxy.replacen('@', ":@", 1);
    }
    let direct = direct(client);
    let (commas, pipes) = (direct.join(","), direct.join("|"));
    let pairs = [("http_proxy", &proxy), ("https_proxy", &proxy), ("no_proxy", &commas)];
    let env = pairs
        .into_iter()
        .flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_ascii_uppercase(), value.clone())]);
    // Leiningen's own.
    let env = env.chain([("http_no_proxy".to_owned(), pipes)]);
    Settings { env: env.collect(), ..Settings::default() }
}

/// Hosts that are not asked for by way of the proxy.
fn direct(client: &Client<'_>) -> Vec<String> {
    let known = ["no_proxy", "NO_PROXY"].into_iter().find_map(|name| client.around.var(name)).unwrap_or_default();
    let mut direct: Vec<String> =
        known.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let larder = Some(host(client)).filter(|_| !client.shows_token_as_proxy());
    let ours = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain(larder);
    for name in ours.chain(go::fallbacks(client)) {
        if !direct.contains(&name) {
            direct.push(name);
        }
    }
    direct
}

pub(super) fn host(client: &Client<'_>) -> String {
    client.server.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
}

/// Not tried with a Gradle: its documentation has these properties, and this variable for them.
pub(super) fn gradle(client: &Client<'_>) -> Settings {
    jvm(client, "gradle", "GRADLE_OPTS")
}

/// Properties behind what the variable holds already. Only where something says that the tool is used here: a variable
/// without a use would still be in everybody's way.
fn jvm(client: &Client<'_>, tool: &str, variable: &str) -> Settings {
    if !client.found.iter().any(|found| found.ecosystem == "maven") {
        return Settings::default();
    }
    if client.server.scheme() != "http" || client.token().is_some() {
        let why = "a JVM speaks plain HTTP to its proxy, and a token would stand in the list of processes";
        return Settings { notes: vec![format!("{tool} is left alone: {why}")], ..Settings::default() };
    }
    let port = client.server.port_or_known_default().unwrap_or_default();
    let properties = ["http", "https"].map(|scheme| {
        let server = host(client);
        format!("-D{scheme}.proxyHost={server} -D{scheme}.proxyPort={port}")
    });
    let direct = format!("-Dhttp.nonProxyHosts={}", direct_for_jvm(client));
    let before = client.around.var(variable).unwrap_or_default();
    let words = [before, &properties.join(" "), &direct];
    let words: Vec<&str> = words.into_iter().filter(|words| !words.is_empty()).collect();
    Settings { env: vec![(variable.to_owned(), words.join(" "))], ..Settings::default() }
}

/// Hosts that are asked directly, as a JVM has them.
pub(super) fn direct_for_jvm(client: &Client<'_>) -> String {
    let direct = direct(client).into_iter().map(|host| match host.strip_prefix('.') {
        Some(domain) => format!("*.{domain}"),
        None if host.contains(':') => format!("[{host}]"),
        None => host,
    });
    direct.collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use url::Url;

    use super::super::tests::{variable, with_client};
    use super::super::{Client, Purpose, settings};
    use super::*;
    use crate::cli::discover::Found;

    fn printed(found: &[Found], env: &[(&str, &str)], server: &str) -> Settings {
        with_client(found, env, Path::new("/nowhere"), |client| {
            let server = Url::parse(server).expect("is a URL");
            let (label, overlays) = (None, client.overlays.clone());
            let (labelled, purpose) = (server.clone(), Purpose::Print);
            settings(&Client { server, labelled, label, purpose, overlays, ..*client })
        })
    }

    #[test]
    fn in_print_go_goes_on_to_what_larder_stands_for() {
        let mut found = Found::one("go", "", "go.env".into(), "https://go.example").expect("is an address");
        found.settings.insert("GOPROXY", "https://go.example/,direct".into());
        let set = printed(&[found], &[], "http://larder.example:7070");
        assert_eq!(variable(&set, "GOPROXY"), "http://larder.example:7070/go/@go.example|https://go.example,direct");
        // By way of a proxy that is gone it would not get there.
        assert_eq!(variable(&set, "no_proxy"), "localhost,127.0.0.1,::1,larder.example,go.example");
        assert_eq!(variable(&set, "http_no_proxy"), "localhost|127.0.0.1|::1|larder.example|go.example");
        let lost: Vec<&str> = set.no_fallback.iter().map(String::as_str).collect();
        assert_eq!(lost, ["HTTPS_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy"]);
    }

    #[test]
    fn a_jvm_is_told_by_properties_and_only_where_one_is_used() {
        let found = Found::one("maven", "", "pom.xml".into(), "https://m.example").expect("is an address");
        let env = [("GRADLE_OPTS", "-Xmx1g"), ("no_proxy", ".corp.example")];
        let set = printed(std::slice::from_ref(&found), &env, "http://[2001:db8::1]:7070");
        assert_eq!(
            variable(&set, "GRADLE_OPTS"),
            "-Xmx1g -Dhttp.proxyHost=2001:db8::1 -Dhttp.proxyPort=7070 -Dhttps.proxyHost=2001:db8::1 -Dhttps.proxyPort=7070 \
             -Dhttp.nonProxyHosts=*.corp.example|localhost|127.0.0.1|[::1]|[2001:db8::1]"
        );
        assert!(set.no_fallback.contains("GRADLE_OPTS"));
        assert_eq!(variable(&printed(&[], &env, "http://larder.example"), "GRADLE_OPTS"), "");
        let tls = printed(&[found], &env, "https://larder.example");
        assert_eq!(variable(&tls, "GRADLE_OPTS"), "");
        assert!(tls.notes.iter().any(|note| note.contains("gradle is left alone")), "{:?}", tls.notes);
    }
}
