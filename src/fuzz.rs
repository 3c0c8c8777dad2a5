//! What eats strangers' bytes, by name: the fuzz targets of `tests/fuzz`. Only in tests and under the feature `fuzz`.
//!
//! The test below gives each entry its corpus, and bytes made from it, so that no entry is forgotten or rots.

use crate::cache::policy::fuzz::policy;
use crate::cli::discover::fuzz::discover;
use crate::config::fuzz::config;
use crate::ecosystem::fuzz::{apt, cargo, cargo_document, go, maven};
use crate::index::sqlite::fuzz::{records, row};
use crate::model::fuzz::{node, words};
use crate::protocol::fuzz::{target, token};
use crate::server::framing::fuzz::framing;
use crate::store::fuzz::record;
use crate::store::s3::fuzz::{pack, seal};
use crate::upstream::fuzz::{answer, netrc};

/// Takes any bytes, and panics when it finds something wrong.
pub type Entry = fn(&[u8]);

/// Each has a folder of its name in `tests/fuzz/corpus`.
pub const TARGETS: [(&str, Entry); 20] = [
    ("answer", answer),
    ("apt", apt),
    ("cargo", cargo),
    ("cargo_document", cargo_document),
    ("config", config),
    ("discover", discover),
    ("framing", framing),
    ("go", go),
    ("maven", maven),
    ("netrc", netrc),
    ("node", node),
    ("pack", pack),
    ("policy", policy),
    ("record", record),
    ("records", records),
    ("row", row),
    ("seal", seal),
    ("target", target),
    ("token", token),
    ("words", words),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        files.map(|file| std::fs::read(file.expect("listed").path()).expect("a file")).collect()
    }

    /// A part of one seed, a few bytes of its own, and the rest of another seed.
    fn spliced(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let seed = prop::sample::select(seeds);
        let cut = any::<prop::sample::Index>;
        (seed.clone(), cut(), prop::collection::vec(any::<u8>(), 0..8), seed, cut()).prop_map(
            |(first, to, middle, second, from)| {
                let (to, from) = (to.index(first.len() + 1), from.index(second.len() + 1));
                [&first[..to], &middle, &second[from..]].concat()
            },
        )
    }

    #[test]
    fn each_entry_takes_its_corpus_and_what_is_made_of_it() {
        for (name, entry) in TARGETS {
            let seeds = corpus(name);
            assert!(!seeds.is_empty(), "tests/fuzz/corpus/{name} is empty");
            seeds.iter().for_each(|seed| entry(seed));
            let mut runner = TestRunner::new(Config {
                cases: 200,
                failure_persistence: None,
                max_shrink_iters: 0,
                ..Config::default()
            });
            let tried = runner.run(&spliced(seeds), |bytes| {
                entry(&bytes);
                Ok(())
            });
            tried.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        }
    }
}
