//! `larder docs`: writes the pages that are made from the code, or checks that they are current. For contributors.

mod containers;
mod pages;
mod sample;

use std::path::PathBuf;

use super::failure::Failure;
use super::{out, tools, trust};
use crate::config::print;
use crate::{ecosystem, telemetry};

/// Write the generated documents of the repository
#[derive(clap::Args)]
#[command(hide = true, after_help = "Examples:\n  larder docs\n  larder docs --check")]
pub(crate) struct Args {
    /// Write nothing; fail when a document is not current
    #[arg(long)]
    check: bool,
    /// The repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

/// Every generated document: its path and text.
pub(crate) fn documents(command: clap::Command) -> Vec<(String, String)> {
    let one = |(path, text): (&str, String)| (path.to_owned(), text);
    let mut all = [
        ("docs/cli.md", cli(command)),
        ("docs/config.md", print::markdown()),
        ("config/default.toml", print::default_file()),
        ("docs/ecosystems.md", ecosystem::markdown()),
        ("docs/metrics.md", telemetry::table::markdown()),
        ("docs/tools.md", tools_page()),
    ]
    .map(one)
    .to_vec();
    all.extend(pages::pages());
    all
}

/// *Errors*: a file that is not current, or cannot be written.
pub(crate) fn docs(args: &Args, command: clap::Command) -> Result<(), Failure> {
    let mut stale = Vec::new();
    for (path, text) in documents(command) {
        let file = args.root.join(&path);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
            continue;
        }
        if args.check {
            stale.push(path);
            continue;
        }
        let written = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&file, text));
        written.map_err(|error| {
            Failure::failed(format!("{}: {error}", file.display()), "name the repository with --root")
        })?;
        out::line(&format!("{path} written"));
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("not current: {}", stale.join(", ")), "run `cargo run -- docs`"))
}

fn tools_page() -> String {
    let head = "# Tools\n\nMade by `larder docs` from the table of client settings; do not edit.\n\n\
                `larder run -- COMMAND` sets these for one command, `larder env` prints them. What to paste for each tool and CI \
                system: [use/](use/README.md).\n\n";
    format!("{head}{}{}", tools::markdown(), trust::markdown())
}

/// `docs/cli.md`: each command as its own `--help` shows it.
fn cli(command: clap::Command) -> String {
    let mut page = "# Command line\n\nMade by `larder docs` from the commands; do not edit.\n".to_owned();
    let mut command = command.term_width(100);
    command.build();
    describe(&mut page, &mut command, 2);
    page
}

fn describe(page: &mut String, command: &mut clap::Command, depth: usize) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    page.push_str(&format!("\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(depth), lines.join("\n")));
    for below in command.get_subcommands_mut().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        describe(page, below, depth + 1);
    }
}
