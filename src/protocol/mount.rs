//! The mount that a path names: its first segment.

pub(super) fn split_mount(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    match path.find('/') {
        Some(at) => (&path[..at], &path[at..]),
        None => (path, "/"),
    }
}

pub(super) fn is_api(path: &str) -> bool {
    split_mount(path).0 == "api"
}
