//! apt: archive addresses from `sources.list`, `sources.list.d/*.list` and the deb822 form in `*.sources`.
//!
//! Source: sources.list(5).

use super::{Found, Surroundings};
use crate::model::lookup::Fallback;

/// Looks for apt's archives, all in one: each is a base of its own, asked for what lies below it.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let mut texts = Vec::new();
    let mut from = Vec::new();
    let files =
        [around.at("/etc/apt/sources.list")].into_iter().chain(around.list(&around.at("/etc/apt/sources.list.d")));
    for path in files {
        let told = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => around.read(&path).map(|text| one_line(&text)),
            Some("sources") => around.read(&path).map(|text| deb822(&text)),
            _ => None,
        };
        let Some(told) = told.filter(|told| !told.is_empty()) else { continue };
        from.push(around.shown(&path));
        texts.extend(told);
    }
    let texts = texts.into_iter().map(|text| (text, Fallback::OnAbsence));
    Found::of("apt", "", from.join(", "), texts).into_iter().collect()
}

/// `deb [options] URI suite components...`
pub(super) fn one_line(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("deb ") || line.starts_with("deb-src "));
    let address = |line: &str| {
        let after = line.split_once(' ')?.1.trim_start();
        let after = if after.starts_with('[') { after.split_once(']')?.1 } else { after };
        after.split_whitespace().next().map(str::to_owned)
    };
    lines.filter_map(address).collect()
}

/// Stanzas of `Field: value`, with `Enabled: no` switching one off; values go on in indented lines.
pub(super) fn deb822(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{}\n", line.trim_end())).collect();
    for stanza in text.split("\n\n") {
        let stanza = stanza.replace("\n ", " ").replace("\n\t", " ");
        let field = |name: &str| {
            let mut fields = stanza.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(known, _)| known.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        if field("Enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("no")) {
            continue;
        }
        all.extend(field("URIs").iter().flat_map(|uris| uris.split_whitespace()).map(str::to_owned));
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
    }
}
