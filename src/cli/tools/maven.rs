//! Maven through larder: a directory of configuration laid over the installation's.
//!
//! Maven reads no proxy variables and, with the wagon of 3.8, no properties either: it takes proxies and mirrors from
//! settings alone. `-Dmaven.conf` in `MAVEN_OPTS` names where the installation's own `settings.xml` lies, which is merged
//! below the user's: what a user or a project set stays in force, and wins. Tried with Maven 3.8.7.

use super::overlay::{Overlay, Script, own_directory};
use super::{Client, Settings, is_private, proxy};
use crate::cli::discover::{Found, maven as discovered};
use crate::ecosystem;
use crate::protocol::label;

/// On machines that are not this one.
const ELSEWHERE: &str = "/tmp/larder-maven";
/// Beside `settings.xml` in the directory.
const LINKED: [&str; 2] = ["logging", "toolchains.xml"];
/// What Maven ships with since 3.8.1, for where the installation's own settings are not at hand.
const BLOCKER: &str = "<mirror><id>maven-default-http-blocker</id><mirrorOf>external:http:*</mirrorOf>\
                       <url>http://0.0.0.0/</url><blocked>true</blocked></mirror>";

/// Only where something says that Maven is used here.
pub(super) fn settings(client: &Client<'_>) -> Settings {
    let sources: Vec<&Found> = client.found.iter().filter(|found| found.ecosystem == "maven").collect();
    if sources.is_empty() {
        return Settings::default();
    }
    let parts = |told| {
        let mirrors = mirrors(client, &sources, told);
        let servers = servers(client, &mirrors, told);
        (proxies(client, told), mirrors, servers)
    };
    let (proxies, mirrors, servers) = parts(Told::InFull);
    if proxies.is_empty() && mirrors.is_empty() {
        let why = "it speaks plain HTTP to its proxy, and this server wants TLS".to_owned();
        return Settings { notes: vec![format!("maven is left alone: {why}")], ..Settings::default() };
    }
    let option = |dir: &str| {
        let before = client.around.var("MAVEN_OPTS").unwrap_or_default();
        let before: Vec<&str> = before.split(' ').filter(|word| !word.starts_with("-Dmaven.conf=")).collect();
        format!("{} -Dmaven.conf={dir}", before.join(" ")).trim_start().to_owned()
    };
    let real = discovered::installed(client.around);
    let here = real.map(|(conf, text)| {
        // Builds differ in their labels: written out, each would leave a directory of its own.
        let (proxies, mirrors, servers) = parts(Told::ByName);
        let text = with(&text, &proxies, &mirrors.concat(), &servers);
        let name = blake3::hash(text.as_bytes()).to_hex();
        let over = client.overlays.join(format!("maven-{}", &name[..12]));
        Overlay {
            env: named(client)
                .into_iter()
                .chain([("MAVEN_OPTS".to_owned(), option(&over.display().to_string()))])
                .collect(),
            files: vec![(over.join("settings.xml"), text)],
            links: LINKED.iter().map(|name| (over.join(name), conf.join(name))).collect(),
            directories: vec![over],
            ..Overlay::default()
        }
    });
    let text = with("<settings>\n</settings>\n", &proxies, &(mirrors.concat() + BLOCKER), &servers);
    let links = LINKED.join(" ");
    let lines = format!(
        "larder_mvn=\"$(readlink -f \"$(command -v mvn || echo /usr/share/maven/bin/mvn)\")\"\n{}\
         printf %s '{}' > \"$larder_maven/settings.xml\"\n\
         for name in {links}; do ln -sfn \"${{larder_mvn%/bin/mvn}}/conf/$name\" \"$larder_maven/$name\"; done\n",
        own_directory("larder_maven", ELSEWHERE),
        text.replace('\'', r"'\''"),
    );
    let mut env = vec![("MAVEN_OPTS".to_owned(), "${MAVEN_OPTS:-} -Dmaven.conf=$larder_maven".to_owned())];
    // Named in the settings; on this machine it is where larder has it from.
    env.extend(client.token().map(|token| ("LARDER_TOKEN".to_owned(), token.to_owned())));
    let elsewhere = Script { lines, env, directories: vec![ELSEWHERE] };
    Settings { here: here.unwrap_or_default(), elsewhere, ..Settings::default() }
}

