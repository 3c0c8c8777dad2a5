//! `benches/run`: larder against nginx and a bare hyper server, the same bytes in the same run. Prints ratios with the
//! floors that the project set itself; asserts nothing that depends on time.

#![allow(clippy::disallowed_methods, reason = "a bench looks at the real clock")]
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

mod agent;
mod bare;
mod bucket;
mod cold;
mod crowd;
mod hits;
mod idle;
mod intercept;
mod load;
mod origin;
mod peers;
mod process;
mod report;
mod run;
mod secret;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "the tests use all of it")]
mod support;

use report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the command line asks for.
pub struct Options {
    /// Interleaved rounds of each comparison.
    pub rounds: usize,
    pub seconds: f64,
    /// Sections to run; empty: all.
    pub only: Vec<String>,
    /// Sizes of hits to run, in bytes; empty: all.
    pub sizes: Vec<u64>,
    /// Where the result goes beside the screen.
    pub write: Option<std::path::PathBuf>,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Options {
        let mut options = Options { rounds: 5, seconds: 2.0, only: Vec::new(), sizes: Vec::new(), write: None };
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let mut value = |name: &str| words.next().unwrap_or_else(|| panic!("{name} needs a value"));
            match word.as_str() {
                "--rounds" => options.rounds = value("--rounds").parse().expect("--rounds is a number"),
                "--seconds" => options.seconds = value("--seconds").parse().expect("--seconds is a number"),
                "--only" => options.only.push(value("--only")),
                "--size" => options.sizes.push(value("--size").parse().expect("--size is a number of bytes")),
                "--write" => options.write = Some(value("--write").into()),
                // cargo bench adds it.
                "--bench" => {}
                other => panic!(
                    "unknown: {other}; there is --rounds N, --seconds S, --only SECTION, --size BYTES, --write FILE"
                ),
            }
        }
        options
    }

    fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|one| one == section)
    }
}

/// Measures, and adds its tables.
type Section = fn(&Options, &mut Report);

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    if words.peek().map(String::as_str) == Some("serve-bare") {
        return bare::serve();
    }
    let options = Options::parse(words);
    let mut report = Report::default();
    let sections: [(&str, Section); 8] = [
        ("run", run::run),
        ("hits", hits::run),
        ("agent", agent::run),
        ("intercept", intercept::run),
        ("cold", cold::run),
        ("crowd", crowd::run),
        ("idle", idle::run),
        ("s3", bucket::run),
    ];
    for (name, run) in sections {
        if options.wants(name) {
            run(&options, &mut report);
        }
    }
    let text = report.markdown();
    println!("\n{text}");
    if let Some(path) = &options.write {
        report::write_section(path, &text);
    }
}
