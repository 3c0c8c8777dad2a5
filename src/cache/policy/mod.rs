//! What the HTTP specifications say about storing and reusing answers, as pure functions: no I/O, no clock.
//!
//! `rules` reads Cache-Control and its targeted form, `freshness` does the arithmetic of age and lifetime, `vary`
//! tells variants apart, `store` says what may be kept and shared, `validate` makes and judges conditions,
//! `invalidate` says what a write makes doubtful. `decide` (next door) puts them together for one request.
//!
//! *Source*: RFC 9110 (semantics), RFC 9111 (caching), RFC 5861 (stale answers), RFC 8246 (immutable), RFC 9213
//! (targeted cache control).

pub mod ask;
pub mod date;
pub mod fields;
pub mod freshness;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod invalidate;
pub mod rules;
pub mod store;
pub mod targeted;
pub mod validate;
pub mod vary;

#[cfg(test)]
pub(crate) mod fixture;