/// The user's own settings, where nothing is laid over: mirrors alone.
pub(super) fn own_settings(client: &Client<'_>) -> String {
    let sources: Vec<&Found> = client.found.iter().filter(|found| found.ecosystem == "maven").collect();
    let mirrors = mirrors(client, &sources, Told::InFull);
    let servers = servers(client, &mirrors, Told::InFull);
    with("<settings>\n</settings>\n", "", &mirrors.concat(), &servers)
}

/// How the label of a build is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    InFull,
    ByName,
}

/// In the settings on this machine: the server with the label in its path, and the label.
const SERVER: &str = "LARDER_MAVEN_SERVER";
const LABEL: &str = "LARDER_MAVEN_LABEL";

/// What the settings on this machine name.
fn named(client: &Client<'_>) -> Vec<(String, String)> {
    let server = client.labelled.as_str().trim_end_matches('/').to_owned();
    let label = client.label.iter().map(|(label, token)| (LABEL.to_owned(), user(label, token)));
    [(SERVER.to_owned(), server)].into_iter().chain(label).collect()
}

/// Maven speaks plain HTTP to a proxy. A token is named, not written.
fn proxies(client: &Client<'_>, told: Told) -> String {
    if client.server.scheme() != "http" {
        return String::new();
    }
    let credential = client.label.as_ref().map(|(label, token)| credential(label, token, told)).unwrap_or_default();
    format!(
        "<proxy><id>larder</id><active>true</active><protocol>http</protocol><host>{}</host><port>{}</port>{credential}\
         <nonProxyHosts>{}</nonProxyHosts></proxy>",
        proxy::host(client),
        client.server.port_or_known_default().unwrap_or_default(),
        escaped(&proxy::direct_for_jvm(client)),
    )
}

/// What Maven shows as its name.
fn user(label: &str, token: &str) -> String {
    if token.is_empty() { label::as_user(label) } else { label.to_owned() }
}

fn credential(label: &str, token: &str, told: Told) -> String {
    let label = match told {
        Told::InFull => escaped(&user(label, token)),
        Told::ByName => format!("${{env.{LABEL}}}"),
    };
    let token = if token.is_empty() { "" } else { "${env.LARDER_TOKEN}" };
    format!("<username>{label}</username><password>{token}</password>")
}

/// Where larder has a mount for it, one for each repository that no mirror stands before.
fn mirrors(client: &Client<'_>, sources: &[&Found], told: Told) -> Vec<String> {
    if !ecosystem::ALL.iter().any(|known| known.about().name == "maven") {
        return Vec::new();
    }
    let each = sources.iter().filter(|found| !is_private(found)).filter_map(|found| {
        let (url, _) = found.urls.first().filter(|(url, _)| url.host_str() != Some(&found.name))?;
        let id = if found.name.is_empty() { discovered::CENTRAL } else { &found.name };
        let mirrored = found.settings.contains_key("mirrorOf");
        let ours = client.through(&client.labelled, "maven", url);
        let ours = match told {
            Told::InFull => ours,
            Told::ByName => {
                ours.replacen(client.labelled.as_str().trim_end_matches('/'), &format!("${{env.{SERVER}}}"), 1)
            }
        };
        (!mirrored).then(|| {
            let (id, ours) = (escaped(id), escaped(&ours));
            format!("<mirror><id>larder-{id}</id><mirrorOf>{id}</mirrorOf><url>{ours}</url></mirror>")
        })
    });
    each.collect()
}

/// The credential for each mirror, where one is needed.
fn servers(client: &Client<'_>, mirrors: &[String], told: Told) -> String {
    let Some((label, token)) = client.label.as_ref().filter(|_| client.token().is_some()) else { return String::new() };
    let ids = mirrors.iter().filter_map(|mirror| Some(mirror.split_once("<id>")?.1.split_once("</id>")?.0));
    ids.map(|id| format!("<server><id>{id}</id>{}</server>", credential(label, token, told))).collect()
}

