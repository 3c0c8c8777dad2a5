//! One binary for all targets: the variable `LARDER_FUZZ` names the one to run. `tests/fuzz/run` sets it.

#![no_main]

use std::sync::LazyLock;

use larder::fuzz::{Entry, TARGETS};

static CHOSEN: LazyLock<Entry> = LazyLock::new(|| {
    let name = std::env::var("LARDER_FUZZ").unwrap_or_default();
    let known = TARGETS.iter().find(|(known, _)| *known == name);
    known.unwrap_or_else(|| panic!("LARDER_FUZZ names no target: {name:?}")).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
