//! apt: archive addresses from `sources.list`, `sources.list.d/*.list` and the deb822 form in `*.sources`, and the mirrors
//! that `mirror+file:` lists name.
//!
//! Source: sources.list(5), apt-transport-mirror(1), apt_auth.conf(5).

use super::{Found, Surroundings, address};
use crate::model::lookup::Fallback;

/// Looks for apt's archives, all in one: each is a base of its own, asked for what lies below it. Hosts that serve lists
/// of mirrors follow by themselves: what stands there is no archive.
///
/// `settings`: `token` is there when apt has a credential for one of them, `release` is where the first one has a suite's
/// `InRelease`.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let (mut archives, mut from, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    let files =
        [around.at("/etc/apt/sources.list")].into_iter().chain(around.list(&around.at("/etc/apt/sources.list.d")));
    for path in files {
        let told = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => around.read(&path).map(|text| one_line(&text)),
            Some("sources") => around.read(&path).map(|text| deb822(&text)),
            _ => None,
        };
        let Some(told) = told.filter(|told| !told.is_empty()) else { continue };
        let shown = around.shown(&path);
        for source in told {
            let of = |text: String| Source { uri: text, ..source.clone() };
            match Uri::of(&source.uri) {
                Uri::Archive(text) => archives.push(of(text.to_owned())),
                Uri::MirrorFile(file) => {
                    let text = around.read(&around.at(file)).unwrap_or_default();
                    archives.extend(mirrors(&text).into_iter().map(of));
                }
                Uri::MirrorList(text) => lists.extend(Found::one("apt", "mirror-list", shown.clone(), &text)),
                Uri::Other => {}
            }
        }
        from.push(shown);
    }
    let texts = archives.iter().map(|source| (source.uri.clone(), Fallback::OnAbsence));
    let mut found = Found::of("apt", "", from.join(", "), texts);
    if let Some(found) = &mut found {
        let is_first =
            |uri: &str| address(uri).is_some_and(|(url, _)| found.urls.first().is_some_and(|(first, _)| *first == url));
        let release = archives.iter().filter(|source| is_first(&source.uri)).find_map(Source::release);
        found.settings.extend(release.map(|release| ("release", release)));
    }
    if let Some(found) = &mut found
        && (!found.secrets.is_empty() || has_credential(around, found))
    {
        found.settings.insert("token", "yes".into());
    }
    lists.dedup_by(|one, other| one.urls == other.urls);
    found.into_iter().chain(lists).collect()
}

/// One archive and one of its suites, as a file names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub uri: String,
    suite: String,
}

impl Source {
    /// Below the archive's address. None for a suite that hangs on the machine.
    fn release(&self) -> Option<String> {
        let suite = Some(&*self.suite).filter(|suite| !suite.is_empty() && !suite.contains('$'))?;
        // A slash at the end makes it the place itself.
        let place = if suite.ends_with('/') { suite.to_owned() } else { format!("dists/{suite}/") };
        Some(format!("{}InRelease", place.trim_start_matches("./").trim_start_matches('/')))
    }
}

/// What a URI of a source leads to.
enum Uri<'a> {
    Archive(&'a str),
    /// A list of mirrors on this machine.
    MirrorFile(&'a str),
    /// A list of mirrors to be fetched.
    MirrorList(String),
    /// A disk, a directory, a transport that is not HTTP.
    Other,
}

impl Uri<'_> {
    fn of(uri: &str) -> Uri<'_> {
        // `mirror+http://` may have a further `+` for how the mirrors themselves are reached.
        match uri.split_once(':') {
            Some(("http" | "https", _)) => Uri::Archive(uri),
            Some(("mirror+file", path)) => Uri::MirrorFile(path),
            Some(("mirror" | "mirror+http", rest)) => Uri::MirrorList(format!("http:{rest}")),
            Some(("mirror+https", rest)) => Uri::MirrorList(format!("https:{rest}")),
            _ => Uri::Other,
        }
    }
}

/// A mirror a line, whatever is said of it after a tab.
fn mirrors(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_whitespace().next());
    lines.filter(|word| word.starts_with("http")).map(str::to_owned).collect()
}

/// Whether `auth.conf` has an entry for one of the hosts.
fn has_credential(around: &Surroundings<'_>, found: &Found) -> bool {
    let files = [around.at("/etc/apt/auth.conf")].into_iter().chain(around.list(&around.at("/etc/apt/auth.conf.d")));
    let text: String = files.filter_map(|path| around.read(&path)).collect::<Vec<_>>().join("\n");
    let words: Vec<&str> = text.split_whitespace().collect();
    let named = |pair: &[&str]| {
        let machine = if pair[1].contains("://") { pair[1].to_owned() } else { format!("https://{}", pair[1]) };
        let named = address(&machine).and_then(|(url, _)| url.host_str().map(str::to_owned));
        pair[0] == "machine" && found.urls.iter().any(|(url, _)| url.host_str() == named.as_deref())
    };
    words.windows(2).any(named)
}

