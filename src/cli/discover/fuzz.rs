//! Entry for the fuzz targets: files of package managers in a checkout or an image that somebody else made.

use super::{address, apt, edn, go, gradle, ini, jar, maven, npm_lock, pip, yaml};

/// What is found is an address without a credential in it.
pub fn discover(bytes: &[u8]) {
    let _ = jar::member(std::io::Cursor::new(bytes), "a");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut found: Vec<String> = ini(text).map(|(_, _, value)| value.to_owned()).collect();
    found.extend(apt::one_line(text).into_iter().chain(apt::deb822(text)).map(|source| source.uri));
    let plain = maven::without_comments(text);
    found.extend(maven::blocks(&plain, "url").map(str::to_owned));
    found.extend(gradle::repositories(text).into_iter().map(|(url, _)| url));
    found.extend(yaml::pairs(text).into_iter().map(|(_, value)| value));
    found.extend(pip::settings_of(text).into_iter().map(|(.., value)| value));
    found.extend(npm_lock::addresses(text, "\"resolved\"").filter_map(npm_lock::base_of).map(str::to_owned));
    let forms = edn::read(text);
    found.extend(edn::behind(&forms, ":url").into_iter().filter_map(edn::Form::text).map(str::to_owned));
    let items = go::list_items(text);
    found.push(go::write_list(&items, |_| None));
    found.push(text.to_owned());
    for (url, _) in found.iter().filter_map(|text| address(text)) {
        assert!(url.username().is_empty() && url.password().is_none() && url.path().ends_with('/'), "{url}");
    }
}