/// Settings with more at the front of three of their lists.
fn with(text: &str, proxies: &str, mirrors: &str, servers: &str) -> String {
    let mut out = discovered::without_comments(text);
    for (list, more) in [("proxies", proxies), ("mirrors", mirrors), ("servers", servers)] {
        let (open, close) = (format!("<{list}>"), format!("</{list}>"));
        if more.is_empty() {
        } else if out.contains(&open) {
            out = out.replacen(&open, &format!("{open}{more}"), 1);
        } else {
            out = out.replacen("</settings>", &format!("{open}{more}{close}\n</settings>"), 1);
        }
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{variable, with_client};
    use super::*;

    #[test]
    fn the_installations_settings_are_kept_and_a_token_is_only_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let conf = dir.path().join("usr/share/maven/conf");
        std::fs::create_dir_all(&conf).expect("a directory");
        let real = "<settings><!-- <proxies> --><mirrors>\n<mirror><id>x</id></mirror></mirrors></settings>";
        std::fs::write(conf.join("settings.xml"), real).expect("a file");
        let found = Found::one("maven", "", "it".into(), "https://m.example/m2").expect("is an address");
        let env = [("MAVEN_OPTS", "-Xmx1g -Dmaven.conf=/old"), ("no_proxy", "a&b")];
        let set = with_client(&[found], &env, dir.path(), settings);
        let (over, text) = (&set.here.directories[0], &set.here.files[0].1);
        assert_eq!(variable(&set, "MAVEN_OPTS"), format!("-Xmx1g -Dmaven.conf={}", over.display()));
        assert!(
            text.contains("<host>larder.example</host><port>7070</port><username>${env.LARDER_MAVEN_LABEL}</username>"),
            "{text}"
        );
        assert_eq!(variable(&set, "LARDER_MAVEN_LABEL"), "build");
        assert!(text.contains("${env.LARDER_TOKEN}") && !text.contains("t/k"), "{text}");
        assert!(text.contains("<id>x</id>") && text.contains("<nonProxyHosts>a&amp;b|localhost"), "{text}");
        assert_eq!(set.here.links[0], (over.join("logging"), conf.join("logging")));
        assert!(set.elsewhere.lines.contains("maven-default-http-blocker"));
        assert!(
            set.elsewhere.env.contains(&("LARDER_TOKEN".to_owned(), "t/k".to_owned())),
            "nobody else sets it there"
        );
        assert_eq!(with_client(&[], &[], dir.path(), settings), Settings::default());
    }

    #[test]
    fn builds_with_other_labels_share_a_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let conf = dir.path().join("usr/share/maven/conf");
        std::fs::create_dir_all(&conf).expect("a directory");
        std::fs::write(conf.join("settings.xml"), "<settings></settings>").expect("a file");
        let found = Found::one("maven", "corp", "it".into(), "https://m.example/m2").expect("is an address");
        let of = |label: &str| {
            with_client(std::slice::from_ref(&found), &[], dir.path(), |client| {
                let labelled = url::Url::parse(&format!("http://larder.example:7070/~{label}")).expect("is a URL");
                let (server, label) = (client.server.clone(), Some((label.to_owned(), "t".to_owned())));
                settings(&Client { server, labelled, label, overlays: client.overlays.clone(), ..*client })
            })
        };
        let (one, other) = (of("run-1"), of("run-2"));
        assert_eq!(one.here.files, other.here.files);
        assert_eq!(one.here.directories, other.here.directories);
        assert_eq!(variable(&one, "MAVEN_OPTS"), variable(&other, "MAVEN_OPTS"));
        assert!(!one.here.files[0].1.contains("run-1"), "{}", one.here.files[0].1);
        assert!(one.here.files[0].1.contains("<url>${env.LARDER_MAVEN_SERVER}/maven/@m.example/m2</url>"));
        assert_eq!(variable(&other, "LARDER_MAVEN_SERVER"), "http://larder.example:7070/~run-2");
        assert!(one.elsewhere.lines.contains("/~run-1/maven/@m.example/m2"), "{}", one.elsewhere.lines);
    }
}
