//! Words that must not stand in the repository: hosts of public registries (upstreams are discovered or configured,
//! never compiled in) and paths of somebody's machine. The hosts are kept as hashes, so that this list does not name them.

use crate::tree::files;

/// The first 16 hex digits of the BLAKE3 hash of each host, lower case. A word matches when it, or it without some of
/// its first labels, hashes to one of these.
const HOSTS: &[&str] = &[
    "41949c7efcd6d3b3",
    "83289b1d70f716e5",
    "53005cface4e793e",
    "537b70ccdb1cc0ff",
    "981e77061dc5675c",
    "c58181839684f0f8",
    "1bcb7f4bbd3d3872",
    "32c6974c6bf09836",
    "25d645a1ecc4351f",
    "643dfed6b9ef11cb",
    "ecf3b64b31030662",
    "ad79dbc30134f8f6",
    "761809eefbed6ca4",
    "068881dfc139f7e0",
    "231f567ca226db2b",
    "1fe503a26a9a3cb1",
    "01bddbe546514a50",
    "51bd608073aea0f6",
    "bdb0453b7456d7c3",
    "e6894b7bce45146f",
    "f78a44ec754c1f01",
    "4af18a7023c7c5d9",
    "e8a554e54a1e6be7",
    "05bc7de1363cab26",
    "5c67d13a41df95b3",
    "59eacfcd0052a5d7",
];

/// Made by cargo, which writes its default registry's marker into it.
const GENERATED: [&str; 1] = ["Cargo.lock"];

fn hash(word: &str) -> String {
    blake3::hash(word.to_ascii_lowercase().as_bytes()).to_hex()[..16].to_owned()
}

fn is_listed(word: &str) -> bool {
    let starts = std::iter::once(0).chain(word.match_indices('.').map(|(at, _)| at + 1));
    let mut parents = starts.map(|at| &word[at..]).filter(|parent| parent.contains('.'));
    parents.any(|parent| HOSTS.contains(&hash(parent).as_str()))
}

/// Runs of what a host name may hold, dots and dashes at the ends dropped.
fn host_words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(at, line)| {
        let words = line.split(|one: char| !(one.is_ascii_alphanumeric() || one == '.' || one == '-'));
        words.map(move |word| (at + 1, word.trim_matches(['.', '-']))).filter(|(_, word)| word.contains('.'))
    })
}

/// Beginnings of paths that exist on one machine alone. Put together here, so that this file has none of them.
fn machine_paths() -> Vec<String> {
    let mut paths: Vec<String> = ["root", "work"].iter().map(|folder| format!("/{folder}/")).collect();
    paths.push(env!("CARGO_MANIFEST_DIR").to_owned());
    paths.extend(std::env::var("HOME").ok().filter(|home| home.len() > 1).map(|home| home + "/"));
    paths
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let hosts = host_words(text).filter(|(_, word)| is_listed(word));
    let mut wrong: Vec<String> =
        hosts.map(|(line, _)| format!("{path}:{line}: names a host of a public registry")).collect();
    for (at, line) in text.lines().enumerate() {
        for start in machine_paths() {
            let bounded = |(from, _): (usize, &str)| {
                // In the middle of another path, as in a URL, it is nobody's machine.
                !line[..from].ends_with(|one: char| one.is_ascii_alphanumeric() || "._-}{*$".contains(one))
            };
            if line.match_indices(start.as_str()).any(bounded) {
                wrong.push(format!("{path}:{}: a path of one machine: {start}", at + 1));
            }
        }
    }
    wrong
}

#[test]
fn no_registry_host_and_no_machine_path_is_in_the_tree() {
    let files = files();
    let checked = files.iter().filter(|file| !GENERATED.contains(&file.path.as_str()));
    crate::assert_none(checked.filter_map(|file| Some(complaints(&file.path, file.text()?))).flatten().collect());
}

#[test]
fn listed_words_are_found_in_any_place() {
    // A host whose hash is the last of the list: it exists for this test.
    let host = ["listed", "for-the-test", "example"].join(".");
    for text in [
        host.clone(),
        format!("https://{host}/a"),
        format!("x = \"{host}\","),
        format!("a.{host}:443"),
        host.to_uppercase(),
    ] {
        assert_eq!(complaints("a", &text).len(), 1, "{text}");
    }
    for text in [format!("{host}-index"), format!("not{host}"), host.replace('.', " "), "example.test 1.2.3".to_owned()]
    {
        assert_eq!(complaints("a", &text), [""; 0], "{text}");
    }
}

#[test]
fn machine_paths_are_found() {
    let path = format!("/{}/larder", "root");
    assert!(!complaints("a", &format!("cd {path}")).is_empty());
    assert!(!complaints("a", &path).is_empty());
    assert_eq!(complaints("a", &format!("https://host.example{path}")), [""; 0]);
    assert_eq!(complaints("a", &format!("${{X}}{path}")), [""; 0]);
}
