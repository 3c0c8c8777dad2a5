//! The invariants of `docs/ARCHITECTURE.md`: each names the tests that break when it does, and those exist. Two of them
//! are about what is not in the code, and are held here.

use crate::source::{blanked, test_lines};
use crate::tree::{root, rust_files};

const COUNT: usize = 14;

/// Words that the code of a room must not have, but for the files listed.
struct Never {
    folder: &'static str,
    words: &'static [&'static str],
    but: &'static [&'static str],
}

const TIERS: Never = Never { folder: "src/store/", words: &["model::key", "model::entry", "model::lookup"], but: &[] };

const SOCKETS: Never = Never {
    folder: "src/",
    words: &["TcpStream::connect", "TcpSocket::new", "UdpSocket::"],
    // The gate; our own listeners; the commands, which ask a larder.
    but: &["src/upstream/gate.rs", "src/server/front.rs", "src/cli/client.rs"],
};

/// What only Linux has, or has under this name. `tests/targets` compiles the rest for macOS.
const LINUX: Never = Never {
    folder: "src/",
    words: &[
        "NOSIGNAL",
        "CLOEXEC",
        "NOWAIT",
        "O_TMPFILE",
        "TMPFILE",
        "abstract_name",
        "acceptconn",
        "copy_file_range",
        "epoll",
        "eventfd",
        "fadvise",
        "fallocate",
        "fdatasync",
        "inotify",
        "io_uring",
        "memfd",
        "os::linux",
        "pidfd",
        "preadv2",
        "prctl",
        "pwritev2",
        "renameat2",
        "reuse_port",
        "reuseport",
        "sendfile",
        "::splice(",
        "statx",
        "target_os",
    ],
    but: &[
        "src/runtime/os/linux.rs",
        "src/runtime/os/portable.rs",
        "src/runtime/os/contract.rs",
        "src/runtime/mod.rs",
        // Where macOS keeps a user's data.
        "src/config/load.rs",
    ],
};

impl Never {
    fn complaints(&self, path: &str, text: &str) -> Vec<String> {
        if !path.starts_with(self.folder) || path.contains("/tests/") || self.but.contains(&path) {
            return Vec::new();
        }
        let code = blanked(text);
        let tests = test_lines(&code);
        let lines = code.lines().zip(tests).enumerate().filter(|(_, (_, is_test))| !is_test);
        let found = lines.filter(|(_, (line, _))| self.words.iter().any(|word| line.contains(word)));
        found.map(|(at, (line, _))| format!("{path}:{}: {}", at + 1, line.trim())).collect()
    }

    fn all_complaints(&self) -> Vec<String> {
        let files = rust_files(&[self.folder]);
        files.iter().flat_map(|file| self.complaints(&file.path, file.text().expect("Rust is UTF-8"))).collect()
    }
}

/// The invariants of the page, each with the tests that it names as `FILE::NAME`.
fn named(page: &str) -> Vec<Vec<(String, String)>> {
    let section = page.split("\n## ").find(|section| section.starts_with("Invariants")).unwrap_or_default();
    let mut invariants: Vec<Vec<(String, String)>> = Vec::new();
    for line in section.lines() {
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            invariants.push(Vec::new());
        }
        let words = line.split('`').skip(1).step_by(2).filter_map(|word| word.split_once(".rs::"));
        if let Some(last) = invariants.last_mut() {
            last.extend(words.map(|(file, name)| (format!("{file}.rs"), name.to_owned())));
        }
    }
    invariants
}

/// Whether a file, below the root or below `src/`, has a function of that name.
fn exists(file: &str, name: &str) -> bool {
    let texts = [root().join(file), root().join("src").join(file)].map(std::fs::read_to_string);
    texts.into_iter().flatten().any(|text| text.contains(&format!("fn {name}(")))
}

#[test]
fn each_names_tests_that_exist() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the page is there");
    let invariants = named(&page);
    assert_eq!(invariants.len(), COUNT);
    let mut complaints = Vec::new();
    for (at, tests) in invariants.iter().enumerate() {
        if tests.is_empty() {
            complaints.push(format!("invariant {} names no test", at + 1));
        }
        let gone = tests.iter().filter(|(file, name)| !exists(file, name));
        complaints.extend(gone.map(|(file, name)| format!("invariant {}: there is no {file}::{name}", at + 1)));
    }
    crate::assert_none(complaints);
}

#[test]
fn tiers_know_no_keys() {
    crate::assert_none(TIERS.all_complaints());
}

#[test]
fn sockets_open_in_the_gate_alone() {
    crate::assert_none(SOCKETS.all_complaints());
}

#[test]
fn what_linux_alone_has_stands_behind_the_seam() {
    crate::assert_none(LINUX.all_complaints());
    let files = rust_files(&["src/"]);
    let elsewhere = files.iter().filter(|file| !LINUX.but.contains(&&*file.path) && !file.path.contains("/tests/"));
    let opening = |file: &&crate::tree::File| {
        ["\"/proc", "\"/sys"].iter().any(|word| file.text().is_some_and(|text| text.contains(word)))
    };
    crate::assert_none(
        elsewhere.filter(opening).map(|file| format!("{} reads what Linux alone has", file.path)).collect(),
    );
}

#[test]
fn what_must_not_be_is_found() {
    let found = |never: &Never, path, text| never.complaints(path, text).len();
    assert_eq!(found(&TIERS, "src/store/a.rs", "use crate::model::key::Key;"), 1);
    assert_eq!(found(&TIERS, "src/index/a.rs", "use crate::model::key::Key;"), 0);
    assert_eq!(found(&SOCKETS, "src/cache/a.rs", "let a = TcpStream::connect(b);"), 1);
    assert_eq!(found(&SOCKETS, "src/cache/a.rs", "// TcpStream::connect"), 0);
    assert_eq!(found(&SOCKETS, "src/upstream/gate.rs", "let a = TcpStream::connect(b);"), 0);
    let page = "# A\n\n## Invariants\n\n1. One.\n   [`a.rs::b`, `c/d.rs::e`]\n2. Two `x`.\n\n## More\n3. `a.rs::b`\n";
    let test = |file: &str, name: &str| (file.to_owned(), name.to_owned());
    assert_eq!(named(page), [vec![test("a.rs", "b"), test("c/d.rs", "e")], vec![]]);
    assert!(!exists("model/key.rs", "nothing_of_the_kind"));
}
