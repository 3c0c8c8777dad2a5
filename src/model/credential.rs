//! Fields in which a client shows an origin who it is. An answer to one that does is not for others unless it says so:
//! RFC 9111 §3.5 knows `Authorization` alone, but registries take tokens in fields of their own.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

/// GitLab's, Artifactory's, and names that many share.
const NAMES: [&str; 8] = [
    "api-key",
    "deploy-token",
    "job-token",
    "private-token",
    "x-api-key",
    "x-auth-token",
    "x-jfrog-art-api",
    "x-nuget-apikey",
];

/// Whether the field holds a credential.
pub fn is_credential(name: &HeaderName) -> bool {
    name == AUTHORIZATION || NAMES.contains(&name.as_str())
}

/// Whether a request shows a credential.
pub fn is_shown(headers: &HeaderMap) -> bool {
    headers.keys().any(is_credential)
}
