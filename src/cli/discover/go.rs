//! Go: `GOPROXY` from the environment, the user's `go/env`, then the `go.env` of the toolchain, in go's own order.
//!
//! Source: `go help environment` and the Go Modules Reference; the list's grammar as in `cmd/go/internal/modfetch`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::asked::Question;
use super::{Found, Surroundings, address};
use crate::model::lookup::Fallback;

/// What else decides which modules go asks a proxy and a checksum database for.
const ALONG: [&str; 4] = ["GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE"];

static ASK: Question = Question {
    program: "go",
    arguments: &["env", "-json", "GOPROXY", "GOENV", "GOROOT"],
    answer: |printed| of_json(printed, "GOPROXY"),
    sources: &[],
    named: |printed| {
        let root = of_json(printed, "GOROOT").map(|root| Path::new(&root).join("go.env"));
        of_json(printed, "GOENV").map(PathBuf::from).into_iter().chain(root).collect()
    },
    files: |around| {
        around.project().ancestors().flat_map(|dir| ["go.mod", "go.work"].map(|name| dir.join(name))).collect()
    },
    variables: &["go"],
};

/// Looks for Go's proxies.
pub fn look(around: &Surroundings<'_>) -> Vec<Found> {
    let files = files(around);
    let told = setting(around, &files, "GOPROXY").or_else(|| Some((around.ask(&ASK)?, "go env".to_owned())));
    let Some((list, from)) = told else { return Vec::new() };
    let items = list_items(&list);
    let listed = items.iter().map(|item| (item.text.clone(), item.next));
    let Some(mut found) = Found::of("go", "", from, listed) else { return Vec::new() };
    if !found.secrets.is_empty() || found.urls.iter().any(|(url, _)| around.is_in_netrc(url)) {
        found.settings.insert("token", "yes".into());
    }
    found.settings.insert("GOPROXY", write_list(&items, |item| address(item).map(|(url, _)| url.to_string())));
    for name in ALONG {
        if let Some((value, _)) = setting(around, &files, name) {
            found.settings.insert(name, value);
        }
    }
    vec![found]
}

fn of_json(printed: &str, name: &str) -> Option<String> {
    let printed: Value = serde_json::from_str(printed).ok()?;
    Some(printed.get(name)?.as_str()?.to_owned())
}

/// A member of a `GOPROXY` list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// An address, or `direct` or `off`, which are always last.
    pub text: String,
    /// When go asks the next one.
    pub next: Fallback,
}

/// Reads a list as go does: `,` goes on when a module is absent, `|` on any error; `direct` and `off` end it; an item
/// that looks like a host is https.
pub fn list_items(list: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for piece in list.split_inclusive([',', '|']) {
        let next = if piece.ends_with('|') { Fallback::OnFailure } else { Fallback::OnAbsence };
        let text = piece.trim_end_matches([',', '|']).trim();
        let is_last = matches!(text, "direct" | "off");
        let is_host = text.contains(['.', ':', '/']) && !text.contains(":/") && !text.starts_with('/');
        match text {
            "" => continue,
            host if is_host => items.push(Item { text: format!("https://{host}"), next }),
            text => items.push(Item { text: text.to_owned(), next }),
        }
        if is_last {
            break;
        }
    }
    items
}

/// Writes a list, each address as `other` gives it and everything else as it is.
pub fn write_list(items: &[Item], other: impl Fn(&str) -> Option<String>) -> String {
    let mut list = String::new();
    for (at, item) in items.iter().enumerate() {
        list.push_str(&other(&item.text).unwrap_or_else(|| item.text.clone()));
        if at + 1 < items.len() {
            list.push(match item.next {
                Fallback::OnAbsence => ',',
                Fallback::OnFailure => '|',
            });
        }
    }
    list
}

/// A setting from the environment or the first file that has it, and where it stood.
fn setting(around: &Surroundings<'_>, files: &[(String, String)], name: &str) -> Option<(String, String)> {
    if let Some(value) = around.var(name) {
        return Some((value.to_owned(), format!("${name}")));
    }
    files.iter().find_map(|(shown, text)| {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let value = lines.filter_map(|line| line.split_once('=')).rfind(|(known, _)| *known == name)?.1;
        (!value.is_empty()).then(|| (value.to_owned(), shown.clone()))
    })
}

/// The user's file, then the toolchain's: path as shown, and text.
fn files(around: &Surroundings<'_>) -> Vec<(String, String)> {
    let users = match around.var("GOENV") {
        Some("off") => None,
        Some(path) => Some(around.at(path)),
        None => Some(around.config_home().join("go/env")),
    };
    let roots = toolchains(around);
    let candidates = users.into_iter().chain(roots.iter().map(|root| root.join("go.env")));
    candidates.filter_map(|path| Some((around.shown(&path), around.read(&path)?))).collect()
}

