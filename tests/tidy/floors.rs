//! Imports run downwards only, peers never import each other. The table is that of `docs/ARCHITECTURE.md`.

use crate::source::{blanked, test_lines};
use crate::tree::{root, rust_files};

/// Room and floor, top first. A check below holds this against the page.
const FLOORS: [(&str, u8); 14] = [
    ("fuzz", 10),
    ("cli", 9),
    ("app", 8),
    ("config", 7),
    ("server", 6),
    ("protocol", 5),
    ("cache", 4),
    ("store", 3),
    ("index", 3),
    ("upstream", 3),
    ("ecosystem", 2),
    ("runtime", 2),
    ("model", 1),
    ("telemetry", 1),
];

/// What the table forbids beyond the order of floors: (room, what it must not import).
const NEVER: [(&str, &[&str]); 3] = [
    ("protocol", &["store", "index", "upstream"]),
    ("cache", &["ecosystem"]),
    ("ecosystem", &["runtime", "telemetry"]),
];

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// The room of a file below `src/`: its first folder, or its own name.
fn room(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default()
}

/// Rooms named by `text`, with the line: `crate::room`, `crate::{room, ..}`, or as many `super::` as lead to the root.
fn imports(path: &str, text: &str) -> Vec<(usize, String)> {
    let code = blanked(text);
    let tests = test_lines(&code);
    let kept: Vec<&str> = code.lines().zip(&tests).map(|(line, is_test)| if *is_test { "" } else { line }).collect();
    let code = kept.join("\n");
    let depth = path.trim_start_matches("src/").trim_end_matches("/mod.rs").matches('/').count() + 1;
    let climb = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in ["crate::", climb.as_str()] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(named(&code[at + start.len()..]).into_iter().map(|room| (line, room)));
        }
    }
    found
}

/// The first words after `crate::`: one, or each of a group.
fn named(rest: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut words, mut depth, mut fresh) = (Vec::new(), 0, true);
    for (at, one) in group.char_indices() {
        match one {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if one.is_whitespace() => {}
            _ if fresh => {
                words.push(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    words
}

/// What is wrong with the imports of one file.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let from = room(path);
    if from == "lib" || from == "main" {
        return Vec::new();
    }
    let Some(own) = floor(from) else { return vec![format!("{path}: {from} has no floor in tests/tidy/floors.rs")] };
    let mut wrong = Vec::new();
    for (line, to) in imports(path, text) {
        let Some(other) = floor(&to).filter(|_| to != from) else { continue };
        let never = NEVER.iter().any(|(name, rooms)| *name == from && rooms.contains(&to.as_str()));
        if other >= own || never {
            wrong.push(format!("{path}:{line}: {from} (floor {own}) imports {to} (floor {other})"));
        }
    }
    wrong
}

#[test]
fn imports_run_downwards_only() {
    let files = rust_files(&["src/"]);
    let complaints = files.iter().flat_map(|file| complaints(&file.path, file.text().expect("Rust is UTF-8")));
    crate::assert_none(complaints.collect());
}

#[test]
fn the_page_has_the_same_floors() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the page is there");
    for (room, floor) in FLOORS {
        let row = page.lines().find(|line| {
            line.starts_with(&format!("| {floor} |"))
                && [format!("`{room}/`"), format!("`{room}.rs`")].iter().any(|name| line.contains(name.as_str()))
        });
        assert!(row.is_some(), "docs/ARCHITECTURE.md does not have {room} on floor {floor}");
    }
}

#[test]
fn upward_and_sideways_imports_are_found() {
    for (path, text) in [
        ("src/store/mod.rs", "use crate::index::Index;"),
        ("src/store/file.rs", "use super::super::cache::Cache;"),
        ("src/store/a/b.rs", "use super::super::super::cache;"),
        ("src/store/mod.rs", "use super::cache::Cache;"),
        ("src/model/key.rs", "use crate::{model::x, telemetry::{a, b}};"),
        ("src/ecosystem/go.rs", "fn f() { crate::runtime::clock::now() }"),
        ("src/protocol/go.rs", "use crate::store::Store;"),
        ("src/cache/mod.rs", "use crate::ecosystem::ALL;"),
        ("src/index/mod.rs", "use crate::config::Config;"),
        ("src/server/mod.rs", "pub(crate) use crate::app::App;"),
        ("src/util/mod.rs", ""),
    ] {
        assert_eq!(complaints(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn downward_imports_comments_and_tests_are_fine() {
    for (path, text) in [
        ("src/cache/mod.rs", "use crate::{index::Index, store::{Store, Tier}, model};"),
        ("src/store/file.rs", "use super::super::model::place::Place;"),
        ("src/store/file.rs", "use super::index;"),
        ("src/store/mod.rs", "// use crate::cache::Cache;\nconst A: &str = \"crate::cache\";"),
        ("src/store/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::index::Index;\n}"),
        ("src/main.rs", "use crate::cli;"),
        ("src/cli/run.rs", "use crate::app::App; use crate::cli::env;"),
    ] {
        assert_eq!(complaints(path, text), [""; 0], "{path}: {text}");
    }
}
