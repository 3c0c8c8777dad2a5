//! What grammars share of paths: percent-decoding once, and the `@HOST` form that names an upstream in the path.