/// Where a toolchain may be: as the environment says, around the `go` on the path, and where images put it.
fn toolchains(around: &Surroundings<'_>) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = around.var("GOROOT").map(|root| around.at(root)).into_iter().collect();
    for dir in around.var("PATH").unwrap_or_default().split(':').filter(|dir| dir.starts_with('/')) {
        let Some(program) = around.inside(&around.at(dir).join("go")).filter(|program| program.is_file()) else {
            continue;
        };
        roots.extend(program.parent().and_then(Path::parent).map(Path::to_owned));
    }
    roots.extend(["/usr/local/go", "/usr/lib/go", "/usr/lib/golang"].map(|root| around.at(root)));
    for dir in ["/usr/lib", "/usr/share"] {
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("go-"));
        roots.extend(around.list(&around.at(dir)).into_iter().filter(named));
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Machine, urls};
    use super::super::tool::{AskTool, InstalledTools};
    use super::*;

    #[test]
    fn the_toolchains_own_file_tells() {
        let machine =
            Machine::new(&[("usr/local/go/go.env", "# x\nGOPROXY=https://go.example,direct\nGOSUMDB=sum.example\n")]);
        let found = &machine.look(look)[0];
        assert_eq!(urls(found), ["https://go.example/"]);
        assert_eq!(found.from, "/usr/local/go/go.env");
        assert_eq!(found.settings["GOPROXY"], "https://go.example/,direct");
        assert_eq!(found.settings["GOSUMDB"], "sum.example");
    }

    #[test]
    fn nearer_settings_win() {
        let files = [
            ("usr/local/go/go.env", "GOPROXY=https://go.example,direct\nGOSUMDB=sum.example\n"),
            ("home/me/.config/go/env", "GOPROXY=https://user.example|https://other.example\nGOPRIVATE=corp.example\n"),
        ];
        let found = Machine::new(&files).look(look).remove(0);
        assert_eq!(urls(&found), ["https://user.example/", "https://other.example/"]);
        assert_eq!(found.urls[0].1, Fallback::OnFailure);
        assert_eq!(found.settings["GOPRIVATE"], "corp.example");
        assert_eq!(found.settings["GOSUMDB"], "sum.example");
        let machine = Machine::new(&files).with("GOPROXY", "https://me:hush@env.example/go,off");
        let found = machine.look(look).remove(0);
        assert_eq!((urls(&found), found.from.as_str()), (vec!["https://env.example/go/"], "$GOPROXY"));
        assert_eq!(found.secrets[0].password, "hush");
        assert!(!format!("{found:?}").contains("hush"));
    }

    #[test]
    fn a_go_on_the_path_leads_to_its_file() {
        let machine = Machine::new(&[("opt/go/bin/go", ""), ("opt/go/go.env", "GOPROXY=go.example\n"), ("bin/x", "")]);
        std::os::unix::fs::symlink("../opt/go/bin/go", machine.dir.path().join("bin/go")).expect("a link");
        let machine = machine.with("PATH", "/bin:/sbin");
        assert_eq!(urls(&machine.look(look)[0]), ["https://go.example/"]);
        std::fs::remove_file(machine.dir.path().join("bin/go")).expect("was linked");
        std::fs::create_dir_all(machine.dir.path().join("sbin")).expect("a directory");
        std::os::unix::fs::symlink("/opt/go/bin/go", machine.dir.path().join("sbin/go")).expect("a link");
        assert_eq!(urls(&machine.look(look)[0]), ["https://go.example/"], "by a link that is absolute in the image");
    }

    #[test]
    fn the_last_line_of_a_file_wins_and_a_credential_is_seen() {
        let machine = Machine::new(&[
            ("home/me/.config/go/env", "GOPROXY=https://old.example\nGOPROXY=https://new.example\nnonsense\n"),
            ("home/me/.netrc", "machine new.example login me password hush"),
        ]);
        let found = machine.look(look).remove(0);
        assert_eq!(urls(&found), ["https://new.example/"]);
        assert_eq!(found.settings["token"], "yes");
        assert!(!format!("{found:?}").contains("hush"));
    }

    #[test]
    fn without_a_proxy_nothing_is_found() {
        for list in ["direct", "off", "file:///srv/go", " , "] {
            assert_eq!(Machine::new(&[]).with("GOPROXY", list).look(look), [], "{list}");
        }
    }

    #[test]
    fn lists_are_read_as_go_reads_them() {
        let items = list_items(" https://a.example , b.example/x|/srv/go,direct,https://c.example");
        let texts: Vec<_> = items.iter().map(|item| item.text.as_str()).collect();
        assert_eq!(texts, ["https://a.example", "https://b.example/x", "/srv/go", "direct"]);
        assert_eq!(write_list(&items, |_| None), "https://a.example,https://b.example/x|/srv/go,direct");
    }

    #[test]
    fn the_tool_is_asked_where_no_file_tells() {
        struct Go;
        impl AskTool for Go {
            fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
                assert_eq!((program, arguments), ("go", ASK.arguments));
                Some("{\"GOPROXY\":\"https://go.example,direct\"}".into())
            }
        }
        let found = Machine::new(&[]).look_asking(look, &Go).remove(0);
        assert_eq!((urls(&found), found.from.as_str()), (vec!["https://go.example/"], "go env"));
    }

    /// The client is part of what the tests install.
    #[test]
    fn the_installed_go_can_be_asked() {
        let printed = InstalledTools.ask("go", ASK.arguments).expect("go is installed");
        assert!((ASK.answer)(&printed).is_some());
        assert_eq!((ASK.named)(&printed).len(), 2);
    }
}
