//! Tables in Markdown, for the screen and for docs/benchmarks.md.

use std::fs;
use std::path::Path;

/// Least, median and most of a figure over the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut all: Vec<f64> = values.collect();
        all.sort_by(f64::total_cmp);
        assert!(!all.is_empty(), "at least one round is run");
        Spread { least: all[0], median: all[all.len() / 2], most: all[all.len() - 1] }
    }

    pub fn text(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

pub struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: String, head: &[&str]) -> Table {
        Table { title, head: head.iter().map(|word| (*word).to_owned()).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", " --- |".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("### {}\n\n{}{rule}{rows}\n", self.title, line(&self.head))
    }
}

#[derive(Default)]
pub struct Report {
    tables: Vec<Table>,
}

impl Report {
    /// Prints the table at once and keeps it for the end.
    pub fn add(&mut self, table: Table) {
        eprintln!("\n{}", table.markdown());
        self.tables.push(table);
    }

    pub fn markdown(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let tables: String = self.tables.iter().map(Table::markdown).collect();
        format!(
            "Median (least to most) of interleaved rounds; client, server and kernel share {cores} cores, Linux {}, \
             loopback. Ratios are what to keep.\n\n{tables}",
            kernel.trim()
        )
    }
}

const BEGIN: &str = "<!-- begin: benches/run --write -->\n";
const END: &str = "<!-- end: benches/run --write -->\n";

/// Replaces what stands between the two marks of a page; makes the page when it is not there.
pub fn write_section(page: &Path, text: &str) {
    let old = fs::read_to_string(page).unwrap_or_else(|_| format!("# Benchmarks\n\n{BEGIN}{END}"));
    let (before, rest) = old.split_once(BEGIN).expect("the page has the mark where the section begins");
    let (_, after) = rest.split_once(END).expect("the page has the mark where the section ends");
    fs::write(page, format!("{before}{BEGIN}\n{text}{END}{after}")).expect("the page can be written");
}
