//! An index of Python packages, as variables, files and lockfiles name one.

use super::address;

/// An index that something names.
pub(super) struct Index {
    /// Empty for the default one.
    pub name: String,
    pub url: String,
    pub from: String,
}

impl Index {
    pub(super) fn new(name: &str, url: &str, from: &str) -> Index {
        Index { name: name.to_owned(), url: url.to_owned(), from: from.to_owned() }
    }
}

/// `NAME=ADDRESS`, or an address alone.
pub(super) fn after_name(text: &str) -> (&str, &str) {
    let split = text.split_once('=').filter(|(name, _)| !name.contains(['/', ':']));
    split.unwrap_or(("", text))
}

/// Addresses between blanks, each named as it says or after its host.
pub(super) fn extras_of(value: &str, from: &str) -> Vec<Index> {
    let words = value.split_whitespace().map(after_name);
    words.filter_map(|(name, url)| Some(Index::new(&named(name, url)?, url, from))).collect()
}

/// A name, else the host.
pub(super) fn named(name: &str, url: &str) -> Option<String> {
    if !name.is_empty() {
        return Some(name.to_owned());
    }
    let (url, _) = address(url)?;
    url.host_str().map(str::to_owned)
}