/// `deb [options] URI suite components...`
pub(super) fn one_line(text: &str) -> Vec<Source> {
    let source = |line: &str| {
        let (kind, after) = line.trim().split_once(char::is_whitespace)?;
        let after = Some(after.trim_start()).filter(|_| matches!(kind, "deb" | "deb-src"))?;
        let after = if after.starts_with('[') { after.split_once(']')?.1 } else { after };
        let mut words = after.split_whitespace().take_while(|word| !word.starts_with('#')).map(str::to_owned);
        Some(Source { uri: words.next()?, suite: words.next().unwrap_or_default() })
    };
    text.lines().filter_map(source).collect()
}

/// Stanzas of `Field: value`, with `Enabled: no` switching one off; values go on in indented lines.
pub(super) fn deb822(text: &str) -> Vec<Source> {
    let mut all = Vec::new();
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{}\n", line.trim_end())).collect();
    for stanza in text.split("\n\n") {
        let stanza = stanza.replace("\n ", " ").replace("\n\t", " ");
        let field = |name: &str| {
            let mut fields = stanza.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(known, _)| known.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        let off = ["no", "false", "without", "off", "disable", "0"];
        if field("Enabled").is_some_and(|enabled| off.contains(&enabled.to_ascii_lowercase().as_str())) {
            continue;
        }
        let suites = field("Suites").unwrap_or_default();
        let suite = suites.split_whitespace().next().unwrap_or_default();
        let uris = field("URIs").unwrap_or_default();
        all.extend(uris.split_whitespace().map(|uri| Source { uri: uri.to_owned(), suite: suite.to_owned() }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let found = Machine::new(&[
            ("etc/apt/sources.list", "# deb https://no.example x\ndeb [arch=amd64 signed-by=/k] https://one.example/debian suite main\n"),
            (
                "etc/apt/sources.list.d/a.sources",
                "Types: deb\nURIs: https://two.example/debian\n https://three.example/\nSuites: suite\n\n# c\nEnabled: no\nURIs: https://off.example\n",
            ),
            ("etc/apt/sources.list.d/b.list", "deb https://one.example/debian other main\ndeb file:/srv x\n"),
            ("etc/apt/sources.list.d/c.list.save", "deb https://no.example x\n"),
        ])
        .look(look)
        .remove(0);
        assert_eq!(
            urls(&found),
            ["https://one.example/debian/", "https://two.example/debian/", "https://three.example/"]
        );
        assert_eq!(found.settings["release"], "dists/suite/InRelease");
    }

    #[test]
    fn a_suite_of_the_first_archive_tells_where_its_release_is() {
        let release = |sources: &str| {
            let found = Machine::new(&[("etc/apt/sources.list.d/a.sources", sources)]).look(look).remove(0);
            found.settings.get("release").cloned()
        };
        let stanza = |suites: &str| format!("URIs: https://a.example/d https://b.example\nSuites: {suites}\n\n");
        assert_eq!(release(&stanza("x-security/updates y")).as_deref(), Some("dists/x-security/updates/InRelease"));
        assert_eq!(release(&stanza("/")).as_deref(), Some("InRelease"));
        assert_eq!(release(&stanza("./flat/")).as_deref(), Some("flat/InRelease"));
        assert_eq!(release("URIs: https://a.example\n"), None);
        // What only the machine's architecture makes a suite of is passed over.
        assert_eq!(release(&format!("{}{}", stanza("$(ARCH)/"), stanza("y"))).as_deref(), Some("dists/y/InRelease"));
    }

    #[test]
    fn lists_of_mirrors_are_followed_on_this_machine_alone() {
        let all = Machine::new(&[
            (
                "etc/apt/sources.list",
                "deb\tmirror+file:/etc/apt/mirrors.txt\tsuite main # c\n\
                 deb mirror+https://lists.example/mirrors.txt suite main\ndeb cdrom:[x]/ suite main\n\
                 deb mirror://old.example/list suite main\n",
            ),
            (
                "etc/apt/mirrors.txt",
                "https://near.example/debian\tpriority:1\n# https://no.example\n\nhttp://far.example/debian/ priority:2\n",
            ),
        ])
        .look(look);
        assert_eq!(urls(&all[0]), ["https://near.example/debian/", "http://far.example/debian/"]);
        let lists: Vec<_> = all[1..].iter().map(|found| (found.name.as_str(), urls(found)[0])).collect();
        assert_eq!(
            lists,
            [("mirror-list", "https://lists.example/mirrors.txt/"), ("mirror-list", "http://old.example/list/")]
        );
    }

    #[test]
    fn what_is_broken_or_off_does_not_hide_the_rest() {
        let found = Machine::new(&[
            ("etc/apt/sources.list", "deb [arch=amd64 https://broken.example x\ndeb\ndeb-src https://a.example/d s m\n"),
            (
                "etc/apt/sources.list.d/a.sources",
                "Enabled: FALSE\nURIs: https://off.example\n \t\nno colon\nuris:\n\thttps://b.example/d\nSigned-By:\n -----BEGIN-----\n .\n https://no.example\n",
            ),
            ("etc/apt/auth.conf.d/x.conf", "machine b.example/d login me password hush"),
        ])
        .look(look)
        .remove(0);
        assert_eq!(urls(&found), ["https://a.example/d/", "https://b.example/d/"]);
        assert_eq!(found.from, "/etc/apt/sources.list, /etc/apt/sources.list.d/a.sources");
        assert_eq!(found.settings["token"], "yes");
    }
}
