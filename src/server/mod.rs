//! Listeners, TLS, limits, drain; (host, path) to mount. Knows no protocol's name.
